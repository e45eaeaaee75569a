"""Who hears what a run does: a terminal, a tracker, a test."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from dsdctl.cost.macs import MacCache
from dsdctl.plan.progress import Progress
from dsdctl.run.events import Event
from dsdctl.run.options import Finished

Count = Callable[[int, int], None]
"""How many of how many are done."""


class ProgressListener(Protocol):
    """Hears lines for people, and how far something has come."""

    def notify(self, line: str) -> None: ...

    def counting(self, name: str, what: str) -> AbstractContextManager[Count]:
        """Hear how many of all of `what` are done, of what goes by `name`."""
        ...


class RunListener(ProgressListener, Protocol):
    """Hears all that a run does."""

    def begun(self, progress: Progress, macs: MacCache) -> None:
        """What is known before anything is run."""
        ...

    def working(self, levels: int) -> AbstractContextManager[None]:
        """Between these, levels run: at most so many."""
        ...

    def happened(self, event: Event) -> None: ...

    def ended(self, finished: Finished) -> None:
        """All has been run that could be; the log is still open."""
        ...
