"""The command in this process, levels too, under an alarm."""

import ctypes
import io
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from types import FrameType
from typing import NoReturn

import pytest
from soak import called

import dsdctl.run.backends
from dsdctl.worker.process import attempt
from dsdctl.worker.task_result import TaskResult
from dsdctl.worker.tasks import Task, WorkerConfig

from .cases import SECONDS, require


class HungError(BaseException):
    """A command did not end."""


def ended(codes: str, wrong: list[str], outcome: str = "harmless") -> str:
    """How a case ended: the commands' exit codes. Raises FaultError with what was wrong, if
    anything."""
    require(not wrong, f"exit {codes}: {'; '.join(wrong)}")
    return f"exit {codes}: {outcome}"


@contextmanager
def alarm(seconds: int = SECONDS) -> Iterator[None]:
    """Raises HungError in what takes longer."""

    def ring(_number: int, _frame: FrameType | None) -> NoReturn:
        raise HungError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def command(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Call dsdctl in this process; a hang has the exit code -1, a traceback -2 and is in stderr."""
    line = [str(argument) for argument in arguments]
    beside = io.StringIO()
    try:
        with alarm(), redirect_stderr(beside):
            done = called(folder, *line)
    except HungError:
        return subprocess.CompletedProcess(line, -1, "", "HANG")
    except Exception:
        return subprocess.CompletedProcess(line, -2, "", traceback.format_exc())
    return done


def defects(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Whether a command hung or ended in a traceback."""
    name = done.args[0]
    if done.returncode == -1:
        return [f"`{name}` hangs"]
    if done.returncode == -2:
        return [f"`{name}` ends in a traceback ({done.stderr.splitlines()[-1]})"]
    if "Traceback" in done.stdout + done.stderr:
        return [f"`{name}` shows a traceback"]
    return []


@contextmanager
def without_root_s_right() -> Iterator[None]:
    """Lets the modes of files hold for root too, where this process is root's and on Linux.

    A thread may put the right to pass over them aside and take it up again.
    """
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    before, now = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0
    now[:] = before[:]
    now[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, now) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


class HereEngine:
    """Runs each task in this process as a worker does, since a process each takes seconds."""

    slots = 1

    def __init__(
        self, place: WorkerConfig, *_ignored: object, stop: Callable[[], bool] = lambda: False
    ):
        self._place = place
        self._stop = stop
        self._ended: list[tuple[Task, TaskResult]] = []

    def submit(self, task: Task) -> None:
        result = attempt(task, self._place, self._stop)
        if result.trace is not None:
            print(result.trace, file=sys.stderr)
        self._ended.append((task, result))

    def results(self, timeout: float | None = None) -> Iterator[tuple[Task, TaskResult]]:  # noqa: ARG002
        ended, self._ended = self._ended, []
        yield from ended

    def close(self) -> None:
        pass


@contextmanager
def levels_run_here(stop: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """`run` without worker processes; `stop` asks its levels to leave a checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            dsdctl.run.backends,
            "LocalEngine",
            lambda place, *rest: HereEngine(place, *rest, stop=stop),
        )
        patch.setenv("DSDCTL_STORE", "store")
        yield
