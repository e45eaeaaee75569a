import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dsdctl.ml.noise import Noise, flip_symmetric, flip_to, noisy_labels, redraw


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 1_000), max_size=80),
    st.integers(2, 12),
    st.floats(0, 1, allow_subnormal=False),
)
def test_exactly_the_rated_number_of_labels_changes_to_another_class(
    values: list[int], classes: int, rate: float
) -> None:
    labels = torch.tensor(values, dtype=torch.int64) % classes
    before = labels.clone()
    noisy = flip_symmetric(labels, classes, rate, stream(0))
    assert int((noisy != before).sum()) == int(len(values) * rate)
    assert bool(((noisy >= 0) & (noisy < classes)).all())
    assert torch.equal(labels, before)


@pytest.mark.parametrize("true_class", [0, 2, 4])
def test_flipped_labels_are_uniform_over_the_other_classes(true_class: int) -> None:
    labels = torch.full((20_000,), true_class)
    counts = torch.bincount(flip_symmetric(labels, 5, 0.5, stream(1)), minlength=5)
    assert counts[true_class] == 10_000
    for other in set(range(5)) - {true_class}:
        assert int(counts[other]) == pytest.approx(2_500, abs=5 * 43)  # five standard deviations


def test_flipped_positions_are_spread_over_the_whole_set() -> None:
    labels = torch.zeros(2_000, dtype=torch.int64)
    flipped = flip_symmetric(labels, 10, 0.5, stream(2)) != 0
    for quarter in flipped.split(500):
        assert int(quarter.sum()) == pytest.approx(250, abs=5 * 10)


def flipped_labels(seed: int) -> Tensor:
    return flip_symmetric(torch.arange(200) % 4, 4, 0.3, stream(seed))


def test_noise_is_a_function_of_its_stream() -> None:
    first = flipped_labels(3)
    torch.manual_seed(99)  # global state plays no part
    assert torch.equal(first, flipped_labels(3))
    clean = torch.arange(200) % 4
    assert not torch.equal(first != clean, flipped_labels(4) != clean)


def test_noise_leaves_global_random_state_alone() -> None:
    state = torch.get_rng_state()
    flipped_labels(0)
    assert torch.equal(torch.get_rng_state(), state)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 1_000), min_size=1, max_size=80),
    st.integers(2, 12),
    st.floats(0, 1, allow_subnormal=False),
)
def test_pair_flip_takes_exactly_the_rated_number_of_labels_to_the_next_class(
    values: list[int], classes: int, rate: float
) -> None:
    labels = torch.tensor(values, dtype=torch.int64) % classes
    noisy = noisy_labels(labels, classes, Noise("pair-flip", rate, 0), stream(0))
    flipped = noisy != labels
    assert int(flipped.sum()) == int(len(values) * rate)
    assert torch.equal(noisy[flipped], (labels[flipped] + 1) % classes)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 200), st.integers(2, 12), st.floats(0, 1, allow_subnormal=False))
def test_redrawing_selects_as_many_labels_and_changes_no_other(
    count: int, classes: int, rate: float
) -> None:
    labels = torch.arange(count) % classes
    # Classes beyond the true ones show which labels were selected, as far as chance allows.
    noisy = redraw(labels, 10**6, rate, stream(0))
    changed = int((noisy != labels).sum())
    assert int(count * rate) - 2 <= changed <= int(count * rate)
    assert bool((redraw(labels, classes, rate, stream(0)) < classes).all())


@pytest.mark.parametrize("true_class", [0, 4])
def test_redrawn_labels_are_uniform_over_all_classes(true_class: int) -> None:
    labels = torch.full((20_000,), true_class)
    counts = torch.bincount(redraw(labels, 5, 0.5, stream(1)), minlength=5)
    for label in range(5):
        expected = 2_000 + (10_000 if label == true_class else 0)
        assert int(counts[label]) == pytest.approx(expected, abs=5 * 40)  # five deviations


def test_asymmetric_noise_takes_selected_labels_where_its_map_says() -> None:
    labels = torch.arange(10_000) % 4
    targets = (0, 3, 2, 1)
    noisy = noisy_labels(labels, 4, Noise("asymmetric", 0.3, 0, targets), stream(2))
    assert torch.equal(noisy[labels % 2 == 0], labels[labels % 2 == 0])
    for label, target in ((1, 3), (3, 1)):
        found = noisy[labels == label]
        assert set(found.tolist()) == {label, target}
        # A selection without regard to class: hypergeometric, standard deviation under 20.
        assert int((found == target).sum()) == pytest.approx(750, abs=5 * 20)


@pytest.mark.parametrize("classes", [2, 10])
def test_a_map_that_moves_every_class_flips_exactly_what_is_selected(classes: int) -> None:
    labels = torch.arange(997) % classes
    noisy = flip_to(labels, (torch.arange(classes) + 1) % classes, 0.45, stream(0))
    assert int((noisy != labels).sum()) == int(0.45 * 997)


def test_kinds_of_noise_select_the_same_labels_from_the_same_stream() -> None:
    labels = torch.arange(500) % 5
    symmetric = noisy_labels(labels, 5, Noise("symmetric", 0.4, 0), stream(7))
    pair = noisy_labels(labels, 5, Noise("pair-flip", 0.4, 0), stream(7))
    assert torch.equal(symmetric != labels, pair != labels)
