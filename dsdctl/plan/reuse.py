"""Why a plan's work is not reused from its store: how its next levels differ from finished ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dsdctl.keys import LevelIdentity
from dsdctl.plan.next_work import wants_level
from dsdctl.plan.progress import Progress
from dsdctl.plan.trajectory import Trajectory
from dsdctl.store.differences import Difference, Identities, differences, distance, flat


@dataclass(frozen=True)
class Missing:
    """The next level of a trajectory, and the finished level that is most similar, if any.

    `differences` are the fields in which they differ; the nearest one's values are `second`.
    """

    trajectory: Trajectory
    level: int
    nearest: str | None
    differences: tuple[Difference, ...]


def missing(progress: Progress) -> Iterator[Missing]:
    """Yield what each unfinished trajectory would train next, unless its teacher is not known yet.

    The nearest is the finished level of the same number that differs in the fewest fields.
    """
    identities = Identities(progress.store)
    stored: dict[object, list[tuple[str, dict[str, str]]]] = {}
    for key, fields in identities.levels():
        number = fields.get("level"), fields.get("iterations")
        stored.setdefault(number, []).append((key, flat(fields)))
    for trajectory in progress.plan.trajectories.values():
        identity = (
            progress.next_level_identity(trajectory) if wants_level(progress, trajectory) else None
        )
        if identity is not None:
            nearest = _nearest(identity, stored.get((identity.level, None), []))
            yield Missing(
                trajectory, identity.level, nearest, _differ(identity, nearest, identities)
            )


def _nearest(identity: LevelIdentity, others: Sequence[tuple[str, dict[str, str]]]) -> str | None:
    """The key of the level that differs in the fewest fields."""
    here = flat(identity.model_dump(mode="json"))
    return min(others, key=lambda one: (distance(here, one[1]), one[0]), default=(None,))[0]


def _differ(
    identity: LevelIdentity, nearest: str | None, identities: Identities
) -> tuple[Difference, ...]:
    fields = identities.get(nearest) if nearest else None
    if fields is None:
        return ()
    return tuple(differences(identity.model_dump(mode="json"), fields, identities.get))
