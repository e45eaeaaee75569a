"""Reading a spec's file, with helpful messages if there is none."""

from pathlib import Path

from dsdctl.errors import InputError
from dsdctl.spec.document import Document
from dsdctl.spec.recipe_files import packaged_folder
from dsdctl.spec.spec_files import nearest_spec
from dsdctl.spec.templates import template_with
from dsdctl.spec.yaml import read_document


def read_spec(file: Path) -> Document:
    """Read a spec. Raises InputError; it says so if the file is a recipe, or is missing but could
    be written by `dsdctl init`."""
    if not file.exists():
        raise InputError(f"{file}: {_absence(file)}")
    document = read_document(file)
    if "recipe" in document.data and "experiment" not in document.data:
        reason = f"is a recipe, not a spec; `dsdctl recipes {file.stem}` prints it"
        raise InputError(document.problem(("recipe",), reason))
    return document


def _absence(file: Path) -> str:
    """That there is no such file, and which spec may be meant or how to get it."""
    near = nearest_spec(file)
    if near is not None:
        return f"No such file or directory; did you mean {near}?"
    name = file.name if file.suffix == ".yaml" else f"{file.name}.yaml"
    if (packaged_folder("recipes") / name).is_file():
        return f"no such file; {file.stem} is a recipe, which a spec names under `recipes`"
    template = template_with(name)
    if template is None:
        return "No such file or directory"
    return f"no such file; `dsdctl init {template}` writes {name}, then: `dsdctl run {name}`"
