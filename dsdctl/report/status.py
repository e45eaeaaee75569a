"""How far each trajectory has come, in a line each."""

from collections.abc import Collection, Iterator, Mapping

from dsdctl.plan.next_work import levels_to_restore, lost_its_teacher, wants_level
from dsdctl.plan.progress import Progress


def status_lines(
    progress: Progress, jobs: Mapping[str, str], only: Collection[str] = ()
) -> Iterator[str]:
    """Yield a line a trajectory: its key, what reads it, its levels, and what it waits for, or how
    its job stands; `only` those of these keys, if any."""
    for trajectory in progress.plan.chosen(only):
        known = progress.known[trajectory.key]
        name = ", ".join(progress.plan.used_by(trajectory))
        name += f"; {trajectory.variant}" if trajectory.variant else ""
        role = "+".join(trajectory.roles)
        if known.diverged:
            state = "diverged"
        elif lost_its_teacher(progress, trajectory):
            state = "its teacher diverged"
        elif not wants_level(progress, trajectory):
            state = "done"
        elif progress.waits_for_teacher(trajectory):
            state = "waits for its teacher"
        else:
            state = "ready"
        job = jobs.get(trajectory.key)
        if job is not None and wants_level(progress, trajectory):
            state = job
        again = levels_to_restore(progress, trajectory)
        if again:
            state += f", weights of level {', '.join(map(str, again))} to be trained again"
        done = f"{known.next_level}/{trajectory.levels} levels"
        yield f"{trajectory.key[:8]}  {role} seed {trajectory.seed} ({name}): {done}, {state}"
