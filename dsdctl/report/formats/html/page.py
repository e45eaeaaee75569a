"""The page: comparison, findings, figures, plan and ledger, provenance, how to reproduce."""

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dsdctl.cost.ledger import CountMacs
from dsdctl.errors import printable
from dsdctl.keys import NUMERICS_VERSION, SCHEMA_VERSION
from dsdctl.plan.progress import Progress
from dsdctl.plan.rows import ResolvedSpec
from dsdctl.report.axes import row_words, variant_words
from dsdctl.report.cells import (
    FINDINGS,
    HEADINGS,
    cells,
    cost_unit,
    finding_cells,
    gap_cells,
    headings,
    reference_cells,
)
from dsdctl.report.figures.draw import figures
from dsdctl.report.formats.html.svg import inline_svg
from dsdctl.report.formats.html.template import html_page
from dsdctl.report.ledger import make_ledger, places
from dsdctl.report.notes import DIP_RULE, notes, trajectory_names
from dsdctl.report.plan.summary import summarize
from dsdctl.report.plan.tables import data_lines
from dsdctl.report.rows import ReportRow
from dsdctl.report.table import Report, by_variant
from dsdctl.report.words import answer_lines
from dsdctl.spec.recipe_files import recipe_file
from dsdctl.units import FlopsUnit


def html(
    progress: Progress, reports: Sequence[Report], count_macs: CountMacs, options: Sequence[str]
) -> str:
    """One file with all `reports`; `options` are those that the plan was made with.

    Everything is escaped but what is drawn here. The same store gives the same bytes.
    """
    return html_page(
        "page.html.jinja",
        schema_version=SCHEMA_VERSION,
        numerics_version=NUMERICS_VERSION,
        ticks=_TICKS,
        dip_rule=DIP_RULE,
        finding_headings=FINDINGS,
        sections=[_section(report) for report in reports],
        data_lines=data_lines(progress),
        plan=summarize(progress, count_macs),
        ledger=make_ledger(progress, reports, count_macs),
        places=places(progress),
        files=list(dict.fromkeys(file for spec in progress.plan.specs for file in _files(spec))),
        commands=_commands(progress.plan.specs, options),
    )


def _section(report: Report) -> dict[str, Any]:
    """What the template shows of one experiment."""
    names, unit = trajectory_names(report), cost_unit(report.rows)
    return {
        "report": report,
        "headings": _ordered(headings(unit)),
        "tables": [
            (variant_words(rows[0].axes), [(row, _lines(row, unit)) for row in rows])
            for _, rows in by_variant(report)
        ],
        "answer": answer_lines(report),
        "findings": _findings(report),
        "notes": [note for note in notes(report) if note != DIP_RULE],
        "figures": [
            (figure, inline_svg(figure.svg, f"{figure.name}-", figure.title, figure.values))
            for figure in figures(report)
        ],
        "trajectories": [(trajectory, names[trajectory.key]) for trajectory in report.trajectories],
    }


def _findings(report: Report) -> list[list[str]]:
    """The findings, rows named by the words for their variant, so that the table fits a window."""
    return [
        [row_words(row.recipe, row.axes), *others]
        for row, (_, *others) in zip(report.rows, finding_cells(report), strict=True)
    ]


def _lines(row: ReportRow, unit: FlopsUnit) -> list[tuple[str, list[str]]]:
    """A row's cells by the kind of line: ours, and below them the paper's and the gap."""
    kinds = {
        "ours": cells(row, unit),
        "paper": reference_cells(row, unit),
        "gap": gap_cells(row, unit),
    }
    return [(kind, _ordered(shown)) for kind, shown in kinds.items() if shown is not None]


_TICKS = 3
"""Columns of ticks, after that of the recipes; a narrow screen shows none."""


def _ordered(cells: Sequence[str]) -> list[str]:
    """Cells in the order of HEADINGS, what a row costs last, so that a phone shows its accuracy."""
    costs = [number for number, name in enumerate(HEADINGS) if name.endswith(_COSTS)]
    others = [number for number in range(len(HEADINGS)) if number not in costs]
    return [cells[number] for number in (*others, *costs)]


_COSTS = ("PFLOPs", "wall time")


@dataclass(frozen=True)
class File:
    """A file that someone else needs to do the same."""

    name: str
    text: str
    sha256: str


def _files(spec: ResolvedSpec) -> list[File]:
    """The spec and its recipes, as they are by now."""
    found = [(spec.file.name, spec.file)]
    for recipe in spec.experiment.recipes:
        file = recipe_file(recipe, spec.file)
        if file is not None:
            found.append((f"recipes/{file.name}", file))
    contents = [(name, file.read_bytes()) for name, file in found]
    return [
        File(printable(name), content.decode(errors="replace"), hashlib.sha256(content).hexdigest())
        for name, content in contents
    ]


def _commands(specs: Sequence[ResolvedSpec], options: Sequence[str]) -> list[str]:
    names = [_argument(spec.file.name) for spec in specs]
    report = ["report", *names, *options, "--output", "report.html"]
    lines = [["validate", *names], ["plan", *names, *options], ["run", *names, *options], report]
    return [" ".join(["dsdctl", *map(_in_a_shell, line)]) for line in lines]


def _argument(name: str) -> str:
    """A file's name that is no option."""
    return f"./{name}" if name.startswith("-") else name


def _in_a_shell(word: str) -> str:
    """A word to be typed, also where it holds what cannot be typed as it is."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + printable(word.replace("\\", "\\\\").replace("'", "\\'")) + "'"
