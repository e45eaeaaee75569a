"""Data of a user's own: what a function of theirs gives, kept as prepared arrays.

It is run once for each state of its code and its options; what identifies the data is what the
arrays hold. Nothing here runs it but `prepare_own`.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsdctl.data.prepared import FOLDER, RawDataset, RawSplit, prepare, read_manifest
from dsdctl.errors import InputError
from dsdctl.own.inspection import cache_folder
from dsdctl.own.load import load, raised_at
from dsdctl.own.source import Source, find_source, sha256_of
from dsdctl.spec.dataset import Dataset

if TYPE_CHECKING:
    import numpy as np

MAX_CHANNELS, MAX_CLASSES = 16, 100_000


class Unprepared(InputError):
    """Data whose function has not been run, so that nothing is known of them yet."""


@dataclass(frozen=True)
class OwnData:
    """A function that gives data, and its options."""

    source: Source
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.source.shown}:{self.source.name}"

    @property
    def folder(self) -> Path:
        """Where its arrays lie once it was run: beside its file, if that can be written."""
        facts = json.dumps([self.source.name, self.source.digest, self.options], sort_keys=True)
        name = f"python-{sha256_of(facts.encode())[:16]}"
        beside = Path(self.source.root) / FOLDER / name
        writable = beside.is_dir() or os.access(self.source.root, os.W_OK)
        return beside if writable else cache_folder() / "prepared" / name


Prepare = Callable[[OwnData], None]
"""Runs the function of some data; raises InputError with a reason."""


def own_data(dataset: Dataset, file: Path) -> OwnData:
    """The function that a spec names. Raises InputError where there is none."""
    assert dataset.make is not None
    return OwnData(find_source(file, dataset.make, ()), dataset.options or {})


def not_prepared(data: OwnData) -> None:
    """A way to prepare data that runs nothing. Raises Unprepared where that is to be done."""
    if read_manifest(data.folder) is None:
        raise Unprepared(f"{data.name} has not been run yet; `dsdctl prepare SPEC` does")


def prepare_own(data: OwnData) -> None:
    """Run the function, and keep what it gives. Raises InputError with a reason."""
    prepare(data.folder, lambda: _original(data), lambda _done, _all: None, thorough=False)


def _original(data: OwnData) -> RawDataset:
    try:
        given = load(data.source)(**data.options)
        parts = _parts(given)
    except InputError:
        raise
    except Exception as error:
        raise InputError(raised_at(error, data.source)) from error
    classes = check_labels({name: labels for name, (_, labels) in parts.items()})
    content = _content(parts)
    return RawDataset(
        classes,
        {
            name: RawSplit(labels.tolist(), images.shape[1:], _rows_of(images))
            for name, (images, labels) in parts.items()
        },
        lambda: {"content": content},
    )


def _rows_of(images: "np.ndarray") -> "Callable[[int, int], np.ndarray]":
    return lambda start, stop: images[start:stop]


def _parts(given: Any) -> "dict[str, tuple[np.ndarray, np.ndarray]]":
    """Images uint8 (N, H, W, C) and labels (N,) of the parts that a function gave."""
    import numpy as np

    if not isinstance(given, tuple | list) or len(given) not in (2, 4):
        count = f" of {len(given)}" if isinstance(given, tuple | list) else ""
        raise InputError(
            f"it gives a {type(given).__name__}{count} (allowed: x_train, y_train; the same with "
            "x_test, y_test; or two torch Datasets)"
        )
    if len(given) == 2 and _is_dataset(given[0]):
        given = [array for dataset in given for array in _arrays_of(dataset)]
    names = ("train", "test")[: len(given) // 2]
    pairs = zip(names, given[::2], given[1::2], strict=True)
    parts = {name: (np.asarray(x), np.asarray(y)) for name, x, y in pairs}
    for name, (x, y) in parts.items():
        problem = images_problem(x.shape, x.dtype) or labels_problem(y.shape, y.dtype, len(x))
        if problem is not None:
            raise InputError(problem.replace("_?", f"_{name}"))
    found = {n: (x if x.ndim == 4 else x[..., None], y) for n, (x, y) in parts.items()}
    shapes = [x.shape[1:] for x, _ in found.values()]
    if shapes[0] != shapes[-1]:
        raise InputError(f"x_test: images of {shapes[-1]}, but of {shapes[0]} in x_train")
    return found


def images_problem(shape: tuple[int, ...], dtype: "np.dtype") -> str | None:
    """What is wrong with images of this shape and type, if anything; `x_?` stands for a part."""
    allowed = "(allowed: uint8 of shape N x H x W or N x H x W x C)"
    if dtype != "uint8" or len(shape) not in (3, 4) or 0 in shape:
        scaled = "; pixels in [0, 1] are to be multiplied by 255" if dtype.kind == "f" else ""
        return f"x_?: {dtype} of shape {shape} {allowed}{scaled}"
    if len(shape) == 4 and shape[1] <= 4 < min(shape[2:]):
        return (
            f"x_?: shape {shape} has its {shape[1]} channels first (allowed: channels last, "
            "x.transpose(0, 2, 3, 1))"
        )
    if len(shape) == 4 and shape[3] > MAX_CHANNELS:
        return f"x_?: {shape[3]} channels (allowed: at most {MAX_CHANNELS})"
    return None


def labels_problem(shape: tuple[int, ...], dtype: "np.dtype", images: int) -> str | None:
    """What is wrong with the labels of so many images, if anything; `y_?` stands for a part."""
    if dtype.kind in "iu" and shape == (images,):
        return None
    return f"y_?: {dtype} of shape {shape} (allowed: integers of shape ({images},), one an image)"


def check_labels(labels: "Mapping[str, np.ndarray]") -> int:
    """Return the number of classes. Raises InputError."""
    import numpy as np

    classes = int(labels["train"].max()) + 1
    if len(np.unique(labels["train"])) < 2:
        raise InputError("y_train: one class only (allowed: two or more)")
    for part, values in labels.items():
        most = (MAX_CLASSES if part == "train" else classes) - 1
        for label in (int(values.min()), int(values.max())):
            if not 0 <= label <= most:
                raise InputError(f"y_{part}: label {label} (allowed: 0 to {most})")
    return classes


def _is_dataset(value: Any) -> bool:
    """Whether it is read item by item, as torch's Datasets are."""
    return (
        hasattr(value, "__getitem__") and hasattr(value, "__len__") and not hasattr(value, "shape")
    )


def _arrays_of(dataset: Any) -> "tuple[np.ndarray, np.ndarray]":
    """Images and labels of a Dataset of pairs: pictures or uint8 tensors (C, H, W), and labels."""
    import numpy as np

    images: list[np.ndarray] = []
    labels: list[int] = []
    for index in range(len(dataset)):
        image, label = dataset[index]
        array = np.asarray(image)
        if type(image).__name__ == "Tensor" and array.ndim == 3:
            array = array.transpose(1, 2, 0)
        if images and array.shape != images[0].shape:
            raise InputError(
                f"image {index} is of {array.shape}, image 0 of {images[0].shape} "
                "(allowed: one size)"
            )
        images.append(array)
        labels.append(int(label))
    return np.stack(images), np.asarray(labels)


def _content(parts: "Mapping[str, tuple[np.ndarray, np.ndarray]]") -> str:
    """sha256 of what all arrays hold."""
    import numpy as np

    digest = hashlib.sha256()
    for name, (images, labels) in parts.items():
        digest.update(f"{name} {images.shape}".encode())
        digest.update(np.ascontiguousarray(images).data)
        digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    return digest.hexdigest()
