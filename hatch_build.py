"""Compiles dsdctl/ml/kernels/kernels.cpp while dsdctl is installed, where there is a C++ compiler.

That is $CXX, or c++: GCC or Clang, which on macOS was not tried. Without a compiler, or where it
fails, dsdctl is installed without the library and works all the same, slower on CPUs.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import mac_platforms

SOURCE = Path("dsdctl/ml/kernels/kernels.cpp")
LIBRARY = SOURCE.with_name("libkernels.so")
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-shared", "-Wno-psabi"]


class KernelBuilder(BuildHookInterface[Any]):
    """Adds the library to a wheel, or puts it beside its source for an editable installation."""

    def initialize(self, _version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        reason = compile_kernels(root / SOURCE, root / LIBRARY)
        if reason:
            self.app.display_warning(f"dsdctl is installed without compiled kernels: {reason}")
            return
        build_data["artifacts"].append(LIBRARY.as_posix())
        build_data["pure_python"] = False
        # It is called through ctypes, and so is of the platform but of no version of Python.
        build_data["tag"] = f"py3-none-{platform_tag()}"


def compile_kernels(source: Path, library: Path) -> str:
    """Compile `source` into `library`; why not, where that fails, and then none is left there."""
    try:
        reason = _compile(source, library)
        if reason:
            library.unlink(missing_ok=True)
    except OSError as error:  # a folder that cannot be written to, say
        return str(error)
    return reason


def _compile(source: Path, library: Path) -> str:
    compiler = shlex.split(os.environ.get("CXX") or "c++")
    if shutil.which(compiler[0]) is None:
        return f"there is no C++ compiler ({compiler[0]})"
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sources(source))).hexdigest()
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        command = [*compiler, *FLAGS, f'-DSOURCE_DIGEST="{digest}"', str(source), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"{shlex.join(command)} failed\n{done.stderr}"
        made.replace(library)
    return ""


def sources(source: Path) -> list[Path]:
    """`source` and what it includes, in the order in which dsdctl.ml.kernels.kernels reads them."""
    return [source, *sorted(source.parent.glob("kernels_*.h"))]


def platform_tag() -> str:
    """This platform as wheels spell it; not as manylinux, which promises to run on others too."""
    if sys.platform == "darwin":  # what Python says of itself, macosx-14-arm64 say, pip may refuse
        return next(mac_platforms())
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
