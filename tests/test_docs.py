"""The documentation: what is generated is up to date, and what pages show is valid and linked."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import write
from pages import anchors, blocks, dsdctl_commands, links, words
from tiny import ROOT
from typer.testing import CliRunner

from dsdctl.cli.app import app
from dsdctl.cli.command_page import command_page
from dsdctl.cli.reference import reference
from dsdctl.plan.resolve import resolve
from dsdctl.slurm.config import Cluster
from dsdctl.spec.experiment import Experiment, Recipe
from dsdctl.spec.yaml import parse_document

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
PAPERS = sorted(ROOT.glob("*.md"))


def by_name(page: Path) -> str:
    return page.stem


def test_the_reference_is_up_to_date() -> None:
    """Else: make reference"""
    printed = CliRunner().invoke(app, ["schema", "--markdown"]).output
    assert printed == reference() + "\n"
    assert (DOCS / "reference.md").read_text() == printed


def test_the_reference_has_every_key_of_every_model() -> None:
    text = reference()
    for model in (Experiment, Recipe, Cluster):
        schema = model.model_json_schema()
        for part in (schema, *schema.get("$defs", {}).values()):
            assert all(f"| `{name}` |" in text for name in part.get("properties", {}))
    links = set(re.findall(r"\]\(#([a-z0-9]+)\)", text))
    assert links <= {heading.lower() for heading in re.findall(r"^### (\w+)$", text, re.M)}


def test_schema_and_reference_have_every_way_to_select_a_level() -> None:
    schema = json.loads(CliRunner().invoke(app, ["schema", "recipe"]).output)
    words, mapping = schema["properties"]["select"]["oneOf"]
    assert words["enum"] == ["best", "stopped"]
    within = schema["$defs"][mapping["$ref"].rpartition("/")[2]]
    assert within["required"] == ["sparsest_within"]
    bounds = within["properties"]["sparsest_within"]
    assert (bounds["minimum"], bounds["exclusiveMaximum"]) == (0, 1)
    text = reference()
    assert "| `select` | `best`, `stopped` or [SparsestWithin](#sparsestwithin) |" in text
    assert "| `sparsest_within` | number, at least 0, below 1 | *required* |" in text


def test_the_specs_and_recipes_shown_are_valid(tmp_path: Path) -> None:
    spec, matrix = blocks(DOCS / "quickstart.md", "yaml")
    (recipe,) = blocks(DOCS / "extending.md", "yaml")
    assert len(resolve(write(tmp_path / "first.yaml", spec)).rows) == 3
    assert len(resolve(write(tmp_path / "many.yaml", f"{spec}{matrix}")).variants) == 4
    whole = parse_document(spec, tmp_path).data
    for page in ("training.md", "tracking.md"):
        for options in blocks(DOCS / page, "yaml"):
            together = whole | parse_document(options, tmp_path).data
            assert len(resolve(write(tmp_path / "options.yaml", together)).rows) == 3
    write(tmp_path / "kd-gentle.yaml", recipe)
    named: Any = {**yaml.safe_load(spec), "recipes": ["kd-gentle"]}
    (row,) = resolve(write(tmp_path / "own.yaml", named)).rows
    assert row.recipe.recipe == "kd-gentle"


def test_all_specs_and_recipes_are_described() -> None:
    text = (DOCS / "specs.md").read_text()
    names = [
        file.stem for folder in ("specs", "recipes") for file in (ROOT / folder).glob("*.yaml")
    ]
    assert [name for name in names if f"`{name}`" not in text] == []


@pytest.mark.parametrize("page", [page for page in PAGES if dsdctl_commands(page)], ids=by_name)
def test_the_commands_shown_are_there(page: Path) -> None:
    for line in dsdctl_commands(page):
        _, command, *arguments = words(line)
        helped = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
        options = [argument for argument in arguments if argument.startswith("--")]
        assert [option for option in options if option not in helped] == []


@pytest.mark.long
def test_the_quickstart_runs_as_shown(tmp_path: Path) -> None:
    spec, _ = blocks(DOCS / "quickstart.md", "yaml")
    (tmp_path / "first.yaml").write_text(spec)
    lines = dsdctl_commands(DOCS / "quickstart.md")
    assert len(lines) >= 9
    for line in lines:
        command = [sys.executable, "-m", *words(line)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "first.html").is_file()
    assert {file.suffix for file in (tmp_path / "figures").iterdir()} == {".svg", ".png", ".pdf"}


def test_the_plan_shown_has_the_numbers_of_the_plan(tmp_path: Path) -> None:
    """The page may lag behind in its words, but not in what it counts."""
    whole, cluster = blocks(DOCS / "planning.md", "text")
    line = ["plan", str(ROOT / "specs/table1.yaml"), "--jobs", "2", "--device", "cpu"]
    line += ["--store", str(tmp_path), "--gpus", "8", "--images-per-second", "20000"]
    printed = CliRunner().invoke(app, line, env={"COLUMNS": "80"}).output
    assert numbers(f"{whole}{cluster}") == numbers(printed)


def numbers(text: str) -> set[str]:
    return set(re.findall(r"[0-9a-f]{8}|[0-9][0-9.,]*", text))


def test_the_commands_page_is_up_to_date() -> None:
    """Else: make reference"""
    printed = CliRunner().invoke(app, ["schema", "cli", "--markdown"]).output
    assert (DOCS / "cli.md").read_text() == printed


def test_the_commands_page_has_what_help_has() -> None:
    """The page is made from signatures, help by Typer from its own model of them."""
    sections = re.findall(r"^## dsdctl (.*?)\n(.*?)(?=^## |\Z)", command_page(app), re.M | re.S)
    assert len(sections) >= 14
    for command, section in sections:
        helped = (
            CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "300"}).output
        )
        options = set(re.findall(r"^│ \*? *(-[\w-]+)", helped, re.M)) - {"--help"}
        assert set(re.findall(r"^\| `(-[\w-]+)`", section, re.M)) == options
        assert f"`dsdctl {command}" in section


def test_every_packaged_recipe_is_listed_with_its_title() -> None:
    listed = CliRunner().invoke(app, ["recipes"]).output.splitlines()
    assert [line.split()[0] for line in listed] == sorted(
        file.stem for file in (ROOT / "recipes").glob("*.yaml")
    )
    assert all(len(line.split()) > 2 for line in listed)


def test_the_commands_have_no_json_schema() -> None:
    refused = CliRunner().invoke(app, ["schema", "cli"])
    assert refused.exit_code == 2
    assert refused.stderr == ("cli: has no JSON Schema (allowed: dsdctl schema cli --markdown)\n")


def test_the_picture_of_the_glossary_is_drawn_by_the_figures_code(tmp_path: Path) -> None:
    """Its numbers are read off a made-up curve by the report's own rules."""
    drawn = tmp_path / "glossary.svg"
    subprocess.run([sys.executable, DOCS / "glossary_figure.py", drawn], cwd=ROOT, check=True)
    assert "A dip and its phases" in drawn.read_text()
    paths = [
        len(re.findall(r"<path ", file.read_text())) for file in (drawn, DOCS / "glossary.svg")
    ]
    assert paths[0] == paths[1] > 20


@pytest.mark.parametrize("page", [*PAGES, *PAPERS], ids=by_name)
def test_links_have_targets(page: Path) -> None:
    for path, anchor in links(page):
        target = page.parent / path if path else page
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(target), f"{path}#{anchor}"


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r"^ +- .*: (.*\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert sorted(listed) == sorted(page.name for page in PAGES)


@pytest.mark.long
def test_the_pages_build_strictly(tmp_path: Path) -> None:
    pytest.importorskip("material")
    line = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = {file.stem for file in (tmp_path / "site").glob("*.html")}
    assert built >= {page.stem for page in PAGES}


def test_the_citation_names_software_and_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["authors"] == [{"name": "The dsdctl developers"}]
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Quétu", "Tartaglione"]
