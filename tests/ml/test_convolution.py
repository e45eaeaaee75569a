"""The product form of a 3x3 convolution on 2x2 maps against torch's own convolution."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dsdctl.ml.convolution import Conv3x3
from dsdctl.ml.data import Normalisation, Split, ViewReader, Views
from dsdctl.ml.device import precision
from dsdctl.ml.macs import count_macs
from dsdctl.ml.models import build_network
from dsdctl.ml.train import Settings, Trainer

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
