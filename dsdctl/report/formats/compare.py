"""The difference of two reports in every format."""

from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dsdctl.cost.macs import MacCache
from dsdctl.errors import InputError, printable
from dsdctl.plan.progress import Progress
from dsdctl.report.axes import row_words
from dsdctl.report.cells import difference_parts, flops_text, headings, number_text, percent_text
from dsdctl.report.compare import ComparedRow, Comparison, Side, compare, varied_axes
from dsdctl.report.formats.csv import axis_columns, written
from dsdctl.report.formats.html.template import html_page
from dsdctl.report.formats.latex import floating, math, table_line, tex
from dsdctl.report.formats.markdown import escaped, escaped_line, markdown_table
from dsdctl.report.seeds import CONFIDENCE, Stats, stats
from dsdctl.report.table import Report, make_report
from dsdctl.report.word_wrapped import WordWrappedTable, natural_width
from dsdctl.units import FlopsUnit, flops_unit, magnitude

HEADINGS = ("recipe", "report", "test accuracy %", "PFLOPs (teacher)", "sparsity %", "level")


def _headings(comparison: Comparison) -> list[str]:
    return headings(_unit(comparison), HEADINGS)


def _unit(comparison: Comparison) -> FlopsUnit:
    """The unit in which the rows' costs are read best."""
    sides = [side for row in comparison.rows for side in (row.first, row.second)]
    return flops_unit(max((side.pflops.mean or 0.0 for side in sides), default=0.0))


def compared(sides: Sequence[Progress], style: str, console: Console) -> str:
    """How the report of the second plan differs from that of the first; each is of one spec.

    Raises InputError where there are not two.
    """
    if len(sides) != 2:
        raise InputError(f"--compare: takes 2 specs, but {len(sides)} given")
    first, second = (make_report(side, MacCache(side.store))[0] for side in sides)
    names = first.experiment, second.experiment
    if names[0] == names[1]:
        one, other = (printable(str(side.plan.specs[0].file)) for side in sides)
        names = one, other
    axes = varied_axes([first, second])
    fixed = (_fixed(first, sides[0], axes), _fixed(second, sides[1], axes))
    return render_comparison(compare(first, second, names, fixed), style, console)


def _fixed(report: Report, side: Progress, axes: Sequence[str]) -> dict[str, str]:
    """What a spec says of those axes by which it has no variants."""
    experiment = side.plan.specs[0].experiment.model_dump()
    missing = [axis for axis in axes if axis not in varied_axes([report])]
    found = {axis: _at(experiment, axis.split(".")) for axis in missing}
    return {axis: str(value) for axis, value in found.items() if not isinstance(value, dict)}


def _at(data: Any, path: Sequence[str]) -> Any:
    """What stands at a path, a mapping's name in its place; an empty mapping where nothing does."""
    for key in path:
        data = data.get(key, {}) if isinstance(data, dict) else {}
    return data.get("name", data) if isinstance(data, dict) else data


def render_comparison(comparison: Comparison, style: str, console: Console) -> str:
    """Return a comparison in a format of reports; `rich` is drawn for the width of `console`."""
    if style != "rich":
        return FORMATS[style](comparison)
    with console.capture() as capture:
        console.print(_table(comparison, console))
        for line in comparison_notes(comparison):
            console.print(Text(line, style="dim"))
    return capture.get().rstrip("\n")


def _json(comparison: Comparison) -> str:
    return comparison.model_dump_json(by_alias=True, indent=2)


def _latex(comparison: Comparison) -> str:
    body = []
    for lines in _rows(comparison):
        body.append("\\midrule")
        for name, report, *values in lines:
            body.append(table_line([tex(name), tex(report), *map(math, values)]))
    return floating(
        caption=_title(comparison),
        label="comparison",
        columns="llrrrr",
        headings=[list(map(tex, _headings(comparison)))],
        body=body,
        notes=comparison_notes(comparison),
    )


def _html(comparison: Comparison) -> str:
    return html_page(
        "compare.html.jinja",
        title=_title(comparison),
        headings=_headings(comparison),
        rows=_rows(comparison),
        notes=comparison_notes(comparison),
    )


def _csv(comparison: Comparison) -> str:
    """A line a row; accuracies and sparsities are fractions, means over each side's seeds."""
    return written([_csv_line(comparison, row) for row in comparison.rows])


def _csv_line(comparison: Comparison, row: ComparedRow) -> dict[str, object]:
    line: dict[str, object] = {"first": comparison.first, "second": comparison.second}
    line |= {"recipe": row.recipe, **axis_columns(row.axes), "paired_seeds": len(row.paired)}
    difference = row.difference
    for name in ("mean", "low", "high"):
        line[f"difference_{name}"] = getattr(difference, name) if difference else None
    for side, values in (("first", row.first), ("second", row.second)):
        for name in ("test_accuracy", "sparsity", "level", "pflops"):
            found: Stats = getattr(values, name)
            line |= {f"{name}_{side}": found.mean, f"{name}_{side}_std": found.std}
        line[f"teacher_pflops_{side}"] = values.teacher_pflops
    return line


def _markdown(comparison: Comparison) -> str:
    lines = [line for lines in _rows(comparison) for line in lines]
    lines = [[escaped(cell) for cell in line] for line in lines]
    table = markdown_table(_headings(comparison), ("---", "---", *["--:"] * 4), lines)
    notes = "\n".join(f"- {escaped_line(line)}" for line in comparison_notes(comparison))
    return f"## {escaped(_title(comparison))}\n\n{table}\n\n{notes}"


def _table(comparison: Comparison, console: Console) -> WordWrappedTable:
    """A line a report beside its row's name or, where that does not fit, below it."""
    table = _empty(comparison, _headings(comparison), padding=1)
    for lines in _rows(comparison):
        for line in lines:
            table.add_row(*map(escape, line))
        table.add_section()
    fits = natural_width(table, console) <= console.width
    return WordWrappedTable(table if fits else _stacked(comparison))


def _stacked(comparison: Comparison) -> Table:
    """A row's name above its lines, and a difference's interval below it."""
    table = _empty(comparison, _headings(comparison)[1:], padding=0)
    for row, lines in zip(comparison.rows, _rows(comparison), strict=True):
        first, second, (_, title, _, *changes) = lines
        table.add_row(Text(first[0], style="bold"))
        for _, report, *values in (first, second):
            table.add_row(f"  {escape(report)}", *values)
        mean, interval, pairs = _difference(row)
        table.add_row(f"  {title}", f"{mean} {pairs}".rstrip(), *changes)
        table.add_row("", escape(interval))
        table.add_section()
    return table


def _empty(comparison: Comparison, headings: Sequence[str], *, padding: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, padding), pad_edge=False)
    table.title, table.title_justify = escape(_title(comparison)), "left"
    for heading in headings:
        words = heading in HEADINGS[:2]
        table.add_column(heading, justify="left" if words else "right", overflow="fold")
    return table


def _title(comparison: Comparison) -> str:
    return f"{comparison.second} compared with {comparison.first}"


def _rows(comparison: Comparison) -> list[list[list[str]]]:
    """The lines of each row."""
    unit = _unit(comparison)
    return [_lines(comparison, row, unit) for row in comparison.rows]


def _lines(comparison: Comparison, row: ComparedRow, unit: FlopsUnit) -> list[list[str]]:
    """A row's three lines: the first report, the second, and the difference."""
    return [
        [row_words(row.recipe, row.axes), comparison.first, *_side(row.first, unit)],
        ["", comparison.second, *_side(row.second, unit)],
        [
            "",
            "difference",
            " ".join(filter(None, _difference(row))),
            _flops_change(*_means(row, "pflops"), unit),
            _change(*_means(row, "sparsity"), 100, ".2f"),
            _change(*_means(row, "level"), 1, ".1f"),
        ],
    ]


def _means(row: ComparedRow, quantity: str) -> tuple[float | None, float | None]:
    """The second report's mean and the first's, over the seeds that pair, or all where none do."""
    means = []
    for side in (row.second, row.first):
        values: Stats = getattr(side, quantity)
        by_seed = dict(zip(side.seeds, values.values, strict=True))
        paired = stats([by_seed[seed] for seed in row.paired])
        means.append(paired.mean if row.paired else values.mean)
    return means[0], means[1]


def _side(side: Side, unit: FlopsUnit) -> list[str]:
    return [
        percent_text(side.test_accuracy),
        flops_text(side.pflops.mean, side.teacher_pflops, unit),
        percent_text(side.sparsity),
        number_text(side.level),
    ]


def _difference(row: ComparedRow) -> tuple[str, str, str]:
    """The mean over the seeds that pair, its interval, and how many pair.

    Where none does, that of the means, without an interval.
    """
    if row.difference is not None:
        return difference_parts(row.difference, max(len(row.first.seeds), len(row.second.seeds)))
    change = _change(*_means(row, "test_accuracy"), 100, ".2f")
    return change, "", "(no seed pairs)" if change else ""


def _change(after: float | None, before: float | None, scale: float, digits: str) -> str:
    return "" if after is None or before is None else f"{scale * (after - before):+{digits}}"


def _flops_change(after: float | None, before: float | None, unit: FlopsUnit) -> str:
    if after is None or before is None:
        return ""
    change = magnitude(unit.per_pflop * abs(after - before))
    return f"{'-' if after < before else '+'}{change}"


def comparison_notes(comparison: Comparison) -> list[str]:
    """What a reader must know beside the numbers."""
    notes = [
        f"Difference: {comparison.second} minus {comparison.first}, over the seeds that both have "
        f"finished; of accuracies in points, with a {100 * CONFIDENCE:.0f} % t interval of the "
        "paired differences. Costs are one seed's, in the paper's convention."
    ]
    for name, rows in (
        (comparison.first, comparison.only_in_first),
        (comparison.second, comparison.only_in_second),
    ):
        notes += _only(name, rows)
    return notes


def _only(name: str, rows: Sequence[str]) -> list[str]:
    return [f"Only in {name}: {'; '.join(rows)}."] if rows else []


FORMATS: dict[str, Callable[[Comparison], str]] = {
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
    "json": _json,
    "html": _html,
}
