"""`dsdctl schema` and `dsdctl recipes`: what specs and recipes may say."""

import json
from enum import StrEnum
from typing import Annotated

import typer

from dsdctl.cli.console import print_line, print_plain, reported


class SchemaOf(StrEnum):
    """Which file a schema is of."""

    spec = "spec"
    recipe = "recipe"


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
    of: Annotated[SchemaOf, typer.Argument(help="which file")] = SchemaOf.spec,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="print a page about both, for people")
    ] = False,
) -> None:
    """Print the JSON Schema of a spec or recipe, for editors."""
    with reported():
        from dsdctl.cli.reference import reference
        from dsdctl.spec.experiment import Experiment, Recipe

        if markdown:
            print_plain(reference())
            return
        model = Experiment if of is SchemaOf.spec else Recipe
        print_plain(json.dumps(model.model_json_schema(), indent=2))
