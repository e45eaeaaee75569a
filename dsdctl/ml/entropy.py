"""Entropy of the neurons' on/off states (DSD2, eq. 1), from counts over all images."""

from collections import Counter
from collections.abc import Callable
from types import TracebackType

import torch
from torch import Tensor, nn

ACTIVATIONS = (nn.ReLU, nn.GELU)


class ActivationCounter:
    """Counts, for every unit of the ReLUs and GELUs, the images for which its input is above zero.

    A unit is one channel at one position, in a transformer one feature of one token. A module that
    is called several times in a forward pass, as torchvision's blocks call their ReLU, counts as
    that many layers: `relu:1`, `relu:2`. Use as a context manager, which removes the hooks.
    """

    def __init__(self, network: nn.Module):
        self._network = network
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._calls: Counter[str] = Counter()
        """How often each module was called in the current or the last forward pass."""
        self._counts: dict[tuple[str, int], Tensor] = {}
        self.images = 0

    def __enter__(self) -> "ActivationCounter":
        self._handles.append(self._network.register_forward_pre_hook(self._begin))
        for name, module in self._network.named_modules():
            if isinstance(module, ACTIVATIONS):
                self._handles.append(module.register_forward_hook(self._hook(name)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _begin(self, _network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._calls.clear()
        self.images += len(inputs[0])

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def count(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
            self._calls[name] += 1
            layer = (name, self._calls[name])
            # An in-place ReLU has overwritten its input by now, but only where that was negative.
            active = (inputs[0] > 0).sum(0, dtype=torch.float32).to(torch.int64)
            self._counts[layer] = self._counts.get(layer, 0) + active

        return count

    @property
    def counts(self) -> dict[str, Tensor]:
        """By layer, in the order of the calls: how many images switch each unit on, int64, shaped
        as one image's activations."""
        return {
            name if self._calls[name] == 1 else f"{name}:{call}": counts
            for (name, call), counts in self._counts.items()
        }

    def layer_bits(self) -> dict[str, float]:
        """By layer, in the order of the calls: the mean entropy of its units, in bits (eq. 1)."""
        return {
            name: float(binary_entropy_bits(counts.double() / self.images).mean())
            for name, counts in self.counts.items()
        }


def binary_entropy_bits(p: Tensor) -> Tensor:
    """H(p) = -p log2 p - (1 - p) log2(1 - p) in bits, with 0 log 0 = 0; any shape."""
    q = 1 - p
    return -(torch.xlogy(p, p) + torch.xlogy(q, q)) / torch.log(torch.tensor(2.0, dtype=p.dtype))
