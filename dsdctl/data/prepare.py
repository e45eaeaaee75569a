"""Preparing a data set once, before a run begins: find, download, decode and check it."""

import functools
import os
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dsdctl.data import sources
from dsdctl.data.image_folder import list_images
from dsdctl.data.prepared import FOLDER, Progress, RawDataset, open_part, prepare, read_manifest
from dsdctl.errors import WorkError
from dsdctl.keys import ImagesIdentity, NoiseIdentity
from dsdctl.spec.catalog import CATALOG, images_record

MEMORY_BUDGET = 8 * 2**30
"""Bytes of images that a process holds in memory; larger data sets are read from disk."""


def fallback_folder(store: Path) -> Path:
    """The folder for prepared images if the data's own folder cannot be written."""
    return store / "prepared"


@dataclass(frozen=True)
class Files:
    """Where a data set is on this machine; prepared images go to `spare` if not beside it."""

    path: Path
    spare: Path
    memory_budget: int = MEMORY_BUDGET


def reader_of(name: str) -> Callable[..., Any]:
    """The function that reads a data set, `MODULE:FUNCTION` below `dsdctl.data`."""
    return pkgutil.resolve_name(f"dsdctl.data.{name}")  # type: ignore[no-any-return]


def human_labels_of(
    images: ImagesIdentity, noise: NoiseIdentity, files: Files, clean: np.ndarray
) -> np.ndarray:
    """The human labels of the training images, whose own labels are `clean`: int64 (N,) both.

    Raises WorkError if the file is missing or not as it was published.
    """
    assert noise.labels is not None
    return sources.human_labels(bare_name(images), noise.labels, files.path, clean)


def bare_name(images: ImagesIdentity) -> str:
    """The data set's name without its version."""
    return images.dataset.rpartition("-")[0]


def prepare_data(
    images: ImagesIdentity, noise: NoiseIdentity, files: Files, progress: Progress
) -> None:
    """Prepare all that `load_data` needs, and check every byte of it, before a run begins.

    Only for data sets with prepared images. Raises WorkError, and InputError if an image folder
    is no longer valid.
    """
    prepare_images(images, files, progress, thorough=True)
    if noise.kind == "human":
        _, labels = open_part(prepared_folder(images, files), "train", mapped=True)
        human_labels_of(images, noise, files, labels)


def prepared_folder(images: ImagesIdentity, files: Files) -> Path:
    """The folder of a data set's prepared images: beside it, if that can be written."""
    name, _, version = images.dataset.rpartition("-")
    if name == "python":
        return files.path
    parts = [images_record(name)[0], version]
    if images.size is not None:
        parts += [str(images.size.resize), str(images.size.crop)]
    if images.content is not None:
        parts.append(images.content[:16])
    beside = files.path / FOLDER / "-".join(parts)
    return beside if beside.is_dir() or _writable(files.path) else files.spare / beside.name


def _writable(folder: Path) -> bool:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return os.access(existing, os.W_OK)


def prepare_images(
    images: ImagesIdentity, files: Files, progress: Progress, *, thorough: bool
) -> None:
    """Make sure that prepared images are there and whole; with `thorough`, check every byte.

    Raises WorkError if they are not and cannot be made.
    """
    folder = prepared_folder(images, files)
    read_raw = functools.partial(_raw_dataset, images, files.path)
    prepare(folder, read_raw, progress, thorough=thorough)
    manifest = read_manifest(folder)
    if bare_name(images) == "python" and (manifest is None or manifest.content != images.content):
        raise WorkError(f"{folder}: changed since the run was planned")


def _raw_dataset(images: ImagesIdentity, root: Path) -> RawDataset:
    """The data set in its own files below `root`. Raises WorkError and InputError."""
    name, record = images_record(bare_name(images))
    if name == "python":
        raise WorkError(f"{root}: not whole any more; `dsdctl prepare SPEC` makes it again")
    read = None if record.reader is None else reader_of(record.reader)
    if images.size is None:
        assert read is not None
        raw: RawDataset = read(root)
    else:
        cut = sources.ResizeAndCrop(images.size.resize, images.size.crop)
        if read is not None:
            raw = read(root, cut)
        else:
            listing = list_images(root, images.test_folder)
            raw = sources.image_folder(listing, cut, images.content)
    _check_counts(name, root, raw)
    return raw


def _check_counts(name: str, root: Path, raw: RawDataset) -> None:
    """A published data set must have all its classes and images. Raises WorkError."""
    known = CATALOG[name].facts
    if known is None:
        return
    found = {part: len(raw.parts[part].labels) for part in raw.parts}
    expected = {"train": known.train_images, "test": known.test_images}
    if found != expected or raw.classes != known.classes:
        raise WorkError(
            f"dataset {name}: {root.resolve()} holds {raw.classes} classes and images "
            f"{found}, not {known.classes} and {expected}"
        )


def stays_on_disk(images: ImagesIdentity, files: Files) -> bool:
    """Whether prepared images would take more memory than the budget, and are read from disk."""
    manifest = read_manifest(prepared_folder(images, files))
    return manifest is not None and exceeds(files.memory_budget, images, manifest.bytes)


def exceeds(budget: int, images: ImagesIdentity, size: int) -> bool:
    """Whether images of `size` bytes, with the copies that their reader makes, take more memory
    than `budget` bytes."""
    random = images.augment.flip or images.augment.crop or images.augment.resized_crop
    # The reader holds a padded copy too and, without random views, a normalized one in fp32.
    copies = 2 if random else 6
    return copies * size > budget
