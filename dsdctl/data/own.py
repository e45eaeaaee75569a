"""A user's own data: the arrays that a function of theirs returns, kept as prepared images.

The function is run once for each version of its code and options. The identity of the data is the
content of the arrays. Only `prepare_own` runs the function.
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
    """The function of some data has not been run, so that nothing is known of them yet."""


@dataclass(frozen=True)
class OwnData:
    """A function that returns data, and its keyword arguments."""

    source: Source
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.source.shown}:{self.source.name}"

    @property
    def folder(self) -> Path:
        """The folder of its prepared arrays: beside its file, or in the user's cache folder if that
        cannot be written."""
        facts = json.dumps([self.source.name, self.source.digest, self.options], sort_keys=True)
        name = f"python-{sha256_of(facts.encode())[:16]}"
        beside = Path(self.source.root) / FOLDER / name
        writable = beside.is_dir() or os.access(self.source.root, os.W_OK)
        return beside if writable else cache_folder() / "prepared" / name


Prepare = Callable[[OwnData], None]
"""Makes sure that data are prepared. Raises InputError with a reason if they are not."""


def own_data(dataset: Dataset, file: Path) -> OwnData:
    """The function that a spec names. Raises InputError if there is none."""
    assert dataset.make is not None
    return OwnData(find_source(file, dataset.make, ()), dataset.options or {})


def not_prepared(data: OwnData) -> None:
    """A `Prepare` that runs nothing. Raises Unprepared if the function has not been run."""
    if read_manifest(data.folder) is None:
        raise Unprepared(f"{data.name} has not been run yet; `dsdctl prepare SPEC` does")


def prepare_own(data: OwnData) -> None:
    """Run the function, unless its arrays are prepared already, and keep what it returns.

    Raises InputError with a reason, and WorkError if the arrays cannot be written.
    """
    prepare(data.folder, lambda: _raw_dataset(data), lambda _done, _all: None, thorough=False)


def _raw_dataset(data: OwnData) -> RawDataset:
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
    """The images, uint8 (N, H, W, C), and labels (N,) of each part that a function returned.

    Raises InputError if they are not such arrays.
    """
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
    """Why images of this shape and dtype cannot be used; None if they can. `x_?` stands for the
    array of a part."""
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
    """Why labels of this shape and dtype, for so many images, cannot be used; None if they can.
    `y_?` stands for the array of a part."""
    if dtype.kind in "iu" and shape == (images,):
        return None
    return f"y_?: {dtype} of shape {shape} (allowed: integers of shape ({images},), one an image)"


def check_labels(labels: "Mapping[str, np.ndarray]") -> int:
    """The number of classes, the largest training label + 1; labels (N,) are by part.

    Raises InputError if a label is out of range, or training labels are of one class only or leave
    a class without an image, as those do that are counted from 1.
    """
    import numpy as np

    used = np.unique(labels["train"])
    classes = int(used[-1]) + 1
    if len(used) < 2:
        raise InputError("y_train: one class only (allowed: two or more)")
    for part, values in labels.items():
        most = (MAX_CLASSES if part == "train" else classes) - 1
        for label in (int(values.min()), int(values.max())):
            if not 0 <= label <= most:
                raise InputError(f"y_{part}: label {label} (allowed: 0 to {most})")
    if len(used) < classes:
        missing = next(label for label in range(classes) if label != used[label])
        raise InputError(
            f"y_train: no image has label {missing} (allowed: each label from 0 to the largest, "
            f"{classes - 1}, at least once)"
        )
    return classes


def _is_dataset(value: Any) -> bool:
    """Whether `value` is read item by item, like torch's Datasets."""
    return (
        hasattr(value, "__getitem__") and hasattr(value, "__len__") and not hasattr(value, "shape")
    )


def _arrays_of(dataset: Any) -> "tuple[np.ndarray, np.ndarray]":
    """The images and labels of a Dataset of pairs: PIL images or tensors (C, H, W), and labels."""
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
    """sha256 of all arrays' shapes and values."""
    import numpy as np

    digest = hashlib.sha256()
    for name, (images, labels) in parts.items():
        digest.update(f"{name} {images.shape}".encode())
        digest.update(np.ascontiguousarray(images).data)
        digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    return digest.hexdigest()
