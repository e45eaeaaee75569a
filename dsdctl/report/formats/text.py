"""Reports in every format: rich, Markdown, LaTeX, CSV and JSON."""

import json
from collections.abc import Callable, Sequence

from rich.console import Console, Group, RenderableType

from dsdctl.report.formats.csv import tidy_csv
from dsdctl.report.formats.latex import latex
from dsdctl.report.formats.markdown import markdown
from dsdctl.report.formats.rich import brief_report, rich_report
from dsdctl.report.table import Report


def render(
    reports: Sequence[Report], style: str, console: Console, *, explained: bool = False
) -> str:
    """Return the reports in one of FORMATS; `rich` draws for the width of `console`, and is
    `explained` on request, the others always."""
    if style == "rich":
        return _drawn(rich_reports(reports, console, explained=explained), console)
    return FORMATS[style](reports)


def render_brief(reports: Sequence[Report], console: Console) -> str:
    """The reports as a run ends."""
    return _drawn(Group(*(brief_report(report, console) for report in reports)), console)


def rich_reports(
    reports: Sequence[Report], console: Console, *, explained: bool = False
) -> RenderableType:
    """The reports one below the other, drawn for the width of `console`."""
    return Group(*(rich_report(report, console, explained=explained) for report in reports))


def _drawn(what: RenderableType, console: Console) -> str:
    with console.capture() as capture:
        console.print(what)
    return capture.get().rstrip("\n")


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
