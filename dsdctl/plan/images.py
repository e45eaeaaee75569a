"""A spec's data set and label noise: resolved against its files, and checked."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

from dsdctl.data.facts import Sizes, dataset_facts, split_sizes
from dsdctl.data.labels import FlipRate, flip_rate
from dsdctl.data.own import Prepare, Unprepared, own_data
from dsdctl.errors import InputError
from dsdctl.spec.catalog import CATALOG, Facts, images_record
from dsdctl.spec.dataset import Dataset, LabelNoise
from dsdctl.spec.document import Document, KeyPath
from dsdctl.spec.experiment import Experiment


class DataSets:
    """Looks up a spec's data sets, each once, since archives and folders are hashed for it."""

    def __init__(self, prepare: Prepare):
        """`prepare` runs the function of a user's own data."""
        self._prepare = prepare
        self._facts = functools.cache(dataset_facts)
        self._own: dict[str, tuple[Facts, Path]] = {}

    def find(self, dataset: Dataset, path: Path) -> tuple[Facts, Path]:
        """The data set's facts and the path of its files. Raises InputError."""
        if dataset.name != "python":
            return self._facts(dataset, path), path
        name = json.dumps([str(path), dataset.make, dataset.options], sort_keys=True)
        if name not in self._own:
            data = own_data(dataset, path)
            self._prepare(data)
            self._own[name] = dataset_facts(dataset, data.folder), data.folder
        return self._own[name]


@dataclass(frozen=True)
class Images:
    """A data set as the networks of one variant see it, and the path of its files."""

    dataset: Dataset
    facts: Facts
    sizes: Sizes
    noise: LabelNoise
    path: Path

    @property
    def flip_rate(self) -> FlipRate:
        """The true flip rate of the training labels, as far as it is known without reading them."""
        return flip_rate(
            self.noise,
            self.dataset.name,
            published=self.facts.train_images,
            train=self.sizes.train,
            classes=self.facts.classes,
        )


def resolve_images(document: Document, experiment: Experiment, datasets: DataSets) -> Images:
    """The data set of a spec and its label noise.

    Raises InputError if they do not fit together, and Unprepared if a user's own data have not been
    prepared.
    """
    dataset = experiment.dataset
    key: KeyPath = ("dataset", "root" if dataset.file is None else "file")
    # Data sets without files (scikit-learn's digits) must not depend on there being a home folder.
    _, record = images_record(dataset.name)
    has_no_files = record.facts is not None and not record.files
    root = dataset.root
    if has_no_files and "root" not in dataset.model_fields_set:
        root = "."
    path = path_of(document, key, dataset.file or root)
    try:
        facts, path = datasets.find(dataset, path)
    except Unprepared as error:
        raise Unprepared(document.problem(key, str(error))) from error
    except InputError as error:
        lines = [document.problem(key, line) for line in error.problems]
        raise InputError(*lines, more=error.more) from error
    _check_parts(document, dataset, facts)
    sizes = split_sizes(dataset, facts)
    empty = [name for name, count in vars(sizes).items() if not count and name != "validation"]
    if empty or (dataset.validation != "test" and not sizes.validation):
        reason = f"leaves no {(empty or ['validation'])[0]} images of {facts.train_images}"
        raise InputError(document.problem(("dataset",), reason))
    return Images(dataset, facts, sizes, _noise(document, experiment), path)


def _check_parts(document: Document, dataset: Dataset, facts: Facts) -> None:
    """The spec's test split and channels must match what the files hold."""
    holder = {"npz": "the archive", "python": dataset.make}.get(dataset.name, "the folder")
    members = "val/ or test/" if dataset.name == "image-folder" else "x_test and y_test"
    if facts.test_images is None and dataset.test is None:
        reason = f"{holder} holds no {members}; give `test: {{fraction: ...}}`"
        raise InputError(document.problem(("dataset",), reason))
    if facts.test_images is not None and dataset.test is not None:
        reason = f"{holder} holds {members}; leave `test` out"
        raise InputError(document.problem(("dataset", "test"), reason))
    if dataset.normalize is not None and len(dataset.normalize.mean) != facts.channels:
        reason = (
            f"has {len(dataset.normalize.mean)} values (allowed: {facts.channels}, one a channel)"
        )
        raise InputError(document.problem(("dataset", "normalize"), reason))


def _noise(document: Document, experiment: Experiment) -> LabelNoise:
    """The label noise, which the data set must support, with the set of human labels filled in."""
    name, noise = experiment.dataset.name, experiment.label_noise
    key: KeyPath = ("label_noise", "kind")
    if CATALOG[name].human_labels:
        return _human_noise(document, name, noise)
    if noise.kind == "human":
        allowed = ", ".join(name for name, record in CATALOG.items() if record.human_labels)
        reason = f"is human, but {name} has no human labels (allowed: {allowed})"
        raise InputError(document.problem(key, reason))
    if noise.kind == "asymmetric" and not CATALOG[name].class_targets:
        reason = f"is asymmetric, but {name} has no map of classes"
        allowed = ", ".join(name for name, record in CATALOG.items() if record.class_targets)
        raise InputError(document.problem(key, f"{reason} (allowed: the data sets {allowed})"))
    return noise


def _human_noise(document: Document, name: str, noise: LabelNoise) -> LabelNoise:
    published = tuple(CATALOG[name].human_labels)
    if noise.kind != "human":
        reason = f"is {noise.kind}, but {name} is trained on human labels (allowed: human)"
        raise InputError(document.problem(("label_noise", "kind"), reason))
    labels = noise.labels or (published[0] if len(published) == 1 else None)
    if labels not in published:
        reason = f"is {labels}" if labels else "is missing"
        allowed = f"(allowed with {name}: {', '.join(published)})"
        raise InputError(document.problem(("label_noise", "labels"), f"{reason} {allowed}"))
    return noise.model_copy(update={"labels": labels})


def path_of(document: Document, key: KeyPath, text: str) -> Path:
    """The path `text` that is written at `key`: relative to that file; `~` is the home folder.

    Raises InputError if there is no such user.
    """
    try:
        path = Path(text).expanduser() if text.startswith("~") else Path(text)
        return document.mark(key).file.parent / path
    except RuntimeError as error:
        raise InputError(document.problem(key, f"is {text}: no such user")) from error
