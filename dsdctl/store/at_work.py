"""What the worker of a piece of work says of itself, for `status` and for those who watch a run.

It stands in the piece's lock for as long as that is held. No result depends on it.
"""

import os
import socket
import time
from contextlib import suppress
from typing import IO, Literal

from pydantic import Field

from dsdctl.spec.fields import Line, Model

SECONDS = 0.5
"""How often a worker says how far it is, at most."""


class Stage(Model):
    """How far a piece of work is: in which of its epochs, or of the views of a teacher table."""

    name: Literal["loading", "epoch", "view", "measuring"] = "loading"
    number: int = Field(0, ge=0, description="of the epoch or view that runs, from 1")
    count: int = Field(0, ge=0)
    batch: int = Field(0, ge=0, description="batches of this epoch that are done")
    batches: int = Field(0, ge=0)

    @property
    def share(self) -> float:
        """How much of all epochs or views is done."""
        if self.name == "measuring":
            return 1.0
        if not self.count:
            return 0.0
        return (self.number - 1 + self.batch / max(self.batches, 1)) / self.count


class AtWork(Model):
    """Who is at a piece of work, since when (seconds since 1970), and how far."""

    host: Line
    pid: int
    since: float
    stage: Stage = Stage()


class Teller:
    """Says in a lock that it holds how far its piece of work is. That it cannot is no failure."""

    def __init__(self, lock: IO[str]):
        self._lock = lock
        self._said = 0.0
        self._worker = AtWork(host=socket.gethostname(), pid=os.getpid(), since=time.time())
        self.notify(Stage())

    @property
    def due(self) -> bool:
        """Whether the last word is old enough for another one."""
        return time.monotonic() - self._said >= SECONDS

    def notify(self, stage: Stage) -> None:
        """Say how far it is, in place of what was said before."""
        self._said = time.monotonic()
        self._write(self._worker.model_copy(update={"stage": stage}).model_dump_json())

    def end(self) -> None:
        """Leave nothing behind."""
        self._write("")

    def _write(self, text: str) -> None:
        with suppress(OSError):
            os.ftruncate(self._lock.fileno(), 0)
            os.write(self._lock.fileno(), text.encode())


def parsed(content: bytes) -> AtWork | None:
    """What was said; None while it is being written, or by a version that says nothing."""
    with suppress(ValueError):
        return AtWork.model_validate_json(content)
    return None
