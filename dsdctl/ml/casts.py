"""bf16 copies of the convolutions' weights, all cast by one kernel.

Autocast would launch a kernel for each weight, and another for each gradient cast back to fp32.
"""

import torch
from torch import Tensor, nn


def convolution_weights(network: nn.Module) -> dict[str, Tensor]:
    """The Conv2d weights of `network`, which are the ones copied, by their state_dict names."""
    return {
        f"{name}.weight": module.weight
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    }


class Casts:
    """The bf16 copies that a training step computes with in place of the weights."""

    def __init__(self, network: nn.Module):
        weights = convolution_weights(network)
        self._weights = [weight.detach() for weight in weights.values()]
        self._copies = {
            name: torch.empty_like(weight, dtype=torch.bfloat16).requires_grad_()
            for name, weight in weights.items()
        }
        self._gradients = {name: torch.empty_like(weight) for name, weight in weights.items()}

    def refresh(self) -> dict[str, Tensor]:
        """Cast the current weights again, clear the copies' gradients; return the copies by name.

        The names are the weights'; so are the shapes.
        """
        for copy in self._copies.values():
            copy.grad = None
        with torch.no_grad():
            torch._foreach_copy_(list(self._copies.values()), self._weights)
        return self._copies

    def gradients(self) -> dict[str, Tensor]:
        """The copies' gradients from the last backward pass, cast to fp32, by the weights' names.

        Copies that got no gradient are left out.
        """
        bf16 = {name: copy.grad for name, copy in self._copies.items() if copy.grad is not None}
        fp32 = {name: self._gradients[name] for name in bf16}
        torch._foreach_copy_(list(fp32.values()), list(bf16.values()))
        return fp32
