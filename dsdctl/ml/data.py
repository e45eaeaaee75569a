"""Images as uint8 tensors: loading, splitting, label noise, and batches of augmented views.

Shapes: N images, B a batch, C channels, H x W pixels. Images are stored as (N, H, W, C), so that
a gathered batch is channels-last without a copy.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dsdctl.errors import WorkError
from dsdctl.ml.noise import flip_symmetric
from dsdctl.ml.randomness import generator


@dataclass(frozen=True)
class Split:
    """Some images and their labels: uint8 (N, H, W, C) and int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> "Split":
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Source:
    """A data set as it was published; `test` is None where it brings no test set."""

    train: Split
    test: Split | None
    classes: int


@dataclass(frozen=True)
class Data:
    """What a level sees. `train` carries the noisy labels, `clean_labels` the true ones."""

    train: Split
    clean_labels: Tensor
    validation: Split
    test: Split
    classes: int


def load_digits() -> Source:
    """scikit-learn's 1,797 digits of 8x8 pixels; grey values 0..16 become 0..255."""
    from sklearn.datasets import load_digits as sklearn_digits

    digits = sklearn_digits()
    pixels = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)
    return Source(Split(pixels[..., None], torch.from_numpy(digits.target).long()), None, 10)


def load_cifar(name: str, root: Path) -> Source:
    """CIFAR-10 or CIFAR-100 by torchvision's own loaders, downloaded where absent.

    Raises WorkError where the files are neither there nor to be had.
    """
    from dsdctl.ml.torchvision_compat import datasets

    dataset = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    splits = []
    for train in (True, False):
        try:
            try:
                part = dataset(str(root), train=train)
            except RuntimeError:  # absent, or not what its md5 says
                part = dataset(str(root), train=train, download=True)
        except (OSError, RuntimeError) as error:
            raise WorkError(
                f"dataset {name}: not found under {root.resolve()} and it could not be downloaded "
                f"({error}); put {dataset.filename} there, or set dataset.root"
            ) from error
        splits.append(Split(torch.from_numpy(part.data), torch.tensor(part.targets)))
    return Source(splits[0], splits[1], 10 if name == "cifar10" else 100)


def load_npz(file: Path, content: str) -> Source:
    """A NumPy archive of x_train, y_train and, together or not at all, x_test, y_test.

    Images are uint8 (N, H, W, C) or (N, H, W); labels are integers from 0. What they hold was
    checked when the run was planned; raises WorkError where the file is another one by now, that
    is where its sha256 is not `content`.
    """
    with file.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != content:
            raise WorkError(f"{file}: changed since the run was planned")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as archive:
            train = _npz_split(archive["x_train"], archive["y_train"])
            test = None
            if "x_test" in archive.files:
                test = _npz_split(archive["x_test"], archive["y_test"])
    return Source(train, test, int(train.labels.max()) + 1)


def split_source(
    source: Source,
    *,
    split_seed: int,
    test_fraction: float | None,
    validation_fraction: float | None,
    validation_noisy: bool,
    noise_rate: float,
    noise_seed: int,
) -> Data:
    """Hold out test and validation images, then flip labels of the training images.

    A fraction f of n images holds out round(f * n). `test_fraction` applies where the source
    brings no test set; without `validation_fraction` the test set is the validation set, as in
    the authors' code. With `validation_noisy` the held-out labels are flipped at the same rate.
    """
    order = torch.randperm(len(source.train), generator=generator("split", split_seed))
    test = source.test
    if test is None:
        held_out = round((test_fraction or 0) * len(order))
        test, order = source.train.take(order[:held_out]), order[held_out:]
    validation = test
    if validation_fraction is not None:
        held_out = round(validation_fraction * len(order))
        validation, order = source.train.take(order[:held_out]), order[held_out:]
        if validation_noisy:
            stream = generator("validation-noise", noise_seed)
            labels = flip_symmetric(validation.labels, source.classes, noise_rate, stream)
            validation = Split(validation.images, labels)
    # Sorted, so that "which images" and "in which order" stay apart.
    train = source.train.take(order.sort().values)
    stream = generator("label-noise", noise_seed)
    noisy = flip_symmetric(train.labels, source.classes, noise_rate, stream)
    return Data(Split(train.images, noisy), train.labels, validation, test, source.classes)


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of pixels scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (B, H, W, C) -> float32 (B, C, H, W), channels-last in memory."""
        mean = torch.tensor(self.mean, device=pixels.device)
        std = torch.tensor(self.std, device=pixels.device)
        scaled = pixels.to(torch.float32).mul_(1 / (255 * std)).sub_(mean / std)
        return scaled.permute(0, 3, 1, 2)


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
        offsets = self.views.offsets
        left, top, flip = views % offsets, views // offsets % offsets, views // offsets**2
        device = indices.device
        rows = top[:, None] + torch.arange(self.height, device=device)
        columns = torch.arange(self.width, device=device).expand(len(views), -1)
        columns = torch.where(flip[:, None] == 1, self.width - 1 - columns, columns) + left[:, None]
        pixels = self._padded[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
        return self.normalisation(pixels)


def epoch_batches(
    reader: ViewReader, labels: Tensor, batch_size: int, *, seed: int, level: int, epoch: int
) -> Iterator[Batch]:
    """Yield every image once, in the order and the views of (seed, level, epoch).

    The last, smaller batch is kept, as in the authors' code.
    """
    stream = generator("order", seed, level, epoch)
    count = len(labels)
    order = torch.randperm(count, generator=stream).to(labels.device)
    views = torch.randint(reader.views.count, (count,), generator=stream).to(labels.device)
    for start in range(0, count, batch_size):
        indices = order[start : start + batch_size]
        chosen = views[start : start + batch_size]
        yield Batch(reader(indices, chosen), labels[indices], indices, chosen)


def _npz_split(images: np.ndarray, labels: np.ndarray) -> Split:
    if images.ndim == 3:
        images = images[..., None]
    return Split(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))
