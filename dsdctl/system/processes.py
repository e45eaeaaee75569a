"""Starting processes that know what to do with a signal, and that end with their parent."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_PR_SET_PDEATHSIG = 1


def open_closed_streams() -> None:
    """Open those of the three standard streams that are closed, or a file of the store would get
    their numbers. Of standard output that is a pipe which nobody reads."""
    for number, mode in enumerate("rww"):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number
            if number == 1:
                ends = os.pipe()
                os.dup2(ends[1], number)
                for end in ends:
                    os.close(end)
            setattr(sys, ("stdin", "stdout", "stderr")[number], open(number, mode))  # noqa: SIM115


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block signals here and, since a new process inherits that, in what is started meanwhile.

    Until it has called `unblock_signals`, such a process can then neither die of a signal nor print
    where one has met it.
    """
    resource_tracker.ensure_running()  # its start would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(
    target: Callable[..., None], *arguments: object
) -> tuple[SpawnProcess, Connection]:
    """Call `target` with a pipe's end, this process's number and `arguments` in a new process.

    Returns the process and the pipe's other end. Raises OSError, MemoryError.
    """
    context = get_context("spawn")
    connection, remote = context.Pipe()
    process = context.Process(target=target, args=(remote, os.getpid(), *arguments))
    try:
        with signals_blocked():
            process.start()
    finally:
        remote.close()
    return process, connection


@contextmanager
def worker_process(target: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """Start a worker, and kill it at the end, whatever it does then; yield the pipe to it."""
    process, connection = start_worker(target, *arguments)
    try:
        yield connection
    finally:
        process.kill()
        process.join()
        connection.close()


def become_worker(parent: int) -> None:
    """What a process that computes does first: its signals and its end are those of `parent`, and
    what a user's own code prints goes where no results go."""
    unblock_signals()
    die_with_parent(parent)
    os.dup2(2, 1)


def unblock_signals() -> None:
    """Leave Ctrl-C and a closed terminal to the parent, and take SIGTERM again."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def die_with_parent(parent: int) -> None:
    """Have this process killed when `parent`, which started it, has ended."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:  # it is Linux's
        threading.Thread(target=_die_after_parent, daemon=True).start()
    if os.getppid() != parent:  # it ended while this process was starting
        os._exit(1)


def _die_after_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()  # on a pipe, whose other end the system closes however the parent ends
    os.kill(os.getpid(), signal.SIGKILL)
