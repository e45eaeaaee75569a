"""Files that a user has named, with what goes wrong in words."""

from pathlib import Path

from dsdctl.errors import InputError
from dsdctl.system.atomic import write_output


def write_named(file: Path, content: bytes, *, parents: bool = False) -> None:
    """Write a file whole or not at all, with `parents` its folders too.

    Raises InputError where that cannot be done.
    """
    try:
        if parents:
            file.parent.mkdir(parents=True, exist_ok=True)
        write_output(file, content)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}") from error
