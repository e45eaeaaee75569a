"""Looks into wheels: is the library of the kernels there, of its source, and does it load here?

python tests/support/wheels.py dist/*.whl
"""

import ctypes
import hashlib
import sys
import tempfile
import zipfile
from pathlib import Path

SOURCE = Path("dsdctl/ml/kernels/kernels.cpp")
LIBRARY = SOURCE.with_name("libkernels.so")


def check_kernels(installed: Path) -> list[str]:
    """Assert that an unpacked wheel has the kernels of its source, and name its files."""
    library = ctypes.CDLL(str(installed / LIBRARY))
    library.kernels_source.restype = ctypes.c_char_p
    source = installed / SOURCE
    files = [source, *sorted(source.parent.glob("kernels_*.h"))]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    assert library.kernels_source().decode() == digest
    return [file.name for file in files]


def main(wheels: list[str]) -> None:
    assert wheels, "no wheels"
    for wheel in wheels:
        assert "linux" not in wheel or "manylinux" in wheel, f"{wheel}: for this machine alone"
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
            print(wheel, *check_kernels(Path(folder)))


if __name__ == "__main__":
    main(sys.argv[1:])
