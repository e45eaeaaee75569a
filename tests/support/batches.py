"""The batches of an epoch, as the tests go through them by hand."""

from collections.abc import Iterator

from torch import Tensor

from dsdctl.ml.views import Batch, Reader, epoch_order


def epoch_batches(
    reader: Reader, labels: Tensor, batch_size: int, *, seed: int, level: int, epoch: int
) -> Iterator[Batch]:
    """Yield the batches of `epoch_order`, read."""
    order = epoch_order(reader, labels, batch_size, seed=seed, level=level, epoch=epoch)
    for indices, views in order:
        yield Batch(reader(indices, views), labels[indices], indices, views)
