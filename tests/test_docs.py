"""The documentation: the reference is the models', and what the pages show is valid and linked."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import write
from tiny import ROOT, Dsdctl
from typer.testing import CliRunner

from dsdctl.cli.app import app
from dsdctl.cli.reference import reference
from dsdctl.data.own import own_data, prepare_own
from dsdctl.data.prepared import read_manifest
from dsdctl.own.inspection import Question
from dsdctl.own.source import find_source
from dsdctl.plan.resolve import resolve
from dsdctl.slurm.config import Cluster
from dsdctl.spec.dataset import Dataset
from dsdctl.spec.experiment import Experiment, Recipe
from dsdctl.spec.network import CodeNetwork
from dsdctl.spec.yaml import parse_document

DOCS = ROOT / "docs"
PAGES = ["quickstart", "reference", "training", "ledger", "extending", "own-networks", "own-data"]


def test_the_reference_is_up_to_date() -> None:
    """Else: dsdctl schema --markdown > docs/reference.md"""
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


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.S)


def test_the_specs_and_recipes_shown_are_valid(tmp_path: Path) -> None:
    spec, matrix = blocks("quickstart", "yaml")
    (recipe,) = blocks("extending", "yaml")
    assert len(resolve(write(tmp_path / "first.yaml", spec)).rows) == 3
    assert len(resolve(write(tmp_path / "many.yaml", f"{spec}{matrix}")).variants) == 4
    (options,) = blocks("training", "yaml")
    parts = [parse_document(text, tmp_path).data for text in (spec, options)]
    assert len(resolve(write(tmp_path / "options.yaml", parts[0] | parts[1])).rows) == 3
    write(tmp_path / "kd-gentle.yaml", recipe)
    named: Any = {**yaml.safe_load(spec), "recipes": ["kd-gentle"]}
    (row,) = resolve(write(tmp_path / "own.yaml", named)).rows
    assert row.recipe.recipe == "kd-gentle"


def test_the_commands_shown_are_there() -> None:
    lines = [line for block in blocks("quickstart", "sh") for line in block.splitlines()]
    shown = [line.split() for line in lines if line.startswith("dsdctl ")]
    assert len(shown) >= 6
    for _, command, *arguments in shown:
        helped = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
        options = [argument for argument in arguments if argument.startswith("--")]
        assert all(option in helped for option in options)


def files_of(page: str, folder: Path) -> list[str]:
    """Write the Python files that a page shows into a folder; return their names."""
    found = dict(
        re.findall(r"```python\n# (\w+\.py)\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.S)
    )
    for name, text in found.items():
        write(folder / name, text)
    return list(found)


@pytest.mark.long
def test_the_commands_for_a_network_of_ones_own_do_what_they_say(
    tmp_path: Path, dsdctl: Dsdctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSDCTL_CACHE", str(tmp_path / "cache"))
    files_of("own-networks", tmp_path)
    spec, versioned = blocks("own-networks", "yaml")
    write(tmp_path / "own.yaml", spec)
    (commands,) = blocks("own-networks", "sh")
    for line in commands.splitlines():
        done = dsdctl(*line.split()[1:])
        assert done.returncode == 0, done.stderr
    assert "Network WideNet(width=4): " in done.stdout
    write(tmp_path / "tables.py", "")
    again = {**yaml.safe_load(spec), **yaml.safe_load(versioned)}
    assert len(resolve(write(tmp_path / "again.yaml", again)).rows) == 2


def test_the_commands_for_data_of_ones_own_do_what_they_say(tmp_path: Path, dsdctl: Dsdctl) -> None:
    (spec,) = blocks("own-data", "yaml")
    assert "data.py" in files_of("own-data", tmp_path)
    write(tmp_path / "own.yaml", spec)
    (commands,) = blocks("own-data", "sh")
    for line in commands.splitlines():
        done = dsdctl(*line.split()[1:])
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["data.py", "datasets.py"])
def test_the_functions_shown_give_data(tmp_path: Path, name: str) -> None:
    files_of("own-data", tmp_path)
    data = own_data(Dataset(name="python", file=name, make="load"), tmp_path / name)
    prepare_own(data)
    manifest = read_manifest(data.folder)
    assert manifest is not None and manifest.classes == 10


def test_the_networks_of_others_are_found_where_they_are_shown(tmp_path: Path) -> None:
    names = [name for name in files_of("own-networks", tmp_path) if name.endswith("_nets.py")]
    assert len(names) == 3
    (spec, _), bound = blocks("own-networks", "yaml"), {"hf_nets.py": "Net"}
    for name in names:
        student = {"arch": f"{name}:{bound.get(name, 'net')}"}
        assert resolve(write(tmp_path / "own.yaml", {**yaml.safe_load(spec), "student": student}))


@pytest.mark.long
@pytest.mark.parametrize("name", ["timm_nets", "torchvision_nets"])
def test_the_networks_of_others_are_made_as_shown(tmp_path: Path, name: str) -> None:
    from dsdctl.worker.inspection import inspect

    importlib.import_module("dsdctl.system.torchvision")
    pytest.importorskip(name.removesuffix("_nets"))
    files_of("own-networks", tmp_path)
    source = find_source(tmp_path / f"{name}.py", "net", ())
    network = CodeNetwork(arch="own", name="net", code=source.digest, version=None, options={})
    assert inspect(Question(source, network, 3, ((32, 32),), 10)).activations > 10


@pytest.mark.parametrize("page", PAGES)
def test_links_have_targets(page: str) -> None:
    links = re.findall(r"\]\(([a-z]+\.md)\)", (DOCS / f"{page}.md").read_text())
    assert all((DOCS / link).is_file() for link in links)


def test_the_citation_names_software_and_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["authors"] == [{"name": "The dsdctl developers"}]
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Quétu", "Tartaglione"]
