"""A worker process: runs what comes through a pipe, one task at a time.

Nothing heavy is imported before the first task comes, so that a process that has no room for torch
can still say so.
"""

import signal
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Literal

from dsdctl.errors import BusyError, DamagedError, DsdctlError, StoppedError, in_words
from dsdctl.processes import end_with_parent, take_signals

if TYPE_CHECKING:
    from dsdctl.tasks import Done, Place, Task


@dataclass(frozen=True)
class Answer:
    """How a task ended; a defect comes with its trace, for the log."""

    status: Literal["done", "failed", "stopped", "busy", "lost", "damaged"]
    done: "Done | None" = None
    failure: str | None = None
    trace: str | None = None


def work(connection: Connection, parent: int) -> None:
    """Answer each task and place that comes, until the other end of the pipe is closed.

    SIGTERM is a wish to stop at a checkpoint.
    """
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    take_signals()
    end_with_parent(parent)
    while True:
        try:
            task, place = connection.recv()
        except EOFError:
            return
        except Exception as error:  # what a task is made of could not be imported
            connection.send(_failed(error))
        else:
            connection.send(attempt(task, place, stop.is_set))


def attempt(task: "Task", place: "Place", stop: Callable[[], bool]) -> Answer:
    """Run a task; whatever goes wrong is an answer."""
    try:
        from dsdctl.level import run_task

        return Answer("done", run_task(task, place, stop))
    except BusyError:
        return Answer("busy")
    except StoppedError:
        return Answer("stopped")
    except DamagedError as error:
        return Answer("damaged", failure=str(error))
    except DsdctlError as error:
        return Answer("failed", failure=str(error))
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> Answer:
    words = in_words(error)
    if words is not None:
        return Answer("failed", failure=words)
    trace = "".join(traceback.format_exception(error))
    return Answer("failed", failure=f"{type(error).__name__}: {error}", trace=trace)
