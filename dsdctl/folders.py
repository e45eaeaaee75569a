"""Folders of finished work: written whole or not at all, and checked when they are read.

A folder is written under a temporary name beside its place, flushed, and renamed last. What a
killed process left there goes when the next one writes to the same place. The size and sha256 of
each file are in checksums.json. A file that was dropped on request keeps its line there, so that
what is put back later must be the very same.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
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

_LONGEST, _UNIQUE = 200, len(uuid.uuid4().hex)
"""Of a temporary file's name: bytes of its place's name at most, and characters that follow."""

_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""What says that a file is not there. Any other error says nothing about the file."""


def checksum_of(content: bytes) -> Checksum:
    """The checksum of a file with this content."""
    return Checksum(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def read_checksums(folder: Path) -> Checksums:
    """Return what a folder must hold. Raises DamagedError."""
    file = folder / CHECKSUMS
    try:
        checksums = _CHECKSUMS.validate_json(file.read_bytes())
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
        content = (folder / name).read_bytes()
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
            size = (folder / name).stat().st_size
        except _MISSING as error:
            raise DamagedError(f"{folder}/{name}: {error.strerror}") from error
        if size != checksum.bytes:
            raise DamagedError(f"{folder}/{name}: {size} bytes instead of {checksum.bytes}")


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a finished folder; what another process finished first stays."""
    if not folder.parent.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        flush_folder(folder.parent.parent)
    checksums = {name: checksum_of(content) for name, content in files.items()}
    with _beside(folder, Path.mkdir) as temporary:
        for name, content in {**files, CHECKSUMS: _checksum_bytes(checksums)}.items():
            _write_flushed(temporary / name, content)
        flush_folder(temporary)
        kill_point("commit-written")
        _rename_unless_there(temporary, folder)
        kill_point("commit-renamed")
        flush_folder(folder.parent)


def replace_file(file: Path, content: bytes, kind: str = "file") -> None:
    """Write a file whole or not at all, in place of an older one; kill points call it `kind`."""
    with _beside(file, Path.touch) as temporary:
        _write_flushed(temporary, content)
        kill_point(f"{kind}-written")
        temporary.replace(file)
    kill_point(f"{kind}-renamed")
    flush_folder(file.parent)


def write_output(file: Path, content: bytes) -> None:
    """Write a file that a user has named: whole or not at all, but into a pipe or a device."""
    if file.exists() and not file.is_file():
        file.write_bytes(content)
    else:
        replace_file(file.resolve(), content)


@contextmanager
def _beside(place: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A new temporary file or folder beside `place`, which is gone at the end unless renamed."""
    remove_abandoned(place)
    temporary, held = _held(place, make)
    try:
        yield temporary
    finally:
        os.close(held)
        with suppress(OSError):
            _remove(temporary)


def _held(place: Path, make: Callable[[Path], None]) -> tuple[Path, int]:
    """Make it, and lock it to show that it is somebody's; return it and the lock's descriptor."""
    while True:
        temporary = place.with_name(_beginning(place) + uuid.uuid4().hex)
        make(temporary)
        with suppress(FileNotFoundError):  # it was taken for abandoned before it was locked
            held = os.open(temporary, os.O_RDONLY)
            with suppress(OSError):  # not every file system has locks
                fcntl.flock(held, fcntl.LOCK_EX)
            if temporary.exists():
                return temporary, held
            os.close(held)


def _beginning(place: Path) -> str:
    """How the names of temporary files beside `place` begin: not too long for a file system."""
    return "." + os.fsencode(place.name)[:_LONGEST].decode(errors="ignore") + "-"


def remove_abandoned(place: Path) -> None:
    """Delete what killed processes have left half-written beside `place`."""
    beginning = _beginning(place)
    with suppress(FileNotFoundError):
        for path in place.parent.iterdir():
            ending = path.name.removeprefix(beginning)
            if len(ending) == _UNIQUE and path.name == beginning + ending:
                _remove_unless_held(path)


def _remove_unless_held(path: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def json_bytes(value: Any) -> bytes:
    """A small file's content, the same for equal values."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


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
        with file.open("wb") as stream:
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
