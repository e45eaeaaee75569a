"""Readers for large images: random resized crops, and images that stay on the disk."""

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
"""A crop's sides are in a ratio between 3:4 and 4:3, drawn uniformly in its logarithm."""

TRIES = 10


class ResizedCropReader:
    """Cuts random rectangles out of a split's images and resizes each to the whole image's size.

    Bilinear, as torchvision's RandomResizedCrop; a crop is never larger than the result, so there
    is nothing to antialias.
    """

    def __init__(self, images: Tensor, normalization: Normalization, views: ResizedCrops):
        """images: uint8 (N, H, W, C), on the device where batches are wanted."""
        self.views = views
        self._images = images
        self._normalization = normalization
        height, width = images.shape[1:3]
        self._shapes, self._room = _shapes_and_room(height, width, views.area, images.device)

    def __call__(self, indices: Tensor, views: Tensor) -> Tensor:
        """indices, views: int64 (B,) -> float32 (B, C, H, W), channels-last in memory."""
        pixels = self._images[indices].to(torch.float32).permute(0, 3, 1, 2)
        corners, shapes = self.crops(views)
        rows = _sampled(pixels.shape[2], corners[:, 0], shapes[:, 0])
        columns = _sampled(pixels.shape[3], corners[:, 1], shapes[:, 1])
        mirrored = views // self.views.UNIT**3 == 1
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        shape = (len(views), *pixels.shape[2:])
        grid = torch.stack([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], -1)
        resized = F.grid_sample(pixels, grid, padding_mode="border", align_corners=True)
        batch = self._normalization(resized.permute(0, 2, 3, 1))
        return batch.contiguous(memory_format=torch.channels_last)

    def crops(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """The (top, left) and the (height, width) in pixels of each view: int64 (B, 2) each."""
        unit = self.views.UNIT
        shape = views // unit**2 % unit
        fractions = torch.stack([views // unit % unit, views % unit], dim=1)
        return fractions * self._room[shape] // unit, self._shapes[shape]


def _sampled(side: int, start: Tensor, length: Tensor) -> Tensor:
    """Where along a side of `side` pixels the `side` pixels of each result are sampled: (B, side),
    from -1 at the first pixel's middle to 1 at the last one's.

    start, length: int64 (B,), of each crop. Outside the middles of its outer pixels a crop repeats
    them.
    """
    position = (torch.arange(side, device=start.device) + 0.5) / side
    within = (position * length[:, None] - 0.5).clamp(min=0).minimum(length[:, None] - 1)
    return (start[:, None] + within) * (2 / max(side - 1, 1)) - 1


@functools.cache
def _shapes_and_room(
    height: int, width: int, area: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The shapes of crops, and at how many offsets each may begin: int64 (U, 2) both; copied to a
    device once, for a copy there would have every batch wait."""
    shapes = crop_shapes(height, width, area)
    return shapes.to(device), (torch.tensor([height, width]) - shapes + 1).to(device)


@functools.lru_cache
def crop_shapes(height: int, width: int, area: float) -> Tensor:
    """Heights and widths of ResizedCrops.UNIT crops, int64 (U, 2), as RandomResizedCrop draws them.

    The share of the image is uniform from `area` to 1; what does not fit is drawn again, up to ten
    times, and then is the whole image.
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
    """Reads each batch of images from the disk, and its views as another reader would.

    `reader_of` makes that reader of a batch's images alone: uint8 (B, H, W, C).
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
