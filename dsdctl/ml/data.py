"""Images as uint8 tensors: splitting, label noise, and batches of augmented views.

Shapes: N images, B a batch, C channels, H x W pixels. Images are stored as (N, H, W, C), so that
a gathered batch is channels-last without a copy.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dsdctl.ml import gpu
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


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of pixels scaled to [0, 1]; with `centre` of the
    centre of that many pixels a side alone."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    centre: int | None = None

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (B, H, W, C) -> float32 (B, C, H, W), channels-last in memory."""
        if self.centre is not None:
            top, left = (round((side - self.centre) / 2) for side in pixels.shape[1:3])
            pixels = pixels[:, top : top + self.centre, left : left + self.centre]
        scale, shift = self.constants(pixels.device)
        return pixels.to(torch.float32).mul_(scale).sub_(shift).permute(0, 3, 1, 2)

    def constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """What a pixel is multiplied by, and what is then subtracted, each (C,)."""
        return _scale_and_shift(self.mean, self.std, device)


@functools.cache
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """What a pixel is multiplied by, and what is then subtracted; copied to a device once.

    Computed before: other threads' streams do not wait for what this one's computes.
    """
    divisor = torch.tensor(std)
    return (1 / (255 * divisor)).to(device), (torch.tensor(mean) / divisor).to(device)


@dataclass(frozen=True)
class Views:
    """The finitely many views of an image under random flip and crop after zero padding.

    View v counts v = (flip * S + top) * S + left with S = 2 * crop + 1 offsets a side.
    """

    flip: bool = False
    crop: int = 0

    @property
    def offsets(self) -> int:
        return 2 * self.crop + 1

    @property
    def count(self) -> int:
        return (2 if self.flip else 1) * self.offsets**2


@dataclass(frozen=True)
class ResizedCrops:
    """The views of an image under random flip and random resized crop: too many for a table.

    View v counts v = ((flip * U + shape) * U + top) * U + left with U = 2**16: `shape` is one of U
    drawn shapes of a crop, each of at least the share `area` of the image; `top` and `left` are
    fractions of the room that it leaves.
    """

    flip: bool
    area: float

    UNIT: ClassVar[int] = 2**16

    @property
    def count(self) -> int:
        return (2 if self.flip else 1) * self.UNIT**3


class Reader(Protocol):
    """Reads views of images: indices and views, int64 (B,) -> float32 (B, C, H, W)."""

    @property
    def views(self) -> Views | ResizedCrops: ...

    def __call__(self, indices: Tensor, views: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Batch:
    """Normalised images (B, C, H, W), labels (B,), and which image in which view each is (B,)."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    views: Tensor


class ViewReader:
    """Gathers augmented, normalised views of a split's images by index arithmetic."""

    def __init__(self, images: Tensor, normalisation: Normalisation, views: Views):
        """images: uint8 (N, H, W, C), on the device where batches are wanted."""
        self.height, self.width = images.shape[1:3]
        self.views = views
        self.normalisation = normalisation
        crop = views.crop
        self._padded = F.pad(images, (0, 0, crop, crop, crop, crop))
        # Without augmentation every epoch sees the same pixels: normalise them once.
        self._plain = normalisation(images).permute(0, 2, 3, 1) if views.count == 1 else None

    def __call__(self, indices: Tensor, views: Tensor) -> Tensor:
        """indices, views: int64 (B,) -> float32 (B, C, H, W), channels-last in memory."""
        if self._plain is not None:
            return self._plain.index_select(0, indices).permute(0, 3, 1, 2)
        if gpu.used(self._padded) and self.normalisation.centre is None:
            from dsdctl.ml.gpu.views import read

            constants = self.normalisation.constants(self._padded.device)
            return read(self._padded, indices, views, *constants, self.views.crop)
        offsets = self.views.offsets
        left, top, flip = views % offsets, views // offsets % offsets, views // offsets**2
        device = indices.device
        rows = top[:, None] + torch.arange(self.height, device=device)
        columns = torch.arange(self.width, device=device).expand(len(views), -1)
        columns = torch.where(flip[:, None] == 1, self.width - 1 - columns, columns) + left[:, None]
        pixels = self._padded[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
        return self.normalisation(pixels)


def epoch_order(
    reader: Reader, labels: Tensor, batch_size: int, *, seed: int, level: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (indices, views) of each batch: every image once, in the order and the views of
    (seed, level, epoch).

    The last, smaller batch is kept, as in the authors' code.
    """
    stream = generator("order", seed, level, epoch)
    count = len(labels)
    order = torch.randperm(count, generator=stream).to(labels.device)
    views = torch.randint(reader.views.count, (count,), generator=stream).to(labels.device)
    yield from zip(torch.split(order, batch_size), torch.split(views, batch_size), strict=True)
