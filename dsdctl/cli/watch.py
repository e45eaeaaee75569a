"""`--watch` of status and report: how far a plan has come, shown again whenever that changes."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from dsdctl.cli.console import can_draw, log_line
from dsdctl.plan.next_work import unfinished
from dsdctl.plan.progress import Progress
from dsdctl.report.status import status_lines
from dsdctl.slurm.jobs import described_jobs

Show = Callable[[Sequence[str]], None]


def watch(
    progress: Progress,
    console: Console,
    seconds: float,
    changed: Callable[[], object] = lambda: None,
) -> None:
    """Look every `seconds` until nothing of the plan is wanted any more.

    On a terminal the lines stay in place and are drawn only when they change; elsewhere each line
    is printed when it is new. `changed` is called after each change.
    """
    if can_draw(console):
        with Live(console=console, auto_refresh=False) as live:
            lines = partial(status_lines, width=console.width)
            _follow(progress, seconds, lines, lambda lines: _draw(live, lines), changed)
    else:
        printed: set[str] = set()
        lines = partial(status_lines, stages=False)
        _follow(
            progress, seconds, lines, lambda lines: _print_new(console, lines, printed), changed
        )


def redraw(
    progress: Progress, console: Console, seconds: float, draw: Callable[[], RenderableType]
) -> None:
    """The same on a terminal, with what `draw` returns in place of the lines.

    It is cut at the window's last line until the end, when the whole is left standing.
    """
    with Live(console=console, auto_refresh=False) as live:
        lines = partial(status_lines, stages=False)
        _follow(progress, seconds, lines, lambda _: live.update(draw(), refresh=True), lambda: None)


def _follow(
    progress: Progress,
    seconds: float,
    lines_of: Callable[[Progress, Mapping[str, str]], Iterable[str]],
    show: Show,
    changed: Callable[[], object],
) -> None:
    shown: list[str] = []
    while True:
        lines = list(lines_of(progress, described_jobs(progress.store)))
        if lines != shown:
            show(lines)
            changed()
            shown = lines
        if next(unfinished(progress), None) is None:
            return
        time.sleep(seconds)
        progress.refresh()


def _draw(live: Live, lines: Sequence[str]) -> None:
    live.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)


def _print_new(console: Console, lines: Sequence[str], printed: set[str]) -> None:
    for line in lines:
        if line not in printed:
            printed.add(line)
            log_line(console, line)
    console.file.flush()
