"""Keys hash what images, labels and noise are, and not what they are called."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import write_image_folder
from builders import only_trajectory
from level_keys import keys

CIFAR10N = {"dataset": {"name": "cifar10n"}, "label_noise": {"kind": "human", "labels": "worse"}}
FLOWERS = {"name": "flowers102"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (CIFAR10N, {"dataset": {"name": "cifar10"}}),
        (CIFAR10N, {**CIFAR10N, "label_noise": {"kind": "human", "labels": "aggre"}}),
        ({"dataset": FLOWERS}, {"dataset": {**FLOWERS, "size": {"resize": 40, "crop": 32}}}),
        (
            {"dataset": {**FLOWERS, "size": {"resize": 40, "crop": 32}}},
            {"dataset": {**FLOWERS, "size": {"resize": 40, "crop": 32, "test_crop": 24}}},
        ),
    ],
    ids=str,
)
def test_data_sets_labels_and_sizes_have_keys_of_their_own(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert all(a != b for a, b in zip(keys(tmp_path, one), keys(tmp_path, other), strict=True))


@pytest.mark.parametrize(
    "dataset",
    [
        {**FLOWERS, "size": {"resize": 156, "crop": 128}},
        {**FLOWERS, "augment": {}},
        {**FLOWERS, "root": "elsewhere"},
    ],
    ids=str,
)
def test_a_data_sets_own_size_and_views_written_out_change_no_key(
    tmp_path: Path, dataset: dict[str, Any]
) -> None:
    assert keys(tmp_path, {"dataset": dataset}) == keys(tmp_path, {"dataset": FLOWERS})


@pytest.mark.parametrize("noise", [{"kind": "pair-flip"}, {"kind": "symmetric-all"}, {"seed": 3}])
def test_without_noise_its_kind_and_seed_do_not_count(
    tmp_path: Path, noise: dict[str, Any]
) -> None:
    clean = {"label_noise": {"rate": 0.0}}
    assert keys(tmp_path, {"label_noise": {"rate": 0.0, **noise}}) == keys(tmp_path, clean)


def test_an_image_folder_counts_by_content_and_not_by_name(tmp_path: Path) -> None:
    for name, each in (("a", 6), ("b", 6), ("c", 7)):
        write_image_folder(tmp_path / name, each=each)
    a, b, c = (
        keys(
            tmp_path,
            {"dataset": {"name": "image-folder", "root": name}, "training.batch_size": 8},
        )
        for name in "abc"
    )
    assert a == b
    assert all(one != other for one, other in zip(a, c, strict=True))


def test_noise_drawn_per_trajectory_has_the_trajectorys_seed(tmp_path: Path) -> None:
    changes = {"label_noise.seed": "per-trajectory", "teacher.seed": "paired", "seeds": [3]}
    assert only_trajectory(tmp_path, changes).identity.noise.seed == 3
    fixed = {"label_noise.seed": 3, "seeds": [3]}
    assert keys(tmp_path, changes) == keys(tmp_path, fixed)


def test_an_archive_counts_by_content_and_not_by_name(tmp_path: Path) -> None:
    labels = np.arange(20) % 2
    for name, shade in (("a", 1), ("b", 1), ("c", 2)):
        images = np.full((20, 8, 8), shade, np.uint8)
        np.savez(tmp_path / f"{name}.npz", x_train=images, y_train=labels)
    a, b, c = (
        keys(
            tmp_path,
            {
                "dataset": {"name": "npz", "file": f"{name}.npz", "test": {"fraction": 0.4}},
                "training.batch_size": 4,
                "pruning.levels": 1,
            },
        )
        for name in "abc"
    )
    assert a == b
    assert all(one != other for one, other in zip(a, c, strict=True))
