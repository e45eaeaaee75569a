"""Small data sets in the formats in which the real ones lie on a disk; nothing is downloaded.

torchvision checks md5s, and dsdctl sizes and label digests; `publish_*` makes it take what was
written for the real thing.
"""

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dsdctl.data import sources
from dsdctl.spec.catalog import CATALOG, HumanSet
from dsdctl.system.torchvision import datasets as torchvision_datasets

CIFAR_TRAIN, CIFAR_TEST = 250, 60


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def random_pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def old_pickle(data: Mapping[str, Any]) -> bytes:
    """Pickled as CIFAR's files were: a NumPy of that time wrote 0 and 1 for False and True."""
    return pickle.dumps(data, protocol=2).replace(b"\x89\x88\x87", b"K\x00K\x01\x87")


class Cifar:
    """CIFAR-10 or CIFAR-100 of a few random images, as python batches under `root`."""

    def __init__(self, root: Path, name: str):
        self.name, self.root = name, root
        self.loader = {
            "cifar10": torchvision_datasets.CIFAR10,
            "cifar100": torchvision_datasets.CIFAR100,
        }[name]
        self.classes = 10 if name == "cifar10" else 100
        self.train_images = random_pixels(1, CIFAR_TRAIN, 32, 32, 3)
        self.test_images = random_pixels(2, CIFAR_TEST, 32, 32, 3)
        self.train_labels = np.arange(CIFAR_TRAIN) * 7 % self.classes
        self.test_labels = np.arange(CIFAR_TEST) * 3 % self.classes
        self.md5: dict[str, str] = {}
        names = [entry[0] for entry in self.loader.train_list]
        parts = zip(
            names,
            np.split(self.train_images, len(names)),
            np.split(self.train_labels, len(names)),
            strict=True,
        )
        for file, images, labels in parts:
            self._write(file, images, labels)
        self._write(self.loader.test_list[0][0], self.test_images, self.test_labels)
        self._write_pickle(self.loader.meta["filename"], {self.loader.meta["key"]: ["a", "b"]})

    def _write(self, file: str, images: np.ndarray, labels: np.ndarray) -> None:
        rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)
        key = "labels" if self.name == "cifar10" else "fine_labels"
        self._write_pickle(file, {"data": rows, key: labels.tolist(), "filenames": []})

    def _write_pickle(self, file: str, data: Mapping[str, Any]) -> None:
        folder = self.root / self.loader.base_folder
        folder.mkdir(parents=True, exist_ok=True)
        content = old_pickle(data)
        (folder / file).write_bytes(content)
        self.md5[file] = md5(content)

    def publish(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loader, md5 = self.loader, self.md5
        monkeypatch.setattr(loader, "train_list", [[n, md5[n]] for n, _ in loader.train_list])
        monkeypatch.setattr(loader, "test_list", [[n, md5[n]] for n, _ in loader.test_list])
        meta = {**loader.meta, "md5": md5[loader.meta["filename"]]}
        monkeypatch.setattr(loader, "meta", meta)
        for name in (self.name, f"{self.name}n"):
            publish_sizes(monkeypatch, name, CIFAR_TRAIN, CIFAR_TEST)


def publish_sizes(monkeypatch: pytest.MonkeyPatch, name: str, train: int, test: int) -> None:
    record = CATALOG[name]
    assert record.facts is not None
    facts = replace(record.facts, train_images=train, test_images=test)
    monkeypatch.setitem(CATALOG, name, replace(record, facts=facts))


def write_human_labels(
    monkeypatch: pytest.MonkeyPatch, root: Path, name: str, clean: np.ndarray
) -> dict[str, np.ndarray]:
    """The published file of `name`; in every set of labels another share is wrong."""
    classes = 10 if name == "cifar10n" else 100
    arrays = {"clean_label": clean.astype(np.int64)}
    record = CATALOG[name]
    sets = {}
    for number, labels in enumerate(sorted(record.human_labels), 1):
        wrong = np.arange(len(clean)) % (number + 2) == 0
        array = np.where(wrong, (clean + number) % classes, clean).astype(np.int64)
        arrays[sources.HUMAN_KEYS[labels]] = array
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        sets[labels] = HumanSet(record.human_labels[labels].wrong, digest)
    monkeypatch.setitem(CATALOG, name, replace(record, human_labels=sets))
    torch.save(arrays, root / record.human_file)
    return arrays


def write_flowers(monkeypatch: pytest.MonkeyPatch, root: Path, count: int) -> np.ndarray:
    """Oxford's flowers: every third picture is for training, the rest for the test; returns the
    labels, from 0, of all `count` pictures."""
    from scipy.io import savemat

    folder = root / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    for number in range(1, count + 1):
        pixels = random_pixels(number, 40 + number, 50, 3)
        Image.fromarray(pixels).save(folder / "jpg" / f"image_{number:05d}.jpg")
    numbers = np.arange(1, count + 1)
    labels = numbers * 5 % 102
    sets = {"trnid": numbers[::3], "valid": numbers[1::3], "tstid": numbers[2::3]}
    savemat(folder / "imagelabels.mat", {"labels": labels + 1})
    savemat(folder / "setid.mat", sets)
    files = dict(torchvision_datasets.Flowers102._file_dict)
    for key in ("label", "setid"):
        name = files[key][0]
        files[key] = (name, md5((folder / name).read_bytes()))
    monkeypatch.setattr(torchvision_datasets.Flowers102, "_file_dict", files)
    publish_sizes(monkeypatch, "flowers102", len(sets["trnid"]), len(sets["tstid"]))
    return labels


def write_image_folder(
    root: Path,
    parts: Sequence[str] = ("train", "val"),
    classes: Sequence[str] = ("ant", "bee", "cat"),
    each: int = 8,
) -> Path:
    """Pictures of many sizes and formats; those of a class are alike, so that it can be learnt."""
    for part_number, part in enumerate(parts):
        for label, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for number in range(each):
                shape = (20 + 3 * number, 30 - 2 * number, 3)
                pixels = random_pixels(part_number * 1000 + label * 100 + number, *shape) // 4
                pixels[..., label % 3] += 150
                ending = ("png", "jpg", "JPEG")[number % 3]
                Image.fromarray(pixels).save(root / part / name / f"{number}.{ending}")
    return root
