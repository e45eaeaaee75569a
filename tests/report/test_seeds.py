"""Spread over seeds, and paired differences with their t intervals."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from dsdctl.report.seeds import paired_difference, stats, std_curve, t_quantile

ACCURACIES = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8, unique_by=lambda p: p[0]
)


@settings(deadline=None, max_examples=100)
@given(pairs=ACCURACIES)
def test_the_interval_is_that_of_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = zip(*pairs, strict=True)
    difference = paired_difference(ours, theirs, "vanilla")
    assert difference is not None
    assert difference.n == len(pairs)
    if difference.std is not None and difference.std > 1e-6:
        expected = ttest_rel(ours, theirs).confidence_interval(0.95)
        assert (difference.low, difference.high) == pytest.approx(
            (expected.low, expected.high), rel=1e-6, abs=1e-9
        )


def test_the_quantiles_are_those_of_the_printed_tables() -> None:
    assert [round(t_quantile(n), 3) for n in (1, 2, 4, 30)] == [12.706, 4.303, 2.776, 2.042]


def test_pairing_takes_out_what_the_seeds_have_in_common() -> None:
    vanilla = (0.50, 0.60, 0.70)
    difference = paired_difference([a + 0.05 for a in vanilla], vanilla, "vanilla")
    assert difference is not None
    assert difference.mean == pytest.approx(0.05)
    assert difference.low == pytest.approx(difference.high)


def test_only_seeds_that_both_have_finished_are_paired() -> None:
    difference = paired_difference([0.7, None, 0.8], [0.6, 0.6, None], "vanilla")
    assert difference is not None
    assert (difference.n, difference.mean) == (1, pytest.approx(0.1))
    assert (difference.std, difference.low, difference.high) == (None, None, None)
    assert paired_difference([0.7, None], [None, 0.6], "vanilla") is None


def test_what_is_not_known_yet_is_left_out_of_the_mean() -> None:
    assert stats([0.25, None, 0.75]).mean == 0.5
    assert stats([0.25, None, 0.75]).n == 2
    assert stats([0.25, None]).std is None
    assert stats([None]).mean is None


def test_a_band_reaches_as_far_as_all_seeds_do() -> None:
    assert std_curve([[0.1, 0.5], [0.3]]) == pytest.approx([0.02**0.5])
    assert std_curve([[0.1, 0.5]]) is None
