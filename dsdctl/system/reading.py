"""Reading a file that a user has named, whatever it turns out to be."""

import os
import stat
from pathlib import Path

from dsdctl.errors import InputError


def read_text(file: Path, most_bytes: int) -> str:
    """Return a regular file's text, which must be UTF-8 and not too large. Raises InputError."""
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{file}: not a regular file")
        if status.st_size > most_bytes:
            raise InputError(f"{file}: {status.st_size} bytes (allowed: at most {most_bytes})")
        with open(file, "rb", opener=_without_waiting) as stream:
            content: bytes | None = stream.read(most_bytes + 1)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}") from error
    if content is None or len(content) > most_bytes:  # a kernel's file, whose size is 0
        raise InputError(f"{file}: not a file of text (allowed: at most {most_bytes} bytes)")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text (byte {error.start})") from error


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
