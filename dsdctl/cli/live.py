"""The live display of a run on a terminal: what runs, how far it is, and how much is left.

It is drawn anew in its place, is never higher than the window, and is gone at the end; what is
finished is printed above it, a line a level.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dsdctl.cost.throughput import images_per_second
from dsdctl.keys import key_of
from dsdctl.plan.trajectory import Trajectory
from dsdctl.report.shortening import filled, in_columns, short_variant
from dsdctl.report.status import stage_words
from dsdctl.results import FinishedLevel, Measured
from dsdctl.run.events import Event, event_line, has_noise, what
from dsdctl.store.at_work import AtWork

Told = Callable[[str], AtWork | None]
"""What the worker of a piece of work last said of itself, by the piece's key."""

DRAWN_A_SECOND = 4

SPARE = 3
"""Columns left free at the right: a terminal echoes `^C` there, and must not go to a new line."""

MOST_ROWS = 16
"""Running pieces of work that are shown at once."""


@dataclass(frozen=True)
class Running:
    """A piece of work that this run has begun, or waits for since another process is running it."""

    name: str
    level: str
    elsewhere: bool = False


class LiveDisplay:
    """A bar over all levels, and above it a line for each piece of work that runs."""

    def __init__(self, console: Console, total: int, told: Told):
        self._console = console
        self._total = total
        self._told = told
        self._done = 0
        self._began = time.monotonic()
        self._running: dict[str, Running] = {}
        """By key. Replaced and never changed: another thread draws it."""
        self._first: dict[str, float] = {}
        """The share that was done of a piece when it was first heard of, by key."""
        self._live = Live(
            console=console, get_renderable=lambda: self, auto_refresh=False, transient=True
        )
        # Were rich's own thread to draw while a line is printed, the line might be lost: where the
        # cursor goes is found out before the line is written.
        self._drawing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._draw_until_ended, daemon=True)

    def __enter__(self) -> Self:
        self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._live.stop()

    def _draw_until_ended(self) -> None:
        while not self._ended.wait(1 / DRAWN_A_SECOND):
            self.draw()

    def draw(self) -> None:
        """Draw it anew in its place."""
        with self._drawing:
            self._live.refresh()

    def show(self, event: Event) -> None:
        """Take in an event; print what is finished, or went wrong."""
        key = key_of(event.task.identity)
        others = {k: piece for k, piece in self._running.items() if k != key}
        if event.kind in ("started", "busy"):
            name = _name(event.trajectory)
            piece = Running(name, _piece(event), event.kind == "busy")
            self._running = {**others, key: piece}
            return
        self._running = others
        self._done += event.level is not None
        line = finished_line(event, self._console.width)
        with self._drawing:
            self._console.print(line, soft_wrap=event.kind != "finished", markup=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        told = {key: self._told(key) for key in self._running}
        width = options.max_width - SPARE
        room = max(1, min(MOST_ROWS, console.height - 3))
        yield from self._rows(told, width, room)
        yield self._bar(told, width)

    def _rows(
        self, told: dict[str, AtWork | None], width: int, room: int
    ) -> Sequence[RenderableType]:
        """A line for each piece that runs; of too many the first ones, and how many more."""
        pieces = list(self._running.items())
        shown = pieces if len(pieces) <= room else pieces[: room - 1]
        stages = [_stage(piece, told.get(key)) for key, piece in shown]
        levels = max((cell_len(piece.level) for _, piece in shown), default=0)
        room = width - levels - max(map(cell_len, stages), default=0) - 4
        names = min(room, max((cell_len(piece.name) for _, piece in shown), default=0))
        lines: list[RenderableType] = [
            _row(name_in_columns(piece.name, names), names, f"{piece.level:<{levels}}  {stage}")
            for (_, piece), stage in zip(shown, stages, strict=True)
        ]
        more = len(pieces) - len(shown)
        return [*lines, Text(f"and {more} more")] if more else lines

    def _bar(self, told: dict[str, AtWork | None], width: int) -> Table:
        """The bar, the count and the time; these need their room, the bar takes what is left."""
        total = max(self._done, self._total)  # what was damaged is computed once more
        passed = time.monotonic() - self._began
        words = f"{self._done}/{total} levels, {clock(passed)}"
        done = self._done + self._begun(told)
        if done and self._done < total:
            words += f", {time_left(done, total, passed)}"
        line = Table.grid(padding=(0, 1))
        line.width = width
        line.add_column(ratio=1)
        line.add_column(no_wrap=True, width=cell_len(words))
        line.add_row(ProgressBar(total=max(total, 1), completed=done), words)
        return line

    def _begun(self, told: dict[str, AtWork | None]) -> float:
        """How many levels' worth has been done here of those that run: no more than can be seen,
        so that nothing is said of the time left before there is any."""
        begun = 0.0
        for key, worker in told.items():
            piece = self._running.get(key)
            if worker is None or piece is None or piece.elsewhere or worker.stage.name == "view":
                continue
            share = worker.stage.share
            begun += share - self._first.setdefault(key, share)
        return begun


def _row(name: str, width: int, rest: str) -> Text:
    return Text(f"{filled(name, width)}  {rest}", no_wrap=True, overflow="crop")


def _name(trajectory: Trajectory) -> str:
    """Its label, with a variant in few words."""
    return trajectory.label.replace(trajectory.variant, short_variant(trajectory.variant))


def _piece(event: Event) -> str:
    words = what(event.task)
    if words.startswith("level "):
        return f"{words} of {event.trajectory.levels - 1}"
    return words.partition(",")[0]


def _stage(piece: Running, worker: AtWork | None) -> str:
    """How far a piece is, in words; with the host where another run is at it."""
    if piece.elsewhere:
        where = f" on {worker.host}" if worker else ""
        return f"another process is running it{where}"
    return stage_words(worker.stage) if worker else "starting"


def finished_line(event: Event, width: int) -> str:
    """What happened, of a finished level in one line of at most `width` columns: what matters least
    is left out, then the name gives way; a number is never cut."""
    level = event.level
    if event.kind != "finished" or level is None or level.measured is None:
        return event_line(event)
    name = _name(event.trajectory)
    room = width - min(cell_len(name), width // 3) - 2
    lines = list(_numbers(event.trajectory, level, level.measured))
    numbers = next((line for line in lines if len(line) <= room), lines[-1])
    return f"{name_in_columns(name, width - len(numbers) - 2)}: {numbers}"


def name_in_columns(name: str, width: int) -> str:
    """A trajectory's name in at most so many columns: the values of its variant and the seed, which
    tell it from others, stay longest."""
    if cell_len(name) <= width:
        return name
    recipes, bracket, rest = re.sub(r"[\w.]+=", "", name).partition(" [")
    room = width - cell_len(bracket + rest)
    if bracket and room > 1:
        return in_columns(recipes, room) + bracket + rest
    return in_columns(name, width)


def _numbers(trajectory: Trajectory, level: FinishedLevel, result: Measured) -> Iterator[str]:
    """A level's results, from all of them to the fewest."""
    noisy = has_noise(trajectory)
    rate = images_per_second(trajectory, level)
    best = [
        f"level {result.level}",
        f"{100 * result.sparsity:.2f} % pruned",
        f"test {100 * result.test_accuracy:.2f} %",
    ]
    train = f" {100 * result.train_accuracy:.2f} %"
    seconds = f"{level.environment.wall_seconds:.1f} s"
    more = [f"{result.entropy_bits:.3f} bits", f"{rate:,.0f} images/s" if rate else ""]
    long, short = ("train (noisy labels)", "train (noisy)") if noisy else ("train", "train")
    yield ", ".join(filter(None, [*best, long + train, seconds, *more]))
    yield ", ".join([*best, long + train, seconds])
    yield ", ".join([*best, short + train, seconds])
    yield ", ".join([*best, short + train])


def time_left(done: float, total: int, seconds: float) -> str:
    """When the levels that are left will be done, if each takes as long as those done so far; stop
    rules may leave some of them out."""
    return f"ETA {clock(seconds / done * (total - done))} at most"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
