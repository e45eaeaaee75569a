"""Entropy of the neurons' on/off states (DSD2, eq. 1), from counts over all images."""

from types import TracebackType

import torch
from torch import Tensor, nn


class ActivationCounter:
    """Counts, for every ReLU unit of a network, the images for which its input is above zero.

    A unit is one channel at one position. Use as a context manager: it owns its hooks.
    """

    def __init__(self, network: nn.Module):
        self._modules = {
            name: module for name, module in network.named_modules() if isinstance(module, nn.ReLU)
        }
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self.counts: dict[str, Tensor] = {}
        self.images = 0

    def __enter__(self) -> "ActivationCounter":
        for name, module in self._modules.items():
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

    def _hook(self, name: str):  # type: ignore[no-untyped-def]
        first = name == next(iter(self._modules))

        def count(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # A ReLU's output is above zero exactly where its input is; its sign is 0 or 1.
            active = output.sign().sum(0, dtype=torch.float32).to(torch.int64)
            self.counts[name] = self.counts.get(name, 0) + active
            if first:
                self.images += len(output)

        return count

    def layer_bits(self) -> dict[str, float]:
        """Mean entropy over the units of each layer, in bits, in the order of the network."""
        return {
            name: float(binary_entropy_bits(counts.double() / self.images).mean())
            for name, counts in self.counts.items()
        }


def binary_entropy_bits(p: Tensor) -> Tensor:
    """H(p) = -p log2 p - (1 - p) log2(1 - p) in bits, with 0 log 0 = 0; any shape."""
    q = 1 - p
    return -(torch.xlogy(p, p) + torch.xlogy(q, q)) / torch.log(torch.tensor(2.0, dtype=p.dtype))
