"""Random images and networks for several tests, and what rounding may do to them."""

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from dsdctl.ml.networks.network import Network
from dsdctl.ml.optimizers import Settings

SETTINGS = Settings(
    epochs=3,
    batch_size=8,
    lr=0.05,
    momentum=0.9,
    weight_decay=1e-2,
    milestones=(1, 2),
    gamma=0.1,
    precision="fp32",
)
"""A training of a moment."""

WITH_ALL_OPTIONS = replace(
    SETTINGS, optimizer="adamw", lr=0.01, schedule="cosine", warmup=1, clip_norm=0.5
)
"""The same with what it does not use."""

UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}
"""The most that one rounding changes a number by, as a share of it."""

Module = TypeVar("Module", bound=nn.Module)


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


def in_float64(network: Module) -> Module:
    """The same network in float64, whatever its images are.

    For what must be equal but for the order of sums: what float32 rounds by 6e-8 of a number is
    rounded by 1e-16 of it, so that a millionfold amplification stays far below the 1e-7 of
    assert_close, and no value so close to zero, or to another one, that rounding moves it to the
    other side of a ReLU, or behind the other, is to be expected among a billion. In float32 there
    is one among a hundred thousand to a million, and it turns a whole gradient.
    """
    network.double().register_forward_pre_hook(lambda _module, inputs: inputs[0].double())
    return network
