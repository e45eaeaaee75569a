"""The work of a plan that is still to be done, and the disk space that it may take."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from dsdctl.cost.ledger import CountMacs, level_bytes, table_forwards, table_pflops
from dsdctl.keys import key_of
from dsdctl.plan.next_work import levels_to_restore, rewind_checkpoint, wants_level
from dsdctl.plan.progress import Progress
from dsdctl.plan.teacher_table import table_bytes
from dsdctl.plan.trajectory import Trajectory
from dsdctl.spec.fields import Model


class PlanTable(Model):
    """A teacher table. Until the teacher's level is known, `key` is a name."""

    key: str
    forwards: int
    pflops: float
    bytes: int
    done: bool
    used_by: tuple[str, ...]


@dataclass(frozen=True)
class MissingWork:
    """The work of the `chosen` trajectories that may still be run, by their keys.

    `levels` counts the levels not yet run, `restored` those to train again for dropped weights.
    """

    progress: Progress
    chosen: list[Trajectory]
    levels: dict[str, int]
    restored: dict[str, int]
    rewind_checkpoints: dict[str, list[Trajectory]]

    @property
    def to_run(self) -> dict[str, int]:
        """How many levels may be run, including those to train again for dropped weights."""
        return {key: count + self.restored[key] for key, count in self.levels.items()}

    def disk_bytes(self) -> int:
        """Bytes that missing levels and teacher tables may write."""
        total = sum(level_bytes(_weights(states[0])) for states in self.rewind_checkpoints.values())
        keys, tables, to_run = table_keys(self.progress, self.chosen), set[str](), self.to_run
        for trajectory in self.chosen:
            count, table = to_run[trajectory.key], keys.get(trajectory.key)
            if not count:
                continue
            total += count * level_bytes(_weights(trajectory))
            if table is not None and table not in tables:
                tables.add(table)
                there = self.progress.store.tables.has(table)
                total += 0 if there else table_bytes(trajectory.setup)
        return total


def missing_work(progress: Progress, only: Collection[str] = ()) -> MissingWork:
    """The work that may still be run, of the trajectories with the keys `only`, or of all."""
    return MissingWork(
        progress,
        progress.plan.chosen(only),
        missing_levels(progress, only),
        levels_run_again(progress, only),
        missing_rewind_checkpoints(progress, only),
    )


def levels_to_run(progress: Progress, only: Collection[str] = ()) -> dict[str, int]:
    """By trajectory, how many levels may be run, including those to train again for dropped
    weights; of the trajectories with the keys `only`, or of all."""
    return missing_work(progress, only).to_run


def levels_run_again(progress: Progress, only: Collection[str] = ()) -> dict[str, int]:
    """By trajectory, how many levels are trained again for dropped weights.

    A level that trajectories share counts for the first of them.
    """
    counts: dict[str, int] = {}
    counted: set[str] = set()
    for trajectory in progress.plan.chosen(only):
        levels = progress.known[trajectory.key].levels
        new = {levels[k].key for k in levels_to_restore(progress, trajectory)} - counted
        counted |= new
        counts[trajectory.key] = len(new)
    return counts


def missing_levels(progress: Progress, only: Collection[str] = ()) -> dict[str, int]:
    """By trajectory, how many levels may still be run, if no recipe stops early.

    A level that trajectories share counts for the first of them.
    """
    missing: dict[str, int] = {}
    counted: set[tuple[object, ...]] = set()
    for trajectory in progress.plan.chosen(only):
        before = len(counted)
        if wants_level(progress, trajectory):
            counted.update(trajectory.level_names(progress.known[trajectory.key].next_level))
        missing[trajectory.key] = len(counted) - before
    return missing


def disk_bytes(progress: Progress, only: Collection[str] = ()) -> int:
    """Bytes that missing levels and teacher tables may write, of the trajectories with the keys
    `only`, or of all."""
    return missing_work(progress, only).disk_bytes()


def missing_rewind_checkpoints(
    progress: Progress, only: Collection[str] = ()
) -> dict[str, list[Trajectory]]:
    """By key, the rewind checkpoints still to be computed, and the trajectories that need them.

    Until the teacher's level is known, a name stands for the key.
    """
    found: dict[str, list[Trajectory]] = {}
    for trajectory in progress.plan.chosen(only):
        rewinds = trajectory.setup.rewind_iterations > 0 and trajectory.levels > 1
        if not rewinds or not wants_level(progress, trajectory):
            continue
        identity = rewind_checkpoint(progress, trajectory)
        key = trajectory.rewind_name if identity is None else key_of(identity)
        if progress.store.levels.get(key) is None:
            found.setdefault(key, []).append(trajectory)
    return found


def plan_tables(progress: Progress, count_macs: CountMacs) -> dict[str, PlanTable]:
    """The teacher table of each trajectory that reads one, by the trajectory's key."""
    plan = progress.plan
    keys = table_keys(progress, plan.trajectories.values())
    readers: dict[str, list[Trajectory]] = {}
    for trajectory, table in keys.items():
        readers.setdefault(table, []).append(plan.trajectories[trajectory])
    tables = {
        key: _plan_table(progress, key, trajectories, count_macs)
        for key, trajectories in readers.items()
    }
    return {trajectory: tables[table] for trajectory, table in keys.items()}


def _plan_table(
    progress: Progress, key: str, readers: Sequence[Trajectory], count_macs: CountMacs
) -> PlanTable:
    setup, need = readers[0].setup, readers[0].teacher
    assert need is not None
    names = [name for trajectory in readers for name in progress.plan.used_by(trajectory)]
    return PlanTable(
        key=key,
        forwards=table_forwards(setup),
        pflops=table_pflops(setup, count_macs(need.setup)),
        bytes=table_bytes(setup),
        done=progress.store.tables.has(key),
        used_by=tuple(dict.fromkeys(names)),
    )


def table_keys(progress: Progress, trajectories: Iterable[Trajectory]) -> dict[str, str]:
    """The key of the teacher table of each trajectory that reads one, by the trajectory's key.

    Until the teacher's level is known, that is a name made of the teacher and rule, the same for
    all that will read the same table.
    """
    keys: dict[object, str] = {}
    found: dict[str, str] = {}
    for trajectory in trajectories:
        name = trajectory.table_name
        if name is not None:
            if name not in keys:
                keys[name] = _table_key(progress, trajectory)
            found[trajectory.key] = keys[name]
    return found


def _table_key(progress: Progress, trajectory: Trajectory) -> str:
    identity = progress.table_identity(trajectory)
    if identity is not None:
        return key_of(identity)
    need, views = trajectory.teacher, trajectory.setup.augment
    assert need is not None
    precision = trajectory.setup.training.precision
    details = f"levels={need.levels},flip={views.flip},crop={views.crop},precision={precision}"
    return f"{need.trajectory}@{need.rule}/{details}"


def _weights(trajectory: Trajectory) -> int:
    return sum(trajectory.setup.layer_weights.values())
