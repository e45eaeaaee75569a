"""The data of a piece of work: prepared if need be, loaded, split, and its labels made noisy."""

import functools
import threading
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dsdctl.data import sources
from dsdctl.data.prepare import (
    Files,
    bare_name,
    human_labels_of,
    prepare_images,
    prepared_folder,
    reader_of,
    stays_on_disk,
)
from dsdctl.data.prepared import open_part, read_manifest
from dsdctl.keys import ImagesIdentity, NoiseIdentity
from dsdctl.ml.data import Data, Images, MappedImages, Source, Split, split_source
from dsdctl.ml.large import ResizedCropReader, StreamedReader
from dsdctl.ml.noise import Noise
from dsdctl.ml.views import Normalization, Reader, ResizedCrops, ViewReader, Views
from dsdctl.spec.catalog import CATALOG
from dsdctl.spec.dataset import HoldOut


def load_data(
    images: ImagesIdentity, noise: NoiseIdentity, files: Files, device: torch.device
) -> Data:
    """Load a data set on `device`, split it and make its labels noisy.

    Cached, since a worker runs many levels on the same data. Raises WorkError if the files are
    missing and cannot be downloaded, or are not what they should be.
    """
    return kept.load(images, noise, files, device)


class _Kept(threading.local):
    """What each thread has loaded last. Threads do not share it: on a GPU each has its own stream,
    and torch could free a tensor for one while another's still reads it."""

    def __init__(self) -> None:
        self.load = functools.lru_cache(maxsize=2)(_load_exclusively)


def _load_exclusively(
    images: ImagesIdentity, noise: NoiseIdentity, files: Files, device: torch.device
) -> Data:
    # One thread at a time: loading changes process-wide settings of unpickling and warnings.
    with _loading:
        return _load_data(images, noise, files, device)


_loading = threading.Lock()

kept = _Kept()


def _load_data(
    images: ImagesIdentity, noise: NoiseIdentity, files: Files, device: torch.device
) -> Data:
    source = _load_source(images, files)
    if noise.kind == "human":
        labels = human_labels_of(images, noise, files, source.train.labels.numpy())
        source = replace(source, human_labels=torch.from_numpy(labels))
    held_out = images.validation if isinstance(images.validation, HoldOut) else None
    targets = CATALOG[bare_name(images)].class_targets
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
    name = bare_name(images)
    record = CATALOG[name]
    if name == "npz":
        return as_source(sources.load_npz(files.path, str(images.content)))
    if not record.prepared:
        assert record.reader is not None
        return as_source(reader_of(record.reader)())
    on_disk = stays_on_disk(images, files)
    # Images that stay on disk were verified when the run began, which takes minutes.
    prepare_images(images, files, lambda _done, _total: None, thorough=not on_disk)
    return _prepared_source(images, files)


# Prepared images


def as_source(arrays: sources.Arrays) -> Source:
    """Convert a data set from arrays to tensors, which share their memory."""
    test = None if arrays.test is None else as_split(arrays.test)
    return Source(as_split(arrays.train), test, arrays.classes)


def as_split(found: sources.LabelledImages) -> Split:
    """Convert arrays to tensors, which share their memory."""
    return Split(torch.from_numpy(found.images), torch.from_numpy(found.labels))


def _prepared_source(images: ImagesIdentity, files: Files) -> Source:
    folder, on_disk = prepared_folder(images, files), stays_on_disk(images, files)
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


# Readers


def training_reader(images: ImagesIdentity, train: Split) -> Reader:
    """A reader of augmented, normalized views of the training images."""
    normalization = Normalization(images.normalize.mean, images.normalize.std)
    augment = images.augment
    views: Views | ResizedCrops = Views(augment.flip, augment.crop)
    if augment.resized_crop is not None:
        views = ResizedCrops(augment.flip, augment.resized_crop)

    def reader_of(batch: Tensor) -> Reader:
        if isinstance(views, ResizedCrops):
            return ResizedCropReader(batch, normalization, views)
        return ViewReader(batch, normalization, views)

    if isinstance(train.images, MappedImages):
        return StreamedReader(train.images, views, reader_of)
    return reader_of(train.images)


def measuring_normalization(images: ImagesIdentity) -> Normalization:
    """The normalization for measuring, with the spec's centre crop if there is one."""
    centre = images.size.test_crop if images.size else None
    return Normalization(images.normalize.mean, images.normalize.std, centre)
