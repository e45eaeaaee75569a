"""The ResNets are torchvision's: the paper's with another stem, those for large images as is."""

import math

import pytest
import torch
from networks import build_network
from samples import in_float64, random_images, with_random_statistics
from torch import nn

from dsdctl.system.torchvision import models


def test_resnet18_is_torchvisions_with_a_small_stem() -> None:
    network = with_random_statistics(build_network("resnet18", 3, 10, seed=0))
    theirs = models.resnet18(num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    names = theirs.state_dict().keys()
    theirs.load_state_dict(dict(zip(names, network.state_dict().values(), strict=True)))
    images = random_images(2, 3, 32, 32)
    ours, expected = in_float64(network)(images), in_float64(theirs).eval()(images)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("arch", ["resnet18", "resnet18-imagenet"])
def test_convolutions_are_kaiming_normal_by_fan_out(arch: str) -> None:
    network = build_network(arch, 3, 10, seed=0)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 20
    for module in convolutions:
        weight = module.weight.detach()
        fan_out = weight.shape[0] * weight.shape[2] * weight.shape[3]
        scaled = weight * math.sqrt(fan_out / 2)
        spread = 5 / math.sqrt(weight.numel())  # five standard errors, and more
        assert float(scaled.mean()) == pytest.approx(0, abs=spread)
        assert float(scaled.std()) == pytest.approx(1, abs=spread)
        # The share within one standard deviation tells a normal from a uniform (0.577).
        assert float((scaled.abs() < 1).float().mean()) == pytest.approx(0.6827, abs=spread)


@pytest.mark.parametrize(("depth", "parameters"), [(18, 11_689_512), (50, 25_557_032)])
def test_for_large_images_they_have_torchvisions_names_and_published_sizes(
    depth: int, parameters: int
) -> None:
    network = build_network(f"resnet{depth}-imagenet", 3, 1000, seed=0)
    theirs = getattr(models, f"resnet{depth}")().state_dict()
    ours = network.state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("channels", [1, 3])
def test_for_large_images_they_compute_what_torchvisions_do(channels: int) -> None:
    network = with_random_statistics(build_network("resnet18-imagenet", channels, 10, seed=0))
    theirs = models.resnet18(num_classes=10)
    if channels == 1:
        theirs.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    theirs.load_state_dict(network.state_dict())
    images = random_images(2, channels, 40, 40)
    ours, expected = in_float64(network)(images), in_float64(theirs).eval()(images)
    torch.testing.assert_close(ours, expected)
