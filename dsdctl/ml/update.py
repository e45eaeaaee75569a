"""One optimizer step of a network: backward pass, gradient clipping, update, masks."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from dsdctl.ml import gpu
from dsdctl.ml.casts import Casts
from dsdctl.ml.masks import Masks, apply_masks, prunable_weights
from dsdctl.ml.optimizers import STATE, Settings, make_optimizer, set_lr


class Update(Protocol):
    """What a Trainer needs of its optimizer."""

    def inputs(self) -> Mapping[str, Tensor]:
        """Tensors to run the network with in place of parameters, by their names: bf16 copies of
        the current weights, or nothing."""

    def step(self, loss: Tensor) -> None:
        """Update from the gradients of `loss`; removed weights stay zero."""

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the steps to come."""

    def state(self) -> dict[str, Tensor]:
        """The optimizer's state, by `kind/parameter` with the kinds of STATE.

        Tensors have the shapes of their parameters, or are scalars.
        """

    def load_state(self, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue from `state`, by kind and parameter; the network must be loaded before."""

    def written(self) -> list[Tensor]:
        """Other tensors that a step writes to and the next one reads."""


def make_update(network: nn.Module, masks: Masks | None, settings: Settings) -> Update:
    """The fastest implementation for the network's device and the optimizer.

    The network's removed weights are set to zero.
    """
    device = next(network.parameters()).device
    if gpu.used_on(device) and settings.optimizer == "sgd":
        from dsdctl.ml.gpu.sgd import FlatSGD

        return FlatSGD(network, masks, settings)
    return PerTensor(network, masks, settings)


class PerTensor:
    """torch's optimizer. Gradients are clipped before its step; masks are applied after it, since
    gradients and momentum move removed weights away from zero."""

    def __init__(self, network: nn.Module, masks: Masks | None, settings: Settings):
        device = next(network.parameters()).device
        self._network = network
        self._clip_norm = settings.clip_norm
        self._parameters = dict(network.named_parameters())
        # Flat views in memory order: the optimizer would copy channels-last tensors otherwise.
        self._flat = {
            name: _in_memory_order(parameter.detach()).requires_grad_()
            for name, parameter in self._parameters.items()
        }
        self._optimizer = make_optimizer(settings, self._flat.values(), device)
        self._weights: list[Tensor] = []
        self._masks: list[Tensor] = []
        if masks is not None:
            weights = prunable_weights(network)
            apply_masks(weights, masks)
            # Detached views of the parameters: a step writes to them outside autograd.
            self._weights = [weights[name].detach() for name in masks]
            # In the weights' dtype and memory layout, as the fused multiplication needs them.
            self._masks = [torch.empty_like(weights[name]).copy_(masks[name]) for name in masks]
        self._masked = list(masks or ())
        computes_in_bf16 = settings.precision == "bf16"
        self._casts = Casts(network) if computes_in_bf16 and gpu.used_on(device) else None

    def inputs(self) -> Mapping[str, Tensor]:
        return {} if self._casts is None else self._casts.refresh()

    def set_lr(self, lr: float) -> None:
        set_lr(self._optimizer, lr)

    def step(self, loss: Tensor) -> None:
        self._network.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        casts = {} if self._casts is None else self._casts.gradients()
        for name, parameter in self._parameters.items():
            gradient = casts.get(name, parameter.grad)
            self._flat[name].grad = None if gradient is None else _flat_like(parameter, gradient)
        if self._clip_norm is not None:
            self._clip_gradients(self._clip_norm)
        self._optimizer.step()
        if self._masks:
            torch._foreach_mul_(self._weights, self._masks)

    def state(self) -> dict[str, Tensor]:
        tensors = {}
        for name, parameter in self._parameters.items():
            for kind, tensor in self._optimizer.state[self._flat[name]].items():
                if tensor is not None:  # the momentum buffer of SGD without momentum
                    shaped = tensor if tensor.dim() == 0 else in_shape_of(parameter, tensor)
                    tensors[f"{STATE[kind]}/{name}"] = shaped
        return tensors

    def load_state(self, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        for kind, part in STATE.items():
            for name, tensor in parts[part].items():
                parameter = self._parameters[name]
                # Copied, since it may be on another device, or in use by another trainer.
                if tensor.dim() == 0:
                    own = tensor.detach().clone().to(parameter.device)
                else:
                    own = _in_memory_order(torch.empty_like(parameter).copy_(tensor).detach())
                self._optimizer.state[self._flat[name]][kind] = own

    def written(self) -> list[Tensor]:
        return []

    def _clip_gradients(self, most: float) -> None:
        """Scale all gradients down to a joint l2 norm of at most `most`.

        Removed weights are no longer parameters, so their gradients do not count.
        """
        for name, mask in zip(self._masked, self._masks, strict=True):
            gradient = self._flat[name].grad
            if gradient is not None:
                gradient.mul_(_in_memory_order(mask))
        torch.nn.utils.clip_grad_norm_(self._flat.values(), most)


def _in_memory_order(tensor: Tensor) -> Tensor:
    """A flat view (N,) of a dense tensor, in the order of its memory."""
    return tensor.as_strided((tensor.numel(),), (1,))


def in_shape_of(parameter: Tensor, flat: Tensor) -> Tensor:
    """A view of `flat` (N,) with the shape and strides of `parameter`."""
    return flat.as_strided(parameter.shape, parameter.stride())


def _flat_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """`tensor`, flat (N,), in the order that `parameter`'s values have in memory."""
    if tensor.stride() != parameter.stride():
        tensor = torch.empty_like(parameter).copy_(tensor)
    return _in_memory_order(tensor.detach())
