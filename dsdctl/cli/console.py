"""What every command does with the console: print results and errors, and set the exit code."""

import io
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import typer
from rich.console import Console

from dsdctl.errors import DsdctlError, InputError, describe_os_error, printable

NOT_READ, BAD_INPUT, SOME_FAILED, INTERRUPTED = 1, 2, 3, 130

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that interrupt a command; its exit code is 128 more."""


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


def notify(line: str) -> None:
    """Tell the user one thing; this needs no memory to speak of."""
    try:
        sys.stderr.write(printable(line) + "\n")
    except BrokenPipeError:
        raise
    except OSError:  # on a full disk, say, and nobody else to tell
        _drop_what_comes(2)


def print_line(line: str) -> None:
    """Print a result of one line."""
    sys.stdout.write(printable(line) + "\n")


def print_result(text: str) -> None:
    """Print a result as it is."""
    sys.stdout.write(text + "\n")


def log_line(console: Console, line: str) -> None:
    """Print a line of a log: no markup in it, nothing picked out, not wrapped."""
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def can_draw(console: Console) -> bool:
    """Whether what was printed can be drawn anew in its place."""
    return console.is_terminal and not console.is_dumb_terminal


def warn(lines: list[str]) -> None:
    """Say what is not as it should be, and go on."""
    for line in lines:
        notify(f"warning: {line}")


def write(file: Path, text: str) -> None:
    """Write a result to a file, in UTF-8 whatever the locale.

    Raises InputError where that cannot be written.
    """
    from dsdctl.system.writing import write_named

    write_named(file, (text + "\n").encode("utf-8", errors="backslashreplace"))


@contextmanager
def reported(*, resumable: bool = False) -> Iterator[None]:
    """Turn what can go wrong into one line a problem and an exit code.

    A command that is `resumable` goes on where it was interrupted, and says so.
    """
    try:
        with interruptible():
            yield
    except InputError as error:
        for line in error.lines:
            notify(line)
        raise typer.Exit(BAD_INPUT) from None
    except DsdctlError as error:
        notify(f"error: {error}")
        raise typer.Exit(SOME_FAILED) from None
    except BrokenPipeError:
        raise
    except (OSError, MemoryError, RuntimeError, ImportError) as error:
        words = describe_os_error(error)
        if words is None:
            raise
        notify(f"error: {words}")
        raise typer.Exit(SOME_FAILED) from None
    except KeyboardInterrupt as interrupt:
        code = 128 + signal.Signals[interrupt.args[0]] if interrupt.args else INTERRUPTED
        notify("interrupted" + ("; re-run the command to resume" if resumable else ""))
        raise typer.Exit(code) from None


@contextmanager
def interruptible() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP as Ctrl-C is treated: a KeyboardInterrupt, here with the signal's
    name. What is ignored, by `nohup` say, stays so."""
    caught: list[str] = []

    def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
        caught.append(signal.Signals(number).name)
        _give_up_what_nobody_reads()
        raise KeyboardInterrupt(caught[0])

    before = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN or number == signal.SIGTERM:
            signal.signal(number, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        if caught:  # Ray's extension raises another in its place
            raise KeyboardInterrupt(caught[0]) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _give_up_what_nobody_reads() -> None:
    """Drop what a closed terminal or a full pipe does not take: an end must not wait for it."""
    for descriptor in (1, 2):
        with suppress(OSError):
            watched = select.poll()
            watched.register(descriptor, select.POLLOUT)
            if watched.poll(0) != [(descriptor, select.POLLOUT)]:
                _drop_what_comes(descriptor)


def _drop_what_comes(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def written_out(code: str | int | None) -> str | int | None:
    """Write out what is still to be printed; return a command's exit code, and another one where
    that cannot be written."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_what_comes(1)
        code = NOT_READ
    except OSError as error:
        _drop_what_comes(1)
        with suppress(OSError):
            notify(f"error: standard output: {error.strerror or error}")
        code = code or SOME_FAILED
    try:
        sys.stderr.flush()
    except OSError:
        _drop_what_comes(2)
    return code
