"""Readers of data sets in their own files: torchvision's, image folders, archives, human labels.

Data sets that must be decoded or unpickled are returned as a `RawDataset`, to be prepared once.
"""

import contextlib
import functools
import hashlib
import io
import pickle
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from dsdctl.data.image_folder import Listing, content_digest
from dsdctl.data.prepared import RawDataset, RawSplit
from dsdctl.errors import WorkError
from dsdctl.spec.catalog import CATALOG, HumanLabels
from dsdctl.system.devices import usable_cores


@dataclass(frozen=True)
class LabelledImages:
    """Images, uint8 (N, H, W, C), and their labels, int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Arrays:
    """A data set as it was published; `test` is None if it has no test split."""

    train: LabelledImages
    test: LabelledImages | None
    classes: int


MAX_PIXELS = 2**28
"""Upper limit on a resized image: an image one pixel high could otherwise take all memory."""


@dataclass(frozen=True)
class ResizeAndCrop:
    """Brings images to one size: resizes the shorter side to `resize` pixels (bilinear,
    antialiased), then crops the centre of `crop` x `crop` pixels, as torchvision does."""

    resize: int
    crop: int

    def __call__(self, image: Image.Image) -> np.ndarray:
        """An image of any mode and size -> uint8 (crop, crop, 3), RGB.

        Raises ValueError if the resized image would have more than MAX_PIXELS.
        """
        width, height = (int(self.resize * side / min(image.size)) for side in image.size)
        if width * height > MAX_PIXELS:
            sides = " x ".join(map(str, image.size))
            raise ValueError(f"{sides} pixels, of which resizing would make {width} x {height}")
        left, top = round((width - self.crop) / 2), round((height - self.crop) / 2)
        resized = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(resized.crop((left, top, left + self.crop, top + self.crop)))


def load_digits() -> Arrays:
    """scikit-learn's 1,797 digits of 8x8 pixels; grey values are scaled from 0..16 to 0..255."""
    from sklearn.datasets import load_digits as sklearn_digits

    digits = sklearn_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    train = LabelledImages(pixels[..., None], digits.target.astype(np.int64))
    return Arrays(train, None, 10)


def load_npz(file: Path, content: str) -> Arrays:
    """A NumPy archive of x_train, y_train and, together or not at all, x_test, y_test.

    Images are uint8 (N, H, W, C) or (N, H, W); labels are integers from 0. The arrays were checked
    when the run was planned. Raises WorkError if the file has changed since, that is if its sha256
    is not `content`.
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
    return Arrays(train, test, int(train.labels.max()) + 1)


def cifar10(root: Path) -> RawDataset:
    """CIFAR-10 by torchvision's loader, downloaded if it is missing.

    Raises WorkError if the files are missing and cannot be downloaded.
    """
    from dsdctl.system.torchvision import datasets

    return _cifar("cifar10", datasets.CIFAR10, 10, root)


def cifar100(root: Path) -> RawDataset:
    """CIFAR-100, likewise."""
    from dsdctl.system.torchvision import datasets

    return _cifar("cifar100", datasets.CIFAR100, 100, root)


def _cifar(name: str, dataset: Any, classes: int, root: Path) -> RawDataset:
    parts = {}
    for part in ("train", "test"):
        load = functools.partial(dataset, str(root), train=part == "train")
        found = _found_or_downloaded(name, root, dataset.base_folder, dataset.filename, load)
        parts[part] = RawSplit(found.targets, found.data.shape[1:], _rows_of(found.data))
    return RawDataset(classes, parts)


def svhn(root: Path) -> RawDataset:
    """Street View House Numbers, cropped digits, by torchvision's loader, downloaded if missing.

    Raises WorkError if the files are missing and cannot be downloaded.
    """
    from dsdctl.system.torchvision import datasets

    parts = {}
    for part in ("train", "test"):
        load = functools.partial(datasets.SVHN, str(root), split=part)
        file = f"{part}_32x32.mat"
        found = _found_or_downloaded("svhn", root, file, file, load)
        images = found.data.transpose(0, 2, 3, 1)
        parts[part] = RawSplit(found.labels, images.shape[1:], _rows_of(images))
    return RawDataset(10, parts)


def tiny_imagenet(root: Path) -> RawDataset:
    """Tiny ImageNet from its unpacked archive; its validation images are the test split.

    Raises WorkError if files are missing or not as published.
    """
    folder, cut = root / "tiny-imagenet-200", ResizeAndCrop(64, 64)
    try:
        classes = sorted((folder / "wnids.txt").read_text().split())
        lines = (folder / "val" / "val_annotations.txt").read_text().splitlines()
        numbers = {name: number for number, name in enumerate(classes)}
        named = [line.split("\t")[:2] for line in lines]
        test = [(folder / "val" / "images" / file, numbers[name]) for file, name in named]
        train = [
            (file, number)
            for name, number in numbers.items()
            for file in sorted((folder / "train" / name / "images").glob("*.JPEG"))
        ]
    except OSError as error:
        raise WorkError(
            f"dataset tiny-imagenet-200: {error.filename}: {error.strerror}; unpack "
            f"tiny-imagenet-200.zip in {root.resolve()}, or set dataset.root"
        ) from error
    except (KeyError, ValueError) as error:
        raise WorkError(f"dataset tiny-imagenet-200: {folder}: not as published") from error
    parts = {
        name: _image_part([file for file, _ in found], [label for _, label in found], cut, {})
        for name, found in (("train", train), ("test", test))
    }
    return RawDataset(len(classes), parts)


def flowers102(root: Path, cut: ResizeAndCrop) -> RawDataset:
    """Oxford Flowers 102 by torchvision's loader: 1,020 training and 6,149 test images, as in the
    authors' code.

    Raises WorkError if the files are missing and cannot be downloaded.
    """
    from dsdctl.system.torchvision import datasets

    parts = {}
    for part in ("train", "test"):
        load = functools.partial(datasets.Flowers102, str(root), split=part)
        found = _found_or_downloaded("flowers102", root, "flowers-102", "flowers-102/", load)
        parts[part] = _image_part(found._image_files, found._labels, cut, {})
    return RawDataset(102, parts)


def image_folder(listing: Listing, cut: ResizeAndCrop, content: str | None) -> RawDataset:
    """An image folder. If `content` is given, `finish` raises WorkError if the files have changed,
    that is if their content digest is not `content`."""
    fingerprint = listing.fingerprint()
    digests: dict[Path, bytes] = {}
    parts = {}
    for name, files in (("train", listing.train), ("test", listing.test)):
        if files:
            paths = [listing.root / file.path for file in files]
            parts[name] = _image_part(paths, [file.label for file in files], cut, digests)

    def finish() -> dict[str, str]:
        pairs = [(file.path, digests[listing.root / file.path]) for file in listing.files]
        found = content_digest(pairs)
        if content is not None and found != content:
            raise WorkError(f"{listing.root}: changed since the run was planned")
        return {"content": found, "fingerprint": fingerprint}

    return RawDataset(len(listing.classes), parts, finish)


# Human labels

HUMAN_KEYS: dict[HumanLabels, str] = {
    "aggre": "aggre_label",
    "worse": "worse_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
    "noisy": "noisy_label",
}
"""The name of each set of labels in the published files."""


def human_labels(name: str, labels: HumanLabels, root: Path, clean: np.ndarray) -> np.ndarray:
    """A set of human labels for CIFAR's training images (CIFAR-N, Wei et al. 2022): int64 (N,).

    `clean` are the data set's own labels, in the same order. Raises WorkError if the file is
    missing, is not as published, or belongs to other images.
    """
    record = CATALOG[name]
    file = root / record.human_file
    if not file.is_file():
        raise WorkError(
            f"dataset {name}: {file.resolve()}: no such file; put {file.name} there, as published "
            "at github.com/UCSC-REAL/cifar-10-100n, or set dataset.root"
        )
    arrays = _plain_arrays(file)
    for key in ("clean_label", HUMAN_KEYS[labels]):
        if not isinstance(arrays.get(key), np.ndarray):
            raise WorkError(f"dataset {name}: {file}: holds no array {key}")
    if not np.array_equal(arrays["clean_label"], clean):
        raise WorkError(f"dataset {name}: {file}: clean_label is not what {root.resolve()} holds")
    found = np.ascontiguousarray(arrays[HUMAN_KEYS[labels]], dtype="<i8")
    if hashlib.sha256(found.tobytes()).hexdigest() != record.human_labels[labels].sha256:
        raise WorkError(f"dataset {name}: {file}: {HUMAN_KEYS[labels]} is not as it was published")
    return found


def _plain_arrays(file: Path) -> dict[str, Any]:
    """Read a .pt file with a dictionary of integer arrays; nothing in it can run code.

    Raises WorkError if it holds anything else.
    """
    import torch

    reconstruct: Any = np.empty(0).__reduce__()[0]
    allowed: list[Any] = [
        np.ndarray,
        np.dtype,
        type(np.dtype(np.int64)),
        # The names of this function before and since NumPy 2.
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        (reconstruct, "numpy._core.multiarray._reconstruct"),
    ]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            loaded = torch.load(file, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise WorkError(f"{file}: not a file of plain integer arrays") from error
    if not isinstance(loaded, dict):
        raise WorkError(f"{file}: holds a {type(loaded).__name__}, not named arrays")
    return loaded


# Parts


def _found_or_downloaded(
    name: str, root: Path, folder: str, wanted: str, load: Callable[..., Any]
) -> Any:
    """The result of `load(download=...)`, from disk or, if files are missing, from the network.

    It reads `folder` in `root`; `wanted` is what messages ask a user to put there. Raises WorkError
    if the files are missing and cannot be downloaded.
    """
    try:
        try:
            return _loaded(load, download=False)
        except RuntimeError:  # missing, or with another md5
            return _loaded(load, download=True)
    except (OSError, RuntimeError) as error:
        state = f"not found under {root.resolve()}"
        if any((root / folder).glob("*")):
            state = f"{root.resolve() / folder} is not whole, or not what was published,"
        raise WorkError(
            f"dataset {name}: {state} and it could not be downloaded ({error}); "
            f"put {wanted} into {root.resolve()}, or set dataset.root"
        ) from error


def _loaded(load: Callable[..., Any], *, download: bool) -> Any:
    """Call torchvision with its output, on both streams, on stderr if that is a terminal.

    NumPy 2.4.0 warns of CIFAR's old pickles, which is silenced.
    """
    output = sys.stderr if sys.stderr.isatty() else io.StringIO()
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        return load(download=download)


def _rows_of(images: np.ndarray) -> Callable[[int, int], np.ndarray]:
    return lambda start, stop: images[start:stop]


def _image_part(
    files: Sequence[Path], labels: Sequence[int], cut: ResizeAndCrop, digests: dict[Path, bytes]
) -> RawSplit:
    """A part whose image files are decoded by one thread per core.

    Reading fills in `digests` with the sha256 of each file, and raises WorkError for one that
    cannot be decoded.
    """

    def decode(file: Path) -> np.ndarray:
        try:
            content = file.read_bytes()
            digests[file] = hashlib.sha256(content).digest()
            with Image.open(io.BytesIO(content)) as image:
                return cut(image)
        except UnidentifiedImageError as error:  # its message names the bytes in memory, no file
            raise WorkError(f"{file}: not a readable image (of no known format)") from error
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise WorkError(f"{file}: not a readable image ({error})") from error

    def read(start: int, stop: int) -> np.ndarray:
        with warnings.catch_warnings(), ThreadPoolExecutor(usable_cores()) as pool:
            warnings.filterwarnings("ignore", module=r"PIL\.")  # what matters is raised
            return np.stack(list(pool.map(decode, files[start:stop])))

    return RawSplit(labels, (cut.crop, cut.crop, 3), read)


def _npz_split(images: np.ndarray, labels: np.ndarray) -> LabelledImages:
    if images.ndim == 3:
        images = images[..., None]
    return LabelledImages(images, labels.astype(np.int64))
