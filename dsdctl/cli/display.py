"""Progress on standard error: a live display on a terminal, a plain line a level elsewhere."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dsdctl.cli.console import can_draw, log_line
from dsdctl.cli.live import LiveDisplay, Told, time_left
from dsdctl.run.events import Event, event_line

STOPPING = "stopping: running levels are checkpointed at the end of their epoch"

LINE_SECONDS = 30.0
"""How often a log says how far something has come."""


class Display(Protocol):
    """Shows events while a plan runs."""

    def show(self, event: Event) -> None: ...


class PlainDisplay:
    """One line for each finished or failed piece of work; never a bar."""

    def __init__(self, console: Console, total: int):
        self._console = console
        self._total = total
        self._done = 0
        self._started = time.monotonic()

    def show(self, event: Event) -> None:
        if event.kind == "started":
            return
        self._done += event.level is not None
        # What was damaged is computed once more than was counted.
        counter = f"[{self._done}/{max(self._done, self._total)}]"
        left = ""
        if event.level is not None and 0 < self._done < self._total:
            passed = time.monotonic() - self._started
            left = ", " + time_left(self._done, self._total, passed)
        log_line(self._console, f"{counter} {event_line(event)}{left}")


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


@contextmanager
def displayed(console: Console, total: int, told: Told) -> Iterator[Display]:
    """A live display on a terminal, plain lines elsewhere."""
    if can_draw(console):
        display = LiveDisplay(console, total, told)
        try:
            with display:
                yield display
        except KeyboardInterrupt:
            log_line(console, STOPPING)
            raise
    else:
        yield PlainDisplay(console, total)


@contextmanager
def counted(console: Console, name: str, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many of all of `what` are done, once there are any: in a bar on a terminal, in a
    line now and then elsewhere."""
    with ExitStack() as stack:
        drawn = can_draw(console)
        yield _drawn(console, name, what, stack) if drawn else _said(console, name, what)


def _drawn(console: Console, name: str, what: str, stack: ExitStack) -> Callable[[int, int], None]:
    bar = _bar(console)

    def show(done: int, total: int) -> None:
        if not bar.tasks:
            bar.add_task(f"{name}: {what}", total=total)
            stack.enter_context(bar)
        bar.update(bar.task_ids[0], completed=done)

    return show


def _said(console: Console, name: str, what: str) -> Callable[[int, int], None]:
    last = -math.inf

    def show(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            line = f"{name}: {done:,} of {total:,} {what}"
            log_line(console, line)

    return show
