"""What a reader must know of networks of one's own."""

from dsdctl.plan.plan import Plan


def network_notes(plan: Plan) -> list[str]:
    """A line for each thing that is known of each of them; none where nothing is known."""
    lines = []
    for trajectory in plan.trajectories.values():
        own = trajectory.setup.own
        if own is not None and own.inspection is not None:
            lines += [f"{own.name}: {note}" for note in own.inspection.notes()]
    return list(dict.fromkeys(lines))
