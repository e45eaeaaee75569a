"""The distinct training runs of a plan, each of which is rehearsed once."""

from dataclasses import dataclass

from dsdctl.plan.trajectory import Trajectory
from dsdctl.results import Rehearsed


@dataclass(frozen=True)
class Workload:
    """Trajectories whose level 0 is the same training run, except for its random draws."""

    trajectories: tuple[Trajectory, ...]

    @property
    def first(self) -> Trajectory:
        return self.trajectories[0]


Outcome = tuple[Workload, Rehearsed]
