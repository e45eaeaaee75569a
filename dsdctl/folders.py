"""Folders of finished work: written whole or not at all, and checked when they are read.

A folder is written under a temporary name beside its place, flushed, and renamed last. The size and
sha256 of each file are in checksums.json. A file that was dropped on request keeps its line there,
so that what is put back later must be the very same.
"""

import errno
import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from dsdctl.errors import DamagedError, WorkError
from dsdctl.fields import Model
from dsdctl.killpoints import kill_point

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
"""What the checksums of a folder must name."""


class Checksum(Model):
    """Of one file its size and sha256; `dropped` once it was deleted on request."""

    bytes: int
    sha256: str
    dropped: bool = False


Checksums = dict[str, Checksum]

_CHECKSUMS: TypeAdapter[Checksums] = TypeAdapter(Checksums)


_DIGEST = "sha256"
"""The key under which a small file holds the digest of the rest of it."""


class NotAFileError(OSError):
    """There is a link, a folder, a pipe or a device in a file's place."""


_MISSING = (FileNotFoundError, NotADirectoryError, NotAFileError)
"""What says that a file is not there. Any other error says nothing about the file."""


def read_file(file: Path) -> bytes:
    """What one of our own files holds. No link is followed, and no pipe waited for.

    Raises OSError, of which NotAFileError says that something else is there.
    """
    try:
        with open(file, "rb", opener=without_following) as stream:
            _require_regular(file, os.fstat(stream.fileno()))
            return stream.read()
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # a link, a folder, a socket
            raise NotAFileError(error.errno, "not a regular file", str(file)) from error
        raise


def size_of(file: Path) -> int:
    """Bytes of one of our own files; raises as `read_file` does."""
    status = file.lstat()
    _require_regular(file, status)
    return status.st_size


def without_following(path: str, flags: int) -> int:
    """An opener that neither follows a link nor waits for the other end of a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)


def _require_regular(file: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise NotAFileError(errno.EINVAL, "not a regular file", str(file))


def open_lock(file: Path) -> IO[str]:
    """Open a lock, which must be a file. Raises OSError."""
    if not is_file_or_free(file):
        raise NotAFileError(errno.EINVAL, "not a regular file, as a lock must be", str(file))
    return open(file, "a", opener=without_following)


def is_file_or_free(path: Path) -> bool:
    """Whether there is a file, or nothing that would be in its way."""
    return not is_there(path) or (path.is_file() and not path.is_symlink())


def is_there(path: Path) -> bool:
    """Whether anything is there, be it a link to nothing."""
    return os.path.lexists(path)


def remove(path: Path) -> None:
    """Delete a file, a folder with all that is in it, or a link, but nothing that is linked to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def checksum_of(content: bytes) -> Checksum:
    """The checksum of a file with this content."""
    return Checksum(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def read_checksums(folder: Path) -> Checksums:
    """Return what a folder must hold. Raises DamagedError."""
    file = folder / CHECKSUMS
    if folder.is_symlink():
        raise DamagedError(f"{folder}: a link in the place of a folder")
    try:
        checksums = _CHECKSUMS.validate_json(read_file(file))
    except _MISSING as error:
        raise DamagedError(f"{file}: {error.strerror}") from error
    except ValidationError as error:
        raise DamagedError(f"{file}: not a size and sha256 for each file") from error
    if not _REQUIRED[folder.parent.parent.name] <= checksums.keys():
        raise DamagedError(f"{file}: names not all files")
    return checksums


def write_checksums(folder: Path, checksums: Checksums) -> None:
    """Replace what is said of a folder's files."""
    replace_file(folder / CHECKSUMS, _checksum_bytes(checksums))


def read_checked(folder: Path, name: str, checksums: Checksums) -> bytes:
    """Return a file whose checksum fits. Raises DamagedError, or WorkError if it was dropped."""
    checksum = checksums.get(name)
    if checksum is not None and checksum.dropped:
        raise WorkError(
            f"{folder}/{name}: dropped by `dsdctl store gc`; the same command trains it again"
        )
    try:
        content = read_file(folder / name)
    except _MISSING as error:
        raise DamagedError(f"{folder}/{name}: {error.strerror}") from error
    if checksum is None or hashlib.sha256(content).hexdigest() != checksum.sha256:
        raise DamagedError(f"{folder}/{name}: its checksum does not fit")
    return content


def check_sizes(folder: Path, checksums: Checksums) -> None:
    """Check that every file is there in its full size, without reading the large ones."""
    for name, checksum in checksums.items():
        if checksum.dropped:
            continue
        try:
            size = size_of(folder / name)
        except _MISSING as error:
            raise DamagedError(f"{folder}/{name}: {error.strerror}") from error
        if size != checksum.bytes:
            raise DamagedError(f"{folder}/{name}: {size} bytes instead of {checksum.bytes}")


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a finished folder; what another process finished first stays."""
    if not folder.parent.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        flush_folder(folder.parent.parent)
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        checksums = {name: checksum_of(content) for name, content in files.items()}
        for name, content in {**files, CHECKSUMS: _checksum_bytes(checksums)}.items():
            _write_flushed(temporary / name, content)
        flush_folder(temporary)
        kill_point("commit-written")
        _rename_unless_there(temporary, folder)
        kill_point("commit-renamed")
        flush_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_file(file: Path, content: bytes, kind: str = "file") -> None:
    """Write a file whole or not at all, in place of an older one; kill points call it `kind`."""
    temporary = file.with_name(f".{file.name}-{uuid.uuid4().hex}")
    try:
        _write_flushed(temporary, content)
        kill_point(f"{kind}-written")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    kill_point(f"{kind}-renamed")
    flush_folder(file.parent)


def json_bytes(value: Any) -> bytes:
    """A small file's content, the same for equal values."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def mapping_bytes(value: Mapping[str, Any]) -> bytes:
    """A small file of a mapping and, in it, the mapping's digest."""
    digest = hashlib.sha256(json_bytes(value)).hexdigest()
    return json_bytes({**value, _DIGEST: digest})


def read_mapping(file: Path) -> dict[str, Any] | None:
    """What `mapping_bytes` was made of, or None where the file is missing or damaged."""
    try:
        found = json.loads(read_file(file))
        if not isinstance(found, dict):
            return None
        digest = found.pop(_DIGEST, None)  # older versions wrote none
        sound = digest in (None, hashlib.sha256(json_bytes(found)).hexdigest())
    except (OSError, ValueError, RecursionError):
        return None
    return found if sound else None


def tensor_bytes(tensors: "Mapping[str, Tensor]", metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file's content, the same for equal tensors."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(plain, metadata)


def _checksum_bytes(checksums: Checksums) -> bytes:
    return json_bytes(_CHECKSUMS.dump_python(checksums, exclude_defaults=True))


def _rename_unless_there(temporary: Path, folder: Path) -> None:
    try:
        temporary.rename(folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def _write_flushed(file: Path, content: bytes) -> None:
    try:
        with file.open("xb") as stream:
            stream.write(content)
            flush(stream)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


def flush(stream: IO[Any]) -> None:
    """Wait until what was written to a file is on the disk."""
    stream.flush()
    os.fsync(stream.fileno())


def flush_folder(folder: Path) -> None:
    """Wait until what was renamed into a folder is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
