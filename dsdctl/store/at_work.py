"""Progress reports of workers, for `status` and `watch`.

A worker writes its report into the lock file of its piece of work, for as long as it holds the
lock. No result depends on it.
"""

import os
import socket
import time
from contextlib import suppress
from typing import IO, Literal

from pydantic import Field

from dsdctl.spec.fields import Line, Model

SECONDS = 0.5
"""Shortest time between two reports of a worker."""


class Stage(Model):
    """How far a piece of work is: in which of its epochs, or of the views of a teacher table."""

    name: Literal["loading", "epoch", "view", "measuring"] = "loading"
    number: int = Field(0, ge=0, description="of the epoch or view that runs, from 1")
    count: int = Field(0, ge=0)
    batch: int = Field(0, ge=0, description="batches of this epoch that are done")
    batches: int = Field(0, ge=0)

    @property
    def share(self) -> float:
        """The fraction of all epochs or views that is done."""
        if self.name == "measuring":
            return 1.0
        if not self.count:
            return 0.0
        return (self.number - 1 + self.batch / max(self.batches, 1)) / self.count


class AtWork(Model):
    """Which process is running a piece of work, since when (seconds since 1970), and how far."""

    host: Line
    pid: int
    since: float
    stage: Stage = Stage()


class Teller:
    """Writes progress reports into a lock file that this process holds; errors are ignored."""

    def __init__(self, lock: IO[str]):
        self._lock = lock
        self._reported = 0.0
        self._worker = AtWork(host=socket.gethostname(), pid=os.getpid(), since=time.time())
        self.notify(Stage())

    @property
    def due(self) -> bool:
        """Whether the last report is old enough for another one."""
        return time.monotonic() - self._reported >= SECONDS

    def notify(self, stage: Stage) -> None:
        """Replace the report by one that says how far the work is."""
        self._reported = time.monotonic()
        self._write(self._worker.model_copy(update={"stage": stage}).model_dump_json())

    def end(self) -> None:
        """Delete the report."""
        self._write("")

    def _write(self, text: str) -> None:
        with suppress(OSError):
            os.ftruncate(self._lock.fileno(), 0)
            os.write(self._lock.fileno(), text.encode())


def parsed(content: bytes) -> AtWork | None:
    """The report in a lock file; None if there is none, or while it is being written."""
    with suppress(ValueError):
        return AtWork.model_validate_json(content)
    return None
