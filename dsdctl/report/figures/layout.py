"""Figures of one or two columns' width, with titles and a legend that fit them."""

import itertools
import math
import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath

from dsdctl.report.figures.style import COLUMN, FONT_SIZE, PAGE, SMALL, TINY, Pen, enlarged

HANDLE = 35.0
"""What a legend takes beside an entry's text, in points."""


def paper_figure(count: int, aspect: float, width: float | None = None) -> Figure:
    """An empty figure for `count` panels, one or two columns of a paper or `width` inches wide.

    `aspect` is the height of a row of panels over the width of the figure; the legend adds its own.
    """
    columns = columns_of(count)
    width = width or enlarged(COLUMN if columns == 1 else PAGE)
    height = aspect * width * math.ceil(count / columns)
    return Figure(figsize=(width, height), layout="constrained")


def columns_of(count: int) -> int:
    """Panels side by side: a matrix of two data sets and three noise rates keeps its shape."""
    return {1: 1, 2: 2, 4: 2}.get(count, 3)


def panel_points(figure: Figure, count: int) -> float:
    """About how wide each of `count` panels is, in points, without the ticks beside it."""
    return 72 * figure.get_figwidth() / columns_of(count) - enlarged(29)


def entitle(axes: Axes, title: str, points: float, *, pad: float = 6) -> None:
    """Put a title above `axes`, on as many lines as it takes in this width."""
    axes.set_title(_wrapped(title, points, enlarged(FONT_SIZE)), pad=enlarged(pad))


def legend(figure: Figure, handles: Sequence[Line2D], title: str) -> None:
    """Name what is drawn, below all panels, and make `figure` higher by what that takes."""
    room = 72 * figure.get_figwidth() - 2 * enlarged(SMALL)
    for entry in handles:
        entry.set_label(_wrapped(str(entry.get_label()), room - enlarged(HANDLE), enlarged(SMALL)))
    labels = [str(entry.get_label()) for entry in handles]
    columns = next(n for n in (4, 3, 2, 1) if n == 1 or _legend_width(labels, n) < room)
    box = figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        handlelength=3,
        columnspacing=1.5,
        title=title,
        title_fontsize=enlarged(TINY),
    )
    box.get_title().set(color="0.3", multialignment="center")
    lines = max(sum(1 + text.count("\n") for text in part) for part in _parts(labels, columns))
    points = (
        1.5 * enlarged(SMALL) * lines
        + 1.3 * enlarged(TINY) * (1 + title.count("\n"))
        + 2 * enlarged(SMALL)
    )
    figure.set_figheight(figure.get_figheight() + points / 72)


def _legend_width(labels: Sequence[str], columns: int) -> float:
    """How wide a legend is, in points; it is filled column by column."""
    widest = [
        max((text_width(text, enlarged(SMALL)) for text in part), default=0)
        for part in _parts(labels, columns)
    ]
    return sum(width + enlarged(HANDLE) for width in widest)


def _parts(labels: Sequence[str], columns: int) -> list[Sequence[str]]:
    """Labels by column, the longer columns first, as matplotlib fills a legend."""
    size, more = divmod(len(labels), columns)
    ends = list(itertools.accumulate([size + 1] * more + [size] * (columns - more), initial=0))
    return [labels[start:end] for start, end in itertools.pairwise(ends)]


def text_width(text: str, size: float) -> float:
    """How wide a text is at this font size, in points."""
    lines = [line for line in text.split("\n") if line.strip()]
    paths = [TextPath((0, 0), line, size) for line in lines]
    return max((float(path.get_extents().x1) for path in paths), default=0.0)


def _wrapped(text: str, points: float, size: float) -> str:
    """Break `text` so that its lines are about `points` wide at most."""
    width = text_width(text, size)
    if width <= points:
        return text
    return textwrap.fill(text, max(4, int(0.95 * len(text) * points / width)))


def handle(label: str, pen: Pen) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], label=label, **pen)
