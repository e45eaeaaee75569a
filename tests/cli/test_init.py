"""`dsdctl init`: what it writes is whole, valid and what is shipped, and nothing is overwritten."""

import json
from pathlib import Path

import jsonschema
import pytest
from builders import write
from tiny import ROOT, Dsdctl

from dsdctl.cli.init import SCHEMA_FILE, SCHEMA_LINE
from dsdctl.plan.resolve import resolve
from dsdctl.spec.templates import template_with, templates
from dsdctl.spec.yaml import read_document

TEMPLATES = templates()


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found of networks of one's own is kept in a folder of the test's."""
    monkeypatch.setenv("DSDCTL_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_written_as_it_is_shipped_and_can_be_planned(
    name: str, tmp_path: Path, dsdctl: Dsdctl
) -> None:
    done = dsdctl("init", name, "new folder")
    assert (done.returncode, done.stderr) == (0, "")
    folder, template = tmp_path / "new folder", TEMPLATES[name]
    assert files_in(folder).keys() == {*map(str, template.files), SCHEMA_FILE}
    schema = json.loads((folder / SCHEMA_FILE).read_text())
    for file, source in template.files.items():
        written, shipped = (folder / file).read_text(), source.read_text()
        assert written == (SCHEMA_LINE if file in template.specs else "") + shipped
    for spec in template.specs:
        assert resolve(folder / spec).rows or "prepare" in template.commands
        jsonschema.validate(read_document(folder / spec).data, schema)
    _, after = done.stdout.split("next:\n")
    commands = [f"  dsdctl {one} 'new folder/{template.specs[0]}'" for one in template.commands]
    assert after.splitlines() == commands
    assert (template.commands[0], *template.commands[-2:]) == ("validate", "plan", "run")
    # What runs code of one's own takes processes, and is tried below.
    for command in template.commands[: 1 if name.startswith("own-") else -1]:
        assert dsdctl(command, f"new folder/{template.specs[0]}").returncode == 0


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["own-network", "own-data"])
def test_a_template_for_ones_own_code_runs_as_it_is_written(name: str, dsdctl: Dsdctl) -> None:
    assert dsdctl("init", name).returncode == 0
    said = ""
    for command in TEMPLATES[name].commands:
        options = {"timeout": 500} if command == "run" else {}
        done = dsdctl(command, f"{name}.yaml", **options)
        assert done.returncode == 0, done.stderr
        said += done.stderr
    assert "runs code from " in said
    report = json.loads(dsdctl("report", f"{name}.yaml", "--format", "json").stdout)
    assert report["complete"]
    assert all(row["test_accuracy"]["mean"] > 0.5 for row in report["rows"])


def test_the_templates_that_a_newcomer_is_told_of_are_there() -> None:
    assert TEMPLATES.keys() >= {"digits", "table1", "paper", "own-network", "own-data"}
    assert template_with("digits.yaml") == "digits"
    assert template_with("table1.yaml") == "table1"
    assert template_with("figure2.yaml") == "paper"
    assert template_with("nothing.yaml") is None


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_nothing_is_overwritten(kind: str, tmp_path: Path, dsdctl: Dsdctl) -> None:
    there = tmp_path / "figure5.yaml"
    if kind == "file":
        there.write_text("mine")
    elif kind == "folder":
        there.mkdir()
    else:
        there.symlink_to("nowhere")
    before = sorted(tmp_path.iterdir()), files_in(tmp_path)
    refused = dsdctl("init", "paper")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "figure5.yaml: already exists, nothing was written\n"
    assert (sorted(tmp_path.iterdir()), files_in(tmp_path)) == before


def test_a_second_template_shares_the_schema_and_an_other_schema_stays(
    tmp_path: Path, dsdctl: Dsdctl
) -> None:
    assert f"wrote {SCHEMA_FILE}" in dsdctl("init", "digits").stdout
    second = dsdctl("init", "table1")
    assert (second.returncode, second.stderr) == (0, "")
    assert SCHEMA_FILE not in second.stdout
    (tmp_path / SCHEMA_FILE).write_text("mine")
    (tmp_path / "digits.yaml").unlink()
    third = dsdctl("init", "digits")
    assert third.returncode == 0
    assert f"{SCHEMA_FILE}: kept, though of another version" in third.stderr
    assert (tmp_path / SCHEMA_FILE).read_text() == "mine"


def test_the_templates_are_listed_and_another_is_refused(tmp_path: Path, dsdctl: Dsdctl) -> None:
    listed = dsdctl("init", "--list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(TEMPLATES)
    refused = dsdctl("init", "../digits")
    assert refused.returncode == 2
    assert refused.stderr == f"no template ../digits (allowed: {', '.join(TEMPLATES)})\n"
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path: Path, dsdctl: Dsdctl) -> None:
    (tmp_path / "taken").write_text("")
    refused = dsdctl("init", "digits", "taken")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert refused.stderr.startswith("taken/digits.yaml: ")


@pytest.mark.parametrize("given", ["digits", "digits.yaml", "specs/digits.yaml"])
def test_a_shipped_spec_that_is_not_here_is_said_how_to_have(given: str, dsdctl: Dsdctl) -> None:
    refused = dsdctl("validate", given)
    assert refused.returncode == 2
    hint = "`dsdctl init digits` writes digits.yaml, then: `dsdctl run digits.yaml`"
    assert refused.stderr == f"{given}: no such file; {hint}\n"


def test_a_shipped_spec_named_without_its_ending_is_found(dsdctl: Dsdctl) -> None:
    dsdctl("init")
    refused = dsdctl("validate", "digits")
    assert refused.stderr == "digits: No such file or directory; did you mean digits.yaml?\n"
    assert "init" not in dsdctl("validate", "something-else.yaml").stderr


def test_recipes_are_told_from_specs(tmp_path: Path, dsdctl: Dsdctl) -> None:
    """A spec `vanilla.yaml` lies where its recipe `vanilla` is looked for first."""
    text = (ROOT / "specs" / "smoke.yaml").read_text()
    write(tmp_path / "vanilla.yaml", text.replace("experiment: smoke", "experiment: vanilla"))
    assert dsdctl("validate", "vanilla.yaml").stdout == "vanilla.yaml: ok, 4 rows\n"
    recipe = (ROOT / "recipes" / "vanilla.yaml").read_text()
    write(tmp_path / "recipes" / "vanilla.yaml", recipe)
    refused = dsdctl("plan", "recipes/vanilla.yaml")
    assert refused.returncode == 2
    assert refused.stderr == (
        "recipes/vanilla.yaml:1: recipe: is a recipe, not a spec; "
        "`dsdctl recipes vanilla` prints it\n"
    )
