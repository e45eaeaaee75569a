"""How far a plan has come: its levels in the store, and the identities that follow from them."""

import copy
import itertools
from dataclasses import dataclass, field

from dsdctl.data.labels import FlipRate
from dsdctl.keys import DistillationIdentity, LevelIdentity, TableIdentity, TeacherIdentity, key_of
from dsdctl.plan.plan import Plan, RowPlan
from dsdctl.plan.stopping import StopDecision, apply_stop_rule, chosen_level
from dsdctl.plan.trajectory import TeacherRequirement, Trajectory
from dsdctl.results import FinishedLevel, Measured
from dsdctl.store.store import Store


@dataclass
class Known:
    """The finished levels of one trajectory, from 0 on without gaps."""

    levels: list[FinishedLevel] = field(default_factory=list)

    @property
    def measured(self) -> list[Measured]:
        return [level.result for level in self.levels if isinstance(level.result, Measured)]

    @property
    def diverged(self) -> bool:
        return bool(self.levels) and self.levels[-1].measured is None

    @property
    def next_level(self) -> int:
        return len(self.levels)


class Progress:
    """A plan, and what a store holds of it. A teacher's level counts as known once its trajectory
    has come far enough for its rule to choose."""

    def __init__(self, plan: Plan, store: Store):
        self.plan = plan
        self.store = store
        self.known = {key: Known() for key in plan.trajectories}
        self.refresh()

    def refresh(self) -> None:
        """Read what the store holds by now; teachers come before their students."""
        for trajectory in self.plan.trajectories.values():
            while not self.ended(trajectory):
                key = self._next_key(trajectory)
                finished = self.store.levels.get(key) if key else None
                if finished is None:
                    break
                self.known[trajectory.key].levels.append(finished)
            table = self.table_identity(trajectory)
            if table is not None:
                self.store.tables.has(key_of(table))  # notes damage before work begins

    def alone(self, experiment: str) -> "Progress":
        """The progress of one of the plan's specs, without levels that only others need."""
        one = copy.copy(self)
        one.plan = self.plan.alone(experiment)
        one.known = {
            key: Known(self.known[key].levels[: trajectory.levels])
            for key, trajectory in one.plan.trajectories.items()
        }
        return one

    def add(self, trajectory: Trajectory, level: FinishedLevel) -> None:
        """Add a level that has just been finished."""
        known = self.known[trajectory.key]
        assert level.result.level == known.next_level
        known.levels.append(level)

    def forget_missing(self) -> None:
        """Forget the levels that are no longer in the store, and those that follow from them."""
        for known in self.known.values():
            there = itertools.takewhile(
                lambda level: self.store.levels.get(level.key), known.levels
            )
            known.levels = list(there)

    def flip_rate(self, trajectory: Trajectory) -> FlipRate:
        """The true flip rate of the training labels: as measured, or else as expected."""
        measured = self.known[trajectory.key].measured
        if measured:
            return FlipRate(measured[0].flip_rate, exact=True)
        return trajectory.setup.images.flip_rate

    def decision(self, row_plan: RowPlan, student: str) -> StopDecision:
        """The row's stop decision for one of its student trajectories, given by key."""
        known, row = self.known[student], row_plan.row
        return apply_stop_rule(
            row.stop, known.measured, row.student.levels, diverged=known.diverged
        )

    def teacher_level(self, need: TeacherRequirement) -> int | None:
        """The level that is the teacher checkpoint; None for a file, or while it is not known."""
        if need.trajectory is None:
            return None
        known = self.known[need.trajectory]
        measured = known.measured[: need.levels]
        if need.rule == "dense" or isinstance(need.rule, int):
            level = 0 if need.rule == "dense" else need.rule
            return level if level < len(measured) else None
        complete = len(measured) == need.levels or known.diverged
        return chosen_level(need.rule, measured) if complete else None

    def teacher_identity(self, need: TeacherRequirement) -> TeacherIdentity | None:
        """The teacher's identity, or None while its level is not known."""
        if need.file is not None:
            return need.file.identity
        level = self.teacher_level(need)
        if level is None or need.trajectory is None:
            return None
        return TeacherIdentity(level=self.known[need.trajectory].levels[level].key)

    def next_level_identity(self, trajectory: Trajectory) -> LevelIdentity | None:
        """The identity of the next level, or None while the teacher is not known."""
        return self.level_identity(trajectory, self.known[trajectory.key].next_level)

    def waits_for_teacher(self, trajectory: Trajectory) -> bool:
        """Whether the next level has no identity yet, since the teacher is not known."""
        return trajectory.teacher is not None and self.teacher_identity(trajectory.teacher) is None

    def _next_key(self, trajectory: Trajectory) -> str | None:
        """The key of the next level, or None while the teacher is not known."""
        if trajectory.teacher is None and not self.known[trajectory.key].levels:
            return trajectory.dense
        identity = self.next_level_identity(trajectory)
        return None if identity is None else key_of(identity)

    def level_identity(self, trajectory: Trajectory, level: int) -> LevelIdentity | None:
        """The identity of a level whose parent is known, or None while the teacher is not."""
        distillation: DistillationIdentity | None = None
        if trajectory.teacher is not None:
            teacher = self.teacher_identity(trajectory.teacher)
            if teacher is None:
                return None
            distillation = trajectory.distillation(teacher)
        parent = self.known[trajectory.key].levels[level - 1].key if level else None
        return trajectory.level_identity(level, parent, distillation)

    def table_identity(self, trajectory: Trajectory) -> TableIdentity | None:
        """The identity of the cached teacher logits that `trajectory` reads; None if it reads none,
        or while its teacher is not known."""
        need = trajectory.teacher
        if need is None or not need.table:
            return None
        teacher = self.teacher_identity(need)
        return None if teacher is None else trajectory.table_identity(teacher)

    def ended(self, trajectory: Trajectory) -> bool:
        """Whether no level can follow: all are finished, or the last one diverged."""
        known = self.known[trajectory.key]
        return known.diverged or known.next_level >= trajectory.levels
