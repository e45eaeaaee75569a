"""Folders of finished work: written whole or not at all, and checked when they are read.

A folder is written under a temporary name beside its final one, flushed to disk, and then renamed.
What a killed process leaves behind is removed when the same folder is written again. checksums.json
has the size and sha256 of each file. A file that was dropped on request keeps its entry there, so
that it can be restored only with the same content.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from dsdctl.errors import DamagedError, WorkError
from dsdctl.spec.fields import Model
from dsdctl.system.atomic import (
    beside,
    flush_folder,
    json_bytes,
    rename_unless_there,
    replace_file,
    write_flushed,
)
from dsdctl.system.files import NotAFileError, read_file, size_of
from dsdctl.system.kill_points import kill_point

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "weights.safetensors"

CHECKSUMS = "checksums.json"

_REQUIRED = {
    "levels": {
        "identity.json",
        "result.json",
        "environment.json",
        "epochs.jsonl",
        WEIGHTS,
        "masks.safetensors",
    },
    "tables": {"identity.json", "environment.json", "logits.safetensors"},
}
"""The files that a folder's checksums must list."""


class Checksum(Model):
    """The size and sha256 of one file; `dropped` if it was deleted on request."""

    bytes: int
    sha256: str
    dropped: bool = False


Checksums = dict[str, Checksum]

_CHECKSUMS: TypeAdapter[Checksums] = TypeAdapter(Checksums)

_MISSING = (FileNotFoundError, NotADirectoryError, NotAFileError)
"""Errors that mean that a file is missing. Others, as of permissions, do not mean damage."""


def checksum_of(content: bytes) -> Checksum:
    """The checksum of a file with this content."""
    return Checksum(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def read_checksums(folder: Path) -> Checksums:
    """Read the checksums of a folder. Raises DamagedError if they are missing or incomplete."""
    file = folder / CHECKSUMS
    if folder.is_symlink():
        raise DamagedError(f"{folder}: a link in the place of a folder", folder)
    try:
        checksums = _CHECKSUMS.validate_json(read_file(file))
    except _MISSING as error:
        raise DamagedError(f"{file}: {error.strerror}", folder) from error
    except ValidationError as error:
        raise DamagedError(f"{file}: not a size and sha256 for each file", folder) from error
    if not _REQUIRED[folder.parent.parent.name] <= checksums.keys():
        raise DamagedError(f"{file}: does not name all files", folder)
    return checksums


def write_checksums(folder: Path, checksums: Checksums) -> None:
    """Replace the checksums of a folder."""
    replace_file(folder / CHECKSUMS, _checksum_bytes(checksums))


def read_checked(folder: Path, name: str, checksums: Checksums) -> bytes:
    """Read a file and verify its checksum. Raises DamagedError, or WorkError if it was dropped."""
    checksum = checksums.get(name)
    if checksum is not None and checksum.dropped:
        raise WorkError(
            f"{folder}/{name}: dropped by `dsdctl store gc`; re-run the command to train it again"
        )
    try:
        content = read_file(folder / name)
    except _MISSING as error:
        raise DamagedError(f"{folder}/{name}: {error.strerror}", folder) from error
    if checksum is None or hashlib.sha256(content).hexdigest() != checksum.sha256:
        raise DamagedError(f"{folder}/{name}: checksum mismatch", folder)
    return content


def check_sizes(folder: Path, checksums: Checksums) -> None:
    """Check that all files exist in their full size, without reading them. Raises DamagedError."""
    for name, checksum in checksums.items():
        if checksum.dropped:
            continue
        try:
            size = size_of(folder / name)
        except _MISSING as error:
            raise DamagedError(f"{folder}/{name}: {error.strerror}", folder) from error
        if size != checksum.bytes:
            raise DamagedError(f"{folder}/{name}: {size} bytes instead of {checksum.bytes}", folder)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a finished folder, unless another process was first: then its folder stays."""
    if not folder.parent.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        flush_folder(folder.parent.parent)
    checksums = {name: checksum_of(content) for name, content in files.items()}
    with beside(folder, Path.mkdir) as temporary:
        for name, content in {**files, CHECKSUMS: _checksum_bytes(checksums)}.items():
            write_flushed(temporary / name, content)
        flush_folder(temporary)
        kill_point("commit-written")
        rename_unless_there(temporary, folder)
        kill_point("commit-renamed")
        flush_folder(folder.parent)


def tensor_bytes(tensors: "Mapping[str, Tensor]", metadata: dict[str, str] | None = None) -> bytes:
    """The content of a safetensors file; the same bytes for equal tensors and metadata."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(plain, metadata)
    return content if metadata is None else _metadata_in_order(content)


def _metadata_in_order(content: bytes) -> bytes:
    """The safetensors file with its metadata sorted, since the library's order varies."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[end:]


def _checksum_bytes(checksums: Checksums) -> bytes:
    return json_bytes(_CHECKSUMS.dump_python(checksums, exclude_defaults=True))
