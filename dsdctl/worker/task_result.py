"""How a task ended: what a worker says, an engine hands on and the scheduler acts upon.

Nothing is imported here, so that a process that has no room for torch can still say so.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dsdctl.results import FinishedLevel

Status = Literal["done", "failed", "stopped", "busy", "lost", "corrupt"]
"""Done; failed for a reason in words; stopped at a checkpoint; not begun because another process
is running it; lost with its worker or node, to be run elsewhere; or what it was to read was
corrupt, and must be computed again first."""


@dataclass(frozen=True)
class TaskResult:
    """How a task ended, and with what."""

    status: Status
    level: "FinishedLevel | None" = None
    """The level's result; none of a table and of a rewind checkpoint."""
    failure: str | None = None
    """Why it did not end well, in words."""
    damage: tuple[str, ...] = ()
    """What was found corrupt in the store and quarantined, a line each."""
    trace: str | None = None
    """A defect's traceback, for the log."""
