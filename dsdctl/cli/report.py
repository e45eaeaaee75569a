"""`dsdctl report`: the comparison in any format, at any time."""

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsdctl.cli.console import can_draw, err, log_line, out, print_result, reported, write
from dsdctl.cli.options import (
    Interval,
    Recipes,
    Seeds,
    Specs,
    StoreOption,
    make_plan_of,
    progress_of,
)
from dsdctl.errors import InputError
from dsdctl.store.place import DEFAULT_STORE

if TYPE_CHECKING:
    from dsdctl.cost.macs import MacCache
    from dsdctl.plan.progress import Progress
    from dsdctl.report.table import Report

    Reports = list[Report]


class FigureStyle(StrEnum):
    """Where figures are to be shown."""

    paper = "paper"
    slides = "slides"
    dark = "dark"


class Format(StrEnum):
    """How to print a report."""

    rich = "rich"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"
    json = "json"
    html = "html"


ENDINGS = {
    ".md": "markdown",
    ".tex": "latex",
    ".csv": "csv",
    ".json": "json",
    ".html": "html",
    ".txt": "rich",
    "": "rich",
}
"""What the name of an output file says of its format."""


def report(
    specs: Specs,
    store: StoreOption = DEFAULT_STORE,
    style: Annotated[
        Format | None,
        typer.Option("--format", help="output format; default: by the extension of --output"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="write to this file instead")
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option("--figures", metavar="DIR", help="also draw the figures, as SVG, PNG and PDF"),
    ] = None,
    figure_style: Annotated[
        FigureStyle,
        typer.Option("--style", help="what the figures are for: their fonts and colours"),
    ] = FigureStyle.paper,
    width: Annotated[
        float | None,
        typer.Option(
            "--width",
            min=2,
            max=40,
            metavar="INCHES",
            help="width of the figures; default: one or two columns of a paper",
        ),
    ] = None,
    explained: Annotated[
        bool, typer.Option("--notes", help="also print what the numbers mean")
    ] = False,
    recipe: Recipes = None,
    seed: Seeds = None,
    wandb: Annotated[
        bool, typer.Option("--wandb", help="also upload to W&B what it has not received yet")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="also write TensorBoard's files into the store")
    ] = False,
    show: Annotated[
        bool, typer.Option("--open", help="also open the HTML file in a browser")
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="compare the second of two specs with the first")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="redraw (or rewrite --output) until all is done")
    ] = False,
    interval: Interval = 2.0,
) -> None:
    """Print the comparison, complete or not, from what the store holds."""
    with reported():
        wanted = style.value if style else _format_of(output)
        if show and (output is None or wanted != "html"):
            raise InputError("--open: needs an HTML file (--output report.html)")
        if figures is None and (width is not None or figure_style != FigureStyle.paper):
            raise InputError("--style, --width: only with --figures")
        if compare:
            if figures is not None or wandb or tensorboard or watch:
                raise InputError("--compare: not with --figures, --wandb, --tensorboard or --watch")
            from dsdctl.report.formats.compare import compared

            plans = [make_plan_of([spec], recipe, seed, known_in=store) for spec in specs]
            # That the store is absent is said once.
            sides = [progress_of(one, store, may_be_absent=one is not plans[0]) for one in plans]
            _deliver(compared(sides, wanted, out()), output)
            return
        progress = progress_of(make_plan_of(specs, recipe, seed, known_in=store), store)
        from dsdctl.cost.macs import MacCache
        from dsdctl.report.table import make_report

        macs = MacCache(progress.store)
        by_now = partial(make_report, progress, macs)
        options = _filters(recipe, seed)
        present = partial(_present, progress, macs, wanted, output, options, explained)
        here = wanted == "rich" and output is None and can_draw(out())
        if watch:
            rewrite = (lambda: None) if output is None else (lambda: present(by_now()))
            _watch(progress, interval, by_now, rewrite, here=here, explained=explained)
        reports = by_now()
        if wandb or tensorboard:
            _replay(progress, reports, macs, wandb=wandb, tensorboard=tensorboard)
        if not (watch and here):
            present(reports)
        if show:
            typer.launch(str(output))
        if figures is not None:
            _draw_figures(reports, figures, figure_style, width)


def _replay(
    progress: "Progress", reports: "Reports", macs: "MacCache", *, wandb: bool, tensorboard: bool
) -> None:
    """Give the trackers that were asked for what they have not seen. Raises InputError."""
    from dsdctl.cli.listener import ConsoleProgress
    from dsdctl.tracking import experiments
    from dsdctl.tracking import tensorboard as event_files

    notify = ConsoleProgress(err()).notify
    progress.store.require()
    if wandb:
        experiments.replay(progress, reports, macs, notify)
    if tensorboard:
        event_files.replay(progress, reports, notify)


def _format_of(output: Path | None) -> str:
    """What the name of the output file says. Raises InputError where it says something else."""
    ending = output.suffix if output else ""
    if ending not in ENDINGS:
        allowed = ", ".join(filter(None, ENDINGS))
        raise InputError(
            f"--output: {output}: unknown format {ending} (allowed: {allowed}; --format)"
        )
    return ENDINGS[ending]


def _watch(
    progress: "Progress",
    seconds: float,
    by_now: "Callable[[], Reports]",
    rewrite: Callable[[], None],
    *,
    here: bool,
    explained: bool,
) -> None:
    """Stay until all is done, with the comparison drawn `here`, where it is then left standing.

    Elsewhere standard error shows how far each trajectory has come, and a file is written anew
    with each change.
    """
    from dsdctl.cli.watch import redraw, watch
    from dsdctl.report.formats.text import rich_reports

    if here:
        terminal = out()
        draw = partial(rich_reports, console=terminal, explained=explained)
        redraw(progress, terminal, seconds, lambda: draw(by_now()))
    else:
        watch(progress, err(), seconds, rewrite)


def _present(
    progress: "Progress",
    macs: "MacCache",
    wanted: str,
    output: Path | None,
    options: list[str],
    explained: bool,
    reports: "Reports",
) -> None:
    """Print the comparison, or write it to `output`."""
    from dsdctl.report.formats.text import render

    if wanted == "html":
        from dsdctl.report.formats.html.page import html

        text = html(progress, reports, macs, options)
    else:
        text = render(reports, wanted, out(), explained=explained)
    _deliver(text, output)


def _draw_figures(
    reports: "Reports", folder: Path, style: FigureStyle, width: float | None
) -> None:
    from dsdctl.report.figures.draw import save_figures
    from dsdctl.report.figures.themes import Theme

    for line in save_figures(reports, folder, Theme(style.value, width)):
        log_line(err(), line)


def _deliver(text: str, output: Path | None) -> None:
    """Print a result, or write it to the file that was asked for."""
    if output is None:
        print_result(text)
    else:
        write(output, text)


def _filters(recipe: list[str] | None, seed: list[int] | None) -> list[str]:
    """The options that chose recipes and seeds, as they are typed."""
    chosen = [("--recipe", name) for name in recipe or ()]
    chosen += [("--seed", str(number)) for number in seed or ()]
    return [part for option in chosen for part in option]
