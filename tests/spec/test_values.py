"""Which values a spec may hold: strict types, ranges, and what goes together."""

from pathlib import Path
from typing import Any

import pytest
from builders import problems, resolved, spec_data, write
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdctl.spec.experiment import Experiment
from dsdctl.spec.problems import validate
from dsdctl.spec.pruning import Pruning
from dsdctl.spec.yaml import read_document


def spec_problems(folder: Path, changes: dict[str, Any]) -> tuple[str, ...]:
    return problems(lambda: resolved(folder, changes))


@pytest.mark.parametrize(
    ("path", "value", "allowed"),
    [
        ("training.epochs", "160", "an integer"),
        ("training.epochs", 1.5, "an integer"),
        ("training.epochs", True, "an integer"),
        ("training.epochs", None, "an integer"),
        ("training.epochs", 0, ">= 1"),
        ("training.batch_size", 128.0, "an integer"),
        ("training.batch_size", 1, ">= 2"),
        ("training.optimizer", 0.1, "a mapping"),
        ("training.optimizer.lr", "0.1", "a number"),
        ("training.optimizer.lr", True, "a number"),
        ("training.optimizer.lr", 0, "> 0"),
        ("training.optimizer.momentum", 1, "< 1"),
        ("training.optimizer.weight_decay", -1e-4, ">= 0"),
        ("training.schedule.gamma", 0, "> 0"),
        ("training.schedule.milestones", 80, "array"),
        ("training.precision", "fp16", "fp32, tf32, bf16"),
        ("label_noise.rate", 1.01, "<= 1"),
        ("label_noise.rate", -0.01, ">= 0"),
        (
            "label_noise.kind",
            "assymetric",
            "symmetric, symmetric-all, asymmetric, pair-flip, human",
        ),
        ("label_noise.labels", "worst", "aggre, worse, random1"),
        ("dataset.name", "cifar", "cifar10, cifar100, cifar10n, cifar100n, flowers102"),
        ("dataset.test_folder", "train", "val, test"),
        ("dataset.size", {"resize": 0, "crop": 1}, ">= 1"),
        ("dataset.size", {"resize": 2049, "crop": 1}, "<= 2048"),
        ("dataset.augment.resized_crop", 0, "> 0"),
        ("dataset.augment.resized_crop", 1.5, "< 1"),
        ("label_noise.seed", 2**31, "<= 2147483647"),
        ("dataset.test.fraction", 0, "> 0"),
        ("dataset.test.fraction", 1, "< 1"),
        ("dataset.validation.fraction", 1, "< 1"),
        ("dataset.validation.labels", "dirty", "noisy, clean"),
        ("student.depth", 9, "<= 8"),
        ("student.width", 0, ">= 1"),
        ("student.pool", 0, ">= 1"),
        ("student.arch", "vgg", "vgg-like, vgg16, resnet18"),
        ("teacher.level", -1, ">= 0"),
        ("teacher.table", "yes", "auto, always, never"),
        ("pruning.fraction", 1, "< 1"),
        ("pruning.fraction", 0.0, "> 0"),
        ("pruning.levels", 501, "<= 500"),
        ("pruning.criterion", "taylor", "magnitude, random, gradient, snip, synflow, none"),
        ("pruning.scope", "local", "global, layer"),
        ("pruning.sparsities", 0.5, "array"),
        ("pruning.sample", 0, ">= 1"),
        ("pruning.retrain", "scratch", "continue, rewind, reinit"),
        ("pruning.retrain", None, "continue, rewind, reinit"),
        ("pruning.retrain.mode", "scratch", "continue, rewind, reinit"),
        ("stop.patience", 0, ">= 1"),
        ("stop.tolerance", 1.0, "< 1"),
        ("stop.entropy_drop", 0, "> 0"),
        ("tracking.wandb.mode", "on", "auto, online, offline, disabled"),
        ("title", "two\nlines", "one line of text without control characters"),
        ("title", "a terminal's \x9b31m", "one line of text without control characters"),
        ("title", "turned \u202e round", "one line of text without control characters"),
        ("title", "two\u2028lines", "one line of text without control characters"),
        ("experiment", "../up", "letters, digits"),
        ("experiment", "a" * 65, "letters, digits"),
    ],
)
def test_a_value_of_the_wrong_type_or_out_of_range_is_refused(
    tmp_path: Path, path: str, value: object, allowed: str
) -> None:
    about = [p for p in spec_problems(tmp_path, {path: value}) if f": {path}" in p]
    assert len(about) >= 1
    assert any("(allowed: " in p and allowed in p.split("(allowed: ")[1] for p in about)


@pytest.mark.parametrize("name", ["../vanilla", "/etc/passwd", "", ".hidden", "a b", "-a"])
def test_a_recipe_name_cannot_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    (problem,) = spec_problems(tmp_path, {"recipes": ["vanilla", name]})
    assert "recipes[1]: is " in problem


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pruning": {"fraction": 1e-17, "until_sparsity": 0.9}}, "(allowed: at most 500)"),
        ({"pruning": {"fraction": 1e-320, "until_sparsity": 0.9}}, "(allowed: at most 500)"),
        ({"pruning": {"fraction": 1e-3, "until_sparsity": 0.9}}, "takes 2302 levels"),
        ({"dataset.root": "~nosuchuser/x"}, "no such user"),
        ({"seeds": []}, "seeds: is empty"),
        (
            {"teacher": {"arch": "vgg-like", "depth": 1, "training": {"epochz": 1}}},
            "teacher.training.epochz: unknown key; did you mean epochs?",
        ),
        ({"training.schedule.milestones": [3, 2]}, "must increase, but is [3, 2]"),
        ({"training.schedule.milestones": [2, 2]}, "must increase, but is [2, 2]"),
        ({"training.schedule.milestones": [4]}, "milestone 4 is not within the 4 epochs"),
        ({"pruning.until_sparsity": 0.5}, "give `levels` or `until_sparsity`, not both"),
        ({"pruning": {"criterion": "none", "until_sparsity": 0.5}}, "give `levels`"),
        ({"pruning": {"sparsities": []}}, "pruning.sparsities: is empty"),
        ({"pruning": {"sparsities": [0.5, 1.0]}}, "pruning.sparsities[1]: is 1.0 (allowed: < 1)"),
        ({"pruning": {"sparsities": ["0.5"]}}, 'sparsities[0]: is "0.5" (allowed: a number)'),
        ({"pruning": {"sparsities": [0.9, 0.5]}}, "must increase, but 0.5 follows 0.9"),
        ({"pruning": {"sparsities": [0.5, 0.5]}}, "must increase, but 0.5 follows 0.5"),
        (
            {"pruning": {"sparsities": [0.5], "fraction": 0.2}},
            "give `sparsities` or `fraction`, not both; null removes an inherited value",
        ),
        ({"pruning": {"sparsities": [0.5], "levels": 1}}, "give `sparsities` or `levels`"),
        (
            {"pruning": {"sparsities": [0.5], "until_sparsity": 0.5}},
            "give `sparsities` or `until_sparsity`",
        ),
        ({"pruning": {"criterion": "none", "sparsities": [0.5]}}, "give `levels`"),
        (
            {"pruning.sample": 5},
            "`sample` goes with `criterion: gradient or snip`, not with magnitude",
        ),
        (
            {"pruning": {"criterion": "snip", "iterations": 5}},
            "`iterations` goes with `criterion: synflow`, not with snip",
        ),
        ({"pruning.retrain": {"lr_scale": 0.1}}, "pruning.retrain.mode: is missing"),
        (
            {"pruning.retrain": {"mode": "rewind", "lr_scale": 0.1}},
            "pruning.retrain: `lr_scale` goes with `mode: continue`, not with rewind",
        ),
        (
            {"pruning.retrain": {"mode": "reinit", "iteration": 1}},
            "`iteration` goes with `mode: rewind`, not with reinit",
        ),
        (
            {"pruning.retrain": {"mode": "rewind", "epoch": 1, "iteration": 1}},
            "give `epoch` or `iteration`, not both",
        ),
        (
            {"pruning.retrain": {"mode": "continue", "lr_scale": 1.5}},
            "pruning.retrain.lr_scale: is 1.5 (allowed: <= 1)",
        ),
        ({"student": {"arch": "mlp", "hidden": []}}, "student.hidden: is empty"),
        (
            {"student": {"arch": "mlp", "depth": 2}},
            "student.depth: unknown key (allowed: arch, hidden)",
        ),
        (
            {"student": {"arch": "vit", "dim": 10}},
            "student: has 8 heads, which do not divide its dim of 10",
        ),
        ({"dataset": {"name": "digits"}}, "digits has no test split"),
        ({"dataset.file": "a.npz"}, "`file` goes with `name: npz`"),
        ({"dataset": {"name": "npz"}}, "`name: npz` needs a `file`"),
        ({"dataset": {"name": "cifar10", "test": {"fraction": 0.1}}}, "leave `test` out"),
        ({"dataset": {"name": "flowers102", "test": {"fraction": 0.1}}}, "leave `test` out"),
        ({"dataset": {"name": "cifar10", "size": {"resize": 9, "crop": 9}}}, "leave `size` out"),
        ({"dataset.test_folder": "val"}, "`test_folder` goes with `name: image-folder`"),
        ({"dataset.augment": {"crop": 2, "resized_crop": 0.1}}, "`crop` or `resized_crop`, not"),
        (
            {"dataset": {"name": "flowers102", "size": {"resize": 100, "crop": 101}}},
            "dataset.size: cannot cut 101 pixels out of 100",
        ),
        (
            {"dataset": {"name": "imagenet", "size": {"resize": 9, "crop": 8, "test_crop": 9}}},
            "cannot cut 9 pixels out of 8",
        ),
        ({"label_noise": {}}, "label_noise: `rate` is missing (symmetric noise is drawn at a"),
        ({"label_noise": {"kind": "human", "rate": 0.1}}, "leave `rate` and `seed` out"),
        ({"label_noise": {"kind": "human", "seed": 1}}, "leave `rate` and `seed` out"),
        ({"label_noise.labels": "worse"}, "`labels` goes with `kind: human`"),
        ({"dataset.normalize": {"mean": [0.5], "std": [0.5, 0.5]}}, "1 means but 2 deviations"),
        ({"seeds": [0, 1, 0]}, "seeds: 0 is given twice"),
        ({"recipes": ["vanilla", "vanilla"]}, "recipes: vanilla is given twice"),
    ],
)
def test_values_that_do_not_go_together_are_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    (problem,) = spec_problems(tmp_path, changes)
    assert reason in problem


def test_lists_must_not_be_empty(tmp_path: Path) -> None:
    assert any(": seeds: " in p for p in spec_problems(tmp_path, {"seeds": []}))
    assert any(": recipes: " in p for p in spec_problems(tmp_path, {"recipes": []}))


def test_pruning_none_is_short_for_its_criterion(tmp_path: Path) -> None:
    word = write(tmp_path / "word.yaml", spec_data({"pruning": "none"}))
    long = write(tmp_path / "long.yaml", spec_data({"pruning": {"criterion": "none"}}))
    experiment = validate(Experiment, read_document(word))
    assert experiment.pruning == validate(Experiment, read_document(long)).pruning
    assert (experiment.pruning.criterion, experiment.pruning.rounds) == ("none", 29)


def test_a_word_is_short_for_the_mode_of_retraining() -> None:
    for mode in ("continue", "rewind", "reinit"):
        long = Pruning.model_validate({"retrain": {"mode": mode}})
        assert Pruning.model_validate({"retrain": mode}).retraining == long.retraining


def test_a_list_of_sparsities_says_how_many_levels_there_are(tmp_path: Path) -> None:
    changes = {"pruning": {"sparsities": [0.5, 0.9, 0.99], "retrain": {"mode": "reinit"}}}
    document = read_document(write(tmp_path / "spec.yaml", spec_data(changes)))
    experiment = validate(Experiment, document)
    assert experiment.pruning.rounds == 3
    assert [experiment.pruning.share(level) for level in (1, 2, 3)] == [
        (None, 0.5),
        (None, 0.9),
        (None, 0.99),
    ]
    assert Experiment.model_validate_json(experiment.model_dump_json()) == experiment


def test_without_levels_thirty_trainings_are_run() -> None:
    assert Pruning().rounds == 29
    assert Pruning(levels=0).rounds == 0


@pytest.mark.parametrize(
    ("sparsity", "rounds"), [(0.1, 1), (0.2, 1), (0.21, 2), (0.36, 2), (0.9926, 22), (0.9962, 25)]
)
def test_until_sparsity_ends_at_the_first_level_that_reaches_it(
    sparsity: float, rounds: int
) -> None:
    assert Pruning(until_sparsity=sparsity).rounds == rounds


@settings(deadline=None, max_examples=60)
@given(sparsity=st.floats(0.01, 0.999), fraction=st.floats(0.05, 0.9))
def test_until_sparsity_is_reached_by_its_last_round_and_not_before(
    sparsity: float, fraction: float
) -> None:
    rounds = Pruning(until_sparsity=sparsity, fraction=fraction).rounds
    assert 1 - (1 - fraction) ** rounds >= sparsity - 1e-9
    assert 1 - (1 - fraction) ** (rounds - 1) < sparsity + 1e-9
