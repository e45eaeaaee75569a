"""A spec's recipes: where their files are, and what they override."""

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dsdctl.errors import InputError
from dsdctl.spec.document import Document
from dsdctl.spec.experiment import Recipe
from dsdctl.spec.fields import NAME_PATTERN
from dsdctl.spec.problems import nearest, validate
from dsdctl.spec.yaml import read_document


@dataclass(frozen=True)
class RecipeFile:
    """A recipe, the document that it was read from, and the part that overrides a spec."""

    recipe: Recipe
    document: Document
    overrides: Document

    @functools.cached_property
    def overrides_name(self) -> str:
        """A name for the overrides, equal for recipes with equal overrides."""
        return json.dumps(self.overrides.data)


class Recipes:
    """The recipes that a spec names, each read once for all variants."""

    def __init__(self, spec: Document):
        self._spec = spec
        self._found: dict[str, RecipeFile | InputError] = {}

    def read(self, name: str) -> RecipeFile:
        """Read the recipe `name`. Raises InputError, the same one each time."""
        if name not in self._found:
            try:
                self._found[name] = _read_recipe(name, self._spec)
            except InputError as error:
                self._found[name] = error
        found = self._found[name]
        if isinstance(found, InputError):
            raise found
        return found

    def errors(self) -> Iterator[InputError]:
        """Yield the errors in the recipes of a spec that is itself invalid."""
        names = self._spec.data.get("recipes")
        for name in names if isinstance(names, list) else []:
            try:
                if isinstance(name, str) and re.match(NAME_PATTERN, name):
                    self.read(name)
            except InputError as error:
                yield error


def _read_recipe(name: str, spec: Document) -> RecipeFile:
    index, place = spec.data["recipes"].index(name), spec.mark(()).file
    document = _recipe_document(name, place)
    if document is None:
        known = sorted({p.stem for p in packaged_folder("recipes").glob("*.yaml")})
        own = [
            p.stem
            for folder in recipe_folders(place.parent)[1:-1]
            for p in sorted(folder.glob("*.yaml"))
        ]
        reason = (
            f"no recipe {name}.yaml beside {place.name}, in a folder recipes/ there or above, or "
            f"among the packaged ones{nearest(name, [*known, *own])} (allowed: {', '.join(known)})"
        )
        raise InputError(spec.problem(("recipes", index), reason))
    recipe = validate(Recipe, document)
    if recipe.recipe != name:
        reason = f"is {recipe.recipe}, but the file is named {name}.yaml"
        raise InputError(document.problem(("recipe",), reason))
    overrides = document.part("training", "pruning", "teacher")
    return RecipeFile(recipe, document, with_criterion(overrides))


def with_criterion(document: Document) -> Document:
    """Write `pruning: none` as a mapping, so that it can override or be overridden by one."""
    if document.data.get("pruning") != "none":
        return document
    return replace(document, data={**document.data, "pruning": {"criterion": "none"}})


def recipe_file(name: str, spec: Path) -> Path | None:
    """The file of the recipe `name` of `spec`: the first in `recipe_folders` that is not a spec."""
    return next((file for file in _recipe_places(name, spec) if not is_spec(file)), None)


def _recipe_document(name: str, spec: Path) -> Document | None:
    """The content of the file that `recipe_file` would find. Raises InputError."""
    documents = map(read_document, _recipe_places(name, spec))
    return next((found for found in documents if not _only_key(found, *_SPEC)), None)


def _recipe_places(name: str, spec: Path) -> Iterator[Path]:
    files = (place / f"{name}.yaml" for place in recipe_folders(spec.parent))
    return (file for file in files if file.is_file())


def recipe_folders(folder: Path) -> list[Path]:
    """Where the recipes of a spec in `folder` are looked for, in order: `folder`, recipes/ in it,
    recipes/ in its parent, and the packaged recipes."""
    # pathlib's parent of `.` and of `..` is `.`.
    above = folder / ".." if folder.name in ("", "..") else folder.parent
    return [folder, folder / "recipes", above / "recipes", packaged_folder("recipes")]


_SPEC, _RECIPE = ("experiment", "recipe"), ("recipe", "experiment")
"""The key that a spec or a recipe must have, and the one that it must not have."""


def is_spec(file: Path) -> bool:
    """Whether a file is a spec, judged by its keys; False if it cannot be read."""
    return _reads_as(file, _SPEC)


def is_recipe(file: Path) -> bool:
    """Whether a file is a recipe, judged by its keys; False if it cannot be read."""
    return _reads_as(file, _RECIPE)


def _reads_as(file: Path, keys: tuple[str, str]) -> bool:
    try:
        return _only_key(read_document(file), *keys)
    except InputError:
        return False


def _only_key(document: Document, key: str, other: str) -> bool:
    return key in document.data and other not in document.data


def packaged_folder(name: Literal["recipes", "specs", "templates"]) -> Path:
    """A folder of dsdctl's own files, in an installation or in a source checkout."""
    installed = Path(__file__).parents[1] / name
    return installed if installed.is_dir() else Path(__file__).parents[2] / name
