"""Which network is exported: the level that a recipe's row reports of one seed."""

from dataclasses import dataclass
from typing import Literal

from dsdctl.errors import InputError, WorkError
from dsdctl.keys import LevelIdentity
from dsdctl.plan.next_work import lost_its_teacher
from dsdctl.plan.plan import RowPlan
from dsdctl.plan.progress import Progress
from dsdctl.plan.stopping import describe_rule
from dsdctl.plan.trajectory import Trajectory
from dsdctl.report.axes import row_named
from dsdctl.results import FinishedLevel, Measured
from dsdctl.spec.experiment import SparsestWithin


@dataclass(frozen=True)
class Chosen:
    """A finished level, and how it came to be chosen."""

    row_plan: RowPlan
    trajectory: Trajectory
    level: FinishedLevel
    result: Measured
    identity: LevelIdentity
    teacher: str | None
    rule: str
    """Which level it is, in words."""

    @property
    def name(self) -> str:
        """What its folder is called unless the user says otherwise."""
        return f"{self.row_plan.experiment}-{self.row_plan.row.recipe.recipe}-{self.level.key[:8]}"


Wish = Literal["best"] | SparsestWithin | int
"""The level that is asked for: by a rule, or by its number."""


def choose(
    progress: Progress,
    recipe: str,
    seed: int | None,
    variant: str | None,
    wish: Wish | None = None,
) -> Chosen:
    """A level of `seed`, by default the spec's first: the one that the row of `recipe` reports,
    or the one that is asked for.

    Raises InputError where it is not clear which row or level is meant, WorkError where its level
    is not to be had.
    """
    row_plan = _row(progress, recipe, variant)
    number = row_plan.seeds[0] if seed is None else seed
    trajectory = progress.plan.trajectories[row_plan.students[row_plan.seeds.index(number)]]
    name = f"{recipe} seed {number}"
    if lost_its_teacher(progress, trajectory):
        raise WorkError(f"{name}: its teacher diverged, there is no network to export")
    selected = _selected(progress, row_plan, trajectory, name, wish)
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
        _rule(row_plan, wish),
    )


def _selected(
    progress: Progress, row_plan: RowPlan, trajectory: Trajectory, name: str, wish: Wish | None
) -> int:
    """The number of the level. Raises InputError, WorkError."""
    decision = progress.decision(row_plan, trajectory.key)
    if isinstance(wish, int):
        there = len(progress.known[trajectory.key].measured)
        if wish >= trajectory.levels:
            raise InputError(f"--level: is {wish} (allowed: 0 to {trajectory.levels - 1})")
        if wish >= there:
            raise WorkError(f"{name}: level {wish} is not finished; {there} levels are")
        return wish
    selected = decision.selected(row_plan.row.recipe.select if wish is None else wish)
    if selected is None:
        raise WorkError(
            f"{name}: {decision.reason}, {decision.trainings} of {row_plan.row.student.levels} "
            "levels; there is no network to export"
        )
    return selected


def _rule(row_plan: RowPlan, wish: Wish | None) -> str:
    """Which level it is, and by which images that was found, in words."""
    if isinstance(wish, int):
        return f"level {wish}, as asked"
    rule = describe_rule(row_plan.row.recipe.select if wish is None else wish)
    on_test = row_plan.row.student.images.dataset.validation == "test"
    images = "the test set" if on_test else "the validation images"
    return f"{rule}, on {images}" + ("" if wish is None else ", as asked")


def _row(progress: Progress, recipe: str, variant: str | None) -> RowPlan:
    """The row of a variant. Raises InputError."""
    rows = [plan for plan in progress.plan.rows if plan.row.recipe.recipe == recipe]
    found = row_named(rows, variant)
    if found is None:
        names = [plan.row.variant for plan in rows]
        allowed = "; ".join(names) if any(names) else "none, there is no matrix"
        reason = "missing" if variant is None else f"{variant} is not in the spec"
        raise InputError(f"--variant: {reason} (allowed: {allowed})")
    return found
