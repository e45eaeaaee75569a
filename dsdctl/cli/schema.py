"""`dsdctl schema` and `dsdctl recipes`: what specs and recipes may say."""

import json
from enum import StrEnum
from typing import Annotated

import typer

from dsdctl.cli.console import print_line, print_plain, reported
from dsdctl.errors import InputError


class SchemaOf(StrEnum):
    """What a schema is of: a file, or the commands."""

    spec = "spec"
    recipe = "recipe"
    cli = "cli"


def recipes() -> None:
    """List the packaged recipes."""
    with reported():
        from dsdctl.spec.experiment import Recipe
        from dsdctl.spec.problems import validate as check
        from dsdctl.spec.recipe_files import packaged_recipes
        from dsdctl.spec.yaml import read_document

        for file in sorted(packaged_recipes().glob("*.yaml")):
            found = check(Recipe, read_document(file))
            print_line(f"{found.recipe:20} {found.title}")


def schema(
    of: Annotated[
        SchemaOf, typer.Argument(help="which file; cli: the commands, with --markdown")
    ] = SchemaOf.spec,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="print a page for people: of all files, or of cli")
    ] = False,
) -> None:
    """Print the JSON Schema of a spec or recipe, for editors."""
    with reported():
        if of is SchemaOf.cli:
            _print_commands(markdown)
            return
        from dsdctl.cli.reference import reference
        from dsdctl.spec.experiment import Experiment, Recipe

        if markdown:
            print_plain(reference())
            return
        model = Experiment if of is SchemaOf.spec else Recipe
        print_plain(json.dumps(model.model_json_schema(), indent=2))


def _print_commands(markdown: bool) -> None:
    from dsdctl.cli.app import app
    from dsdctl.cli.command_page import command_page

    if not markdown:
        raise InputError("cli: has no JSON Schema (allowed: dsdctl schema cli --markdown)")
    print_plain(command_page(app))
