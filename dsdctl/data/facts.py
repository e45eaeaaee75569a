"""The facts of a spec's data set, without decoding an image: sizes, classes, normalization."""

import hashlib
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dsdctl.data.image_folder import Listing, list_images, read_content
from dsdctl.data.own import check_labels, images_problem, labels_problem
from dsdctl.data.prepared import FOLDER, read_manifest
from dsdctl.errors import InputError
from dsdctl.spec.catalog import CATALOG, IMAGENET, DatasetName, Facts, images_record
from dsdctl.spec.dataset import Dataset, HoldOut
from dsdctl.spec.views import Normalize

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Sizes:
    """Numbers of images after hold-outs; validation is 0 if the test set is the validation set."""

    train: int
    validation: int
    test: int


def is_there(name: DatasetName, root: Path) -> bool:
    """Whether a data set is on this machine, prepared or in its own files, complete or not."""
    whose, record = images_record(name)
    if not record.files or any((root / one).exists() for one in record.files):
        return True
    return any(root.glob(f"{FOLDER}/{whose}-*"))


def dataset_facts(dataset: Dataset, path: Path) -> Facts:
    """The facts of `dataset`. `path` is its root; for npz the archive, for python the folder of
    prepared arrays.

    Raises InputError if an archive, image folder or prepared folder cannot be used.
    """
    if dataset.name == "npz":
        return _npz_facts(path)
    if dataset.name == "python":
        return _prepared_facts(path)
    facts = CATALOG[dataset.name].facts or _folder_facts(dataset, path)
    if dataset.size is None:
        return facts
    side = dataset.size.crop
    return replace(facts, height=side, width=side, size=dataset.size)


def split_sizes(dataset: Dataset, facts: Facts) -> Sizes:
    """Numbers of images after hold-outs, rounded in the same way as `ml.data.split_source`."""
    train, test, validation = facts.train_images, facts.test_images, 0
    if test is None:
        assert dataset.test is not None
        test = round(dataset.test.fraction * train)
        train -= test
    if isinstance(dataset.validation, HoldOut):
        validation = round(dataset.validation.fraction * train)
        train -= validation
    return Sizes(train, validation, test)


def _folder_facts(dataset: Dataset, root: Path) -> Facts:
    """Facts of an image folder, with ImageNet's size and augmentation by default."""
    listing = list_images(root, dataset.test_folder)
    like = CATALOG["imagenet"].facts
    assert like is not None
    return replace(
        like,
        train_images=len(listing.train),
        test_images=len(listing.test) or None,
        classes=len(listing.classes),
        test_folder=listing.test_folder,
        content=_known_content(listing) or read_content(listing),
        warning="" if dataset.size is not None else _enlarged(listing, like.height),
    )


def _enlarged(listing: Listing, side: int) -> str:
    """A warning if the first image must be enlarged to `side` pixels, twice its size or more."""
    from PIL import Image

    file = listing.root / listing.train[0].path
    try:
        with Image.open(file) as image:
            width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""  # reported when it is decoded
    shorter = min(width, height)
    if 2 * shorter > side:
        return ""
    return (
        f"{file} has {width} x {height} pixels, and is enlarged to {side} x {side} without "
        f"`size` (to keep it: dataset.size: {{resize: {shorter}, crop: {shorter}}})"
    )


def _known_content(listing: Listing) -> str | None:
    """The content digest, if images were prepared from the same files; else None."""
    fingerprint = listing.fingerprint()
    for folder in sorted((listing.root / FOLDER).glob("*")):
        manifest = read_manifest(folder)
        if manifest is not None and manifest.fingerprint == fingerprint:
            return manifest.content
    return None


_UNREADABLE = (
    OSError, ValueError, TypeError, EOFError, KeyError, MemoryError, RuntimeError, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip
"""What NumPy and zipfile raise on files that are not archives, or damaged, encrypted or pickled."""


def _npz_facts(file: Path) -> Facts:
    content = file_sha256(file)
    try:
        shapes, labels = _npz_shapes_and_labels(file)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{file}: not a readable .npz archive of plain arrays ({reason})"
        ) from error
    try:
        classes = check_labels(labels)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    if "test" in shapes and shapes["test"][1:] != shapes["train"][1:]:
        raise InputError(
            f"{file}: x_test: images of {shapes['test'][1:]}, "
            f"but of {shapes['train'][1:]} in x_train"
        )
    return _plain_facts(shapes, classes, content)


def _prepared_facts(folder: Path) -> Facts:
    """Facts of prepared arrays that a user's own function returned."""
    import numpy as np

    manifest = read_manifest(folder)
    if manifest is None or manifest.content is None:
        raise InputError(f"{folder}: holds no prepared images")
    try:
        shapes = {
            part: np.load(folder / f"{part}_images.npy", mmap_mode="r").shape
            for part in ("train", "test")
            if f"{part}_images.npy" in manifest.files
        }
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: not readable, delete it ({error})") from error
    return _plain_facts(shapes, manifest.classes, manifest.content)


def _plain_facts(shapes: Mapping[str, tuple[int, ...]], classes: int, content: str) -> Facts:
    """Facts of arrays of which only shapes (N, H, W, C) and classes are known."""
    count, height, width, channels = shapes["train"]
    plain = Normalize(mean=(0.5,) * channels, std=(0.25,) * channels)
    return Facts(
        version=1,
        train_images=count,
        test_images=shapes["test"][0] if "test" in shapes else None,
        classes=classes,
        channels=channels,
        height=height,
        width=width,
        normalize=IMAGENET if channels == 3 else plain,
        content=content,
    )


def _npz_shapes_and_labels(
    file: Path,
) -> "tuple[dict[str, tuple[int, int, int, int]], dict[str, np.ndarray]]":
    """Shapes (N, H, W, C) from the headers alone, since images may be gigabytes; and labels."""
    import numpy as np

    shapes, labels = {}, {}
    with file.open("rb") as stream, zipfile.ZipFile(stream) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
        missing = sorted({"x_train", "y_train"} - names)
        if missing:
            found = ", ".join(sorted(names)) or "nothing"
            raise InputError(f"{file}: no member {missing[0]} (it holds: {found})")
        if ("x_test" in names) != ("y_test" in names):
            raise InputError(f"{file}: x_test and y_test must come together")
        for part in ("train", "test") if "x_test" in names else ("train",):
            shape, dtype = _npy_header(archive, f"x_{part}")
            _refuse(file, part, images_problem(shape, dtype))
            shapes[part] = (shape[0], shape[1], shape[2], shape[3] if len(shape) == 4 else 1)
            shape, dtype = _npy_header(archive, f"y_{part}")
            _refuse(file, part, labels_problem(shape, dtype, shapes[part][0]))
            with archive.open(f"y_{part}.npy") as member:
                labels[part] = np.lib.format.read_array(member, allow_pickle=False)
            _check_whole(archive, f"x_{part}")
    return shapes, labels


def _refuse(file: Path, part: str, problem: str | None) -> None:
    """Raises InputError if there is a `problem` with a part of an archive."""
    if problem is not None:
        raise InputError(f"{file}: {problem.replace('_?', f'_{part}')}")


def _npy_header(archive: zipfile.ZipFile, member: str) -> "tuple[tuple[int, ...], np.dtype]":
    """The shape and dtype of an array. Raises ValueError if they do not match its size in bytes."""
    import numpy as np

    with archive.open(f"{member}.npy") as stream:
        if np.lib.format.read_magic(stream) == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        held = archive.getinfo(f"{member}.npy").file_size - stream.tell()
    if held != math.prod(shape) * dtype.itemsize and not dtype.hasobject:
        raise ValueError(f"{member}: {held} bytes are no {dtype} of shape {shape}")
    return shape, dtype


def _check_whole(archive: zipfile.ZipFile, member: str) -> None:
    """Read an array to its end, where zipfile checks its CRC, without holding it in memory."""
    with archive.open(f"{member}.npy") as stream:
        while stream.read(2**20):
            pass


def file_sha256(file: Path) -> str:
    """sha256 of a regular file. Raises InputError if it is not one, or cannot be read."""
    try:
        if not file.is_file():
            raise InputError(f"{file}: not a file" if file.exists() else f"{file}: no such file")
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}") from error
