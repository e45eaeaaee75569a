"""The product form of a 3x3 convolution on 2x2 maps, and its compiled gradient elsewhere, against
torch's own convolution."""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from networks import build_network
from samples import UNIT, in_float64, random_images
from torch import Tensor

from dsdctl.ml.data import Split
from dsdctl.ml.device import precision
from dsdctl.ml.kernels import kernels
from dsdctl.ml.kernels.convolution import KERNELS, Conv3x3
from dsdctl.ml.macs import count_macs
from dsdctl.ml.optimizers import Settings
from dsdctl.ml.train import Trainer
from dsdctl.ml.views import Normalization, ViewReader, Views

NORMALIZATION = Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def results(
    layer: Conv3x3, maps: Tensor, upstream: Tensor, *, plain: bool
) -> tuple[Tensor, list[Tensor]]:
    """Outputs, and the gradients of maps, weight and bias."""
    maps = maps.clone().requires_grad_()
    outputs = F.conv2d(maps, layer.weight, layer.bias, padding=1) if plain else layer(maps)
    wanted = [maps, *layer.parameters()]
    return outputs, list(torch.autograd.grad(outputs, wanted, upstream.to(outputs.dtype)))


def exact(layer: Conv3x3, maps: Tensor, upstream: Tensor) -> list[Tensor]:
    """The same by torch in float64, the outputs first."""
    layer = copy.deepcopy(layer).double()
    outputs, gradients = results(layer, maps.detach().double(), upstream.double(), plain=True)
    return [outputs.detach(), *gradients]


def rounding(
    layer: Conv3x3, maps: Tensor, upstream: Tensor, unit: float, also: float = 0
) -> list[Tensor]:
    """By how much each of `exact` may be off, in whatever order it is added up.

    A sum of n products is off by at most n roundings, a `unit` each, of the sum of their sizes, and
    by one where it is rounded once more; `also` is what happens to each product besides.
    """
    sizes = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in sizes.parameters():
            parameter.abs_()
    pixels = upstream.numel() // upstream.shape[1]
    products = [9 * maps.shape[1] + 1, 9 * upstream.shape[1], pixels, pixels]
    added = exact(sizes, maps.detach().abs(), upstream.abs())
    return [((n + 1) * unit + also) * size for n, size in zip(products, added, strict=False)]


def assert_within(
    ours: Sequence[Tensor], theirs: Sequence[Tensor], bounds: Sequence[Tensor]
) -> None:
    for mine, other, bound in zip(ours, theirs, bounds, strict=True):
        assert bool(((mine.double() - other).abs() <= bound).all())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_and_gradients_are_the_convolutions(bias: bool, dtype: torch.dtype) -> None:
    stream = torch.Generator().manual_seed(0)
    layer = Conv3x3(5, 7, bias=bias).to(dtype)
    maps, upstream = (torch.randn(3, c, 2, 2, generator=stream, dtype=dtype) for c in (5, 7))
    outputs, gradients = results(layer, maps, upstream, plain=False)
    assert [g.dtype for g in gradients] == [dtype] * len(gradients)
    bounds = rounding(layer, maps, upstream, UNIT[dtype])
    assert_within([outputs, *gradients], exact(layer, maps, upstream), bounds)


def test_under_bf16_autocast_weight_gradients_are_summed_in_float32() -> None:
    """That of a tap is: 128 numbers of bfloat16 would be off by 128 of its roundings."""
    stream = torch.Generator().manual_seed(0)
    layer = Conv3x3(64, 48)
    maps, upstream = (torch.randn(32, c, 2, 2, generator=stream) for c in (64, 48))
    with precision("bf16", torch.device("cpu")):
        outputs, gradients = results(layer, maps, upstream, plain=False)
    assert outputs.dtype == torch.bfloat16
    assert [g.dtype for g in gradients] == [torch.float32] * 3
    # Both factors of a product are rounded to bfloat16, and so is the result.
    unit, also = UNIT[torch.float32], 3 * UNIT[torch.bfloat16]
    bounds = rounding(layer, maps, upstream, unit, also)
    assert_within([outputs, *gradients], exact(layer, maps, upstream), bounds)


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (4, 2), (2, 2)])
def test_other_maps_and_strides_are_left_to_the_convolution(size: int, stride: int) -> None:
    layer, maps = Conv3x3(2, 3, stride), torch.randn(2, 2, size, size)
    expected = F.conv2d(maps, layer.weight, layer.bias, stride=stride, padding=1)
    assert torch.equal(layer(maps), expected)


SHAPES = [
    (3, 16, 5, 7),
    (1, 16, 1, 9),
    (64, 48, 1, 1),
    (16, 64, 9, 3),
    (20, 32, 8, 8),
    (68, 16, 8, 8),
    (7, 128, 3, 600),
]
"""Channels in and out, height, width: remainders of every tile, edges alone, wide and long."""


def whole_numbers(shape: torch.Size | tuple[int, ...], seed: int) -> Tensor:
    """From -3 to 3, as float32."""
    stream = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, tuple(shape), generator=stream).float()


def rounded_layer(
    shape: tuple[int, int, int, int], dtype: torch.dtype, *, bias: bool = True
) -> tuple[Conv3x3, Tensor]:
    """A channels-last layer of float32 numbers that `dtype` can hold, and maps for it."""
    in_channels, out_channels, height, width = shape
    layer = Conv3x3(in_channels, out_channels, bias=bias).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(parameter.to(dtype))
    maps = whole_numbers((5, in_channels, height, width), seed=0)
    return layer, maps.contiguous(memory_format=torch.channels_last)


def supported(dtype: torch.dtype) -> None:
    if not kernels.used(KERNELS[dtype]):
        pytest.skip(f"the processor has no instructions for the kernel ({dtype})")


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", KERNELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_compiled_gradients_are_those_of_the_convolution(
    shape: tuple[int, int, int, int], dtype: torch.dtype, bias: bool
) -> None:
    """All else is torch's own. Of whole numbers every sum is exact in float32, in which they are
    kept for either type of maps, and so are the gradients."""
    supported(dtype)
    layer, maps = rounded_layer(shape, dtype, bias=bias)
    with precision("bf16" if dtype == torch.bfloat16 else "fp32", torch.device("cpu")):
        outputs = layer(maps.requires_grad_())
    assert "_Convolution3x3" in outputs.grad_fn.name()
    upstream = whole_numbers(outputs.shape, seed=1).to(dtype)
    gradients = torch.autograd.grad(outputs, [maps, *layer.parameters()], upstream)
    plainly = copy.deepcopy(layer).to(dtype)
    theirs, (of_maps, *_) = results(plainly, maps.detach().to(dtype), upstream, plain=True)
    assert torch.equal(outputs, theirs)
    assert torch.equal(gradients[0], of_maps.float())
    for ours, expected in zip(gradients[1:], exact(layer, maps, upstream)[2:], strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours.double(), expected)


@pytest.mark.usefixtures("compiled")
def test_numbers_of_all_sizes_are_added_up_as_float32_can() -> None:
    supported(torch.float32)
    layer, maps = rounded_layer((16, 32, 9, 8), torch.float32)
    maps = random_images(*maps.shape).contiguous(memory_format=torch.channels_last)
    upstream = random_images(len(maps), 32, 9, 8)
    _, gradients = results(layer, maps, upstream, plain=False)
    bounds = rounding(layer, maps, upstream, UNIT[torch.float32])
    assert_within(gradients[1:], exact(layer, maps, upstream)[2:], bounds[2:])


@pytest.mark.usefixtures("compiled")
def test_the_compiled_gradient_is_the_same_twice_and_has_the_layout_of_the_weights() -> None:
    supported(torch.float32)
    layer, maps = rounded_layer((16, 32, 8, 8), torch.float32)
    first, second = (torch.autograd.grad(layer(maps).square().sum(), layer.weight) for _ in "ab")
    assert torch.equal(*first, *second)
    assert first[0].stride() == layer.weight.stride()


@pytest.mark.usefixtures("compiled")
def test_what_is_not_finite_goes_on_into_the_weights() -> None:
    supported(torch.float32)
    layer, maps = rounded_layer((16, 32, 8, 8), torch.float32)
    maps[2, 3, 4, 5] = float("nan")
    (gradient,) = torch.autograd.grad(layer(maps).nan_to_num().sum(), layer.weight)
    assert gradient[:, 3].isnan().all()
    assert not gradient[:, 4].isnan().any()


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    "change",
    [
        lambda layer, maps: (layer.double(), maps.double()),
        lambda layer, maps: (layer, maps.contiguous()),
        lambda layer, maps: (layer.requires_grad_(False), maps),
        lambda layer, maps: (layer.to(memory_format=torch.contiguous_format), maps),
    ],
    ids=["float64", "contiguous maps", "frozen", "contiguous weights"],
)
def test_what_the_kernel_does_not_take_is_left_to_the_convolution(
    change: Callable[[Conv3x3, Tensor], tuple[Conv3x3, Tensor]],
) -> None:
    layer, maps = change(*rounded_layer((16, 32, 8, 8), torch.float32))
    outputs = layer(maps.requires_grad_())
    assert "_Convolution3x3" not in outputs.grad_fn.name()
    assert torch.equal(outputs, F.conv2d(maps, layer.weight, layer.bias, padding=1))


def test_counting_sees_the_convolution() -> None:
    layers = count_macs(torch.nn.Sequential(Conv3x3(4, 6)), 4, 2, 2).per_layer
    assert layers["0.weight"] == 6 * 4 * 9 * 2 * 2


def test_ten_steps_agree_with_the_plain_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """By design.md a lever must agree with the plain way for ten steps."""
    stream = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (160, 16, 16, 3), generator=stream, dtype=torch.uint8)
    labels = torch.randint(0, 10, (160,), generator=stream)
    reader = ViewReader(Split(pixels, labels).images, NORMALIZATION, Views(flip=True))
    settings = Settings(1, 16, 0.001, 0.9, 1e-4, (), 0.1, "fp32")

    def trained() -> tuple[float, dict[str, Tensor]]:
        network = build_network("vgg-like", 3, 10, seed=0, depth=4, width=8, pool=2)
        epoch = Trainer(in_float64(network), None, settings).train_epoch(
            reader, labels, seed=0, level=0, epoch=0
        )
        return epoch.loss, network.state_dict()

    loss, weights = trained()
    monkeypatch.setattr(Conv3x3, "forward", torch.nn.Conv2d.forward)
    plain_loss, plain_weights = trained()
    # The losses are float32: ten of them, weighed by their sizes and added.
    assert loss == pytest.approx(plain_loss, rel=20 * UNIT[torch.float32])
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, plain_weights[name])
