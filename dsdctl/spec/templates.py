"""Templates: what `dsdctl init` writes for a user to begin with.

A template is a folder of `templates/` with a `template.yaml`. All other files in it belong to what
is written; `specs` names those of `specs/` that do too. The first spec is the one to begin with.
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from dsdctl.spec.fields import Model, Name, Text
from dsdctl.spec.problems import validate
from dsdctl.spec.recipe_files import packaged_folder
from dsdctl.spec.yaml import read_document

MANIFEST = "template.yaml"


class Manifest(Model):
    """What a `template.yaml` says."""

    title: Text
    specs: tuple[Name, ...] = Field((), description="of specs/, besides those in the folder")
    commands: tuple[Name, ...] = Field(("validate", "plan", "run"), description="to go on with")


@dataclass(frozen=True)
class Template:
    """A template, and what it consists of: sources by where they go, relative to a folder."""

    name: str
    title: str
    files: dict[Path, Path]
    commands: tuple[str, ...]
    """What to go on with, each with the first spec."""

    @property
    def specs(self) -> tuple[Path, ...]:
        """The specs among its files, of which the first is the one to begin with."""
        return tuple(file for file in self.files if file.parent == Path() and _is_yaml(file))


def templates() -> dict[str, Template]:
    """All that come with dsdctl, by name."""
    folders = sorted(file.parent for file in packaged_folder("templates").glob(f"*/{MANIFEST}"))
    return {folder.name: _read(folder) for folder in folders}


def template_with(spec: str) -> str | None:
    """The name of the smallest template that writes a spec of this file's name; None without."""
    found = [one for one in templates().values() if Path(spec) in one.specs]
    return min(found, key=lambda one: len(one.files)).name if found else None


def _read(folder: Path) -> Template:
    manifest = validate(Manifest, read_document(folder / MANIFEST))
    own = sorted(file for file in folder.rglob("*") if file.is_file() and _belongs(file))
    files = {file.relative_to(folder): file for file in own if file != folder / MANIFEST}
    shared = {Path(name): packaged_folder("specs") / name for name in manifest.specs}
    return Template(folder.name, manifest.title, {**shared, **files}, manifest.commands)


def _belongs(file: Path) -> bool:
    return "__pycache__" not in file.parts


def _is_yaml(file: Path) -> bool:
    return file.suffix == ".yaml"
