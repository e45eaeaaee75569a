"""What all trackers have in common: they hear of levels, and get the comparisons at the end."""

from collections.abc import Callable, Sequence
from typing import Protocol

from dsdctl.plan.trajectory import Trajectory
from dsdctl.report.table import Report
from dsdctl.results import FinishedLevel

Say = Callable[[str], None]


class Tracker(Protocol):
    """Mirrors what a run finishes. A run fails for nothing that goes wrong with it."""

    def level(self, trajectory: Trajectory, level: FinishedLevel) -> None:
        """Mirror a level, if it is one of an experiment that wants it."""
        ...

    def finish(self, reports: Sequence[Report], say: Say) -> None:
        """Mirror the comparisons, end, and say once how that went."""
        ...
