"""`dsdctl status --watch`: how far a plan has come, shown again whenever that changes."""

import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.live import Live
from rich.text import Text

from dsdctl.console import can_draw, print_as_is
from dsdctl.jobs import jobs_of
from dsdctl.progress import Progress
from dsdctl.report.status import status_lines

Show = Callable[[Sequence[str]], None]


def watch(progress: Progress, console: Console, seconds: float) -> None:
    """Look every `seconds` until nothing of the plan is wanted any more.

    On a terminal the lines stay in place and are drawn only when they change; elsewhere each line
    is printed when it is new.
    """
    if can_draw(console):
        with Live(console=console, auto_refresh=False) as live:
            _follow(progress, seconds, lambda lines: _draw(live, lines))
    else:
        printed: set[str] = set()
        _follow(progress, seconds, lambda lines: _print_new(console, lines, printed))


def _follow(progress: Progress, seconds: float, show: Show) -> None:
    shown: list[str] = []
    while True:
        lines = list(status_lines(progress, jobs_of(progress.store)))
        if lines != shown:
            show(lines)
            shown = lines
        if next(progress.unfinished(), None) is None:
            return
        time.sleep(seconds)
        progress.refresh()


def _draw(live: Live, lines: Sequence[str]) -> None:
    live.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)


def _print_new(console: Console, lines: Sequence[str], printed: set[str]) -> None:
    for line in lines:
        if line not in printed:
            printed.add(line)
            print_as_is(console, line)
    console.file.flush()
