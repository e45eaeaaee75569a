"""The training loop with masks, epoch by epoch."""

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
    """What one epoch showed: the learning rate of its last batch, mean loss and accuracy over its
    batches as they were trained."""

    epoch: int
    lr: float
    loss: float
    accuracy: float


def cross_entropy(logits: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy against the batch's labels, mixed with an even share of all classes."""
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
        """`capture` records steps on images that are on the device, where that can be done."""
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
        """Train once over all images, or over the first `steps` batches. Raises Diverged.

        `watch` looks at the losses meanwhile, in place of one for this epoch.
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
        """All that a step changes."""
        return [
            *self.state().values(),
            *self.update.written(),
            self._loss_sum,
            self._correct,
        ]

    def state(self) -> dict[str, Tensor]:
        """Everything that the next epoch depends on: parameters, buffers, the optimizer's state."""
        network = {f"network/{name}": x for name, x in self.network.state_dict().items()}
        return network | self.update.state()

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from where `state` was taken, bit for bit."""
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in ("network", *STATE.values())}
        for name, tensor in tensors.items():
            part, _, inner = name.partition("/")
            parts[part][inner] = tensor
        self.network.load_state_dict(parts["network"])
        self.update.load_state(parts)
