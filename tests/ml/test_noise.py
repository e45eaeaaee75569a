import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dsdctl.ml.noise import flip_symmetric


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


def noisy_labels(seed: int) -> Tensor:
    return flip_symmetric(torch.arange(200) % 4, 4, 0.3, stream(seed))


def test_noise_is_a_function_of_its_stream() -> None:
    first = noisy_labels(3)
    torch.manual_seed(99)  # global state plays no part
    assert torch.equal(first, noisy_labels(3))
    clean = torch.arange(200) % 4
    assert not torch.equal(first != clean, noisy_labels(4) != clean)


def test_noise_leaves_global_random_state_alone() -> None:
    state = torch.get_rng_state()
    noisy_labels(0)
    assert torch.equal(torch.get_rng_state(), state)
