"""What is known of a data set before any image is decoded: sizes, classes, normalisation."""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

from dsdctl.errors import InputError
from dsdctl.spec import Dataset, HoldOut, Normalize

IMAGENET = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
GREY = Normalize(mean=(0.3,), std=(0.37,))


@dataclass(frozen=True)
class Facts:
    """Sizes of a data set; `version` or, for npz, `content` (sha256) is part of what it is."""

    version: int
    train_images: int
    test_images: int | None
    classes: int
    channels: int
    height: int
    width: int
    normalize: Normalize
    content: str | None = None


@dataclass(frozen=True)
class Sizes:
    """Images of each part after hold-outs; validation is 0 where the test set serves for it."""

    train: int
    validation: int
    test: int


_NAMED = {
    "digits": Facts(1, 1797, None, 10, 1, 8, 8, GREY),
    # The paper normalises CIFAR with ImageNet's values.
    "cifar10": Facts(1, 50_000, 10_000, 10, 3, 32, 32, IMAGENET),
    "cifar100": Facts(1, 50_000, 10_000, 100, 3, 32, 32, IMAGENET),
}


def dataset_facts(dataset: Dataset, file: Path | None) -> Facts:
    """Facts of `dataset`; `file` is the archive of npz. Raises InputError on an unusable file."""
    if dataset.name == "npz":
        assert file is not None
        return _npz_facts(file)
    return _NAMED[dataset.name]


def split_sizes(dataset: Dataset, facts: Facts) -> Sizes:
    """Images left in each part, rounded as the split itself rounds."""
    train, test, validation = facts.train_images, facts.test_images, 0
    if test is None:
        assert dataset.test is not None
        test = round(dataset.test.fraction * train)
        train -= test
    if isinstance(dataset.validation, HoldOut):
        validation = round(dataset.validation.fraction * train)
        train -= validation
    return Sizes(train, validation, test)


def _npz_facts(file: Path) -> Facts:
    import numpy as np

    try:
        content = _sha256(file)
        with np.load(file, allow_pickle=False) as archive:
            missing = [name for name in ("x_train", "y_train") if name not in archive.files]
            if missing:
                found = ", ".join(archive.files) or "nothing"
                raise InputError(f"{file}: no member {missing[0]} (it holds: {found})")
            has_test = "x_test" in archive.files
            if has_test != ("y_test" in archive.files):
                raise InputError(f"{file}: x_test and y_test must come together")
            parts = ["train", "test"] if has_test else ["train"]
            labels = {part: archive[f"y_{part}"] for part in parts}
        shapes = {part: _npz_image_shape(file, f"x_{part}") for part in parts}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{file}: not a readable .npz archive of plain arrays ({error})"
        ) from error
    for part in parts:
        array, count = labels[part], shapes[part][0]
        if array.dtype.kind not in "iu" or array.shape != (count,) or not count:
            raise InputError(
                f"{file}: y_{part}: {array.dtype} of shape {array.shape} "
                f"(allowed: integers of shape ({count},), one an image, at least one)"
            )
        if array.min() < 0:
            raise InputError(f"{file}: y_{part}: label {array.min()} (allowed: 0 and up)")
    classes = int(labels["train"].max()) + 1
    if len(np.unique(labels["train"])) < 2:
        raise InputError(f"{file}: y_train: one class only (allowed: two or more)")
    if has_test and shapes["test"][1:] != shapes["train"][1:]:
        raise InputError(
            f"{file}: x_test: images of {shapes['test'][1:]}, "
            f"but of {shapes['train'][1:]} in x_train"
        )
    if has_test and int(labels["test"].max()) >= classes:
        raise InputError(
            f"{file}: y_test: label {labels['test'].max()} (allowed: 0 to {classes - 1})"
        )
    count, height, width, channels = shapes["train"]
    plain = Normalize(mean=(0.5,) * channels, std=(0.25,) * channels)
    return Facts(
        version=1,
        train_images=count,
        test_images=shapes["test"][0] if has_test else None,
        classes=classes,
        channels=channels,
        height=height,
        width=width,
        normalize=IMAGENET if channels == 3 else plain,
        content=content,
    )


def _npz_image_shape(file: Path, member: str) -> tuple[int, int, int, int]:
    """(N, H, W, C) from the member's header alone; the images may be gigabytes."""
    import numpy as np

    with zipfile.ZipFile(file) as archive, archive.open(f"{member}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(stream)
    if dtype != np.uint8 or len(shape) not in (3, 4) or 0 in shape:
        raise InputError(
            f"{file}: {member}: {dtype} of shape {shape} "
            "(allowed: uint8 of shape N x H x W or N x H x W x C)"
        )
    return (*shape[:3], shape[3] if len(shape) == 4 else 1)  # type: ignore[return-value]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
