"""The data of a piece of work: found, prepared once, loaded, split, and its labels made noisy."""

import functools
import os
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dsdctl.datasets import NAMED
from dsdctl.errors import WorkError
from dsdctl.imagefolder import list_images
from dsdctl.keys import ImagesIdentity, NoiseIdentity
from dsdctl.labels import CLASS_TARGETS
from dsdctl.ml import sources
from dsdctl.ml.data import (
    Data,
    Images,
    MappedImages,
    Normalisation,
    Reader,
    ResizedCrops,
    Source,
    Split,
    ViewReader,
    Views,
    split_source,
)
from dsdctl.ml.large import ResizedCropReader, StreamedReader
from dsdctl.ml.noise import Noise
from dsdctl.prepared import FOLDER, Original, Progress, open_part, prepare, read_manifest
from dsdctl.spec.dataset import IMAGES_OF, HoldOut
from dsdctl.tasks import MEMORY_BUDGET


@dataclass(frozen=True)
class Files:
    """Where a data set lies on this machine, and where prepared images go if not beside it."""

    path: Path
    spare: Path
    memory_budget: int = MEMORY_BUDGET


def load_data(
    images: ImagesIdentity, noise: NoiseIdentity, files: Files, device: torch.device
) -> Data:
    """Load, split and make labels noisy; kept, since a worker runs many levels on the same data.

    Raises WorkError where the files are not to be had or not what they should be.
    """
    return kept.load(images, noise, files, device)


class _Kept(threading.local):
    """What each thread has loaded last. Threads share none of it: on a GPU each has a stream, and
    torch would free a tensor for one while another's still reads it."""

    def __init__(self) -> None:
        self.load = functools.lru_cache(maxsize=2)(_load_alone)


def _load_alone(
    images: ImagesIdentity, noise: NoiseIdentity, files: Files, device: torch.device
) -> Data:
    # What may be unpickled, and what is warned of, is set for the whole process meanwhile.
    with _loading:
        return _load_data(images, noise, files, device)


_loading = threading.Lock()

kept = _Kept()


def _load_data(
    images: ImagesIdentity, noise: NoiseIdentity, files: Files, device: torch.device
) -> Data:
    source = _load_source(images, files)
    if noise.kind == "human":
        labels = _human_labels(images, noise, files, source.train.labels)
        source = replace(source, human_labels=labels)
    held_out = images.validation if isinstance(images.validation, HoldOut) else None
    targets = CLASS_TARGETS.get(_name(images), ())
    data = split_source(
        source,
        split_seed=images.split_seed,
        test_fraction=images.test_fraction,
        validation_fraction=held_out.fraction if held_out else None,
        validation_noisy=held_out is not None and held_out.labels == "noisy",
        noise=Noise(noise.kind, noise.rate, noise.seed, targets),
    )
    test = _to(data.test, device)
    validation = test if data.validation is data.test else _to(data.validation, device)
    clean_labels = data.clean_labels.to(device)
    return Data(_to(data.train, device), clean_labels, validation, test, data.classes)


def _to(split: Split, device: torch.device) -> Split:
    return Split(split.images.to(device), split.labels.to(device))


def _load_source(images: ImagesIdentity, files: Files) -> Source:
    name = _name(images)
    if name == "digits":
        return sources.load_digits()
    if name == "npz":
        return sources.load_npz(files.path, str(images.content))
    on_disk = _stay_on_disk(images, files)
    # What stays on the disk was read in full when the run began; that takes minutes.
    _prepare_images(images, files, lambda _done, _total: None, thorough=not on_disk)
    return _prepared_source(images, files)


def _human_labels(
    images: ImagesIdentity, noise: NoiseIdentity, files: Files, clean: Tensor
) -> Tensor:
    assert noise.labels is not None
    return sources.human_labels(_name(images), noise.labels, files.path, clean)


def _name(images: ImagesIdentity) -> str:
    """The data set's name without its version."""
    return images.dataset.rpartition("-")[0]


# Prepared images


def prepare_data(
    images: ImagesIdentity, noise: NoiseIdentity, files: Files, progress: Progress
) -> None:
    """Make ready all that `load_data` needs, and check every byte of it, before a run begins.

    For data sets that are not loaded as they are. Raises WorkError, and InputError where an image
    folder is no longer one.
    """
    _prepare_images(images, files, progress, thorough=True)
    if noise.kind == "human":
        _, labels = open_part(prepared_folder(images, files), "train", mapped=True)
        _human_labels(images, noise, files, torch.from_numpy(labels))


def prepared_folder(images: ImagesIdentity, files: Files) -> Path:
    """Where the prepared images of a data set lie: beside it, if that folder can be written."""
    name, _, version = images.dataset.rpartition("-")
    parts = [IMAGES_OF.get(name, name), version]
    if images.size is not None:
        parts += [str(images.size.resize), str(images.size.crop)]
    if images.content is not None:
        parts.append(images.content[:16])
    beside = files.path / FOLDER / "-".join(parts)
    return beside if beside.is_dir() or _writable(files.path) else files.spare / beside.name


def _writable(folder: Path) -> bool:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return os.access(existing, os.W_OK)


def _prepare_images(
    images: ImagesIdentity, files: Files, progress: Progress, *, thorough: bool
) -> None:
    prepare(
        prepared_folder(images, files),
        functools.partial(_original, images, files.path),
        progress,
        thorough=thorough,
    )


def _original(images: ImagesIdentity, root: Path) -> Original:
    name = IMAGES_OF.get(_name(images), _name(images))
    if images.size is None:
        original = sources.cifar(name, root)
    else:
        cut = sources.Cut(images.size.resize, images.size.crop)
        if name == "flowers102":
            original = sources.flowers102(root, cut)
        else:
            listing = list_images(root, images.test_folder)
            original = sources.image_folder(listing, cut, images.content)
    _check_counts(name, root, original)
    return original


def _check_counts(name: str, root: Path, original: Original) -> None:
    """A data set that goes by its name must be whole. Raises WorkError."""
    known = NAMED.get(name)
    if known is None:
        return
    found = {part: len(original.parts[part].labels) for part in original.parts}
    expected = {"train": known.train_images, "test": known.test_images}
    if found != expected or original.classes != known.classes:
        raise WorkError(
            f"dataset {name}: {root.resolve()} holds {original.classes} classes and images "
            f"{found}, not {known.classes} and {expected}"
        )


def _prepared_source(images: ImagesIdentity, files: Files) -> Source:
    folder, on_disk = prepared_folder(images, files), _stay_on_disk(images, files)
    manifest = read_manifest(folder)
    assert manifest is not None
    train = _prepared_split(folder, "train", on_disk)
    test = _prepared_split(folder, "test", on_disk) if "test_images.npy" in manifest.files else None
    return Source(train, test, manifest.classes)


def _prepared_split(folder: Path, part: str, on_disk: bool) -> Split:
    array, labels = open_part(folder, part, mapped=on_disk)
    images: Images
    if on_disk:
        images = MappedImages(array, torch.arange(len(array)), torch.device("cpu"))
    else:
        images = torch.from_numpy(array)
    return Split(images, torch.from_numpy(labels))


def _stay_on_disk(images: ImagesIdentity, files: Files) -> bool:
    """Whether the images take more than the budget."""
    manifest = read_manifest(prepared_folder(images, files))
    return manifest is not None and exceeds(files.memory_budget, images, manifest.bytes)


def exceeds(budget: int, images: ImagesIdentity, size: int) -> bool:
    """Whether images of `size` bytes, with the copies that views are cut from, take more than so
    many bytes."""
    random = images.augment.flip or images.augment.crop or images.augment.resized_crop
    # Padded, and where no view is random normalised once for all, in four bytes instead of one.
    copies = 2 if random else 6
    return copies * size > budget


# Readers


def training_reader(images: ImagesIdentity, train: Split) -> Reader:
    """What reads the augmented views of the training images."""
    normalisation = Normalisation(images.normalize.mean, images.normalize.std)
    augment = images.augment
    views: Views | ResizedCrops = Views(augment.flip, augment.crop)
    if augment.resized_crop is not None:
        views = ResizedCrops(augment.flip, augment.resized_crop)

    def reader_of(batch: Tensor) -> Reader:
        if isinstance(views, ResizedCrops):
            return ResizedCropReader(batch, normalisation, views)
        return ViewReader(batch, normalisation, views)

    if isinstance(train.images, MappedImages):
        return StreamedReader(train.images, views, reader_of)
    return reader_of(train.images)


def measuring_normalisation(images: ImagesIdentity) -> Normalisation:
    """What networks are measured on: whole images or, where the spec says so, their centres."""
    centre = images.size.test_crop if images.size else None
    return Normalisation(images.normalize.mean, images.normalize.std, centre)
