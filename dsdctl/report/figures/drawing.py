"""What stands in a panel: lines with their bands and marks, teachers, phases, the sparsity axis."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from dsdctl.report.answer import Level
from dsdctl.report.curves import PHASES, mean_curve, spans
from dsdctl.report.figures.layout import text_width
from dsdctl.report.figures.style import (
    FONT_SIZE,
    GREY,
    REPORTED,
    STOPPED,
    TEACHER,
    THRESHOLD,
    Look,
    enlarged,
    line_pen,
)
from dsdctl.report.panels import Line, Panel, SparsityAxis, Teacher
from dsdctl.report.seeds import std_curve


@dataclass(frozen=True)
class Quantity:
    """Something that levels recorded, and how it is shown."""

    field: str
    label: str
    scale: float = 100
    height: float = 1

    def values(self, levels: Sequence[Level]) -> list[float]:
        """Its values by level, as they are shown."""
        return [self.scale * level[self.field] for level in levels]


SHADED = ("critical", "collapsed")
NUMERALS = dict(zip(PHASES, ("I", "II", "III", "IV"), strict=True))
PHASES_KEY = "phases: I light, II critical, III sweet, IV collapsed"


def draw_line(axes: Axes, axis: SparsityAxis, line: Line, style: Look, shown: Quantity) -> None:
    """Mean and band over the seeds; single seeds as thin lines beyond what all have reached."""
    values = {seed: shown.values(levels) for seed, levels in line.seeds.items()}
    for seed, levels in line.seeds.items():
        rest = slice(line.reach - 1, None)
        x = [axis.position(level) for level in levels[rest]]
        axes.plot(x, values[seed][rest], color=style.color, linewidth=0.5, zorder=2)
    x = [axis.position(level) for level in next(iter(line.seeds.values()))[: line.reach]]
    mean, std = mean_curve(list(values.values())), std_curve(list(values.values()))
    if std is not None:
        low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=style.color, alpha=0.15, linewidth=0, zorder=1.5)
    (drawn,) = axes.plot(x, mean, zorder=3, **line_pen(style))
    drawn.set_label("\n\n".join(_values(line, mean, std, shown)))


def _values(
    line: Line, mean: Sequence[float], std: Sequence[float] | None, shown: Quantity
) -> Iterator[str]:
    """What each point of a mean curve is, in a few lines."""
    levels = next(iter(line.seeds.values()))
    name = shown.label.replace("\n", " ")
    for level, value in enumerate(mean):
        spread = f" ± {std[level]:.2f}" if std else ""
        sparsity = f"level {level}, sparsity {100 * float(levels[level]['sparsity']):.2f} %"
        yield f"{line.label}\n{sparsity}\n{name} {value:.2f}{spread}"


def draw_marks(axes: Axes, axis: SparsityAxis, line: Line, style: Look, shown: Quantity) -> None:
    """A star at the level that each row reports and a ring where its rule stopped, on the mean."""
    mean = mean_curve([shown.values(levels) for levels in line.seeds.values()])
    levels = next(iter(line.seeds.values()))
    for marks, pen in ((line.reported(), REPORTED), (line.stopped(), STOPPED)):
        for level in marks:
            at = axis.position(levels[level]), mean[level]
            axes.plot(*at, zorder=4, **{**pen, "color": style.color})


def draw_teacher(axes: Axes, axis: SparsityAxis, teacher: Teacher, shown: Quantity) -> None:
    """A teacher's trajectory in grey, with a star at each level that taught."""
    x = [axis.position(level) for level in teacher.levels]
    y = shown.values(teacher.levels)
    axes.plot(x, y, zorder=1.8, **TEACHER)
    for level in sorted(teacher.taught):
        axes.plot(x[level], y[level], zorder=1.9, **{**REPORTED, "color": GREY})


def draw_phases(axes: Axes, axis: SparsityAxis, panel: Panel) -> None:
    """Shade every second phase, and dot where the network no longer interpolates."""
    if panel.phased is None:
        return
    for span in spans(panel.phased.phases):
        if span.phase in SHADED:
            left, right = axis.extent(panel.phased, span.first, span.last)
            axes.axvspan(left, right, color="0.91", linewidth=0, zorder=0)
    threshold = panel.phased.interpolation_threshold
    if threshold is not None and threshold < len(panel.phased.levels) - 1:
        _, after = axis.extent(panel.phased, 0, threshold)
        axes.axvline(after, zorder=0.5, **THRESHOLD)


def name_phases(axes: Axes, axis: SparsityAxis, panel: Panel, level_points: float) -> None:
    """Put the phases' numerals above `axes`, but for those that have no room beside the last.

    `level_points` is the width of a level in points.
    """
    if panel.phased is None:
        return
    right = -math.inf
    for span in spans(panel.phased.phases):
        numeral = NUMERALS[span.phase]
        middle = statistics.fmean(axis.extent(panel.phased, span.first, span.last))
        half = 0.55 * text_width(numeral, enlarged(FONT_SIZE)) / level_points
        if middle - half > right:
            right = middle + half
            axes.annotate(
                numeral, (middle, 1), (0, 1), textcoords="offset points",
                xycoords=("data", "axes fraction"), ha="center", va="bottom", color="0.3",
            )  # fmt: skip


def stretch(stack: Sequence[Axes], axis: SparsityAxis, *, ticks: int) -> None:
    """Give axes that stand over another the stretched axis, labelled below the last.

    A small tick a prune round, at most `ticks` labelled.
    """
    labelled = axis.ticks(ticks)
    for axes in stack:
        axes.set_xlim(-0.6, axis.end + 0.6)
        axes.set_xticks(labelled, [axis.label(k) for k in labelled])
        axes.set_xticks(range(axis.end + 1), minor=True)
        axes.tick_params(labelbottom=axes is stack[-1])
    stack[-1].set_xlabel("sparsity (%)" if axis.pruned else "level (nothing pruned)")
