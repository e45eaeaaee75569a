"""Trajectories: a network, a seed and how it is pruned and retrained, with all that uses it."""

import functools
import hashlib
from dataclasses import dataclass
from typing import Literal

from dsdctl.keys import (
    BestOf,
    DistillationIdentity,
    LevelIdentity,
    PruningIdentity,
    SparsestOf,
    TableIdentity,
    TeacherIdentity,
    TrajectoryIdentity,
    TrajectoryTeacher,
    canonical_json,
    key_of,
    rewind_checkpoint,
)
from dsdctl.plan.identify import level_identity_of
from dsdctl.plan.rows import TrainingSetup, WeightsFile
from dsdctl.spec.distillation import DistillationLoss
from dsdctl.spec.experiment import LevelRule, SparsestWithin, StopRule
from dsdctl.spec.matrix import row_name, shared_axes, variant_name


def levels_needed(rule: LevelRule, levels: int) -> int:
    """How many of a teacher's `levels` must be run before the level that teaches is known."""
    if rule == "dense":
        return 1
    return rule + 1 if isinstance(rule, int) else levels


@dataclass(frozen=True)
class TeacherRequirement:
    """What a distilled trajectory needs: a level of another trajectory by rule, or a file."""

    setup: TrainingSetup
    trajectory: str | None
    rule: LevelRule
    file: WeightsFile | None
    table: bool
    table_reason: str
    loss: DistillationLoss
    reads: str
    """What of the teacher is read, by what tells it apart before keys are known."""

    @property
    def levels(self) -> int:
        """How many levels of the teacher must be run before the one that teaches is known."""
        return levels_needed(self.rule, self.setup.levels)


@dataclass(frozen=True)
class RecipeUse:
    """One recipe, in one variant, that reads a trajectory as its student."""

    experiment: str
    axes: tuple[tuple[str, str], ...]
    recipe: str
    stop: StopRule | None
    levels: int

    @property
    def variant(self) -> str:
        return variant_name(dict(self.axes))


@dataclass(frozen=True)
class Trajectory:
    """One network, one seed, pruned and retrained level after level."""

    key: str
    identity: TrajectoryIdentity
    setup: TrainingSetup
    seed: int
    levels: int
    teacher: TeacherRequirement | None
    dense: str
    """What tells its level 0 apart before keys are known: its key, where nobody teaches."""
    uses: tuple[RecipeUse, ...] = ()
    students: tuple[str, ...] = ()
    """Keys of the trajectories that this one teaches."""
    student_uses: tuple[RecipeUse, ...] = ()
    """The recipes that read those."""
    experiments: tuple[str, ...] = ()
    """Those that read it, where the plan is of several."""

    @property
    def roles(self) -> list[str]:
        return [
            role for role, there in (("student", self.uses), ("teacher", self.students)) if there
        ]

    @property
    def variant(self) -> str:
        """What the variants that read it have in common; empty without a matrix."""
        return variant_name(shared_axes(dict(use.axes) for use in (*self.uses, *self.student_uses)))

    @property
    def name(self) -> str:
        """What people call it: the recipes whose student it is, or `teacher`, and the variant.

        With the experiments that read it, where there are several.
        """
        recipes = dict.fromkeys(use.recipe for use in self.uses)
        name = "+".join(recipes) or "teacher"
        experiments = f"{', '.join(self.experiments)}: " if self.experiments else ""
        return experiments + row_name(name, self.variant)

    @property
    def label(self) -> str:
        """Its name and its seed."""
        return f"{self.name} seed {self.seed}"

    def level_identity(
        self, level: int, parent: str | None, distillation: DistillationIdentity | None
    ) -> LevelIdentity:
        """The identity of one of its levels, once its parent and its teacher are known."""
        pruning = self._pruning(level) if level else None
        return level_identity_of(self.identity, level, pruning, parent, distillation)

    def rewind_checkpoint(self, distillation: DistillationIdentity | None) -> LevelIdentity | None:
        """The identity of the state that its levels rewind to, where that is no initialization."""
        return rewind_checkpoint(self.level_identity(1, None, distillation))

    def _pruning(self, level: int) -> PruningIdentity:
        """How level `level` (from 1) is pruned: of a list of sparsities it knows its own alone."""
        sparsities = self.identity.sparsities
        if sparsities is None:
            return self.identity.pruning
        return self.identity.pruning.model_copy(update={"sparsity": sparsities[level - 1]})

    def level_names(self, start: int = 0) -> list[tuple[object, ...]]:
        """Its levels from `start` on, by what tells them apart before keys are known.

        Two trajectories that share a level, such as the dense one of all ways to retrain, name it
        alike.
        """
        return [self.level_name(level) for level in range(start, self.levels)]

    def level_name(self, level: int) -> tuple[object, ...]:
        """One of these names."""
        if level == 0:
            return (self.dense,)
        sparsities = self.identity.sparsities
        step = level if sparsities is None else _beginnings(sparsities)[level - 1]
        return (self.dense, self._pruning_name, step)

    @functools.cached_property
    def _pruning_name(self) -> str:
        return canonical_json(self.identity.pruning)

    @property
    def table_name(self) -> tuple[object, ...] | None:
        """What tells the teacher table apart that it reads; None where it reads none."""
        if self.teacher is None or not self.teacher.table:
            return None
        return (self.teacher.reads, self.identity.images, self.identity.training.precision)

    @property
    def early_name(self) -> str:
        """What tells the state apart that its levels rewind to."""
        return f"{self.dense} after {self.setup.rewind_iterations}"

    def table_identity(self, teacher: TeacherIdentity) -> TableIdentity:
        """The identity of the teacher table that its levels read."""
        return TableIdentity(
            images=self.identity.images,
            teacher=teacher,
            precision=self.identity.training.precision,
        )

    def distillation(self, teacher: TeacherIdentity) -> DistillationIdentity:
        """How its levels are distilled, once the teacher's level is known."""
        assert self.teacher is not None
        table = key_of(self.table_identity(teacher)) if self.teacher.table else None
        return DistillationIdentity(**self.teacher.loss.model_dump(), teacher=teacher, table=table)


@functools.lru_cache(maxsize=1000)
def _beginnings(sparsities: tuple[float, ...]) -> tuple[str, ...]:
    """A name for each beginning of the list, which lists that begin alike share."""
    digest, names = hashlib.sha256(), []
    for sparsity in sparsities:
        digest.update(f"{sparsity!r} ".encode())
        names.append(digest.hexdigest())
    return tuple(names)


def trajectory_teacher(need: TeacherRequirement | None) -> TrajectoryTeacher | None:
    """What of its teacher identifies a trajectory."""
    if need is None:
        return None
    return TrajectoryTeacher(
        **need.loss.model_dump(),
        trajectory=need.trajectory,
        rule=_rule_identity(need),
        weights=need.file.identity if need.file else None,
        table=need.table,
    )


def _rule_identity(need: TeacherRequirement) -> Literal["dense"] | BestOf | SparsestOf | int:
    """The rule, with the number of levels that it chooses from."""
    if isinstance(need.rule, SparsestWithin):
        return SparsestOf(sparsest_of=need.levels, within=need.rule.sparsest_within)
    return BestOf(best_of=need.levels) if need.rule == "best" else need.rule
