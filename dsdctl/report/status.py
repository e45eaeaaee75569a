"""How far each trajectory has come, in a line each."""

import time
from collections.abc import Collection, Iterator, Mapping

from dsdctl.keys import TableIdentity, key_of
from dsdctl.plan.next_work import levels_to_restore, lost_its_teacher, next_piece, wants_level
from dsdctl.plan.progress import Progress
from dsdctl.plan.trajectory import Trajectory
from dsdctl.report.shortening import in_columns
from dsdctl.store.at_work import Stage


def status_lines(
    progress: Progress,
    jobs: Mapping[str, str],
    only: Collection[str] = (),
    *,
    width: int | None = None,
    stages: bool = True,
) -> Iterator[str]:
    """Yield a line a trajectory: its key, which recipes use it, its levels, and how it stands;
    `only` those of these keys, if any. With a `width` names give way where a line is longer; with
    `stages` what runs says in which epoch it is."""
    for trajectory in progress.plan.chosen(only):
        known = progress.known[trajectory.key]
        names = ", ".join(progress.plan.used_by(trajectory))
        names += f"; {trajectory.variant}" if trajectory.variant else ""
        job = jobs.get(trajectory.key)
        if job is not None and wants_level(progress, trajectory):
            state = job
        else:
            state = _state(progress, trajectory, stages=stages)
        again = levels_to_restore(progress, trajectory)
        if again:
            state += f", weights of level {', '.join(map(str, again))} to be trained again"
        head = f"{trajectory.key[:8]}  {'+'.join(trajectory.roles)} seed {trajectory.seed}"
        tail = f"{known.next_level}/{trajectory.levels} levels, {state}"
        if width is not None:
            names = in_columns(names, max(MIN_NAMES, width - len(head) - len(tail) - 5))
        yield f"{head} ({names}): {tail}"


MIN_NAMES = 12
"""Columns that names keep."""


def _state(progress: Progress, trajectory: Trajectory, *, stages: bool) -> str:
    """How a trajectory stands, in words."""
    known = progress.known[trajectory.key]
    if known.diverged:
        return f"diverged at level {known.next_level - 1}"
    if lost_its_teacher(progress, trajectory):
        return "its teacher diverged"
    if not wants_level(progress, trajectory):
        last = f"at level {known.next_level - 1} of {trajectory.levels - 1}"
        return "done" if known.next_level == trajectory.levels else f"stopped early, {last}"
    piece = next_piece(progress, trajectory)
    if piece is None:
        return f"waiting for {awaited(trajectory)}"
    key = key_of(piece)
    if progress.store.is_held(key):
        what = (
            "cached teacher logits"
            if isinstance(piece, TableIdentity)
            else _level(trajectory, piece.level)
        )
        return f"running{_by_whom(progress, key, what, stages=stages)}"
    kept = progress.store.checkpoints.interrupted(key)
    return f"ready, from epoch {kept[0]} of level {known.next_level}" if kept else "ready"


def _level(trajectory: Trajectory, level: int) -> str:
    return f"level {level} of {trajectory.levels - 1}"


def _by_whom(progress: Progress, key: str, what: str, *, stages: bool) -> str:
    """Where, since when, and how far a piece runs, as far as its worker says so."""
    worker = progress.store.told(key)
    if worker is None:
        return f": {what}"
    where = f" on {worker.host} since {_clock(worker.since)}: {what}"
    return f"{where}, {stage_words(worker.stage)}" if stages else where


def _clock(seconds: float) -> str:
    """A time of today, or with its date."""
    then, now = time.localtime(seconds), time.localtime()
    today = then[:3] == now[:3]
    return time.strftime("%H:%M" if today else "%Y-%m-%d %H:%M", then)


def awaited(trajectory: Trajectory) -> str:
    """What of its teacher a trajectory waits for."""
    need = trajectory.teacher
    assert need is not None and need.trajectory is not None
    teacher = f"teacher {need.trajectory[:8]}"
    if need.rule == "dense" or isinstance(need.rule, int):
        return f"level {0 if need.rule == 'dense' else need.rule} of {teacher}"
    return f"all {need.setup.levels} levels of {teacher}"


def stage_words(stage: Stage) -> str:
    """How far a piece of work is."""
    if stage.name in ("loading", "measuring"):
        return stage.name
    digits = len(str(stage.count))
    words = f"{stage.name} {stage.number:>{digits}}/{stage.count}"
    if stage.batches:
        words += f", batch {stage.batch:>{len(str(stage.batches))}}/{stage.batches}"
    return words
