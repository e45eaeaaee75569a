import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsdctl.ml.models import NETWORKS, AdaptivePool, Network, VGGLike, build_network
from dsdctl.ml.randomness import generator

ARCHS: list[tuple[str, dict[str, int]]] = [
    ("vgg-like", {"depth": 2, "width": 4}),
    ("vgg-like", {"depth": 1, "width": 3, "pool": 2}),
    ("resnet18", {}),
]


def random_images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def with_random_statistics(network: Network) -> Network:
    """Give BatchNorm something to do in eval mode."""
    stream = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3, generator=stream)
            module.running_var.uniform_(0.5, 2, generator=stream)
            nn.init.uniform_(module.weight, 0.5, 2, generator=stream)
    return network.eval()


def test_vgg_like_is_conv_relu_batchnorm_twice_then_max_pool_then_one_linear() -> None:
    network = with_random_statistics(build_network("vgg-like", 3, 10, seed=0, depth=3, width=4))
    images = random_images(5, 3, 16, 16)
    tensors = iter(network.state_dict().values())
    maps = images
    for _ in range(3):
        for _ in range(2):
            maps = F.relu(F.conv2d(maps, next(tensors), next(tensors), padding=1))
            gain, shift, mean, variance, _ = (next(tensors) for _ in range(5))
            maps = F.batch_norm(maps, mean, variance, gain, shift)
        maps = F.max_pool2d(maps, 2)
    pooled = F.adaptive_avg_pool2d(maps, 7).flatten(1)
    expected = F.linear(pooled, next(tensors), next(tensors))
    torch.testing.assert_close(network(images), expected)


def test_resnet18_is_torchvisions_with_a_small_stem() -> None:
    import dsdctl.ml.torchvision_compat  # noqa: I001, F401  torchvision beside a CPU build of torch
    from torchvision.models import resnet18

    network = with_random_statistics(build_network("resnet18", 3, 10, seed=0))
    theirs = resnet18(num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    names = theirs.state_dict().keys()
    theirs.load_state_dict(dict(zip(names, network.state_dict().values(), strict=True)))
    images = random_images(2, 3, 32, 32)
    torch.testing.assert_close(network(images), theirs.eval()(images), rtol=1e-4, atol=1e-4)


def test_the_default_vgg_like_has_the_papers_parameter_count() -> None:
    network = build_network("vgg-like", 3, 10, seed=0, depth=5, width=32)
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_967_082


@pytest.mark.parametrize(
    ("arch", "options", "relus"),
    [("vgg-like", {"depth": 3, "width": 2}, 6), ("resnet18", {}, 17)],
)
def test_every_relu_is_a_module_called_once(arch: str, options: dict[str, int], relus: int) -> None:
    network = build_network(arch, 1, 10, seed=0, **options)
    calls: list[nn.Module] = []
    modules = [module for module in network.modules() if isinstance(module, nn.ReLU)]
    for module in modules:
        module.register_forward_hook(lambda module, _inputs, _output: calls.append(module))
    network(random_images(2, 1, 16, 16))
    assert len(modules) == relus
    assert sorted(map(id, calls)) == sorted(map(id, modules))


@pytest.mark.parametrize("sides", [(1, 1), (2, 2), (3, 5)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_adaptive_pool_is_torchs_bit_for_bit(sides: tuple[int, int], channels_last: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    ours = random_images(3, 5, *sides).contiguous(memory_format=layout).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    pooled, expected = AdaptivePool(7)(ours), nn.AdaptiveAvgPool2d(7)(theirs)
    assert torch.equal(pooled, expected)

    gradient = random_images(3, 5, 7, 7)
    pooled.backward(gradient)
    expected.backward(gradient)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_vgg_like_is_initialised_as_torch_does_by_default() -> None:
    torch.manual_seed(7)
    expected = VGGLike(3, 10, depth=2, width=4)
    network = VGGLike(3, 10, depth=2, width=4)
    network.initialise(torch.Generator().manual_seed(7))
    for name, tensor in expected.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)


def test_vgg_like_weights_fill_the_default_bounds() -> None:
    network = build_network("vgg-like", 3, 10, seed=0, depth=2, width=16)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())
            assert 0.98 * bound < float(module.weight.detach().abs().max()) <= bound
            assert float(module.weight.detach().std()) == pytest.approx(
                bound / math.sqrt(3), rel=0.1
            )
            assert module.bias is not None
            assert 0 < float(module.bias.detach().abs().max()) <= bound


def test_resnet18_convolutions_are_kaiming_normal_by_fan_out() -> None:
    network = build_network("resnet18", 3, 10, seed=0)
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


@pytest.mark.parametrize(("arch", "options"), ARCHS)
def test_initial_weights_are_a_function_of_seed_and_level(
    arch: str, options: dict[str, int]
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
def test_no_weight_is_left_as_the_constructor_drew_it(arch: str, options: dict[str, int]) -> None:
    expected = build_network(arch, 3, 10, seed=0, level=2, **options).state_dict()
    network = NETWORKS[arch](3, 10, **options)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                for parameter in module.parameters():
                    parameter.fill_(9)
        network.initialise(generator("initialisation", 0, 2))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize(("arch", "options"), ARCHS)
def test_building_leaves_global_random_state_alone(arch: str, options: dict[str, int]) -> None:
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
