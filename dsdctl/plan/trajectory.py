"""Trajectories: a network, a seed, how it is pruned and retrained, and the recipes that use it.

Keys of levels are hashes that include the parent's key and the teacher's, and so are not known
before these are finished. Until then *names* tell apart what will have different keys.
"""

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
    """How many of a teacher's `levels` must be run before `rule` can choose among them."""
    if rule == "dense":
        return 1
    return rule + 1 if isinstance(rule, int) else levels


@dataclass(frozen=True)
class TeacherRequirement:
    """The teacher that a distilled trajectory needs: a level of another trajectory, chosen by
    `rule`, or a weights file."""

    setup: TrainingSetup
    trajectory: str | None
    rule: LevelRule
    file: WeightsFile | None
    table: bool
    table_reason: str
    loss: DistillationLoss
    reads: str
    """The name of the teacher checkpoint."""

    @property
    def levels(self) -> int:
        """How many levels of the teacher must be run before `rule` can choose among them."""
        return levels_needed(self.rule, self.setup.levels)


@dataclass(frozen=True)
class RecipeUse:
    """One recipe, in one variant, that uses a trajectory as its student's."""

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
    """The name of its level 0: without a teacher, its key."""
    uses: tuple[RecipeUse, ...] = ()
    students: tuple[str, ...] = ()
    """Keys of the trajectories that are distilled from this one."""
    student_uses: tuple[RecipeUse, ...] = ()
    """The recipes that use those."""
    experiments: tuple[str, ...] = ()
    """The experiments that use it, if the plan is of several."""

    @property
    def roles(self) -> list[str]:
        return [
            role for role, there in (("student", self.uses), ("teacher", self.students)) if there
        ]

    @property
    def variant(self) -> str:
        """What the variants that use it have in common; empty without a matrix."""
        return variant_name(shared_axes(dict(use.axes) for use in (*self.uses, *self.student_uses)))

    @property
    def name(self) -> str:
        """Its name for people: the recipes whose student it is, or `teacher`, and the variant.

        In a plan of several specs also the experiments that use it.
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
        """The identity of one of its levels, from the key of its parent and its teacher."""
        pruning = self._pruning(level) if level else None
        return level_identity_of(self.identity, level, pruning, parent, distillation)

    def rewind_checkpoint(self, distillation: DistillationIdentity | None) -> LevelIdentity | None:
        """The identity of the checkpoint that its levels rewind to; None if that is the
        initialization, or if they do not rewind."""
        return rewind_checkpoint(self.level_identity(1, None, distillation))

    def _pruning(self, level: int) -> PruningIdentity:
        """How level `level` (from 1) is pruned; of `sparsities` only its own counts."""
        sparsities = self.identity.sparsities
        if sparsities is None:
            return self.identity.pruning
        return self.identity.pruning.model_copy(update={"sparsity": sparsities[level - 1]})

    def level_names(self, start: int = 0) -> list[tuple[object, ...]]:
        """The names of its levels from `start` on.

        Trajectories that share a level, such as the dense one, have the same name for it.
        """
        return [self.level_name(level) for level in range(start, self.levels)]

    def level_name(self, level: int) -> tuple[object, ...]:
        """The name of one of its levels."""
        if level == 0:
            return (self.dense,)
        sparsities = self.identity.sparsities
        step = level if sparsities is None else _prefix_names(sparsities)[level - 1]
        return (self.dense, self._pruning_name, step)

    @functools.cached_property
    def _pruning_name(self) -> str:
        return canonical_json(self.identity.pruning)

    @property
    def table_name(self) -> tuple[object, ...] | None:
        """The name of the cached teacher logits that it reads; None if it reads none."""
        if self.teacher is None or not self.teacher.table:
            return None
        return (self.teacher.reads, self.identity.images, self.identity.training.precision)

    @property
    def rewind_name(self) -> str:
        """The name of the checkpoint that its levels rewind to."""
        return f"{self.dense} after {self.setup.rewind_iterations}"

    def table_identity(self, teacher: TeacherIdentity) -> TableIdentity:
        """The identity of the cached teacher logits that its levels read."""
        return TableIdentity(
            images=self.identity.images,
            teacher=teacher,
            precision=self.identity.training.precision,
        )

    def distillation(self, teacher: TeacherIdentity) -> DistillationIdentity:
        """How its levels are distilled from `teacher`."""
        assert self.teacher is not None
        table = key_of(self.table_identity(teacher)) if self.teacher.table else None
        return DistillationIdentity(**self.teacher.loss.model_dump(), teacher=teacher, table=table)


@functools.lru_cache(maxsize=1000)
def _prefix_names(sparsities: tuple[float, ...]) -> tuple[str, ...]:
    """A name for each prefix of the list, the same for lists that share the prefix."""
    digest, names = hashlib.sha256(), []
    for sparsity in sparsities:
        digest.update(f"{sparsity!r} ".encode())
        names.append(digest.hexdigest())
    return tuple(names)


def trajectory_teacher(need: TeacherRequirement | None) -> TrajectoryTeacher | None:
    """The part of a trajectory's identity that comes from its teacher."""
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
    """The rule, with the number of levels from which it chooses."""
    if isinstance(need.rule, SparsestWithin):
        return SparsestOf(sparsest_of=need.levels, within=need.rule.sparsest_within)
    return BestOf(best_of=need.levels) if need.rule == "best" else need.rule
