"""LaTeX tables in the layout of the paper's Table 1, with the conventions below."""

from collections.abc import Sequence

from dsdctl.report.cells import IN_THE_PAPER, cells, reference_cells
from dsdctl.report.notes import table_notes
from dsdctl.report.table import Report, ReportRow, by_variant

_HEADINGS = (
    ("Early", "stop"),
    ("Distil-", "lation"),
    ("Pruned", "teacher"),
    ("Training PFLOPs", "(teacher)"),
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
    named = _needs_names(report)
    columns = "l" * named + "cccrrr"
    lines = [
        "% needs \\usepackage{booktabs,amssymb,graphicx}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{tex(report.title or report.experiment)}}}",
        f"\\label{{tab:{report.experiment}}}",
        "\\scriptsize",
        "\\setlength{\\tabcolsep}{2pt}",
        _FITTED,
        f"\\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        "\\toprule",
        *(" & ".join([""] * named + list(line)) + " \\\\" for line in zip(*_HEADINGS, strict=True)),
    ]
    for variant, rows in by_variant(report):
        lines.append("\\midrule")
        if variant:
            lines.append(f"\\multicolumn{{{len(columns)}}}{{l}}{{\\emph{{{tex(variant)}}}}} \\\\")
        for row in rows:
            lines += _row(row, named=named)
    lines += ["\\bottomrule", "\\end{tabular}}", "\\par\\smallskip"]
    lines += ["\\begin{minipage}{\\linewidth}"]
    lines += [tex(note) for note in table_notes(report)]
    return "\n".join([*lines, "\\end{minipage}", "\\end{table}"])


def _needs_names(report: Report) -> bool:
    """Whether the ticks alone leave two rows of a variant alike."""
    ticked = [
        (row.variant, row.early_stop, row.distillation, row.pruned_teacher) for row in report.rows
    ]
    return len(set(ticked)) < len(ticked)


def _row(row: ReportRow, *, named: bool) -> list[str]:
    """A row, and below it the published one."""
    name, *ticks_and_values = cells(row)[:IN_THE_PAPER]
    ticks = ["$\\checkmark$" if cell else "" for cell in ticks_and_values[:3]]
    values = [_value(cell) for cell in ticks_and_values[3:]]
    lines = [" & ".join([tex(name)] * named + ticks + values) + f" \\\\ % {name}"]
    published = reference_cells(row)
    if published is not None:
        label = f"\\multicolumn{{{3 + named}}}{{r}}{{\\emph{{paper}}}}"
        shown = [f"\\emph{{{_value(cell)}}}" if cell else "" for cell in published[4:IN_THE_PAPER]]
        lines.append(" & ".join([label, *shown]) + " \\\\")
    return lines


def _value(cell: str) -> str:
    """With thin spaces around the ±, so that the table fits a column."""
    return tex(cell.replace(" ± ", "±")).replace("$\\pm$", "$\\,\\pm\\,$")
