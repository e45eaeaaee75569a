"""`dsdctl recipes`: which recipes there are, and what one of them says."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from dsdctl.cli.console import print_line, print_result, reported, warn
from dsdctl.errors import InputError


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="print this one, with all its settings")
    ] = None,
) -> None:
    """List the packaged recipes and those that specs in this folder may name, or print one."""
    with reported():
        found = _recipe_files()
        if name is None:
            for file in found.values():
                _list(file)
        elif name in found:
            print_result(described(found[name]))
        else:
            from dsdctl.spec.problems import nearest

            reason = f"no recipe {name}{nearest(name, [*found])}"
            raise InputError(f"{reason} (allowed: {', '.join(found)})")


def _recipe_files() -> dict[str, Path]:
    """The recipes that a spec in this folder may name: packaged ones first, then local ones."""
    from dsdctl.spec.recipe_files import is_recipe, recipe_folders

    *local, packaged = recipe_folders(Path())
    found = {file.stem: file for file in sorted(packaged.glob("*.yaml"))}
    for folder in reversed(local):  # of several of one name the first is read
        for file in sorted(folder.glob("*.yaml")):
            if file.resolve().parent != packaged.resolve() and is_recipe(file):
                found.pop(file.stem, None)
                found[file.stem] = file
    return found


def _list(file: Path) -> None:
    from dsdctl.spec.experiment import Recipe
    from dsdctl.spec.problems import validate
    from dsdctl.spec.recipe_files import packaged_folder
    from dsdctl.spec.yaml import read_document

    try:
        title = validate(Recipe, read_document(file)).title
    except InputError as error:
        warn(list(error.lines))
        return
    local = "" if file.parent == packaged_folder("recipes") else f" ({file})"
    print_line(f"{file.stem:20} {title}{local}")


def described(file: Path) -> str:
    """A recipe's file as it is written, and in comments what it leaves at its defaults.

    It is a recipe again. Raises InputError.
    """
    from dsdctl.spec.experiment import Recipe
    from dsdctl.spec.problems import validate
    from dsdctl.spec.yaml import read_document

    document = read_document(file)
    settings = validate(Recipe, document).model_dump(mode="json", exclude_none=True)
    lines = [f"# {file}", file.read_text(encoding="utf-8-sig").rstrip()]
    defaults = list(_defaults(settings, document.data))
    if defaults:
        lines += ["# By default, unless the spec's `stop` says otherwise:"]
        lines += [f"# {path}: {json.dumps(value)}" for path, value in defaults]
    return "\n".join(lines)


def _defaults(
    settings: Mapping[str, Any], written: Mapping[str, Any], path: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield the dotted path and the value of what is set and not written."""
    for key, value in settings.items():
        if key not in written:
            yield path + key, value
        elif isinstance(value, dict):
            yield from _defaults(value, written[key], f"{path}{key}.")
