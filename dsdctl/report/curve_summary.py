"""What the levels of a recipe show over all its seeds."""

from collections.abc import Sequence

from dsdctl.report.curves import (
    Phase,
    Verdict,
    find_dip,
    interpolation_threshold,
    judge,
    mean_curve,
    phases,
)
from dsdctl.results import Measured
from dsdctl.spec.fields import Model

STILL_INTERPOLATES = "it still interpolates at the last level, a dip may come"


class DipLevels(Model):
    """Where a curve falls from, how far, and where it has risen to."""

    before: int
    bottom: int
    after: int


class Curve(Model):
    """The mean over the seeds of a recipe by level, as far as all have come, and what it shows.

    `interpolation_threshold` is the last level that still fits its noisy labels. The fitted
    shares are of the flipped training labels, null where a seed has none: a low rate may flip none
    in one seed's draw of the noise and some in another's.
    """

    recipe: str
    variant: str
    levels: tuple[int, ...]
    mean_test_accuracy: tuple[float, ...]
    dip: float
    sparse_double_descent: Verdict
    reason: str
    dip_levels: DipLevels | None
    phases: tuple[Phase, ...]
    interpolation_threshold: int | None
    mean_sparsity: tuple[float, ...]
    mean_train_accuracy: tuple[float, ...]
    mean_fitted_noisy: tuple[float, ...] | None
    mean_fitted_true: tuple[float, ...] | None


def summarize_curve(
    recipe: str, variant: str, seeds: Sequence[Sequence[Measured]], cut_short: str = ""
) -> Curve:
    """Read the levels 0, 1, ... of each seed; `cut_short` says why they are not all there."""
    mean, train = _mean(seeds, "test_accuracy"), _mean(seeds, "train_accuracy")
    sparsity = _mean(seeds, "sparsity")
    dip, threshold = find_dip(mean), interpolation_threshold(train)
    interpolates = bool(mean) and threshold == len(mean) - 1 and sparsity[-1] > 0
    judgement = judge(
        [[result.test_accuracy for result in results] for results in seeds],
        open_end=cut_short or (STILL_INTERPOLATES if interpolates else ""),
    )
    noisy = bool(mean) and all(results[0].fitted_noisy is not None for results in seeds)
    return Curve(
        recipe=recipe,
        variant=variant,
        levels=tuple(range(len(mean))),
        mean_test_accuracy=tuple(mean),
        dip=dip.depth if dip else 0.0,
        sparse_double_descent=judgement.verdict,
        reason=judgement.reason,
        dip_levels=(
            DipLevels(before=dip.before, bottom=dip.bottom, after=dip.after) if dip else None
        ),
        phases=tuple(phases(mean)),
        interpolation_threshold=threshold,
        mean_sparsity=tuple(sparsity),
        mean_train_accuracy=tuple(train),
        mean_fitted_noisy=tuple(_mean(seeds, "fitted_noisy")) if noisy else None,
        mean_fitted_true=tuple(_mean(seeds, "fitted_true")) if noisy else None,
    )


def _mean(seeds: Sequence[Sequence[Measured]], quantity: str) -> list[float]:
    return mean_curve([[getattr(result, quantity) for result in results] for results in seeds])
