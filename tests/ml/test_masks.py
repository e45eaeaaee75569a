import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import build_network
from torch import Tensor, nn
from torch.nn.utils import prune

from dsdctl.ml.masks import (
    Masks,
    apply_masks,
    count_nonzero,
    dense_masks,
    prunable_weights,
    remove_lowest,
)
from dsdctl.ml.scores import magnitude_scores

FRACTIONS = st.floats(0, 1, allow_subnormal=False)  # torch flushes denormals here
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


@st.composite
def masked_weights(draw: st.DrawFn) -> tuple[dict[str, Tensor], Masks]:
    """A few tensors of small integers, so that ties abound, under masks of an earlier level."""
    weights, masks = {}, {}
    for number, shape in enumerate(draw(st.lists(SHAPES, min_size=1, max_size=3))):
        stream = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
        weights[f"{number}.weight"] = torch.randint(-4, 5, shape, generator=stream).float()
        masks[f"{number}.weight"] = torch.rand(shape, generator=stream) < 0.8
    return weights, masks


def prune_by_magnitude(weights: dict[str, Tensor], masks: Masks, fraction: float) -> Masks:
    removed = round(fraction * count_nonzero(masks))
    return remove_lowest(magnitude_scores(weights), masks, removed)


def smallest_removed_one_by_one(weights: dict[str, Tensor], masks: Masks, fraction: float) -> Masks:
    """The specification: sort what is left by magnitude, then by position; the first go."""
    places = [
        (float(weights[name][place].abs()), position, name, place)
        for position, (name, place) in enumerate(
            (name, tuple(place))
            for name, mask in masks.items()
            for place in mask.nonzero().tolist()
        )
    ]
    expected = {name: mask.clone() for name, mask in masks.items()}
    for _, _, name, place in sorted(places)[: round(fraction * len(places))]:
        expected[name][place] = False
    return expected


@settings(deadline=None, max_examples=60)
@given(masked_weights(), FRACTIONS)
def test_the_smallest_remaining_magnitudes_go_and_ties_go_in_order(
    pair: tuple[dict[str, Tensor], Masks], fraction: float
) -> None:
    weights, masks = pair
    before = {name: mask.clone() for name, mask in masks.items()}

    pruned = prune_by_magnitude(weights, masks, fraction)

    expected = smallest_removed_one_by_one(weights, masks, fraction)
    assert pruned.keys() == masks.keys()
    for name, mask in pruned.items():
        assert torch.equal(mask, expected[name])
        assert torch.equal(masks[name], before[name])  # the caller's masks are left alone


@settings(deadline=None, max_examples=60)
@given(masked_weights(), FRACTIONS, st.integers(1, 5))
def test_masks_only_shrink_and_by_exactly_the_rounded_share(
    pair: tuple[dict[str, Tensor], Masks], fraction: float, levels: int
) -> None:
    weights, masks = pair
    for _ in range(levels):
        pruned = prune_by_magnitude(weights, masks, fraction)
        remaining = count_nonzero(masks)
        assert count_nonzero(pruned) == remaining - round(fraction * remaining)
        assert all(bool((masks[name] | ~pruned[name]).all()) for name in masks)
        masks = pruned


@pytest.mark.parametrize("arch_options", [{"depth": 1, "width": 4}, {"depth": 2, "width": 3}])
def test_levels_agree_with_global_unstructured_pruning_of_torch(
    arch_options: dict[str, int],
) -> None:
    network = build_network("vgg-like", 3, 10, seed=0, pool=2, **arch_options)
    theirs = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    layers = {
        f"{name}.weight": module
        for name, module in theirs.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    parameters: list[Any] = [(module, "weight") for module in layers.values()]
    weights = prunable_weights(network)
    masks = dense_masks(weights)
    stream = torch.Generator().manual_seed(0)
    remaining = sum(module.weight.numel() for module in layers.values())

    for _ in range(6):
        masks = prune_by_magnitude(weights, masks, 0.2)
        apply_masks(weights, masks)
        prune.global_unstructured(parameters, prune.L1Unstructured, amount=0.2)

        remaining -= round(0.2 * remaining)
        assert count_nonzero(masks) == remaining
        assert masks.keys() == layers.keys()
        for name, module in layers.items():
            assert torch.equal(masks[name], module.weight_mask.bool())
        with torch.no_grad():  # "retrain": the same step for both, removed weights stay removed
            for name, module in layers.items():
                step = torch.randn(module.weight.shape, generator=stream) * 0.1
                module.weight_orig.add_(step)
                weights[name].add_(step * masks[name])
            theirs(torch.zeros(2, 3, 4, 4))  # torch's pruning renews `weight` in the forward pass


def test_a_share_that_rounds_to_nothing_removes_nothing() -> None:
    weights = {"layer.weight": torch.tensor([3.0, -1.0, 2.0])}
    masks = {"layer.weight": torch.tensor([True, True, False])}
    assert torch.equal(
        prune_by_magnitude(weights, masks, 0.2)["layer.weight"], masks["layer.weight"]
    )


def test_of_equal_magnitudes_the_first_go_first() -> None:
    weights = {"a.weight": torch.tensor([[-1.0, 1.0], [5.0, 1.0]]), "b.weight": torch.ones(2)}
    pruned = prune_by_magnitude(weights, dense_masks(weights), 0.5)
    assert pruned["a.weight"].tolist() == [[False, False], [True, False]]
    assert pruned["b.weight"].tolist() == [True, True]


def test_only_conv_and_linear_weights_are_prunable() -> None:
    network = build_network("resnet18", 3, 10, seed=0)
    convolutions = {name for name in network.state_dict() if ".conv" in f".{name}"}
    shortcuts = {name for name in network.state_dict() if name.endswith("shortcut.0.weight")}
    assert len(convolutions) == 17
    assert len(shortcuts) == 3
    assert prunable_weights(network).keys() == convolutions | shortcuts | {"classifier.weight"}


def test_applying_masks_zeroes_what_is_removed_and_nothing_else() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    apply_masks({"w.weight": weight}, {"w.weight": torch.tensor([True, False, True])})
    assert weight.tolist() == [1.0, 0.0, 3.0]
