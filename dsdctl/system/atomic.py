"""Files that are there whole or not at all, and on the disk."""

import errno
import json
import os
import uuid
from pathlib import Path
from typing import IO, Any

from dsdctl.system.kill_points import kill_point


def replace_file(file: Path, content: bytes, kind: str = "file") -> None:
    """Write a file whole or not at all, in place of an older one; kill points call it `kind`."""
    temporary = file.with_name(f".{file.name}-{uuid.uuid4().hex}")
    try:
        write_flushed(temporary, content)
        kill_point(f"{kind}-written")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    kill_point(f"{kind}-renamed")
    flush_folder(file.parent)


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
    """Write a new file, and wait until it is on the disk."""
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
