"""`dsdctl schema`: what specs and recipes may say."""

import json
from enum import StrEnum
from typing import Annotated

import typer

from dsdctl.cli.console import print_result, reported
from dsdctl.errors import InputError


class SchemaOf(StrEnum):
    """What a schema is of: a file, or the commands."""

    spec = "spec"
    recipe = "recipe"
    cli = "cli"


def schema(
    of: Annotated[
        SchemaOf, typer.Argument(help="which file's schema; cli: the commands, with --markdown")
    ] = SchemaOf.spec,
    markdown: Annotated[
        bool,
        typer.Option(
            "--markdown", help="print a reference page: of all files or, for cli, of the commands"
        ),
    ] = False,
) -> None:
    """Print the JSON Schema of a spec or recipe, for editors."""
    with reported():
        if of is SchemaOf.cli:
            _print_commands(markdown)
            return
        from dsdctl.cli.reference import reference
        from dsdctl.spec.schema import recipe_schema, spec_schema

        if markdown:
            print_result(reference())
            return
        made = spec_schema() if of is SchemaOf.spec else recipe_schema()
        print_result(json.dumps(made, indent=2))


def _print_commands(markdown: bool) -> None:
    from dsdctl.cli.app import app
    from dsdctl.cli.command_page import command_page

    if not markdown:
        raise InputError("cli: has no JSON Schema (allowed: dsdctl schema cli --markdown)")
    print_result(command_page(app))
