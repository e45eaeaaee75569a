"""Values over seeds: mean, spread, and the paired difference of two rows."""

import math
import statistics
from collections.abc import Sequence

from dsdctl.spec.fields import Model

CONFIDENCE = 0.95


class Stats(Model):
    """A value over seeds; std is with ddof 1, null at n = 1; a value is null while unknown."""

    mean: float | None
    std: float | None
    values: tuple[int | float | None, ...]

    @property
    def n(self) -> int:
        return sum(value is not None for value in self.values)


class PairedDifference(Model):
    """How far a row's values lie above another's, seed by seed.

    `low` and `high` bound the mean difference by a two-sided t interval at CONFIDENCE; null below
    two pairs.
    """

    baseline: str
    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None


def stats(values: Sequence[float | int | None]) -> Stats:
    """Summarize one value a seed."""
    known = [value for value in values if value is not None]
    return Stats(
        mean=statistics.fmean(known) if known else None,
        std=statistics.stdev(known) if len(known) > 1 else None,
        values=tuple(values),
    )


def std_curve(curves: Sequence[Sequence[float]]) -> list[float] | None:
    """Sample standard deviation by level, as far as all curves reach; None with fewer than two."""
    if len(curves) < 2:
        return None
    return [statistics.stdev(values) for values in zip(*curves, strict=False)]


def paired_difference(
    values: Sequence[float | None], baseline: Sequence[float | None], name: str
) -> PairedDifference | None:
    """Compare two rows over the seeds that both have finished; None where there is none.

    `values` and `baseline` follow the same seeds; `name` is what the baseline is called.
    """
    differences = [
        ours - theirs
        for ours, theirs in zip(values, baseline, strict=True)
        if ours is not None and theirs is not None
    ]
    if not differences:
        return None
    mean, std = statistics.fmean(differences), None
    low = high = None
    if len(differences) > 1:
        std = statistics.stdev(differences)
        low, high = t_interval(differences)
    return PairedDifference(
        baseline=name, n=len(differences), mean=mean, std=std, low=low, high=high
    )


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Bounds of the mean of two values or more: a two-sided t interval at CONFIDENCE."""
    mean, n = statistics.fmean(values), len(values)
    half = t_quantile(n - 1) * statistics.stdev(values) / math.sqrt(n)
    return mean - half, mean + half


def t_quantile(degrees: int) -> float:
    """How many standard errors a two-sided interval at CONFIDENCE reaches to each side."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))
