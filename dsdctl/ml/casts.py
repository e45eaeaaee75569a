"""bf16 copies of the convolutions' weights, all made at once.

Autocast would make them one by one, and bring their gradients to fp32 one by one.
"""

import torch
from torch import Tensor, nn


def convolution_weights(network: nn.Module) -> dict[str, Tensor]:
    """The weights that are copied, by their state_dict names."""
    return {
        f"{name}.weight": module.weight
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    }


class Casts:
    """The copies that a step computes with, in place of the weights; and their gradients."""

    def __init__(self, network: nn.Module):
        weights = convolution_weights(network)
        self._weights = [weight.detach() for weight in weights.values()]
        self._copies = {
            name: torch.empty_like(weight, dtype=torch.bfloat16).requires_grad_()
            for name, weight in weights.items()
        }
        self._gradients = {name: torch.empty_like(weight) for name, weight in weights.items()}

    def renewed(self) -> dict[str, Tensor]:
        """The copies by the weights' names, of the weights as they are now, without gradients."""
        for copy in self._copies.values():
            copy.grad = None
        with torch.no_grad():
            torch._foreach_copy_(list(self._copies.values()), self._weights)
        return self._copies

    def gradients(self) -> dict[str, Tensor]:
        """The gradients that the last step has given the copies, in fp32, by the weights' names."""
        given = {name: copy.grad for name, copy in self._copies.items() if copy.grad is not None}
        own = {name: self._gradients[name] for name in given}
        torch._foreach_copy_(list(own.values()), list(given.values()))
        return own
