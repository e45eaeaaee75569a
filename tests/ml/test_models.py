"""What holds for every network: where its weights come from, and that a spec can name it."""

import typing
from typing import Any

import pytest
import torch
from networks import MODELS, build_network
from torch import Tensor, nn

from dsdctl.ml.networks.build import network_class
from dsdctl.ml.randomness import generator
from dsdctl.spec.experiment import Teacher
from dsdctl.spec.network import BuiltIn

ARCHS: list[tuple[str, dict[str, Any]]] = [
    ("vgg-like", {"depth": 2, "width": 4}),
    ("vgg-like", {"depth": 1, "width": 3, "pool": 2}),
    ("vgg16", {"width": 2}),
    ("vgg16", {"width": 2, "weights_init": "default", "batchnorm_init": "ones"}),
    ("resnet18", {}),
    ("resnet18-imagenet", {}),
    ("mlp", {"image_size": (8, 6), "hidden": (5, 3)}),
    ("vit", {"image_size": (8, 4), "dim": 6, "depth": 2, "heads": 2, "mlp_dim": 5}),
]


BUILT_IN_TEACHER = typing.get_args(typing.get_args(Teacher)[0])[0]


@pytest.mark.parametrize("union", [BuiltIn, BUILT_IN_TEACHER], ids=["student", "teacher"])
def test_a_spec_can_name_every_network_as_student_and_teacher(union: Any) -> None:
    choices = typing.get_args(typing.get_args(union)[0])
    archs = [typing.get_args(choice.model_fields["arch"].annotation) for choice in choices]
    assert sorted(MODELS) == sorted(arch for several in archs for arch in several)
    for choice in choices:
        assert network_class(choice.MODULE).__name__ == choice.__name__.removesuffix("Teacher")


@pytest.mark.parametrize(("arch", "options"), ARCHS)
def test_initial_weights_are_a_function_of_seed_and_level(
    arch: str, options: dict[str, Any]
) -> None:
    def weights(seed: int, level: int) -> list[Tensor]:
        network = build_network(arch, 3, 10, seed=seed, level=level, **options)
        return [tensor for tensor in network.state_dict().values() if tensor.ndim > 1]

    first = weights(0, 0)
    torch.manual_seed(99)  # global state plays no part
    assert all(map(torch.equal, first, weights(0, 0)))
    for other in (weights(1, 0), weights(0, 1)):
        assert not any(map(torch.equal, first, other))


@pytest.mark.parametrize(("arch", "options"), ARCHS)
def test_no_weight_is_left_as_the_constructor_drew_it(arch: str, options: dict[str, Any]) -> None:
    options = dict(options)
    expected = build_network(arch, 3, 10, seed=0, level=2, **options).state_dict()
    size = options.pop("image_size", (8, 8))
    choice = MODELS[arch](arch=arch, **options)
    network = network_class(choice.MODULE)(3, 10, **choice.arguments(size))
    with torch.no_grad():
        for module in network.modules():
            if not isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                for parameter in module.parameters(recurse=False):
                    parameter.fill_(9)
        network.initialize(generator("initialisation", 0, 2))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize(("arch", "options"), ARCHS)
def test_building_leaves_global_random_state_alone(arch: str, options: dict[str, Any]) -> None:
    state = torch.get_rng_state()
    build_network(arch, 3, 10, seed=0, **options)
    assert torch.equal(torch.get_rng_state(), state)


def test_networks_are_channels_last() -> None:
    network = build_network("resnet18", 3, 10, seed=0)
    assert all(
        module.weight.is_contiguous(memory_format=torch.channels_last)
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    )
