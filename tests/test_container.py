"""The Dockerfile and the examples of docs/clusters.md, as far as they can be checked unrun."""

import fnmatch
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import write
from tiny import ROOT
from typer.testing import CliRunner

from dsdctl.cli.app import app
from dsdctl.slurm.config import read_cluster

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CLUSTERS = (ROOT / "docs/clusters.md").read_text()


def instructions(stage: int = 1) -> list[tuple[str, str]]:
    """Each instruction of a stage, the image by default, with its arguments on one line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)
    lines = text.replace("\\\n", "").splitlines()
    found: list[list[tuple[str, str]]] = []
    for line in filter(str.strip, lines):
        name, _, arguments = line.partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append((name, arguments.strip()))
    return found[stage]


WHEEL, IMAGE = 0, 1


def copied(stage: int) -> list[str]:
    """What of this tree a stage copies."""
    sources = []
    for name, arguments in instructions(stage):
        if name == "COPY" and "--from=" not in arguments:
            words = [word for word in arguments.split() if not word.startswith("--")]
            sources += words[:-1]
    return sources


def ignored(path: str) -> bool:
    """Whether .dockerignore leaves a path out of the build: its last pattern that fits decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip().removeprefix("!")
        if any(fnmatch.fnmatch(part, pattern) for part in (path, path.split("/")[0])):
            out = not line.startswith("!")
    return out


def test_what_is_copied_is_there_and_not_ignored() -> None:
    paths = copied(WHEEL) + copied(IMAGE)
    assert len(paths) >= 6
    assert [path for path in paths if not (ROOT / path).exists() or ignored(path)] == []
    assert ignored("tests")
    assert ignored("dsdctl-store")
    assert ignored("dsdctl/ml/kernels/libkernels.so")  # which is of this machine


def test_what_the_package_is_built_from_is_copied() -> None:
    hatch = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [*hatch["packages"], *hatch["force-include"], PYPROJECT["project"]["readme"]]
    needed += ["hatch_build.py", "pyproject.toml", *PYPROJECT["project"]["license-files"]]
    assert set(needed) <= set(copied(WHEEL))


def test_the_image_installs_the_wheel_with_the_kernels() -> None:
    """Both stages are of one Python and one system, so that the wheel fits the image."""
    ((_, first), *steps), ((_, last), *further) = instructions(WHEEL), instructions(IMAGE)
    assert first.split() == [last.removesuffix("-slim"), "AS", "wheel"]
    (build,) = [text for name, text in steps if name == "RUN"]
    assert "--wheel-dir /wheels" in build
    assert build.endswith("&& ls dsdctl/ml/kernels/libkernels.so")  # or else there is no image
    copies = further.index(("COPY", "--from=wheel /wheels /wheels"))
    assert further[copies + 1] == ("RUN", "pip install --no-deps /wheels/*.whl")


def test_sources_come_after_the_layers_of_dependencies() -> None:
    found = instructions()
    installs = [
        n for n, (name, text) in enumerate(found) if name == "RUN" and "--constraint" in text
    ]
    sources = [n for n, (name, text) in enumerate(found) if name == "COPY" and "/wheels" in text]
    assert len(installs) == 2
    assert max(installs) < min(sources)


@pytest.mark.parametrize("extras", [[], ["dev"]])
def test_the_requirements_are_those_of_pyproject(extras: list[str], tmp_path: Path) -> None:
    (step,) = [text for name, text in instructions() if name == "RUN" and "tomllib" in text]
    command = step.partition(" > ")[0].replace("$EXTRAS", shlex.join(extras))
    _, *arguments = shlex.split(command)
    line = [sys.executable, *arguments]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    project = PYPROJECT["project"]
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    assert done.stdout.splitlines() == wanted


def test_it_runs_the_command_as_a_user_of_its_own_with_store_and_data_as_volumes() -> None:
    found = instructions()
    assert ("ENTRYPOINT", '["dsdctl"]') in found
    assert "dsdctl" in PYPROJECT["project"]["scripts"]
    user = max(n for n, (name, _) in enumerate(found) if name == "USER")
    assert found[user][1] not in ("root", "0")
    assert user > max(n for n, (name, _) in enumerate(found) if name == "RUN")
    assert ("VOLUME", "/store /data") in found
    assert any(name == "ENV" and "DSDCTL_STORE=/store" in text for name, text in found)


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", CLUSTERS, re.S)


def test_the_yaml_examples_parse_and_are_of_their_kind(tmp_path: Path) -> None:
    slurm, *others = blocks("yaml")
    assert read_cluster(write(tmp_path / "cluster.yaml", slurm)).gres == "gpu:1"
    github, gitlab, ray = [yaml.safe_load(block) for block in others]
    assert github["jobs"]["compare"]["steps"]
    assert gitlab["digits"]["script"]
    assert ray["kind"] == "RayJob"
    pods = [ray["spec"]["rayClusterSpec"]["headGroupSpec"]]
    pods += ray["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    for pod in pods:
        assert volumes(pod["template"]["spec"]) == {"store", "data"}


def volumes(pod: dict[str, Any]) -> set[str]:
    """The volumes of a pod, all of which its containers mount."""
    names = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} == names
    return names


@pytest.mark.parametrize("block", blocks("sh"))
def test_the_shell_examples_parse(block: str) -> None:
    subprocess.run(["bash", "-n"], input=block, text=True, check=True)


def test_every_command_of_the_examples_exists_with_its_options() -> None:
    text = "".join(blocks("sh") + blocks("yaml"))
    lines = re.findall(
        r"(?:dsdctl|dsdctl\.sif) ((?:run|validate|report|plan|status) [^\n>&]*)", text
    )
    assert len(lines) >= 8
    helped: dict[str, str] = {}
    for line in lines:
        command, *arguments = shlex.split(line)
        if command not in helped:
            helped[command] = (
                CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
            )
        assert [w for w in arguments if w.startswith("--") and w not in helped[command]] == []
        assert [w for w in arguments if w.endswith(".yaml") and not (ROOT / w).is_file()] == []
