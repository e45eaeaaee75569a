"""How fast a level was, in words and numbers for progress lines."""

from dsdctl.plan.trajectory import Trajectory
from dsdctl.results import FinishedLevel


def images_per_second(trajectory: Trajectory, level: FinishedLevel) -> float | None:
    """Training images a second of a level, loading and measuring included in its time.

    None for one that diverged, which did not train to its end.
    """
    if level.measured is None:
        return None
    regime = trajectory.regime
    images = regime.images.sizes.train * regime.training.epochs
    return images / max(level.environment.wall_seconds, 1e-9)


def rate_line(trajectory: Trajectory, level: FinishedLevel) -> str:
    """The speed of a level, and its memory where it was on a GPU."""
    rate = images_per_second(trajectory, level)
    line = "" if rate is None else f", {rate:,.0f} images/s"
    peak = level.environment.gpu_peak_bytes
    return line if peak is None else f"{line}, {peak / 2**30:.2f} GiB of GPU memory"
