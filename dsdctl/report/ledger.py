"""What a plan has cost by now, in the ledger's three conventions, and where it was computed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from dsdctl.cost.ledger import (
    CountMacs,
    level_pflops_executed,
    rewind_checkpoint_pflops,
    table_pflops,
)
from dsdctl.keys import key_of
from dsdctl.plan.progress import Progress
from dsdctl.plan.trajectory import Trajectory
from dsdctl.report.table import Report
from dsdctl.results import Environment, environment_line


@dataclass(frozen=True)
class Ledger:
    """PFLOPs so far; one FLOP is one multiply-accumulate.

    `attributed` is in the paper's convention: finished rows and seeds as if each were alone, with
    their teachers' trainings. `nonzero` is the same without the teachers, each layer's MACs scaled
    by its density. `executed` counts each distinct piece of work once, as it was run.
    """

    attributed: float
    nonzero: float
    executed: float


@dataclass(frozen=True)
class Place:
    """Where levels were computed: how many, and for how long."""

    environment: str
    python: str
    dsdctl: str
    levels: int
    wall_seconds: float


def make_ledger(progress: Progress, reports: Sequence[Report], count_macs: CountMacs) -> Ledger:
    """Add up what is finished."""
    rows = [row for report in reports for row in report.rows]
    return Ledger(
        attributed=sum(
            value + (row.teacher_pflops or 0.0)
            for row in rows
            for value in row.pflops.values
            if value is not None
        ),
        nonzero=sum(value or 0.0 for row in rows for value in row.pflops_nonzero.values),
        executed=sum(piece.pflops for piece in executed(progress, count_macs)),
    )


Work = Literal["level", "teacher table", "rewind checkpoint"]


@dataclass(frozen=True)
class Piece:
    """A finished piece of work as it was run, and the first trajectory of those that read it."""

    key: str
    work: Work
    trajectory: Trajectory
    pflops: float


def executed(progress: Progress, count_macs: CountMacs) -> list[Piece]:
    """Each distinct piece of work that is finished, once.

    A level that diverged counts as if it had been trained to its end.
    """
    pieces: dict[str, Piece] = {}
    for key, trajectory in progress.plan.trajectories.items():
        found = [*_read_before_levels(progress, trajectory, count_macs)]
        price = level_pflops_executed(trajectory, count_macs)
        found += [
            Piece(level.key, "level", trajectory, price) for level in progress.known[key].levels
        ]
        for piece in found:
            pieces.setdefault(piece.key, piece)
    return list(pieces.values())


def _read_before_levels(
    progress: Progress, trajectory: Trajectory, count_macs: CountMacs
) -> Iterator[Piece]:
    """Its teacher's table and the state that its levels rewind to, as far as they are there."""
    need, levels = trajectory.teacher, progress.known[trajectory.key].next_level
    table = progress.table_identity(trajectory)
    if table is not None and need is not None and progress.store.tables.has(key_of(table)):
        price = table_pflops(trajectory.setup, count_macs(need.setup))
        yield Piece(key_of(table), "teacher table", trajectory, price)
    if levels > 1 and trajectory.setup.rewind_iterations:
        teacher = progress.teacher_identity(need) if need else None
        early = trajectory.rewind_checkpoint(trajectory.distillation(teacher) if teacher else None)
        assert early is not None
        price = rewind_checkpoint_pflops(trajectory, count_macs)
        yield Piece(key_of(early), "rewind checkpoint", trajectory, price)


def places(progress: Progress) -> list[Place]:
    """Every environment that computed a level, a level that trajectories share once."""
    found: dict[tuple[str, str, str], dict[str, Environment]] = {}
    for known in progress.known.values():
        for level in known.levels:
            there = level.environment
            name = environment_line(there), there.python, there.dsdctl
            found.setdefault(name, {})[level.key] = there
    return [
        Place(*name, len(levels), sum(there.wall_seconds for there in levels.values()))
        for name, levels in found.items()
    ]
