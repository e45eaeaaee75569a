"""The models of a spec and a recipe: what a user may write, with units and ranges.

Models are frozen and refuse unknown keys. Nothing here imports torch.
"""

import functools
import operator
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import (
    Discriminator,
    Field,
    JsonValue,
    Tag,
    create_model,
    field_validator,
    model_validator,
)

from dsdctl.spec.dataset import Dataset, LabelNoise
from dsdctl.spec.distillation import DistillationLoss
from dsdctl.spec.fields import Fraction, Model, Name, PathText, Seed, Text, word_or_key
from dsdctl.spec.network import BUILT_IN, OWN, AnyBuiltIn, OwnNetwork, Student, whose
from dsdctl.spec.networks.base import BuiltInNetwork
from dsdctl.spec.pruning import MAX_ROUNDS, Pruning, PruningField
from dsdctl.spec.training import Training

Overrides = dict[str, JsonValue]
"""Keys that override the spec's own before the whole is validated."""


class _TeacherOptions(Model):
    """How a teacher is trained, where that differs from the student."""

    training: Overrides | None = Field(None, description="overrides the spec's training")
    augment: Overrides | None = Field(None, description="overrides the dataset's augment")
    pruning: Overrides | Literal["none"] | None = Field(
        None, description="overrides the spec's pruning"
    )
    level: Annotated[int, Field(ge=0, le=MAX_ROUNDS)] | None = Field(
        None, description="this level teaches in recipes that ask for `best`"
    )
    seed: Seed | Literal["paired"] = Field(
        0, description="one teacher for all student seeds, or `paired`: one per seed"
    )
    table: Literal["auto", "always", "never"] = Field(
        "auto",
        description="cache the teacher's logits for all views; auto: if that fits and pays off",
    )


def _teacher_of(network: type[BuiltInNetwork]) -> type[Model]:
    """The model of this network as a teacher, with a teacher's options."""
    bases: tuple[type[Model], ...] = (network, _TeacherOptions)
    return create_model(
        f"{network.__name__}Teacher",
        __base__=bases,
        __module__=__name__,
        __doc__=f"{network.__name__} as a teacher.",
    )


class OwnTeacher(OwnNetwork, _TeacherOptions):
    """A teacher that is a network of your own."""


if TYPE_CHECKING:

    class AnyBuiltInTeacher(BuiltInNetwork, _TeacherOptions):
        """A teacher that comes with dsdctl."""

else:
    AnyBuiltInTeacher = functools.reduce(operator.or_, map(_teacher_of, get_args(AnyBuiltIn)))

Teacher = Annotated[
    Annotated[Annotated[AnyBuiltInTeacher, Field(discriminator="arch")], Tag(BUILT_IN)]
    | Annotated[OwnTeacher, Tag(OWN)],
    Discriminator(whose),
]


class SparsestWithin(Model):
    """The sparsest of the levels whose validation accuracy is close to that of the best of them.

    Ties in sparsity, as without pruning, go to the lowest level.
    """

    sparsest_within: float = Field(
        ge=0, lt=1, description="how far below the best accuracy, as a fraction; 0.01 is a point"
    )

    def __str__(self) -> str:
        return f"sparsest_within={self.sparsest_within}"


ByValidation = Literal["best"] | SparsestWithin
"""A rule that chooses among levels by their validation accuracies."""

LevelRule = Literal["dense"] | int | ByValidation
"""Which level of a trajectory is the teacher: level 0, this one, or one chosen by validation."""


class TeacherLevel(Model):
    """A teacher fixed to one level of its trajectory."""

    level: int = Field(ge=0, le=MAX_ROUNDS, description="prune rounds; 0 is dense")


class TeacherWeights(Model):
    """A teacher read from a safetensors file that has the keys of the network's state_dict."""

    weights: PathText = Field(description="path, relative to the recipe's file")


TeacherRule = Annotated[
    Annotated[Literal["dense", "best"], Tag("<word>")]
    | Annotated[SparsestWithin, Tag("<sparsest_within>")]
    | Annotated[TeacherLevel, Tag("<level>")]
    | Annotated[TeacherWeights, Tag("<weights>")],
    word_or_key("dense", "best", sparsest_within="FRACTION", weights="FILE", level="N"),
]


class Distill(DistillationLoss):
    """The teacher and the loss; `kl` is (1 - alpha) CE + alpha temperature^2 KL (DSD2, eq. 2)."""

    teacher: TeacherRule = Field(
        description="`dense`, `best`, {sparsest_within: 0.01}, {level: N} or {weights: FILE}"
    )

    @property
    def loss(self) -> DistillationLoss:
        """The loss alone, without the teacher."""
        return DistillationLoss.model_validate(self.model_dump(exclude={"teacher"}))


Select = Annotated[
    Annotated[Literal["best", "stopped"], Tag("<word>")]
    | Annotated[SparsestWithin, Tag("<sparsest_within>")],
    word_or_key("best", "stopped", sparsest_within="FRACTION"),
]


class StopSettings(Model):
    """Settings for those keys of the recipes' stop rules that the recipes leave open."""

    patience: Annotated[int, Field(ge=1, le=500)] | None = Field(
        None, description="consecutive levels; default: the rule's, or 1"
    )
    tolerance: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="accuracy, as a fraction; default: the rule's, or 0"
    )
    entropy_drop: Fraction | None = Field(
        None, description="share of the highest value; default: the rule's, or 0.05"
    )


class StopRule(Model):
    """When to stop pruning: after `patience` consecutive levels below the best - tolerance.

    With `after: entropy-drop` levels count only once the entropy has fallen by the share
    `entropy_drop` below its highest value so far.
    """

    monitor: Literal["validation_accuracy"] = Field(
        "validation_accuracy", description="what must not fall"
    )
    patience: int = Field(1, ge=1, le=500, description="consecutive levels below the best")
    tolerance: float = Field(
        0.0, ge=0, lt=1, description="how far below counts, in accuracy as a fraction"
    )
    after: Literal["entropy-drop"] | None = Field(
        None, description="wait for the entropy to fall; without it the rule acts from level 0"
    )
    entropy_drop: Fraction = Field(0.05, description="share of the entropy's highest value")


class Recipe(Model):
    """One named way to get a compressed student; one row of the comparison."""

    recipe: Name = Field(description="its name, and that of its file")
    title: Text = Field(description="of its row in reports")
    distill: Distill | None = Field(None, description="without it there is no teacher")
    stop: StopRule | None = Field(None, description="without it all levels are run")
    select: Select = Field(
        "best",
        description="the row reports the best level on validation, where it stopped, or, with "
        "{sparsest_within: 0.01}, the sparsest level within a point of the best on validation",
    )
    training: Overrides | None = Field(None, description="overrides the spec's training")
    pruning: Overrides | Literal["none"] | None = Field(
        None, description="overrides the spec's pruning"
    )
    teacher: Overrides | None = Field(None, description="overrides the spec's teacher")

    @property
    def early_stop(self) -> bool:
        return self.stop is not None

    @property
    def pruned_teacher(self) -> bool:
        """Whether the teacher may be a pruned level."""
        if self.distill is None:
            return False
        teacher = self.distill.teacher
        if isinstance(teacher, TeacherLevel):
            return teacher.level > 0
        return teacher == "best" or isinstance(teacher, SparsestWithin)


class Wandb(Model):
    """A mirror of each run at Weights & Biases."""

    project: Name = Field(description="W&B's project")
    entity: Name | None = Field(None, description="user or team; default: that of the key")
    mode: Literal["auto", "online", "offline", "disabled"] = Field(
        "auto", description="auto: online if there is a key and a network, otherwise offline"
    )
    tags: tuple[Name, ...] = Field((), max_length=20, description="tags of all its runs")
    group: Name | None = Field(None, description="group of all its runs; default: the experiment")
    networks: bool = Field(
        False, description="whether the networks that rows report are uploaded as artifacts"
    )


class Tracking(Model):
    """Where results are mirrored; the store is always the record."""

    wandb: Wandb | None = Field(None, description="default: no mirror at W&B")
    tensorboard: bool = Field(
        False, description="whether TensorBoard's event files are written into the store"
    )


class MeanStd(Model):
    """A published value: mean and standard deviation over its seeds."""

    mean: float
    std: float | None = None


class ReferenceRow(Model):
    """A published row, shown beside ours. Accuracy and sparsity are fractions."""

    pflops: float | None = Field(None, description="training of the student")
    teacher_pflops: float | None = Field(None, description="training of its teacher")
    test_accuracy: MeanStd | None = Field(None, description="a fraction")
    sparsity: MeanStd | None = Field(None, description="a fraction")
    note: Text = Field("", description="what a reader must know of the published values")


class Experiment(Model):
    """One experiment, without its matrix: what is compared, on what, over which seeds."""

    WRITTEN_BESIDE = ("matrix",)

    experiment: Name = Field(description="its name, also in the names of figures and exports")
    title: Text = Field("", description="title of the report")
    warning: Text = Field(
        "", description="what to know before running it; validate, plan, run and reports print it"
    )
    deviations: tuple[Text, ...] = Field(
        (), max_length=50, description="what differs from the paper; reports print it"
    )
    dataset: Dataset = Field(description="images, their splits and their augmentation")
    label_noise: LabelNoise = Field(
        LabelNoise(rate=0.0), description="which training labels are made wrong; default: none"
    )
    student: Student = Field(description="the network that is pruned")
    teacher: Teacher | None = Field(None, description="for recipes that distil")
    training: Training = Field(description="how each level is trained")
    pruning: PruningField = Field(Pruning(), description="what each round prunes")
    stop: StopSettings = Field(StopSettings(), description="settings for the recipes' stop rules")
    recipes: tuple[Name, ...] = Field(
        min_length=1,
        max_length=100,
        description="names of recipes; each is a row of the comparison",
    )
    seeds: tuple[Seed, ...] = Field(
        min_length=1, max_length=1000, description="each recipe is run once with each seed"
    )
    tracking: Tracking = Field(Tracking(), description="mirrors of a run, as TensorBoard's")
    reference: dict[Name, ReferenceRow] = Field({}, description="published rows, by recipe")

    @field_validator("recipes", "seeds")
    @classmethod
    def _distinct(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = [value for i, value in enumerate(values) if value in values[:i]]
        if twice:
            raise ValueError(f"{twice[0]} is given twice")
        return values

    @model_validator(mode="after")
    def _noise_is_paired(self) -> Self:
        unpaired = self.teacher is not None and self.teacher.seed != "paired"
        if unpaired and self.label_noise.seed == "per-trajectory":
            raise ValueError(
                "label_noise.seed: per-trajectory needs teacher.seed: paired, since a teacher that "
                "saw another draw of the noise would leak clean labels to its student"
            )
        return self
