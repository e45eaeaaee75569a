"""Whether something looks at a network's modules, so that each has to be called as it stands."""

import torch
from torch import nn


def is_tracing() -> bool:
    """Whether calls are recorded, to be counted, exported or compiled."""
    return bool(torch._C._get_tracing_state()) or torch.compiler.is_compiling()


def has_hooks(layer: nn.Module) -> bool:
    """Whether something is to be told of the layer's calls."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks)
    return any((*hooks, layer._backward_hooks, layer._backward_pre_hooks))
