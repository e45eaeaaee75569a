"""Reading curves of accuracy against levels: dip, phases, interpolation threshold, and a verdict.

Dip: the most that a curve falls below both some earlier and some later level,
max over i < j < k of min(a_i, a_k) - a_j, over the levels up to the last one whose accuracy is at
least half of the highest; what lies after that has collapsed.

Phases, when there is a dip of at least 2 points with its bottom at j: light up to the last level
before j within a point of the best before j; critical from there to j; sweet until the accuracy
last stood at or above that of j; collapsed after. Without such a dip all levels are light up to
the last one at half of the highest accuracy, and collapsed after.

Interpolation threshold: the last level whose training accuracy, against the noisy labels, is at
least 99 %. Up to there the network can still fit the noise.

Verdict on the mean curve: `yes` when the dip is at least 3 points and its 95 % t interval over the
seeds, measured at the same three levels, lies above 0; `no` when it is under 2 points, unless a
pruned network still interpolates at the last level, levels are missing or a seed diverged, since a
dip may lie beyond; `unclear` otherwise, and always with fewer than two seeds or three levels. The
three levels are chosen on the seeds that the interval is over, which makes it too narrow: of 1,000
simulated curves of three seeds that fall evenly by 6 points over 20 levels, 0, 8 and 19 % are
judged `yes` where each seed scatters by 1, 2 and 3 points a level.
"""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dsdctl.report.seeds import t_interval

Phase = Literal["light", "critical", "sweet", "collapsed"]
PHASES: tuple[Phase, ...] = ("light", "critical", "sweet", "collapsed")
Verdict = Literal["yes", "no", "unclear"]

CLEAR_DIP = 0.03
NO_DIP = 0.02
STILL_LIGHT = 0.01
INTERPOLATES = 0.99


@dataclass(frozen=True)
class Dip:
    """A fall and rise: from `before` down to `bottom` and up to `after` (levels), in accuracy."""

    before: int
    bottom: int
    after: int
    depth: float


def find_dip(curve: Sequence[float]) -> Dip | None:
    """Return the deepest dip of `curve` (accuracies by level), or None where it never rises."""
    end = last_standing(curve) + 1
    deepest: Dip | None = None
    for bottom in range(1, end - 1):
        # The last of the highest before and the first of the highest after: the nearest peaks.
        before = max(range(bottom), key=lambda i: (curve[i], i))
        after = max(range(bottom + 1, end), key=lambda k: (curve[k], -k))
        depth = min(curve[before], curve[after]) - curve[bottom]
        if depth > (deepest.depth if deepest else 0):
            deepest = Dip(before, bottom, after, depth)
    return deepest


def last_standing(curve: Sequence[float]) -> int:
    """The last level whose accuracy is at least half of the highest."""
    half = max(curve, default=0.0) / 2
    return max((k for k, accuracy in enumerate(curve) if accuracy >= half), default=-1)


def phases(curve: Sequence[float]) -> list[Phase]:
    """Name the phase of each level by the rule at the head of this file."""
    dip, last = find_dip(curve), last_standing(curve)
    if dip is None or dip.depth < NO_DIP:
        return ["light" if k <= last else "collapsed" for k in range(len(curve))]
    light = max(k for k in range(dip.bottom) if curve[k] >= curve[dip.before] - STILL_LIGHT)
    standing = max(k for k in range(len(curve)) if curve[k] >= curve[dip.bottom])
    bounds: list[tuple[int, Phase]] = [
        (light, "light"),
        (dip.bottom, "critical"),
        (standing, "sweet"),
        (len(curve), "collapsed"),
    ]
    return [next(name for bound, name in bounds if k <= bound) for k in range(len(curve))]


@dataclass(frozen=True)
class Span:
    """The levels from `first` to `last` that lie in one phase."""

    phase: Phase
    first: int
    last: int


def spans(names: Sequence[Phase]) -> list[Span]:
    """Gather the phases of successive levels into one span each."""
    found = []
    for phase, run in itertools.groupby(range(len(names)), key=names.__getitem__):
        levels = list(run)
        found.append(Span(phase, levels[0], levels[-1]))
    return found


def interpolation_threshold(train_curve: Sequence[float]) -> int | None:
    """The last level that still fits its noisy labels, or None where none does."""
    fitting = [k for k, accuracy in enumerate(train_curve) if accuracy >= INTERPOLATES]
    return max(fitting, default=None)


def mean_curve(curves: Sequence[Sequence[float]]) -> list[float]:
    """Mean by level, as far as all curves reach."""
    return [statistics.fmean(values) for values in zip(*curves, strict=False)]


@dataclass(frozen=True)
class Judgement:
    """Whether a curve shows sparse double descent, and why."""

    verdict: Verdict
    reason: str


def judge(curves: Sequence[Sequence[float]], *, open_end: str = "") -> Judgement:
    """Say whether the mean of `curves` (test accuracies, one a seed) shows sparse double descent.

    `open_end` says why a dip may lie beyond the last level, if that is so.
    """
    mean = mean_curve(curves)
    dip = find_dip(mean)
    depth = dip.depth if dip else 0.0
    seen = f"a dip of {100 * depth:.1f} points"
    if len(curves) < 2:
        return Judgement("unclear", f"{seen} of a single seed" if dip else "fewer than two seeds")
    if len(mean) < 3:
        return Judgement("unclear", open_end or "fewer than three levels")
    if dip is None or depth < NO_DIP:
        if open_end:
            return Judgement("unclear", open_end)
        return Judgement(
            "no", f"{seen} is under {100 * NO_DIP:.0f}" if dip else "no recovery after the fall"
        )
    if depth < CLEAR_DIP:
        return Judgement("unclear", f"{seen} is under {100 * CLEAR_DIP:.0f}")
    low, high = t_interval([min(c[dip.before], c[dip.after]) - c[dip.bottom] for c in curves])
    seen += f" [{100 * low:.1f}, {100 * high:.1f}]"
    return Judgement("yes", seen) if low > 0 else Judgement("unclear", f"{seen}, not significant")
