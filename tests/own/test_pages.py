"""The pages on networks and data of one's own: their files and commands do what they say."""

import importlib
import re
from pathlib import Path

import pytest
import yaml
from builders import ROOT, write
from pages import blocks
from tiny import Dsdctl

from dsdctl.data.own import own_data, prepare_own
from dsdctl.data.prepared import read_manifest
from dsdctl.own.inspection import Question
from dsdctl.own.source import find_source
from dsdctl.plan.resolve import resolve
from dsdctl.spec.dataset import Dataset
from dsdctl.spec.network import CodeNetwork
from dsdctl.worker.inspection import inspect

DOCS = ROOT / "docs"

BOUND = {"hf_nets.py": "Net"}
"""What the pages' files for networks of others bind, if not `net`."""


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
    tmp_path: Path, dsdctl: Dsdctl
) -> None:
    files_of("own-networks", tmp_path)
    spec, versioned = blocks(DOCS / "own-networks.md", "yaml")
    write(tmp_path / "own.yaml", spec)
    (commands,) = blocks(DOCS / "own-networks.md", "sh")
    for line in commands.splitlines():
        done = dsdctl(*line.split()[1:])
        assert done.returncode == 0, done.stderr
    assert "Network WideNet(width=4): " in done.stdout
    write(tmp_path / "tables.py", "")
    again = {**yaml.safe_load(spec), **yaml.safe_load(versioned)}
    assert len(resolve(write(tmp_path / "again.yaml", again)).rows) == 2


def test_the_commands_for_data_of_ones_own_do_what_they_say(tmp_path: Path, dsdctl: Dsdctl) -> None:
    (spec,) = blocks(DOCS / "own-data.md", "yaml")
    assert "data.py" in files_of("own-data", tmp_path)
    write(tmp_path / "own.yaml", spec)
    (commands,) = blocks(DOCS / "own-data.md", "sh")
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
    spec, _ = blocks(DOCS / "own-networks.md", "yaml")
    for name in names:
        student = {"arch": f"{name}:{BOUND.get(name, 'net')}"}
        assert resolve(write(tmp_path / "own.yaml", {**yaml.safe_load(spec), "student": student}))


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "library"),
    [("timm_nets", "timm"), ("torchvision_nets", "torchvision"), ("hf_nets", "transformers")],
)
def test_the_networks_of_others_are_made_as_shown(tmp_path: Path, name: str, library: str) -> None:
    """Those of libraries that are installed; none of them is needed otherwise."""
    importlib.import_module("dsdctl.system.torchvision")
    pytest.importorskip(library)
    files_of("own-networks", tmp_path)
    bound = BOUND.get(f"{name}.py", "net")
    source = find_source(tmp_path / f"{name}.py", bound, ())
    network = CodeNetwork(arch="own", name=bound, code=source.digest, version=None, options={})
    assert inspect(Question(source, network, 3, ((32, 32),), 10)).activations > 5
