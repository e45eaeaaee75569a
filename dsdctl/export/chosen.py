"""Which network is exported: the level that a recipe's row reports of one seed."""

from dataclasses import dataclass

from dsdctl.errors import InputError, WorkError
from dsdctl.keys import LevelIdentity
from dsdctl.plan.next_work import lost_its_teacher
from dsdctl.plan.plan import RowPlan
from dsdctl.plan.progress import Progress
from dsdctl.plan.trajectory import Trajectory
from dsdctl.results import FinishedLevel, Measured


@dataclass(frozen=True)
class Chosen:
    """A finished level, and how it came to be chosen."""

    row_plan: RowPlan
    trajectory: Trajectory
    level: FinishedLevel
    result: Measured
    identity: LevelIdentity
    teacher: str | None

    @property
    def name(self) -> str:
        """What its folder is called unless the user says otherwise."""
        return f"{self.row_plan.experiment}-{self.row_plan.row.recipe.recipe}-{self.level.key[:8]}"


def choose(progress: Progress, recipe: str, seed: int | None, variant: str | None) -> Chosen:
    """The level that the row of `recipe` reports of `seed`, by default the spec's first.

    Raises InputError where it is not clear which row is meant, WorkError where its level is not
    to be had.
    """
    row_plan = _row(progress, recipe, variant)
    number = row_plan.seeds[0] if seed is None else seed
    trajectory = progress.plan.trajectories[row_plan.students[row_plan.seeds.index(number)]]
    reading = progress.reading(row_plan, trajectory.key)
    name = f"{recipe} seed {number}"
    if lost_its_teacher(progress, trajectory):
        raise WorkError(f"{name}: its teacher diverged, there is no network to export")
    selected = reading.selected(row_plan.row.recipe.select)
    if selected is None:
        raise WorkError(
            f"{name}: {reading.reason}, {reading.trainings} of {row_plan.row.student.levels} "
            "levels; there is no network to export"
        )
    level = progress.known[trajectory.key].levels[selected]
    if progress.store.levels.lacks_weights(level.key):
        raise WorkError(
            f"{name}: the weights of level {selected} were dropped by `dsdctl store gc`; "
            "run the spec with another --store to have them again"
        )
    assert level.measured is not None
    need = trajectory.teacher
    teacher = progress.teacher_identity(need) if need else None
    return Chosen(
        row_plan,
        trajectory,
        level,
        level.measured,
        progress.store.levels.identity(level.key),
        (teacher.level or teacher.weights) if teacher else None,
    )


def _row(progress: Progress, recipe: str, variant: str | None) -> RowPlan:
    rows = {
        plan.row.variant: plan for plan in progress.plan.rows if plan.row.recipe.recipe == recipe
    }
    if variant is None and len(rows) == 1:
        return next(iter(rows.values()))
    allowed = "; ".join(rows) if any(rows) else "none, there is no matrix"
    if variant is None:
        raise InputError(f"--variant: missing (allowed: {allowed})")
    if variant not in rows:
        raise InputError(f"--variant: {variant} is none of the spec's (allowed: {allowed})")
    return rows[variant]
