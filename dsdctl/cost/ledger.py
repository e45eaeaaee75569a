"""The ledger: what a plan costs, in three conventions that must not be mixed.

paper     3 x forward MACs of an image (fvcore, train mode) x training images x epochs, dense at
          every level. One "FLOP" is one multiply-accumulate.
non-zero  the same, with each layer's MACs scaled by its density.
executed  what is run: training, teacher forwards or teacher tables, measuring; shared work once.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from dsdctl.plan.images import Images
from dsdctl.plan.plan import Plan, RowPlan
from dsdctl.plan.rows import TrainingSetup
from dsdctl.plan.teacher_table import view_count
from dsdctl.plan.trajectory import Trajectory
from dsdctl.results import Measured
from dsdctl.spec.network import BuiltIn, CodeNetwork

FORWARD_AND_BACKWARD = 3
"""The cost of a training step in forward passes; the backward pass counts as two."""

PETA = 1e15


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one image's forward pass through the dense network in train mode.

    `per_layer` has those of the prunable layers, by the state_dict name of their weight.
    """

    total: int
    per_layer: Mapping[str, int]


CountMacs = Callable[[TrainingSetup], Macs]
"""Counts the MACs of a set-up's network on its images; passed in, since counting needs torch."""


def fvcore_macs(setup: TrainingSetup) -> Macs:
    """Count with fvcore, once for each network and image size. Imports torch.

    A user's own network was counted by its inspection; raises InputError if there was none.
    """
    if setup.own is not None:
        return Macs(setup.own.known.macs, setup.own.known.macs_per_layer)
    facts = setup.images.facts
    assert not isinstance(setup.network, CodeNetwork)
    return _fvcore_macs(setup.network, facts.channels, facts.height, facts.width, facts.classes)


@functools.cache
def _fvcore_macs(network: BuiltIn, channels: int, height: int, width: int, classes: int) -> Macs:
    from dsdctl.ml.macs import count_macs
    from dsdctl.ml.networks.build import build_network, network_class

    make, arguments = network_class(network.MODULE), network.arguments((height, width))
    built = build_network(make, channels, classes, seed=0, **arguments)
    count = count_macs(built, channels, height, width)
    return Macs(count.total, count.per_layer)


def training_pflops(setup: TrainingSetup, macs: Macs) -> float:
    """PFLOPs of one training run in the paper's convention: 1.628 for Table 1's student."""
    images = setup.images.sizes.train * setup.training.epochs
    return FORWARD_AND_BACKWARD * macs.total * images / PETA


def nonzero_training_pflops(
    setup: TrainingSetup, macs: Macs, density_per_layer: Mapping[str, float]
) -> float:
    """PFLOPs of one training run with the MACs of each layer scaled by its density, 0 to 1."""
    pruned = sum(
        count * (1 - density_per_layer.get(name, 1.0)) for name, count in macs.per_layer.items()
    )
    images = setup.images.sizes.train * setup.training.epochs
    return FORWARD_AND_BACKWARD * (macs.total - pruned) * images / PETA


def nonzero_pflops(setup: TrainingSetup, macs: Macs, levels: Iterable[Measured]) -> float:
    """PFLOPs of the training runs of `levels`, each at the densities that it was trained with."""
    return sum(nonzero_training_pflops(setup, macs, level.density_per_layer) for level in levels)


def measuring_pflops(setup: TrainingSetup, macs: Macs) -> float:
    """PFLOPs of measuring a level: one forward pass per training, validation and test image."""
    return macs.total * _measured_images(setup.images) / PETA


def table_pflops(student: TrainingSetup, teacher_macs: Macs) -> float:
    """PFLOPs of a teacher table: one forward pass per view of every training image."""
    return teacher_macs.total * table_forwards(student) / PETA


def table_forwards(student: TrainingSetup) -> int:
    """Forward passes of the teacher for a table."""
    return student.images.sizes.train * view_count(student.augment)


def teacher_call_pflops(student: TrainingSetup, teacher_macs: Macs) -> float:
    """PFLOPs of the teacher during one training run that calls it for each batch."""
    images = student.images.sizes.train * student.training.epochs
    return teacher_macs.total * images / PETA


@dataclass(frozen=True)
class RowCost:
    """The most that one seed of a row would cost without sharing, in the paper's convention."""

    trainings_max: int
    pflops_max: float
    teacher_trainings_max: int
    teacher_pflops_max: float


def row_cost(plan: Plan, row_plan: RowPlan, count_macs: CountMacs) -> RowCost:
    """The cost of one seed of a row: all levels of the student, and those of the teacher that the
    rule needs."""
    student = plan.trajectories[row_plan.students[0]]
    levels = row_plan.row.student.levels
    teacher_levels, teacher_price = 0, 0.0
    need = student.teacher
    if need is not None and need.trajectory is not None:
        teacher_levels = need.levels
        teacher_price = training_pflops(need.setup, count_macs(need.setup))
    return RowCost(
        levels,
        levels * training_pflops(student.setup, count_macs(student.setup)),
        teacher_levels,
        teacher_levels * teacher_price,
    )


def level_pflops_executed(trajectory: Trajectory, count_macs: CountMacs) -> float:
    """Executed PFLOPs of one level: training, teacher calls, measuring; without a teacher table."""
    macs = count_macs(trajectory.setup)
    total = training_pflops(trajectory.setup, macs) + measuring_pflops(trajectory.setup, macs)
    need = trajectory.teacher
    if need is not None and not need.table:
        total += teacher_call_pflops(trajectory.setup, count_macs(need.setup))
    return total


def macs_per_trained_image(trajectory: Trajectory, count_macs: CountMacs) -> int:
    """Executed MACs of training on one image once, with the teacher's if it is called directly."""
    total = FORWARD_AND_BACKWARD * count_macs(trajectory.setup).total
    need = trajectory.teacher
    if need is not None and not need.table:
        total += count_macs(need.setup).total
    return total


def rewind_checkpoint_pflops(trajectory: Trajectory, count_macs: CountMacs) -> float:
    """Executed PFLOPs of a rewind checkpoint: the first batches of level 0, and measuring."""
    setup = trajectory.setup
    measuring = measuring_pflops(setup, count_macs(setup))
    training = level_pflops_executed(trajectory, count_macs) - measuring
    return setup.rewind_share * training + measuring


def level_bytes(total_weights: int) -> int:
    """Approximate bytes of a level on disk: fp32 weights, one byte per mask entry, small files."""
    return 5 * total_weights + 20_000


def _measured_images(images: Images) -> int:
    return images.sizes.train + images.sizes.validation + images.sizes.test
