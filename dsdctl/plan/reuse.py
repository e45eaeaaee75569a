"""Why work of a plan is not read from its store: how its next levels differ from finished ones."""

from collections.abc import Iterator
from dataclasses import dataclass

from dsdctl.plan.progress import Progress
from dsdctl.plan.trajectory import Trajectory
from dsdctl.store.differences import Difference, Fields, Identities, differences, distance


@dataclass(frozen=True)
class Missing:
    """The next level of a trajectory, and the finished level that is nearest to it, if any.

    `differences` are those of the nearest one, which comes second.
    """

    trajectory: Trajectory
    level: int
    nearest: str | None
    differences: tuple[Difference, ...]


def missing(progress: Progress) -> Iterator[Missing]:
    """Yield what each unfinished trajectory would train next.

    Those whose teacher is not known yet are left out. Of the finished levels of the same number the
    nearest is that with the fewest fields that differ.
    """
    identities = Identities(progress.store)
    by_level: dict[object, list[tuple[str, Fields]]] = {}
    for key, fields in identities.levels():
        by_level.setdefault((fields.get("level"), fields.get("iterations")), []).append(
            (key, fields)
        )
    for trajectory in progress.unfinished():
        identity = progress.next_level_identity(trajectory)
        if identity is None or not progress.wants_level(trajectory):
            continue
        wanted = identity.model_dump(mode="json")
        others = by_level.get((identity.level, None), [])
        found = min(others, key=lambda one: (distance(wanted, one[1]), one[0]), default=None)
        if found is None:
            yield Missing(trajectory, identity.level, None, ())
        else:
            which = tuple(differences(wanted, found[1], identities.get))
            yield Missing(trajectory, identity.level, found[0], which)
