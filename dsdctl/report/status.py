"""How far each trajectory has come, in a line each."""

from collections.abc import Collection, Iterator, Mapping

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
        elif progress.lost_its_teacher(trajectory):
            state = "its teacher diverged"
        elif not progress.wants_level(trajectory):
            state = "done"
        elif progress.waits_for_teacher(trajectory):
            state = "waits for its teacher"
        else:
            state = "ready"
        job = jobs.get(trajectory.key)
        if job is not None and progress.wants_level(trajectory):
            state = job
        again = progress.levels_to_restore(trajectory)
        if again:
            state += f", weights of level {', '.join(map(str, again))} to be trained again"
        done = f"{known.next_level}/{trajectory.levels} levels"
        yield f"{trajectory.key[:8]}  {role} seed {trajectory.seed} ({name}): {done}, {state}"
