"""The result of a task, which a worker sends, an engine passes on and the scheduler acts upon.

Nothing is imported here, so that a process with too little memory for torch can still report that.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dsdctl.results import FinishedLevel

Status = Literal["done", "failed", "stopped", "busy", "lost", "corrupt"]
"""`failed`: for the reason in `failure`. `stopped`: at a checkpoint. `busy`: not begun, since
another process is running it. `lost`: with its worker or node, to be run again elsewhere.
`corrupt`: its inputs in the store were, and must be computed again first."""


@dataclass(frozen=True)
class TaskResult:
    """How a task ended, and with what."""

    status: Status
    level: "FinishedLevel | None" = None
    """The level's result; None for a teacher table and for a rewind checkpoint."""
    failure: str | None = None
    """Why it failed, in words."""
    damage: tuple[str, ...] = ()
    """What was found corrupt in the store and quarantined, a line each."""
    trace: str | None = None
    """The traceback of an unexpected error, for the log."""
