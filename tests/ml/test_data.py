from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batches import epoch_batches
from samples import UNIT
from torch import Tensor

from dsdctl.ml.data import Data, MappedImages, Source, Split, split_source
from dsdctl.ml.noise import Noise
from dsdctl.ml.views import Normalization, ViewReader, Views

# Splitting: a picture of one pixel that holds its own number, of class number % 7.


def numbered(first: int, count: int) -> Split:
    numbers = torch.arange(first, first + count)
    return Split(numbers.to(torch.uint8)[:, None, None, None], numbers % 7)


def numbers_of(split: Split) -> list[int]:
    return [int(number) for number in split.images.flatten()]


def true_labels(split: Split) -> Tensor:
    return torch.tensor(numbers_of(split)) % 7


NOISE = Noise("symmetric", 0.3, 0)


def split_numbered(test: Split | None = None, **options: Any) -> Data:
    defaults: dict[str, Any] = {
        "split_seed": 0,
        "test_fraction": None if test else 0.25,
        "validation_fraction": 0.1,
        "validation_noisy": True,
        "noise": NOISE,
    }
    return split_source(Source(numbered(0, 150), test, 7), **(defaults | options))


def test_hold_outs_have_their_rounded_shares_and_are_disjoint() -> None:
    data = split_numbered()
    parts = [numbers_of(data.test), numbers_of(data.validation), numbers_of(data.train)]
    assert [len(part) for part in parts] == [38, 11, 101]  # round(37.5), round(11.2), the rest
    assert sorted(number for part in parts for number in part) == list(range(150))
    assert data.classes == 7


def test_hold_outs_are_random_and_training_images_stay_in_order() -> None:
    data = split_numbered()
    assert numbers_of(data.train) == sorted(numbers_of(data.train))
    assert max(numbers_of(data.test)) > 75
    assert min(numbers_of(data.test)) < 75


def test_a_test_set_that_was_published_is_kept_whole_and_clean() -> None:
    data = split_numbered(numbered(200, 30))
    assert numbers_of(data.test) == list(range(200, 230))
    assert torch.equal(data.test.labels, true_labels(data.test))
    assert (len(data.validation), len(data.train)) == (15, 135)


def test_without_a_validation_share_the_test_set_validates() -> None:
    data = split_numbered(validation_fraction=None)
    assert data.validation is data.test
    assert (len(data.test), len(data.train)) == (38, 112)


@pytest.mark.parametrize("noisy", [True, False])
def test_only_training_labels_and_on_request_validation_labels_are_flipped(noisy: bool) -> None:
    data = split_numbered(validation_noisy=noisy)
    assert torch.equal(data.clean_labels, true_labels(data.train))
    assert int((data.train.labels != data.clean_labels).sum()) == int(0.3 * 101)
    assert torch.equal(data.test.labels, true_labels(data.test))
    flipped = int((data.validation.labels != true_labels(data.validation)).sum())
    assert flipped == (int(0.3 * 11) if noisy else 0)


def test_split_and_noise_have_seeds_of_their_own() -> None:
    base, other_noise = split_numbered(), split_numbered(noise=Noise("symmetric", 0.3, 1))
    assert numbers_of(base.train) == numbers_of(other_noise.train)
    assert not torch.equal(base.train.labels, other_noise.train.labels)
    other_split = split_numbered(split_seed=1)
    assert numbers_of(base.test) != numbers_of(other_split.test)
    again = split_numbered()
    assert numbers_of(base.validation) == numbers_of(again.validation)
    assert torch.equal(base.train.labels, again.train.labels)


@pytest.mark.parametrize("noisy", [True, False])
def test_human_labels_belong_to_their_images_whatever_is_held_out(noisy: bool) -> None:
    images = numbered(0, 150)
    human = (images.labels + torch.arange(150) % 3) % 7
    source = Source(images, numbered(200, 30), 7, human)
    data = split_source(
        source,
        split_seed=0,
        test_fraction=None,
        validation_fraction=0.2,
        validation_noisy=noisy,
        noise=Noise("human", 0.0, 0),
    )
    assert torch.equal(data.train.labels, human[numbers_of(data.train)])
    assert torch.equal(data.clean_labels, images.labels[numbers_of(data.train)])
    expected = human if noisy else images.labels
    assert torch.equal(data.validation.labels, expected[numbers_of(data.validation)])
    assert torch.equal(data.test.labels, true_labels(data.test))


def test_images_that_stay_on_the_disk_are_split_as_those_in_memory(tmp_path: Path) -> None:
    images = numbered(0, 150)
    np.save(tmp_path / "images.npy", images.pixels.numpy())
    array = np.load(tmp_path / "images.npy", mmap_mode="r")
    mapped = MappedImages(array, torch.arange(150), torch.device("cpu"))
    options: dict[str, Any] = {
        "split_seed": 0,
        "test_fraction": 0.25,
        "validation_fraction": 0.1,
        "validation_noisy": True,
        "noise": NOISE,
    }
    on_disk = split_source(Source(Split(mapped, images.labels), None, 7), **options)
    in_memory = split_source(Source(images, None, 7), **options)
    for part in ("train", "validation", "test"):
        one, other = getattr(on_disk, part), getattr(in_memory, part)
        assert isinstance(one.images, MappedImages)
        assert one.images.shape == other.images.shape
        assert torch.equal(torch.cat(list(one.images.split(7))), other.images)
        assert torch.equal(one.labels, other.labels)
        some = torch.tensor([3, 0, 3])
        assert torch.equal(one.images[some], other.images[some])


# Views

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ROUNDING = UNIT[torch.float32] * (5 + 4 * max(MEAN)) / min(STD)
"""Of a pixel times 1 / (255 std), five times, less mean / std, four times."""


def random_images(count: int, height: int, width: int, channels: int) -> Tensor:
    stream = torch.Generator().manual_seed(0)
    shape = (count, height, width, channels)
    return torch.randint(0, 256, shape, generator=stream, dtype=torch.uint8)


def naive_view(image: np.ndarray, flip: bool, crop: int, top: int, left: int) -> np.ndarray:
    """Pad the raw pixels with zeros, cut out, mirror, then normalize: (H, W, C) -> (C, H, W)."""
    height, width, _ = image.shape
    padded = np.pad(image, ((crop, crop), (crop, crop), (0, 0)))
    cut = padded[top : top + height, left : left + width]
    if flip:
        cut = np.fliplr(cut)
    return ((cut / 255 - np.array(MEAN)) / np.array(STD)).transpose(2, 0, 1)


@pytest.mark.parametrize(
    "views", [Views(), Views(flip=True), Views(crop=2), Views(flip=True, crop=1)], ids=str
)
def test_each_view_is_a_padded_cropped_mirrored_picture(views: Views) -> None:
    images = random_images(3, 5, 4, 3)
    reader = ViewReader(images, Normalization(MEAN, STD), views)
    side = 2 * views.crop + 1
    numbered_views = [
        (flip, top, left)
        for flip in ([False, True] if views.flip else [False])
        for top in range(side)
        for left in range(side)
    ]
    assert views.count == len(numbered_views)
    indices = torch.tensor([2, 0, 1])
    for view, (flip, top, left) in enumerate(numbered_views):
        expected = np.stack(
            [naive_view(images[i].numpy(), flip, views.crop, top, left) for i in indices]
        )
        batch = reader(indices, torch.full((3,), view))
        assert batch.dtype == torch.float32
        assert batch.is_contiguous(memory_format=torch.channels_last)
        np.testing.assert_allclose(batch.numpy(), expected, rtol=0, atol=ROUNDING)


def test_a_batch_mixes_views_image_by_image() -> None:
    images = random_images(4, 5, 4, 3)
    reader = ViewReader(images, Normalization(MEAN, STD), Views(flip=True, crop=1))
    indices, views = torch.tensor([3, 1, 1, 0]), torch.tensor([0, 17, 5, 9])
    alone = [reader(indices[i : i + 1], views[i : i + 1]) for i in range(4)]
    assert torch.equal(reader(indices, views), torch.cat(alone))


def test_normalization_is_that_of_torchvision_transforms() -> None:
    import dsdctl.system.torchvision  # noqa: I001, F401  torchvision beside a CPU build of torch
    from torchvision.transforms import v2

    images = random_images(3, 6, 5, 3)
    scaled = v2.functional.to_dtype(images.permute(0, 3, 1, 2), torch.float64, scale=True)
    expected = v2.functional.normalize(scaled, list(MEAN), list(STD))
    ours = Normalization(MEAN, STD)(images).double()
    torch.testing.assert_close(ours, expected, rtol=0, atol=ROUNDING)


def test_a_centre_is_cut_out_before_normalizing() -> None:
    images = random_images(2, 7, 8, 3)
    centre = Normalization(MEAN, STD, 4)(images)
    # torchvision rounds (7 - 4) / 2 to 2 and takes 2 of 8 - 4.
    assert torch.equal(centre, Normalization(MEAN, STD)(images[:, 2:6, 2:6]))
    assert torch.equal(
        Normalization(MEAN, STD, 7)(images[:, :, :7]), Normalization(MEAN, STD)(images[:, :, :7])
    )


# Epochs


def order_of(reader: ViewReader, labels: Tensor, seed: int, level: int, epoch: int) -> Tensor:
    batches = epoch_batches(reader, labels, 8, seed=seed, level=level, epoch=epoch)
    return torch.cat([torch.stack([batch.indices, batch.views]) for batch in batches], dim=1)


def test_an_epoch_shows_every_image_once_and_keeps_the_last_batch(
    pictures: Split, reader: ViewReader
) -> None:
    batches = list(epoch_batches(reader, pictures.labels, 8, seed=0, level=0, epoch=0))
    assert [len(batch.labels) for batch in batches] == [8, 8, 8, 8, 8, 4]
    indices = torch.cat([batch.indices for batch in batches])
    assert sorted(indices.tolist()) == list(range(44))
    assert indices.tolist() != list(range(44))
    for batch in batches:
        assert torch.equal(batch.labels, pictures.labels[batch.indices])
        assert torch.equal(batch.images, reader(batch.indices, batch.views))


def test_views_are_drawn_uniformly() -> None:
    images = random_images(1_800, 1, 1, 1)
    reader = ViewReader(images, Normalization((0.5,), (0.5,)), Views(flip=True, crop=1))
    views = order_of(reader, torch.zeros(1_800, dtype=torch.int64), 0, 0, 0)[1]
    counts = torch.bincount(views, minlength=18)
    assert len(counts) == 18
    assert all(abs(int(count) - 100) < 5 * 10 for count in counts)


def test_order_and_views_are_a_function_of_seed_level_and_epoch(
    pictures: Split, reader: ViewReader
) -> None:
    first = order_of(reader, pictures.labels, 0, 0, 0)
    torch.manual_seed(99)  # global state plays no part
    assert torch.equal(first, order_of(reader, pictures.labels, 0, 0, 0))
    for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        changed = order_of(reader, pictures.labels, *other)
        assert not torch.equal(first[0], changed[0])
        assert not torch.equal(first[1], changed[1])


def test_an_epoch_leaves_global_random_state_alone(pictures: Split, reader: ViewReader) -> None:
    state = torch.get_rng_state()
    order_of(reader, pictures.labels, 0, 0, 0)
    assert torch.equal(torch.get_rng_state(), state)
