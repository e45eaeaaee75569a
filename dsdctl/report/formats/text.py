"""Reports in every format: rich, Markdown, LaTeX, CSV and JSON."""

import json
from collections.abc import Callable, Sequence

from rich.console import Console, Group, RenderableType

from dsdctl.report.formats.csv import tidy_csv
from dsdctl.report.formats.latex import latex
from dsdctl.report.formats.markdown import markdown
from dsdctl.report.formats.rich import rich_report
from dsdctl.report.table import Report


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
