"""Readers for large images: random resized crops, and images that stay on disk."""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dsdctl.ml.data import MappedImages
from dsdctl.ml.randomness import generator
from dsdctl.ml.views import Normalization, Reader, ResizedCrops, Views

LOG_RATIO = math.log(4 / 3)
"""Log of the largest aspect ratio: crops are 3:4 to 4:3, log-uniformly, as torchvision's."""

TRIES = 10
"""Draws of a crop until one fits into the image, as torchvision's."""


class ResizedCropReader:
    """Cuts random rectangles out of a split's images and resizes each to the whole image's size.

    Bilinear, as torchvision's RandomResizedCrop. A crop is never larger than the result, so no
    antialiasing is needed.
    """

    def __init__(self, images: Tensor, normalization: Normalization, views: ResizedCrops):
        """images: uint8 (N, H, W, C), on the device where batches are wanted."""
        self.views = views
        self._images = images
        self._normalization = normalization
        height, width = images.shape[1:3]
        self._shapes, self._offsets = _shapes_and_offsets(height, width, views.area, images.device)

    def __call__(self, indices: Tensor, views: Tensor) -> Tensor:
        """indices, views: int64 (B,) -> float32 (B, C, H, W), channels-last in memory."""
        pixels = self._images[indices].to(torch.float32).permute(0, 3, 1, 2)
        corners, shapes = self.crops(views)
        rows = _sampling_positions(pixels.shape[2], corners[:, 0], shapes[:, 0])
        columns = _sampling_positions(pixels.shape[3], corners[:, 1], shapes[:, 1])
        mirrored = views // self.views.UNIT**3 == 1
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        shape = (len(views), *pixels.shape[2:])
        grid = torch.stack([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], -1)
        resized = F.grid_sample(pixels, grid, padding_mode="border", align_corners=True)
        batch = self._normalization(resized.permute(0, 2, 3, 1))
        return batch.contiguous(memory_format=torch.channels_last)

    def crops(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Each view's crop in pixels, (top, left) and (height, width): int64 (B, 2) each."""
        unit = self.views.UNIT
        shape = views // unit**2 % unit
        fractions = torch.stack([views // unit % unit, views % unit], dim=1)
        return fractions * self._offsets[shape] // unit, self._shapes[shape]


def _sampling_positions(side: int, start: Tensor, length: Tensor) -> Tensor:
    """Where, along one side of an image, each pixel of the resized crop is sampled: (B, side).

    Positions run from -1, the centre of the image's first pixel, to 1, that of the last. start,
    length: int64 (B,), of each crop, in pixels. They are clamped to the centres of the crop's outer
    pixels, which its border therefore repeats.
    """
    position = (torch.arange(side, device=start.device) + 0.5) / side
    within = (position * length[:, None] - 0.5).clamp(min=0).minimum(length[:, None] - 1)
    return (start[:, None] + within) * (2 / max(side - 1, 1)) - 1


@functools.cache
def _shapes_and_offsets(
    height: int, width: int, area: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The shapes of crops and the number of offsets of each: int64 (U, 2) both, by (y, x).

    Cached, since a copy to the device would make every batch wait for it.
    """
    shapes = crop_shapes(height, width, area)
    return shapes.to(device), (torch.tensor([height, width]) - shapes + 1).to(device)


@functools.lru_cache
def crop_shapes(height: int, width: int, area: float) -> Tensor:
    """Heights and widths of U = ResizedCrops.UNIT crops, int64 (U, 2), as RandomResizedCrop's.

    A crop's area is a fraction of the image's, uniform from `area` to 1. Shapes that do not fit are
    drawn again, up to TRIES times in all; if none fits, the crop is the whole image.
    """
    stream = generator("crop-shapes")
    drawn = torch.rand(2, ResizedCrops.UNIT, TRIES, generator=stream, dtype=torch.float64)
    pixels = height * width * (area + (1 - area) * drawn[0])
    ratio = torch.exp(LOG_RATIO * (2 * drawn[1] - 1))
    heights, widths = (pixels / ratio).sqrt().round().long(), (pixels * ratio).sqrt().round().long()
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    heights, widths = heights.where(fits, height), widths.where(fits, width)
    first = fits.long().argmax(dim=1, keepdim=True)
    return torch.cat([heights.gather(1, first), widths.gather(1, first)], dim=1)


class StreamedReader:
    """Reads each batch of images from disk, and lets another reader make the views.

    `reader_of` makes that reader from one batch's images, uint8 (B, H, W, C).
    """

    def __init__(
        self,
        images: MappedImages,
        views: Views | ResizedCrops,
        reader_of: Callable[[Tensor], Reader],
    ):
        self.views = views
        self._images = images
        self._reader_of = reader_of

    def __call__(self, indices: Tensor, views: Tensor) -> Tensor:
        """indices, views: int64 (B,) -> float32 (B, C, H, W), channels-last in memory."""
        reader = self._reader_of(self._images[indices])
        return reader(torch.arange(len(indices), device=indices.device), views)
