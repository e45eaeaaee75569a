"""Keys hash everything that changes a level's numbers and nothing else."""

from pathlib import Path
from typing import Any

import pytest
from builders import only_trajectory
from level_keys import PARENT, keys

from dsdctl.keys import LevelIdentity, key_of


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


def test_a_level_hashes_its_number_and_its_parent(tmp_path: Path) -> None:
    trajectory = only_trajectory(tmp_path)
    found = {
        key_of(trajectory.level_identity(level, parent, None))
        for level, parent in ((1, PARENT), (2, PARENT), (1, 64 * "c"))
    }
    assert len(found) == 3


def test_an_integer_where_a_float_is_meant_is_the_same_number(tmp_path: Path) -> None:
    assert keys(tmp_path, {"training.optimizer.lr": 1}) == keys(
        tmp_path, {"training.optimizer.lr": 1.0}
    )
