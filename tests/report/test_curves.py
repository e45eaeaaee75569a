"""Dips, phases and verdicts of accuracy curves."""

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdctl.report.curves import (
    PHASES,
    Dip,
    Judgement,
    Span,
    Verdict,
    find_dip,
    interpolation_threshold,
    judge,
    last_standing,
    mean_curve,
    phases,
    spans,
)
from dsdctl.report.sparkline import sparkline

DIP = [0.70, 0.72, 0.65, 0.58, 0.66, 0.74, 0.60, 0.20]
ACCURACIES = st.lists(st.floats(0, 1), max_size=10) | st.lists(
    st.integers(0, 10).map(lambda tenths: tenths / 10), max_size=10
)


def depth_by_the_definition(curve: Sequence[float]) -> float:
    standing = [k for k, accuracy in enumerate(curve) if accuracy >= max(curve) / 2]
    levels = range(max(standing) + 1) if standing else range(0)
    return max(
        (
            min(curve[i], curve[k]) - curve[j]
            for i, j, k in itertools.combinations(levels, 3)
            if min(curve[i], curve[k]) > curve[j]
        ),
        default=0.0,
    )


@settings(deadline=None, max_examples=200)
@given(curve=ACCURACIES)
def test_a_dip_is_as_deep_as_its_definition_says(curve: list[float]) -> None:
    dip = find_dip(curve)
    assert (dip.depth if dip else 0.0) == depth_by_the_definition(curve)


@settings(deadline=None, max_examples=100)
@given(curve=ACCURACIES)
def test_a_dip_lies_between_its_peaks(curve: list[float]) -> None:
    dip = find_dip(curve)
    if dip is not None:
        assert 0 <= dip.before < dip.bottom < dip.after <= last_standing(curve)
        assert dip.depth == min(curve[dip.before], curve[dip.after]) - curve[dip.bottom] > 0


@pytest.mark.parametrize(
    ("curve", "dip"),
    [
        ([], None),
        ([0.5], None),
        ([0.5, 0.4], None),
        ([0.5, 0.5, 0.5], None),
        ([0.5, 0.6, 0.7], None),
        ([0.7, 0.6, 0.5], None),
        ([0.5, 0.7, 0.5], None),
        ([0.75, 0.5, 0.75], Dip(0, 1, 2, 0.25)),
        # Of equal peaks the nearest count.
        ([0.75, 0.75, 0.5, 0.75, 0.75], Dip(1, 2, 3, 0.25)),
        # The lower shoulder counts.
        ([1.0, 0.5, 0.75], Dip(0, 1, 2, 0.25)),
        ([0.75, 0.5, 1.0], Dip(0, 1, 2, 0.25)),
        # The deepest of two.
        ([0.75, 0.625, 0.75, 0.5, 0.75], Dip(2, 3, 4, 0.25)),
        # A rise after the collapse is none.
        ([1.0, 0.9, 0.1, 0.4], None),
        # Exactly half of the highest still stands.
        ([1.0, 0.25, 0.5], Dip(0, 1, 2, 0.25)),
    ],
)
def test_the_deepest_dip_is_found(curve: list[float], dip: Dip | None) -> None:
    assert find_dip(curve) == dip


def test_phases_of_a_curve_with_a_dip() -> None:
    assert phases(DIP) == [
        "light",
        "light",
        "critical",
        "critical",
        "sweet",
        "sweet",
        "sweet",
        "collapsed",
    ]


def test_phases_of_a_curve_without_a_dip_are_light_until_it_collapses() -> None:
    assert phases([0.7, 0.72, 0.7, 0.4, 0.3, 0.1]) == 4 * ["light"] + 2 * ["collapsed"]
    assert phases([0.7, 0.7]) == ["light", "light"]
    assert phases([]) == []


def test_a_dip_of_under_two_points_makes_no_phases() -> None:
    assert set(phases([0.7, 0.69, 0.7])) == {"light"}
    assert set(phases([0.7, 0.67, 0.7])) == {"light", "critical", "sweet"}


def test_a_level_within_a_point_of_the_best_is_still_light() -> None:
    curve = [0.700, 0.695, 0.691, 0.685, 0.600, 0.700]
    assert phases(curve) == 3 * ["light"] + 2 * ["critical"] + ["sweet"]


def phase_by_the_rule(curve: Sequence[float], level: int) -> str:
    """The rule of curves.py, level by level."""
    dip = find_dip(curve)
    if dip is None or dip.depth < 0.02:
        return "light" if max(curve[level:]) >= max(curve) / 2 else "collapsed"
    best_before = max(curve[: dip.bottom])
    if any(a >= best_before - 0.01 for a in curve[level : dip.bottom]):
        return "light"
    if level <= dip.bottom:
        return "critical"
    return "sweet" if any(a >= curve[dip.bottom] for a in curve[level:]) else "collapsed"


@settings(deadline=None, max_examples=200)
@given(curve=ACCURACIES)
def test_phases_are_as_the_rule_says(curve: list[float]) -> None:
    assert phases(curve) == [phase_by_the_rule(curve, k) for k in range(len(curve))]


@settings(deadline=None, max_examples=150)
@given(curve=ACCURACIES)
def test_phases_are_contiguous_and_in_order(curve: list[float]) -> None:
    names = phases(curve)
    ranks = [PHASES.index(name) for name in names]
    assert len(names) == len(curve)
    assert ranks == sorted(ranks)
    assert names[:1] == ["light"][: len(curve)]


@settings(deadline=None, max_examples=100)
@given(curve=ACCURACIES)
def test_spans_cover_the_levels_once(curve: list[float]) -> None:
    names = phases(curve)
    assert [span.phase for span in spans(names) for _ in range(span.first, span.last + 1)] == names


def test_spans_name_their_first_and_last_level() -> None:
    assert spans(["light", "light", "sweet"]) == [Span("light", 0, 1), Span("sweet", 2, 2)]


@pytest.mark.parametrize(
    ("train", "threshold"),
    [
        ([1.0, 1.0, 0.99, 0.98, 0.5], 2),
        # A level that misses it by chance does not end it.
        ([1.0, 0.98, 0.995, 0.7], 2),
        ([1.0, 1.0], 1),
        ([0.98, 0.9], None),
        ([], None),
    ],
)
def test_the_interpolation_threshold_is_the_last_level_that_fits_its_labels(
    train: list[float], threshold: int | None
) -> None:
    assert interpolation_threshold(train) == threshold


@pytest.mark.parametrize(
    ("curves", "expected", "reason"),
    [
        # Three seeds that agree on a dip of 12 points.
        (3 * [[0.72, 0.60, 0.72]], "yes", "a dip of 12.0 points [12.0, 12.0]"),
        (
            [[0.72, 0.60, 0.72], [0.70, 0.60, 0.73], [0.74, 0.61, 0.72]],
            "yes",
            "a dip of 11.7 points [8.5, 13.5]",
        ),
        # No dip, and one of a single point.
        (3 * [[0.72, 0.70, 0.60]], "no", "no recovery after the fall"),
        (3 * [[0.72, 0.71, 0.72]], "no", "a dip of 1.0 points is under 2"),
        # Between 2 and 3 points.
        (3 * [[0.72, 0.695, 0.72]], "unclear", "a dip of 2.5 points is under 3"),
        # Deep on the mean, but the seeds disagree.
        (
            [[0.80, 0.50, 0.80], [0.70, 0.70, 0.70], [0.70, 0.70, 0.70]],
            "unclear",
            "a dip of 10.0 points [-33.0, 53.0], not significant",
        ),
        # Two seeds can hardly show anything: t is 12.7.
        (
            [[0.72, 0.60, 0.72], [0.72, 0.63, 0.72]],
            "unclear",
            "a dip of 10.5 points [-8.6, 29.6], not significant",
        ),
        # Too few seeds, too few levels.
        ([[0.72, 0.60, 0.72]], "unclear", "a dip of 12.0 points of a single seed"),
        ([[0.72, 0.70, 0.60]], "unclear", "fewer than two seeds"),
        (3 * [[0.72, 0.60]], "unclear", "fewer than three levels"),
        (3 * [[]], "unclear", "fewer than three levels"),
        ([], "unclear", "fewer than two seeds"),
        # What only one seed has reached does not count yet.
        ([[0.72, 0.60, 0.72], [0.72, 0.60]], "unclear", "fewer than three levels"),
        # A rise out of the collapse is no dip.
        (3 * [[0.80, 0.70, 0.10, 0.20]], "no", "no recovery after the fall"),
    ],
)
def test_verdicts(curves: list[list[float]], expected: Verdict, reason: str) -> None:
    judgement = judge(curves)
    assert (judgement.verdict, judgement.reason) == (expected, reason)


def test_a_curve_that_may_go_on_is_not_said_to_have_no_dip() -> None:
    falling = 3 * [[0.72, 0.70, 0.60]]
    assert judge(falling, open_end="why") == Judgement("unclear", "why")
    # A dip that is already there is judged all the same.
    assert judge(3 * [[0.72, 0.60, 0.72]], open_end="why").verdict == "yes"


def test_what_falls_and_scatters_by_a_point_is_not_said_to_dip() -> None:
    """As the head of curves.py says of its simulation."""
    stream = random.Random(0)
    for _ in range(100):
        seeds = [[0.7 - 0.003 * k + stream.gauss(0, 0.01) for k in range(20)] for _ in range(3)]
        assert judge(seeds).verdict != "yes"


def test_the_mean_curve_reaches_as_far_as_all_seeds_do() -> None:
    assert mean_curve([[0.5, 0.6, 0.7], [0.7, 0.8]]) == pytest.approx([0.6, 0.7])
    assert mean_curve([]) == []


@pytest.mark.parametrize(
    ("curve", "line"),
    [
        ([0.5], "▁"),
        ([0.5, 0.5, 0.5], "▁▁▁"),
        ([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], "▁▂▃▄▅▆▇█"),
        ([0.75, 0.5, 0.75], "█│▁│█"),
        ([1.0, 0.9, 0.0], "█▇│▁"),
    ],
)
def test_a_sparkline_goes_from_the_lowest_to_the_highest_with_its_phases_apart(
    curve: list[float], line: str
) -> None:
    assert sparkline(curve) == line


@settings(deadline=None, max_examples=60)
@given(curve=ACCURACIES.filter(bool))
def test_a_sparkline_has_a_bar_a_level(curve: list[float]) -> None:
    line = sparkline(curve)
    assert len(line.replace("│", "")) == len(curve)
    assert line.count("│") == len(set(phases(curve))) - 1
