"""The training loop with masks, epoch by epoch."""

import functools
import itertools
import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsdctl.ml.data import Batch, Reader, ViewReader, epoch_order
from dsdctl.ml.device import precision
from dsdctl.ml.graph import Capture, GraphedStep, Step
from dsdctl.ml.masks import Masks, apply_masks, prunable_weights
from dsdctl.ml.optimizers import STATE, Settings, make_optimizer, set_lr

LossFunction = Callable[[Tensor, Batch], Tensor]
"""(logits (B, K), batch) -> scalar."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch showed: the learning rate of its last batch, mean loss and accuracy over its
    batches as they were trained."""

    epoch: int
    lr: float
    loss: float
    accuracy: float


class Diverged(Exception):
    """The training loss is no longer a finite number."""

    def __init__(self, epoch: int):
        super().__init__(f"the training loss is not finite in epoch {epoch}")
        self.epoch = epoch


def cross_entropy(logits: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy against the batch's labels, mixed with an even share of all classes."""
    return F.cross_entropy(logits, batch.labels, label_smoothing=label_smoothing)


class Trainer:
    """Trains one network for one level with a fresh optimiser; removed weights stay zero.

    Weight decay is on all parameters, BatchNorm and biases included (the paper's protocol).
    """

    def __init__(
        self,
        network: nn.Module,
        masks: Masks | None,
        settings: Settings,
        loss: LossFunction = cross_entropy,
        capture: Capture | None = None,
    ):
        """`capture` records steps on images that are on the device, where that can be done."""
        self.network = network
        self.settings = settings
        self.loss = loss
        device = next(network.parameters()).device
        self._parameters = dict(network.named_parameters())
        # In other orders than that of memory the optimiser would copy the channels-last ones.
        self._flat = {
            name: _in_memory_order(parameter.detach()).requires_grad_()
            for name, parameter in self._parameters.items()
        }
        self.optimizer = make_optimizer(settings, self._flat.values(), device)
        self._weights: list[Tensor] = []
        self._masks: list[Tensor] = []
        if masks is not None:
            weights = prunable_weights(network)
            apply_masks(weights, masks)
            # Detached views of the parameters: the step below writes to them outside autograd.
            self._weights = [weights[name].detach() for name in masks]
            # In the weights' own dtype and memory layout, which one fused multiplication wants.
            self._masks = [torch.empty_like(weights[name]).copy_(masks[name]) for name in masks]
        self._masked = list(masks or ())
        self._loss_sum = torch.zeros((), device=device)
        self._correct = torch.zeros((), device=device, dtype=torch.int64)
        self._capture = capture
        self._last: tuple[Reader, Step] | None = None

    def train_epoch(
        self,
        reader: Reader,
        labels: Tensor,
        *,
        seed: int,
        level: int,
        epoch: int,
        steps: int | None = None,
    ) -> Epoch:
        """Train once over all images, or over the first `steps` batches. Raises Diverged."""
        self.network.train()
        self._loss_sum.zero_()
        self._correct.zero_()
        images = 0
        step = self._step_on(reader, labels)
        order = epoch_order(
            reader, labels, self.settings.batch_size, seed=seed, level=level, epoch=epoch
        )
        batches = math.ceil(len(labels) / self.settings.batch_size)
        lr = math.nan
        with precision(self.settings.precision, labels.device):
            for batch, (indices, views) in enumerate(itertools.islice(order, steps)):
                if batch == 0 or epoch < self.settings.warmup:
                    lr = self.settings.lr_at(epoch, batch, batches)
                    set_lr(self.optimizer, lr)
                step(indices, views)
                images += len(indices)
        mean_loss = float(self._loss_sum) / images
        if not math.isfinite(mean_loss):
            raise Diverged(epoch)
        return Epoch(epoch, lr, mean_loss, int(self._correct) / images)

    def _step_on(self, reader: Reader, labels: Tensor) -> Step:
        """How a batch of `reader` is trained on; `labels` are those of its images."""
        if self._last is None or self._last[0] is not reader:
            # Were trainer and step to hold each other, a level's network, images and graph would
            # stay in memory until the garbage collector comes by, those of several levels at once.
            own = weakref.proxy(self)
            step: Step = functools.partial(Trainer._train_batch, own, reader, labels)
            if self._capture is not None and isinstance(reader, ViewReader):
                written = functools.partial(Trainer._written, own)
                step = GraphedStep(step, written, self.settings.batch_size, self._capture)
            self._last = (reader, step)
        return self._last[1]

    def _train_batch(self, reader: Reader, labels: Tensor, indices: Tensor, views: Tensor) -> None:
        batch = Batch(reader(indices, views), labels[indices], indices, views)
        logits = self.network(batch.images)
        loss = self.loss(logits.float(), batch)
        self.step(loss)
        self._loss_sum += loss.detach() * len(indices)
        self._correct += (logits.argmax(1) == batch.labels).sum()

    def _written(self) -> list[Tensor]:
        """All that a step changes."""
        return [*self.state().values(), self._loss_sum, self._correct]

    def state(self) -> dict[str, Tensor]:
        """Everything that the next epoch depends on: parameters, buffers, the optimiser's state."""
        tensors = {f"network/{k}": v for k, v in self.network.state_dict().items()}
        for name, parameter in self._parameters.items():
            for kind, tensor in self.optimizer.state[self._flat[name]].items():
                if tensor is not None:  # SGD's without momentum
                    shaped = tensor if tensor.dim() == 0 else _in_shape_of(parameter, tensor)
                    tensors[f"{STATE[kind]}/{name}"] = shaped
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from where `state` was taken, bit for bit."""
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in ("network", *STATE.values())}
        for name, tensor in tensors.items():
            part, _, inner = name.partition("/")
            parts[part][inner] = tensor
        self.network.load_state_dict(parts["network"])
        for kind, part in STATE.items():
            for name, tensor in parts[part].items():
                parameter = self._parameters[name]
                # Copied, since it may be on another device, or in use where it comes from.
                if tensor.dim() == 0:
                    own = tensor.detach().clone().to(parameter.device)
                else:
                    own = _in_memory_order(torch.empty_like(parameter).copy_(tensor).detach())
                self.optimizer.state[self._flat[name]][kind] = own

    def step(self, loss: Tensor) -> None:
        """One optimiser step; then the masks, since decay and momentum know nothing of them."""
        self.network.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        for name, parameter in self._parameters.items():
            gradient = parameter.grad
            self._flat[name].grad = None if gradient is None else _flat_like(parameter, gradient)
        if self.settings.clip_norm is not None:
            self._clip_gradients(self.settings.clip_norm)
        self.optimizer.step()
        if self._masks:
            torch._foreach_mul_(self._weights, self._masks)

    def _clip_gradients(self, most: float) -> None:
        """Scale all gradients down to a joint l2 norm of at most `most`.

        Removed weights are no parameters any more, and their gradients no part of the norm.
        """
        for name, mask in zip(self._masked, self._masks, strict=True):
            gradient = self._flat[name].grad
            if gradient is not None:
                gradient.mul_(_in_memory_order(mask))
        torch.nn.utils.clip_grad_norm_(self._flat.values(), most)


def _in_memory_order(tensor: Tensor) -> Tensor:
    """All numbers of a tensor without gaps, (N,), in the same memory."""
    return tensor.as_strided((tensor.numel(),), (1,))


def _in_shape_of(parameter: Tensor, flat: Tensor) -> Tensor:
    """The numbers of `flat` (N,), in the same memory, as `parameter` has them there."""
    return flat.as_strided(parameter.shape, parameter.stride())


def _flat_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """The numbers of a tensor (N,) in the order that those of `parameter` have in memory."""
    if tensor.stride() != parameter.stride():
        tensor = torch.empty_like(parameter).copy_(tensor)
    return _in_memory_order(tensor.detach())
