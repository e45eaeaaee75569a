"""An image folder is listed as torchvision lists it, and known by its content."""

import os
from pathlib import Path

import pytest
from archives import random_pixels, write_image_folder
from builders import line_of, only_problem, resolved, spec_data, write
from PIL import Image

from dsdctl.data.facts import dataset_facts
from dsdctl.data.image_folder import EXTENSIONS, list_images, read_content
from dsdctl.spec.catalog import Facts
from dsdctl.spec.dataset import Dataset
from dsdctl.spec.views import Size
from dsdctl.system.torchvision import datasets as torchvision_datasets


def facts(root: Path, **keys: object) -> Facts:
    return dataset_facts(Dataset(name="image-folder", **keys), root)  # type: ignore[arg-type]


def test_extensions_are_torchvisions() -> None:
    assert set(EXTENSIONS) == set(torchvision_datasets.folder.IMG_EXTENSIONS)


@pytest.mark.parametrize("test_folder", ["val", "test"])
def test_files_and_classes_are_those_of_torchvision(tmp_path: Path, test_folder: str) -> None:
    write_image_folder(tmp_path, ("train", test_folder), ("b", "a", "C c", "é"))
    # As in Tiny-ImageNet the images of a class may lie deeper; other files are passed over.
    (tmp_path / "train" / "a" / "images").mkdir()
    (tmp_path / "train" / "a" / "0.png").rename(tmp_path / "train" / "a" / "images" / "0.PNG")
    (tmp_path / "train" / "a" / "boxes.txt").write_text("0 0 1 1")
    listing = list_images(tmp_path, None)
    assert listing.test_folder == test_folder
    for folder, files in (("train", listing.train), (test_folder, listing.test)):
        published = torchvision_datasets.ImageFolder(str(tmp_path / folder))
        assert list(listing.classes) == published.classes
        found = [(str(tmp_path / file.path), file.label) for file in files]
        assert found == published.samples


def test_facts_count_images_and_classes(tmp_path: Path) -> None:
    write_image_folder(tmp_path, classes=("a", "b"), each=5)
    found = facts(tmp_path, size=Size(resize=40, crop=32))
    assert (found.train_images, found.test_images, found.classes) == (10, 10, 2)
    assert (found.channels, found.height, found.width) == (3, 32, 32)
    assert found.content == read_content(list_images(tmp_path, None))


def test_without_a_test_folder_test_images_must_be_held_out(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "pictures", ("train",))
    dataset = {"name": "image-folder", "root": "pictures"}
    problem = only_problem(lambda: resolved(tmp_path, {"dataset": dataset}))
    assert "the folder holds no val/ or test/; give `test: {fraction: ...}`" in problem
    held_out = {"dataset": {**dataset, "test": {"fraction": 0.25}}, "training.batch_size": 5}
    sizes = resolved(tmp_path, held_out).rows[0].student.images.sizes
    assert (sizes.train, sizes.test) == (18, 6)


def test_of_two_test_folders_one_must_be_named(tmp_path: Path) -> None:
    write_image_folder(tmp_path, ("train", "val", "test"))
    problem = only_problem(lambda: facts(tmp_path))
    assert problem.startswith(f"{tmp_path}: holds val/ and test/; name the one that has labels")
    assert [facts(tmp_path, test_folder=name).test_folder for name in ("val", "test")] == [
        "val",
        "test",
    ]


def spoil(root: Path, how: str) -> None:
    match how:
        case "no folder":
            root.rename(root.with_name("elsewhere"))
        case "no train":
            (root / "train").rename(root / "training")
        case "one class":
            (root / "train" / "bee").rename(root / "bee")
            (root / "train" / "cat").rename(root / "cat")
        case "empty class":
            for file in (root / "train" / "bee").iterdir():
                file.unlink()
        case "unknown class":
            (root / "val" / "dog").mkdir()
        case "no test image":
            for file in (root / "val").glob("*/*"):
                file.unlink()
        case "broken link":
            (root / "val" / "bee" / "9.png").symlink_to("nowhere.png")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("no folder", "/train: no such folder (an image folder holds train/ and val/ or test/"),
        ("no train", "/train: no such folder (an image folder holds train/ and val/ or test/"),
        ("one class", "/train: 1 class folders (allowed: two or more)"),
        ("empty class", "/train/bee: holds no image (.jpg, .jpeg, "),
        ("unknown class", "/val/dog: no such class in train/"),
        ("no test image", "/val: holds no image"),
        ("broken link", "/val/bee/9.png: No such file or directory"),
    ],
)
def test_what_is_no_image_folder_is_refused(tmp_path: Path, how: str, reason: str) -> None:
    root = write_image_folder(tmp_path / "pictures")
    spoil(root, how)
    assert only_problem(lambda: facts(root)).startswith(f"{root}{reason}")


def test_a_test_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write_image_folder(tmp_path)
    assert only_problem(lambda: facts(tmp_path, test_folder="test")) == (
        f"{tmp_path}/test: no such folder"
    )


def test_an_unusable_folder_is_reported_at_the_key_that_names_it(tmp_path: Path) -> None:
    dataset = {"name": "image-folder", "root": "nowhere"}
    spec = write(tmp_path / "spec.yaml", spec_data({"dataset": dataset}))
    problem = only_problem(lambda: resolved(tmp_path, {"dataset": dataset}))
    assert problem.startswith(f"{spec}:{line_of(spec, 'nowhere')}: dataset.root: ")


def test_the_content_is_names_and_bytes_and_not_times_or_place(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for root in (one, other):
        write_image_folder(root)
    os.utime(other / "train" / "bee" / "0.png", (0, 0))
    listings = [list_images(root, None) for root in (one, other)]
    assert read_content(listings[0]) == read_content(listings[1])
    assert listings[0].fingerprint() != listings[1].fingerprint()


@pytest.mark.parametrize("how", ["bytes", "name", "class", "less"])
def test_the_content_is_another_where_anything_is(tmp_path: Path, how: str) -> None:
    write_image_folder(tmp_path)
    before = read_content(list_images(tmp_path, None))
    file = tmp_path / "train" / "bee" / "0.png"
    match how:
        case "bytes":
            Image.fromarray(random_pixels(5, 9, 9, 3)).save(file)
        case "name":
            file.rename(file.with_name("new.png"))
        case "class":
            file.rename(tmp_path / "train" / "ant" / "new.png")
        case "less":
            file.unlink()
    assert read_content(list_images(tmp_path, None)) != before
