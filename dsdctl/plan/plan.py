"""From rows to a plan: every distinct trajectory once, with the recipes and students that use it.

Nothing here runs anything or imports torch; costs are added by `dsdctl.cost`.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dsdctl.errors import InputError
from dsdctl.keys import (
    TrajectoryIdentity,
    canonical_json,
    key_of,
)
from dsdctl.plan.identify import level_identity_of, trajectory_identity
from dsdctl.plan.rows import ResolvedSpec, Row, TrainingSetup
from dsdctl.plan.trajectory import (
    RecipeUse,
    TeacherRequirement,
    Trajectory,
    levels_needed,
    trajectory_teacher,
)


@dataclass(frozen=True)
class RowPlan:
    """A row and, seed by seed, the keys of its student and teacher trajectories."""

    experiment: str
    row: Row
    seeds: tuple[int, ...]
    students: tuple[str, ...]
    teachers: tuple[str | None, ...]


@dataclass(frozen=True)
class Plan:
    """Rows, and the distinct trajectories that they share. Teachers come before students."""

    specs: tuple[ResolvedSpec, ...]
    rows: tuple[RowPlan, ...]
    trajectories: dict[str, Trajectory] = field(repr=False)

    def chosen(self, only: Collection[str] = ()) -> list[Trajectory]:
        """The trajectories with these keys, or all if none are given."""
        return [t for key, t in self.trajectories.items() if not only or key in only]

    def all_uses(self, trajectory: Trajectory) -> list[RecipeUse]:
        """The recipes that use `trajectory`, as their student or as their student's teacher."""
        return list(dict.fromkeys((*trajectory.uses, *trajectory.student_uses)))

    def used_by(self, trajectory: Trajectory) -> list[str]:
        """The names of the recipes that use `trajectory`, each once."""
        return list(dict.fromkeys(use.recipe for use in self.all_uses(trajectory)))

    def variant(self, trajectory: Trajectory) -> str:
        """The variants that use `trajectory`; empty without a matrix."""
        return "; ".join(dict.fromkeys(use.variant for use in self.all_uses(trajectory)))

    def alone(self, experiment: str) -> "Plan":
        """The plan of one of its specs, as if there were no other."""
        if len(self.specs) == 1:
            return self
        builder = _Builder()
        rows = tuple(
            builder.add(experiment, row_plan.row, row_plan.seeds)
            for row_plan in self.rows
            if row_plan.experiment == experiment
        )
        specs = tuple(spec for spec in self.specs if spec.experiment.experiment == experiment)
        return Plan(specs, rows, builder.trajectories())


def make_plan(
    specs: Sequence[ResolvedSpec],
    *,
    recipes: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> Plan:
    """Plan `specs`, or only the given recipes and seeds of them.

    Raises InputError if data are not prepared, two experiments share a name, or a recipe or seed is
    in none of the specs.
    """
    _check_prepared(specs)
    _check_names(specs)
    _check_filters(specs, recipes, seeds)
    builder = _Builder()
    rows = []
    for spec in specs:
        wanted = tuple(s for s in spec.experiment.seeds if not seeds or s in seeds)
        for row in spec.rows:
            if wanted and (not recipes or row.recipe.recipe in recipes):
                rows.append(builder.add(spec.experiment.experiment, row, wanted))
    plan = Plan(tuple(specs), tuple(rows), builder.trajectories())
    return plan if len(specs) == 1 else _with_experiments(plan)


def _with_experiments(plan: Plan) -> Plan:
    """Record in each trajectory which experiments use it, for its name."""
    trajectories = {
        key: replace(
            trajectory,
            experiments=tuple(dict.fromkeys(use.experiment for use in plan.all_uses(trajectory))),
        )
        for key, trajectory in plan.trajectories.items()
    }
    return replace(plan, trajectories=trajectories)


def _check_prepared(specs: Sequence[ResolvedSpec]) -> None:
    unprepared = [spec.unprepared for spec in specs if spec.unprepared is not None]
    if unprepared:
        raise InputError(*unprepared)


def _check_names(specs: Sequence[ResolvedSpec]) -> None:
    """No two specs may have the same experiment name, by which reports tell them apart."""
    files: dict[str, Path] = {}
    for spec in specs:
        name = spec.experiment.experiment
        if name in files:
            raise InputError(f"{spec.file}: experiment: {name} is that of {files[name]} too")
        files[name] = spec.file


def _check_filters(
    specs: Sequence[ResolvedSpec], recipes: Sequence[str], seeds: Sequence[int]
) -> None:
    names = [name for spec in specs for name in spec.experiment.recipes]
    numbers = [seed for spec in specs for seed in spec.experiment.seeds]
    for option, given, known in (("--recipe", recipes, names), ("--seed", seeds, numbers)):
        for value in given:
            if value not in known:
                allowed = ", ".join(str(k) for k in dict.fromkeys(known))
                raise InputError(f"{option}: {value} is in no given spec (allowed: {allowed})")


def keys_beginning(plan: Plan, beginnings: Iterable[str]) -> tuple[str, ...]:
    """The trajectory keys with these prefixes. Raises InputError if a prefix does not match exactly
    one key."""
    found: dict[str, None] = {}
    for beginning in beginnings:
        keys = [key for key in plan.trajectories if key.startswith(beginning)]
        if len(keys) != 1:
            reason = f"{len(keys)} trajectories of the given specs have a key that begins so"
            if not keys and any(t.setup.own for t in plan.trajectories.values()):
                reason += ", or code that it runs has changed since the run was planned"
            raise InputError(f"--trajectory: {beginning}: {reason} (allowed: one of `dsdctl plan`)")
        found[keys[0]] = None
    return tuple(found)


@dataclass
class _Gathered:
    """A trajectory, and the recipes and students found so far that use it."""

    trajectory: Trajectory
    levels: int
    uses: list[RecipeUse] = field(default_factory=list)
    students: dict[str, None] = field(default_factory=dict)
    student_uses: list[RecipeUse] = field(default_factory=list)

    def complete(self) -> Trajectory:
        return replace(
            self.trajectory,
            levels=self.levels,
            uses=tuple(self.uses),
            students=tuple(self.students),
            student_uses=tuple(self.student_uses),
        )


class _Builder:
    """Collects trajectories by key, so that rows with the same key share one.

    A teacher is added before its students, so that it comes first in `trajectories`.
    """

    def __init__(self) -> None:
        self._found: dict[str, _Gathered] = {}

    def trajectories(self) -> dict[str, Trajectory]:
        """All trajectories, each with the recipes and students that use it."""
        return {key: found.complete() for key, found in self._found.items()}

    def add(self, experiment: str, row: Row, seeds: tuple[int, ...]) -> RowPlan:
        axes = tuple(row.axes.items())
        use = RecipeUse(experiment, axes, row.recipe.recipe, row.stop, row.student.levels)
        students, teachers = [], []
        for seed in seeds:
            need = self._teacher(row, seed)
            student = self._trajectory(row.student, seed, row.student.levels, need)
            self._found[student].uses.append(use)
            students.append(student)
            teacher = need.trajectory if need else None
            teachers.append(teacher)
            if teacher is not None:
                self._found[teacher].students[student] = None
                self._found[teacher].student_uses.append(use)
        return RowPlan(experiment, row, seeds, tuple(students), tuple(teachers))

    def _teacher(self, row: Row, seed: int) -> TeacherRequirement | None:
        teacher_source, distill = row.teacher_source, row.recipe.distill
        if teacher_source is None or distill is None:
            return None
        trajectory = None
        if teacher_source.file is not None:
            reads = canonical_json(teacher_source.file.identity)
        else:
            teacher_seed = seed if teacher_source.seed == "paired" else teacher_source.seed
            levels = levels_needed(teacher_source.rule, teacher_source.setup.levels)
            trajectory = self._trajectory(teacher_source.setup, teacher_seed, levels, None)
            last = self._found[trajectory].trajectory.level_name(levels - 1)
            known = teacher_source.rule == "dense" or isinstance(teacher_source.rule, int)
            reads = str(last) if known else f"{teacher_source.rule} up to {last}"
        return TeacherRequirement(
            teacher_source.setup,
            trajectory,
            teacher_source.rule,
            teacher_source.file,
            teacher_source.table,
            teacher_source.table_reason,
            distill.loss,
            reads,
        )

    def _trajectory(
        self, setup: TrainingSetup, seed: int, levels: int, teacher: TeacherRequirement | None
    ) -> str:
        """The key of a trajectory, which is added if it is new, with at least `levels` levels."""
        identity = trajectory_identity(setup, seed, trajectory_teacher(teacher))
        key = key_of(identity)
        if key not in self._found:
            dense = _dense_name(identity, teacher)
            trajectory = Trajectory(key, identity, setup, seed, levels, teacher, dense)
            self._found[key] = _Gathered(trajectory, levels)
        found = self._found[key]
        found.levels = max(found.levels, levels)
        return key


def _dense_name(identity: TrajectoryIdentity, teacher: TeacherRequirement | None) -> str:
    key = key_of(level_identity_of(identity, 0, None, None, None))
    if teacher is None:
        return key
    how = f"{canonical_json(teacher.loss)}, table {teacher.table}"
    return f"{key} taught by {teacher.reads} ({how})"
