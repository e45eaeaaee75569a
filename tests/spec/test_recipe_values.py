"""Which values a recipe may hold, and what the specs and recipes that come along are."""

from pathlib import Path
from typing import Any

import pytest
from builders import ROOT, only_problem, write

from dsdctl.plan.resolve import resolve
from dsdctl.spec.experiment import Experiment, Recipe
from dsdctl.spec.matrix import variants
from dsdctl.spec.problems import validate
from dsdctl.spec.yaml import read_document

SPECS = sorted((ROOT / "specs").glob("*.yaml"))
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("file", SPECS, ids=lambda file: file.stem)
def test_every_spec_that_comes_along_resolves(file: Path) -> None:
    spec = resolve(file)
    assert len(spec.rows) == len(spec.experiment.recipes) * len(spec.variants)


@pytest.mark.parametrize("file", SPECS, ids=lambda file: file.stem)
def test_every_spec_that_comes_along_survives_json(file: Path) -> None:
    for _, cell in variants(read_document(file)):
        experiment = validate(Experiment, cell)
        assert Experiment.model_validate_json(experiment.model_dump_json()) == experiment


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_recipe_that_comes_along_survives_json(file: Path) -> None:
    recipe = validate(Recipe, read_document(file))
    assert recipe.recipe == file.stem
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("name", "early_stop", "distills", "pruned_teacher", "select"),
    [
        ("vanilla", False, False, False, "best"),
        ("early-stop", True, False, False, "stopped"),
        ("entropy-early-stop", True, False, False, "best"),
        ("l2", False, False, False, "best"),
        ("no-pruning", False, False, False, "best"),
        ("kd-dense-full", False, True, False, "best"),
        ("kd-pruned-full", False, True, True, "best"),
        ("kd-dense-teacher", True, True, False, "best"),
        ("kd-pruned-teacher", True, True, True, "best"),
    ],
)
def test_the_packaged_recipes_are_what_they_are_called(
    name: str, early_stop: bool, distills: bool, pruned_teacher: bool, select: str
) -> None:
    recipe = validate(Recipe, read_document(ROOT / "recipes" / f"{name}.yaml"))
    assert (recipe.early_stop, recipe.distill is not None) == (early_stop, distills)
    assert (recipe.pruned_teacher, recipe.select) == (pruned_teacher, select)


@pytest.mark.parametrize(
    ("teacher", "pruned"),
    [
        ("dense", False),
        ("best", True),
        ({"level": 0}, False),
        ({"level": 3}, True),
        ({"sparsest_within": 0}, True),
        ({"weights": "net.safetensors"}, False),
    ],
)
def test_a_teacher_may_be_pruned_where_its_rule_allows_a_later_level(
    tmp_path: Path, teacher: object, pruned: bool
) -> None:
    data = {"recipe": "mine", "title": "mine", "distill": {"teacher": teacher}}
    recipe = validate(Recipe, read_document(write(tmp_path / "mine.yaml", data)))
    assert recipe.pruned_teacher is pruned


TEACHES = "(allowed: dense, best, {sparsest_within: FRACTION}, {weights: FILE}, {level: N})"


@pytest.mark.parametrize(
    ("distill", "reason"),
    [
        (
            {"teacher": "densest"},
            f'distill.teacher: is "densest"; did you mean dense? {TEACHES}',
        ),
        ({"teacher": {"level": -1}}, "distill.teacher.level: is -1 (allowed: >= 0)"),
        (
            {"teacher": {"sparsest_within": 1}},
            "distill.teacher.sparsest_within: is 1 (allowed: < 1)",
        ),
        (
            {"teacher": {"sparsest": 0.1}},
            "distill.teacher.sparsest: unknown key; did you mean sparsest_within? "
            "(allowed: sparsest_within, level, weights)",
        ),
        ({"teacher": {"weights": ""}}, "distill.teacher.weights: "),
        ({"teacher": {}}, f"distill.teacher: is {{}} {TEACHES}"),
        ({"teacher": {"level": None}}, "distill.teacher.level: is null (allowed: an integer)"),
        (
            {"teacher": {"weights": "net.st", "level": 1}},
            "distill.teacher.level: unknown key (allowed: weights)",
        ),
        ({}, "distill.teacher: is missing"),
        ({"teacher": "best", "alpha": 1.1}, "distill.alpha: is 1.1 (allowed: <= 1)"),
        ({"teacher": "best", "temperature": 0}, "distill.temperature: is 0 (allowed: > 0)"),
    ],
)
def test_a_recipe_with_a_wrong_distillation_is_refused(
    tmp_path: Path, distill: dict[str, Any], reason: str
) -> None:
    data = {"recipe": "mine", "title": "mine", "distill": distill}
    document = read_document(write(tmp_path / "mine.yaml", data))
    assert reason in only_problem(lambda: validate(Recipe, document))


SELECTS = "(allowed: best, stopped, {sparsest_within: FRACTION})"


@pytest.mark.parametrize(
    ("select", "reason"),
    [
        ("bets", f'select: is "bets"; did you mean best? {SELECTS}'),
        (
            "sparsest_within",
            'select: is "sparsest_within"; did you mean {sparsest_within: FRACTION}? ' + SELECTS,
        ),
        (
            {"sparsest": 0.1},
            "select.sparsest: unknown key; did you mean sparsest_within? "
            "(allowed: sparsest_within)",
        ),
        ({}, f"select: is {{}} {SELECTS}"),
        (0.01, f"select: is 0.01 {SELECTS}"),
        (["best"], f'select: is ["best"]; did you mean best? {SELECTS}'),
        ({"sparsest_within": 1.5}, "select.sparsest_within: is 1.5 (allowed: < 1)"),
        ({"sparsest_within": 1}, "select.sparsest_within: is 1 (allowed: < 1)"),
        ({"sparsest_within": -0.01}, "select.sparsest_within: is -0.01 (allowed: >= 0)"),
        ({"sparsest_within": "0.01"}, 'select.sparsest_within: is "0.01" (allowed: a number)'),
        (
            {"sparsest_within": 0.01, "best": True},
            "select.best: unknown key (allowed: sparsest_within)",
        ),
    ],
    ids=str,
)
def test_a_recipe_with_a_wrong_selection_is_refused_in_one_line(
    tmp_path: Path, select: object, reason: str
) -> None:
    data = {"recipe": "mine", "title": "mine", "select": select}
    file = write(tmp_path / "mine.yaml", data)
    problem = only_problem(lambda: validate(Recipe, read_document(file)))
    place, _, shown = problem.partition(": ")
    assert shown == reason
    assert place.startswith(f"{file}:")


@pytest.mark.parametrize("select", ["best", "stopped", {"sparsest_within": 0.01}], ids=str)
def test_a_recipe_may_select_by_word_or_by_how_close_to_the_best(
    tmp_path: Path, select: object
) -> None:
    data = {"recipe": "mine", "title": "mine", "select": select}
    recipe = validate(Recipe, read_document(write(tmp_path / "mine.yaml", data)))
    assert recipe.model_dump(mode="json")["select"] == select
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
