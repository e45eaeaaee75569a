"""How long a plan takes, in words."""

from dsdctl.cost.forecast import by_rehearsal
from dsdctl.plan.progress import Progress
from dsdctl.units import duration

TOO_LONG = 100 * 3600
"""Seconds from which on it is said that a CPU is slow for a plan."""


def too_long(seconds: float | None, device: str) -> list[str]:
    """What to do about a plan that takes a CPU weeks; nothing to say of others."""
    if device != "cpu" or seconds is None or seconds <= TOO_LONG:
        return []
    return [
        f"That is more than {TOO_LONG // 3600} hours on this CPU: take a GPU, several machines "
        "(--engine slurm or ray), or a spec with fewer seeds, levels or epochs."
    ]


def time_words(progress: Progress, seconds: float | None, device: str) -> str:
    """How long the missing work takes, as far as that is known, and what that leaves out."""
    if seconds is None:
        return f"unknown: nothing was run or rehearsed on {device} with this store yet"
    if by_rehearsal(progress, device):
        return f"{duration(seconds)}, by a rehearsal, which leaves out pruning and loading"
    return duration(seconds)
