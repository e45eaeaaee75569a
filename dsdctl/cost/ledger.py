"""The ledger: what a plan costs, in three conventions that are never mixed up.

paper     3 x forward MACs of an image (fvcore, train mode) x training images x epochs, dense at
          every level. One "FLOP" is one multiply-accumulate.
non-zero  the same with each layer's MACs scaled by the share of its weights that are left.
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
"""A training step in forward passes: one forward, two for the backward."""

PETA = 1e15


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one image's forward pass, dense, in train mode.

    `per_layer` holds those of the prunable layers, by the state_dict name of their weight.
    """

    total: int
    per_layer: Mapping[str, int]


CountMacs = Callable[[TrainingSetup], Macs]
"""Counts the MACs of a set-up's network on its images; passed in, since it needs torch."""


def fvcore_macs(setup: TrainingSetup) -> Macs:
    """Count with fvcore, once for each network and image size. Imports torch.

    A user's own network was counted when it was looked at; raises InputError where it never was.
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
    """One training run in the paper's convention: 1.628 for Table 1's student."""
    images = setup.images.sizes.train * setup.training.epochs
    return FORWARD_AND_BACKWARD * macs.total * images / PETA


def nonzero_training_pflops(
    setup: TrainingSetup, macs: Macs, density_per_layer: Mapping[str, float]
) -> float:
    """One training run with the MACs of each layer scaled by its density."""
    pruned = sum(
        count * (1 - density_per_layer.get(name, 1.0)) for name, count in macs.per_layer.items()
    )
    images = setup.images.sizes.train * setup.training.epochs
    return FORWARD_AND_BACKWARD * (macs.total - pruned) * images / PETA


def nonzero_pflops(setup: TrainingSetup, macs: Macs, levels: Iterable[Measured]) -> float:
    """The training runs of `levels`, each with the densities that it was run at."""
    return sum(nonzero_training_pflops(setup, macs, level.density_per_layer) for level in levels)


def measuring_pflops(setup: TrainingSetup, macs: Macs) -> float:
    """One measurement: each training, validation and test image once forward."""
    return macs.total * _measured_images(setup.images) / PETA


def table_pflops(student: TrainingSetup, teacher_macs: Macs) -> float:
    """A teacher table: every view of every training image once forward."""
    return teacher_macs.total * table_forwards(student) / PETA


def table_forwards(student: TrainingSetup) -> int:
    """Forward passes that a teacher table takes."""
    return student.images.sizes.train * view_count(student.augment)


def teacher_call_pflops(student: TrainingSetup, teacher_macs: Macs) -> float:
    """The teacher's forward passes during one training run that calls it directly."""
    images = student.images.sizes.train * student.training.epochs
    return teacher_macs.total * images / PETA


@dataclass(frozen=True)
class RowCost:
    """What one seed of a row would cost alone at most, in the paper's convention."""

    trainings_max: int
    pflops_max: float
    teacher_trainings_max: int
    teacher_pflops_max: float


def row_cost(plan: Plan, row_plan: RowPlan, count_macs: CountMacs) -> RowCost:
    """Price one seed of a row: the student to the last level, and the teacher as far as needed."""
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
    """One level as it is run: training, direct teacher calls, measuring; without the table."""
    macs = count_macs(trajectory.setup)
    total = training_pflops(trajectory.setup, macs) + measuring_pflops(trajectory.setup, macs)
    need = trajectory.teacher
    if need is not None and not need.table:
        total += teacher_call_pflops(trajectory.setup, count_macs(need.setup))
    return total


def macs_per_trained_image(trajectory: Trajectory, count_macs: CountMacs) -> int:
    """What training on an image once takes as it is run, a direct teacher call included."""
    total = FORWARD_AND_BACKWARD * count_macs(trajectory.setup).total
    need = trajectory.teacher
    if need is not None and not need.table:
        total += count_macs(need.setup).total
    return total


def rewind_checkpoint_pflops(trajectory: Trajectory, count_macs: CountMacs) -> float:
    """The first batches of level 0 run once more, and measured, for levels that rewind to them."""
    setup = trajectory.setup
    measuring = measuring_pflops(setup, count_macs(setup))
    training = level_pflops_executed(trajectory, count_macs) - measuring
    return setup.rewind_share * training + measuring


def level_bytes(total_weights: int) -> int:
    """Disk that a level takes: fp32 weights and one byte a mask entry; the rest is small."""
    return 5 * total_weights + 20_000


def _measured_images(images: Images) -> int:
    return images.sizes.train + images.sizes.validation + images.sizes.test
