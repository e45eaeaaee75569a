"""A comparison in Markdown."""

import re
from collections.abc import Sequence

from dsdctl.report.cells import FINDINGS, cells, cost_unit, finding_cells, headings, reference_cells
from dsdctl.report.notes import notes
from dsdctl.report.rows import ReportRow
from dsdctl.report.table import Report, by_variant
from dsdctl.report.words import answer_lines
from dsdctl.units import FlopsUnit


def markdown(reports: Sequence[Report]) -> str:
    """GitHub tables, one a variant, with what the curves show and the notes below."""
    parts = []
    for report in reports:
        parts.append(f"## {report.experiment}")
        if report.title:
            parts.append(escaped_line(report.title))
        parts += [escaped_line(line) for line in answer_lines(report)]
        unit = cost_unit(report.rows)
        for variant, rows in by_variant(report):
            if variant:
                parts.append(f"### {escaped(variant)}")
            parts.append(_comparison(rows, unit))
        findings = [[escaped(cell) for cell in line] for line in finding_cells(report)]
        parts.append(markdown_table(FINDINGS, ("---", "--:", *["---"] * 3), findings))
        parts.append("\n".join(f"- {escaped_line(line)}" for line in notes(report)))
    return "\n\n".join(parts)


def _comparison(rows: Sequence[ReportRow], unit: FlopsUnit) -> str:
    lines = []
    for row in rows:
        lines.append([escaped(cell) for cell in cells(row, unit)])
        published = reference_cells(row, unit)
        if published is not None:
            lines.append([f"*{escaped(cell.strip())}*" if cell else "" for cell in published])
    columns = headings(unit)
    alignment = ("---", *[":-:"] * 3, *["--:"] * (len(columns) - 4))
    return markdown_table(columns, alignment, lines)


def markdown_table(
    headings: Sequence[str], alignment: Sequence[str], lines: Sequence[Sequence[str]]
) -> str:
    """A GitHub table of Markdown; `alignment` is the line below the headings."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (headings, alignment, *lines))


def escaped(text: str) -> str:
    """Text that neither ends a cell nor starts markup within a line."""
    return _MARKS.sub(r"\\\g<0>", text.replace("&", "&amp;").replace("<", "&lt;"))


def escaped_line(text: str) -> str:
    """The same of what begins a line, where more is markup."""
    return _AT_THE_START.sub(r"\1\\\2", escaped(text))


_MARKS = re.compile(r"[|`*~\\]|(?<=\])[(:]|(?<![^\W_])_|(?<=[^\W_])_(?![^\W_])")
"""What may begin markup anywhere: brackets do before another, underscores not between letters."""


_AT_THE_START = re.compile(r"^( *\d*)([#>=+.)-])")
"""What makes a line a heading, a quote, an item of a list or a rule."""
