"""Keys hash everything that changes a level's numbers and nothing else."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import write_image_folder
from builders import ROOT, only_trajectory, planned, write_recipe

from dsdctl.keys import LevelIdentity, TeacherIdentity, canonical_json, key_of
from dsdctl.plan.plan import make_plan
from dsdctl.plan.resolve import resolve
from dsdctl.plan.trajectory import Trajectory
from dsdctl.spec.fields import Model

PARENT = 64 * "a"
TEACHER = TeacherIdentity(level=64 * "b")


def level_0(trajectory: Trajectory) -> LevelIdentity:
    return trajectory.level_identity(0, None, None)


def level_1(trajectory: Trajectory) -> LevelIdentity:
    return trajectory.level_identity(1, PARENT, None)


def keys(folder: Path, changes: dict[str, Any]) -> tuple[str, str, str]:
    """The keys of level 0, of level 1 after a fixed parent, and of the trajectory."""
    write_recipe(folder, "sparsest", select={"sparsest_within": 0.01})
    trajectory = only_trajectory(folder, changes)
    return key_of(level_0(trajectory)), key_of(level_1(trajectory)), trajectory.key


@pytest.mark.parametrize(
    "changes",
    [
        {"experiment": "other"},
        {"title": "Other words"},
        {"pruning.levels": 5},
        {"pruning": {"fraction": 0.2, "until_sparsity": 0.5}},
        {"stop": {"patience": 3, "tolerance": 0.1}},
        {"tracking": {"wandb": {"project": "other"}}},
        {"reference": {"vanilla": {"pflops": 1.0}}},
        {"dataset.root": "elsewhere"},
        {"recipes": ["early-stop"]},
        {"recipes": ["sparsest"]},
        {"teacher.width": 16},
        {"label_noise.kind": "symmetric"},
        {"training.optimizer.lr": 0.1},
        {"training.precision": "fp32"},
        {"dataset.augment": {"flip": False}},
        {"dataset.normalize": {"mean": [0.3], "std": [0.37]}},
        {"warning": "Takes a year"},
        {"deviations": ["Smaller", "Faster"]},
        {"training.optimizer": {"kind": "sgd", "momentum": 0.9, "nesterov": False}},
        {"training.optimizer": {"betas": None, "eps": None}},
        {"training.schedule": {"kind": "step", "warmup": 0, "milestones": [], "gamma": 0.1}},
        {"training.schedule": {"kind": "constant"}},
        {"training.clip_norm": None},
        {"training.label_smoothing": 0},
        {"training.loss": {"kind": "cross-entropy"}},
        {"training.loss": {"q": None, "alpha": None, "beta": None}},
        {"pruning.ignore": []},
    ],
    ids=str,
)
def test_names_limits_and_defaults_written_out_change_no_key(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert keys(tmp_path, changes) == keys(tmp_path, {})


@pytest.mark.parametrize(
    "changes",
    [
        {"training.optimizer.lr": 0.2},
        {"training.optimizer.momentum": 0.8},
        {"training.optimizer.weight_decay": 1e-5},
        {"training.schedule.milestones": [2]},
        {"training.schedule.gamma": 0.2},
        {"training.schedule.warmup": 1},
        {"training.schedule.kind": "cosine"},
        {"training.optimizer.nesterov": True},
        {"training.optimizer": {"kind": "adamw", "lr": 0.1}},
        {"training.clip_norm": 1},
        {"training.label_smoothing": 0.1},
        {"training.loss.kind": "gce"},
        {"training.loss.kind": "sce"},
        {"training.epochs": 5},
        {"training.batch_size": 50},
        {"training.precision": "bf16"},
        {"training.precision": "tf32"},
        {"seeds": [1]},
        {"label_noise.rate": 0.2},
        {"label_noise.seed": 1},
        {"label_noise.kind": "symmetric-all"},
        {"label_noise.kind": "pair-flip"},
        {"dataset.split_seed": 1},
        {"dataset.augment": {"flip": True}},
        {"dataset.augment": {"crop": 1}},
        {"dataset.augment": {"resized_crop": 0.1}},
        {"dataset.test.fraction": 0.3},
        {"dataset.validation.fraction": 0.1},
        {"dataset.validation.labels": "clean"},
        {"dataset.validation": "test"},
        {"dataset.normalize": {"mean": [0.5], "std": [0.5]}},
        {"student.width": 5},
        {"student.depth": 1},
        {"student.pool": 1},
        {"student": {"arch": "resnet18"}},
        {"dataset": {"name": "cifar10"}},
    ],
    ids=str,
)
def test_what_changes_a_levels_numbers_changes_every_key(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    before, after = keys(tmp_path, {}), keys(tmp_path, changes)
    assert all(one != other for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"pruning.fraction": 0.3},
        {"pruning.retrain": "rewind"},
        {"pruning.retrain": "reinit"},
        {"pruning.retrain": {"mode": "continue", "lr_scale": 0.1}},
        {"pruning.retrain": {"mode": "rewind", "epoch": 1}},
        {"pruning.retrain": {"mode": "rewind", "iteration": 1}},
        {"pruning.criterion": "random"},
        {"pruning.criterion": "gradient"},
        {"pruning.criterion": "snip"},
        {"pruning.criterion": "synflow"},
        {"pruning.scope": "layer"},
        {"pruning.ignore": ["classifier"]},
        {"pruning": {"sparsities": [0.2, 0.4, 0.6]}},
        {"pruning": "none"},
    ],
    ids=str,
)
def test_pruning_and_retraining_count_from_level_1_on(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    before, after = keys(tmp_path, {}), keys(tmp_path, changes)
    assert before[0] == after[0]
    assert before[1] != after[1]
    assert before[2] != after[2]


@pytest.mark.parametrize(
    ("pruning", "same"),
    [
        ({}, {"scope": "global", "criterion": "magnitude", "retrain": {"mode": "continue"}}),
        ({}, {"retrain": {"mode": "continue", "lr_scale": 1}}),
        ({"retrain": "rewind"}, {"retrain": {"mode": "rewind", "epoch": 0}}),
        ({"retrain": "rewind"}, {"retrain": {"mode": "rewind", "iteration": 0}}),
        # 862 images are nine batches of 100.
        (
            {"retrain": {"mode": "rewind", "epoch": 2}},
            {"retrain": {"mode": "rewind", "iteration": 18}},
        ),
        ({"criterion": "gradient"}, {"criterion": "gradient", "sample": 500}),
        ({"criterion": "snip"}, {"criterion": "snip", "sample": 500}),
        ({"criterion": "synflow"}, {"criterion": "synflow", "iterations": 1}),
        ({"criterion": "none"}, {"criterion": "none", "scope": "layer"}),
        ({"criterion": "none"}, {"criterion": "none", "ignore": ["last"]}),
        ({"ignore": ["first", "last"]}, {"ignore": ["classifier", "features.0", "first"]}),
    ],
    ids=str,
)
def test_pruning_said_in_other_words_is_the_same(
    tmp_path: Path, pruning: dict[str, Any], same: dict[str, Any]
) -> None:
    assert keys(tmp_path, {"pruning": {"levels": 3, **pruning}}) == keys(
        tmp_path, {"pruning": {"levels": 3, **same}}
    )


@pytest.mark.parametrize(
    ("training", "changes"),
    [
        ({"schedule": {"warmup": 2}}, {"schedule.warmup": 1}),
        ({"schedule": {"kind": "cosine"}}, {"schedule.min_lr_factor": 0.1}),
        ({"schedule": {"kind": "constant", "warmup": 1}}, {"schedule.warmup": 2}),
        ({"optimizer": {"kind": "adamw", "lr": 0.1}}, {"optimizer.betas": [0.9, 0.99]}),
        ({"optimizer": {"kind": "adamw", "lr": 0.1}}, {"optimizer.eps": 1e-7}),
        ({"clip_norm": 1}, {"clip_norm": 2}),
        ({"label_smoothing": 0.1}, {"label_smoothing": 0.2}),
        ({"loss": {"kind": "gce"}}, {"loss.q": 0.5}),
        ({"loss": {"kind": "sce"}}, {"loss.alpha": 0.2}),
        ({"loss": {"kind": "sce"}}, {"loss.beta": 0.5}),
    ],
    ids=str,
)
def test_every_value_of_an_option_of_training_counts(
    tmp_path: Path, training: dict[str, Any], changes: dict[str, Any]
) -> None:
    before = {f"training.{key}": value for key, value in training.items()}
    after = {**before, **{f"training.{key}": value for key, value in changes.items()}}
    pairs = zip(keys(tmp_path, before), keys(tmp_path, after), strict=True)
    assert all(one != other for one, other in pairs)


def test_a_kinds_defaults_written_out_change_no_key(tmp_path: Path) -> None:
    short = {"optimizer": {"kind": "adamw", "lr": 0.1}, "schedule": {"kind": "cosine"}}
    long = {
        "optimizer": {**short["optimizer"], "betas": [0.9, 0.999], "eps": 1e-8},
        "schedule": {"kind": "cosine", "warmup": 0, "min_lr_factor": 0},
    }
    one, other = (
        keys(tmp_path, {f"training.{key}": value for key, value in said.items()})
        for said in (short, long)
    )
    assert one == other


@pytest.mark.parametrize(
    ("criterion", "option"),
    [("gradient", "sample"), ("snip", "sample"), ("synflow", "iterations")],
)
def test_a_criterions_option_counts(criterion: str, option: str, tmp_path: Path) -> None:
    one, two = (
        keys(tmp_path, {"pruning": {"criterion": criterion, option: value, "levels": 3}})
        for value in (100, 200)
    )
    assert one[0] == two[0]
    assert one[1] != two[1]


def test_of_a_list_of_sparsities_a_level_hashes_its_own_alone(tmp_path: Path) -> None:
    short, long = (
        only_trajectory(tmp_path, {"pruning": {"sparsities": sparsities}})
        for sparsities in ([0.5, 0.9], [0.5, 0.9, 0.95])
    )
    assert short.key != long.key
    for level in (0, 1, 2):
        parent = PARENT if level else None
        identities = [t.level_identity(level, parent, None) for t in (short, long)]
        assert identities[0] == identities[1]
    level_2 = short.level_identity(2, PARENT, None)
    assert level_2.pruning is not None
    assert (level_2.pruning.sparsity, level_2.pruning.fraction) == (0.9, None)


def test_the_state_to_rewind_to_is_work_of_its_own_whatever_is_pruned(tmp_path: Path) -> None:
    def state(changes: dict[str, Any]) -> LevelIdentity:
        retrain = {"mode": "rewind", "iteration": 11}
        trajectory = only_trajectory(tmp_path, {"pruning.retrain": retrain, **changes})
        found = trajectory.rewind_checkpoint(None)
        assert found is not None
        assert found == trajectory.level_identity(0, None, None).model_copy(
            update={"iterations": 11}
        )
        return found

    plain = key_of(state({}))
    for changes in ({"pruning.fraction": 0.5}, {"pruning.criterion": "random"}):
        assert key_of(state(changes)) == plain
    for changes in (
        {"pruning.retrain": {"mode": "rewind", "iteration": 11}, "seeds": [1]},
        {"training.epochs": 5},
    ):
        assert key_of(state(changes)) != plain
    for retrain in ("continue", "rewind", "reinit", {"mode": "continue", "lr_scale": 0.1}):
        assert (
            only_trajectory(tmp_path, {"pruning.retrain": retrain}).rewind_checkpoint(None) is None
        )


def test_without_pruning_its_fraction_does_not_count(tmp_path: Path) -> None:
    one = keys(tmp_path, {"pruning": {"criterion": "none", "fraction": 0.2}})
    assert keys(tmp_path, {"pruning": {"criterion": "none", "fraction": 0.5}}) == one


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


def test_a_level_hashes_its_number_and_its_parent(tmp_path: Path) -> None:
    trajectory = only_trajectory(tmp_path)
    found = {
        key_of(trajectory.level_identity(level, parent, None))
        for level, parent in ((1, PARENT), (2, PARENT), (1, 64 * "c"))
    }
    assert len(found) == 3


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


def student_of(folder: Path, changes: dict[str, Any]) -> Trajectory:
    plan = planned(folder, {"recipes": ["kd-dense-teacher"], **changes})
    return plan.trajectories[plan.rows[0].students[0]]


def test_a_distilled_level_hashes_its_teacher_and_whether_a_table_is_used(tmp_path: Path) -> None:
    with_table = student_of(tmp_path, {"teacher.table": "always"})
    without = student_of(tmp_path, {"teacher.table": "never"})
    found = {
        key_of(trajectory.level_identity(0, None, distillation))
        for trajectory, distillation in (
            (with_table, None),
            (with_table, with_table.distillation(TEACHER)),
            (with_table, with_table.distillation(TeacherIdentity(level=64 * "c"))),
            (without, without.distillation(TEACHER)),
        )
    }
    assert len(found) == 4
    assert with_table.key != without.key


@pytest.mark.parametrize(
    "distill",
    [
        {"alpha": 0.5},
        {"temperature": 4},
        {"kind": "mse"},
        {"kind": "dkd"},
        {"kind": "dkd", "target_weight": 2},
        {"kind": "dkd", "nontarget_weight": 2},
    ],
    ids=str,
)
def test_a_distilled_level_hashes_the_weights_of_its_loss(
    tmp_path: Path, distill: dict[str, Any]
) -> None:
    def level_key(student: Trajectory) -> str:
        return key_of(student.level_identity(0, None, student.distillation(TEACHER)))

    folder = tmp_path / "other"
    write_recipe(folder, "mine", distill={"teacher": "dense", **distill})
    plain, changed = student_of(tmp_path, {}), student_of(folder, {"recipes": ["mine"]})
    assert plain.key != changed.key
    assert level_key(plain) != level_key(changed)


def test_how_a_teachers_level_was_chosen_is_in_no_levels_key(tmp_path: Path) -> None:
    students = []
    for rule in ("best", {"sparsest_within": 0}, {"sparsest_within": 0.01}, {"level": 3}):
        write_recipe(tmp_path, "mine", distill={"teacher": rule})
        students.append(student_of(tmp_path, {"recipes": ["mine"]}))
    assert len({student.key for student in students}) == 4
    levels = {
        key_of(student.level_identity(1, PARENT, student.distillation(TEACHER)))
        for student in students
    }
    assert len(levels) == 1


def test_a_table_hashes_the_views_that_it_holds(tmp_path: Path) -> None:
    tables = {
        key_of(student_of(tmp_path, changes).table_identity(TEACHER))
        for changes in (
            {},
            {"dataset.augment": {"flip": True}},
            {"dataset.split_seed": 1},
            {"training.precision": "bf16"},
        )
    }
    assert len(tables) == 4


def test_a_table_serves_all_students_of_one_data_set(tmp_path: Path) -> None:
    tables = {
        key_of(student_of(tmp_path, changes).table_identity(TEACHER))
        for changes in (
            {},
            {"student.width": 5},
            {"training.epochs": 5},
            {"label_noise.rate": 0.2},
            {"pruning.retrain": "rewind"},
            {"seeds": [1]},
        )
    }
    assert len(tables) == 1


def identities(folder: Path) -> list[Model]:
    student = student_of(folder, {})
    distillation = student.distillation(TEACHER)
    write_recipe(folder, "close", distill={"teacher": {"sparsest_within": 0.01}})
    return [
        student_of(folder, {"recipes": ["close"]}).identity,
        student.identity,
        student.level_identity(0, None, None),
        student.level_identity(2, PARENT, distillation),
        student.table_identity(TEACHER),
        student.table_identity(TeacherIdentity(weights=64 * "d", network=student.setup.network)),
    ]


def test_an_identity_is_read_back_from_its_json_as_an_equal_model(tmp_path: Path) -> None:
    for identity in identities(tmp_path):
        text = canonical_json(identity)
        read_back = type(identity).model_validate_json(text)
        assert read_back == identity
        assert canonical_json(read_back) == text
        assert key_of(read_back) == key_of(identity)


def test_keys_are_64_hex_digits_and_differ_between_kinds_and_levels(tmp_path: Path) -> None:
    found = [key_of(identity) for identity in identities(tmp_path)]
    assert all(re.fullmatch(r"[0-9a-f]{64}", key) for key in found)
    assert len(set(found)) == len(found)


def test_an_integer_where_a_float_is_meant_is_the_same_number(tmp_path: Path) -> None:
    assert keys(tmp_path, {"training.optimizer.lr": 1}) == keys(
        tmp_path, {"training.optimizer.lr": 1.0}
    )


@pytest.mark.parametrize("version", ["schema_version", "numerics_version"])
def test_what_another_version_made_has_another_key(tmp_path: Path, version: str) -> None:
    for identity in identities(tmp_path):
        assert key_of(identity.model_copy(update={version: 1})) != key_of(identity)


@pytest.mark.parametrize(
    ("name", "level", "trajectory"),
    [
        (
            "table1-as-published",
            "cc1985d91385fd48097f33261f2e4b666e5f2331c65320658199b10e6a15bfdd",
            "a121ed669d339dc5ad32e60b521a9af7d1c54c2d277aeebad65d83e5b8122e48",
        ),
        (
            "table1",
            "ef982aef0db0b948580f2c48499c12c10b3321dbf8768dbe9ec8cc84d168bdeb",
            "e751bb830d9eb9de359887581a9aa1a8b90dcc372cb3d229d05a401f54c515a3",
        ),
    ],
)
def test_two_keys_of_table_1_are_pinned(name: str, level: str, trajectory: str) -> None:
    """Level 0 of the vanilla student of seed 0, and the trajectory taught by a pruned teacher.

    Whatever changes the first orphans everybody's results. It needs SCHEMA_VERSION raised (the
    fields of an identity changed) or NUMERICS_VERSION (the same identity gives other numbers);
    then, and only then, it may be replaced. The second is no key of the store's: it changes with
    what a plan must tell apart, and then jobs in a queue and runs of a tracker begin anew.
    """
    plan = make_plan([resolve(ROOT / "specs" / f"{name}.yaml")])
    students = {row.row.recipe.recipe: row.students[0] for row in plan.rows}
    vanilla = plan.trajectories[students["vanilla"]]
    assert key_of(level_0(vanilla)) == level
    assert students["kd-pruned-teacher"] == trajectory


def test_all_options_of_training_and_pruning_are_pinned_too(tmp_path: Path) -> None:
    """They stand in what is hashed as a spec gives them, and as nothing where it does not."""
    optimizer = {"kind": "adamw", "lr": 0.01, "betas": [0.9, 0.99], "eps": 1e-6}
    changes = {
        "training.optimizer": optimizer,
        "training.schedule": {"kind": "cosine", "warmup": 1, "min_lr_factor": 0.1},
        "training.clip_norm": 1,
        "training.label_smoothing": 0.1,
        "pruning.ignore": ["first"],
    }
    training = json.loads(canonical_json(level_1(only_trajectory(tmp_path, changes))))["training"]
    assert training == {
        "epochs": 4,
        "batch_size": 100,
        "optimizer": {**optimizer, "weight_decay": 1e-4},
        "schedule": changes["training.schedule"],
        "clip_norm": 1,
        "label_smoothing": 0.1,
        "precision": "fp32",
    }
    assert keys(tmp_path, changes)[:2] == (
        "f1cce7018b91c7785c048536b5325e59c76d4d4a301c1de31a54359bd3c1f9b8",
        "f68d6ea638e67e661932e9dc866e670d75ac1fd6c3ea4c0e437a4f39b64221ae",
    )
