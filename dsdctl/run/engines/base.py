"""What an engine is asked to do, and what comes of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from dsdctl.results import FinishedLevel
from dsdctl.worker.tasks import Task


@dataclass(frozen=True)
class Outcome:
    """How a task ended: done (a level has its result, a table none), failed for a reason in words,
    stopped at a checkpoint, not begun because another process is at it, lost with a worker or node,
    to be run again elsewhere, or damaged: what it was to read was, and must be computed anew first.

    `damage` says in a line each what it met with in the store, and set aside; a defect leaves its
    `trace`, for the log."""

    task: Task
    status: Literal["done", "failed", "stopped", "busy", "lost", "damaged"]
    level: FinishedLevel | None = None
    failure: str | None = None
    damage: tuple[str, ...] = ()
    trace: str | None = None


class Engine(Protocol):
    """Runs tasks somewhere, at most `slots` at once."""

    slots: int

    def submit(self, task: Task) -> None: ...

    def outcomes(self, timeout: float | None = None) -> Iterator[Outcome]: ...

    def close(self) -> None: ...
