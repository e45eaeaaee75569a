"""Files that are there whole or not at all, and on the disk.

What is written lies under a temporary name beside its place until it is renamed. What a killed
process left there goes when the next one writes to the same place.
"""

import errno
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from dsdctl.system.kill_points import kill_point

_LONGEST, _UNIQUE = 200, len(uuid.uuid4().hex)
"""Of a temporary file's name: bytes of its place's name at most, and characters that follow."""


def replace_file(file: Path, content: bytes, kind: str = "file") -> None:
    """Write a file whole or not at all, in place of an older one; kill points call it `kind`."""
    with beside(file, Path.touch) as temporary:
        write_flushed(temporary, content)
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
def beside(place: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A new temporary file or folder beside `place`, which is gone at the end unless renamed."""
    remove_abandoned(place)
    temporary, held = _held(place, make)
    try:
        yield temporary
    finally:
        os.close(held)
        with suppress(OSError):
            remove(temporary)


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
            remove(path)
        finally:
            os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file, a folder with all that is in it, or a link, but nothing that is linked to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def json_bytes(value: Any) -> bytes:
    """A small file's content, the same for equal values."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def rename_unless_there(temporary: Path, folder: Path) -> None:
    """Rename a folder, unless there is one of that name with something in it."""
    try:
        temporary.rename(folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def write_flushed(file: Path, content: bytes) -> None:
    """Write a file, and wait until it is on the disk."""
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
