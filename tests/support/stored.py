"""Stores whose levels were made up instead of trained."""

from pathlib import Path

import torch
from reports import HERE, MakeLevel, double_descent

from dsdctl.plan.next_work import wants_level
from dsdctl.plan.plan import Plan
from dsdctl.plan.progress import Progress
from dsdctl.store.store import Store


def fill(root: Path, plan: Plan, make: MakeLevel = double_descent) -> Progress:
    """Commit every level of a plan that is wanted, with a weight for all its weights."""
    store = Store(root)
    store.open_for_writing()
    progress = Progress(plan, store)
    for trajectory in plan.trajectories.values():
        while wants_level(progress, trajectory):
            identity = progress.next_level_identity(trajectory)
            assert identity is not None
            result = make(trajectory, identity.level)
            if result is None:
                break
            weights = {"weight": torch.zeros(1)}
            level = store.levels.commit(identity, result, HERE, [], weights, weights)
            progress.add(trajectory, level)
    return progress
