"""Our own files, read with care: no link is followed, no pipe waited for, damage is noticed."""

import errno
import fcntl
import hashlib
import json
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from dsdctl.system.atomic import json_bytes

_DIGEST = "sha256"
"""The key under which a small file holds the digest of the rest of it."""


class NotAFileError(OSError):
    """There is a link, a folder, a pipe or a device in a file's place."""


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


def hold(lock: IO[str]) -> bool:
    """Take an open lock that no other process holds; say whether it could be. Raises OSError."""
    for wait in (0.01, 0.02, 0.0):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(wait)  # it may be held for a moment by `is_locked`
        else:
            return True
    return False


def is_locked(file: Path) -> bool:
    """Whether a process holds a lock; it is not made where it is not there. Raises OSError."""
    with open(file, opener=without_following) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def is_file_or_free(path: Path) -> bool:
    """Whether there is a file, or nothing that would be in its way."""
    return not is_there(path) or (path.is_file() and not path.is_symlink())


def is_there(path: Path) -> bool:
    """Whether anything is there, be it a link to nothing."""
    return os.path.lexists(path)


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
