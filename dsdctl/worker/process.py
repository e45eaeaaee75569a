"""A worker process: runs what comes through a pipe, one task at a time or several in threads.

Nothing heavy is imported before the first task comes, so that a process that has no room for torch
can still say so.
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
    """Answer each task that comes, until the other end of the pipe is closed: `at_once` of them at
    the same time, each in a thread.

    What comes is a number, then a task and its place; an answer is sent with the number. SIGTERM is
    a wish to stop at a checkpoint, for all tasks.
    """
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    worker = _Worker(connection, stop.is_set)
    # Signals are still held back and will be in the threads: this one waits, and hears of them.
    run = worker.run if at_once == 1 else _in_threads(worker, at_once)
    become_worker(parent)
    while True:
        try:
            number = connection.recv()
            task, config = connection.recv()
        except EOFError:
            return
        except Exception as error:  # what a task is made of could not be imported
            worker.send(number, _failed(error))
        else:
            run(number, task, config)


class _Worker:
    """Runs tasks, any number of them at once."""

    def __init__(self, connection: Connection, stop: Callable[[], bool]):
        self._connection = connection
        self._sending = threading.Lock()
        self._stop = stop

    def run(self, number: int, task: "Task", config: "WorkerConfig") -> None:
        """Run a task to its end, and say how that was."""
        result = attempt(task, config, self._stop)
        if result.status == "failed":
            _free_memory()
        self.send(number, result)

    def send(self, number: int, result: TaskResult) -> None:
        with self._sending:
            self._connection.send((number, result))


def _in_threads(worker: _Worker, count: int) -> Callable[[int, "Task", "WorkerConfig"], None]:
    """What hands a task to one of `count` threads.

    They stay, each with a stream and with what it has loaded.
    """
    waiting: queue.SimpleQueue[tuple[int, Task, WorkerConfig]] = queue.SimpleQueue()

    def serve() -> None:
        try:
            while True:
                worker.run(*waiting.get())
        except BaseException:  # else its task would be waited for in vain
            traceback.print_exc()
            os._exit(1)

    for _ in range(count):
        threading.Thread(target=serve, daemon=True).start()
    return lambda number, task, config: waiting.put((number, task, config))


def _free_memory() -> None:
    """Give back what a failed task held, for the tasks beside it and for the next process."""
    gc.collect()  # an error may be held by its own traceback
    graph = sys.modules.get("dsdctl.ml.graph")
    if graph is not None:
        with suppress(RuntimeError):  # after some errors a GPU takes no calls any more
            graph.empty_cache()


def attempt(task: "Task", config: "WorkerConfig", stop: Callable[[], bool]) -> TaskResult:
    """Run a task; whatever goes wrong is a result."""
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
