"""A plan's missing work as pieces that wait for each other, priced in seconds or any other unit."""

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
    """How long a run of the missing work takes here; None where this store knows no rate.

    That is its list schedule on `slots` processes, at most, and what it takes them to start.
    """
    price = _learnt_price(progress, count_macs, device)
    if price is None:
        return None
    pieces = pieces_of(progress, count_macs, price)
    if not pieces:
        return 0.0
    return throughput.start_seconds(progress.store, device) + list_schedule(pieces, slots)


def _learnt_price(progress: Progress, count_macs: CountMacs, device: str) -> CostFunction | None:
    """What this store knows of the speed of `device`."""
    interrupted = _rates_of_interrupted(progress, count_macs, device)
    return throughput.seconds(progress.store, device, interrupted)


def _rates_of_interrupted(
    progress: Progress, count_macs: CountMacs, device: str
) -> dict[str, float]:
    """MACs a second by workload, of the plan's levels that were interrupted within."""
    rates: dict[str, float] = {}
    for trajectory, epochs, seconds in _interrupted(progress, device):
        images = epochs * trajectory.setup.images.sizes.train
        macs = images * macs_per_trained_image(trajectory, count_macs)
        rates[workload(trajectory)] = macs / max(seconds, 1e-9)
    return rates


def _interrupted(progress: Progress, device: str) -> Iterator[tuple[Trajectory, int, float]]:
    """Yield the plan's levels in flight on `device`, with a checkpoint's epochs and seconds."""
    for trajectory in unfinished(progress):
        identity = progress.next_level_identity(trajectory)
        found = progress.store.checkpoints.interrupted(key_of(identity)) if identity else None
        if found is not None:
            epochs, environment = found
            if epochs and environment.device.split()[0] == device:
                yield trajectory, epochs, environment.wall_seconds


def by_rehearsal(progress: Progress, device: str) -> bool:
    """Whether a rehearsal is all that is known of the speed of some of the missing work."""
    missing = {workload(trajectory) for trajectory in unfinished(progress)}
    run = {workload(trajectory) for trajectory, _, _ in _interrupted(progress, device)}
    return throughput.rehearsed_alone(progress.store, device, missing - run)


def plan_for_cluster(
    progress: Progress,
    count_macs: CountMacs,
    device: str,
    gpus: int | None,
    images_per_second: float | None,
) -> ClusterPlan | None:
    """What the missing work takes on `gpus`; None where none are asked for. Raises InputError."""
    if gpus is None:
        if images_per_second is not None:
            raise InputError("--images-per-second: says nothing without --gpus")
        return None
    if not progress.plan.rows:
        return cluster_plan([], gpus, "levels", "")
    learnt = _learnt_price(progress, count_macs, device)
    if images_per_second is not None:
        price, basis = at_images_per_second(progress.plan, count_macs, images_per_second)
    elif learnt is not None:
        source = "rehearsal" if by_rehearsal(progress, device) else "levels"
        price, basis = learnt, f"measured: as fast as this store's {source} on {device}"
    else:
        price, basis = in_levels(progress.plan, count_macs)
        return cluster_plan(pieces_of(progress, count_macs, price), gpus, "levels", basis)
    return cluster_plan(pieces_of(progress, count_macs, price), gpus, "seconds", basis)


def pieces_of(progress: Progress, count_macs: CountMacs, price: CostFunction) -> list[Piece]:
    """What may still be run: each distinct level, teacher table and rewind checkpoint, once.

    The levels of a trajectory are a chain, up to the last, since a stop is not known before. A
    student waits for the levels of its teacher that its rule needs, and then for its table.
    """
    builder = _Builder(progress, count_macs, price)
    for trajectory in progress.plan.trajectories.values():
        builder.add(trajectory)
    return builder.pieces


class _Builder:
    def __init__(self, progress: Progress, count_macs: CountMacs, price: CostFunction):
        self.pieces: list[Piece] = []
        self._progress = progress
        self._count_macs = count_macs
        self._price = price
        self._numbers: dict[object, int] = {}
        self._ends: dict[tuple[str, int], int] = {}
        """By trajectory and level, the piece that ends with this level."""
        self._tables: Mapping[str, PlanTable] = plan_tables(progress, count_macs)
        self._early = {
            trajectory.key: state
            for state, rewinding in missing_rewind_checkpoints(progress).items()
            for trajectory in rewinding
        }

    def add(self, trajectory: Trajectory) -> None:
        """Add the missing levels of a trajectory in a chain, and what they read."""
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
            if level and trajectory.key in self._early:
                before = self._early_state(trajectory, before)
            before = (self._piece(names[level], f"{trajectory.label} level", cost, before),)
            self._ends[trajectory.key, level] = before[0]

    def _teacher(self, student: Trajectory) -> tuple[int, ...]:
        """What must be there before the first level of a student."""
        need = student.teacher
        if need is None:
            return ()
        before: tuple[int, ...] = ()
        if need.trajectory is not None:
            read = {need.levels - 1, self._progress.teacher_level(need)}
            ends = [self._ends.get((need.trajectory, level)) for level in read if level is not None]
            before = tuple(sorted({end for end in ends if end is not None}))
        table = self._tables.get(student.key)
        if table is None or table.done:
            return before
        cost = self._price(workload(student, of_teacher=True), table.pflops)
        return (self._piece(table.key, "cached teacher logits", cost, before),)

    def _early_state(self, trajectory: Trajectory, before: tuple[int, ...]) -> tuple[int, ...]:
        pflops = rewind_checkpoint_pflops(trajectory, self._count_macs)
        cost = self._price(workload(trajectory), pflops)
        state = self._early[trajectory.key]
        return (self._piece(("early", state), "rewind checkpoint", cost, before),)

    def _piece(self, name: object, shown: str, cost: float, after: tuple[int, ...]) -> int:
        """The number of a piece, which trajectories may share and which is then run once."""
        if name not in self._numbers:
            self._numbers[name] = len(self.pieces)
            self.pieces.append(Piece(shown, cost, after))
        return self._numbers[name]
