"""The texts of a comparison's cells, the same in every format."""

from collections.abc import Iterable

from dsdctl.report.curve_summary import Curve
from dsdctl.report.curves import spans
from dsdctl.report.rows import ReportRow
from dsdctl.report.seeds import PairedDifference, Stats
from dsdctl.report.table import Report
from dsdctl.spec.experiment import MeanStd
from dsdctl.units import PFLOPS, FlopsUnit, duration, flops_unit, magnitude

HEADINGS = (
    "recipe",
    "early stop",
    "distillation",
    "pruned teacher",
    "student PFLOPs",
    "total PFLOPs",
    "test accuracy %",
    "sparsity %",
    "level",
    "stopped at",
    "teacher PFLOPs",
    "non-zero PFLOPs",
    "wall time",
)

IN_80_COLUMNS = 8
"""So many columns, the first, are shown where there is no room for all."""

DIVERGED, MIXED = "†", "‡"
"""Marks beside an accuracy: a seed diverged; several environments computed the row."""

FINDINGS = (
    "recipe",
    "difference [95 %]",
    "sparse double descent",
    "phases end at sparsity %",
    "interpolates",
)


def cost_unit(rows: Iterable[ReportRow]) -> FlopsUnit:
    """The unit in which what rows cost, and the published values beside it, is read best."""
    costs = [row.total_pflops for row in rows]
    costs += [row.reference.pflops for row in rows if row.reference is not None]
    return flops_unit(max((cost for cost in costs if cost is not None), default=0.0))


def headings(unit: FlopsUnit, columns: Iterable[str] = HEADINGS) -> list[str]:
    """Headings of columns, with the unit that their costs are given in."""
    return [heading.replace(PFLOPS.name, unit.name) for heading in columns]


def cells(row: ReportRow, unit: FlopsUnit = PFLOPS) -> list[str]:
    """The cells of a row, in the order of HEADINGS."""
    return [
        row.recipe,
        _tick(row.early_stop),
        _tick(row.distillation),
        _tick(row.pruned_teacher),
        _flops(row.pflops.mean, unit),
        _flops(row.total_pflops, unit),
        percent_text(row.test_accuracy) + marks(row),
        percent_text(row.sparsity),
        level_text(row),
        number_text(row.stopped_at),
        _flops(row.teacher_pflops, unit, ""),
        _counted(_flops(row.pflops_nonzero.mean, unit), row.pflops_nonzero),
        "—" if row.wall_seconds.mean is None else duration(row.wall_seconds.mean),
    ]


def level_text(row: ReportRow) -> str:
    """The level that a row reports; called dense where no seed's is pruned."""
    text = number_text(row.level)
    unpruned = row.sparsity.n > 0 and not any(row.sparsity.values)
    return f"{text} (dense)" if unpruned else text


def marks(row: ReportRow) -> str:
    """What a reader of a row's accuracy is to be warned of."""
    diverged = any(level is not None for level in row.diverged_at)
    return DIVERGED * diverged + MIXED * (len(row.environments) > 1)


def reference_cells(row: ReportRow, unit: FlopsUnit = PFLOPS) -> list[str] | None:
    """The published values beside a row, or None where there are none."""
    reference = row.reference
    if reference is None:
        return None
    return [
        "  paper",
        "",
        "",
        "",
        _flops(reference.pflops, unit, ""),
        _flops(_total(reference.pflops, reference.teacher_pflops), unit, ""),
        _published(reference.test_accuracy),
        _published(reference.sparsity),
        "",
        "",
        _flops(reference.teacher_pflops, unit, ""),
        "",
        "",
    ]


def _total(student: float | None, teacher: float | None) -> float | None:
    return None if student is None else student + (teacher or 0.0)


def gap_cells(row: ReportRow, unit: FlopsUnit = PFLOPS) -> list[str] | None:
    """Ours minus the published values, in `unit` and points; None where nothing is published."""
    reference = row.reference
    if reference is None:
        return None
    total = _total(reference.pflops, reference.teacher_pflops)
    return [
        "  ours - paper",
        "",
        "",
        "",
        _flops_gap(row.pflops.mean, reference.pflops, unit),
        _flops_gap(row.total_pflops, total, unit),
        _points_gap(row.test_accuracy, reference.test_accuracy),
        _points_gap(row.sparsity, reference.sparsity),
        "",
        "",
        _flops_gap(row.teacher_pflops, reference.teacher_pflops, unit),
        "",
        "",
    ]


def _points_gap(ours: Stats, theirs: MeanStd | None) -> str:
    return "" if ours.mean is None or theirs is None else f"{100 * (ours.mean - theirs.mean):+.2f}"


def _flops_gap(ours: float | None, theirs: float | None, unit: FlopsUnit) -> str:
    """As exact as the published value is shown."""
    if ours is None or theirs is None:
        return ""
    ours, theirs = unit.per_pflop * ours, unit.per_pflop * theirs
    return f"{ours - theirs:+.2f}" if theirs >= 0.1 else f"{ours - theirs:+.2g}"


def finding_cells(report: Report) -> list[list[str]]:
    """What each row's curve shows, in the order of FINDINGS."""
    found = []
    for row, curve in zip(report.rows, report.curves, strict=True):
        verdict = f"{curve.sparse_double_descent}: {curve.reason}"
        found.append([row.name, _difference(row), verdict, _phase_ends(curve), _fitting(curve)])
    return found


def _difference(row: ReportRow) -> str:
    """In points, with its interval where there are two pairs; missing seeds are marked."""
    return "" if row.difference is None else difference_text(row.difference, len(row.seeds))


def difference_text(difference: PairedDifference, seeds: int) -> str:
    """As a row of so many `seeds` shows it: in points, with its interval where there is one."""
    mean, interval, pairs = difference_parts(difference, seeds)
    return " ".join(filter(None, [mean, interval, pairs]))


def difference_parts(difference: PairedDifference, seeds: int) -> tuple[str, str, str]:
    """The mean in points, its interval, and how many of so many `seeds` pair; empty if nothing."""
    interval = ""
    if difference.low is not None and difference.high is not None:
        interval = f"[{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]"
    pairs = "" if difference.n == seeds else f"({difference.n}/{seeds})"
    return f"{100 * difference.mean:+.2f}", interval, pairs


def _phase_ends(curve: Curve) -> str:
    """Where each phase ends but the last; empty with a single one."""
    ends = spans(curve.phases)[:-1]
    return ", ".join(f"{span.phase} {_place(curve, span.last)}" for span in ends)


def _fitting(curve: Curve) -> str:
    """Up to which sparsity the network interpolates its training labels."""
    threshold = curve.interpolation_threshold
    if not curve.levels:
        return ""
    if threshold is None:
        return "never"
    return "always" if threshold == curve.levels[-1] else f"to {_place(curve, threshold)}"


def _place(curve: Curve, level: int) -> str:
    sparsity = curve.mean_sparsity[level]
    return f"{100 * sparsity:.1f}" if curve.mean_sparsity[-1] else f"level {level}"


def _tick(yes: bool) -> str:
    return "x" if yes else ""


def _published(value: MeanStd | None) -> str:
    if value is None:
        return ""
    text = f"{100 * value.mean:.2f}"
    return text if value.std is None else f"{text} ± {100 * value.std:.2f}"


def percent_text(stats: Stats) -> str:
    """A share over seeds, in percent."""
    return _spread(stats, 100, 2)


def number_text(stats: Stats) -> str:
    """A count over seeds; as it is where all agree."""
    known = [value for value in stats.values if value is not None]
    if known and len(known) == len(stats.values) and len(set(known)) == 1:
        return f"{known[0]:.0f}"
    return _spread(stats, 1, 1)


def _spread(stats: Stats, scale: float, digits: int) -> str:
    """mean ± std, or `—` where all seeds are missing."""
    if stats.mean is None:
        return "—"
    text = f"{scale * stats.mean:.{digits}f}"
    if stats.std is not None:
        text += f" ± {scale * stats.std:.{digits}f}"
    return _counted(text, stats)


def _counted(text: str, stats: Stats) -> str:
    """Missing seeds are marked, as `(1/3)`, but where all are."""
    return text if stats.n in (0, len(stats.values)) else f"{text} ({stats.n}/{len(stats.values)})"


def flops_text(own: float | None, teacher: float | None, unit: FlopsUnit) -> str:
    """What a row costs, its teacher in brackets."""
    text = _flops(own, unit)
    return text if teacher is None else f"{text} (+{_flops(teacher, unit)})"


def _flops(value: float | None, unit: FlopsUnit, absent: str = "—") -> str:
    return absent if value is None else magnitude(unit.per_pflop * value)
