"""What of a spec must fit together, and the line that says what does not."""

from pathlib import Path
from typing import Any

import pytest
from builders import line_of, only_problem, resolved, spec_data, write

from dsdctl.plan.resolve import resolve
from dsdctl.plan.rows import Row

DENSE = {"recipes": ["kd-dense-teacher"]}


def only_row(folder: Path, changes: dict[str, Any]) -> Row:
    (row,) = resolved(folder, changes).rows
    return row


def test_a_network_may_not_halve_its_images_to_nothing(tmp_path: Path) -> None:
    spec = write(tmp_path / "spec.yaml", spec_data({"student.depth": 4}))
    line = line_of(spec, '"depth": 4')
    assert only_problem(lambda: resolve(spec)) == (
        f"{spec}:{line}: student.depth: halves images of 8 pixels to nothing (allowed: at most 3)"
    )
    assert only_row(tmp_path, {"student.depth": 3})


def test_nor_the_centres_on_which_it_is_measured(tmp_path: Path) -> None:
    size = {"resize": 32, "crop": 32, "test_crop": 15}
    changes = {"dataset": {"name": "flowers102", "size": size}, "student.depth": 4}
    problem = only_problem(lambda: resolved(tmp_path, changes))
    assert "halves images of 15 pixels to nothing" in problem
    size["test_crop"] = 16
    assert only_row(tmp_path, changes)


@pytest.mark.parametrize("arch", ["mlp", "vit"])
def test_what_takes_one_size_is_not_measured_on_another(tmp_path: Path, arch: str) -> None:
    size = {"resize": 32, "crop": 32, "test_crop": 16}
    changes = {"dataset": {"name": "flowers102", "size": size}, "student": {"arch": arch}}
    assert "takes images of one size" in only_problem(lambda: resolved(tmp_path, changes))
    del size["test_crop"]
    assert only_row(tmp_path, changes)


def test_nor_may_a_teacher(tmp_path: Path) -> None:
    problem = only_problem(lambda: resolved(tmp_path, {**DENSE, "teacher.depth": 4}))
    assert "teacher.depth: halves images of 8 pixels" in problem


@pytest.mark.parametrize("batch", [3, 7, 21, 41, 123, 287, 861])
def test_a_batch_size_may_not_leave_one_image(tmp_path: Path, batch: int) -> None:
    problem = only_problem(lambda: resolved(tmp_path, {"training.batch_size": batch}))
    assert "training.batch_size: leaves a last batch of one of 862 training images" in problem


@pytest.mark.parametrize("batch", [2, 4, 100, 862, 10_000])
def test_any_other_batch_size_is_fine(tmp_path: Path, batch: int) -> None:
    assert only_row(tmp_path, {"training.batch_size": batch})


def test_a_teachers_own_batch_size_is_checked_too(tmp_path: Path) -> None:
    changes = {**DENSE, "teacher.training": {"batch_size": 7}}
    assert "leaves a last batch of one" in only_problem(lambda: resolved(tmp_path, changes))


@pytest.mark.parametrize("arch", ["mlp", "vit"])
def test_without_batchnorm_a_batch_may_be_one_image(tmp_path: Path, arch: str) -> None:
    network = {"arch": arch}
    changes = {"student": network, "teacher": network, "training.batch_size": 861}
    assert only_row(tmp_path, changes).student.steps_per_epoch == 2


def test_patches_must_divide_the_images(tmp_path: Path) -> None:
    changes = {"student": {"arch": "vit", "patch": 3}}
    problem = only_problem(lambda: resolved(tmp_path, changes))
    assert "student.patch: does not divide images of 8 x 8 pixels" in problem
    assert problem.endswith("(allowed: a divisor of 8)")
    assert only_row(tmp_path, {"student": {"arch": "vit", "patch": 8}})


@pytest.mark.parametrize(
    ("sparsities", "reason", "allowed"),
    [
        ([0.5, 0.9999], "level 2 of the student keeps 0 weights", "a lower sparsity"),
        ([0.5, 0.500001], "rounding removes nothing at level 2", "a higher sparsity"),
    ],
)
def test_each_of_a_list_of_sparsities_must_fit(
    tmp_path: Path, sparsities: list[float], reason: str, allowed: str
) -> None:
    changes = {"pruning": {"sparsities": sparsities}}
    problem = only_problem(lambda: resolved(tmp_path, changes))
    assert f": pruning.sparsities[1]: {reason}" in problem
    assert problem.endswith(f"(allowed: {allowed} for 1364 weights)")


LAYERS = "features.0, features.3, features.7, features.10, classifier"


@pytest.mark.parametrize(
    ("ignore", "reason"),
    [
        (["clasifier"], f"[0]: clasifier is not a layer of the student; did you mean classifier? "
                        f"(allowed: first, last, {LAYERS})"),
        (["first", "features.3.weight"], "[1]: features.3.weight is not a layer of the student; "
                                         "did you mean features.3?"),
        (["first", *LAYERS.split(", ")], ": leaves no layer of the student to prune"),
        ("last", ': is "last" (allowed: an array such as [last])'),
    ],
)  # fmt: skip
def test_layers_that_are_not_pruned_must_be_the_networks_and_not_all(
    tmp_path: Path, ignore: object, reason: str
) -> None:
    problem = only_problem(lambda: resolved(tmp_path, {"pruning.ignore": ignore}))
    assert f": pruning.ignore{reason}" in problem


def test_of_a_deep_network_the_first_layers_and_the_last_are_named(tmp_path: Path) -> None:
    changes = {"student": {"arch": "resnet50-imagenet"}, "pruning.ignore": ["layer1.0.con1"]}
    problem = only_problem(lambda: resolved(tmp_path, changes))
    assert "; did you mean layer1.0.conv1? " in problem
    shown = "first, last, conv1, layer1.0.conv1, layer1.0.conv2, ..., fc"
    assert problem.endswith(f"(allowed: {shown})")


def test_a_teachers_layers_are_its_own(tmp_path: Path) -> None:
    """`first` and `last` are those of any network, a name is not."""

    def changes(ignore: list[str], **teacher: object) -> dict[str, Any]:
        return {**DENSE, "teacher": {"arch": "resnet18", **teacher}, "pruning.ignore": ignore}

    def ignored(row: Row) -> tuple[tuple[str, ...], tuple[str, ...]]:
        assert row.teacher_source is not None
        return row.student.ignored_layers, row.teacher_source.setup.ignored_layers

    problem = only_problem(lambda: resolved(tmp_path, changes(["features.0"])))
    assert ": pruning.ignore[0]: features.0 is not a layer of the teacher " in problem
    own = changes(["features.0"], pruning={"ignore": ["conv"]})
    assert ignored(only_row(tmp_path, own)) == (("features.0",), ("conv",))
    ends = changes(["first", "last"])
    both = ("features.0", "classifier"), ("conv", "classifier")
    assert ignored(only_row(tmp_path, ends)) == both


def test_only_what_may_be_pruned_is_rounded_and_all_that_is_left_counts(tmp_path: Path) -> None:
    """28 weights: 9, 9 and 10. Without the last layer 18, 4, 1 may be pruned, then nothing."""
    changes = {
        "student": {"arch": "vgg-like", "depth": 1, "width": 1, "pool": 1},
        "pruning": {"fraction": 0.8, "levels": 2, "ignore": ["last"]},
    }
    assert only_row(tmp_path, changes)
    changes["pruning"] = {"fraction": 0.4, "levels": 5, "ignore": ["last"]}  # 18 11 7 4 2 1
    assert only_row(tmp_path, changes)
    changes["pruning"] = {"fraction": 0.4, "levels": 6, "ignore": ["last"]}
    problem = only_problem(lambda: resolved(tmp_path, changes))
    assert "rounding removes nothing at level 6 of the student" in problem
    assert problem.endswith("(allowed: at most 5 levels for 28 weights)")


def test_a_gradients_sample_must_be_among_the_training_images(tmp_path: Path) -> None:
    changes = {"pruning.criterion": "gradient", "pruning.sample": 863}
    problem = only_problem(lambda: resolved(tmp_path, changes))
    assert "pruning.sample: is 863 (allowed: at most the 862 training images)" in problem
    assert only_row(tmp_path, {**changes, "pruning.sample": 862})


@pytest.mark.parametrize(
    ("key", "first", "unit"), [("epoch", 4, "epochs"), ("iteration", 36, "batches")]
)
def test_what_is_rewound_to_must_lie_within_level_0(
    tmp_path: Path, key: str, first: int, unit: str
) -> None:
    beyond = {"pruning.retrain": {"mode": "rewind", key: first}}
    problem = only_problem(lambda: resolved(tmp_path, beyond))
    assert f": pruning.retrain.{key}: is {first}, but level 0 of the student" in problem
    assert problem.endswith(f"takes {first} {unit} (allowed: 0 to {first - 1})")
    assert only_row(tmp_path, {"pruning.retrain": {"mode": "rewind", key: first - 1}})


def test_a_teacher_that_rewinds_is_checked_by_its_own_epochs(tmp_path: Path) -> None:
    changes = {
        **DENSE,
        "pruning.retrain": {"mode": "rewind", "epoch": 3},
        "teacher.training": {"epochs": 2},
    }
    problem = only_problem(lambda: resolved(tmp_path, changes))
    assert "is 3, but level 0 of the teacher takes 2 epochs (allowed: 0 to 1)" in problem
    assert only_row(tmp_path, {**changes, "teacher.pruning": {"retrain": "continue"}})


def test_each_round_must_remove_a_weight(tmp_path: Path) -> None:
    changes = {"student.depth": 1, "student.width": 1, "student.pool": 1}
    pruning = {"fraction": 0.01, "levels": 3}
    problem = only_problem(lambda: resolved(tmp_path, {**changes, "pruning": pruning}))
    assert "rounding removes nothing at level 1 of the student" in problem
    assert "(allowed: at most 0 levels for 28 weights)" in problem


def test_each_level_must_keep_a_weight_a_class(tmp_path: Path) -> None:
    # 28, 22, 18, 14, 11, 9
    changes = {"student.depth": 1, "student.width": 1, "student.pool": 1}
    assert only_row(tmp_path, {**changes, "pruning.levels": 4})
    problem = only_problem(lambda: resolved(tmp_path, {**changes, "pruning.levels": 5}))
    assert "level 5 of the student keeps 9 weights, fewer than the 10 classes" in problem
    assert ": pruning.levels: " in problem
    assert "(allowed: at most 4 levels for 28 weights)" in problem


def test_exactly_a_weight_a_class_is_enough(tmp_path: Path) -> None:
    # 28 - round(0.64 * 28) = 10
    changes = {"student.depth": 1, "student.width": 1, "student.pool": 1}
    assert only_row(tmp_path, {**changes, "pruning": {"fraction": 0.64, "levels": 1}})


def test_without_pruning_any_number_of_levels_fits(tmp_path: Path) -> None:
    changes = {"student.depth": 1, "student.width": 1, "student.pool": 1}
    pruning = {"criterion": "none", "levels": 500}
    assert only_row(tmp_path, {**changes, "pruning": pruning}).student.pruning.rounds == 500


def test_a_teachers_rounds_are_checked_too(tmp_path: Path) -> None:
    changes = {**DENSE, "teacher.pruning": {"levels": 40}}
    assert "of the teacher keeps" in only_problem(lambda: resolved(tmp_path, changes))
