"""The training loop of one level, with masks, epoch by epoch."""

import functools
import itertools
import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dsdctl.ml.device import precision
from dsdctl.ml.divergence import LossWatch
from dsdctl.ml.graph import Capture, GraphedStep, Step
from dsdctl.ml.losses import is_fused, label_loss
from dsdctl.ml.masks import Masks
from dsdctl.ml.optimizers import STATE, Settings
from dsdctl.ml.update import make_update
from dsdctl.ml.views import Batch, Reader, ViewReader, epoch_order

LossFunction = Callable[[Tensor, Batch], Tensor]
"""(logits (B, K), batch) -> scalar."""


@dataclass(frozen=True)
class Epoch:
    """The learning rate of an epoch's last batch, and its training loss and accuracy: means over
    its images, each seen by the network as it was at that batch."""

    epoch: int
    lr: float
    loss: float
    accuracy: float


def cross_entropy(logits: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits (B, K) against the batch's labels, which may be smoothed."""
    return label_loss(logits, batch.labels, label_smoothing)


class Trainer:
    """Trains one network for one level with a fresh optimizer; removed weights stay zero.

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
        """`capture` records training steps, if the images are in the device's memory."""
        self.network = network
        self.settings = settings
        self.loss = loss
        device = next(network.parameters()).device
        self.update = make_update(network, masks, settings)
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
        watch: LossWatch | None = None,
    ) -> Epoch:
        """Train once over all images, or over the first `steps` (at least one) batches.

        labels: int64 (N,), of all images of `reader`. `watch` checks the losses, by default one
        made for this epoch. Raises Diverged.
        """
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
        watch = watch or LossWatch(epoch)
        with precision(self.settings.precision, labels.device):
            for batch, (indices, views) in enumerate(itertools.islice(order, steps)):
                if batch == 0 or epoch < self.settings.warmup:
                    lr = self.settings.lr_at(epoch, batch, batches)
                    self.update.set_lr(lr)
                step(indices, views)
                images += len(indices)
                watch.look(batch + 1, images, self._loss_sum)
        total = float(self._loss_sum)
        watch.end(batch + 1, images, total)
        return Epoch(epoch, lr, total / images, int(self._correct) / images)

    def _step_on(self, reader: Reader, labels: Tensor) -> Step:
        """The step for batches of `reader`, kept from epoch to epoch with what it has recorded."""
        if self._last is None or self._last[0] is not reader:
            # Weak: in a reference cycle of trainer and step, the network, images and graph of a
            # level, even of several, would stay in memory until the garbage collector runs.
            own = weakref.proxy(self)
            step: Step = functools.partial(Trainer._train_batch, own, reader, labels)
            if self._capture is not None and isinstance(reader, ViewReader):
                written = functools.partial(Trainer._written, own)
                step = GraphedStep(step, written, self.settings.batch_size, self._capture)
            self._last = (reader, step)
        return self._last[1]

    def _train_batch(self, reader: Reader, labels: Tensor, indices: Tensor, views: Tensor) -> None:
        batch = Batch(reader(indices, views), labels[indices], indices, views)
        logits = self._logits(batch.images).float()
        loss = self.loss(logits, batch)
        self.update.step(loss)
        self._count(logits.detach(), batch.labels, loss.detach())

    def _count(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        if is_fused(logits):
            from dsdctl.ml.gpu.loss import tally

            tally(logits, labels, loss, self._loss_sum, self._correct)
            return
        self._loss_sum += loss * len(labels)
        self._correct += (logits.argmax(1) == labels).sum()

    def _logits(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K)."""
        inputs = self.update.inputs()
        if not inputs:
            return self.network(images)  # type: ignore[no-any-return]
        logits: Tensor = functional_call(self.network, dict(inputs), (images,))
        return logits

    def _written(self) -> list[Tensor]:
        """All tensors that a step writes to."""
        return [
            *self.state().values(),
            *self.update.written(),
            self._loss_sum,
            self._correct,
        ]

    def state(self) -> dict[str, Tensor]:
        """All that the next epoch depends on: parameters, buffers, the optimizer's state.

        The tensors are the trainer's own, not copies.
        """
        network = {f"network/{name}": x for name, x in self.network.state_dict().items()}
        return network | self.update.state()

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from where `state` was taken, bit for bit."""
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in ("network", *STATE.values())}
        for name, tensor in tensors.items():
            part, _, inner = name.partition("/")
            parts[part][inner] = tensor
        self.network.load_state_dict(parts["network"])
        self.update.load_state(parts)
