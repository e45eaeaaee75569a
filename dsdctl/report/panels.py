"""Which curves of a report stand in one panel of a figure.

Rows of a variant that read the same trajectories are one line. What is trained on (axes of the
matrix under `dataset` and `label_noise`) parts panels, and so do the mappings of a matrix that is
a list of them. Where other axes vary, each of their values is a line and each recipe a panel;
where none does, the recipes are the lines.
"""

import bisect
import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dsdctl.plan.stopping import ROUNDING
from dsdctl.report.answer import Level
from dsdctl.report.axes import axis_words, variant_words
from dsdctl.report.curve_summary import Curve
from dsdctl.report.curves import mean_curve
from dsdctl.report.rows import ReportRow
from dsdctl.report.table import Report, measured_levels
from dsdctl.spec.experiment import SparsestWithin


@dataclass(frozen=True)
class Line:
    """The rows of a variant that read the same trajectories, and these, by seed.

    Seeds that have no level yet are left out.
    """

    label: str
    rows: tuple[ReportRow, ...]
    seeds: Mapping[int, Sequence[Level]]

    @property
    def reach(self) -> int:
        """How many levels all seeds have."""
        return min(len(levels) for levels in self.seeds.values())

    def reported(self) -> list[int]:
        """The level that each finished row's rule takes on the mean validation accuracy, once.

        Rows that report where they stopped have none; their mark is that of the stop.
        """
        rows = [row for row in self.rows if row.finished_seeds and row.select != "stopped"]
        found = [self._chosen(row) for row in rows]
        return list(dict.fromkeys(level for level in found if level is not None))

    def _chosen(self, row: ReportRow) -> int | None:
        ran = min(int(count) for count in row.trainings.values if count is not None)
        levels = list(self.seeds.values())
        values = [[level["validation_accuracy"] for level in seed[:ran]] for seed in levels]
        mean = mean_curve(values)
        within = row.select.sparsest_within if isinstance(row.select, SparsestWithin) else 0.0
        close = [k for k, value in enumerate(mean) if max(mean) - value <= within + ROUNDING]
        sparsest = within and levels[0][-1]["sparsity"]
        return (max if sparsest else min)(close, default=None)

    def stopped(self) -> list[int]:
        """The level at which a stop rule ended each row, as far as all seeds have come: the median
        of the seeds that it ended."""
        found = [statistics.median_low(stops) for row in self.rows if (stops := _stops(row))]
        return list(dict.fromkeys(level for level in found if level < self.reach))


def _stops(row: ReportRow) -> list[int]:
    by_seed = zip(row.stopped_at.values, row.stop_reasons, strict=True)
    return [
        int(level)
        for level, reason in by_seed
        if level is not None and reason == "accuracy dropped"
    ]


@dataclass(frozen=True)
class Teacher:
    """A teacher's trajectory and the levels that taught."""

    levels: Sequence[Level]
    taught: frozenset[int]


class SparsityAxis:
    """Positions on the stretched axis: the same step for each prune round.

    Level k of the sparsest trajectory stands at k, and a level of another one where its sparsity
    lies between these, by the logarithm of its density. Unpruned levels stand at their number.
    """

    def __init__(self, trajectories: Sequence[Sequence[Level]]):
        begun = [levels for levels in trajectories if levels]
        pruned = [levels for levels in begun if levels[-1]["sparsity"] > 0]
        sparsest = max(pruned, key=lambda levels: levels[-1]["sparsity"], default=())
        self._sparsity = [float(level["sparsity"]) for level in sparsest]
        unpruned = [levels for levels in begun if levels[-1]["sparsity"] == 0]
        self.end = max(1, *(len(levels) for levels in (sparsest, *unpruned))) - 1

    @property
    def pruned(self) -> bool:
        return bool(self._sparsity)

    def position(self, level: Level) -> float:
        """Where a level stands, in prune rounds."""
        sparsity = float(level["sparsity"])
        if not sparsity or not self._sparsity:
            return float(level["level"])
        after = min(bisect.bisect_left(self._sparsity, sparsity), len(self._sparsity) - 1)
        low, high = (math.log1p(-self._sparsity[k]) for k in (after - 1, after))
        return after - 1 + (math.log1p(-sparsity) - low) / (high - low)

    def extent(self, curve: Curve, first: int, last: int) -> tuple[float, float]:
        """Where a curve's levels `first` to `last` begin and end: halfway to those beside them."""
        at = [
            self.position({"level": level, "sparsity": sparsity})
            for level, sparsity in zip(curve.levels, curve.mean_sparsity, strict=True)
        ]
        ends = [at[0] - 0.5, *map(statistics.fmean, itertools.pairwise(at)), at[-1] + 0.5]
        return ends[first], ends[last + 1]

    def label(self, k: int) -> str:
        """The sparsity at k in percent, to two digits, or two of the density; or k itself."""
        if not self._sparsity:
            return str(k)
        density = round(100 * (1 - self._sparsity[k]), 9)
        if density >= 100:
            return "0"
        digits = max(2, 1 - math.floor(math.log10(density)))
        return f"{100 - density:.{digits}f}".rstrip("0").rstrip(".")

    def ticks(self, most: int) -> list[int]:
        """Levels to be labelled, evenly spaced from 0, `most` at the most."""
        last = len(self._sparsity) - 1 if self._sparsity else self.end
        step = max(1, math.ceil(last / max(1, most - 1)))
        found = list(range(0, last + 1, step))
        if 4 * (last - found[-1]) >= 3 * step:
            found.append(last)
        return found


@dataclass(frozen=True)
class Panel:
    """Lines that are drawn over each other, and the curve whose phases are shown, if any."""

    title: str
    lines: tuple[Line, ...]
    teachers: tuple[Teacher, ...]
    phased: Curve | None

    @property
    def has_flipped_labels(self) -> bool:
        """Whether its lines were trained on flipped labels, so that fitting these was measured."""
        first = [levels[0] for line in self.lines for levels in line.seeds.values()]
        return all(level["fitted_noisy"] is not None for level in first)


@dataclass(frozen=True)
class Cloud:
    """Rows on the same data, to be drawn as points; in a group are those of one line.

    `labels` tell the groups' variants apart, and are empty where there is one variant.
    """

    title: str
    groups: tuple[tuple[ReportRow, ...], ...]
    labels: tuple[str, ...]


def panels(report: Report) -> list[Panel]:
    """Sort what has been measured into panels; empty before any level is."""
    trajectories = measured_levels(report.trajectories)
    found: dict[tuple[str, ...], list[Line]] = {}
    for rows in _groups(report):
        seeds = {
            seed: trajectories[key][: rows[0].trainings_max]
            for seed, key in zip(rows[0].seeds, rows[0].trajectory_keys, strict=True)
            if trajectories[key]
        }
        if seeds:
            label, title = _names(report, rows)
            found.setdefault(title, []).append(Line(label, rows, seeds))
    return [
        Panel(_joined(title), tuple(lines), _teachers(lines, trajectories), _phased(report, lines))
        for title, lines in found.items()
    ]


def clouds(report: Report) -> list[Cloud]:
    """Sort the rows by what they are trained on; variants that are one network are one."""
    found: dict[tuple[str, ...], dict[object, tuple[ReportRow, ...]]] = {}
    for rows in _groups(report):
        data = {axis: value for axis, value in rows[0].axes.items() if _is_data(axis)}
        points = [(row.recipe, row.trainings.values, row.level.values) for row in rows]
        groups = found.setdefault(tuple(map(axis_words, data, data.values())), {})
        groups.setdefault((rows[0].trajectory_keys, *points), rows)
    return [
        Cloud(_joined(title), tuple(groups.values()), _labels(groups.values()))
        for title, groups in found.items()
    ]


def _labels(groups: Iterable[Sequence[ReportRow]]) -> tuple[str, ...]:
    """What each group's variant is called beside the others on the same data."""
    labels = [
        variant_words({axis: at for axis, at in rows[0].axes.items() if not _is_data(axis)})
        for rows in groups
    ]
    return tuple(labels if len(set(labels)) > 1 else [""] * len(labels))


def _groups(report: Report) -> list[tuple[ReportRow, ...]]:
    """The rows of a variant that read the same trajectories, together."""
    found: dict[tuple[str, tuple[str, ...]], list[ReportRow]] = {}
    for row in report.rows:
        found.setdefault((row.variant, row.trajectory_keys), []).append(row)
    return [tuple(rows) for rows in found.values()]


def _names(report: Report, rows: Sequence[ReportRow]) -> tuple[str, tuple[str, ...]]:
    """What a line is called, and the parts of its panel's title."""
    axes = rows[0].axes
    block = [row.axes for row in report.rows if row.axes.keys() == axes.keys()]
    lines = [
        axis for axis in axes if not _is_data(axis) and len({other[axis] for other in block}) > 1
    ]
    title = [axis_words(axis, axes[axis]) for axis in axes if axis not in lines]
    if not lines:
        return recipe_names(rows), tuple(title)
    several = len({row.recipe for row in report.rows}) > len(rows)
    label = ", ".join(axis_words(axis, axes[axis]) for axis in lines)
    return label, (recipe_names(rows) if several else "", *title)


def _is_data(axis: str) -> bool:
    return axis.split(".")[0] in ("dataset", "label_noise")


def recipe_names(rows: Sequence[ReportRow]) -> str:
    """What the rows of one line are called together."""
    return ", ".join(row.recipe for row in rows)


def _joined(title: Sequence[str]) -> str:
    return ", ".join(filter(None, title))


def _teachers(
    lines: Sequence[Line], trajectories: Mapping[str, Sequence[Level]]
) -> tuple[Teacher, ...]:
    """The teachers of `lines`, but for those that are lines themselves."""
    rows = [row for line in lines for row in line.rows]
    students = {key for row in rows for key in row.trajectory_keys}
    taught: dict[str, set[int]] = {}
    for row in rows:
        for key in row.teacher_keys:
            if key is not None and key not in students and trajectories[key]:
                levels = taught.setdefault(key, set())
                levels.update(() if row.teacher_level is None else (row.teacher_level,))
    return tuple(Teacher(trajectories[key], frozenset(levels)) for key, levels in taught.items())


def _phased(report: Report, lines: Sequence[Line]) -> Curve | None:
    """The curve of the one line that only prunes; with several, whose phases would be shown?

    None also while some seed has no level yet, and there are no phases.
    """
    is_baseline = [line.rows[0] for line in lines if line.rows[0].is_baseline]
    if len(is_baseline) != 1:
        return None
    (row,) = is_baseline
    wanted = (row.recipe, row.variant)
    curves = {(curve.recipe, curve.variant): curve for curve in report.curves if curve.phases}
    return curves.get(wanted)


def sparsity_axis(shown: Sequence[Panel]) -> SparsityAxis:
    """One axis for all trajectories of `shown`."""
    trajectories: list[Sequence[Level]] = []
    for panel in shown:
        trajectories += [levels for line in panel.lines for levels in line.seeds.values()]
        trajectories += [teacher.levels for teacher in panel.teachers]
    return SparsityAxis(trajectories)
