"""Reading a curve of test accuracy against levels: its dip, its phases, and a verdict.

Dip: the most that a curve falls below both some earlier and some later level,
max over i < j < k of min(a_i, a_k) - a_j, over the levels up to the last one whose accuracy is at
least half of the highest; what lies after that has collapsed.

Phases, when there is a dip of at least 2 points with its bottom at j: light up to the last best
level before j; critical from there to j; sweet until the accuracy last stood at or above that of
j; collapsed after. Without a dip all levels are light until they collapse.

Verdict on the mean curve: `yes` when the dip is at least 3 points and more than twice its standard
error over the seeds, `no` when it is under 2 points, `unclear` otherwise, and always with fewer
than two seeds or three levels.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Phase = Literal["light", "critical", "sweet", "collapsed"]
Verdict = Literal["yes", "no", "unclear"]

CLEAR_DIP = 0.03
NO_DIP = 0.02


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
    standing = max(k for k in range(len(curve)) if curve[k] >= curve[dip.bottom])
    bounds: list[tuple[int, Phase]] = [
        (dip.before, "light"),
        (dip.bottom, "critical"),
        (max(standing, dip.after), "sweet"),
        (len(curve), "collapsed"),
    ]
    return [next(name for bound, name in bounds if k <= bound) for k in range(len(curve))]


def mean_curve(curves: Sequence[Sequence[float]]) -> list[float]:
    """Mean by level, as far as all curves reach."""
    return [statistics.fmean(values) for values in zip(*curves, strict=False)]


def verdict(curves: Sequence[Sequence[float]]) -> Verdict:
    """Say whether the mean of `curves` (one a seed) shows sparse double descent."""
    mean = mean_curve(curves)
    if len(curves) < 2 or len(mean) < 3:
        return "unclear"
    dip = find_dip(mean)
    if dip is None or dip.depth < NO_DIP:
        return "no"
    depths = [min(c[dip.before], c[dip.after]) - c[dip.bottom] for c in curves]
    error = statistics.stdev(depths) / math.sqrt(len(depths))
    return "yes" if dip.depth >= CLEAR_DIP and dip.depth > 2 * error else "unclear"


_BARS = "▁▂▃▄▅▆▇█"


def sparkline(curve: Sequence[float]) -> str:
    """Draw a curve in one line, from its lowest to its highest, with `│` between phases."""
    low, high = min(curve), max(curve)
    steps = (len(_BARS) - 1) / (high - low) if high > low else 0
    names = phases(curve)
    text = ""
    for k, value in enumerate(curve):
        if k and names[k] != names[k - 1]:
            text += "│"
        text += _BARS[round((value - low) * steps)]
    return text
