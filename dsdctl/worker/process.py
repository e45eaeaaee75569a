"""A worker process: runs the tasks that come through a pipe, one at a time or several in threads.

Nothing heavy is imported before the first task, so that a process with too little memory for torch
can still report that.
"""

import gc
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from dsdctl.errors import BusyError, DamagedError, DsdctlError, StoppedError, describe_os_error
from dsdctl.system.processes import become_worker
from dsdctl.worker.task_result import TaskResult

if TYPE_CHECKING:
    from dsdctl.worker.tasks import Task, WorkerConfig


def work(connection: Connection, parent: int, at_once: int = 1) -> None:
    """Run tasks from the pipe until its other end is closed, up to `at_once` of them in threads.

    Each comes as two messages, a number and then (task, config); its result is sent as (number,
    result). On SIGTERM all tasks stop at a checkpoint.
    """
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    worker = _Worker(connection, stop.is_set)
    # Threads inherit this one's signal mask, in which signals are still blocked: they stay blocked
    # there, and are delivered to this thread.
    run = worker.run if at_once == 1 else _in_threads(worker, at_once)
    become_worker(parent)
    while True:
        try:
            number = connection.recv()
        except (EOFError, OSError):  # the other end is closed, or reset
            return
        try:
            task, config = connection.recv()
        except EOFError:
            return
        except Exception as error:  # unpickling the task failed, as when an import does
            worker.send(number, _failed(error))
        else:
            run(number, task, config)


class _Worker:
    """Runs tasks and sends their results; safe to use from several threads."""

    def __init__(self, connection: Connection, stop: Callable[[], bool]):
        self._connection = connection
        self._sending = threading.Lock()
        self._stop = stop

    def run(self, number: int, task: "Task", config: "WorkerConfig") -> None:
        """Run a task to its end, and send the result."""
        result = attempt(task, config, self._stop)
        if result.status == "failed":
            _free_memory()
        self.send(number, result)

    def send(self, number: int, result: TaskResult) -> None:
        with self._sending:
            self._connection.send((number, result))


def _in_threads(worker: _Worker, count: int) -> Callable[[int, "Task", "WorkerConfig"], None]:
    """Start `count` threads, and return a function that hands a task to one of them.

    The threads live as long as the process; each has its own CUDA stream and loaded data.
    """
    waiting: queue.SimpleQueue[tuple[int, Task, WorkerConfig]] = queue.SimpleQueue()

    def serve() -> None:
        try:
            while True:
                worker.run(*waiting.get())
        except BaseException:  # otherwise the scheduler would wait for this task for ever
            traceback.print_exc()
            os._exit(1)

    for _ in range(count):
        threading.Thread(target=serve, daemon=True).start()
    return lambda number, task, config: waiting.put((number, task, config))


def _free_memory() -> None:
    """Free the memory of a failed task, for concurrent tasks and other processes."""
    gc.collect()  # an exception and its traceback may refer to each other
    graph = sys.modules.get("dsdctl.ml.graph")
    if graph is not None:
        with suppress(RuntimeError):  # after some errors every call to the GPU fails
            graph.empty_cache()


def attempt(task: "Task", config: "WorkerConfig", stop: Callable[[], bool]) -> TaskResult:
    """Run a task; errors become results too."""
    try:
        from dsdctl.worker.level import run_task

        return run_task(task, config, stop)
    except BusyError:
        return TaskResult("busy")
    except StoppedError:
        return TaskResult("stopped")
    except DamagedError as error:
        return TaskResult("corrupt", failure=f"{error}; quarantined, to be recomputed")
    except DsdctlError as error:
        return TaskResult("failed", failure=str(error))
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> TaskResult:
    words = describe_os_error(error)
    if words is not None:
        return TaskResult("failed", failure=words)
    trace = "".join(traceback.format_exception(error))
    return TaskResult("failed", failure=f"{type(error).__name__}: {error}", trace=trace)
