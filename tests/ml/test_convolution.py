"""The product form of a 3x3 convolution on 2x2 maps, and its compiled gradient elsewhere, against
torch's own convolution."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dsdctl.ml import kernels
from dsdctl.ml.convolution import Conv3x3
from dsdctl.ml.data import Normalisation, Split, ViewReader, Views
from dsdctl.ml.device import precision
from dsdctl.ml.macs import count_macs
from dsdctl.ml.models import build_network
from dsdctl.ml.optimizers import Settings
from dsdctl.ml.train import Trainer

NORMALISATION = Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def results(
    layer: Conv3x3, maps: Tensor, upstream: Tensor, *, plain: bool
) -> tuple[Tensor, list[Tensor]]:
    """Outputs, and the gradients of maps, weight and bias."""
    maps = maps.clone().requires_grad_()
    outputs = F.conv2d(maps, layer.weight, layer.bias, padding=1) if plain else layer(maps)
    wanted = [maps, *layer.parameters()]
    return outputs, list(torch.autograd.grad(outputs, wanted, upstream.to(outputs.dtype)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_and_gradients_are_the_convolutions(bias: bool, dtype: torch.dtype) -> None:
    stream = torch.Generator().manual_seed(0)
    layer = Conv3x3(5, 7, bias=bias).to(dtype)
    maps, upstream = (torch.randn(3, c, 2, 2, generator=stream, dtype=dtype) for c in (5, 7))
    ours, gradients = results(layer, maps, upstream, plain=False)
    theirs, expected = results(layer, maps, upstream, plain=True)
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(gradients, expected, strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine, other)


def test_under_bf16_autocast_weight_gradients_are_summed_in_float32() -> None:
    stream = torch.Generator().manual_seed(0)
    layer = Conv3x3(64, 48)
    maps, upstream = (torch.randn(32, c, 2, 2, generator=stream) for c in (64, 48))
    exact, expected = results(layer, maps, upstream, plain=True)
    with precision("bf16", torch.device("cpu")):
        ours, gradients = results(layer, maps, upstream, plain=False)
    assert ours.dtype == torch.bfloat16
    assert [g.dtype for g in gradients] == [torch.float32] * 3
    for mine, other in zip([ours, *gradients], [exact, *expected], strict=True):
        error = (mine.float() - other).norm() / other.norm()
        assert error < 2**-7  # bf16 keeps eight bits


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


def rounded_layer(shape: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[Conv3x3, Tensor]:
    """A channels-last layer and maps for it, of float32 numbers that `dtype` can hold."""
    in_channels, out_channels, height, width = shape
    stream = torch.Generator().manual_seed(0)
    layer = Conv3x3(in_channels, out_channels).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(parameter.to(dtype))
    maps = torch.randn(5, in_channels, height, width, generator=stream).to(dtype).float()
    return layer, maps.contiguous(memory_format=torch.channels_last)


def supported(dtype: torch.dtype) -> None:
    if not kernels.multiplies(dtype):
        pytest.skip(f"the processor has no instructions for the kernel ({dtype})")


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("precision_name", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_compiled_gradients_are_those_of_the_convolution_in_float64(
    shape: tuple[int, int, int, int], precision_name: str
) -> None:
    dtype = torch.bfloat16 if precision_name == "bf16" else torch.float32
    supported(dtype)
    layer, maps = rounded_layer(shape, dtype)
    with precision(precision_name, torch.device("cpu")):
        outputs = layer(maps.requires_grad_())
    assert "_Convolution3x3" in outputs.grad_fn.name()
    upstream = torch.randn(outputs.shape, dtype=torch.float64).to(dtype)
    gradients = torch.autograd.grad(outputs, [maps, *layer.parameters()], upstream)
    exact, expected = results(
        copy.deepcopy(layer).double(), maps.detach().double(), upstream.double(), plain=True
    )
    # The sums are kept in float32 in either precision; only what a network passes on is rounded.
    once = 2**-8 if dtype == torch.bfloat16 else 1e-6
    for ours, theirs, rounding in zip(
        [outputs, *gradients], [exact, *expected], [once, once, 1e-6, 1e-6], strict=True
    ):
        assert (ours - theirs).norm() / theirs.norm() < rounding


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
    _, layers = count_macs(torch.nn.Sequential(Conv3x3(4, 6)), 4, 2, 2)
    assert layers["0.weight"] == 6 * 4 * 9 * 2 * 2


def test_ten_steps_agree_with_the_plain_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """By design.md a lever must agree with the plain way for ten steps."""
    stream = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (160, 16, 16, 3), generator=stream, dtype=torch.uint8)
    labels = torch.randint(0, 10, (160,), generator=stream)
    reader = ViewReader(Split(pixels, labels).images, NORMALISATION, Views(flip=True))
    settings = Settings(1, 16, 0.001, 0.9, 1e-4, (), 0.1, "fp32")

    def trained() -> tuple[float, dict[str, Tensor]]:
        network = build_network("vgg-like", 3, 10, seed=0, depth=4, width=8, pool=2)
        epoch = Trainer(network, None, settings).train_epoch(
            reader, labels, seed=0, level=0, epoch=0
        )
        return epoch.loss, network.state_dict()

    loss, weights = trained()
    monkeypatch.setattr(Conv3x3, "forward", torch.nn.Conv2d.forward)
    plain_loss, plain_weights = trained()
    assert loss == pytest.approx(plain_loss, rel=1e-4)
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, plain_weights[name], rtol=1e-3, atol=1e-4)
