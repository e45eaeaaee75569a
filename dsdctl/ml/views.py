"""Augmented views of images: their numbering, which ones an epoch sees, and how they are read."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dsdctl.ml import gpu
from dsdctl.ml.randomness import generator


@dataclass(frozen=True)
class Normalization:
    """Per-channel mean and standard deviation of pixels scaled to [0, 1].

    With `centre`, images are first cropped to a centre of that many pixels per side.
    """

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
        """The scale and shift (C,) of normalized = pixel * scale - shift, on `device`."""
        return _scale_and_shift(self.mean, self.std, device)


@functools.cache
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """1 / (255 std) and mean / std, each (C,), copied to a device once.

    Computed on the CPU: another thread's stream would not wait for a computation on this one's.
    """
    divisor = torch.tensor(std)
    return (1 / (255 * divisor)).to(device), (torch.tensor(mean) / divisor).to(device)


@dataclass(frozen=True)
class Views:
    """The views of an image under random flip and crop after zero padding by `crop` pixels.

    View number v = (flip * S + top) * S + left, with S = 2 * crop + 1 offsets per side.
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

    View number v = ((flip * U + shape) * U + top) * U + left, with U = 2**16. `shape` is one of U
    crop shapes drawn once, each at least a fraction `area` of the image; top / U and left / U place
    the crop among its possible offsets.
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
    """Normalized images (B, C, H, W), their labels, indices and views, each int64 (B,)."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    views: Tensor


class ViewReader:
    """Gathers augmented, normalized views of a split's images by index arithmetic."""

    def __init__(self, images: Tensor, normalization: Normalization, views: Views):
        """images: uint8 (N, H, W, C), on the device of the batches."""
        self.height, self.width = images.shape[1:3]
        self.views = views
        self.normalization = normalization
        crop = views.crop
        self._padded = F.pad(images, (0, 0, crop, crop, crop, crop))
        # Without augmentation every epoch sees the same pixels: normalize them once.
        self._only_view = normalization(images).permute(0, 2, 3, 1) if views.count == 1 else None

    def __call__(self, indices: Tensor, views: Tensor) -> Tensor:
        """indices, views: int64 (B,) -> float32 (B, C, H, W), channels-last in memory."""
        if self._only_view is not None:
            return self._only_view.index_select(0, indices).permute(0, 3, 1, 2)
        if gpu.used(self._padded) and self.normalization.centre is None:
            from dsdctl.ml.gpu.views import read

            constants = self.normalization.constants(self._padded.device)
            return read(self._padded, indices, views, *constants, self.views.crop)
        offsets = self.views.offsets
        left, top, flip = views % offsets, views // offsets % offsets, views // offsets**2
        device = indices.device
        rows = top[:, None] + torch.arange(self.height, device=device)
        columns = torch.arange(self.width, device=device).expand(len(views), -1)
        columns = torch.where(flip[:, None] == 1, self.width - 1 - columns, columns) + left[:, None]
        pixels = self._padded[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
        return self.normalization(pixels)


def epoch_order(
    reader: Reader, labels: Tensor, batch_size: int, *, seed: int, level: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each batch's (indices, views), int64 (B,), on the device of `labels`.

    Every image comes once. Order and views are a function of (seed, level, epoch). The last,
    smaller batch is kept, as in the authors' code.
    """
    stream = generator("order", seed, level, epoch)
    count = len(labels)
    order = torch.randperm(count, generator=stream).to(labels.device)
    views = torch.randint(reader.views.count, (count,), generator=stream).to(labels.device)
    yield from zip(torch.split(order, batch_size), torch.split(views, batch_size), strict=True)
