"""Files that are there whole or not at all, and on the disk.

What is written lies under a temporary name beside its place until it is renamed, and its writer
holds its lock. What a killed process left there goes when the next one writes to the same place,
or with `dsdctl store gc`, by one rule: see `abandoned`.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from dsdctl.system.kill_points import kill_point

ABANDONED_SECONDS = 3600.0
"""For how long nobody may have written to another machine's temporary file before it may go."""

_LONGEST = 200
"""Bytes of its place's name in a temporary file's name, at most."""

_NAME = re.compile(r"(?s)\.(?P<place>.*)-(?P<machine>[0-9a-f]{8})[0-9a-f]{24}")
"""A temporary file's name: what it is beside, the machine that made it, and what none else has."""


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
        unique = f"{_this_machine()}{uuid.uuid4().hex[:24]}"
        temporary = place.with_name(f".{_shortened(place)}-{unique}")
        make(temporary)
        with suppress(FileNotFoundError):  # it was taken for abandoned before it was locked
            held = os.open(temporary, os.O_RDONLY)
            with suppress(OSError):  # not every file system has locks
                fcntl.flock(held, fcntl.LOCK_EX)
            if temporary.exists():
                return temporary, held
            os.close(held)


def _shortened(place: Path) -> str:
    """What stands for a place in a temporary file's name: not too long for a file system."""
    return os.fsencode(place.name)[:_LONGEST].decode(errors="ignore")


def _this_machine() -> str:
    """What stands for this machine in a temporary file's name."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def remove_abandoned(place: Path) -> None:
    """Delete what killed processes have left half-written beside `place`."""
    with suppress(FileNotFoundError):
        for path in place.parent.iterdir():
            name = _NAME.fullmatch(path.name)
            if name is not None and name["place"] == _shortened(place):
                with suppress(OSError), abandoned(path) as nobodys:
                    if nobodys:
                        remove(path)


def is_temporary(path: Path) -> bool:
    """Whether a file or folder has the name of what is on its way to its place."""
    return _NAME.fullmatch(path.name) is not None


@contextmanager
def abandoned(temporary: Path) -> Iterator[bool]:
    """Whether a temporary file or folder is nobody's; if so, it stays that within the block.

    It is if no process holds its lock and, where another machine made it, nobody has written to
    it for an hour: some network file systems keep the locks of each machine to themselves.
    """
    held = _lock_of(temporary)
    if held is None:
        yield False
        return
    try:
        yield _made_here(temporary) or _seconds_unwritten(temporary) > ABANDONED_SECONDS
    finally:
        os.close(held)


def _lock_of(temporary: Path) -> int | None:
    """Take its lock; return the descriptor, or None where another process has it."""
    try:
        descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # it is in its place by now, or a link, which no writer makes
        return None
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if temporary.exists():
            return descriptor
    os.close(descriptor)
    return None


def _made_here(temporary: Path) -> bool:
    name = _NAME.fullmatch(temporary.name)
    return name is not None and name["machine"] == _this_machine()


def _seconds_unwritten(temporary: Path) -> float:
    """For how long nobody has written to a file, or to a folder and what is in it."""
    try:
        written = max(path.lstat().st_mtime for path in (temporary, *temporary.glob("*")))
    except FileNotFoundError:  # somebody is at it
        return 0.0
    return time.time() - written


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
