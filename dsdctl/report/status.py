"""How far each trajectory has come, in a line each."""

from collections.abc import Iterator

from dsdctl.progress import Progress


def status_lines(progress: Progress) -> Iterator[str]:
    """Yield a line a trajectory: its key, what reads it, its levels, and what it waits for."""
    for trajectory in progress.plan.trajectories.values():
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
        elif progress.next_level_identity(trajectory) is None:
            state = "waits for its teacher"
        else:
            state = "ready"
        again = progress.levels_to_restore(trajectory)
        if again:
            state += f", weights of level {', '.join(map(str, again))} to be trained again"
        done = f"{known.next_level}/{trajectory.levels} levels"
        yield f"{trajectory.key[:8]}  {role} seed {trajectory.seed} ({name}): {done}, {state}"
