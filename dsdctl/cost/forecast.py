"""A plan's missing work as pieces with dependencies, and their cost in seconds or another unit."""

from collections.abc import Iterator, Mapping

from dsdctl.cost import throughput
from dsdctl.cost.cluster import ClusterPlan, at_images_per_second, cluster_plan, in_levels
from dsdctl.cost.ledger import (
    CountMacs,
    level_pflops_executed,
    macs_per_trained_image,
    rewind_checkpoint_pflops,
)
from dsdctl.cost.makespan import Piece, list_schedule
from dsdctl.cost.remaining import PlanTable, missing_rewind_checkpoints, plan_tables
from dsdctl.cost.throughput import CostFunction, workload
from dsdctl.errors import InputError
from dsdctl.keys import key_of
from dsdctl.plan.next_work import levels_to_restore, unfinished, wants_level
from dsdctl.plan.progress import Progress
from dsdctl.plan.trajectory import Trajectory


def seconds_estimate(
    progress: Progress, count_macs: CountMacs, device: str, slots: int
) -> float | None:
    """How many seconds the missing work takes at most on `device`; None if no rate is known.

    That is the makespan of its list schedule on `slots` processes, and the time these take to
    start.
    """
    price = _measured_price(progress, count_macs, device)
    if price is None:
        return None
    pieces = pieces_of(progress, count_macs, price)
    if not pieces:
        return 0.0
    return throughput.start_seconds(progress.store, device) + list_schedule(pieces, slots)


def _measured_price(progress: Progress, count_macs: CountMacs, device: str) -> CostFunction | None:
    """The cost in seconds at the rates that this store knows of `device`; None if it knows none."""
    interrupted = _rates_of_interrupted(progress, count_macs, device)
    return throughput.seconds(progress.store, device, interrupted)


def _rates_of_interrupted(
    progress: Progress, count_macs: CountMacs, device: str
) -> dict[str, float]:
    """MACs per second by workload, from the plan's levels in flight."""
    rates: dict[str, float] = {}
    for trajectory, epochs, seconds in _interrupted(progress, device):
        images = epochs * trajectory.setup.images.sizes.train
        macs = images * macs_per_trained_image(trajectory, count_macs)
        rates[workload(trajectory)] = macs / max(seconds, 1e-9)
    return rates


def _interrupted(progress: Progress, device: str) -> Iterator[tuple[Trajectory, int, float]]:
    """Yield the trajectories with a level in flight on `device`, and the epochs and seconds in its
    checkpoint."""
    for trajectory in unfinished(progress):
        identity = progress.next_level_identity(trajectory)
        found = progress.store.checkpoints.interrupted(key_of(identity)) if identity else None
        if found is not None:
            epochs, environment = found
            if epochs and environment.device.split()[0] == device:
                yield trajectory, epochs, environment.wall_seconds


def by_rehearsal(progress: Progress, device: str) -> bool:
    """Whether the speed of some of the missing work is known only from a rehearsal."""
    missing = {workload(trajectory) for trajectory in unfinished(progress)}
    in_flight = {workload(trajectory) for trajectory, _, _ in _interrupted(progress, device)}
    return throughput.rehearsed_alone(progress.store, device, missing - in_flight)


def plan_for_cluster(
    progress: Progress,
    count_macs: CountMacs,
    device: str,
    gpus: int | None,
    images_per_second: float | None,
) -> ClusterPlan | None:
    """The missing work on `gpus`; None if `gpus` is None.

    At `images_per_second`, else at this store's rates on `device`, else in levels. Raises
    InputError for `images_per_second` without `gpus`.
    """
    if gpus is None:
        if images_per_second is not None:
            raise InputError("--images-per-second: says nothing without --gpus")
        return None
    if not progress.plan.rows:
        return cluster_plan([], gpus, "levels", "")
    measured = _measured_price(progress, count_macs, device)
    if images_per_second is not None:
        price, basis = at_images_per_second(progress.plan, count_macs, images_per_second)
    elif measured is not None:
        source = "rehearsal" if by_rehearsal(progress, device) else "levels"
        price, basis = measured, f"measured: as fast as this store's {source} on {device}"
    else:
        price, basis = in_levels(progress.plan, count_macs)
        return cluster_plan(pieces_of(progress, count_macs, price), gpus, "levels", basis)
    return cluster_plan(pieces_of(progress, count_macs, price), gpus, "seconds", basis)


def pieces_of(progress: Progress, count_macs: CountMacs, price: CostFunction) -> list[Piece]:
    """All work that may still be run: each distinct level, teacher table and rewind checkpoint.

    The levels of a trajectory are a chain up to the last, since it is not known where a recipe
    stops. A student depends on the levels of its teacher that its rule needs, then on the cached
    teacher logits.
    """
    builder = _Builder(progress, count_macs, price)
    for trajectory in progress.plan.trajectories.values():
        builder.add(trajectory)
    return builder.pieces


class _Builder:
    """Collects pieces; a piece that trajectories share is added once."""

    def __init__(self, progress: Progress, count_macs: CountMacs, price: CostFunction):
        self.pieces: list[Piece] = []
        self._progress = progress
        self._count_macs = count_macs
        self._price = price
        self._numbers: dict[object, int] = {}
        self._ends: dict[tuple[str, int], int] = {}
        """The number of the piece that trains a level, by trajectory and level."""
        self._tables: Mapping[str, PlanTable] = plan_tables(progress, count_macs)
        self._rewind_checkpoints = {
            trajectory.key: checkpoint
            for checkpoint, rewinding in missing_rewind_checkpoints(progress).items()
            for trajectory in rewinding
        }

    def add(self, trajectory: Trajectory) -> None:
        """Add the missing levels of a trajectory as a chain, and what they depend on."""
        known, names = self._progress.known[trajectory.key], trajectory.level_names()
        levels = levels_to_restore(self._progress, trajectory)
        if wants_level(self._progress, trajectory):
            levels = [*levels, *range(known.next_level, trajectory.levels)]
        if not levels:
            return
        pflops = level_pflops_executed(trajectory, self._count_macs)
        cost = self._price(workload(trajectory), pflops)
        before = self._teacher(trajectory)
        for level in levels:
            if level and trajectory.key in self._rewind_checkpoints:
                before = self._rewind_checkpoint(trajectory, before)
            before = (self._piece(names[level], f"{trajectory.label} level", cost, before),)
            self._ends[trajectory.key, level] = before[0]

    def _teacher(self, student: Trajectory) -> tuple[int, ...]:
        """The pieces on which the first missing level of a student depends."""
        need = student.teacher
        if need is None:
            return ()
        before: tuple[int, ...] = ()
        if need.trajectory is not None:
            levels = {need.levels - 1, self._progress.teacher_level(need)}
            ends = [self._ends.get((need.trajectory, n)) for n in levels if n is not None]
            before = tuple(sorted({end for end in ends if end is not None}))
        table = self._tables.get(student.key)
        if table is None or table.done:
            return before
        cost = self._price(workload(student, of_teacher=True), table.pflops)
        return (self._piece(table.key, "cached teacher logits", cost, before),)

    def _rewind_checkpoint(
        self, trajectory: Trajectory, before: tuple[int, ...]
    ) -> tuple[int, ...]:
        pflops = rewind_checkpoint_pflops(trajectory, self._count_macs)
        cost = self._price(workload(trajectory), pflops)
        name = ("rewind", self._rewind_checkpoints[trajectory.key])
        return (self._piece(name, "rewind checkpoint", cost, before),)

    def _piece(self, name: object, shown: str, cost: float, after: tuple[int, ...]) -> int:
        """The number of the piece with this name, which is added if it is new."""
        if name not in self._numbers:
            self._numbers[name] = len(self.pieces)
            self.pieces.append(Piece(shown, cost, after))
        return self._numbers[name]
