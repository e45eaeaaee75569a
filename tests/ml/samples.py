"""Random images and networks that several tests of networks use."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from dsdctl.ml.models import Network
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
