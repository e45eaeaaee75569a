"""From a report to figures as SVG text, PNG and PDF bytes; no store is read."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from matplotlib.figure import Figure

from dsdctl.errors import InputError
from dsdctl.report.cells import cost_unit
from dsdctl.report.figures.against_pflops import against_pflops, priced
from dsdctl.report.figures.by_level import CURVES, MEMORISATION, by_level
from dsdctl.report.figures.style import settings
from dsdctl.report.figures.themes import Theme
from dsdctl.report.notes import CONVENTION, PHASES_RULE
from dsdctl.report.panels import clouds, panels
from dsdctl.report.table import Report
from dsdctl.system.atomic import write_output


@dataclass(frozen=True)
class Value:
    """A point of a figure in lines of text, and its place in the SVG (points from the top left)."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Drawn:
    """A figure as files: `name` is that of the file, without an ending."""

    name: str
    title: str
    caption: str
    svg: str
    png: bytes
    pdf: bytes
    values: tuple[Value, ...]


PAPER = Theme()

MOST_PANELS = 6
"""Panels of one figure; more go on to further ones."""

Shown = TypeVar("Shown")


def figures(report: Report, theme: Theme = PAPER) -> Iterator[Drawn]:
    """Draw what there is; nothing before the first level is measured."""
    shown, width = panels(report), theme.width
    flipped = [panel for panel in shown if panel.has_flipped_labels]
    spread = _spread(report)
    curves = partial(by_level, CURVES, spread, width)
    memorisation = partial(by_level, MEMORISATION, spread, width)
    costs = partial(against_pflops, width, unit=cost_unit(report.rows))
    yield from _drawn(report, theme, "curves", shown, curves)
    yield from _drawn(report, theme, "memorisation", flipped, memorisation)
    yield from _drawn(report, theme, "pflops", priced(clouds(report)), costs)


TITLES = {
    "curves": "test accuracy and entropy against sparsity",
    "memorisation": "flipped labels fitted to the noisy and to the true class against sparsity",
    "pflops": "test accuracy against what the training costs",
}


def _drawn(
    report: Report,
    theme: Theme,
    name: str,
    shown: Sequence[Shown],
    make: Callable[[Sequence[Shown]], Figure],
) -> Iterator[Drawn]:
    """Draw `shown` on as many figures as it takes."""
    for number, start in enumerate(range(0, len(shown), MOST_PANELS), 1):
        suffix = f"-{number}" if number > 1 else ""
        yield _saved(
            f"{report.experiment}-{name}{suffix}",
            f"{report.experiment}: {TITLES[name]}",
            caption(report, name),
            theme,
            partial(make, shown[start : start + MOST_PANELS]),
        )


def _saved(name: str, title: str, caption: str, theme: Theme, make: Callable[[], Figure]) -> Drawn:
    """Draw once, and save in each format, with bytes that are the same every time."""
    about = {"Title": title, "Description": caption}
    svg, png, pdf = io.StringIO(), io.BytesIO(), io.BytesIO()
    with settings(theme.scale):
        figure = theme.applied(make())
        figure.savefig(svg, format="svg", metadata={**about, "Date": None})
        values = tuple(_values(figure))
        figure.savefig(png, format="png", metadata=about)
        in_pdf = {"Title": title, "Subject": caption, "CreationDate": None}
        figure.savefig(pdf, format="pdf", metadata=in_pdf)
    return Drawn(name, title, caption, svg.getvalue(), png.getvalue(), pdf.getvalue(), values)


def _values(figure: Figure) -> Iterator[Value]:
    """The points of lines that say what they are: a paragraph of their label each."""
    scale = 72 / figure.dpi
    height = 72 * figure.get_figheight()
    for axes, line in [(each, line) for each in figure.axes for line in each.lines]:
        texts = str(line.get_label()).split("\n\n")
        if texts[0].startswith("_"):  # matplotlib's own
            continue
        places = axes.transData.transform(line.get_xydata())
        for (x, y), text in zip(places, texts, strict=True):
            yield Value(round(scale * x, 2), round(height - scale * y, 2), text)


def save_figures(reports: Sequence[Report], folder: Path, theme: Theme = PAPER) -> Iterator[str]:
    """Write every figure into `folder`, as SVG, PNG and PDF; yield a line for each.

    Raises InputError where it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for report in reports:
            count = 0
            for figure in figures(report, theme):
                write_output(folder / f"{figure.name}.svg", figure.svg.encode())
                write_output(folder / f"{figure.name}.png", figure.png)
                write_output(folder / f"{figure.name}.pdf", figure.pdf)
                count += 1
                yield f"{folder / figure.name}.svg, .png and .pdf: {figure.title}"
            if not count:
                yield f"{report.experiment}: nothing to draw yet"
    except OSError as error:
        raise InputError(f"--figures: {folder}: {error.strerror or error}") from error


def _spread(report: Report) -> str:
    """What line and band are, in a few words."""
    seeds = max((len(row.seeds) for row in report.rows), default=0)
    if seeds < 2:
        return "one seed"
    so_far = "" if report.complete else ", as far as they have come"
    return f"mean and standard deviation over {seeds} seeds{so_far}"


def caption(report: Report, name: str) -> str:
    """What a reader of a figure must know, to be put below it."""
    what = f"{report.title or report.experiment}: {TITLES[name]}."
    if name == "pflops":
        parts = [what, f"Points and bars: {_spread(report)}.", CONVENTION]
        parts.append("Dotted to an empty dot: the teacher's part of the costs.")
        return " ".join(parts)
    return " ".join(
        [
            what,
            "The axis has the same step for each prune round.",
            f"Lines and bands: {_spread(report)}; thin lines: single seeds, beyond the levels that "
            "all have reached. Grey: the teacher, with stars at the levels that taught.",
            "Stars: the level that a row's rule takes on the mean validation accuracy, selected on "
            f"the {report.selected_on} set; rings: where a stop rule stopped, the median of the "
            "seeds.",
            "Shaded: phases of the recipe that only prunes.",
            PHASES_RULE,
        ]
    )
