"""Data sets that go by their name, read from files laid out as they were published."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from archives import write_image_folder
from builders import only_problem, spec_data, write
from PIL import Image
from scipy.io import savemat

from dsdctl.data.prepare import reader_of
from dsdctl.data.prepared import RawSplit
from dsdctl.data.sources import svhn, tiny_imagenet
from dsdctl.errors import WorkError
from dsdctl.plan.resolve import resolve
from dsdctl.spec.catalog import CATALOG, images_record


def all_of(part: RawSplit) -> np.ndarray:
    return part.read(0, len(part.labels))


def write_svhn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Files as SVHN's, whose digit 0 has the label 10, with digests that torchvision expects."""
    from dsdctl.system.torchvision import datasets

    images, split_list = {}, {}
    for part, count in (("train", 7), ("test", 4)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        labels = np.arange(1, count + 1)[:, None] % 10
        labels[0] = 10
        file = folder / f"{part}_32x32.mat"
        savemat(file, {"X": pixels.transpose(1, 2, 3, 0), "y": labels})
        digest = hashlib.md5(file.read_bytes()).hexdigest()
        split_list[part] = ["http://localhost:9", file.name, digest]
        images[part] = pixels
    monkeypatch.setattr(datasets.SVHN, "split_list", split_list)
    return images


def test_svhn_is_read_with_channels_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_svhn(tmp_path, monkeypatch)
    original = svhn(tmp_path)
    assert original.classes == 10
    for part, expected in images.items():
        assert np.array_equal(all_of(original.parts[part]), expected)
        assert list(original.parts[part].labels) == [0, *range(2, len(expected) + 1)]
    (tmp_path / "test_32x32.mat").unlink()
    with pytest.raises(WorkError, match=r"dataset svhn: not found under .*put test_32x32\.mat"):
        svhn(tmp_path)


def write_tiny_imagenet(root: Path) -> np.ndarray:
    """Two classes of three and two pictures; returns one that is stored without losses."""
    folder = root / "tiny-imagenet-200"
    write(folder / "wnids.txt", "n02\nn01\n")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("n01", "n02"):
        (folder / "train" / name / "images").mkdir(parents=True)
        for number in range(3):
            file = folder / "train" / name / "images" / f"{name}_{number}.JPEG"
            Image.fromarray(pixels).convert("L" if number else "RGB").save(file, "PNG")
    (folder / "val" / "images").mkdir(parents=True)
    lines = []
    for number, name in enumerate(("n02", "n01")):
        Image.fromarray(pixels // (number + 1)).save(
            folder / "val" / "images" / f"val_{number}.JPEG", "PNG"
        )
        lines.append(f"val_{number}.JPEG\t{name}\t0\t0\t63\t63\n")
    write(folder / "val" / "val_annotations.txt", "".join(lines))
    return pixels


def test_tiny_imagenet_is_read_as_it_is_unpacked(tmp_path: Path) -> None:
    pixels = write_tiny_imagenet(tmp_path)
    original = tiny_imagenet(tmp_path)
    train, test = original.parts["train"], original.parts["test"]
    assert original.classes == 2
    assert list(train.labels) == [0, 0, 0, 1, 1, 1]
    assert list(test.labels) == [1, 0]
    assert all_of(train).shape == (6, 64, 64, 3)
    assert np.array_equal(all_of(train)[0], pixels)
    assert np.array_equal(all_of(test)[1], pixels // 2)


def test_where_tiny_imagenet_is_not_as_published_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"wnids\.txt: No such file.*unpack tiny-imagenet-200\.zip"):
        tiny_imagenet(tmp_path)
    write_tiny_imagenet(tmp_path)
    write(tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt", "a.JPEG\tn09\n")
    with pytest.raises(WorkError, match="not as published"):
        tiny_imagenet(tmp_path)


def test_every_record_names_a_reader_and_what_it_is_read_from() -> None:
    for name, record in CATALOG.items():
        whose, images = images_record(name)
        assert whose == (record.images_of or name)
        assert images.images_of is None
        assert images.reader is None or callable(reader_of(images.reader))
        assert bool(record.human_labels) is bool(record.human_file)


@pytest.mark.parametrize("name", ["svhn", "tiny-imagenet-200"])
def test_a_spec_may_name_them(tmp_path: Path, name: str) -> None:
    changes = {"dataset": {"name": name, "root": "."}}
    (row,) = resolve(write(tmp_path / "spec.yaml", spec_data(changes))).rows
    assert row.student.images.facts.height == {"svhn": 32, "tiny-imagenet-200": 64}[name]


def test_small_pictures_that_would_be_enlarged_are_said(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "pictures")
    dataset = {"name": "image-folder", "root": "pictures"}
    (warning,) = resolve(write(tmp_path / "a.yaml", spec_data({"dataset": dataset}))).warnings
    assert "has 30 x 20 pixels, and is enlarged to 256 x 256" in warning
    assert "dataset.size: {resize: 20, crop: 20}" in warning
    flat = spec_data({"dataset": dataset, "student": {"arch": "mlp", "hidden": [16]}})
    problem = only_problem(lambda: resolve(write(tmp_path / "flat.yaml", flat)))
    assert "mlp takes images of one size" in problem and warning in problem
    sized = {**dataset, "size": {"resize": 20, "crop": 20}}
    assert not resolve(write(tmp_path / "b.yaml", spec_data({"dataset": sized}))).warnings
