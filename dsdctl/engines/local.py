"""Work in processes on this machine, one level at a time in each."""

import ctypes
import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from dsdctl.errors import DsdctlError
from dsdctl.level import Place, Task, run_task
from dsdctl.results import FinishedLevel
from dsdctl.schedule import Outcome

_PR_SET_PDEATHSIG = 1


class LocalEngine:
    """`jobs` worker processes. A worker that dies takes only its own task with it."""

    def __init__(self, place: Place, jobs: int):
        self.slots = jobs
        self._place = place
        self._idle = [_new_worker() for _ in range(jobs)]
        self._running: dict[Future[FinishedLevel | None], tuple[Task, ProcessPoolExecutor]] = {}

    def submit(self, task: Task) -> None:
        """Start `task` on an idle worker; there must be one."""
        worker = self._idle.pop()
        self._running[worker.submit(run_task, task, self._place)] = (task, worker)

    def outcomes(self) -> Iterator[Outcome]:
        """Wait until something ends, then yield all that has."""
        done, _ = wait(self._running, return_when=FIRST_COMPLETED)
        for future in done:
            task, worker = self._running.pop(future)
            try:
                yield Outcome(task, future.result(), None)
            except BrokenProcessPool:
                worker.shutdown(wait=False)
                worker = _new_worker()
                yield Outcome(task, None, "its worker process died (killed, or out of memory)")
            except DsdctlError as error:
                yield Outcome(task, None, str(error))
            except Exception as error:  # a defect: reported with its type, other work goes on
                yield Outcome(task, None, f"{type(error).__name__}: {error}")
            self._idle.append(worker)

    def close(self) -> None:
        """End all workers, also in the middle of a level."""
        workers = self._idle + [worker for _, worker in self._running.values()]
        for worker in workers:
            for process in list((worker._processes or {}).values()):
                process.kill()
            worker.shutdown(wait=True, cancel_futures=True)


def _new_worker() -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_enter_worker)


def _enter_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
