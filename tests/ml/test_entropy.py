import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import build_network
from samples import in_float64
from torch import Tensor, nn

from dsdctl.ml.entropy import ActivationCounter, binary_entropy_bits


def bits(share: float) -> float:
    return -sum(p * math.log2(p) for p in (share, 1 - share) if p > 0)


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, 0.0), (1.0, 0.0), (0.5, 1.0), (0.25, 2 - 0.75 * math.log2(3)), (0.75, 0.811278124459)],
)
def test_binary_entropy_has_its_known_values(share: float, expected: float) -> None:
    entropy = binary_entropy_bits(torch.tensor([share], dtype=torch.float64))
    assert float(entropy) == pytest.approx(expected, abs=1e-12)


def inputs_image_by_image(network: nn.Module, images: Tensor) -> dict[str, list[list[float]]]:
    """What goes into each call of an activation: for each call, for each image, the units in a row.

    A module called once is named as it is, one called several times with the number of the call.
    """
    calls: list[tuple[str, list[float]]] = []
    handles = [
        module.register_forward_pre_hook(
            lambda _module, inputs, name=name: calls.append((name, inputs[0].flatten().tolist()))
        )
        for name, module in network.named_modules()
        if isinstance(module, nn.ReLU | nn.GELU)
    ]
    seen: dict[str, list[list[float]]] = {}
    for image in images:
        calls.clear()
        network(image[None])
        names = [name for name, _ in calls]
        for place, (name, units) in enumerate(calls):
            number = f":{names[: place + 1].count(name)}" if names.count(name) > 1 else ""
            seen.setdefault(name + number, []).append(units)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize(
    ("arch", "options", "side"),
    [
        ("vgg-like", {"depth": 2, "width": 3}, 8),
        ("resnet18", {}, 4),
        ("resnet18-imagenet", {}, 16),
        ("mlp", {"hidden": (7, 5)}, 4),
        ("vit", {"dim": 8, "depth": 2, "heads": 2, "mlp_dim": 6}, 8),
    ],
)
@torch.no_grad()
def test_layer_entropies_equal_a_naive_loop_over_stored_inputs(
    arch: str, options: dict[str, Any], side: int
) -> None:
    network = build_network(arch, 1, 4, seed=0, image_size=(side, side), **options).eval()
    in_float64(network)
    images = torch.randn(11, 1, side, side, generator=torch.Generator().manual_seed(0))
    expected = {}
    for name, rows in inputs_image_by_image(network, images).items():
        units = list(zip(*rows, strict=True))
        entropies = [bits(sum(value > 0 for value in unit) / len(unit)) for unit in units]
        expected[name] = sum(entropies) / len(entropies)

    with ActivationCounter(network) as counter:
        for part in images.split(4):
            network(part)

    assert list(counter.layer_bits()) == list(expected)
    assert counter.layer_bits() == pytest.approx(expected, abs=1e-9)
    assert 0.01 < min(expected.values()) <= max(expected.values()) <= 1


def basic_units(side: int) -> list[int]:
    """Units of ResNet-18's blocks, `side` being that of the maps after the max-pool."""
    stages = [64 * 2**stage * (side >> stage) ** 2 for stage in range(4)]
    return [units for units in stages for _ in range(4)]


def bottleneck_units(side: int) -> list[int]:
    """The same of ResNet-50, whose blocks reduce the maps after their first ReLU."""
    found = []
    for stage, count in enumerate((3, 4, 6, 3)):
        width, area = 64 * 2**stage, (side >> stage) ** 2
        found += [width * (side >> max(stage - 1, 0)) ** 2, width * area, 4 * width * area]
        found += (count - 1) * [width * area, width * area, 4 * width * area]
    return found


@pytest.mark.parametrize(
    ("arch", "options", "side", "units"),
    [
        ("vgg-like", {"depth": 3, "width": 2}, 16, [512, 512, 256, 256, 128, 128]),
        ("resnet18", {}, 32, [64 * 32**2, *basic_units(16)]),
        ("resnet18-imagenet", {}, 64, [64 * 32**2, *basic_units(16)]),
        ("resnet50-imagenet", {}, 64, [64 * 32**2, *bottleneck_units(16)]),
        ("mlp", {}, 28, [300, 100]),
        ("vit", {}, 32, 6 * [65 * 512]),
    ],
)
@torch.no_grad()
def test_every_unit_of_a_network_is_counted_once(
    arch: str, options: dict[str, Any], side: int, units: list[int]
) -> None:
    network = build_network(arch, 3, 10, seed=0, image_size=(side, side), **options).eval()
    with ActivationCounter(network) as counter:
        network(torch.randn(1, 3, side, side))
    assert [counts.numel() for counts in counter.counts.values()] == units


def test_a_gelu_is_on_where_its_input_is_above_zero() -> None:
    network = nn.Sequential(nn.GELU())
    with ActivationCounter(network) as counter:
        network(torch.tensor([[-20.0, -1.0, 0.0, 1e-30, 2.0]]))
    assert counter.counts["0"].tolist() == [0, 0, 0, 1, 1]


def test_a_relu_in_place_and_used_twice_is_two_layers() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

        def forward(self, values: Tensor) -> Tensor:
            return self.relu(self.relu(values.clone()) - 1)

    network = Twice()
    with ActivationCounter(network) as counter:
        for values in ([[-1.0, 0.5], [2.0, 3.0]], [[0.0, 4.0]]):
            network(torch.tensor(values))
    assert {name: counts.tolist() for name, counts in counter.counts.items()} == {
        "relu:1": [1, 3],
        "relu:2": [1, 2],
    }


@torch.no_grad()
def test_a_unit_is_one_channel_at_one_position() -> None:
    network = build_network("vgg-like", 1, 4, seed=0, depth=2, width=3).eval()
    with ActivationCounter(network) as counter:
        network(torch.randn(2, 1, 8, 6))
    shapes = [tuple(counts.shape) for counts in counter.counts.values()]
    assert shapes == [(3, 8, 6), (3, 8, 6), (6, 4, 3), (6, 4, 3)]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_batching_does_not_matter_and_zero_is_not_active(
    images: int, batch: int, seed: int
) -> None:
    stream = torch.Generator().manual_seed(seed)
    values = torch.randint(-1, 2, (images, 2, 3), generator=stream).float()
    network = nn.Sequential(nn.ReLU(), nn.Linear(3, 2), nn.ReLU())
    with ActivationCounter(network) as counter:
        for part in values.split(batch):
            network(part)
    assert counter.images == images
    assert torch.equal(counter.counts["0"], (values > 0).sum(0))


@torch.no_grad()
def test_hooks_are_gone_after_use_even_after_an_error() -> None:
    network = build_network("vgg-like", 1, 4, seed=0, depth=1, width=2).eval()

    def hooks() -> int:
        return sum(len(module._forward_hooks) for module in network.modules())

    def fail_while_counting() -> None:
        with ActivationCounter(network):
            assert hooks() == 2
            network(torch.zeros(1, 3, 8, 8))  # three channels where one is expected

    with pytest.raises(RuntimeError):
        fail_while_counting()
    assert hooks() == 0

    with ActivationCounter(network) as counter:
        network(torch.randn(3, 1, 8, 8))
    network(torch.randn(5, 1, 8, 8))
    assert (hooks(), counter.images) == (0, 3)
