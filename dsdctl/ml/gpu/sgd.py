"""SGD, the masks and the bf16 copies of the weights, in one kernel over all parameters.

The parameters of the network are moved into one flat tensor; so are their gradients and momenta.
"""

from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from dsdctl.ml.casts import convolution_weights
from dsdctl.ml.masks import Masks
from dsdctl.ml.optimizers import Settings
from dsdctl.ml.update import in_shape_of

BLOCK = 1024
ALIGNED = 64
"""Each parameter begins at a multiple of this many numbers, for vectorized memory access."""


class FlatSGD:
    """torch.optim.SGD's steps on one tensor; `network` lies on a GPU."""

    def __init__(self, network: nn.Module, masks: Masks | None, settings: Settings):
        """The parameters of `network` become views of one tensor; removed weights are zeroed."""
        self._settings = settings
        self._named = dict(network.named_parameters())
        device = next(iter(self._named.values())).device
        self._starts: dict[str, int] = {}
        length = 0
        for name, parameter in self._named.items():
            self._starts[name] = length
            length += triton.cdiv(parameter.numel(), ALIGNED) * ALIGNED
        self._all, self._gradients, self._momentum = torch.zeros(3, length, device=device)
        self._kept = torch.ones(length, dtype=torch.uint8, device=device)
        self._lr = torch.tensor(settings.lr, device=device)
        for name, parameter in self._named.items():
            parameter.data = self._view(self._all, name).copy_(parameter.data)
        for name, mask in (masks or {}).items():
            self._view(self._kept, name).copy_(mask)
        self._all.mul_(self._kept)
        self._own_gradients = {name: self._view(self._gradients, name) for name in self._named}
        self._copies = self._all.to(torch.bfloat16)
        self._inputs: dict[str, Tensor] = {}
        if settings.precision == "bf16":
            self._inputs = {
                name: self._view(self._copies, name).requires_grad_()
                for name in convolution_weights(network)
            }

    def inputs(self) -> Mapping[str, Tensor]:
        return self._inputs

    def set_lr(self, lr: float) -> None:
        self._lr.fill_(lr)

    def step(self, loss: Tensor) -> None:
        leaves = {**self._named, **self._inputs}
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        self._gather(dict(zip(leaves, gradients, strict=True)))
        settings = self._settings
        if settings.clip_norm is not None:
            self._clip_gradients(settings.clip_norm)
        count = self._all.numel()
        _sgd[(triton.cdiv(count, BLOCK),)](
            self._all, self._gradients, self._momentum, self._kept, self._copies, self._lr,
            count, settings.momentum, settings.weight_decay,
            NESTEROV=settings.nesterov, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        return {f"momentum/{name}": self._view(self._momentum, name) for name in self._named}

    def load_state(self, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        for name, tensor in parts["momentum"].items():
            self._view(self._momentum, name).copy_(tensor)
        self._copies.copy_(self._all)

    def written(self) -> list[Tensor]:
        return [self._copies]

    def _view(self, tensor: Tensor, name: str) -> Tensor:
        """A parameter's part of a flat tensor, with the parameter's shape and strides."""
        return in_shape_of(self._named[name], tensor[self._starts[name] :])

    def _gather(self, gradients: Mapping[str, Tensor | None]) -> None:
        """Copy the gradients into the flat tensor, those of each dtype at once; None is zero."""
        by_dtype: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for name, gradient in gradients.items():
            own = self._own_gradients[name]
            if gradient is None:
                own.zero_()
            else:
                targets, sources = by_dtype.setdefault(gradient.dtype, ([], []))
                targets.append(own)
                sources.append(gradient)
        for targets, sources in by_dtype.values():
            torch._foreach_copy_(targets, sources)

    def _clip_gradients(self, most: float) -> None:
        """Scale all gradients down to a joint l2 norm of at most `most`; removed weights do not
        count."""
        self._gradients.mul_(self._kept)
        self._all.grad = self._gradients
        torch.nn.utils.clip_grad_norm_(self._all, most)


@triton.jit(do_not_specialize=["momentum", "decay"])
def _sgd(
    parameters, gradients, buffer, kept, copies, lr, count, momentum, decay,
    NESTEROV: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = number < count
    parameter = tl.load(parameters + number, mask=inside, other=0.0)
    slope = tl.load(gradients + number, mask=inside, other=0.0) + decay * parameter
    moved = momentum * tl.load(buffer + number, mask=inside, other=0.0) + slope
    tl.store(buffer + number, moved, mask=inside)
    if NESTEROV:
        moved = slope + momentum * moved
    keep = tl.load(kept + number, mask=inside, other=0).to(tl.float32)
    parameter = (parameter - tl.load(lr) * moved) * keep
    tl.store(parameters + number, parameter, mask=inside)
    tl.store(copies + number, parameter.to(tl.bfloat16), mask=inside)
