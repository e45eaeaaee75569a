"""Templates: what `dsdctl init` writes for a user to start from.

A template is a folder in `templates/` with a `template.yaml`. All other files in it are written,
and so are the files of `specs/` that its `specs` lists. The first spec is the one to start with.
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
    """The content of a `template.yaml`."""

    title: Text
    specs: tuple[Name, ...] = Field((), description="of specs/, besides those in the folder")
    commands: tuple[Name, ...] = Field(("validate", "plan", "run"), description="to go on with")


@dataclass(frozen=True)
class Template:
    """A template. `files` maps the paths to write, relative to a folder, to their sources."""

    name: str
    title: str
    files: dict[Path, Path]
    commands: tuple[str, ...]
    """The commands to suggest next, each with the first spec."""

    @property
    def specs(self) -> tuple[Path, ...]:
        """The specs among its files; the first is the one to start with."""
        return tuple(file for file in self.files if file.parent == Path() and _is_yaml(file))


def templates() -> dict[str, Template]:
    """All that come with dsdctl, by name."""
    folders = sorted(file.parent for file in packaged_folder("templates").glob(f"*/{MANIFEST}"))
    return {folder.name: _read(folder) for folder in folders}


def template_with(spec: str) -> str | None:
    """The name of the smallest template that writes a spec of this name; None if none does."""
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
