"""A data set made ready once, before a run begins: found, downloaded, decoded, checked."""

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
"""Bytes of images that a process holds in memory; larger data sets are read from the disk."""


def fallback_folder(store: Path) -> Path:
    """Where prepared images go if the data's own folder cannot be written."""
    return store / "prepared"


@dataclass(frozen=True)
class Files:
    """Where a data set lies on this machine, and where prepared images go if not beside it."""

    path: Path
    spare: Path
    memory_budget: int = MEMORY_BUDGET


def reader_of(name: str) -> Callable[..., Any]:
    """The function that reads a data set, `MODULE:FUNCTION` below `dsdctl.data`."""
    return pkgutil.resolve_name(f"dsdctl.data.{name}")  # type: ignore[no-any-return]


def human_labels_of(
    images: ImagesIdentity, noise: NoiseIdentity, files: Files, clean: np.ndarray
) -> np.ndarray:
    """What people called the training images: int64 (N,). Raises WorkError."""
    assert noise.labels is not None
    return sources.human_labels(bare_name(images), noise.labels, files.path, clean)


def bare_name(images: ImagesIdentity) -> str:
    """The data set's name without its version."""
    return images.dataset.rpartition("-")[0]


def prepare_data(
    images: ImagesIdentity, noise: NoiseIdentity, files: Files, progress: Progress
) -> None:
    """Make ready all that `load_data` needs, and check every byte of it, before a run begins.

    For data sets that are not loaded as they are. Raises WorkError, and InputError where an image
    folder is no longer one.
    """
    prepare_images(images, files, progress, thorough=True)
    if noise.kind == "human":
        _, labels = open_part(prepared_folder(images, files), "train", mapped=True)
        human_labels_of(images, noise, files, labels)


def prepared_folder(images: ImagesIdentity, files: Files) -> Path:
    """Where the prepared images of a data set lie: beside it, if that folder can be written."""
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
    """Have the prepared images whole: those that are there, or new ones. Raises WorkError."""
    folder = prepared_folder(images, files)
    original = functools.partial(_original, images, files.path)
    prepare(folder, original, progress, thorough=thorough)
    manifest = read_manifest(folder)
    if bare_name(images) == "python" and (manifest is None or manifest.content != images.content):
        raise WorkError(f"{folder}: changed since the run was planned")


def _original(images: ImagesIdentity, root: Path) -> RawDataset:
    name, record = images_record(bare_name(images))
    if name == "python":
        raise WorkError(f"{root}: not whole any more; `dsdctl prepare SPEC` makes it again")
    read = None if record.reader is None else reader_of(record.reader)
    if images.size is None:
        assert read is not None
        original: RawDataset = read(root)
    else:
        cut = sources.ResizeAndCrop(images.size.resize, images.size.crop)
        if read is not None:
            original = read(root, cut)
        else:
            listing = list_images(root, images.test_folder)
            original = sources.image_folder(listing, cut, images.content)
    _check_counts(name, root, original)
    return original


def _check_counts(name: str, root: Path, original: RawDataset) -> None:
    """A data set that goes by its name must be whole. Raises WorkError."""
    known = CATALOG[name].facts
    if known is None:
        return
    found = {part: len(original.parts[part].labels) for part in original.parts}
    expected = {"train": known.train_images, "test": known.test_images}
    if found != expected or original.classes != known.classes:
        raise WorkError(
            f"dataset {name}: {root.resolve()} holds {original.classes} classes and images "
            f"{found}, not {known.classes} and {expected}"
        )


def stays_on_disk(images: ImagesIdentity, files: Files) -> bool:
    """Whether the images take more than the budget."""
    manifest = read_manifest(prepared_folder(images, files))
    return manifest is not None and exceeds(files.memory_budget, images, manifest.bytes)


def exceeds(budget: int, images: ImagesIdentity, size: int) -> bool:
    """Whether images of `size` bytes, with the copies that views are cut from, take more than so
    many bytes."""
    random = images.augment.flip or images.augment.crop or images.augment.resized_crop
    # Padded, and where no view is random normalized once for all, in four bytes instead of one.
    copies = 2 if random else 6
    return copies * size > budget
