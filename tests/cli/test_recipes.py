"""`dsdctl recipes`: which there are, here too, and what one of them sets."""

from pathlib import Path

import yaml
from builders import write, write_recipe
from tiny import ROOT, Dsdctl

from dsdctl.spec.experiment import Recipe
from dsdctl.spec.problems import validate
from dsdctl.spec.yaml import parse_document, read_document

PACKAGED = sorted(file.stem for file in (ROOT / "recipes").glob("*.yaml"))


def test_packaged_recipes_are_listed_and_local_ones_with_their_files(
    tmp_path: Path, dsdctl: Dsdctl
) -> None:
    write_recipe(tmp_path / "recipes", "mine")
    write_recipe(tmp_path / "recipes", "vanilla")
    write(tmp_path / "spec.yaml", (ROOT / "specs" / "smoke.yaml").read_text())
    lines = dsdctl("recipes").stdout.splitlines()
    assert [line.split()[0] for line in lines[:-2]] == [n for n in PACKAGED if n != "vanilla"]
    assert lines[-2:] == [
        f"{'mine':20} mine (recipes/mine.yaml)",
        f"{'vanilla':20} vanilla (recipes/vanilla.yaml)",  # it is the one that a spec here reads
    ]


def test_a_local_recipe_that_does_not_hold_is_said_and_the_others_are_listed(
    tmp_path: Path, dsdctl: Dsdctl
) -> None:
    write_recipe(tmp_path, "mine", stop={"patiense": 1})
    done = dsdctl("recipes")
    assert done.returncode == 0
    assert "mine.yaml" in done.stderr and "patience" in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == PACKAGED


def test_a_printed_recipe_is_the_recipe_with_its_settings(dsdctl: Dsdctl) -> None:
    for name in PACKAGED:
        printed = dsdctl("recipes", name).stdout
        shipped = read_document(ROOT / "recipes" / f"{name}.yaml")
        assert parse_document(printed, Path("printed.yaml")).data == shipped.data
        settings = validate(Recipe, shipped)
        comments = [line[2:] for line in printed.splitlines() if line.startswith("# ")]
        if settings.stop is not None:
            assert f"stop.patience: {settings.stop.patience}" in comments
        if "select" not in shipped.data:
            assert f'select: "{settings.select}"' in comments


def test_every_setting_is_written_or_named_as_a_default(dsdctl: Dsdctl) -> None:
    printed = dsdctl("recipes", "kd-pruned-teacher").stdout
    _, defaults = printed.split("says otherwise:\n")
    found = yaml.safe_load(printed)
    for line in defaults.splitlines():
        path, value = line.removeprefix("# ").split(": ", 1)
        *outer, last = path.split(".")
        place = found
        for key in outer:
            place = place[key]
        assert last not in place
        place[last] = yaml.safe_load(value)
    recipe = read_document(ROOT / "recipes" / "kd-pruned-teacher.yaml")
    assert found == validate(Recipe, recipe).model_dump(mode="json", exclude_none=True)


def test_a_misspelt_recipe_is_refused(dsdctl: Dsdctl) -> None:
    refused = dsdctl("recipes", "vanila")
    assert refused.returncode == 2
    assert refused.stderr.startswith("no recipe vanila; did you mean vanilla? (allowed: ")
