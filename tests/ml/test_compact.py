"""Compaction: the same logits from fewer channels, whatever was pruned."""

from typing import Any

import pytest
import torch
from networks import build_network
from samples import in_float64
from torch import Tensor, nn

from dsdctl.ml.compact import compacted, links_of
from dsdctl.ml.masks import prunable_weights
from dsdctl.ml.networks.network import Network
from dsdctl.ml.randomness import generator

NETWORKS: dict[str, tuple[dict[str, Any], int]] = {
    "vgg-like": ({"depth": 2, "width": 6, "pool": 2}, 8),
    "vgg16": ({"width": 3}, 16),
    "mlp": ({"hidden": (24, 12)}, 8),
    "resnet18": ({}, 8),
    "vit": ({"patch": 4, "dim": 8, "depth": 1, "heads": 2, "mlp_dim": 8}, 8),
}


def pruned(arch: str, *, layer_share: float, channels: bool = True) -> Network:
    """A network with that share of each layer's weights removed, and whole channels with them.

    Biases and BatchNorm hold what training might have left there.
    """
    options, side = NETWORKS[arch]
    network = build_network(arch, 2, 5, seed=3, image_size=(side, side), **options).eval()
    stream = generator("initialisation", 7)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean):
                    assert tensor is not None
                    tensor.copy_(torch.randn(tensor.shape, generator=stream))
                assert module.running_var is not None
                module.running_var.uniform_(0.5, 2, generator=stream)
        for weight in prunable_weights(network).values():
            weight *= torch.rand(weight.shape, generator=stream) > layer_share
            if channels:
                rows = torch.rand(len(weight), generator=stream) > layer_share
                columns = torch.rand(weight.shape[1], generator=stream) > layer_share
                weight[~rows] = 0
                weight[:, ~columns] = 0
    return in_float64(network)


def images(side: int = 8) -> Tensor:
    return torch.randn(16, 2, side, side, generator=generator("initialisation", 9))


CASES = [(arch, share) for arch in ("vgg-like", "mlp") for share in (0.0, 0.3, 0.6, 0.9, 1.0)]


@pytest.mark.parametrize(
    ("arch", "share"),
    [*CASES, ("vgg16", 0.3), ("vgg16", 0.6), ("resnet18", 0.6), ("vit", 0.6)],
)
def test_a_compacted_network_computes_the_same(arch: str, share: float) -> None:
    network = pruned(arch, layer_share=share)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    smaller = compacted(network)
    shown = images(NETWORKS[arch][1])
    torch.testing.assert_close(smaller(shown), network(shown))
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())


@pytest.mark.parametrize("arch", ["vgg-like", "vgg16", "mlp"])
def test_no_channel_that_is_left_does_nothing(arch: str) -> None:
    smaller = compacted(pruned(arch, layer_share=0.5))
    for link in links_of(smaller):
        read = link.read.transpose(0, 1).flatten(1).any(1)
        written = link.writer.weight.flatten(1).any(1)
        constant = int((~written).count_nonzero())
        assert bool(read.all())
        assert constant <= (0 if isinstance(link.reader, nn.Linear) else 1)


@pytest.mark.parametrize("arch", ["vgg-like", "mlp", "resnet18"])
@pytest.mark.parametrize("block", [2, 4, 16])
def test_convolutions_keep_whole_blocks_of_channels_and_compute_the_same(
    arch: str, block: int
) -> None:
    network = pruned(arch, layer_share=0.6)
    smaller, least = compacted(network, block), compacted(network)
    torch.testing.assert_close(smaller(images()), network(images()))
    for whole, some, few in zip(*map(links_of, (network, smaller, least)), strict=True):
        before, kept, needed = (len(link.writer.weight) for link in (whole, some, few))
        if isinstance(whole.writer, nn.Linear):
            assert kept == needed
        else:
            assert kept == before or (kept % block == 0 and needed <= kept < needed + 2 * block)


def test_nothing_is_taken_from_a_dense_network() -> None:
    for arch in ("vgg-like", "mlp"):
        network = pruned(arch, layer_share=0.0)
        sizes = [tensor.shape for tensor in network.state_dict().values()]
        assert [tensor.shape for tensor in compacted(network).state_dict().values()] == sizes


def test_a_constant_is_one_at_the_border_too() -> None:
    """Two filters without weights leave one channel, and the padding after it counts."""
    network = in_float64(build_network("vgg-like", 2, 5, seed=0, depth=1, width=4, pool=2)).eval()
    first = network.features[0]
    with torch.no_grad():
        first.weight[1:3] = 0
        first.bias[1:3] = torch.tensor([2.0, 3.0])
    smaller = compacted(network)
    assert len(smaller.features[0].weight) == 3
    torch.testing.assert_close(smaller(images()), network(images()))


def test_layers_say_the_sizes_that_they_have() -> None:
    smaller = compacted(pruned("vgg-like", layer_share=0.5))
    for module in smaller.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels)
        if isinstance(module, nn.BatchNorm2d):
            assert len(module.weight) == module.num_features
