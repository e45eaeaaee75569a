"""Detecting within an epoch that training has diverged and will not recover."""

import math

from torch import Tensor, nn

BATCHES = 50
"""Batches between two checks of the loss; the end of an epoch is a check too. On a GPU each one
waits for all kernels launched so far."""

BOUND = 1e6
"""A mean loss above this at two checks in a row is taken for divergence. The highest loss seen in a
training that recovered was 177, on CIFAR-10 at a learning rate of 0.01 without a warm-up."""


class Diverged(Exception):
    """The training loss is not finite any more, or stays above BOUND."""

    def __init__(self, epoch: int, batch: int | None = None, why: str = "is not finite"):
        """Seen after `batch` batches of `epoch` (from 0), or at its end if `batch` is None."""
        seen = "" if batch is None else f", seen after {batch} batches"
        super().__init__(f"the training loss {why} in epoch {epoch}{seen}")
        self.epoch = epoch
        self.batch = batch


class LossWatch:
    """Checks the losses of one epoch, during it and at its end."""

    def __init__(self, epoch: int, before: float = 0.0, *, is_last: bool = False):
        """`before` is the mean loss of the previous epoch, which counts as a check, since an epoch
        may be shorter than BATCHES. `is_last`: no epoch follows."""
        self._epoch = epoch
        self._is_last = is_last
        self._images = 0
        self._total = 0.0
        self._was_high = before > BOUND

    def look(self, batch: int, images: int, loss_sum: Tensor) -> None:
        """Check, if one is due, after `batch` batches of so many `images` in total.

        `loss_sum`, a scalar, is the sum of their losses. Raises Diverged if it is not finite, or if
        the mean loss is above BOUND at a second check in a row.
        """
        if batch % BATCHES == 0:
            self.check(batch, images, float(loss_sum))

    def end(self, batch: int, images: int, total: float) -> None:
        """Check after the epoch's last batch; in the last epoch a single high loss is enough.

        Raises Diverged.
        """
        if images > self._images:
            self.check(batch, images, total)
        if self._is_last and self._was_high:
            raise Diverged(self._epoch, batch, f"ends above {BOUND:,.0f}")

    def check(self, batch: int, images: int, total: float) -> None:
        """Check the mean loss since the previous check. Raises Diverged."""
        if not math.isfinite(total):
            raise Diverged(self._epoch, batch)
        is_high = self.mean_since(images, total) > BOUND
        if is_high and self._was_high:
            raise Diverged(self._epoch, batch, f"stays above {BOUND:,.0f}")
        self._images, self._total, self._was_high = images, total, is_high

    def mean_since(self, images: int, total: float) -> float:
        """The mean loss since the previous check, of which there were fewer `images`."""
        return (total - self._total) / (images - self._images)


def check_finite(network: nn.Module, epoch: int) -> None:
    """The last step of `epoch` may diverge too, and no loss is computed after it.

    Raises Diverged where a number of the network is not finite.
    """
    if not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values()):
        raise Diverged(epoch)
