"""Whether something observes a network's modules, so that each must be called unfused."""

import torch
from torch import nn


def is_tracing() -> bool:
    """Whether the network is being traced, to be counted, exported or compiled."""
    return bool(torch._C._get_tracing_state()) or torch.compiler.is_compiling()


def has_hooks(layer: nn.Module) -> bool:
    """Whether the layer has forward or backward hooks."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks)
    return any((*hooks, layer._backward_hooks, layer._backward_pre_hooks))
