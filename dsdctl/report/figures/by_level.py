"""Figures of what levels recorded against sparsity: accuracy and entropy, memorisation."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dsdctl.report.figures.drawing import (
    PHASES_KEY,
    Quantity,
    draw_line,
    draw_marks,
    draw_phases,
    draw_teacher,
    name_phases,
    stretch,
)
from dsdctl.report.figures.layout import (
    columns_of,
    entitle,
    handle,
    legend,
    panel_points,
    paper_figure,
)
from dsdctl.report.figures.style import (
    REPORTED,
    STOPPED,
    TEACHER,
    TEACHING,
    THRESHOLD,
    Look,
    line_pen,
    look,
)
from dsdctl.report.panels import Panel, SparsityAxis, sparsity_axis

CURVES = (
    Quantity("test_accuracy", "test accuracy (%)", height=1.7),
    Quantity("entropy_bits", "entropy (bits)", scale=1),
)
MEMORISATION = (
    Quantity("fitted_noisy", "% of flipped labels\nfitted to noisy class"),
    Quantity("fitted_true", "% of flipped labels\nfitted to true class"),
)


def by_level(
    quantities: Sequence[Quantity], spread: str, width: float | None, shown: Sequence[Panel]
) -> Figure:
    """Quantities against sparsity: panels side by side, in each the quantities one over another.

    `spread` says what lines and bands are; `width` is in inches, None that of a paper's columns.
    """
    columns = columns_of(len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = paper_figure(len(shown), 0.7 if columns == 1 else 0.4, width)
    grid = figure.subplots(
        rows * len(quantities),
        columns,
        squeeze=False,
        sharey="row",
        height_ratios=[quantity.height for quantity in quantities] * rows,
    )
    labels = dict.fromkeys(line.label for panel in shown for line in panel.lines)
    looks = {label: look(number) for number, label in enumerate(labels)}
    axis = sparsity_axis(shown)
    points = panel_points(figure, len(shown))
    for index in range(rows * columns):
        row, column = divmod(index, columns)
        stack = list(grid[row * len(quantities) : (row + 1) * len(quantities), column])
        if index < len(shown):
            _stack(stack, shown[index], axis, quantities, looks)
            _headings(stack[0], shown[index], axis, points)
            stretch(stack, axis, ticks=7 if columns < 3 else 5)
        else:
            for axes in stack:
                axes.set_axis_off()
    for axes, quantity in zip(grid[:, 0], list(quantities) * rows, strict=True):
        axes.set_ylabel(quantity.label)
    _legend_by_level(figure, shown, looks, spread)
    return figure


def _stack(
    stack: Sequence[Axes],
    panel: Panel,
    axis: SparsityAxis,
    quantities: Sequence[Quantity],
    looks: Mapping[str, Look],
) -> None:
    """One panel: each quantity on axes of its own, the marks on the first."""
    for axes, quantity in zip(stack, quantities, strict=True):
        draw_phases(axes, axis, panel)
        for teacher in panel.teachers:
            draw_teacher(axes, axis, teacher, quantity)
        for line in panel.lines:
            draw_line(axes, axis, line, looks[line.label], quantity)
            if axes is stack[0]:
                draw_marks(axes, axis, line, looks[line.label], quantity)


def _headings(axes: Axes, panel: Panel, axis: SparsityAxis, points: float) -> None:
    """The panel's title, and the phases' numerals below it."""
    name_phases(axes, axis, panel, points / (axis.end + 1.2))
    entitle(axes, panel.title, points, pad=12 if panel.phased else 6)


def _legend_by_level(
    figure: Figure, shown: Sequence[Panel], looks: Mapping[str, Look], spread: str
) -> None:
    lines = [line for panel in shown for line in panel.lines]
    handles = [handle(label, line_pen(style)) for label, style in looks.items()]
    if any(panel.teachers for panel in shown):
        handles.append(handle("teacher checkpoint", {**TEACHER, **TEACHING}))
    if any(line.reported() for line in lines):
        handles.append(handle("reported level, by the mean", {**REPORTED, "color": "0.3"}))
    if any(line.stopped() for line in lines):
        handles.append(handle("stopped, median seed", {**STOPPED, "color": "0.3"}))
    phased = any(panel.phased for panel in shown)
    if phased:
        handles.append(handle("interpolation threshold", THRESHOLD))
    legend(figure, handles, f"{spread}\n{PHASES_KEY}" if phased else spread)
