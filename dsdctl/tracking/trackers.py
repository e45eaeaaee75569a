"""What all trackers have in common: they hear of levels, and get the comparisons at the end."""

from collections.abc import Callable, Container, Sequence
from typing import Protocol

from dsdctl.plan.plan import Plan
from dsdctl.plan.progress import Progress
from dsdctl.plan.trajectory import Trajectory
from dsdctl.report.table import Report
from dsdctl.results import FinishedLevel

Say = Callable[[str], None]


class Tracker(Protocol):
    """Mirrors what a run finishes. A run fails for nothing that goes wrong with it."""

    def level(self, trajectory: Trajectory, level: FinishedLevel) -> None:
        """Mirror a level, if it is one of an experiment that wants it."""
        ...

    def finish(self, reports: Sequence[Report], notify: Say) -> None:
        """Mirror the comparisons, end, and say once how that went."""
        ...


def replay_levels(tracker: Tracker, progress: Progress) -> None:
    """Let a tracker hear of every level that is known; what it has already it passes over."""
    for trajectory in progress.plan.trajectories.values():
        for level in progress.known[trajectory.key].levels:
            tracker.level(trajectory, level)


def first_of(plan: Plan, trajectory: Trajectory, wanted: Container[str]) -> str | None:
    """The first experiment that uses a trajectory and is one of those that want to hear of it."""
    uses = plan.all_uses(trajectory)
    return next((use.experiment for use in uses if use.experiment in wanted), None)
