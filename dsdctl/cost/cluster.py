"""A plan's cost on several GPUs, as plain data: makespan, GPU-hours, and how many GPUs help."""

import itertools
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from dsdctl.cost.ledger import FORWARD_AND_BACKWARD, PETA, CountMacs, level_pflops_executed
from dsdctl.cost.makespan import ListSchedules, Piece, critical_path, total_cost
from dsdctl.cost.throughput import CostFunction
from dsdctl.plan.plan import Plan
from dsdctl.spec.fields import Model
from dsdctl.spec.network import network_name

Unit = Literal["seconds", "levels"]


class Stretch(Model):
    """Consecutive pieces of the critical path with the same name."""

    piece: str
    count: int
    cost: float


class OnGpus(Model):
    """The missing work on a number of GPUs, one process each. `busy` is their utilization, a
    fraction; `makespan` is in the plan's unit."""

    gpus: int
    makespan: float
    speedup: float
    busy: float
    gpu_hours: float | None = Field(
        description="allocated, idle ones included; None without seconds"
    )


class ClusterPlan(Model):
    """A list schedule of the missing work, longest chain first, if no recipe stops early.

    Costs are in `unit`: seconds, or levels of the first row's first student by executed PFLOPs.
    """

    unit: Unit
    basis: str = Field(description="where the unit's cost comes from, in words")
    gpus: int
    pieces: int
    work: float = Field(description="of all pieces, one after the other")
    critical_path: tuple[Stretch, ...]
    gpus_that_help: int = Field(
        description="with so many the makespan is within 1 % of the critical path"
    )
    by_gpus: tuple[OnGpus, ...] = Field(description="the number asked for, and powers of two")


def cluster_plan(pieces: Sequence[Piece], gpus: int, unit: Unit, basis: str) -> ClusterPlan:
    """Schedule `pieces`, whose costs are in `unit`, on `gpus` and on each fewer power of two."""
    schedules = ListSchedules(pieces)
    enough = schedules.machines_that_help()
    work = total_cost(pieces)
    most = max(gpus, enough)
    counts = {gpus, enough, *itertools.takewhile(lambda n: n <= most, (2**k for k in range(64)))}
    return ClusterPlan(
        unit=unit,
        basis=basis,
        gpus=gpus,
        pieces=len(pieces),
        work=work,
        critical_path=tuple(
            _stretch(name, list(group))
            for name, group in itertools.groupby(critical_path(pieces), lambda piece: piece.name)
        ),
        gpus_that_help=enough,
        by_gpus=tuple(_on_gpus(schedules, count, work, unit) for count in sorted(counts)),
    )


def _stretch(name: str, pieces: Sequence[Piece]) -> Stretch:
    return Stretch(piece=name, count=len(pieces), cost=total_cost(pieces))


def _on_gpus(schedules: ListSchedules, gpus: int, work: float, unit: Unit) -> OnGpus:
    makespan = schedules.makespan(gpus)
    return OnGpus(
        gpus=gpus,
        makespan=makespan,
        speedup=work / makespan if makespan else 1.0,
        busy=work / (gpus * makespan) if makespan else 0.0,
        gpu_hours=gpus * makespan / 3600 if unit == "seconds" else None,
    )


def at_images_per_second(
    plan: Plan, count_macs: CountMacs, images: float
) -> tuple[CostFunction, str]:
    """The cost in seconds if a GPU trains the first row's student, without a teacher, on `images`
    per second, and all other work takes time in proportion to its executed PFLOPs.

    Returns the cost function, and where it comes from in words.
    """
    setup = plan.trajectories[plan.rows[0].students[0]].setup
    pflops_per_second = images * FORWARD_AND_BACKWARD * count_macs(setup).total / PETA
    arch = network_name(setup.network)
    words = f"assumed: a GPU trains the {arch} student of the first row at {images:g} images/s"
    return (lambda _workload, pflops: pflops / pflops_per_second), words


def in_levels(plan: Plan, count_macs: CountMacs) -> tuple[CostFunction, str]:
    """The cost in levels of the first row's first student, by executed PFLOPs.

    Returns the cost function, and where it comes from in words.
    """
    student = plan.trajectories[plan.rows[0].students[0]]
    level = level_pflops_executed(student, count_macs)
    words = (
        f"1 level is one of {student.label}, {level:.3g} PFLOPs as executed; nothing was run on "
        "such a device with this store: give --images-per-second for hours"
    )
    return (lambda _workload, pflops: pflops / level), words
