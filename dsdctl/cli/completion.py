"""What a shell offers where Tab is pressed: specs, and the recipes and seeds that they name."""

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import typer

from dsdctl.bench.results import CaseName
from dsdctl.errors import InputError
from dsdctl.spec.spec_files import ENDINGS

if TYPE_CHECKING:
    from dsdctl.spec.document import Document

MOST = 200
"""Files that are offered at most: a shell asks before it shows more."""

DEPTH = 3
"""Folders that are looked into below the one whose name is being typed."""


def complete_spec(incomplete: str) -> list[str]:
    """YAML files whose path begins as what was typed, in folders below it too.

    Folders themselves are not offered, since shells put a space behind what they complete.
    """
    folder, name = os.path.split(incomplete)
    return list(islice(_yaml_files(folder, name, DEPTH), MOST))


def _yaml_files(folder: str, prefix: str, depth: int) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        hidden = entry.name.startswith(".") and not prefix.startswith(".")
        if hidden or not entry.name.startswith(prefix):
            continue
        path = str(Path(folder, entry.name))
        if entry.name.endswith(ENDINGS):
            yield path
        elif depth and entry.is_dir(follow_symlinks=False):
            yield from _yaml_files(path, "", depth - 1)


def complete_recipe(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Recipes of the specs on the line, or else the packaged ones, with their titles."""
    from dsdctl.spec.recipe_files import Recipes

    named: dict[str, str] = {}
    for document in _specs_on_the_line(context):
        recipes = Recipes(document)
        for name in _listed(document, "recipes"):
            try:
                named[str(name)] = recipes.read(name).recipe.title
            except InputError:
                named[str(name)] = ""
    found = named or dict(_packaged())
    return [(name, title) for name, title in found.items() if name.startswith(incomplete)]


def _packaged() -> Iterator[tuple[str, str]]:
    from dsdctl.spec.recipe_files import packaged_folder
    from dsdctl.spec.yaml import read_document

    for file in sorted(packaged_folder("recipes").glob("*.yaml")):
        yield file.stem, str(read_document(file).data.get("title", ""))


def complete_seed(context: typer.Context, incomplete: str) -> list[str]:
    """Seeds of the specs on the line."""
    documents = _specs_on_the_line(context)
    seeds = dict.fromkeys(str(seed) for one in documents for seed in _listed(one, "seeds"))
    return [seed for seed in seeds if seed.startswith(incomplete)]


def complete_case(incomplete: str) -> list[str]:
    """What `dsdctl bench` can measure."""
    return [name for name in get_args(CaseName) if name.startswith(incomplete)]


def _specs_on_the_line(context: typer.Context) -> Iterator["Document"]:
    """The specs that were typed already; what cannot be read is passed over.

    They are looked for in the command's words: of a line that ends with an option without its
    value no argument is parsed.
    """
    from dsdctl.spec.yaml import read_document

    words = context.parent.args if context.parent else []
    for word in words:
        if word.endswith(ENDINGS):
            with suppress(InputError):
                yield read_document(Path(word))


def _listed(document: "Document", key: str) -> list[Any]:
    values = document.data.get(key)
    return values if isinstance(values, list) else []
