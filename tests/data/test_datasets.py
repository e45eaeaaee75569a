"""What is known of a data set before an image is decoded, and which archives are refused."""

import hashlib
import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import ROOT, line_of, only_problem, resolved, spec_data, write

from dsdctl.data.facts import Sizes, dataset_facts, split_sizes
from dsdctl.plan.resolve import resolve
from dsdctl.spec.catalog import Facts
from dsdctl.spec.dataset import Dataset, HoldOut, TestHoldOut
from dsdctl.spec.views import Normalize

IMAGES = np.zeros((21, 8, 6), np.uint8)
LABELS = np.arange(21) % 3


def npz_facts(file: Path) -> Facts:
    return dataset_facts(Dataset(name="npz", file="unread"), file)


def archive(folder: Path, **members: Any) -> Path:
    file = folder / "data.npz"
    np.savez(file, **members)
    return file


def as_npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def test_an_archive_without_a_test_set(tmp_path: Path) -> None:
    file = archive(tmp_path, x_train=IMAGES, y_train=LABELS)
    assert npz_facts(file) == Facts(
        version=1,
        train_images=21,
        test_images=None,
        classes=3,
        channels=1,
        height=8,
        width=6,
        normalize=Normalize(mean=(0.5,), std=(0.25,)),
        content=hashlib.sha256(file.read_bytes()).hexdigest(),
    )


def test_an_archive_with_colours_and_a_test_set(tmp_path: Path) -> None:
    colours = np.zeros((21, 8, 6, 3), np.uint8)
    facts = npz_facts(
        archive(tmp_path, x_train=colours, y_train=LABELS, x_test=colours[:4], y_test=LABELS[:4])
    )
    assert (facts.train_images, facts.test_images, facts.channels) == (21, 4, 3)
    assert facts.normalize == Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


BAD_MEMBERS: list[tuple[dict[str, Any], str]] = [
    ({}, "no member x_train (it holds: nothing)"),
    ({"x_train": IMAGES}, "no member y_train (it holds: x_train)"),
    ({"y_train": LABELS, "other": LABELS}, "no member x_train (it holds: other, y_train)"),
    (
        {"x_train": IMAGES.astype(np.float32), "y_train": LABELS},
        "x_train: float32 of shape (21, 8, 6) (allowed: uint8 of shape N x H x W or N x H x W x C)",
    ),
    ({"x_train": IMAGES.astype(np.int8), "y_train": LABELS}, "x_train: int8"),
    ({"x_train": IMAGES[0], "y_train": LABELS}, "x_train: uint8 of shape (8, 6)"),
    ({"x_train": IMAGES[..., None, None], "y_train": LABELS}, "x_train: uint8 of shape (21, 8, 6,"),
    ({"x_train": IMAGES[:, :0], "y_train": LABELS}, "x_train: uint8 of shape (21, 0, 6)"),
    ({"x_train": IMAGES[:0], "y_train": LABELS[:0]}, "x_train: uint8 of shape (0, 8, 6)"),
    ({"x_train": np.array([{}] * 21), "y_train": LABELS}, "x_train: object"),
    ({"x_train": IMAGES, "y_train": np.array([{}] * 21)}, "y_train: object of shape (21,)"),
    ({"x_train": IMAGES, "y_train": LABELS.astype(float)}, "y_train: float64 of shape (21,)"),
    ({"x_train": IMAGES, "y_train": LABELS == 0}, "y_train: bool of shape (21,)"),
    ({"x_train": IMAGES, "y_train": LABELS.astype(str)}, "y_train: <U"),
    ({"x_train": IMAGES, "y_train": LABELS[:20]}, "y_train: int64 of shape (20,)"),
    ({"x_train": IMAGES, "y_train": LABELS[:, None]}, "y_train: int64 of shape (21, 1)"),
    ({"x_train": IMAGES, "y_train": LABELS - 1}, "y_train: label -1 (allowed: 0 to 99999)"),
    ({"x_train": IMAGES, "y_train": 0 * LABELS}, "y_train: one class only (allowed: two or more)"),
    ({"x_train": IMAGES, "y_train": LABELS + 1}, "y_train: no image has label 0 (allowed: each"),
    ({"x_train": IMAGES, "y_train": 2 * LABELS}, "y_train: no image has label 1 (allowed: each"),
]

BAD_TEST_MEMBERS: list[tuple[dict[str, Any], str]] = [
    ({"x_test": IMAGES}, "x_test and y_test must come together"),
    ({"y_test": LABELS}, "x_test and y_test must come together"),
    ({"x_test": IMAGES, "y_test": LABELS + 1}, "y_test: label 3 (allowed: 0 to 2)"),
    ({"x_test": IMAGES, "y_test": LABELS - 1}, "y_test: label -1 (allowed: 0 to"),
    ({"x_test": IMAGES, "y_test": LABELS[1:]}, "y_test: int64 of shape (20,)"),
    ({"x_test": IMAGES[:, :7], "y_test": LABELS}, "x_test: images of (7, 6, 1)"),
    ({"x_test": IMAGES[:0], "y_test": LABELS[:0]}, "x_test: uint8 of shape (0, 8, 6)"),
]


@pytest.mark.parametrize(("members", "reason"), BAD_MEMBERS)
def test_a_bad_training_member_is_named(
    tmp_path: Path, members: dict[str, Any], reason: str
) -> None:
    file = archive(tmp_path, **members)
    assert only_problem(lambda: npz_facts(file)).startswith(f"{file}: {reason}")


@pytest.mark.parametrize(("members", "reason"), BAD_TEST_MEMBERS)
def test_a_bad_test_member_is_named(tmp_path: Path, members: dict[str, Any], reason: str) -> None:
    file = archive(tmp_path, x_train=IMAGES, y_train=LABELS, **members)
    assert only_problem(lambda: npz_facts(file)).startswith(f"{file}: {reason}")


NPY = b"\x93NUMPY\x01\x00"


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    file = archive(tmp_path, x_train=IMAGES, y_train=LABELS)
    file.write_bytes(file.read_bytes()[:-30])
    assert "not a readable .npz archive" in only_problem(lambda: npz_facts(file))


@pytest.mark.parametrize(
    ("images", "labels", "reason"),
    [
        (np.zeros((21, 4, 4, 17), dtype=np.uint8), None, "17 channels (allowed: at most 16)"),
        (None, np.array([0, 2**40] + 19 * [1]), "y_train: label 1099511627776"),
    ],
)
def test_what_is_too_large_is_refused(
    tmp_path: Path, images: Any, labels: Any, reason: str
) -> None:
    images = IMAGES if images is None else images
    labels = LABELS if labels is None else labels
    file = archive(tmp_path, x_train=images, y_train=labels)
    assert reason in only_problem(lambda: npz_facts(file))


def test_a_pickle_is_refused_without_being_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    traps = np.array([Trap()] * 21)
    for members in ({"x_train": IMAGES, "y_train": traps}, {"x_train": traps, "y_train": LABELS}):
        file = archive(tmp_path, **members)
        assert str(file) in only_problem(lambda file=file: npz_facts(file))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04N.", b"PK\x03\x04", NPY])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "data.npz"
    file.write_bytes(content)
    assert "not a readable .npz archive" in only_problem(lambda: npz_facts(file))


def test_a_member_that_is_no_array_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    with zipfile.ZipFile(file, "w") as members:
        members.writestr("x_train.npy", b"text")
        members.writestr("y_train.npy", as_npy(LABELS))
    assert "not a readable .npz archive" in only_problem(lambda: npz_facts(file))


def _write_members(file: Path, images: bytes) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("x_train.npy", images)
        members.writestr("y_train.npy", as_npy(LABELS))
    return file


def test_images_are_never_held_in_memory_to_learn_their_shape(tmp_path: Path) -> None:
    images = as_npy(np.zeros((21, 1000, 1000), dtype=np.uint8))
    file = _write_members(tmp_path / "data.npz", images)
    tracemalloc.start()
    try:
        assert npz_facts(file).height == 1000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(images) / 2


def test_an_array_that_is_shorter_than_it_claims_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (21, 10**6, 10**6)}
    )
    file = _write_members(tmp_path / "data.npz", header.getvalue() + b"1234")
    why = "x_train: 4 bytes are no uint8 of shape (21, 1000000, 1000000)"
    assert why in only_problem(lambda: npz_facts(file))


def test_an_altered_pixel_is_found_before_anything_runs(tmp_path: Path) -> None:
    file = archive(tmp_path, x_train=IMAGES, y_train=LABELS)
    content = bytearray(file.read_bytes())
    content[content.index(b"NUMPY") + 200] ^= 1
    file.write_bytes(content)
    assert "Bad CRC-32 for file 'x_train.npy'" in only_problem(lambda: npz_facts(file))


def npz_spec(**dataset: Any) -> dict[str, Any]:
    return {"dataset": {"name": "npz", "file": "data.npz", **dataset}, "training.batch_size": 5}


@pytest.mark.parametrize("file", ["data.npz", ".", "missing.npz"])
def test_an_unusable_archive_is_reported_at_the_key_that_names_it(
    tmp_path: Path, file: str
) -> None:
    (tmp_path / "data.npz").write_bytes(b"")
    spec = write(tmp_path / "spec.yaml", spec_data(npz_spec(file=file, test={"fraction": 0.4})))
    line = line_of(spec, '"file"')
    assert only_problem(lambda: resolve(spec)).startswith(f"{spec}:{line}: dataset.file: ")


def test_an_archive_needs_a_test_share_just_where_it_holds_no_test_set(tmp_path: Path) -> None:
    share = npz_spec(test={"fraction": 0.4})
    archive(tmp_path, x_train=IMAGES, y_train=LABELS)
    assert "no x_test and y_test" in only_problem(lambda: resolved(tmp_path, npz_spec()))
    assert resolved(tmp_path, share).rows[0].student.images.sizes == Sizes(13, 0, 8)
    archive(tmp_path, x_train=IMAGES, y_train=LABELS, x_test=IMAGES, y_test=LABELS)
    assert "leave `test` out" in only_problem(lambda: resolved(tmp_path, share))


def test_a_normalization_must_have_one_value_a_channel(tmp_path: Path) -> None:
    changes = {"dataset.normalize": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}
    problem = only_problem(lambda: resolved(tmp_path, changes))
    assert "dataset.normalize: has 3 values (allowed: 1, one a channel)" in problem


@pytest.mark.parametrize(
    ("dataset", "sizes"),
    [
        (Dataset(name="cifar10"), Sizes(50_000, 0, 10_000)),
        (Dataset(name="cifar10", validation=HoldOut(fraction=0.1)), Sizes(45_000, 5_000, 10_000)),
        (Dataset(name="digits", test=TestHoldOut(fraction=0.4)), Sizes(1078, 0, 719)),
        (
            Dataset(
                name="digits", test=TestHoldOut(fraction=0.4), validation=HoldOut(fraction=0.2)
            ),
            Sizes(862, 216, 719),
        ),
    ],
)
def test_hold_outs_are_shares_of_what_is_left(dataset: Dataset, sizes: Sizes) -> None:
    assert split_sizes(dataset, dataset_facts(dataset, None)) == sizes


@pytest.mark.parametrize(
    ("path", "fraction", "part"),
    [
        ("dataset.test.fraction", 0.0001, "test"),
        ("dataset.test.fraction", 0.9999, "train"),
        ("dataset.validation.fraction", 0.0001, "validation"),
        ("dataset.validation.fraction", 0.9999, "train"),
    ],
)
def test_a_share_that_leaves_a_part_empty_is_refused(
    tmp_path: Path, path: str, fraction: float, part: str
) -> None:
    assert f"leaves no {part} images of 1797" in only_problem(
        lambda: resolved(tmp_path, {path: fraction})
    )


def test_the_paper_normalizes_cifar10_with_the_values_of_imagenet() -> None:
    (row, *_) = resolve(ROOT / "specs" / "table1.yaml").rows
    assert row.student.images.facts.normalize.mean == (0.485, 0.456, 0.406)
    assert row.student.images.facts.normalize.std == (0.229, 0.224, 0.225)
