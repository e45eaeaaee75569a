"""Stop rules on curves written down by hand."""

from collections.abc import Sequence
from fractions import Fraction

import pytest
from builders import measured, results
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdctl.plan.stopping import (
    StopDecision,
    apply_stop_rule,
    best_level,
    chosen_level,
    stopping_level,
)
from dsdctl.results import Measured
from dsdctl.spec.experiment import Select, SparsestWithin, StopRule

EARLY = StopRule()
GATED = StopRule(after="entropy-drop")

# Light up to level 1, critical down to level 4, sweet up to level 7, then collapsed.
DIP = [0.70, 0.71, 0.66, 0.60, 0.58, 0.65, 0.72, 0.75, 0.60, 0.30]
FALLING = [0.90, 0.90, 0.90, 0.90, 0.90, 0.90, 0.80, 0.70, 0.60, 0.50]


def read(
    rule: StopRule | None, accuracies: Sequence[float], entropies: Sequence[float] | None = None
) -> StopDecision:
    return apply_stop_rule(rule, results(accuracies, entropies), len(accuracies))


class TestOnACurveWithADip:
    def test_vanilla_runs_to_the_end_and_finds_the_later_best(self) -> None:
        decision = read(None, DIP, FALLING)
        assert decision == StopDecision(True, "all levels run", trainings=10, best=7, stopped_at=9)
        assert decision.selected("best") == 7
        assert decision.selected("stopped") == 9

    def test_early_stop_stops_in_the_dip(self) -> None:
        decision = read(EARLY, DIP, FALLING)
        assert decision == StopDecision(True, "accuracy dropped", trainings=3, best=1, stopped_at=2)
        assert decision.selected("best") == 1
        assert decision.selected("stopped") == 2

    def test_the_gated_rule_does_not_stop_before_the_entropy_falls(self) -> None:
        decision = read(GATED, DIP, FALLING)
        assert decision == StopDecision(True, "accuracy dropped", trainings=9, best=7, stopped_at=8)

    def test_the_gated_rule_runs_to_the_end_where_the_entropy_never_falls(self) -> None:
        assert read(GATED, DIP).reason == "all levels run"

    def test_the_best_of_before_the_gate_does_not_count_for_the_rule_but_for_the_row(self) -> None:
        accuracies = [0.9, 0.5, 0.4, 0.45, 0.5, 0.3]
        entropies = [1.0, 1.0, 1.0, 0.5, 0.5, 0.5]
        decision = read(GATED, accuracies, entropies)
        assert decision == StopDecision(True, "accuracy dropped", trainings=6, best=0, stopped_at=5)


@pytest.mark.parametrize(
    ("entropies", "stop"),
    [
        ([1.00, 0.96, 0.96, 0.96], None),
        ([1.00, 0.95, 0.95, 0.95], 2),
        # The fall is measured from the highest so far, wherever that was.
        ([0.80, 1.00, 0.95, 0.95], 3),
        ([0.80, 1.00, 0.96, 0.96], None),
        # Once open, the gate stays open.
        ([1.00, 0.95, 1.00, 1.00], 2),
        # 0 <= 0.95 * 0: a network without any entropy has none left to lose.
        ([0.00, 0.00, 0.00, 0.00], 1),
    ],
)
def test_the_gate_opens_at_the_first_level_whose_entropy_has_fallen_far_enough(
    entropies: list[float], stop: int | None
) -> None:
    assert stopping_level(GATED, results([0.9, 0.8, 0.7, 0.6], entropies)) == stop


def test_the_gate_opens_as_far_as_the_rule_says() -> None:
    curve = results([0.9, 0.8, 0.7, 0.6], [1.0, 0.9, 0.8, 0.7])
    rules = [StopRule(after="entropy-drop", entropy_drop=drop) for drop in (0.1, 0.2, 0.3, 0.4)]
    assert [stopping_level(rule, curve) for rule in rules] == [2, 3, None, None]


@pytest.mark.parametrize(
    ("patience", "accuracies", "stop"),
    [
        (1, [0.5, 0.4], 1),
        (1, [0.5, 0.5], None),
        (1, [0.5, 0.6, 0.55], 2),
        (2, [0.5, 0.4], None),
        (2, [0.5, 0.4, 0.4], 2),
        (2, [0.5, 0.4, 0.3, 0.2], 2),
        # A level that does not drop starts the count anew.
        (2, [0.5, 0.4, 0.5, 0.4, 0.45], 4),
        (2, [0.5, 0.4, 0.6, 0.5], None),
        (3, [0.5, 0.4, 0.4, 0.5, 0.4, 0.4], None),
        (3, [0.5, 0.1, 0.2, 0.3], 3),
    ],
)
def test_consecutive_drops_stop_once_patience_is_over(
    patience: int, accuracies: list[float], stop: int | None
) -> None:
    assert stopping_level(StopRule(patience=patience), results(accuracies)) == stop


@pytest.mark.parametrize(
    ("accuracies", "stop"),
    [
        ([0.50, 0.375], None),  # exactly the tolerance
        ([0.50, 0.37], 1),
        # Below the best by more than the tolerance, however slowly it came there.
        ([0.50, 0.45, 0.40, 0.36], 3),
        ([0.50, 0.45, 0.60, 0.48, 0.47], 4),
    ],
)
def test_a_drop_within_the_tolerance_is_none(accuracies: list[float], stop: int | None) -> None:
    assert stopping_level(StopRule(tolerance=0.125), results(accuracies)) == stop


def test_ties_go_to_the_lowest_level() -> None:
    assert best_level(results([0.5, 0.7, 0.6, 0.7])) == 1
    assert best_level(results([0.5, 0.5])) == 0
    assert best_level([]) is None


def pruned(accuracies: Sequence[float], sparsities: Sequence[float]) -> list[Measured]:
    triples = zip(accuracies, sparsities, strict=True)
    return [measured(k, accuracy, 1.0, sparsity) for k, (accuracy, sparsity) in enumerate(triples)]


def halved(accuracies: Sequence[float]) -> list[Measured]:
    """Levels of which each has half the weights of the one before."""
    return pruned(accuracies, [1 - 0.5**k for k in range(len(accuracies))])


def within(tolerance: float) -> SparsestWithin:
    return SparsestWithin(sparsest_within=tolerance)


class TestTheSparsestWithin:
    @pytest.mark.parametrize(
        ("tolerance", "level"), [(0, 7), (0.02, 7), (0.03, 7), (0.05, 7), (0.15, 8), (0.45, 9)]
    )
    def test_is_the_last_level_that_is_close_to_the_best(
        self, tolerance: float, level: int
    ) -> None:
        decision = apply_stop_rule(None, halved(DIP), len(DIP))
        assert decision.selected(within(tolerance)) == level

    def test_is_taken_from_the_levels_up_to_the_stop(self) -> None:
        decision = apply_stop_rule(EARLY, halved(DIP), len(DIP))
        assert (decision.best, decision.stopped_at) == (1, 2)
        assert [decision.selected(within(x)) for x in (0, 0.01, 0.04, 0.05, 0.9)] == [1, 1, 1, 2, 2]

    def test_of_equals_in_sparsity_is_the_lowest(self) -> None:
        """Without pruning that is the first level that is good enough, not the best."""
        curve = [0.5, 0.69, 0.7, 0.69, 0.6]
        assert chosen_level(within(0.015), results(curve)) == 1
        assert chosen_level(within(0.015), pruned(curve, [0, 0.5, 0.8, 0.8, 0.8])) == 2

    def test_of_levels_that_are_all_the_best_is_not_the_lowest(self) -> None:
        curve = halved([0.7, 0.7, 0.7, 0.6])
        assert chosen_level(within(0), curve) == 2
        assert chosen_level("best", curve) == 0

    @pytest.mark.parametrize("images", [200, 216, 1000, 10_000, 50_000])
    @pytest.mark.parametrize("tolerance", [0.005, 0.01, 0.03, 0.1])
    def test_counts_images_and_is_not_off_by_one(self, images: int, tolerance: float) -> None:
        allowed = int(images * Fraction(str(tolerance)))
        for best in range(allowed + 1, images + 1, max(1, images // 200)):
            enough, too_few = (best - allowed) / images, (best - allowed - 1) / images
            assert chosen_level(within(tolerance), halved([best / images, enough, too_few])) == 1

    def test_is_not_known_before_the_end(self) -> None:
        assert apply_stop_rule(None, halved([0.5, 0.6]), 4).selected(within(0.5)) is None
        assert apply_stop_rule(None, [], 4, diverged=True).selected(within(0.5)) is None
        assert chosen_level(within(0.5), []) is None

    def test_is_chosen_from_what_came_before_a_divergence(self) -> None:
        decision = apply_stop_rule(None, halved([0.5, 0.6, 0.595]), 4, diverged=True)
        assert decision.selected(within(0.01)) == 2


def test_a_level_may_be_selected_though_another_would_be_by_now() -> None:
    """Without pruning a new best puts the first close level out, and not the one after it."""
    select, curve = within(0.015), results([0.5, 0.51, 0.4, 0.52])
    sofar, end = (apply_stop_rule(None, curve[:k], 4) for k in (3, 4))
    assert sofar.candidates(select) == {0, 1}
    assert end.selected(select) == 1
    assert end.candidates(select) == {1}
    assert sofar.candidates("best") == {1}
    assert sofar.candidates("stopped") == set()


class TestUnfinished:
    def test_what_is_known_so_far_is_read_but_nothing_is_selected(self) -> None:
        decision = apply_stop_rule(None, results([0.5, 0.6]), 4)
        assert decision == StopDecision(False, "not finished", trainings=2, best=1, stopped_at=None)
        assert decision.selected("best") is None
        assert decision.selected("stopped") is None

    def test_without_any_result(self) -> None:
        decision = apply_stop_rule(EARLY, [], 4)
        assert decision == StopDecision(
            False, "not finished", trainings=0, best=None, stopped_at=None
        )

    def test_a_rule_may_have_stopped_before_all_levels_are_there(self) -> None:
        decision = apply_stop_rule(EARLY, results([0.5, 0.4]), 30)
        assert decision == StopDecision(True, "accuracy dropped", trainings=2, best=0, stopped_at=1)


class TestDiverged:
    def test_divergence_ends_a_trajectory_and_counts_as_a_training(self) -> None:
        decision = apply_stop_rule(EARLY, results([0.5, 0.6]), 4, diverged=True)
        assert decision == StopDecision(True, "diverged", trainings=3, best=1, stopped_at=1)

    def test_at_level_0_leaves_nothing_to_report(self) -> None:
        decision = apply_stop_rule(None, [], 4, diverged=True)
        assert decision == StopDecision(True, "diverged", trainings=1, best=None, stopped_at=None)

    def test_after_the_stop_is_never_seen(self) -> None:
        decision = apply_stop_rule(EARLY, results([0.5, 0.4]), 4, diverged=True)
        assert decision.reason == "accuracy dropped"

    def test_after_the_last_level_that_is_asked_for_is_never_seen(self) -> None:
        decision = apply_stop_rule(None, results([0.5, 0.6]), 2, diverged=True)
        assert decision.reason == "all levels run"


def test_levels_beyond_those_asked_for_are_not_read() -> None:
    assert apply_stop_rule(None, results([0.5, 0.4, 0.9]), 2) == StopDecision(
        True, "all levels run", trainings=2, best=0, stopped_at=1
    )


def test_table_1s_rows_come_out_of_curves_like_the_papers() -> None:
    """30 levels; the vanilla student dips and recovers, the distilled one does not dip."""
    entropies = [1.2] * 17 + [1.2 - 0.06 * k for k in range(1, 14)]
    dip = [0.66, 0.665, 0.6, *[0.58 + 0.001 * k for k in range(10)]]
    vanilla = [*dip, *[0.6 + 0.012 * k for k in range(13)], 0.73, 0.72, 0.7, 0.6]
    distilled = [0.80 + 0.001 * k for k in range(22)] + [0.81 - 0.05 * k for k in range(8)]
    assert (len(vanilla), len(distilled)) == (30, 30)

    def trainings_and_levels(rule: StopRule | None, curve: list[float]) -> tuple[object, ...]:
        decision = read(rule, curve, entropies)
        return decision.trainings, decision.best, decision.stopped_at

    assert trainings_and_levels(None, vanilla) == (30, 25, 29)
    assert trainings_and_levels(EARLY, vanilla) == (3, 1, 2)
    assert trainings_and_levels(GATED, vanilla) == (27, 25, 26)
    assert trainings_and_levels(GATED, distilled) == (23, 21, 22)


CURVES = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=12).map(
    lambda pairs: results([a / 8 for a, _ in pairs], [h / 8 for _, h in pairs])
)
RULES = st.builds(
    StopRule,
    patience=st.integers(1, 3),
    tolerance=st.sampled_from([0.0, 0.125, 0.25]),
    after=st.sampled_from([None, "entropy-drop"]),
    entropy_drop=st.sampled_from([0.125, 0.5]),
)


def stops_by_the_definition(rule: StopRule, curve: Sequence[Measured]) -> int | None:
    bits = [result.entropy_bits for result in curve]
    values = [result.validation_accuracy for result in curve]
    opens = [
        k for k in range(len(curve)) if bits[k] <= (1 - rule.entropy_drop) * max(bits[: k + 1])
    ]
    gate = min(opens, default=len(curve)) if rule.after else 0

    def drops(k: int) -> bool:
        return k > gate and values[k] < max(values[gate:k]) - rule.tolerance

    stops = [
        k
        for k in range(len(curve))
        if k >= rule.patience and all(drops(k - i) for i in range(rule.patience))
    ]
    return min(stops, default=None)


@settings(deadline=None, max_examples=150)
@given(rule=RULES, curve=CURVES)
def test_a_rule_stops_where_its_definition_says(rule: StopRule, curve: list[Measured]) -> None:
    assert stopping_level(rule, curve) == stops_by_the_definition(rule, curve)


@settings(deadline=None, max_examples=100)
@given(rule=st.none() | RULES, curve=CURVES, levels=st.integers(1, 12))
def test_results_that_come_after_a_stop_never_change_the_reading(
    rule: StopRule | None, curve: list[Measured], levels: int
) -> None:
    decisions = [apply_stop_rule(rule, curve[:k], levels) for k in range(len(curve) + 1)]
    first = next((k for k, decision in enumerate(decisions) if decision.finished), len(decisions))
    assert all(decision == decisions[first] for decision in decisions[first:])
    assert [decision.trainings for decision in decisions[: first + 1]] == list(
        range(len(decisions[: first + 1]))
    )


@st.composite
def counted_curves(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """A number of images, and of each level how many are right and weights are left, of 8."""
    images = draw(st.integers(1, 1000))
    near = st.integers(0, images) | st.integers(max(0, images - 20), images)
    return images, draw(st.lists(st.tuples(near, st.integers(0, 8)), max_size=12))


def selected_by_the_definition(
    thousandths: int, images: int, curve: Sequence[tuple[int, int]]
) -> int | None:
    """In whole images and weights, level by level."""
    best = max((right for right, _ in curve), default=0)
    found: int | None = None
    for level, (right, weights) in enumerate(curve):
        close = 1000 * (best - right) <= thousandths * images
        if close and (found is None or weights < curve[found][1]):
            found = level
    return found


@settings(deadline=None, max_examples=300)
@given(thousandths=st.integers(0, 999) | st.integers(0, 30), counts=counted_curves())
def test_the_sparsest_within_is_what_its_definition_says(
    thousandths: int, counts: tuple[int, list[tuple[int, int]]]
) -> None:
    images, curve = counts
    measurements = pruned([right / images for right, _ in curve], [1 - n / 8 for _, n in curve])
    level = chosen_level(within(thousandths / 1000), measurements)
    assert level == selected_by_the_definition(thousandths, images, curve)


SELECTS: tuple[Select, ...] = ("best", "stopped", within(0), within(0.25))


@settings(deadline=None, max_examples=100)
@given(rule=st.none() | RULES, curve=CURVES, levels=st.integers(1, 12), after=CURVES)
def test_what_comes_after_a_stop_is_never_selected(
    rule: StopRule | None, curve: list[Measured], levels: int, after: list[Measured]
) -> None:
    decision = apply_stop_rule(rule, curve, levels)
    longer = apply_stop_rule(rule, [*curve, *after], levels)
    for select in SELECTS if decision.finished else ():
        assert longer.selected(select) == decision.selected(select)
        assert decision.stopped_at is None or decision.selected(select) in range(decision.trainings)


@settings(deadline=None, max_examples=300)
@given(rule=st.none() | RULES, counts=counted_curves(), select=st.sampled_from(SELECTS))
def test_a_level_that_is_there_and_selected_in_the_end_was_always_a_candidate(
    rule: StopRule | None, counts: tuple[int, list[tuple[int, int]]], select: Select
) -> None:
    images, curve = counts
    measurements = pruned([right / images for right, _ in curve], [1 - n / 8 for _, n in curve])
    decisions = [apply_stop_rule(rule, measurements[:k], len(curve)) for k in range(len(curve) + 1)]
    selected = decisions[-1].selected(select)
    for k, decision in enumerate(decisions):
        if selected is not None and selected < k:
            assert selected in decision.candidates(select)
    if selected is not None:
        assert decisions[-1].candidates(select) == {selected}
