"""Work in processes on this machine, one level at a time in each."""

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress

from dsdctl.errors import BusyError, DsdctlError, StoppedError
from dsdctl.level import Place, Task, run_task
from dsdctl.results import FinishedLevel
from dsdctl.schedule import Outcome

GRACE_SECONDS = 60.0
"""How long workers that were asked to stop may take to the end of their epoch."""

_PR_SET_PDEATHSIG = 1

_Result = Future[FinishedLevel | None]


class LocalEngine:
    """`jobs` worker processes. A worker that dies takes only its own task with it."""

    def __init__(self, place: Place, jobs: int):
        self.slots = jobs
        self._place = place
        self._idle = [_new_worker() for _ in range(jobs)]
        self._running: dict[_Result, tuple[Task, ProcessPoolExecutor]] = {}

    def submit(self, task: Task) -> None:
        """Start `task` on an idle worker; there must be one."""
        worker = self._idle.pop()
        try:
            future = worker.submit(_run_in_worker, task, self._place)
        except BrokenProcessPool:  # it died while it was idle
            worker.shutdown(wait=False)
            worker = _new_worker()
            future = worker.submit(_run_in_worker, task, self._place)
        self._running[future] = (task, worker)

    def outcomes(self, timeout: float | None = None) -> Iterator[Outcome]:
        """Wait until something ends, or `timeout` seconds, then yield all that has ended."""
        done, _ = wait(self._running, timeout, return_when=FIRST_COMPLETED)
        for future in done:
            task, worker = self._running.pop(future)
            # A worker that was told to stop stays so; another one takes its place.
            if isinstance(future.exception(), BrokenProcessPool | StoppedError):
                _signal(worker, signal.SIGKILL)
                worker.shutdown(wait=False)
                worker = _new_worker()
            self._idle.append(worker)
            yield _outcome(task, future)

    def close(self) -> None:
        """End all workers. Those in a level are asked to leave a checkpoint first."""
        try:
            for _, worker in self._running.values():
                _signal(worker, signal.SIGTERM)
            wait(self._running, GRACE_SECONDS)
        finally:
            for worker in self._idle + [worker for _, worker in self._running.values()]:
                _signal(worker, signal.SIGKILL)
                worker.shutdown(wait=True, cancel_futures=True)


def _outcome(task: Task, future: _Result) -> Outcome:
    match future.exception():
        case None:
            return Outcome(task, "done", future.result())
        case BrokenProcessPool():
            why = "its worker process died (killed, or the memory was full)"
            return Outcome(task, "failed", failure=why)
        case BusyError():
            return Outcome(task, "busy")
        case StoppedError():
            return Outcome(task, "stopped")
        case DsdctlError() as error:
            return Outcome(task, "failed", failure=str(error))
        case error:  # a defect: reported with its type, other work goes on
            return Outcome(task, "failed", failure=f"{type(error).__name__}: {error}")


def _signal(worker: ProcessPoolExecutor, number: signal.Signals) -> None:
    for process in list((worker._processes or {}).values()):
        with suppress(ProcessLookupError):
            if process.pid is not None:
                os.kill(process.pid, number)


def _new_worker() -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(
        1, mp_context=context, initializer=_enter_worker, initargs=(os.getpid(),)
    )


# Inside a worker process

_stop = threading.Event()


def _enter_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, take SIGTERM as a wish to stop, and end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda _number, _frame: _stop.set())
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended while this process was starting
        os._exit(1)


def _run_in_worker(task: Task, place: Place) -> FinishedLevel | None:
    return run_task(task, place, _stop.is_set)
