"""Reading a spec's file, and what is said where there is none."""

from pathlib import Path

from dsdctl.errors import InputError
from dsdctl.spec.document import Document
from dsdctl.spec.spec_files import nearest_spec, require_spec
from dsdctl.spec.templates import template_with
from dsdctl.spec.yaml import read_document
from dsdctl.system.files import is_there


def read_spec(file: Path) -> Document:
    """Read a spec. Raises InputError, also where the file is a recipe or one that `init` writes."""
    if not is_there(file) and nearest_spec(file) is None and (hint := _hint(file)):
        raise InputError(f"{file}: no such file; {hint}")
    require_spec(file)
    document = read_document(file)
    if "recipe" in document.data and "experiment" not in document.data:
        reason = f"is a recipe, not a spec; `dsdctl recipes {file.stem}` prints it"
        raise InputError(document.problem(("recipe",), reason))
    return document


def _hint(file: Path) -> str:
    """How to have a spec that comes with dsdctl, where a name is one's; else empty."""
    name = file.name if file.suffix == ".yaml" else f"{file.name}.yaml"
    template = template_with(name)
    return f"`dsdctl init {template}` writes {name}, then: `dsdctl run {name}`" if template else ""
