"""Images as uint8 tensors: splitting, label noise, and batches of augmented views.

Shapes: N images, B a batch, C channels, H x W pixels. Images are stored as (N, H, W, C), so that
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
    """Images that stay on the disk: as much of a uint8 tensor (N, H, W, C) as this package needs.

    What is taken out of them is read, and brought to `device`.
    """

    def __init__(self, array: np.ndarray, rows: Tensor, device: torch.device):
        """array: uint8 (M, H, W, C), memory-mapped; rows: int64 (N,), which images of it."""
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
        """Yield all images, `size` at a time."""
        for part in torch.split(torch.arange(len(self)), size):
            yield self[part]

    def take(self, indices: Tensor) -> "MappedImages":
        return MappedImages(self._array, self._rows[indices], self.device)

    def to(self, device: torch.device) -> "MappedImages":
        return MappedImages(self._array, self._rows, device)


Images = Tensor | MappedImages
"""uint8 (N, H, W, C), in memory or on the disk."""


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
    """A data set as it was published; `test` is None where it brings no test set.

    `human_labels` (N,) int64 are what training sees instead of the true labels, where people gave
    them.
    """

    train: Split
    test: Split | None
    classes: int
    human_labels: Tensor | None = None


@dataclass(frozen=True)
class Data:
    """What a level sees. `train` carries the noisy labels, `clean_labels` the true ones."""

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

    A fraction f of n images holds out round(f * n). `test_fraction` applies where the source
    brings no test set; without `validation_fraction` the test set is the validation set, as in
    the authors' code. With `validation_noisy` the held-out labels are as noisy.
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
            labels = _as_trained(source, chosen, noise, "validation-noise")
            validation = Split(validation.images, labels)
    # Sorted, so that "which images" and "in which order" stay apart.
    kept = order.sort().values
    train = source.train.take(kept)
    noisy = _as_trained(source, kept, noise, "label-noise")
    return Data(Split(train.images, noisy), train.labels, validation, test, source.classes)


def _as_trained(source: Source, indices: Tensor, noise: Noise, purpose: str) -> Tensor:
    """The noisy labels of some of the source's training images."""
    if source.human_labels is not None:
        return source.human_labels[indices]
    stream = generator(purpose, noise.seed)
    return noisy_labels(source.train.labels[indices], source.classes, noise, stream)
