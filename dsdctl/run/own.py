"""What a run knows of networks of a user's own, kept with its store."""

from dsdctl.own.inspection import Inspect, Inspection, Question, as_mapping, cached, from_mapping
from dsdctl.plan.plan import Plan
from dsdctl.store.store import Store

FOLDER = "networks"


def keep_inspections(plan: Plan, store: Store) -> None:
    """Let reports of this store know the networks of a plan, on whatever machine."""
    for trajectory in plan.trajectories.values():
        own = trajectory.setup.own
        if own is not None and _read(store, own.question) is None:
            store.write_json(_file(own.question), as_mapping(own.known))


def known_in(store: Store) -> Inspect:
    """Answers from the cache folder or the store, and runs nothing."""
    return lambda question: cached(question) or _read(store, question)


def _read(store: Store, question: Question) -> Inspection | None:
    return from_mapping(store.read_json(_file(question)))


def _file(question: Question) -> str:
    return f"{FOLDER}/{question.key}.json"
