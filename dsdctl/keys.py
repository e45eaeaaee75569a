"""Identities: everything that changes a result's numbers and nothing else, and their keys.

A key is the sha256 of an identity's canonical JSON. Nothing in it depends on the machine, on
names and titles, on how many levels are run or on when a recipe stops.
"""

import hashlib
import json
from typing import ClassVar, Literal

from dsdctl.spec.catalog import HumanLabels
from dsdctl.spec.dataset import Validation
from dsdctl.spec.distillation import DistillationLoss
from dsdctl.spec.fields import Extended, Model, Precision, Seed
from dsdctl.spec.network import Network
from dsdctl.spec.pruning import Criterion, RetrainMode
from dsdctl.spec.training import Training
from dsdctl.spec.views import Augment, Normalize, Size

SCHEMA_VERSION = 2
"""Raised when the fields of an identity change."""

NUMERICS_VERSION = 6
"""Raised when the same identity would give other numbers, be it in the last bit on one device."""


class NoiseIdentity(Model):
    """Which training labels are flipped, and to what. `rate` and `seed` are 0 for human labels."""

    kind: Literal["symmetric", "symmetric-all", "asymmetric", "pair-flip", "human"]
    rate: float
    seed: Seed
    labels: HumanLabels | None = None


NO_NOISE = NoiseIdentity(kind="symmetric", rate=0.0, seed=0)


class ImagesIdentity(Model):
    """Which images are trained on, and how they look to a network. Without labels."""

    dataset: str
    content: str | None
    test_folder: str | None = None
    test_fraction: float | None
    validation: Validation
    split_seed: Seed
    size: Size | None = None
    normalize: Normalize
    augment: Augment


class RetrainIdentity(Model):
    """What a pruned network is retrained from, and how its learning rate is scaled.

    `iterations` counts the batches of level 0's training after which its state is rewound to; 0
    is the initialization.
    """

    mode: RetrainMode
    lr_scale: float = 1.0
    iterations: int = 0


class PruningIdentity(Extended):
    """How a level follows from its parent. How many levels there are is no part of it.

    A round removes a `fraction` of the weights left, or goes up to the `sparsity` of one level, in
    all layers but those that it is to `ignore`, by their modules' names, in so many `iterations`.
    """

    OMITTED: ClassVar = frozenset({"ignore", "iterations"})

    criterion: Criterion
    scope: Literal["global", "layer"] | None
    fraction: float | None
    sparsity: float | None
    sample: int | None
    iterations: int = 1
    ignore: tuple[str, ...] = ()
    retrain: RetrainIdentity


class TeacherIdentity(Model):
    """The network that teaches: a level's key, or a weights file by content and architecture."""

    level: str | None = None
    weights: str | None = None
    network: Network | None = None


class DistillationIdentity(DistillationLoss):
    """Who teaches, and what is learnt.

    `table` is the key of the teacher's table, or None where the teacher is called directly.
    """

    teacher: TeacherIdentity
    table: str | None


class Identity(Model):
    """What has a key. `KIND` is hashed with it, and so stays whatever the class is called."""

    KIND: ClassVar[str]

    schema_version: int = SCHEMA_VERSION
    numerics_version: int = NUMERICS_VERSION


class LevelIdentity(Identity):
    """One level. Level 0 does not hash pruning: all retraining modes share one dense network.

    With `iterations` it is the state after so many batches of level 0's training, to be rewound
    to: a piece of work of its own, so that level 0 is the same whether or not it is wanted.
    """

    KIND: ClassVar = "LevelIdentity"

    images: ImagesIdentity
    noise: NoiseIdentity
    network: Network
    training: Training
    seed: Seed
    level: int
    pruning: PruningIdentity | None
    parent: str | None
    distillation: DistillationIdentity | None
    iterations: int | None = None


def rewind_checkpoint(level: LevelIdentity) -> LevelIdentity | None:
    """What the level rewinds to, as a piece of work; None where that is no earlier training."""
    if level.pruning is None or not level.pruning.retrain.iterations:
        return None
    return level.model_copy(
        update={
            "level": 0,
            "pruning": None,
            "parent": None,
            "iterations": level.pruning.retrain.iterations,
        }
    )


class TableIdentity(Identity):
    """A teacher's logits for every view of every training image."""

    KIND: ClassVar = "TableIdentity"

    images: ImagesIdentity
    teacher: TeacherIdentity
    precision: Precision


class BestOf(Model):
    """The best level of so many: which one that is depends on where the teacher ends."""

    best_of: int


class SparsestOf(Model):
    """The sparsest of so many levels that are within a fraction of the best of them."""

    sparsest_of: int
    within: float


class TrajectoryTeacher(DistillationLoss):
    """A teacher by rule, as known before anything has run."""

    trajectory: str | None
    rule: Literal["dense"] | BestOf | SparsestOf | int
    weights: TeacherIdentity | None
    table: bool


class TrajectoryIdentity(Identity):
    """A network, a seed and how it is pruned and retrained.

    How many levels there are is not part of it, but a list of their sparsities is, and how many of
    its teacher's the best is chosen from.
    """

    KIND: ClassVar = "TrajectoryIdentity"

    images: ImagesIdentity
    noise: NoiseIdentity
    network: Network
    training: Training
    seed: Seed
    pruning: PruningIdentity
    sparsities: tuple[float, ...] | None
    distillation: TrajectoryTeacher | None


def canonical_json(identity: Model) -> str:
    """The one way to write an identity: sorted keys, no spaces, no NaN."""
    return json.dumps(
        identity.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False
    )


def key_of(identity: Identity) -> str:
    """sha256 of the canonical JSON, in hex. The kind of identity is part of what is hashed."""
    return key_of_json(type(identity), canonical_json(identity).encode())


def key_of_json(kind: type[Identity], canonical: bytes) -> str:
    """The key of an identity that was written by any version, whose fields may be others now."""
    return hashlib.sha256(kind.KIND.encode() + b":" + canonical).hexdigest()
