"""A typo at any level, in a key, a word or a file's name, is answered with what is near."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import (
    line_of,
    only_problem,
    problems,
    spec_data,
    write,
    write_recipe,
)

from dsdctl.plan.resolve import resolve
from dsdctl.spec.experiment import Experiment
from dsdctl.spec.problems import EXAMPLES, validate
from dsdctl.spec.yaml import parse_document, read_document

SPEC_TYPOS = [
    ("experimnt", "experimnt", "experiment"),
    ("dataset.spilt_seed", "dataset.spilt_seed", "split_seed"),
    ("dataset.augment.filp", "dataset.augment.filp", "flip"),
    ("dataset.test.fractoin", "dataset.test.fractoin", "fraction"),
    ("dataset.validation.lables", "dataset.validation.lables", "labels"),
    ("dataset.normalize.men", "dataset.normalize.men", "mean"),
    ("label_noise.rte", "label_noise.rte", "rate"),
    ("student.dept", "student.dept", "depth"),
    ("teacher.widht", "teacher.widht", "width"),
    ("teacher.training.epoch", "training.epoch", "epochs"),
    ("teacher.training.optimizer.momentun", "training.optimizer.momentun", "momentum"),
    ("teacher.augment.corp", "augment.corp", "crop"),
    ("teacher.pruning.fracton", "pruning.fracton", "fraction"),
    ("training.precison", "training.precison", "precision"),
    ("training.optimizer.weight_decy", "training.optimizer.weight_decy", "weight_decay"),
    ("training.schedule.milestone", "training.schedule.milestone", "milestones"),
    ("pruning.retrian", "pruning.retrian", "retrain"),
    ("stop.tolerence", "stop.tolerence", "tolerance"),
    ("tracking.wand", "tracking.wand", "wandb"),
    ("tracking.wandb.projct", "tracking.wandb.projct", "project"),
    ("reference.vanilla.sparsty", "reference.vanilla.sparsty", "sparsity"),
    ("reference.vanilla.test_accuracy.meen", "reference.vanilla.test_accuracy.meen", "mean"),
]


@pytest.mark.parametrize(("written", "shown", "meant"), SPEC_TYPOS)
def test_a_typo_at_any_level_of_a_spec_is_pointed_at(
    tmp_path: Path, written: str, shown: str, meant: str
) -> None:
    data = spec_data({"recipes": ["kd-dense-teacher"], written: 1})
    file = write(tmp_path / "spec.yaml", data)
    line = line_of(file, f'"{shown.rsplit(".", 1)[-1]}"')
    about = [p for p in problems(lambda: resolve(file)) if f"{shown}: unknown key" in p]
    assert len(about) == 1
    assert about[0].startswith(f"{file}:{line}: ")
    assert f"; did you mean {meant}? (allowed: " in about[0]


RECIPE_TYPOS = [
    ("titel", "titel", "title"),
    ("distill.temprature", "distill.temprature", "temperature"),
    ("distill.teacher.levle", "distill.teacher.levle", "level"),
    ("stop.patiance", "stop.patiance", "patience"),
    ("training.epoch", "training.epoch", "epochs"),
    ("training.optimizer.momentun", "training.optimizer.momentun", "momentum"),
    ("training.schedule.gama", "training.schedule.gama", "gamma"),
    ("pruning.fracton", "pruning.fracton", "fraction"),
    ("teacher.widht", "teacher.widht", "width"),
    ("teacher.training.batchsize", "training.batchsize", "batch_size"),
]


@pytest.mark.parametrize(("written", "shown", "meant"), RECIPE_TYPOS)
def test_a_typo_at_any_level_of_a_recipe_is_pointed_at_in_the_recipe(
    tmp_path: Path, written: str, shown: str, meant: str
) -> None:
    recipe: dict[str, Any] = {"distill": {"teacher": "dense"}}
    *outer, last = written.split(".")
    place = recipe
    for key in outer:
        if not isinstance(place.get(key), dict):
            place[key] = {}
        place = place[key]
    place[last] = 1
    file = write_recipe(tmp_path, "mine", **recipe)
    spec = write(tmp_path / "spec.yaml", spec_data({"recipes": ["mine"]}))
    about = [p for p in problems(lambda: resolve(spec)) if f"{shown}: unknown key" in p]
    assert len(about) == 1
    assert about[0].startswith(f"{file}:{line_of(file, json.dumps(last))}: ")
    assert f"; did you mean {meant}? (allowed: " in about[0]


PLACES = {
    "augment": "dataset.augment",
    "betas": "training.optimizer.betas",
    "hidden": "student.hidden",
    "ignore": "pruning.ignore",
    "milestones": "training.schedule.milestones",
    "normalize": "dataset.normalize",
    "optimizer": "training.optimizer",
    "schedule": "training.schedule",
    "sparsities": "pruning.sparsities",
    "test": "dataset.test",
    "wandb": "tracking.wandb",
}
"""Where the examples of problems belong that are no keys of a whole spec."""


@pytest.mark.parametrize("key", [key for key in EXAMPLES if key != "distill"])
def test_an_example_is_given_where_a_word_stands_in_its_place_and_is_itself_right(
    key: str, tmp_path: Path
) -> None:
    path = PLACES.get(key, key)
    changes: dict[str, Any] = {
        "hidden": {"student": {"arch": "mlp"}},
        "betas": {"training.optimizer": {"kind": "adamw", "lr": 0.001}},
        "sparsities": {"pruning": {}},
    }.get(key, {})
    changes = {"training.epochs": 160, **changes}
    wrong = write(tmp_path / "wrong.yaml", spec_data({**changes, path: 7}))
    refused = problems(lambda: validate(Experiment, read_document(wrong)))
    assert any(
        f": {path}: is 7 " in line and f"such as {EXAMPLES[key]})" in line for line in refused
    )
    right = parse_document(f"it: {EXAMPLES[key]}", tmp_path / "right.yaml").data["it"]
    document = read_document(write(wrong, spec_data({**changes, path: right})))
    validate(Experiment, document)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("digits", "specs/digits.yaml"),
        ("digits.yaml", "specs/digits.yaml"),
        ("specs/digits.yml", "specs/digits.yaml"),
        ("specs/digts.yaml", "specs/digits.yaml"),
        ("mine", "mine.yml"),
        ("other", None),
    ],
)
def test_of_a_spec_that_is_not_there_the_nearest_is_named(
    typed: str, meant: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("specs/digits.yaml"), "")
    write(Path("specs/table1.yaml"), "")
    write(Path("mine.yml"), "")
    line = only_problem(lambda: resolve(Path(typed)))
    suggestion = f"; did you mean {meant}?" if meant else ""
    assert line == f"{typed}: No such file or directory{suggestion}"


def test_a_recipe_in_place_of_a_spec_is_said_to_be_one(tmp_path: Path) -> None:
    line = only_problem(lambda: resolve(tmp_path / "vanilla"))
    assert line.endswith("vanilla is a recipe, which a spec names under `recipes`")


def test_of_a_recipe_and_a_key_that_are_unknown_the_nearest_are_named(tmp_path: Path) -> None:
    write_recipe(tmp_path / "recipes", "ours-tuned")
    changes = {"recipes": ["vanila", "our-tuned", "qq"], "matrx": {}}
    file = write(tmp_path / "spec.yaml", spec_data(changes))
    refused = " ".join(problems(lambda: resolve(file)))
    assert "matrx: unknown key; did you mean matrix? (allowed: experiment, " in refused
    assert "; did you mean vanilla? (allowed: " in refused
    assert "; did you mean ours-tuned? (allowed: " in refused
    assert refused.count("did you mean") == 3
