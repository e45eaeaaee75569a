"""Random resized crops are torchvision's, and images on the disk give the same batches."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dsdctl.ml.data import MappedImages
from dsdctl.ml.large import ResizedCropReader, StreamedReader, crop_shapes
from dsdctl.ml.views import Normalization, Reader, ResizedCrops, ViewReader, Views
from dsdctl.system.torchvision import transforms

PLAIN = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
UNIT = ResizedCrops.UNIT
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def rounding(side: int) -> float:
    """By how much a pixel, from 0 to 1, may be off that was interpolated in float32.

    Where it is sampled is rounded eight times by a share of the side, in either direction, and a
    pixel differs from its neighbour by at most 1; then its own arithmetic.
    """
    return (2 * 8 * side + 16) * 2.0**-24


def random_images(count: int, height: int, width: int, channels: int = 3) -> Tensor:
    stream = torch.Generator().manual_seed(0)
    shape = (count, height, width, channels)
    return torch.randint(0, 256, shape, generator=stream, dtype=torch.uint8)


def drawn(views: ResizedCrops | Views, count: int) -> Tensor:
    return torch.randint(views.count, (count,), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("height", "width"), [(24, 24), (16, 31)])
def test_each_view_is_torchvisions_resized_crop(flip: bool, height: int, width: int) -> None:
    images = random_images(5, height, width)
    views = ResizedCrops(flip, 0.08)
    reader = ResizedCropReader(images, Normalization(MEAN, STD), views)
    indices, numbers = torch.arange(40) % 5, drawn(views, 40)
    batch = reader(indices, numbers)
    assert batch.shape == (40, 3, height, width)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    corners, shapes = reader.crops(numbers)
    for row in range(40):
        pixels = images[indices[row]].permute(2, 0, 1).double()
        box = [*corners[row].tolist(), *shapes[row].tolist()]
        expected = transforms.functional.resized_crop(
            pixels, *box, [height, width], antialias=False
        )
        if int(numbers[row]) >= UNIT**3:
            expected = transforms.functional.hflip(expected)
        mean, std = (torch.tensor(part, dtype=torch.float64)[:, None, None] for part in (MEAN, STD))
        expected = (expected / 255 - mean) / std
        off = rounding(max(height, width)) / min(STD)
        torch.testing.assert_close(batch[row].double(), expected, rtol=0, atol=off)
    assert bool((numbers >= UNIT**3).any()) is flip


def test_the_whole_image_is_left_as_it_is() -> None:
    images = random_images(2, 9, 9)
    reader = ResizedCropReader(
        images, Normalization((0.0,) * 3, (1.0,) * 3), ResizedCrops(True, 0.999)
    )
    whole = int((reader._shapes == 9).all(1).nonzero()[0])
    plain = reader(torch.tensor([1]), torch.tensor([whole * UNIT**2]))
    expected = images[1].permute(2, 0, 1) / 255
    torch.testing.assert_close(plain[0], expected, rtol=0, atol=rounding(9))
    mirrored = reader(torch.tensor([1]), torch.tensor([UNIT**3 + whole * UNIT**2]))
    torch.testing.assert_close(mirrored, plain.flip(3), rtol=0, atol=2 * rounding(9))


@pytest.mark.parametrize(("height", "width", "area"), [(64, 64, 0.08), (32, 48, 0.25)])
def test_shapes_and_places_are_distributed_as_torchvision_draws_them(
    height: int, width: int, area: float
) -> None:
    shapes = crop_shapes(height, width, area)
    assert shapes.shape == (UNIT, 2)
    assert bool(((shapes >= 1) & (shapes <= torch.tensor([height, width]))).all())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image = torch.empty(1, height, width)
        draw = transforms.RandomResizedCrop.get_params
        boxes = [draw(image, (area, 1.0), (3 / 4, 4 / 3)) for _ in range(3000)]
    expected = torch.tensor(boxes)
    views = ResizedCrops(False, area)
    reader = ResizedCropReader(random_images(1, height, width), PLAIN, views)
    corners, sizes = reader.crops(drawn(views, 20_000))
    found = torch.cat([corners, sizes], dim=1)
    for column in range(4):
        one, other = found[:, column].double(), expected[:, column].double()
        # Kolmogorov and Smirnov: 1.95 is passed by chance once in a thousand draws.
        assert distance(one, other) < 1.95 * math.sqrt(1 / len(one) + 1 / len(other))


def distance(one: Tensor, other: Tensor) -> float:
    """The most by which two empirical distributions differ."""
    at = torch.cat([one, other]).unique()
    shares = [torch.searchsorted(x.sort().values, at, right=True) / len(x) for x in (one, other)]
    return float((shares[0] - shares[1]).abs().max())


def test_views_are_too_many_to_count_and_yet_drawn() -> None:
    views = ResizedCrops(True, 0.08)
    assert views.count == 2**49
    numbers = drawn(views, 1000)
    assert len(numbers.unique()) == 1000
    assert int(numbers.max()) < 2**49


def mapped(images: Tensor, file: Path, rows: Tensor | None = None) -> MappedImages:
    np.save(file, images.numpy())
    array = np.load(file, mmap_mode="r")
    kept = torch.arange(len(images)) if rows is None else rows
    return MappedImages(array, kept, torch.device("cpu"))


@pytest.mark.parametrize(
    "views",
    [Views(), Views(True, 2), ResizedCrops(True, 0.2)],
    ids=lambda views: type(views).__name__,
)
def test_images_on_the_disk_give_the_same_bits(views: Views | ResizedCrops, tmp_path: Path) -> None:
    images = random_images(30, 8, 8)
    normalization = Normalization((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))

    def reader_of(batch: Tensor) -> Reader:
        if isinstance(views, ResizedCrops):
            return ResizedCropReader(batch, normalization, views)
        return ViewReader(batch, normalization, views)

    streamed = StreamedReader(mapped(images, tmp_path / "x.npy"), views, reader_of)
    in_memory = reader_of(images)
    indices = torch.randperm(30, generator=torch.Generator().manual_seed(1))[:13]
    numbers = drawn(views, 13)
    assert torch.equal(streamed(indices, numbers), in_memory(indices, numbers))
    assert streamed.views == in_memory.views


def test_rows_of_a_file_are_images_in_any_order(tmp_path: Path) -> None:
    images = random_images(10, 3, 3)
    some = mapped(images, tmp_path / "x.npy", torch.tensor([7, 2, 5]))
    assert len(some) == 3
    assert torch.equal(some[torch.tensor([2, 0])], images[[5, 7]])
    assert torch.equal(some.take(torch.tensor([1]))[torch.tensor([0])], images[[2]])
