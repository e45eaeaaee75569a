"""What a shell gets where Tab is pressed, asked for as the shells' own scripts ask."""

import shlex
from pathlib import Path

import pytest
from builders import spec_data, write
from tiny import ROOT
from typer.testing import CliRunner

from dsdctl.cli.app import app


def offered(line: str) -> list[str]:
    """What bash is told of the last word of a line, which is empty behind a space."""
    words = shlex.split(line) + ([""] if line.endswith(" ") else [])
    environment = {
        "_DSDCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = CliRunner().invoke(app, [], env=environment, prog_name="dsdctl")
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: specs in it and in folders, a recipe of one's own, and other files."""
    monkeypatch.chdir(tmp_path)
    for name in ("specs/small", ".hidden", "deep/a/b/c/d"):
        (tmp_path / name).mkdir(parents=True)
    write(tmp_path / "specs" / "gentle.yaml", {"recipe": "gentle", "title": "A gentle one"})
    one = spec_data({"recipes": ["vanilla", "gentle"], "seeds": [3, 31]})
    write(tmp_path / "specs" / "one.yaml", one)
    write(tmp_path / "specs" / "small" / "two.yml", spec_data({"seeds": [4]}))
    for name in (".hidden/x.yaml", "deep/a/b/c/d/x.yaml", "notes.md"):
        (tmp_path / name).write_text("")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "broken.yaml").write_text("recipes: [")
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "files"),
    [
        ("", ["broken.yaml", "specs/gentle.yaml", "specs/one.yaml", "specs/small/two.yml"]),
        ("sp", ["specs/gentle.yaml", "specs/one.yaml", "specs/small/two.yml"]),
        ("specs/o", ["specs/one.yaml"]),
        ("specs/small/", ["specs/small/two.yml"]),
        (".h", [".hidden/x.yaml"]),
        ("nonesuch/", []),
        ("notes", []),
    ],
)
def test_files_of_folders_are_offered_but_no_folders(typed: str, files: list[str]) -> None:
    assert offered(f"dsdctl run {typed}") == files


@pytest.mark.parametrize(
    "command", ["validate", "plan", "rehearse", "report", "status", "export", "store gc"]
)
def test_all_commands_complete_specs(command: str) -> None:
    assert offered(f"dsdctl {command} specs/o") == ["specs/one.yaml"]


def test_recipes_are_those_of_the_specs_on_the_line() -> None:
    assert offered("dsdctl run specs/one.yaml --recipe ") == ["vanilla", "gentle"]
    assert offered("dsdctl report specs/one.yaml --recipe g") == ["gentle"]


@pytest.mark.parametrize("before", ["", "broken.yaml ", "nonesuch.yaml "])
def test_without_a_readable_spec_recipes_are_the_packaged_ones(before: str) -> None:
    names = sorted(file.stem for file in (ROOT / "recipes").glob("*.yaml"))
    assert offered(f"dsdctl export {before}--recipe ") == names


def test_seeds_are_those_of_all_specs_on_the_line() -> None:
    assert offered("dsdctl run specs/one.yaml specs/small/two.yml --seed ") == ["3", "31", "4"]
    assert offered("dsdctl run specs/one.yaml --seed 3") == ["3", "31"]
    assert offered("dsdctl run --seed ") == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("dsdctl report x.yaml --format ", "rich markdown latex csv json html"),
        ("dsdctl report x.yaml --format m", "markdown"),
        ("dsdctl run x.yaml --engine ", "local ray slurm"),
        ("dsdctl plan x.yaml --device ", "auto cpu cuda"),
        ("dsdctl bench --case student-", "student-adamw student-distilled"),
        ("dsdctl schema ", "spec recipe cli"),
        ("dsdctl store ", "list diff source check gc"),
    ],
)
def test_words_of_a_fixed_list_are_offered(line: str, words: str) -> None:
    assert offered(line) == words.split()


def test_zsh_gets_titles_beside_the_recipes() -> None:
    environment = {
        "_DSDCTL_COMPLETE": "complete_zsh",
        "_TYPER_COMPLETE_ARGS": "dsdctl run specs/one.yaml --recipe g",
    }
    done = CliRunner().invoke(app, [], env=environment, prog_name="dsdctl")
    assert done.stdout.strip() == """_arguments '*: :(("gentle":"A gentle one"))'"""
