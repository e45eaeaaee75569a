"""The comparison for a terminal: table, findings, curves, and what a reader must know."""

from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dsdctl.report.axes import variant_words
from dsdctl.report.cells import (
    FINDINGS,
    HEADINGS,
    IN_80_COLUMNS,
    cells,
    cost_unit,
    finding_cells,
    headings,
    reference_cells,
)
from dsdctl.report.curves import phases
from dsdctl.report.formats.plot import plot
from dsdctl.report.notes import alerts, notes, trajectory_names
from dsdctl.report.panels import panels, sparsity_axis
from dsdctl.report.rows import ReportRow
from dsdctl.report.shortening import fill
from dsdctl.report.sparkline import sparkline
from dsdctl.report.table import Report, by_variant
from dsdctl.report.word_wrapped import natural_width
from dsdctl.report.words import answer_lines, wrapped
from dsdctl.units import FlopsUnit

MAX_VARIANTS = 50
"""Variants with a table, and panels, on a console."""


def rich_report(report: Report, console: Console, *, explained: bool = False) -> RenderableType:
    """The comparison of one experiment, drawn for the width of `console`; `explained`: with all
    that a reader must know of the numbers."""
    parts: list[RenderableType] = [Text(report.experiment, style="bold")]
    lines = answer_lines(report)[:MAX_VARIANTS]
    parts += [Text(wrapped(line, console.width)) for line in lines]
    variants = by_variant(report)
    unit = cost_unit(report.rows)
    parts += [_table(rows, variant, console, unit) for variant, rows in variants[:MAX_VARIANTS]]
    if len(variants) > MAX_VARIANTS:
        parts.append(Text(f"and {len(variants) - MAX_VARIANTS:,} more variants, which JSON has\n"))
    parts += [_findings(report, console), *_plots(report, console.width), _curves(report)]
    parts += [Text(line, style="dim") for line in (notes if explained else alerts)(report)]
    return Group(*parts if explained else [*parts, EXPLAINED])


EXPLAINED = Text("What the numbers mean: dsdctl report SPEC --notes", style="dim")


def brief_report(report: Report, console: Console) -> RenderableType:
    """The comparison as a run ends: short, and the table is the last thing on the screen.

    It names no seconds, so that equal results are printed alike.
    """
    parts: list[RenderableType] = [Text(report.experiment, style="bold")]
    if len(panels(report)) == 1:
        parts += _plots(report, console.width)
    short = len(report.rows) > MAX_REASONS
    parts.append(_verdicts(report, console) if short else _findings(report, console))
    parts += [Text(line, style="dim") for line in alerts(report)]
    lines = answer_lines(report, timed=False)[:MAX_VARIANTS]
    parts += [Text(wrapped(line, console.width)) for line in lines]
    parts.append(_whole_table(report, console))
    return Group(*parts, Text("Curves, and what the numbers mean: dsdctl report SPEC --notes"))


MAX_REASONS = 6
"""Rows up to which a run's end gives the reasons of the verdicts."""


def _whole_table(report: Report, console: Console) -> Table:
    """The rows of all variants in one table, each variant named above its rows."""
    variants = by_variant(report)[:MAX_VARIANTS]
    unit = cost_unit(report.rows)
    if len(variants) == 1:
        return _table(report.rows, variants[0][0], console, unit, UNTIMED)
    in_words = [(variant_words(rows[0].axes), rows) for _, rows in variants]
    return _fitting_table(in_words, console, unit, UNTIMED)


UNTIMED = HEADINGS.index("wall time")
"""Columns of a run's end: all up to the time, which differs from run to run."""


SHORT = {"early stop": "ES", "distillation": "KD", "pruned teacher": "PT"}
"""Headings where there is little room."""


def _table(
    rows: Sequence[ReportRow],
    variant: str,
    console: Console,
    unit: FlopsUnit,
    columns: int = len(HEADINGS),
) -> Table:
    """The rows of a variant."""
    table = _fitting_table([("", rows)], console, unit, columns)
    table.title = escape(variant) or None
    table.title_justify = "left"
    return table


Variants = Sequence[tuple[str, Sequence[ReportRow]]]


def _fitting_table(variants: Variants, console: Console, unit: FlopsUnit, columns: int) -> Table:
    """Rows by variant; where they do not fit with short headings, else with fewer columns."""
    table = _comparison(variants, unit, columns, {}, padding=1)
    for count in (columns, IN_80_COLUMNS):
        if natural_width(table, console) > console.width:
            table = _comparison(variants, unit, count, SHORT, padding=0)
            table.caption = "ES early stop, KD distillation, PT pruned teacher"
            table.caption_justify = "left"
    return table


def _comparison(
    variants: Variants, unit: FlopsUnit, columns: int, short: Mapping[str, str], *, padding: int
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, padding), pad_edge=False)
    for number, heading in enumerate(headings(unit)[:columns]):
        table.add_column(
            short.get(heading, heading).replace(" ", "\n", 1),
            justify="left" if number == 0 else "center" if number < 4 else "right",
            overflow="fold",
        )
    for variant, rows in variants:
        if variant:
            table.add_row(Text(variant, style="bold"))
        for row in rows:
            table.add_row(*cells(row, unit)[:columns])
            published = reference_cells(row, unit)
            if published is not None:
                table.add_row(*published[:columns], style="dim")
    return table


ROOM_FOR_PHASES = 110
"""Columns from which the findings say where the phases end."""


def _findings(report: Report, console: Console) -> Table:
    """The differences and verdicts, and where there is room the ends of the phases."""
    table, shown = _findings_table(console)
    return fill(table, [line[:shown] for line in finding_cells(report)])


def _verdicts(report: Report, console: Console) -> Table:
    """The same by variant, without the reasons of the verdicts."""
    table, shown = _findings_table(console)
    variant = ""
    for row, cells_of_row in zip(report.rows, finding_cells(report), strict=True):
        _, difference, verdict, *phase_ends = cells_of_row
        if row.variant != variant:
            variant = row.variant
            table.add_row(Text(variant_words(row.axes), style="bold"))
        table.add_row(*[row.recipe, difference, verdict.partition(":")[0], *phase_ends][:shown])
    return table


def _findings_table(console: Console) -> tuple[Table, int]:
    """A table of findings, and how many of their cells it has room for."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown = FINDINGS if console.width >= ROOM_FOR_PHASES else FINDINGS[:3]
    for number, heading in enumerate(shown):
        table.add_column(heading, justify="right" if number == 1 else "left", overflow="fold")
    return table, len(shown)


def _plots(report: Report, width: int) -> Iterator[RenderableType]:
    shown = panels(report)[:MAX_VARIANTS]
    axis = sparsity_axis(shown)
    for panel in shown:
        yield plot(panel, axis, width).append("\n")


def _curves(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("trajectory", "seed", "test accuracy by level", "first, min, max %"):
        table.add_column(heading, justify="left", overflow="fold")
    rows, names = [], trajectory_names(report)
    for trajectory in report.trajectories:
        curve = [level["test_accuracy"] for level in trajectory.measured]
        line = sparkline(curve) if curve else "—"
        rows.append((names[trajectory.key], str(trajectory.seed), line, _extremes(curve)))
    return fill(table, rows)


def _extremes(curve: Sequence[float]) -> str:
    """Where a curve starts, and its lowest and highest before it collapses."""
    if not curve:
        return ""
    names = phases(curve)
    alive = [value for value, name in zip(curve, names, strict=True) if name != "collapsed"]
    return " ".join(f"{100 * value:.1f}" for value in (curve[0], min(alive), max(alive)))
