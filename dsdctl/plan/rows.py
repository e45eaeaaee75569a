"""Rows: one recipe in one variant, with all that it refers to."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dsdctl.keys import TeacherIdentity
from dsdctl.own.source import SourcePlace
from dsdctl.plan.images import Images
from dsdctl.plan.own import Own
from dsdctl.spec.experiment import Experiment, LevelRule, Recipe, StopRule
from dsdctl.spec.fields import Seed
from dsdctl.spec.matrix import variant_name
from dsdctl.spec.network import CodeNetwork, Network
from dsdctl.spec.networks.base import Task
from dsdctl.spec.pruning import Pruning
from dsdctl.spec.shapes import ignored_layers
from dsdctl.spec.training import Training
from dsdctl.spec.views import Augment


@dataclass(frozen=True)
class TrainingSetup:
    """A network and how it is trained and pruned; with a seed (and a teacher) a trajectory."""

    network: Network
    images: Images
    augment: Augment
    training: Training
    pruning: Pruning
    own: Own | None = None
    """For a user's own network, what inspection found; others have closed forms."""

    @property
    def layer_weights(self) -> dict[str, int]:
        """Weights of each Conv2d and Linear layer, in the order of the network.

        Raises InputError if a user's own network was never inspected.
        """
        if self.own is not None:
            return self.own.known.layers
        assert not isinstance(self.network, CodeNetwork)
        facts = self.images.facts
        task = Task(facts.channels, facts.height, facts.width, facts.classes)
        return self.network.layer_weights(task)

    @property
    def has_batchnorm(self) -> bool:
        """Whether the network cannot be trained on a single image; raises as `layer_weights`."""
        if self.own is not None:
            return self.own.known.has_batchnorm
        assert not isinstance(self.network, CodeNetwork)
        return self.network.BATCHNORM

    @property
    def source(self) -> SourcePlace | None:
        """Where to read the code of a user's own network; None for others."""
        return None if self.own is None else self.own.source.place

    @property
    def draws(self) -> bool:
        """Whether the network may draw random numbers while it trains, as a user's own may."""
        return self.own is not None and (self.own.inspection is None or self.own.inspection.draws)

    @property
    def levels(self) -> int:
        """Training runs of a whole trajectory: the dense one and one per prune round."""
        return self.pruning.rounds + 1

    @property
    def ignored_layers(self) -> tuple[str, ...]:
        """Module names of the layers that pruning ignores; empty if nothing is pruned."""
        if self.pruning.criterion == "none" or not self.pruning.ignore:
            return ()
        return ignored_layers(self.layer_weights, self.pruning.ignore)

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch; the last one may be smaller."""
        return math.ceil(self.images.sizes.train / self.training.batch_size)

    @property
    def rewind_iterations(self) -> int:
        """The batches of level 0 after which the rewind checkpoint is taken; 0: initialization."""
        retrain = self.pruning.retraining
        return (retrain.epoch or 0) * self.steps_per_epoch + (retrain.iteration or 0)

    @property
    def rewind_share(self) -> float:
        """The fraction of level 0's training, in images, up to the rewind checkpoint."""
        whole, rest = divmod(self.rewind_iterations, self.steps_per_epoch)
        images = self.images.sizes.train
        return (whole + rest * self.training.batch_size / images) / self.training.epochs


@dataclass(frozen=True)
class WeightsFile:
    """A teacher's weights file and what identifies it."""

    path: Path
    identity: TeacherIdentity


@dataclass(frozen=True)
class TeacherSource:
    """Where a row's teacher comes from: a level, chosen by `rule`, of the trajectory of a training
    set-up and a seed; or a weights file."""

    setup: TrainingSetup
    seed: Seed | Literal["paired"]
    rule: LevelRule
    file: WeightsFile | None
    table: bool
    table_reason: str


@dataclass(frozen=True)
class Row:
    """One recipe in one variant: one row of the comparison.

    `axes` holds the variant's values by the dotted paths that the matrix varies.
    """

    axes: Mapping[str, str]
    recipe: Recipe
    stop: StopRule | None
    student: TrainingSetup
    teacher_source: TeacherSource | None

    @property
    def variant(self) -> str:
        return variant_name(self.axes)


@dataclass(frozen=True)
class ResolvedSpec:
    """A spec with all that it refers to resolved."""

    file: Path
    experiment: Experiment
    rows: tuple[Row, ...]
    unprepared: str | None = None
    """The problem of data that are not prepared yet, without which there are no rows."""

    @property
    def warnings(self) -> list[str]:
        """The spec's own warning, and those about its data."""
        of_data = [row.student.images.facts.warning for row in self.rows]
        return list(filter(None, dict.fromkeys([self.experiment.warning, *of_data])))

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.variant for row in self.rows))
