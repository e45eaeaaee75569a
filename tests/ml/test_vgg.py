"""The VGG-like network is the paper's, bit for bit what PyTorch's own parts give."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from networks import build_network
from samples import UNIT, in_float64, random_images, with_random_statistics
from torch import Tensor, nn

from dsdctl.ml.device import precision
from dsdctl.ml.networks.vgg import AdaptivePool, VGGLike


def test_vgg_like_is_conv_relu_batchnorm_twice_then_max_pool_then_one_linear() -> None:
    network = with_random_statistics(build_network("vgg-like", 3, 10, seed=0, depth=3, width=4))
    images = random_images(5, 3, 16, 16).double()
    in_float64(network)
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


def test_the_default_vgg_like_has_the_papers_parameter_count() -> None:
    network = build_network("vgg-like", 3, 10, seed=0, depth=5, width=32)
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_967_082


@pytest.mark.parametrize("sides", [(1, 1), (2, 2), (3, 5)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_adaptive_pool_is_torchs_bit_for_bit(sides: tuple[int, int], channels_last: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    ours = random_images(3, 5, *sides).contiguous(memory_format=layout).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    pooled, expected = AdaptivePool(7)(ours), nn.AdaptiveAvgPool2d(7)(theirs)
    assert torch.equal(pooled, expected)

    gradient = random_images(3, 5, 7, 7).double()
    exactly = theirs.detach().double().requires_grad_()
    again = exactly.detach().clone().requires_grad_()
    AdaptivePool(7)(exactly).backward(gradient)
    nn.AdaptiveAvgPool2d(7)(again).backward(gradient)
    torch.testing.assert_close(exactly.grad, again.grad)


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_copies_of_one_pixel_are_trained_on_as_if_they_were_written(name: str) -> None:
    network = build_network("vgg-like", 3, 10, seed=0, depth=3, width=8)
    images = random_images(6, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    written = copy.deepcopy(network)
    pooled: list[Tensor] = []
    written.pool.register_forward_hook(lambda *called: pooled.append(called[-1].detach()))
    found = []
    for each in (network, written):
        with precision(name, torch.device("cpu")):
            logits = each(images)
        logits.float().square().mean().backward()
        gradients = [p.grad for p in each.classifier.parameters() if p.grad is not None]
        found.append([logits.detach().double(), *(g.double() for g in gradients)])
    assert [maps.shape for maps in pooled] == [(6, 32, 7, 7)]
    assert len(found[0]) == 3
    bounds = classifier_bounds(written.classifier, pooled[0], found[1][0], name)
    for ours, theirs, bound in zip(*found, bounds, strict=True):
        assert bool(((ours - theirs).abs() <= bound).all())


def classifier_bounds(
    classifier: nn.Linear, pooled: Tensor, logits: Tensor, name: str
) -> tuple[Tensor, Tensor, Tensor]:
    """By how much the logits, and the gradients of weights and biases, may differ at most.

    Either side rounds the weights or their sums, and its logits; in bf16 all three are bf16. What
    is added up is so in float32 at least, 1568 or 6 numbers. The loss is the mean of 60 squares.
    """
    unit = 4 * UNIT[torch.bfloat16] if name == "bf16" else 0
    features = pooled.double().flatten(1).abs()
    weight, bias = (parameter.detach().double().abs() for parameter in classifier.parameters())
    adding = 2 * (weight.shape[1] + 4) * UNIT[torch.float32]
    of_logits = (unit + adding) * (features @ weight.T + bias)
    upstream = 2 / logits.numel() * (of_logits + (unit + adding) * logits.abs())
    return of_logits, upstream.T @ features, upstream.sum(0)


@pytest.mark.parametrize("part", ["pool", "classifier"])
def test_a_hook_on_what_follows_the_features_is_called(part: str) -> None:
    network = build_network("vgg-like", 3, 10, seed=0, depth=3, width=8)
    seen = []
    network.get_submodule(part).register_forward_hook(lambda *called: seen.append(called))
    network(random_images(6, 3, 8, 8))
    assert len(seen) == 1


def test_vgg_like_is_initialized_as_torch_does_by_default() -> None:
    torch.manual_seed(7)
    expected = VGGLike(3, 10, depth=2, width=4)
    network = VGGLike(3, 10, depth=2, width=4)
    network.initialize(torch.Generator().manual_seed(7))
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
