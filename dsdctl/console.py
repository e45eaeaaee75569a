"""What every command does with the console: print results and errors, and set the exit code."""

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import typer
from rich.console import Console

from dsdctl.errors import DsdctlError, InputError, in_words, printable

BAD_INPUT, SOME_FAILED, INTERRUPTED, TERMINATED = 2, 3, 130, 143


def encode_anything() -> None:
    """Write what a terminal's encoding lacks as its escape: no result is lost to a locale."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def out() -> Console:
    """Results go to standard output; a log gets room enough for a whole table row."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    return Console(width=width, emoji=False)


def err() -> Console:
    """Everything else goes to standard error."""
    return Console(stderr=True, highlight=False, emoji=False)


def say(line: str) -> None:
    """Tell the user one thing; this needs no memory to speak of."""
    sys.stderr.write(printable(line) + "\n")


def print_line(line: str) -> None:
    """Print a result of one line."""
    sys.stdout.write(printable(line) + "\n")


def print_plain(text: str) -> None:
    """Print a result as it is."""
    sys.stdout.write(text + "\n")


def print_as_is(console: Console, line: str) -> None:
    """Print a line of a log: no markup in it, nothing picked out, not wrapped."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def can_draw(console: Console) -> bool:
    """Whether what was printed can be drawn anew in its place."""
    return console.is_terminal and not console.is_dumb_terminal


def warn(lines: list[str]) -> None:
    """Say what is not as it should be, and go on."""
    for line in lines:
        say(f"warning: {line}")


def write(file: Path, text: str) -> None:
    """Write a result to a file, in UTF-8 whatever the locale.

    Raises InputError where that cannot be written.
    """
    try:
        file.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}") from error


@contextmanager
def reported(*, resumable: bool = False) -> Iterator[None]:
    """Turn what can go wrong into one line a problem and an exit code.

    A command that is `resumable` goes on where it was interrupted, and says so.
    """
    try:
        yield
    except InputError as error:
        for line in error.lines:
            say(line)
        raise typer.Exit(BAD_INPUT) from None
    except DsdctlError as error:
        say(f"error: {error}")
        raise typer.Exit(SOME_FAILED) from None
    except BrokenPipeError:
        raise
    except (OSError, MemoryError, RuntimeError, ImportError) as error:
        words = in_words(error)
        if words is None:
            raise
        say(f"error: {words}")
        raise typer.Exit(SOME_FAILED) from None
    except KeyboardInterrupt as interrupt:
        code = TERMINATED if interrupt.args else INTERRUPTED
        say("interrupted" + ("; the same command goes on from here" if resumable else ""))
        raise typer.Exit(code) from None


@contextmanager
def terminable() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C is treated, but for the exit code."""
    terminated = False

    def terminate(_number: int, _frame: FrameType | None) -> NoReturn:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt("terminated")

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt:
        if terminated:  # Ray's extension raises another in its place
            raise KeyboardInterrupt("terminated") from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
