"""Noticing within an epoch that a training has diverged, and cannot come back."""

import math

from torch import Tensor, nn

BATCHES = 50
"""So often the losses are looked at: on a GPU that waits for all that was begun."""

BOUND = 1e6
"""Mean loss of so many batches that no training comes back from, if the next ones keep above it:
the highest seen in one that did was 177, on CIFAR-10 at a rate of 0.01 without a warm-up."""


class Diverged(Exception):
    """The training loss is no finite number any more, or stays beyond all bounds."""

    def __init__(self, epoch: int, batch: int | None = None, why: str = "is not finite"):
        """Seen after `batch` batches of `epoch`, which counts from 0; None: at its end."""
        seen = "" if batch is None else f", seen after {batch} batches"
        super().__init__(f"the training loss {why} in epoch {epoch}{seen}")
        self.epoch = epoch
        self.batch = batch


class LossWatch:
    """Looks at the losses of an epoch while it lasts."""

    def __init__(self, epoch: int):
        self._epoch = epoch
        self._images = 0
        self._total = 0.0
        self._was_high = False

    def look(self, batch: int, images: int, loss_sum: Tensor) -> None:
        """After `batch` batches: so many images, whose losses add up to `loss_sum` (a scalar).

        Raises Diverged where that is not finite, or was above the bound twice in succession.
        """
        if batch % BATCHES:
            return
        total = float(loss_sum)
        if not math.isfinite(total):
            raise Diverged(self._epoch, batch)
        is_high = (total - self._total) / (images - self._images) > BOUND
        if is_high and self._was_high:
            raise Diverged(self._epoch, batch, f"stays above {BOUND:,.0f}")
        self._images, self._total, self._was_high = images, total, is_high


def check_finite(network: nn.Module, epoch: int) -> None:
    """The last step of `epoch` may diverge too, and no loss is computed after it.

    Raises Diverged where a number of the network is not finite.
    """
    if not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values()):
        raise Diverged(epoch)
