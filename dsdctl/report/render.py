"""Reports in every format: rich, Markdown, LaTeX, CSV and JSON."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.console import Console, Group, RenderableType

from dsdctl.report.cells import FINDINGS, HEADINGS, cells, finding_cells, reference_cells
from dsdctl.report.latex import latex
from dsdctl.report.notes import notes
from dsdctl.report.rich_view import rich_report
from dsdctl.report.table import Report, ReportRow, by_variant


def render(reports: Sequence[Report], style: str, console: Console) -> str:
    """Return the reports in one of FORMATS; `rich` draws for the width of `console`."""
    if style == "rich":
        with console.capture() as capture:
            console.print(rich_reports(reports, console))
        return capture.get().rstrip("\n")
    return FORMATS[style](reports)


def rich_reports(reports: Sequence[Report], console: Console) -> RenderableType:
    """The reports one below the other, drawn for the width of `console`."""
    return Group(*(rich_report(report, console) for report in reports))


def markdown(reports: Sequence[Report]) -> str:
    """GitHub tables, one a variant, with what the curves show and the notes below."""
    parts = []
    for report in reports:
        parts.append(f"## {report.experiment}")
        if report.title:
            parts.append(escaped_line(report.title))
        for variant, rows in by_variant(report):
            if variant:
                parts.append(f"### {escaped(variant)}")
            parts.append(_comparison(rows))
        findings = [[escaped(cell) for cell in line] for line in finding_cells(report)]
        parts.append(markdown_table(FINDINGS, ("---", "--:", *["---"] * 3), findings))
        parts.append("\n".join(f"- {escaped_line(line)}" for line in notes(report)))
    return "\n\n".join(parts)


def _comparison(rows: Sequence[ReportRow]) -> str:
    lines = []
    for row in rows:
        lines.append([escaped(cell) for cell in cells(row)])
        published = reference_cells(row)
        if published is not None:
            lines.append([f"*{escaped(cell.strip())}*" if cell else "" for cell in published])
    alignment = ("---", *[":-:"] * 3, *["--:"] * (len(HEADINGS) - 4))
    return markdown_table(HEADINGS, alignment, lines)


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


Line = dict[str, object]


def tidy_csv(reports: Sequence[Report]) -> str:
    """One row a level of each recipe and seed, and of each teacher, with what it recorded."""
    lines = [
        line for report in reports for line in (*_student_levels(report), *_teacher_levels(report))
    ]
    stream = io.StringIO()
    columns = dict.fromkeys(column for line in lines for column in line)
    writer = csv.DictWriter(stream, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue().rstrip("\n")


def _student_levels(report: Report) -> Iterator[Line]:
    trajectories = {trajectory.key: trajectory for trajectory in report.trajectories}
    for row, curve in zip(report.rows, report.curves, strict=True):
        for index, seed in enumerate(row.seeds):
            levels = trajectories[row.trajectory_keys[index]].levels[: row.trainings_max]
            for number, level in enumerate(levels):
                yield {
                    "experiment": report.experiment,
                    "recipe": row.recipe,
                    "variant": row.variant,
                    "seed": seed,
                    "selected": number == row.level.values[index],
                    "stopped_at": number == row.stopped_at.values[index],
                    "role": "student",
                    "phase": curve.phases[number] if number < len(curve.phases) else None,
                    "select": str(row.select),
                    **_scalars(level),
                }


def _teacher_levels(report: Report) -> Iterator[Line]:
    taught_by: dict[str | None, set[int | None]] = {}
    for row in report.rows:
        for key in row.teacher_keys:
            taught_by.setdefault(key, set()).add(row.teacher_level)
    for trajectory in report.trajectories:
        taught = taught_by.get(trajectory.key, set())
        for number, level in enumerate(trajectory.levels if "teacher" in trajectory.roles else ()):
            yield {
                "experiment": report.experiment,
                "recipe": None,
                "variant": trajectory.variant,
                "seed": trajectory.seed,
                "selected": number in taught,
                "stopped_at": None,
                "role": "teacher",
                "phase": None,
                "select": None,
                **_scalars(level),
            }


def _scalars(level: Mapping[str, object]) -> Line:
    return {name: value for name, value in level.items() if not isinstance(value, dict | list)}


def as_json(reports: Sequence[Report]) -> str:
    """The report's JSON contract; a list where there are several experiments."""
    data = [report.model_dump(mode="json", by_alias=True) for report in reports]
    return json.dumps(data[0] if len(data) == 1 else data, indent=2, allow_nan=False)


FORMATS: dict[str, Callable[[Sequence[Report]], str]] = {
    "markdown": markdown,
    "latex": latex,
    "csv": tidy_csv,
    "json": as_json,
}
