"""`dsdctl report`: the comparison in any format, at any time."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dsdctl.cli_options import Recipes, Seeds, Specs
from dsdctl.cli_plan import make_plan_of, progress_of
from dsdctl.cli_store import DEFAULT_STORE, StoreOption
from dsdctl.console import err, out, print_as_is, print_plain, reported, write
from dsdctl.errors import InputError


class Format(StrEnum):
    """How to print a report."""

    rich = "rich"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"
    json = "json"
    html = "html"


ENDINGS = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".json": "json", ".html": "html"}
"""What the name of an output file says of its format."""


def report(
    specs: Specs,
    store: StoreOption = DEFAULT_STORE,
    style: Annotated[
        Format | None,
        typer.Option("--format", help="how to print it; default: by the ending of --output"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="write to this file instead")
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option("--figures", metavar="DIR", help="also draw the figures, as SVG and PNG"),
    ] = None,
    recipe: Recipes = None,
    seed: Seeds = None,
    wandb: Annotated[
        bool, typer.Option("--wandb", help="also mirror to W&B what it has not seen yet")
    ] = False,
    show: Annotated[
        bool, typer.Option("--open", help="also open the file in a browser, where it is HTML")
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="of two specs, how the second one differs")
    ] = False,
) -> None:
    """Print the comparison, complete or not, from what the store holds."""
    with reported():
        wanted = style.value if style else ENDINGS.get(output.suffix if output else "", "rich")
        if show and (output is None or wanted != "html"):
            raise InputError("--open: needs an HTML file (--output report.html)")
        if compare:
            if figures is not None or wandb:
                raise InputError("--compare: not with --figures or --wandb")
            from dsdctl.report.compare_view import compared

            plans = [make_plan_of([spec], recipe, seed) for spec in specs]
            # That the store is absent is said once.
            sides = [progress_of(one, store, may_be_absent=one is not plans[0]) for one in plans]
            _deliver(compared(sides, wanted, out()), output)
            return
        made = make_plan_of(specs, recipe, seed)
        from dsdctl.cost import fvcore_macs
        from dsdctl.report.render import render
        from dsdctl.report.table import make_report

        progress = progress_of(made, store)
        if wandb:
            from dsdctl.run import replay

            progress.store.require()
            replay(progress, store, err())
        reports = make_report(progress, fvcore_macs)
        if wanted == "html":
            from dsdctl.report.html.page import html

            text = html(progress, reports, fvcore_macs, _filters(recipe, seed))
        else:
            text = render(reports, wanted, out())
        _deliver(text, output)
        if show:
            typer.launch(str(output))
        if figures is not None:
            from dsdctl.report.figures.draw import save_figures

            for line in save_figures(reports, figures):
                print_as_is(err(), line)


def _deliver(text: str, output: Path | None) -> None:
    """Print a result, or write it to the file that was asked for."""
    if output is None:
        print_plain(text)
    else:
        write(output, text)


def _filters(recipe: list[str] | None, seed: list[int] | None) -> list[str]:
    """The options that chose recipes and seeds, as they are typed."""
    chosen = [("--recipe", name) for name in recipe or ()]
    chosen += [("--seed", str(number)) for number in seed or ()]
    return [part for option in chosen for part in option]
