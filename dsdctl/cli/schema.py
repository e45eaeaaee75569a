"""`dsdctl schema`: what specs and recipes may say."""

import json
from enum import StrEnum
from typing import Annotated

import typer

from dsdctl.cli.console import print_plain, reported


class SchemaOf(StrEnum):
    """Which file a schema is of."""

    spec = "spec"
    recipe = "recipe"


def schema(
    of: Annotated[SchemaOf, typer.Argument(help="which file")] = SchemaOf.spec,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="print a page about both, for people")
    ] = False,
) -> None:
    """Print the JSON Schema of a spec or recipe, for editors."""
    with reported():
        from dsdctl.cli.reference import reference
        from dsdctl.spec.schema import recipe_schema, spec_schema

        if markdown:
            print_plain(reference())
            return
        made = spec_schema() if of is SchemaOf.spec else recipe_schema()
        print_plain(json.dumps(made, indent=2))
