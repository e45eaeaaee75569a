"""How far a plan has come: what is in the store, which levels are known, what could run next."""

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from dsdctl.data.labels import FlipRate
from dsdctl.keys import DistillationIdentity, LevelIdentity, TableIdentity, TeacherIdentity, key_of
from dsdctl.plan.plan import Plan, RowPlan
from dsdctl.plan.stopping import Reading, chosen_level, read_trajectory
from dsdctl.plan.trajectory import TeacherNeed, Trajectory
from dsdctl.results import FinishedLevel, Measured
from dsdctl.store.store import Store


@dataclass
class Known:
    """What is known of one trajectory: its finished levels from 0 on."""

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
    """A plan beside what a store holds of it."""

    def __init__(self, plan: Plan, store: Store):
        self.plan = plan
        self.store = store
        self.known = {key: Known() for key in plan.trajectories}
        self.refresh()

    def refresh(self) -> None:
        """Take in what the store holds by now; teachers come before those they teach."""
        for trajectory in self.plan.trajectories.values():
            while not self._ended(trajectory):
                key = self._next_key(trajectory)
                finished = self.store.levels.get(key) if key else None
                if finished is None:
                    break
                self.known[trajectory.key].levels.append(finished)
            table = self.table_identity(trajectory)
            if table is not None:
                self.store.tables.has(key_of(table))  # so that damage is said before work begins

    def alone(self, experiment: str) -> "Progress":
        """The same of one of the plan's specs: without levels that only others ask for."""
        one = copy.copy(self)
        one.plan = self.plan.alone(experiment)
        one.known = {
            key: Known(self.known[key].levels[: trajectory.levels])
            for key, trajectory in one.plan.trajectories.items()
        }
        return one

    def add(self, trajectory: Trajectory, level: FinishedLevel) -> None:
        """Take in a level that has just been finished."""
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
        """The true flip rate of the training labels: measured, or as far as it is known before."""
        measured = self.known[trajectory.key].measured
        if measured:
            return FlipRate(measured[0].flip_rate, exact=True)
        return trajectory.regime.images.flip_rate

    def reading(self, row_plan: RowPlan, student: str) -> Reading:
        """What a row sees in one of its student trajectories, given by key."""
        known, row = self.known[student], row_plan.row
        return read_trajectory(
            row.stop, known.measured, row.student.levels, diverged=known.diverged
        )

    def wants_level(self, trajectory: Trajectory) -> bool:
        """Say whether a recipe or a student asks for one more level of `trajectory`."""
        known = self.known[trajectory.key]
        if self._ended(trajectory) or self.lost_its_teacher(trajectory):
            return False
        for key in trajectory.taught:
            need = self.plan.trajectories[key].teacher
            assert need is not None
            if known.next_level < need.levels:
                return True
        return any(
            not read_trajectory(use.stop, known.measured, use.levels).finished
            for use in trajectory.uses
        )

    def lost_its_teacher(self, trajectory: Trajectory) -> bool:
        """Say whether the teacher's trajectory diverged before the level that was to teach."""
        need = trajectory.teacher
        if need is None or need.trajectory is None or not self.known[need.trajectory].diverged:
            return False
        return self.teacher_level(need) is None

    def teacher_level(self, need: TeacherNeed) -> int | None:
        """The level of the teacher's trajectory that teaches, once it is known."""
        if need.trajectory is None:
            return None
        known = self.known[need.trajectory]
        measured = known.measured[: need.levels]
        if need.rule == "dense" or isinstance(need.rule, int):
            level = 0 if need.rule == "dense" else need.rule
            return level if level < len(measured) else None
        whole = len(measured) == need.levels or known.diverged
        return chosen_level(need.rule, measured) if whole else None

    def teacher_identity(self, need: TeacherNeed) -> TeacherIdentity | None:
        """What identifies the teacher, once it is known."""
        if need.file is not None:
            return need.file.identity
        level = self.teacher_level(need)
        if level is None or need.trajectory is None:
            return None
        return TeacherIdentity(level=self.known[need.trajectory].levels[level].key)

    def next_level_identity(self, trajectory: Trajectory) -> LevelIdentity | None:
        """The identity of the next level, or None while the teacher is not known."""
        return self._identity(trajectory, self.known[trajectory.key].next_level)

    def waits_for_teacher(self, trajectory: Trajectory) -> bool:
        """Say whether the next level has no identity yet, since the teacher is not known."""
        return trajectory.teacher is not None and self.teacher_identity(trajectory.teacher) is None

    def _next_key(self, trajectory: Trajectory) -> str | None:
        """The key of the next level, or None while the teacher is not known."""
        if trajectory.teacher is None and not self.known[trajectory.key].levels:
            return trajectory.dense
        identity = self.next_level_identity(trajectory)
        return None if identity is None else key_of(identity)

    def _identity(self, trajectory: Trajectory, level: int) -> LevelIdentity | None:
        distillation: DistillationIdentity | None = None
        if trajectory.teacher is not None:
            teacher = self.teacher_identity(trajectory.teacher)
            if teacher is None:
                return None
            distillation = trajectory.distillation(teacher)
        parent = self.known[trajectory.key].levels[level - 1].key if level else None
        return trajectory.level_identity(level, parent, distillation)

    def levels_to_restore(self, trajectory: Trajectory) -> list[int]:
        """Finished levels whose weights were dropped and are needed again, lowest first.

        The next level starts from the last one's weights, and a teacher is read until its table
        is there. A level is trained again from the weights of the one before.
        """
        known = self.known[trajectory.key]

        def lacks(level: int) -> bool:
            return self.store.levels.lacks_weights(known.levels[level].key)

        wanted = {known.next_level - 1} if known.levels and self.wants_level(trajectory) else set()
        for level, students in self._students_by_level(trajectory).items():
            if lacks(level) and any(self._level_read(student) == level for student in students):
                wanted.add(level)
        found: set[int] = set()
        for level in wanted:
            found.update(itertools.takewhile(lacks, range(level, -1, -1)))
        return sorted(found)

    def _students_by_level(self, teacher: Trajectory) -> dict[int, list[Trajectory]]:
        """Those that a trajectory teaches, by the level that does, as far as it is known."""
        found: dict[int, list[Trajectory]] = {}
        for student in (self.plan.trajectories[key] for key in teacher.taught):
            level = None if student.teacher is None else self.teacher_level(student.teacher)
            if level is not None:
                found.setdefault(level, []).append(student)
        return found

    def _level_read(self, student: Trajectory) -> int | None:
        """The level of its teacher's trajectory whose weights the next piece of `student` reads."""
        need = student.teacher
        if need is None or not self.wants_level(student):
            return None
        table = self.table_identity(student)
        if table is not None and self.store.tables.has(key_of(table)):
            return None
        return self.teacher_level(need)

    def table_identity(self, trajectory: Trajectory) -> TableIdentity | None:
        """The identity of the teacher table that `trajectory` reads, once its teacher is known."""
        need = trajectory.teacher
        if need is None or not need.table:
            return None
        teacher = self.teacher_identity(need)
        return None if teacher is None else trajectory.table_identity(teacher)

    def early_state(self, trajectory: Trajectory) -> LevelIdentity | None:
        """The state that the next levels of `trajectory` rewind to, as a piece of work.

        None where they rewind to none, or while the teacher is not known.
        """
        identity = self.next_level_identity(trajectory)
        return None if identity is None else trajectory.early_state(identity.distillation)

    def next_piece(self, trajectory: Trajectory) -> LevelIdentity | TableIdentity | None:
        """What `trajectory` could run now: its next level, or first what that level reads.

        That is the weights of the level before, where they were dropped, its teacher's table and
        the state that it rewinds to. None if it is done or waits for its teacher.
        """
        again = self.levels_to_restore(trajectory)
        if not again and not self.wants_level(trajectory):
            return None
        level = again[0] if again else self.known[trajectory.key].next_level
        identity = self._identity(trajectory, level)
        if identity is None or self._teacher_lacks_weights(trajectory):
            return None
        table = self.table_identity(trajectory)
        if table is not None and not self.store.tables.has(key_of(table)):
            return table
        early = self.early_state(trajectory) if identity.level else None
        if early is not None and self.store.levels.get(key_of(early)) is None:
            return early
        return identity

    def _teacher_lacks_weights(self, student: Trajectory) -> bool:
        level, need = self._level_read(student), student.teacher
        if level is None or need is None or need.trajectory is None:
            return False
        return self.store.levels.lacks_weights(self.known[need.trajectory].levels[level].key)

    def unfinished(self) -> Iterator[Trajectory]:
        """Yield the trajectories of which a level, or the weights of one, are still wanted."""
        for trajectory in self.plan.trajectories.values():
            if self.wants_level(trajectory) or self.levels_to_restore(trajectory):
                yield trajectory

    def _ended(self, trajectory: Trajectory) -> bool:
        known = self.known[trajectory.key]
        return known.diverged or known.next_level >= trajectory.levels


def unneeded_weights(progress: Progress) -> list[str]:
    """Keys of finished levels of a plan whose weights nobody needs any more.

    Needed are the last level of a trajectory, which the next one starts from, every level that
    teaches, and every level that a row reports.
    """
    needed: set[str] = set()
    for trajectory in progress.plan.trajectories.values():
        known = progress.known[trajectory.key]
        needed.update(level.key for level in known.levels[-1:])
        if trajectory.teacher is not None:
            teacher = progress.teacher_identity(trajectory.teacher)
            needed.update(filter(None, [teacher.level if teacher else None]))
    for row_plan in progress.plan.rows:
        for key in row_plan.students:
            levels = progress.known[key].levels
            reading = progress.reading(row_plan, key)
            chosen = {reading.best, reading.stopped_at} - {None}
            chosen |= reading.candidates(row_plan.row.recipe.select)
            needed.update(levels[level].key for level in chosen if level is not None)
    keys = [level.key for known in progress.known.values() for level in known.levels]
    store = progress.store
    return [k for k in dict.fromkeys(keys) if k not in needed and not store.levels.lacks_weights(k)]


def stop_reason(progress: Progress, student: Trajectory, reading: Reading) -> str:
    """Why a seed stopped, or has not yet."""
    return "teacher diverged" if progress.lost_its_teacher(student) else reading.reason
