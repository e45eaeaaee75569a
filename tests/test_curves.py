"""Dips, phases and verdicts of accuracy curves."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdctl.report.curves import (
    Dip,
    Verdict,
    find_dip,
    last_standing,
    mean_curve,
    phases,
    sparkline,
    verdict,
)

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


@settings(deadline=None, max_examples=150)
@given(curve=ACCURACIES)
def test_phases_are_contiguous_and_in_order(curve: list[float]) -> None:
    names = phases(curve)
    order = ["light", "critical", "sweet", "collapsed"]
    ranks = [order.index(name) for name in names]
    assert len(names) == len(curve)
    assert ranks == sorted(ranks)
    assert names[:1] == ["light"][: len(curve)]


@pytest.mark.parametrize(
    ("curves", "expected"),
    [
        # Three seeds that agree on a dip of 12 points.
        (3 * [[0.72, 0.60, 0.72]], "yes"),
        ([[0.72, 0.60, 0.72], [0.70, 0.60, 0.73], [0.74, 0.61, 0.72]], "yes"),
        # No dip, and one of a single point.
        (3 * [[0.72, 0.70, 0.60]], "no"),
        (3 * [[0.72, 0.71, 0.72]], "no"),
        # Between 2 and 3 points.
        (3 * [[0.72, 0.695, 0.72]], "unclear"),
        # Deep on the mean, but the seeds disagree.
        ([[0.80, 0.50, 0.80], [0.70, 0.70, 0.70], [0.70, 0.70, 0.70]], "unclear"),
        # Too few seeds, too few levels.
        ([[0.72, 0.60, 0.72]], "unclear"),
        (3 * [[0.72, 0.60]], "unclear"),
        (3 * [[]], "unclear"),
        ([], "unclear"),
        # What only one seed has reached does not count yet.
        ([[0.72, 0.60, 0.72], [0.72, 0.60]], "unclear"),
        # A rise out of the collapse is no dip.
        (3 * [[0.80, 0.70, 0.10, 0.20]], "no"),
    ],
)
def test_verdicts(curves: list[list[float]], expected: Verdict) -> None:
    assert verdict(curves) == expected


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
