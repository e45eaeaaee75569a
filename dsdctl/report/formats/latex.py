"""LaTeX tables in the layout of the paper's Table 1, with the conventions below."""

import re
from collections.abc import Sequence

from dsdctl.report.axes import variant_words
from dsdctl.report.cells import IN_80_COLUMNS, cells, cost_unit, headings, reference_cells
from dsdctl.report.notes import table_notes
from dsdctl.report.rows import ReportRow
from dsdctl.report.table import Report, by_variant
from dsdctl.units import FlopsUnit

_HEADINGS = (
    ("Recipe", ""),
    ("Early", "stop"),
    ("Distil-", "lation"),
    ("Pruned", "teacher"),
    ("Student", "PFLOPs"),
    ("Total", "PFLOPs"),
    ("Test accuracy", "[\\%]"),
    ("Sparsity", "[\\%]"),
)

_FITTED = "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%"
"""Shrinks a table that is wider than the column; a brace ends it."""

_ESCAPED = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": "\\textbackslash{}",
        "~": "\\textasciitilde{}",
        "^": "\\textasciicircum{}",
        "<": "\\textless{}",  # in LaTeX's default encoding these three stand for others
        ">": "\\textgreater{}",
        "|": "\\textbar{}",
        "±": "$\\pm$",
        "—": "--",
        "†": "$^\\dagger$",
        "‡": "$^\\ddagger$",
    }
)


def latex(reports: Sequence[Report]) -> str:
    """One table an experiment, with a block a variant."""
    return "\n\n".join(_table(report) for report in reports)


def tex(text: str) -> str:
    """Plain text as LaTeX shows it."""
    return text.translate(_ESCAPED)


def _table(report: Report) -> str:
    body, unit = [], cost_unit(report.rows)
    for _, rows in by_variant(report):
        body.append("\\midrule")
        variant = variant_words(rows[0].axes)
        if variant:
            body.append(
                f"\\multicolumn{{{len(_HEADINGS)}}}{{@{{}}l}}{{\\emph{{{tex(variant)}}}}} \\\\"
            )
        body += [line for row in rows for line in _row(row, unit)]
    return floating(
        caption=report.title or report.experiment,
        label=report.experiment,
        columns="lcccrrrr",
        headings=[headings(unit, line) for line in zip(*_HEADINGS, strict=True)],
        body=body,
        notes=table_notes(report),
    )


def floating(
    *,
    caption: str,
    label: str,
    columns: str,
    headings: Sequence[Sequence[str]],
    body: Sequence[str],
    notes: Sequence[str],
) -> str:
    """A floating table: lines of `headings` and of the `body` are LaTeX, all else plain text."""
    lines = [
        "% needs \\usepackage{booktabs,amssymb,graphicx}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{tex(caption)}}}",
        f"\\label{{tab:{label}}}",
        "\\scriptsize",
        "\\setlength{\\tabcolsep}{2pt}",
        _FITTED,
        f"\\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        "\\toprule",
        *(table_line(heading) for heading in headings),
        *body,
        "\\bottomrule",
        "\\end{tabular}}",
        "\\par\\smallskip",
        "\\begin{minipage}{\\linewidth}",
        *map(tex, notes),
        "\\end{minipage}",
        "\\end{table}",
    ]
    return "\n".join(lines)


def table_line(cells: Sequence[str]) -> str:
    """A line of a table out of LaTeX."""
    return " & ".join(cells) + " \\\\"


def _row(row: ReportRow, unit: FlopsUnit) -> list[str]:
    """A row, and below it the published one."""
    name, *ticks_and_values = cells(row, unit)[:IN_80_COLUMNS]
    ticks = ["$\\checkmark$" if cell else "" for cell in ticks_and_values[:3]]
    lines = [table_line([tex(name), *ticks, *map(math, ticks_and_values[3:])])]
    published = reference_cells(row, unit)
    if published is not None:
        lines.append(table_line(["\\quad\\emph{paper}", *map(math, published[1:IN_80_COLUMNS])]))
    return lines


_NUMBER = re.compile(r"((?<!\w)[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?: ± \d+(?:\.\d+)?)?)")


def math(cell: str) -> str:
    """The text of a cell, its numbers in math mode: `1e-05` is 1 x 10^-5."""
    parts = _NUMBER.split(cell)
    return "".join(_number(part) if n % 2 else tex(part) for n, part in enumerate(parts))


def _number(text: str) -> str:
    """With thin spaces around the ±, so that the table fits a column."""
    spaced = text.replace(" ± ", "\\,\\pm\\,")
    power = re.sub(r"e([+-]?\d+)", lambda found: f"{{\\times}}10^{{{int(found[1])}}}", spaced)
    return f"${power}$"
