"""What a level sees of each data set: from its own files, over prepared images, to batches."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import Cifar, write_flowers, write_human_labels, write_image_folder
from batches import epoch_batches
from builders import resolved
from networks import build_network
from PIL import Image
from torch import Tensor

from dsdctl.data.prepare import Files, prepare_data, prepared_folder
from dsdctl.data.prepared import is_whole
from dsdctl.errors import WorkError
from dsdctl.keys import TrajectoryIdentity
from dsdctl.ml.data import Data, MappedImages, Split
from dsdctl.ml.measure import measure
from dsdctl.plan.plan import make_plan
from dsdctl.worker import inputs
from dsdctl.worker.inputs import kept, load_data, measuring_normalization, training_reader

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    kept.load.cache_clear()


def identity_of(folder: Path, **changes: Any) -> TrajectoryIdentity:
    """The identity of the one trajectory of a spec in `folder`, with keys of the spec changed."""
    base: dict[str, Any] = {"training.batch_size": 7, "pruning.levels": 1, "teacher": None}
    plan = make_plan([resolved(folder, {**base, **changes})])
    (trajectory,) = plan.trajectories.values()
    return trajectory.identity


def load(identity: TrajectoryIdentity, root: Path, memory_budget: int = 2**30) -> Data:
    files = Files(root, root / "spare", memory_budget)
    return load_data(identity.images, identity.noise, files, CPU)


def pixels(split: Split) -> np.ndarray:
    return split.pixels.numpy()


NOISE = {
    "cifar10": ({"kind": "asymmetric", "rate": 0.4}, None),
    "cifar10n": ({"kind": "human", "labels": "worse"}, "worse_label"),
    "cifar100": ({"kind": "asymmetric", "rate": 0.4}, None),
    "cifar100n": ({"kind": "human"}, "noisy_label"),
}


@pytest.mark.parametrize("name", NOISE)
def test_cifar_is_loaded_by_its_own_loader_and_prepared_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Cifar(tmp_path, name.removesuffix("n"))
    written.publish(monkeypatch)
    noise, key = NOISE[name]
    if key is not None:
        human = write_human_labels(monkeypatch, tmp_path, name, written.train_labels)
    identity = identity_of(tmp_path, dataset={"name": name}, label_noise=noise)
    data = load(identity, tmp_path)
    assert np.array_equal(pixels(data.train), written.train_images)
    assert np.array_equal(pixels(data.test), written.test_images)
    assert data.clean_labels.tolist() == written.train_labels.tolist()
    assert data.test.labels.tolist() == written.test_labels.tolist()
    assert data.classes == written.classes
    if key is not None:
        assert data.train.labels.tolist() == human[key].tolist()
    else:
        flipped = data.train.labels != data.clean_labels
        assert 0 < int(flipped.sum()) <= int(0.4 * len(data.train))
    # From now on the pickles are not needed.
    for file in (tmp_path / written.loader.base_folder).iterdir():
        file.unlink()
    kept.load.cache_clear()
    again = load(identity, tmp_path)
    assert torch.equal(again.train.labels, data.train.labels)
    assert np.array_equal(pixels(again.train), pixels(data.train))


def test_cifar_with_human_labels_is_prepared_with_that_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cifar(tmp_path, "cifar10").publish(monkeypatch)
    human = {"kind": "human", "labels": "worse"}
    files = Files(tmp_path, tmp_path / "spare")
    plain = identity_of(tmp_path, dataset={"name": "cifar10"})
    noisy = identity_of(tmp_path, dataset={"name": "cifar10n"}, label_noise=human)
    folder = prepared_folder(plain.images, files)
    assert prepared_folder(noisy.images, files) == folder == tmp_path / "dsdctl-prepared/cifar10-1"


def test_flowers_are_cut_as_the_paper_cuts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = write_flowers(monkeypatch, tmp_path, 9)
    identity = identity_of(tmp_path, dataset={"name": "flowers102"}, **{"training.batch_size": 3})
    data = load(identity, tmp_path)
    assert data.train.images.shape == (3, 128, 128, 3)
    assert data.clean_labels.tolist() == labels[::3].tolist()
    assert prepared_folder(identity.images, Files(tmp_path, tmp_path)).name == (
        "flowers102-1-156-128"
    )


def test_too_few_images_of_a_data_set_that_goes_by_its_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_image_folder(tmp_path / "imagenet")
    identity = identity_of(tmp_path, dataset={"name": "imagenet"}, **{"training.batch_size": 256})
    with pytest.raises(WorkError) as caught:
        load(identity, root)
    assert str(caught.value) == (
        f"dataset imagenet: {root} holds 3 classes and images {{'train': 24, 'test': 24}}, not "
        "1000 and {'train': 1281167, 'test': 50000}"
    )


FOLDER = {
    "name": "image-folder",
    "root": "pictures",
    "size": {"resize": 20, "crop": 16, "test_crop": 12},
}

VIEWS = [{}, {"flip": True, "crop": 2}, {"flip": True, "resized_crop": 0.2}]


@pytest.mark.parametrize("augment", VIEWS, ids=str)
@pytest.mark.parametrize("validation", ["test", {"fraction": 0.25}], ids=str)
def test_images_on_the_disk_give_the_same_numbers_as_images_in_memory(
    augment: dict[str, Any], validation: Any, tmp_path: Path
) -> None:
    root = write_image_folder(tmp_path / "pictures")
    dataset = {**FOLDER, "augment": augment, "validation": validation}
    identity = identity_of(tmp_path, dataset=dataset)
    in_memory, on_disk = load(identity, root), load(identity, root, memory_budget=0)
    assert isinstance(on_disk.train.images, MappedImages)
    assert isinstance(in_memory.train.images, Tensor)
    epochs = [
        [
            (batch.images, batch.labels)
            for batch in epoch_batches(
                training_reader(identity.images, data.train),
                data.train.labels,
                5,
                seed=0,
                level=0,
                epoch=0,
            )
        ]
        for data in (in_memory, on_disk)
    ]
    for (images, labels), (mapped_images, mapped_labels) in zip(*epochs, strict=True):
        assert torch.equal(images, mapped_images)
        assert torch.equal(labels, mapped_labels)
        assert images.shape[1:] == (3, 16, 16)
    network = build_network("vgg-like", 3, 3, seed=0, depth=1, width=2, pool=2)
    normalization = measuring_normalization(identity.images)
    assert normalization.centre == 12
    one, other = (measure(network, d, normalization, "fp32") for d in (in_memory, on_disk))
    assert one == other
    assert one.flip_rate == int(0.4 * len(in_memory.train)) / len(in_memory.train)


def test_a_folder_that_changed_since_planning_is_refused(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "pictures")
    identity = identity_of(tmp_path, dataset=FOLDER)
    file = root / "train" / "bee" / "0.png"
    Image.new("RGB", (30, 30)).save(file)
    with pytest.raises(WorkError, match="pictures: changed since the run was planned"):
        load(identity, root)
    assert not list(root.glob("dsdctl-prepared/image*"))


def test_once_prepared_a_folder_is_known_without_reading_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_image_folder(tmp_path / "pictures")
    before = identity_of(tmp_path, dataset=FOLDER)
    load(before, root)
    reads: list[object] = []
    monkeypatch.setattr("dsdctl.data.facts.read_content", reads.append)
    assert identity_of(tmp_path, dataset=FOLDER) == before
    os.utime(root / "train" / "bee" / "0.png", (0, 0))
    identity_of(tmp_path, dataset={**FOLDER, "validation": {"fraction": 0.5}})
    assert len(reads) == 1


def test_where_the_datas_folder_cannot_be_written_the_spare_one_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_image_folder(tmp_path / "pictures")
    identity = identity_of(tmp_path, dataset=FOLDER)
    files = Files(root, tmp_path / "spare")
    beside = prepared_folder(identity.images, files)
    assert beside.parent == root / "dsdctl-prepared"
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    assert prepared_folder(identity.images, files) == tmp_path / "spare" / beside.name
    load_data(identity.images, identity.noise, files, CPU)
    assert is_whole(tmp_path / "spare" / beside.name, thorough=True)
    # What somebody prepared beside the data is used all the same.
    beside.mkdir(parents=True)
    assert prepared_folder(identity.images, files) == beside


def test_preparing_finds_absent_human_labels_before_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cifar(tmp_path, "cifar100").publish(monkeypatch)
    identity = identity_of(tmp_path, dataset={"name": "cifar100n"}, label_noise={"kind": "human"})
    files = Files(tmp_path, tmp_path / "spare")
    told: list[tuple[int, int]] = []
    with pytest.raises(WorkError, match=r"CIFAR-100_human\.pt: no such file"):
        prepare_data(identity.images, identity.noise, files, lambda *now: told.append(now))
    assert told[-1] == (310, 310)


def test_data_are_loaded_once_by_each_thread(tmp_path: Path) -> None:
    identity = identity_of(tmp_path, **{"training.batch_size": 100})
    here = load(identity, tmp_path)
    with ThreadPoolExecutor(1) as other:
        there = [other.submit(load, identity, tmp_path).result() for _ in range(2)]
    assert load(identity, tmp_path) is here
    assert there[0] is there[1]
    assert there[0] is not here


def test_one_thread_loads_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = identity_of(tmp_path, **{"training.batch_size": 100})
    load_source = inputs._load_source
    inside, most = [], []

    def observed(*arguments: Any) -> Any:
        inside.append(None)
        most.append(len(inside))
        time.sleep(0.1)
        source = load_source(*arguments)
        inside.pop()
        return source

    monkeypatch.setattr(inputs, "_load_source", observed)
    with ThreadPoolExecutor(3) as threads:
        together = threading.Barrier(3)

        def begin() -> Data:
            together.wait(60)
            return load(identity, tmp_path)

        found = [future.result() for future in [threads.submit(begin) for _ in range(3)]]
    assert most == [1, 1, 1]
    assert all(torch.equal(data.train.labels, found[0].train.labels) for data in found)
