"""`dsdctl init`: a template's specs, written for a user to begin with."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsdctl.cli.console import notify, print_line, reported
from dsdctl.errors import InputError
from dsdctl.system.files import is_there

if TYPE_CHECKING:
    from dsdctl.spec.templates import Template

SCHEMA_FILE = "spec.schema.json"
"""The schema that editors check specs against, beside them."""

SCHEMA_LINE = f"# yaml-language-server: $schema={SCHEMA_FILE}\n"


def init(
    template: Annotated[
        str, typer.Argument(metavar="[TEMPLATE]", help="what to begin with; --list names them")
    ] = "digits",
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="where to write; made if it is not there")
    ] = Path(),
    show: Annotated[
        bool, typer.Option("--list", help="list the templates, and write nothing")
    ] = False,
) -> None:
    """Write a template's specs, with comments, and a schema for editors. Overwrites nothing."""
    with reported():
        from dsdctl.spec.templates import templates

        found = templates()
        if show:
            for name, one in found.items():
                print_line(f"{name:20} {one.title}")
            return
        if template not in found:
            raise InputError(f"no template {template} (allowed: {', '.join(found)})")
        for file in write_template(found[template], folder):
            print_line(f"wrote {file}")
        print_line("next:")
        spec = shlex.quote(str(folder / found[template].specs[0]))
        for command in found[template].commands:
            print_line(f"  dsdctl {command} {spec}")


def write_template(template: "Template", folder: Path) -> Iterator[Path]:
    """Write a template's files and the schema, and yield each. Raises InputError.

    Where one of them is there already nothing is written, but for a schema, which may stay.
    """
    contents = {folder / file: _content(template, file) for file in template.files}
    there = [file for file in contents if is_there(file)]
    if there:
        raise InputError(*(f"{file}: already exists, nothing was written" for file in there))
    schema, content = folder / SCHEMA_FILE, _schema()
    if not is_there(schema):
        contents[schema] = content
    elif schema.read_bytes() != content:
        notify(f"{schema}: kept, though of another version; `dsdctl schema` prints that")
    from dsdctl.system.writing import write_named

    for file, content in contents.items():
        write_named(file, content, parents=True)
        yield file


def _content(template: "Template", file: Path) -> bytes:
    content = template.files[file].read_bytes()
    return SCHEMA_LINE.encode() + content if file in template.specs else content


def _schema() -> bytes:
    from dsdctl.spec.schema import spec_schema

    return (json.dumps(spec_schema(), indent=2) + "\n").encode()
