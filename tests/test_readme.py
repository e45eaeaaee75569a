"""Every command that the README shows is run; those that take minutes behind the marker `long`."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import ROOT, TINY

LONG = {"dsdctl run specs/digits.yaml"}


def readme_commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


DSDCTL = [line for line in readme_commands() if line.startswith("dsdctl ")]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a newcomer has, with a store in which nothing of specs/ was computed yet."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("specs", "recipes"):
        shutil.copytree(ROOT / name, folder / name)
    one_level = TINY.replace("levels: 3", "levels: 1").replace("seeds: [0, 1]", "seeds: [0]")
    (folder / "tiny.yaml").write_text(one_level)
    run = [sys.executable, "-m", "dsdctl", "run", "tiny.yaml", "--recipe", "vanilla"]
    subprocess.run(run, cwd=folder, capture_output=True, check=True)
    return folder


@pytest.mark.parametrize("line", [line for line in DSDCTL if line not in LONG])
def test_a_command_of_the_readme_runs(line: str, checkout: Path) -> None:
    command = [sys.executable, "-m", "dsdctl", *shlex.split(line)[1:]]
    done = subprocess.run(
        command, cwd=checkout, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout or line == "dsdctl store check"


def test_the_long_commands_are_in_the_readme() -> None:
    assert set(DSDCTL) >= LONG


def test_make_targets_of_the_readme_exist() -> None:
    targets = {line.split()[1] for line in readme_commands() if line.startswith("make ")}
    makefile = (ROOT / "Makefile").read_text()
    assert targets == {"demo", "test"}
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


def test_every_command_is_in_the_readmes_table() -> None:
    text = (ROOT / "README.md").read_text()
    helped = subprocess.run(
        [sys.executable, "-m", "dsdctl", "--help"], capture_output=True, text=True, check=True
    ).stdout
    names = re.findall(r"^│ ([a-z]+) ", helped, re.M)
    assert len(names) >= 8
    assert [name for name in names if f"dsdctl {name}" not in text] == []
