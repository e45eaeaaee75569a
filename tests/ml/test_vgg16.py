"""VGG-16 is that of the literature, layer by layer, and is initialized as its keys say."""

import math

import pytest
import torch
from networks import build_network
from samples import in_float64, random_images, with_random_statistics
from torch import Tensor, nn

from dsdctl.ml.networks.vgg16 import VGG16

PLAN = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512]
"""As it is written in the literature: channels of convolutions, and max-pools."""


def made(**options: object) -> VGG16:
    network = build_network("vgg16", 3, 10, seed=0, **options)
    assert isinstance(network, VGG16)
    return network


def by_the_plan(network: VGG16, images: Tensor, width: int) -> Tensor:
    """The logits by plain operations, read off the plan."""
    state = network.state_dict()
    place, maps = 0, images
    for step in PLAN:
        if step == "M":
            maps = nn.functional.max_pool2d(maps, 2, 2)
            place += 1
            continue
        conv, norm = f"features.{place}", f"features.{place + 1}"
        maps = nn.functional.conv2d(maps, state[f"{conv}.weight"], state[f"{conv}.bias"], padding=1)
        assert maps.shape[1] == int(step) * width // 64
        mean, variance = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        scale, shift = state[f"{norm}.weight"], state[f"{norm}.bias"]
        maps = nn.functional.batch_norm(maps, mean, variance, scale, shift).relu()
        place += 3
    pooled = nn.functional.avg_pool2d(maps, 2).flatten(1)
    return pooled @ state["classifier.weight"].T + state["classifier.bias"]


def test_it_computes_what_its_plan_says() -> None:
    network = in_float64(with_random_statistics(made(width=4)))
    images = random_images(3, 3, 32, 32).double()
    torch.testing.assert_close(network(images), by_the_plan(network, images, 4))


def test_it_has_the_published_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in made().parameters()) == 14_728_266


def test_weights_are_kaiming_normal_over_the_inputs_and_scales_uniform() -> None:
    for module in made(width=16).modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight, inputs = module.weight.detach(), module.weight[0].numel()
            # A sum of squares of normals scatters by sqrt(2 / count) of itself.
            count, variance = weight.numel(), float(weight.square().mean())
            assert abs(variance * inputs / 2 - 1) < 6 * math.sqrt(2 / count)
        elif isinstance(module, nn.BatchNorm2d):
            scales = module.weight.detach()
            assert 0 <= float(scales.min()) < float(scales.max()) < 1
            assert not module.bias.any()


def test_pytorchs_own_initialization_is_a_choice() -> None:
    for module in made(width=4, weights_init="default", batchnorm_init="ones").modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())
            assert 0.9 * bound < float(module.weight.detach().abs().max()) <= bound
        elif isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all())


@pytest.mark.parametrize(
    ("key", "kind"),
    [({"weights_init": "default"}, nn.Conv2d), ({"batchnorm_init": "ones"}, nn.BatchNorm2d)],
)
def test_each_key_changes_the_first_layer_that_it_names(
    key: dict[str, str], kind: type[nn.Module]
) -> None:
    plain, other = made(width=4), made(width=4, **key)
    first = next(k for k, module in enumerate(plain.features) if isinstance(module, kind))
    assert not torch.equal(plain.features[first].weight, other.features[first].weight)
