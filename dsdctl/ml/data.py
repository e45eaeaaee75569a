"""Images as uint8 tensors, split into training, validation and test images.

Shapes: N images, B of a batch, C channels, H x W pixels. Images are stored as (N, H, W, C), so that
a gathered batch is channels-last without a copy.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dsdctl.ml.noise import Noise, noisy_labels
from dsdctl.ml.randomness import generator


class MappedImages:
    """Images on disk, used like a uint8 tensor (N, H, W, C) on `device`.

    Indexing reads the images and moves them there. Only what this package needs is implemented.
    """

    def __init__(self, array: np.ndarray, rows: Tensor, device: torch.device):
        """array: uint8 (M, H, W, C), memory-mapped; rows: int64 (N,), indices of its images."""
        self._array = array
        self._rows = rows
        self.device = device

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._rows), *self._array.shape[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, indices: Tensor) -> Tensor:
        """int64 (B,) -> uint8 (B, H, W, C)."""
        rows = self._rows[indices.cpu()].numpy()
        return torch.from_numpy(np.asarray(self._array[rows])).to(self.device)

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield all images, `size` at a time, as uint8 (B, H, W, C)."""
        for part in torch.split(torch.arange(len(self)), size):
            yield self[part]

    def take(self, indices: Tensor) -> "MappedImages":
        return MappedImages(self._array, self._rows[indices], self.device)

    def to(self, device: torch.device) -> "MappedImages":
        return MappedImages(self._array, self._rows, device)


Images = Tensor | MappedImages
"""uint8 (N, H, W, C), in memory or on disk."""


@dataclass(frozen=True)
class Split:
    """Some images and their labels: uint8 (N, H, W, C) and int64 (N,)."""

    images: Images
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def pixels(self) -> Tensor:
        """The images of a split that is in memory: uint8 (N, H, W, C)."""
        assert isinstance(self.images, Tensor)
        return self.images

    def take(self, indices: Tensor) -> "Split":
        mapped = isinstance(self.images, MappedImages)
        images = self.images.take(indices) if mapped else self.images[indices]
        return Split(images, self.labels[indices])


@dataclass(frozen=True)
class Source:
    """A data set as it was published; `test` is None if it has no test split.

    `human_labels`, int64 (N,), are noisy labels given by people (CIFAR-N), one for each training
    image: if present, training sees them instead of the true ones.
    """

    train: Split
    test: Split | None
    classes: int
    human_labels: Tensor | None = None


@dataclass(frozen=True)
class Data:
    """The splits of one level. `train` has the noisy labels; `clean_labels` (N,) are the true ones
    of the same images."""

    train: Split
    clean_labels: Tensor
    validation: Split
    test: Split
    classes: int


def split_source(
    source: Source,
    *,
    split_seed: int,
    test_fraction: float | None,
    validation_fraction: float | None,
    validation_noisy: bool,
    noise: Noise,
) -> Data:
    """Hold out test and validation images, then make the labels of the training images noisy.

    A fraction f of n images holds out round(f * n). `test_fraction` applies only if the source has
    no test split. Without `validation_fraction` the test set is also the validation set, as in the
    authors' code. With `validation_noisy` the validation labels are made noisy in the same way.
    """
    order = torch.randperm(len(source.train), generator=generator("split", split_seed))
    test = source.test
    if test is None:
        held_out = round((test_fraction or 0) * len(order))
        test, order = source.train.take(order[:held_out]), order[held_out:]
    validation = test
    if validation_fraction is not None:
        held_out = round(validation_fraction * len(order))
        chosen, order = order[:held_out], order[held_out:]
        validation = source.train.take(chosen)
        if validation_noisy:
            labels = _noisy_labels(source, chosen, noise, "validation-noise")
            validation = Split(validation.images, labels)
    # Sorted, so that the split decides which images are trained on, but not their order.
    kept = order.sort().values
    train = source.train.take(kept)
    noisy = _noisy_labels(source, kept, noise, "label-noise")
    return Data(Split(train.images, noisy), train.labels, validation, test, source.classes)


def _noisy_labels(source: Source, indices: Tensor, noise: Noise, purpose: str) -> Tensor:
    """Noisy labels of the source's training images at `indices` (N,): int64 (N,).

    They are drawn from the stream `purpose`, unless the source brings human labels.
    """
    if source.human_labels is not None:
        return source.human_labels[indices]
    stream = generator(purpose, noise.seed)
    return noisy_labels(source.train.labels[indices], source.classes, noise, stream)
