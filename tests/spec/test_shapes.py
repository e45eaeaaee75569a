"""Closed forms without torch agree with the networks and the masks that torch builds."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdctl.ml.masks import count_nonzero, dense_masks, prunable_weights, remove_lowest
from dsdctl.spec.network import Network
from dsdctl.spec.networks.base import Task
from dsdctl.spec.networks.mlp import MLP
from dsdctl.spec.networks.resnet import ResNet18, TorchvisionResNet
from dsdctl.spec.networks.vgg import VGGLike
from dsdctl.spec.networks.vgg16 import VGG16
from dsdctl.spec.networks.vit import ViT
from dsdctl.spec.pruning import Pruning
from dsdctl.spec.shapes import (
    ignored_layers,
    kept_weights,
    remaining_weights,
)
from dsdctl.worker.networks import new_network

NETWORKS = [
    VGGLike(arch="vgg-like"),
    VGGLike(arch="vgg-like", depth=1, width=5, pool=3),
    VGGLike(arch="vgg-like", depth=3, width=4, pool=1),
    VGG16(arch="vgg16", width=3),
    ResNet18(arch="resnet18"),
    TorchvisionResNet(arch="resnet18-imagenet"),
    TorchvisionResNet(arch="resnet50-imagenet"),
    MLP(arch="mlp"),
    MLP(arch="mlp", hidden=(5,)),
    ViT(arch="vit", depth=2),
    ViT(arch="vit", patch=2, dim=12, depth=1, heads=3, mlp_dim=7),
]


def built(network: Network, channels: int, height: int, width: int, classes: int) -> Any:
    return new_network(network, (height, width, channels), classes)


@pytest.mark.parametrize(("channels", "size", "classes"), [(1, (8, 8), 10), (3, (12, 8), 100)])
@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_layer_weights_are_those_of_the_built_network(
    network: Network, channels: int, size: tuple[int, int], classes: int
) -> None:
    weights = prunable_weights(built(network, channels, *size, classes))
    expected = {name.removesuffix(".weight"): w.numel() for name, w in weights.items()}
    found = network.layer_weights(Task(channels, *size, classes))
    assert list(found.items()) == list(expected.items())


@pytest.mark.parametrize(
    ("network", "shape", "weights"),
    [
        # Of 4,967,082 parameters: 1984 conv biases, 3968 of BatchNorm, 10 linear biases.
        (VGGLike(arch="vgg-like"), (3, 32, 32, 10), 4_967_082 - 1984 - 3968 - 10),
        (VGGLike(arch="vgg-like", depth=1, width=1, pool=1), (1, 8, 8, 10), 28),
        # Of 14,728,266 parameters: 4224 conv biases, 8448 of BatchNorm, 10 linear biases.
        (VGG16(arch="vgg16"), (3, 32, 32, 10), 14_728_266 - 4224 - 8448 - 10),
        (ResNet18(arch="resnet18"), (3, 32, 32, 10), 11_164_352),
        # torchvision's 11,689,512 and 25,557,032 less BatchNorm and the last biases.
        (TorchvisionResNet(arch="resnet18-imagenet"), (3, 224, 224, 1000), 11_678_912),
        (TorchvisionResNet(arch="resnet50-imagenet"), (3, 224, 224, 1000), 25_502_912),
        (MLP(arch="mlp"), (1, 28, 28, 10), 266_200),
        (ViT(arch="vit"), (3, 32, 32, 10), 6 * 6 * 512**2 + 48 * 512 + 5120),
    ],
)
def test_weights_are_counted_in_closed_form(
    network: Network, shape: tuple[int, int, int, int], weights: int
) -> None:
    assert sum(network.layer_weights(Task(*shape)).values()) == weights


def test_layers_are_ignored_by_name_and_by_place_in_the_order_of_the_network() -> None:
    layers = VGGLike(arch="vgg-like", depth=1).layer_weights(Task(1, 8, 8, 10))
    assert list(layers) == ["features.0", "features.3", "classifier"]
    assert ignored_layers(layers, []) == ()
    assert ignored_layers(layers, ["last", "features.3"]) == ("features.3", "classifier")
    assert ignored_layers(layers, ["first", "features.0"]) == ("features.0",)


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_has_batchnorm_where_the_built_network_has(network: Network) -> None:
    modules = built(network, 1, 8, 8, 10).modules()
    found = any(isinstance(module, torch.nn.BatchNorm2d) for module in modules)
    assert network.BATCHNORM is found


def test_remaining_weights_are_rounded_level_by_level() -> None:
    pruning = Pruning(fraction=0.2, levels=4)
    assert remaining_weights([100], pruning) == [100, 80, 64, 51, 41]
    assert remaining_weights([20, 8], pruning) == [28, 22, 18, 14, 11]
    assert remaining_weights([2], pruning) == [2, 2, 2, 2, 2]
    assert remaining_weights([7], Pruning(fraction=0.5, levels=0)) == [7]


def test_remaining_weights_are_rounded_layer_by_layer_where_layers_are_ranked_by_themselves() -> (
    None
):
    pruning = Pruning(fraction=0.2, levels=3, scope="layer")
    # 7 -> 6 (1.4 go) -> 5 -> 4, and 3 -> 2 (0.6 goes) -> 2 -> 2.
    assert remaining_weights([7, 3], pruning) == [10, 8, 7, 6]


def test_remaining_weights_of_a_list_are_rounded_from_the_dense_count() -> None:
    sparsities = (0.25, 0.5, 0.9)
    assert remaining_weights([7, 3], Pruning(sparsities=sparsities)) == [10, 8, 5, 1]
    by_layer = Pruning(sparsities=sparsities, scope="layer")
    # Of 7: 2, 4 and 6 are removed; of 3: 1, 2 and 3. Halves are rounded to the even number.
    assert remaining_weights([7, 3], by_layer) == [10, 7, 4, 1]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 1000), min_size=1, max_size=5),
    st.lists(st.floats(0.001, 0.999), min_size=1, max_size=6, unique=True),
    st.sampled_from(["global", "layer"]),
)
def test_a_list_of_sparsities_is_reached_to_half_a_weight_a_layer(
    layers: list[int], sparsities: list[float], scope: Any
) -> None:
    pruning = Pruning(sparsities=tuple(sorted(sparsities)), scope=scope)
    total = sum(layers)
    groups = len(layers) if scope == "layer" else 1
    counts = remaining_weights(layers, pruning)
    assert counts == sorted(counts, reverse=True)
    for sparsity, count in zip(sorted(sparsities), counts[1:], strict=True):
        assert abs(count - (1 - sparsity) * total) <= groups / 2 + 1e-9


@pytest.mark.parametrize("fraction", [0.2, 0.35, 0.9])
def test_remaining_weights_are_what_pruning_leaves(fraction: float) -> None:
    weights = {"w.weight": torch.randn(337, generator=torch.Generator().manual_seed(0)).abs()}
    masks, counts = dense_masks(weights), [337]
    for _ in range(8):
        kept = kept_weights(337, counts[-1], fraction, None)
        masks = remove_lowest(weights, masks, counts[-1] - kept)
        counts.append(count_nonzero(masks))
    assert remaining_weights([337], Pruning(fraction=fraction, levels=8)) == counts


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_vgg_like_runs_on_its_smallest_side_and_on_no_smaller_one(depth: int) -> None:
    network = VGGLike(arch="vgg-like", depth=depth, width=1)
    side = network.smallest_side
    net = built(network, 1, side, side, 2).eval()
    assert net(torch.zeros(1, 1, side, side)).shape == (1, 2)
    with pytest.raises(RuntimeError, match="too small"):
        net(torch.zeros(1, 1, side - 1, side - 1))


@pytest.mark.parametrize("network", NETWORKS[3:], ids=str)
def test_the_other_networks_run_on_their_smallest_side(network: Network) -> None:
    side = network.smallest_side
    assert side == (16 if isinstance(network, VGG16) else getattr(network, "patch", 1))
    net = built(network, 1, side, side, 2).eval()
    assert net(torch.zeros(1, 1, side, side)).shape == (1, 2)
