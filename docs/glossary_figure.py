"""Draw the glossary's picture of a dip, with the code that draws a report's figures.

    python docs/glossary_figure.py docs/glossary.svg

The curve is made up. Dip, phases, threshold and verdict are what a report would say of it.
"""

import sys

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dsdctl.report.curve_summary import STILL_INTERPOLATES, Curve
from dsdctl.report.curves import find_dip, interpolation_threshold, judge, mean_curve, phases
from dsdctl.report.figures.by_level import CURVES
from dsdctl.report.figures.drawing import (
    PHASES_KEY,
    draw_line,
    draw_marks,
    draw_phases,
    name_phases,
    stretch,
)
from dsdctl.report.figures.layout import entitle, handle, legend, panel_points, paper_figure
from dsdctl.report.figures.style import THRESHOLD, line_pen, look, settings
from dsdctl.report.panels import Line, Panel, SparsityAxis

ACCURACY = (61.0, 61.4, 61.2, 59.5, 57.0, 55.2, 56.8, 61.5, 65.8, 67.4, 64.0, 56.5, 38.0)
"""Test accuracy in percent by level, the mean of the seeds."""

TRAIN = (100, 100, 100, 100, 99.9, 99.6, 97.0, 90.0, 80.0, 72.0, 66.0, 57.0, 40.0)
SCATTER = ((1.0, -0.8, 0.6), (-1.2, 0.4, -0.8), (0.2, 0.4, 0.2))
"""What each seed is off, in points, over and over."""

FRACTION = 0.3
"""Share of the remaining weights that each round prunes."""


def made_up_seeds() -> list[list[dict[str, float]]]:
    """What levels record, as far as the figure shows it, by seed."""
    return [
        [
            {
                "level": level,
                "sparsity": 1 - (1 - FRACTION) ** level,
                "test_accuracy": (accuracy + off[level % len(off)]) / 100,
            }
            for level, accuracy in enumerate(ACCURACY)
        ]
        for off in SCATTER
    ]


def read(seeds: list[list[dict[str, float]]]) -> Curve:
    """What a report says of these seeds."""
    curves = [[level["test_accuracy"] for level in levels] for levels in seeds]
    mean, train = mean_curve(curves), [accuracy / 100 for accuracy in TRAIN]
    dip, threshold = find_dip(mean), interpolation_threshold(train)
    assert dip is not None
    verdict = judge(curves, open_end=STILL_INTERPOLATES if threshold == len(mean) - 1 else "")
    return Curve(
        recipe="vanilla",
        variant="",
        levels=tuple(range(len(mean))),
        mean_test_accuracy=tuple(mean),
        dip=dip.depth,
        sparse_double_descent=verdict.verdict,
        reason=verdict.reason,
        dip_levels={"before": dip.before, "bottom": dip.bottom, "after": dip.after},
        phases=tuple(phases(mean)),
        interpolation_threshold=threshold,
        mean_sparsity=tuple(level["sparsity"] for level in seeds[0]),
        mean_train_accuracy=tuple(train),
        mean_fitted_noisy=None,
        mean_fitted_true=None,
    )


def draw(seeds: list[list[dict[str, float]]], curve: Curve) -> Figure:
    """One panel, as in a report's figure, with the dip marked."""
    figure = paper_figure(1, 0.62)
    axes = figure.subplots()
    axis = SparsityAxis(seeds)
    line = Line("vanilla", (), dict(enumerate(seeds)))
    panel = Panel("", (line,), (), curve)
    draw_phases(axes, axis, panel)
    draw_line(axes, axis, line, look(0), CURVES[0])
    draw_marks(axes, axis, line, look(0), CURVES[0])
    mark_dip(axes, curve)
    points = panel_points(figure, 1)
    name_phases(axes, axis, panel, points / (axis.end + 1.2))
    entitle(
        axes,
        f"sparse double descent: {curve.sparse_double_descent}, {curve.reason}",
        points,
        pad=12,
    )
    stretch([axes], axis, ticks=7)
    axes.set_ylabel(CURVES[0].label)
    handles = [handle("vanilla", line_pen(look(0))), handle("interpolation threshold", THRESHOLD)]
    legend(
        figure, handles, f"made-up curve, mean and standard deviation over 3 seeds\n{PHASES_KEY}"
    )
    return figure


def mark_dip(axes: Axes, curve: Curve) -> None:
    """An arrow from the lower of both peaks down to the bottom."""
    levels, mean = curve.dip_levels, curve.mean_test_accuracy
    assert levels is not None
    bottom, top = 100 * mean[levels.bottom], 100 * min(mean[levels.before], mean[levels.after])
    x = levels.bottom
    axes.plot([levels.before, x + 2], [top, top], color="#D55E00", linewidth=0.7, linestyle="--")
    axes.annotate(
        "", (x, bottom), (x, top), arrowprops={"arrowstyle": "<->", "color": "#D55E00", "lw": 0.9}
    )
    axes.annotate(
        f"dip: {100 * curve.dip:.1f} points",
        (x, bottom), (0, -9), textcoords="offset points", ha="center", color="#D55E00",
    )  # fmt: skip


if __name__ == "__main__":
    with settings():
        made_up = made_up_seeds()
        figure = draw(made_up, read(made_up))
        figure.savefig(sys.argv[1], metadata={"Date": None, "Title": "A dip and its phases"})
