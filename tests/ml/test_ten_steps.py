"""Whole networks with the compiled kernels and without, for ten steps, against float64."""

import functools

import pytest
import torch
from networks import build_network
from torch import Tensor, nn

from dsdctl.ml.divergence import Diverged
from dsdctl.ml.kernels import kernels
from dsdctl.ml.optimizers import Settings
from dsdctl.ml.train import Trainer
from dsdctl.ml.views import Normalization, ViewReader, Views
from dsdctl.system.devices import KERNELS_VARIABLE

NETWORKS: dict[str, dict[str, int]] = {
    "vgg-like": {"depth": 3, "width": 16, "pool": 2},
    "resnet18": {},
}


def trained(arch: str, name: str, lr: float = 1e-4, dtype: torch.dtype = torch.float32) -> Tensor:
    """What ten steps add to a network's parameters, all in a row."""
    stream = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (160, 16, 16, 3), generator=stream, dtype=torch.uint8)
    labels = torch.randint(0, 10, (160,), generator=stream)
    half = Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    reader = ViewReader(pixels, half, Views(flip=True))
    network = build_network(arch, 3, 10, seed=0, **NETWORKS[arch]).to(dtype)
    before = in_a_row(network)
    network.register_forward_pre_hook(lambda _, images: images[0].to(dtype))
    trainer = Trainer(network, None, Settings(1, 16, lr, 0.9, 1e-4, (), 0.1, name))
    trainer.train_epoch(reader, labels, seed=0, level=0, epoch=0)
    return in_a_row(network) - before


def in_a_row(network: nn.Module) -> Tensor:
    return torch.cat([weight.detach().double().flatten() for weight in network.parameters()])


@functools.cache
def exactly(arch: str) -> Tensor:
    return trained(arch, "fp32", dtype=torch.float64)


@functools.cache
def without_kernels(arch: str, name: str) -> Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KERNELS_VARIABLE, "off")
        return trained(arch, name)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("mode", ["all", "avx2"])
@pytest.mark.parametrize("name", ["fp32", "bf16"])
@pytest.mark.parametrize("arch", NETWORKS)
def test_ten_steps_agree_with_torchs_modules(
    arch: str, name: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By design.md a lever must agree with the plain way for ten steps.

    A value that rounding moves to the other side of a ReLU, or behind another of its window, turns
    a gradient, so that nothing small bounds a whole training. But in bf16 the kernels may add no
    more to what torch's own modules are off than that again, for both round as often; and in fp32,
    where 65,536 times fewer values are so close to a border, they must stay below it.
    """
    monkeypatch.setenv(KERNELS_VARIABLE, mode)
    if not kernels.in_use():
        pytest.skip(f"the processor has none of {mode}")
    ours, again = trained(arch, name), trained(arch, name)
    assert torch.equal(ours, again)
    assert not torch.equal(ours, without_kernels(arch, name))
    exact = exactly(arch)
    usual = (without_kernels(arch, "bf16") - exact).norm()
    assert usual < exact.norm()
    assert (ours - exact).norm() < (2 * usual if name == "bf16" else usual)


@pytest.mark.usefixtures("compiled")
def test_a_training_that_diverges_says_so() -> None:
    with pytest.raises(Diverged):
        trained("vgg-like", "fp32", lr=1e30)
