"""Noticing within an epoch that a training has diverged, and cannot come back."""

import math

from torch import Tensor, nn

BATCHES = 50
"""So often the losses are looked at, and at the end of each epoch: on a GPU that waits for all that
was begun."""

BOUND = 1e6
"""Mean loss between two looks that no training comes back from, if it is above that by the next one
too: the highest seen in one that did was 177, on CIFAR-10 at a rate of 0.01 without a warm-up."""


class Diverged(Exception):
    """The training loss is no finite number any more, or stays beyond all bounds."""

    def __init__(self, epoch: int, batch: int | None = None, why: str = "is not finite"):
        """Seen after `batch` batches of `epoch`, which counts from 0; None: at its end."""
        seen = "" if batch is None else f", seen after {batch} batches"
        super().__init__(f"the training loss {why} in epoch {epoch}{seen}")
        self.epoch = epoch
        self.batch = batch


class LossWatch:
    """Looks at the losses of an epoch while it lasts, and at its end."""

    def __init__(self, epoch: int, before: float = 0.0, *, is_last: bool = False):
        """`before`: the mean loss of the epoch before, which counts as a look; an epoch may be
        shorter than the batches between two. `is_last`: no epoch follows."""
        self._epoch = epoch
        self._is_last = is_last
        self._images = 0
        self._total = 0.0
        self._was_high = before > BOUND

    def look(self, batch: int, images: int, loss_sum: Tensor) -> None:
        """After `batch` batches: so many images, whose losses add up to `loss_sum` (a scalar).

        Raises Diverged where that is not finite, or was above the bound twice in succession.
        """
        if batch % BATCHES == 0:
            self.check(batch, images, float(loss_sum))

    def end(self, batch: int, images: int, total: float) -> None:
        """After the epoch's last batch. Raises Diverged also where no epoch follows a high loss."""
        if images > self._images:
            self.check(batch, images, total)
        if self._is_last and self._was_high:
            raise Diverged(self._epoch, batch, f"ends above {BOUND:,.0f}")

    def check(self, batch: int, images: int, total: float) -> None:
        """What both do where they look: compare the mean loss since the look before."""
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
