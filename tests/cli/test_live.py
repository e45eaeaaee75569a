"""The live display as a terminal of some width shows it."""

import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path

import pyte
import pytest
from builders import measured, planned
from rich.console import Console
from tiny import TINY

from dsdctl.cli.display import STOPPING, displayed
from dsdctl.cli.live import LiveDisplay, finished_line, name_in_columns
from dsdctl.keys import key_of
from dsdctl.plan.plan import Plan
from dsdctl.plan.progress import Progress
from dsdctl.report.shortening import in_columns
from dsdctl.results import Environment, FinishedLevel
from dsdctl.run.events import Event
from dsdctl.store.at_work import AtWork, Stage
from dsdctl.store.store import Store
from dsdctl.worker.tasks import LevelTask

WIDTHS = (80, 100, 140)
HEIGHT = 24

AXIS = "training.optimizer.weight_decay"

ENVIRONMENT = Environment(
    python="3", torch="2", dsdctl="0", device="cpu", threads=1, wall_seconds=2.0
)


class Terminal:
    """A console of some width, and what is to be seen of it."""

    def __init__(self, width: int):
        self.screen = pyte.HistoryScreen(width, HEIGHT, history=1000)
        self.screen.set_mode(pyte.modes.LNM)  # as a terminal's driver ends lines
        self._stream = pyte.Stream(self.screen)
        self._whole = threading.Lock()  # the display's own thread draws too
        self.console = Console(
            file=self, force_terminal=True, width=width, height=HEIGHT, legacy_windows=False
        )  # type: ignore[arg-type]

    def write(self, text: str) -> int:
        with self._whole:
            self._stream.feed(text)
        return len(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        """All lines, those that were scrolled away included, as far as they are not empty."""
        with self._whole:
            above = [
                "".join(line[column].data for column in range(self.screen.columns))
                for line in self.screen.history.top
            ]
            seen = self.screen.display
        return [line.rstrip() for line in [*above, *seen] if line.strip()]


class Run:
    """Twenty trajectories with long names; the test says what happens to them."""

    def __init__(self, folder: Path):
        changes = {"matrix": {AXIS: [n / 10000 for n in range(1, 21)]}}
        self.plan: Plan = planned(folder, changes)
        self.trajectories = list(self.plan.trajectories.values())
        self._progress = Progress(self.plan, Store(folder / "store"))
        self.stages: dict[str, Stage] = {}

    def told(self, key: str) -> AtWork | None:
        stage = self.stages.get(key)
        return AtWork(host="here", pid=1, since=0.0, stage=stage) if stage else None

    def event(self, kind: str, number: int, level: FinishedLevel | None = None) -> Event:
        identity = self._progress.next_level_identity(self.trajectories[number])
        assert identity is not None
        task = LevelTask(identity=identity, dataset_path="")
        return Event(kind, self.trajectories[number], task, level)  # type: ignore[arg-type]

    def finished(self, number: int) -> Event:
        event = self.event("finished", number)
        result = measured(0, 0.9375, sparsity=0.8125).model_copy(update={"train_accuracy": 0.625})
        level = FinishedLevel(
            key=key_of(event.task.identity), result=result, environment=ENVIRONMENT
        )
        return self.event("finished", number, level)

    def begin(self, display: LiveDisplay, number: int, stage: Stage) -> None:
        event = self.event("started", number)
        self.stages[key_of(event.task.identity)] = stage
        display.show(event)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


HALF = Stage(name="epoch", number=3, count=4, batch=0, batches=391)


@pytest.mark.parametrize("width", WIDTHS)
def test_bar_count_and_time_left_are_on_the_screen_to_the_end(run: Run, width: int) -> None:
    terminal = Terminal(width)
    with displayed(terminal.console, 20, run.told) as display:
        assert isinstance(display, LiveDisplay)
        for number in range(20):
            run.begin(display, number, Stage())
        for number in range(20):
            display.draw()
            line = terminal.lines[-1]
            assert "━" in line and f" {number}/20 levels, 0:00:" in line
            assert ("ETA 0:00:" in line) is (number > 0)
            assert max(map(len, terminal.lines)) <= width
            display.show(run.finished(number))
    # What is left is a whole line a level and nothing of the display.
    lines = terminal.lines
    assert len(lines) == 20
    for line in lines:
        for number in ("level 0,", "81.25 % pruned", "test 93.75 %", "62.50 %"):
            assert number in line
        assert "train (noisy" in line


@pytest.mark.parametrize("width", WIDTHS)
def test_what_runs_and_only_that_is_shown_with_its_epoch_and_batch(run: Run, width: int) -> None:
    terminal = Terminal(width)
    display = LiveDisplay(terminal.console, 80, run.told)
    with display:
        run.begin(display, 0, HALF)
        run.begin(display, 1, Stage())
        display.show(run.event("busy", 2))
        display.draw()
        first, second, third, bar = terminal.lines
        assert first.endswith("level 0 of 3  epoch 3/4, batch   0/391")
        assert second.endswith("level 0 of 3  loading")
        assert third.endswith("another process is running it")
        assert all(line.startswith("vanilla [") and " seed 0 " in line for line in (first, second))
        assert bar.endswith("0/80 levels, 0:00:00")  # nothing was seen to be done here yet
        display.show(run.finished(0))
        display.show(run.event("found", 2, run.finished(2).level))
        display.draw()
        done, *found, running, bar = terminal.lines
        assert "test 93.75 %" in done
        assert "was finished by another process" in "".join(found)
        assert "loading" in running and " 2/80 levels" in bar


def test_the_time_left_is_known_before_the_first_level_is_done(run: Run) -> None:
    terminal = Terminal(80)
    display = LiveDisplay(terminal.console, 80, run.told)
    with display:
        run.begin(display, 0, Stage())
        display.draw()
        assert "ETA" not in terminal.lines[-1]
        run.begin(display, 0, HALF)
        display.draw()
        assert "ETA 0:00:" in terminal.lines[-1]


def test_of_more_than_the_window_has_room_for_the_rest_is_counted(run: Run) -> None:
    terminal = Terminal(80)
    display = LiveDisplay(terminal.console, 80, run.told)
    with display:
        for number in range(20):
            run.begin(display, number, HALF)
        display.draw()
        *rows, more, bar = terminal.lines
        assert len(rows) == 15 and more == "and 5 more" and "0/80 levels" in bar


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        ("vanilla seed 0", 14, "vanilla seed 0"),
        ("vanilla seed 0", 9, "vani…ed 0"),
        ("数据 seed 0", 8, "数据…d 0"),
        ("vanilla", 1, "…"),
        ("vanilla", 0, ""),
    ],
)
def test_a_long_text_loses_its_middle(text: str, width: int, short: str) -> None:
    assert in_columns(text, width) == short


@pytest.fixture
def real(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`dsdctl run` on a terminal of 80 x 24, with epochs without end."""
    (tmp_path / "tiny.yaml").write_text(TINY.replace("epochs: 2", "epochs: 100000"))
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, 80, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "dsdctl", "run", "tiny.yaml", "--jobs", "1"],
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**environment, "TERM": "xterm"},
    )
    os.close(theirs)
    yield process, ours
    process.kill()
    process.wait()
    os.close(ours)


@pytest.mark.long
def test_nothing_of_it_is_left_after_ctrl_c(real: tuple[subprocess.Popen[bytes], int]) -> None:
    process, terminal = real
    screen = pyte.Screen(80, HEIGHT)
    stream = pyte.ByteStream(screen)
    deadline = time.monotonic() + 120

    def read_until(seen: str) -> None:
        while not any(seen in line for line in screen.display):
            assert time.monotonic() < deadline, screen.display
            if select.select([terminal], [], [], 1.0)[0]:
                stream.feed(os.read(terminal, 65536))

    read_until("/100000, batch ")
    stream.feed(b"^C")  # the echo of a terminal's driver
    process.send_signal(signal.SIGINT)
    read_until("interrupted")
    assert process.wait(60) == 130
    assert [line.rstrip() for line in screen.display if line.strip()] == [
        STOPPING,
        "interrupted; re-run the command to resume",
    ]


@pytest.mark.parametrize(
    ("width", "short"),
    [
        (43, "kd-dense-teacher [rate=0.2, width=8] seed 1"),
        (32, "kd-dense-teacher [0.2, 8] seed 1"),
        (22, "kd-…er [0.2, 8] seed 1"),
        (17, "kd-dense…] seed 1"),
    ],
)
def test_a_name_keeps_what_tells_variants_apart(width: int, short: str) -> None:
    assert name_in_columns("kd-dense-teacher [rate=0.2, width=8] seed 1", width) == short


@pytest.mark.parametrize("width", WIDTHS)
def test_lines_of_different_variants_differ(run: Run, width: int) -> None:
    lines = {finished_line(run.finished(number), width) for number in range(20)}
    assert len(lines) == 20
