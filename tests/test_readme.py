"""The README: short, true, and each of its commands run; those of minutes behind `long`."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builders import write
from pages import commands, dsdctl_commands, words
from tiny import ROOT

from dsdctl.plan.resolve import resolve

README = ROOT / "README.md"
LONG = {"dsdctl run specs/digits.yaml"}
DSDCTL = dsdctl_commands(README)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a newcomer has: the specs, and a store in which nothing was computed yet."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("specs", "recipes"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "dsdctl-store").mkdir()
    return folder


@pytest.mark.parametrize("line", [line for line in DSDCTL if line not in LONG])
def test_a_command_of_the_readme_runs(line: str, checkout: Path) -> None:
    command = [sys.executable, "-m", *words(line)]
    done = subprocess.run(
        command, cwd=checkout, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_long_commands_are_in_the_readme() -> None:
    """They are what tests/digits runs."""
    assert set(DSDCTL) >= LONG


def test_make_targets_of_the_readme_exist_and_its_tests_are_those_of_ci() -> None:
    targets = {words(line)[1] for line in commands(README) if line.startswith("make ")}
    makefile = (ROOT / "Makefile").read_text()
    assert targets == {"demo", "test"}
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)
    assert "make test" in (ROOT / ".ci/run").read_text().splitlines()


def test_it_is_short_and_shows_a_spec_of_twelve_lines(tmp_path: Path) -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    (spec,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    assert len(spec.splitlines()) == 12
    assert len(resolve(write(tmp_path / "first.yaml", spec)).rows) == 3


def test_the_files_to_dive_into_are_six() -> None:
    files = re.findall(r"^\d\. \[`(.*)`\]\((.*)\)", README.read_text(), re.M)
    assert len(files) == 6
    assert all(link == f"dsdctl/{name}" and (ROOT / link).is_file() for name, link in files)
