"""The figure of what accuracy costs."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dsdctl.report.figures.layout import (
    columns_of,
    entitle,
    handle,
    legend,
    panel_points,
    paper_figure,
)
from dsdctl.report.figures.style import Look, Pen, look
from dsdctl.report.panels import Cloud, recipe_names
from dsdctl.report.rows import ReportRow
from dsdctl.units import PFLOPS, FlopsUnit, magnitude


def against_pflops(width: float | None, shown: Sequence[Cloud], unit: FlopsUnit = PFLOPS) -> Figure:
    """Each row at what one seed of it costs, its teacher included, and the Pareto front.

    `width` is in inches, None that of a paper's columns; costs are in `unit`.
    """
    columns = columns_of(len(shown))
    figure = paper_figure(len(shown), 0.55 if columns == 1 else 0.3, width)
    grid = figure.subplots(math.ceil(len(shown) / columns), columns, squeeze=False, sharey="row")
    names = dict.fromkeys(recipe_names(rows) for cloud in shown for rows in cloud.groups)
    looks = {name: look(number) for number, name in enumerate(names)}
    labels = dict.fromkeys(label for cloud in shown for label in cloud.labels if label)
    shapes = dict(zip(labels, itertools.cycle(SHAPES), strict=False))
    handles: dict[str, Line2D] = {}
    for axes, cloud in zip(grid.flat, shown, strict=False):
        _scatter(axes, cloud, unit, looks, shapes, handles)
        entitle(axes, cloud.title, panel_points(figure, len(shown)))
        axes.set_xlabel(f"training {unit.name}, the teacher's included")
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("test accuracy (%)")
    if any(row.teacher_pflops for cloud in shown for rows in cloud.groups for row in rows):
        handles["teacher"] = handle("its teacher's part", TEACHERS_PART)
    handles["front"] = handle("Pareto front", FRONT)
    variants = [handle(label, _marker("0.3", shape)) for label, shape in shapes.items()]
    legend(figure, [*handles.values(), *variants], PFLOPS_KEY)
    return figure


PFLOPS_KEY = (
    "3 x forward MACs x images x epochs x trainings of one seed, dense at\n"
    "every level; one FLOP is one multiply-accumulate.\n"
    "The teacher's forward passes are not counted."
)
FRONT: Pen = {"color": "0.72", "linewidth": 0.8, "linestyle": "-"}
TEACHERS_PART: Pen = {
    "color": "0.4",
    "linestyle": (0, (1, 1.2)),
    "linewidth": 1.2,
    "marker": "o",
    "markersize": 2.6,
    "markerfacecolor": "white",
    "markeredgewidth": 0.6,
    "markevery": (0, 2),
}
"""A dotted line from the cost without the teacher, an empty dot: no error bar looks like it."""
SHAPES = ("s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*", "d")
"""Markers of variants, where these differ in more than their data."""


def _marker(color: str, shape: str, *, filled: bool = True) -> Pen:
    return {
        "color": color,
        "linestyle": "none",
        "marker": shape,
        "markersize": 4.5,
        "markerfacecolor": color if filled else "none",
    }


@dataclass(frozen=True)
class Point:
    """A row by what one seed costs, alone and with its teacher, and what it reaches."""

    row: ReportRow
    line: str
    variant: str
    own: float
    cost: float
    accuracy: float

    def pen(self, style: Look, shape: str | None) -> Pen:
        """In the line's marker, or the `shape` of its variant.

        Of the rows of a line the first one is filled; further ones are rings, as stops are.
        """
        first = self.line.split(", ")[0] == self.row.recipe
        return _marker(style.color, shape or (style.marker if first else "o"), filled=first)


def _points(cloud: Cloud, unit: FlopsUnit) -> list[Point]:
    """The rows of which cost and accuracy are known."""
    return [
        Point(
            row,
            recipe_names(rows),
            label,
            unit.per_pflop * own,
            unit.per_pflop * (own + (row.teacher_pflops or 0.0)),
            100 * accuracy,
        )
        for rows, label in zip(cloud.groups, cloud.labels, strict=True)
        for row in rows
        if (own := row.pflops.mean) is not None and (accuracy := row.test_accuracy.mean) is not None
    ]


def priced(clouds: Sequence[Cloud]) -> list[Cloud]:
    """Those of `clouds` in which there are points to compare."""
    return [cloud for cloud in clouds if len(_points(cloud, PFLOPS)) > 1]


def _scatter(
    axes: Axes,
    cloud: Cloud,
    unit: FlopsUnit,
    looks: Mapping[str, Look],
    shapes: Mapping[str, str],
    handles: dict[str, Line2D],
) -> None:
    """Draw a cloud, and add what it needs to the legend's `handles`."""
    points = _points(cloud, unit)
    front = pareto_front([(point.cost, point.accuracy) for point in points])
    axes.set_xscale("log")
    axes.step([x for x, _ in front], [y for _, y in front], where="post", zorder=1, **FRONT)
    for point in points:
        row, style = point.row, looks[point.line]
        pen = point.pen(style, shapes.get(point.variant))
        spread = 100 * (row.test_accuracy.std or 0.0)
        drawn = axes.errorbar(point.cost, point.accuracy, spread, elinewidth=0.7, zorder=3, **pen)
        variant = f", {point.variant}" if point.variant else ""
        drawn.lines[0].set_label(
            f"{row.recipe}{variant}\ntest accuracy (%) {point.accuracy:.2f} ± {spread:.2f}\n"
            f"{magnitude(point.cost)} {unit.name}"
        )
        if point.own < point.cost:
            part = {**TEACHERS_PART, "color": style.color}
            axes.plot([point.own, point.cost], [point.accuracy] * 2, zorder=2, **part)
        handles.setdefault(
            row.recipe, handle(row.recipe, point.pen(style, "o" if shapes else None))
        )
    low = min(point.own for point in points) / MARGIN
    high = max(point.cost for point in points) * MARGIN
    ticks = cost_ticks(low, high)
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [f"{value:.6g}" for value in ticks])
    axes.set_xticks([], minor=True)


MOST_TICKS = 5
MARGIN = 1.25
"""Room left of the least and right of the highest cost, as a factor."""


def cost_ticks(low: float, high: float) -> list[float]:
    """At most MOST_TICKS values between two costs: 1, 2, 5, 10, ... or finer ones."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        values = [digit * 10.0**exponent for exponent in exponents for digit in digits]
        ticks = [value for value in values if low <= value <= high]
        if len(ticks) <= MOST_TICKS:
            break
    if len(ticks) < 2:
        locator = MaxNLocator(MOST_TICKS - 1, steps=[1, 2, 5, 10])
        ticks = [float(v) for v in locator.tick_values(low, high) if low <= v <= high]
    return ticks[:: math.ceil(len(ticks) / MOST_TICKS)]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (cost, accuracy) that no other one beats in both, by cost."""
    front: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((cost, accuracy))
    return front
