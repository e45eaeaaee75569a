"""The initializations of PyTorch and torchvision, drawn from a given stream."""

import math

import torch
from torch import nn


def default_init(module: nn.Conv2d | nn.Linear, stream: torch.Generator) -> None:
    """Initialize as PyTorch's `reset_parameters` does, but from `stream`."""
    nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=stream)
    if module.bias is not None:
        bound = 1 / math.sqrt(module.weight[0].numel())
        nn.init.uniform_(module.bias, -bound, bound, generator=stream)


def initialize_resnet(network: nn.Module, stream: torch.Generator) -> None:
    """Draw convolutions Kaiming-normal (fan out) and Linear layers as PyTorch does, in module
    order; BatchNorm keeps scale 1 and shift 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out", nonlinearity="relu", generator=stream
            )
        elif isinstance(module, nn.Linear):
            default_init(module, stream)
