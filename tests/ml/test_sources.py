"""Data sets are read as torchvision reads them, from the formats in which they were published."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import (
    Cifar,
    random_pixels,
    write_flowers,
    write_human_labels,
    write_image_folder,
)
from PIL import Image

from dsdctl.data.image_folder import list_images, read_content
from dsdctl.data.prepared import RawSplit
from dsdctl.data.sources import (
    ResizeAndCrop,
    cifar10,
    cifar100,
    flowers102,
    human_labels,
    image_folder,
    load_digits,
    load_npz,
)
from dsdctl.errors import WorkError
from dsdctl.spec.catalog import CATALOG
from dsdctl.system.torchvision import datasets as torchvision_datasets
from dsdctl.system.torchvision import transforms

CIFAR = {"cifar10": cifar10, "cifar100": cifar100}


def all_of(part: RawSplit) -> np.ndarray:
    """The images of a part, read in pieces."""
    count = len(part.labels)
    middle = count // 3
    pieces = [part.read(0, middle), part.read(middle, count)]
    return np.concatenate(pieces)


def error_of(call: Any) -> str:
    with pytest.raises(WorkError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestCut:
    @pytest.mark.parametrize(
        "size", [(300, 200), (200, 301), (157, 157), (156, 400), (50, 40), (1, 9)], ids=str
    )
    @pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
    def test_is_torchvisions_resize_and_centre_crop(self, size: tuple[int, int], mode: str) -> None:
        image = Image.fromarray(random_pixels(0, size[1], size[0], 3)).convert(mode)
        transform = transforms.Compose([transforms.Resize(156), transforms.CenterCrop(128)])
        expected = np.asarray(transform(image.convert("RGB")))
        assert np.array_equal(ResizeAndCrop(156, 128)(image), expected)

    def test_of_an_image_of_the_right_size_changes_nothing(self) -> None:
        pixels = random_pixels(0, 64, 64, 3)
        assert np.array_equal(ResizeAndCrop(64, 64)(Image.fromarray(pixels)), pixels)


class TestCifar:
    @pytest.mark.parametrize("name", ["cifar10", "cifar100"])
    def test_is_read_from_the_published_format(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written = Cifar(tmp_path, name)
        written.publish(monkeypatch)
        original = CIFAR[name](tmp_path)
        assert original.classes == written.classes
        train, test = original.parts["train"], original.parts["test"]
        assert np.array_equal(all_of(train), written.train_images)
        assert np.array_equal(all_of(test), written.test_images)
        assert list(train.labels) == written.train_labels.tolist()
        assert list(test.labels) == written.test_labels.tolist()
        assert train.shape == test.shape == (32, 32, 3)

    @pytest.mark.parametrize("name", ["cifar10", "cifar100"])
    def test_that_is_neither_there_nor_to_be_had_is_one_clear_error(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loader = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}[name]
        monkeypatch.setattr(getattr(torchvision_datasets, loader), "download", no_network)
        message = error_of(lambda: CIFAR[name](tmp_path / "absent"))
        for part in (name, str(tmp_path / "absent"), "network is unreachable", "dataset.root"):
            assert part in message

    def test_with_another_md5_is_never_unpickled(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written = Cifar(tmp_path, "cifar10")
        written.publish(monkeypatch)
        monkeypatch.setattr(torchvision_datasets.CIFAR10, "download", no_network)
        trap = pickle.dumps(Trap(tmp_path / "sprung"))
        (tmp_path / written.loader.base_folder / "data_batch_3").write_bytes(trap)
        message = error_of(lambda: cifar10(tmp_path))
        folder = tmp_path / written.loader.base_folder
        assert message.startswith(f"dataset cifar10: {folder} is not whole, or not what was pub")
        assert "network is unreachable" in message
        assert not (tmp_path / "sprung").exists()


def no_network(self: object) -> None:
    raise OSError("network is unreachable")


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


class TestFlowers:
    def test_are_read_from_the_published_format(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        labels = write_flowers(monkeypatch, tmp_path, 15)
        original = flowers102(tmp_path, ResizeAndCrop(36, 32))
        train, test = original.parts["train"], original.parts["test"]
        assert (original.classes, len(train.labels), len(test.labels)) == (102, 5, 5)
        assert list(train.labels) == labels[::3].tolist()
        assert list(test.labels) == labels[2::3].tolist()
        pictures = sorted((tmp_path / "flowers-102" / "jpg").iterdir())
        expected = [ResizeAndCrop(36, 32)(Image.open(file)) for file in pictures[2::3]]
        assert np.array_equal(all_of(test), np.stack(expected))

    def test_that_are_neither_there_nor_to_be_had_are_one_clear_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torchvision_datasets.Flowers102, "download", no_network)
        message = error_of(lambda: flowers102(tmp_path, ResizeAndCrop(36, 32)))
        assert message.startswith("dataset flowers102: not found under")


class TestImageFolder:
    def test_is_read_as_torchvision_reads_it(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path)
        transform = transforms.Compose([transforms.Resize(20), transforms.CenterCrop(16)])
        original = image_folder(list_images(tmp_path, None), ResizeAndCrop(20, 16), None)
        for part, folder in (("train", "train"), ("test", "val")):
            published = torchvision_datasets.ImageFolder(str(tmp_path / folder))
            expected = [np.asarray(transform(image)) for image, _ in published]
            assert np.array_equal(all_of(original.parts[part]), np.stack(expected))
            assert list(original.parts[part].labels) == published.targets

    def test_is_refused_where_its_content_is_another_by_now(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path)
        planned = read_content(list_images(tmp_path, None))
        original = image_folder(list_images(tmp_path, None), ResizeAndCrop(20, 16), planned)
        for part in original.parts.values():
            all_of(part)
        assert original.finish()["content"] == planned
        Image.fromarray(random_pixels(9, 20, 20, 3)).save(tmp_path / "train" / "bee" / "0.png")
        changed = image_folder(list_images(tmp_path, None), ResizeAndCrop(20, 16), planned)
        for part in changed.parts.values():
            all_of(part)
        assert error_of(changed.finish) == f"{tmp_path}: changed since the run was planned"

    @pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
    def test_names_a_file_that_is_no_picture(self, tmp_path: Path, content: bytes) -> None:
        write_image_folder(tmp_path)
        file = tmp_path / "train" / "cat" / "0.png"
        file.write_bytes(content)
        part = image_folder(list_images(tmp_path, None), ResizeAndCrop(20, 16), None).parts["train"]
        message = error_of(lambda: part.read(0, len(part.labels)))
        assert message.startswith(f"{file}: not a readable image (")
        assert "BytesIO" not in message

    def test_names_a_picture_that_was_cut_off(self, tmp_path: Path) -> None:
        write_image_folder(tmp_path)
        file = tmp_path / "train" / "cat" / "1.jpg"
        file.write_bytes(file.read_bytes()[:-200])
        part = image_folder(list_images(tmp_path, None), ResizeAndCrop(20, 16), None).parts["train"]
        assert "1.jpg: not a readable image" in error_of(lambda: all_of(part))


class TestHumanLabels:
    @pytest.mark.parametrize(
        ("name", "labels", "key"),
        [
            ("cifar10n", "aggre", "aggre_label"),
            ("cifar10n", "worse", "worse_label"),
            ("cifar10n", "random1", "random_label1"),
            ("cifar10n", "random2", "random_label2"),
            ("cifar10n", "random3", "random_label3"),
            ("cifar100n", "noisy", "noisy_label"),
        ],
    )
    def test_are_the_ones_that_were_asked_for(
        self, name: str, labels: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clean = np.arange(40) % 10
        written = write_human_labels(monkeypatch, tmp_path, name, clean)
        found = human_labels(name, labels, tmp_path, clean)
        assert np.array_equal(found, written[key])
        assert found.dtype == np.int64
        assert not np.array_equal(found, clean)

    def test_may_come_in_a_file_that_a_numpy_since_2_wrote(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clean = np.arange(40) % 10
        written = write_human_labels(monkeypatch, tmp_path, "cifar100n", clean)
        file = tmp_path / CATALOG["cifar100n"].human_file
        torch.save(written, file)
        text = file.read_bytes()
        assert (b"numpy._core.multiarray" in text) or (b"numpy.core.multiarray" in text)
        assert human_labels("cifar100n", "noisy", tmp_path, clean).shape == (40,)

    def test_that_are_absent_are_one_clear_error(self, tmp_path: Path) -> None:
        message = error_of(lambda: human_labels("cifar10n", "worse", tmp_path, np.zeros(3)))
        assert message == (
            f"dataset cifar10n: {tmp_path}/CIFAR-10_human.pt: no such file; put CIFAR-10_human.pt "
            "there, as published at github.com/UCSC-REAL/cifar-10-100n, or set dataset.root"
        )

    def test_of_other_images_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clean = np.arange(40) % 10
        write_human_labels(monkeypatch, tmp_path, "cifar10n", clean)
        for other in (clean[::-1], clean[:39]):
            message = error_of(
                lambda other=other: human_labels("cifar10n", "worse", tmp_path, other)
            )
            assert "clean_label is not what" in message

    def test_that_were_not_published_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clean = np.arange(40) % 10
        written = write_human_labels(monkeypatch, tmp_path, "cifar10n", clean)
        written["worse_label"][5] += 1
        torch.save(written, tmp_path / CATALOG["cifar10n"].human_file)
        message = error_of(lambda: human_labels("cifar10n", "worse", tmp_path, clean))
        assert "worse_label is not as it was published" in message
        assert human_labels("cifar10n", "aggre", tmp_path, clean).shape == (40,)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "not a file of plain integer arrays"),
            (b"PK\x03\x04", "not a file of plain integer arrays"),
            (pickle.dumps({"clean_label": np.arange(3)}), "not a file of plain integer arrays"),
            ([1, 2], "holds a list, not named arrays"),
            ({"clean_label": torch.arange(3)}, "holds no array clean_label"),
            ({"clean_label": np.arange(3)}, "holds no array worse_label"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_in_no_file_of_arrays_are_refused(
        self, tmp_path: Path, content: Any, reason: str
    ) -> None:
        file = tmp_path / CATALOG["cifar10n"].human_file
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            torch.save(content, file)
        message = error_of(lambda: human_labels("cifar10n", "worse", tmp_path, np.arange(3)))
        assert str(file) in message
        assert reason in message

    def test_are_read_without_running_anything(self, tmp_path: Path) -> None:
        torch.save({"clean_label": Trap(tmp_path / "sprung")}, tmp_path / "CIFAR-10_human.pt")
        message = error_of(lambda: human_labels("cifar10n", "worse", tmp_path, np.arange(3)))
        assert "not a file of plain integer arrays" in message
        assert not (tmp_path / "sprung").exists()


def random_images(count: int, height: int, width: int, channels: int) -> np.ndarray:
    return random_pixels(0, count, height, width, channels)


def test_digits_are_scikit_learns_scaled_to_bytes() -> None:
    from sklearn.datasets import load_digits as sklearn_digits

    source, digits = load_digits(), sklearn_digits()
    assert source.train.images.shape == (1797, 8, 8, 1)
    assert source.train.images.dtype == np.uint8
    expected = np.rint(digits.images * 255 / 16)
    assert np.array_equal(source.train.images[..., 0], expected)
    assert np.array_equal(source.train.labels, digits.target)
    assert source.train.labels.dtype == np.int64
    assert (source.test, source.classes) == (None, 10)


def written(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_archive_of_colour_images_with_a_test_set_loads_as_it_is(tmp_path: Path) -> None:
    train, test = random_images(5, 3, 4, 3), random_images(2, 3, 4, 3)
    labels = np.array([0, 3, 1, 2, 3], dtype=np.uint8)
    content = written(
        tmp_path / "a.npz", x_train=train, y_train=labels, x_test=test, y_test=np.array([1, 0])
    )
    source = load_npz(tmp_path / "a.npz", content)
    assert np.array_equal(source.train.images, train)
    assert source.train.labels.tolist() == [0, 3, 1, 2, 3]
    assert source.train.labels.dtype == np.int64
    assert source.test is not None
    assert np.array_equal(source.test.images, test)
    assert source.test.labels.tolist() == [1, 0]
    assert source.classes == 4


def test_an_archive_of_grey_images_gets_one_channel(tmp_path: Path) -> None:
    images = random_images(4, 3, 3, 1)
    content = written(tmp_path / "a.npz", x_train=images[..., 0], y_train=np.array([0, 1, 1, 0]))
    source = load_npz(tmp_path / "a.npz", content)
    assert np.array_equal(source.train.images, images)
    assert source.test is None


def test_an_archive_that_changed_since_planning_is_refused(tmp_path: Path) -> None:
    arrays = {"x_train": random_images(2, 3, 3, 1), "y_train": np.array([0, 1])}
    planned = written(tmp_path / "a.npz", **arrays)
    arrays["y_train"] = np.array([1, 0])
    assert written(tmp_path / "a.npz", **arrays) != planned
    with pytest.raises(WorkError, match=r"a\.npz: changed since the run was planned"):
        load_npz(tmp_path / "a.npz", planned)
