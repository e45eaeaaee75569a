"""What a plan needs to run next: decisions based on the facts in `Progress`."""

import itertools
from collections.abc import Iterator

from dsdctl.keys import LevelIdentity, TableIdentity, key_of
from dsdctl.plan.progress import Progress
from dsdctl.plan.stopping import StopDecision, apply_stop_rule
from dsdctl.plan.trajectory import Trajectory


def wants_level(progress: Progress, trajectory: Trajectory) -> bool:
    """Whether a recipe or a student needs one more level of `trajectory`."""
    known = progress.known[trajectory.key]
    if progress.ended(trajectory) or lost_its_teacher(progress, trajectory):
        return False
    for key in trajectory.students:
        need = progress.plan.trajectories[key].teacher
        assert need is not None
        if known.next_level < need.levels:
            return True
    return any(
        not apply_stop_rule(use.stop, known.measured, use.levels).finished
        for use in trajectory.uses
    )


def lost_its_teacher(progress: Progress, trajectory: Trajectory) -> bool:
    """Whether the teacher's trajectory diverged before the level of the teacher checkpoint."""
    need = trajectory.teacher
    if need is None or need.trajectory is None or not progress.known[need.trajectory].diverged:
        return False
    return progress.teacher_level(need) is None


def unfinished(progress: Progress) -> Iterator[Trajectory]:
    """Yield the trajectories of which a level, or the weights of one, are still needed."""
    for trajectory in progress.plan.trajectories.values():
        if wants_level(progress, trajectory) or levels_to_restore(progress, trajectory):
            yield trajectory


def next_piece(progress: Progress, trajectory: Trajectory) -> LevelIdentity | TableIdentity | None:
    """What `trajectory` could run now: its next level, or first what that level depends on.

    That may be an earlier level whose weights were dropped, the cached teacher logits, or the
    rewind checkpoint. None if the trajectory is done or waits for its teacher.
    """
    restore = levels_to_restore(progress, trajectory)
    if not restore and not wants_level(progress, trajectory):
        return None
    level = restore[0] if restore else progress.known[trajectory.key].next_level
    identity = progress.level_identity(trajectory, level)
    if identity is None or _teacher_lacks_weights(progress, trajectory):
        return None
    table = progress.table_identity(trajectory)
    if table is not None and not progress.store.tables.has(key_of(table)):
        return table
    rewind = rewind_checkpoint(progress, trajectory) if identity.level else None
    if rewind is not None and progress.store.levels.get(key_of(rewind)) is None:
        return rewind
    return identity


def rewind_checkpoint(progress: Progress, trajectory: Trajectory) -> LevelIdentity | None:
    """The identity of the checkpoint that the next levels of `trajectory` rewind to.

    None if they do not rewind, or rewind to the initialization, or while the teacher is not known.
    """
    identity = progress.next_level_identity(trajectory)
    return None if identity is None else trajectory.rewind_checkpoint(identity.distillation)


def levels_to_restore(progress: Progress, trajectory: Trajectory) -> list[int]:
    """Finished levels whose weights were dropped and are needed again, lowest first.

    The next level starts from the last one's weights, and students read a teacher checkpoint until
    its logits are cached. To restore a level, those before it must have their weights too.
    """
    known = progress.known[trajectory.key]

    def lacks(level: int) -> bool:
        return progress.store.levels.lacks_weights(known.levels[level].key)

    needed = {known.next_level - 1} if known.levels and wants_level(progress, trajectory) else set()
    for level, students in _students_by_level(progress, trajectory).items():
        if lacks(level) and any(_level_read(progress, student) == level for student in students):
            needed.add(level)
    found: set[int] = set()
    for level in needed:
        found.update(itertools.takewhile(lacks, range(level, -1, -1)))
    return sorted(found)


def _students_by_level(progress: Progress, teacher: Trajectory) -> dict[int, list[Trajectory]]:
    """The students of a trajectory by the level that is their teacher, as far as it is known."""
    found: dict[int, list[Trajectory]] = {}
    for student in (progress.plan.trajectories[key] for key in teacher.students):
        level = None if student.teacher is None else progress.teacher_level(student.teacher)
        if level is not None:
            found.setdefault(level, []).append(student)
    return found


def _level_read(progress: Progress, student: Trajectory) -> int | None:
    """The level of the teacher's trajectory whose weights `student` needs next; None if none."""
    need = student.teacher
    if need is None or not wants_level(progress, student):
        return None
    table = progress.table_identity(student)
    if table is not None and progress.store.tables.has(key_of(table)):
        return None
    return progress.teacher_level(need)


def _teacher_lacks_weights(progress: Progress, student: Trajectory) -> bool:
    level, need = _level_read(progress, student), student.teacher
    if level is None or need is None or need.trajectory is None:
        return False
    return progress.store.levels.lacks_weights(progress.known[need.trajectory].levels[level].key)


def unneeded_weights(progress: Progress) -> list[str]:
    """Keys of finished levels of a plan whose weights are no longer needed.

    Needed are the last level of each trajectory, from which the next one starts, all teacher
    checkpoints, and every level that a row reports or may still report.
    """
    needed: set[str] = set()
    for trajectory in progress.plan.trajectories.values():
        known = progress.known[trajectory.key]
        needed.update(level.key for level in known.levels[-1:])
        if trajectory.teacher is not None:
            teacher = progress.teacher_identity(trajectory.teacher)
            needed.update(filter(None, [teacher.level if teacher else None]))
    for row_plan in progress.plan.rows:
        for key in row_plan.students:
            levels = progress.known[key].levels
            decision = progress.decision(row_plan, key)
            chosen = {decision.best, decision.stopped_at} - {None}
            chosen |= decision.candidates(row_plan.row.recipe.select)
            needed.update(levels[level].key for level in chosen if level is not None)
    keys = [level.key for known in progress.known.values() for level in known.levels]
    store = progress.store
    return [k for k in dict.fromkeys(keys) if k not in needed and not store.levels.lacks_weights(k)]


def stop_reason(progress: Progress, student: Trajectory, decision: StopDecision) -> str:
    """Why the student of one seed stopped, or that it has not."""
    return "teacher diverged" if lost_its_teacher(progress, student) else decision.reason
