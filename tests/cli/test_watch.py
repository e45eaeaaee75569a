"""`--watch` of status and report: what changes is shown once, and the end is the end."""

import io
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from builders import measured, paper_macs, planned, spec_data, write
from rich.console import Console, RenderableType

from dsdctl.cli.watch import redraw, watch
from dsdctl.keys import key_of
from dsdctl.plan.progress import Progress
from dsdctl.report.formats.text import rich_reports
from dsdctl.report.table import make_report
from dsdctl.results import Environment
from dsdctl.store.store import Store

ENVIRONMENT = Environment(
    python="3", torch="2", dsdctl="0", device="cpu", threads=1, wall_seconds=1.0
)


class Written:
    """A store into which another hand writes the levels of the only trajectory, one by one."""

    def __init__(self, folder: Path):
        self.store = Store(folder / "store")
        self.store.open_for_writing()
        plan = planned(folder, {"pruning.levels": 1})
        self.progress = Progress(plan, Store(folder / "store"))
        self._writer = Progress(plan, self.store)
        (self._trajectory,) = plan.trajectories.values()

    def next_level(self) -> None:
        identity = self._writer.next_level_identity(self._trajectory)
        assert identity is not None
        result = measured(identity.level, 0.5)
        level = self.store.levels.commit(identity, result, ENVIRONMENT, [], {}, {})
        assert level.key == key_of(identity)
        self._writer.add(self._trajectory, level)


@pytest.mark.parametrize("terminal", [False, True])
def test_each_state_is_shown_once_until_all_is_done(tmp_path: Path, terminal: bool) -> None:
    written = Written(tmp_path)
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120, color_system=None)
    thread = threading.Thread(target=watch, args=(written.progress, console, 0.05))
    thread.start()
    for levels in (0, 1):
        while f"{levels}/2 levels, ready" not in stream.getvalue():
            thread.join(0.01)
            assert thread.is_alive()
        written.next_level()
    thread.join()
    text = stream.getvalue()
    counts = [text.count(f"{n}/2 levels") for n in (0, 1, 2)]
    # A terminal's display is drawn once more when it closes.
    assert counts == ([1, 1, 2] if terminal else [1, 1, 1])
    assert "2/2 levels, done" in text
    assert ("\x1b" in text) is terminal


HEADING = "small"
"""Stands once in a report, in its first line."""


def test_a_report_is_drawn_anew_in_its_place_and_stands_whole_at_the_end(tmp_path: Path) -> None:
    written = Written(tmp_path)
    stream = io.StringIO()
    console = Console(
        file=stream,
        force_terminal=True,
        width=100,
        height=8,
        color_system=None,
        legacy_windows=False,
    )

    def draw() -> RenderableType:
        return rich_reports(make_report(written.progress, paper_macs), console, explained=True)

    thread = threading.Thread(target=redraw, args=(written.progress, console, 0.05, draw))
    thread.start()
    for count in (1, 2):
        while stream.getvalue().count(HEADING) < count:
            thread.join(0.01)
            assert thread.is_alive()
        written.next_level()
    thread.join()
    # Three states of the store, and the last one again: whole where the window cut it before.
    frames = stream.getvalue().split(HEADING)[1:]
    assert ["Dip: the most" in frame for frame in frames] == [False, False, False, True]
    assert ["50.00" in frame for frame in frames] == [False, False, True, True]


def test_a_watched_file_is_written_anew_until_all_is_done(tmp_path: Path) -> None:
    written, output = Written(tmp_path), tmp_path / "report.json"
    options = ["--watch", "--interval", "0.1", "--output", str(output)]
    with _started(tmp_path, "report", *options) as process:
        for levels in (0, 1):
            while not output.exists() or _levels(output) < levels:
                assert process.poll() is None
                time.sleep(0.02)
            written.next_level()
        stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert stdout == ""
    shown = [line for line in stderr.splitlines() if not line.startswith("warning")]
    assert [f"{n}/2 levels" in line for n, line in enumerate(shown)] == [True] * 3
    assert json.loads(output.read_text())["complete"]
    printed = _run(tmp_path, "report", "--watch", "--format", "json")
    assert printed.stdout == output.read_text()


def _levels(output: Path) -> int:
    """How many levels a report in a file shows; 0 while it is being written."""
    try:
        (trajectory,) = json.loads(output.read_text())["trajectories"]
    except json.JSONDecodeError:
        return 0
    return len(trajectory["levels"])


@pytest.mark.parametrize("command", ["status", "report"])
def test_ctrl_c_ends_a_watch_with_130(tmp_path: Path, command: str) -> None:
    write(tmp_path / "spec.yaml", spec_data())
    with _started(tmp_path, command, "--watch") as process:
        assert process.stdout is not None and process.stderr is not None
        shown = process.stdout if command == "status" else process.stderr
        while "0/4 levels, ready" not in shown.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate()
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.endswith("interrupted\n")
    assert "Traceback" not in stderr


def _line(command: str, *options: str) -> list[str]:
    spec = ["spec.yaml", "--store", "store"]
    return [sys.executable, "-u", "-m", "dsdctl", command, *spec, *options]


def _started(folder: Path, command: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        _line(command, *options),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(folder: Path, command: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _line(command, *options), cwd=folder, capture_output=True, text=True, check=True
    )
