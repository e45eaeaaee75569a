"""`dsdctl status --watch`: what changes is shown once, and the end is the end."""

import io
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from builders import measured, planned, spec_data, write
from rich.console import Console

from dsdctl.keys import key_of
from dsdctl.progress import Progress
from dsdctl.results import Environment
from dsdctl.store import Store
from dsdctl.watch import watch

ENVIRONMENT = Environment(
    python="3", torch="2", dsdctl="0", device="cpu", threads=1, wall_seconds=1.0
)


class Written:
    """A store into which another hand writes the levels of the only trajectory, one by one."""

    def __init__(self, folder: Path):
        self.store = Store(folder / "store")
        self.store.open_for_writing()
        plan = planned(folder, {"pruning.levels": 1})
        self.progress = Progress(plan, Store(folder / "store", read_only=True))
        self._writer = Progress(plan, self.store)
        (self._trajectory,) = plan.trajectories.values()

    def next_level(self) -> None:
        identity = self._writer.next_level_identity(self._trajectory)
        assert identity is not None
        result = measured(identity.level, 0.5)
        level = self.store.commit_level(identity, result, ENVIRONMENT, [], {}, {})
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


def test_ctrl_c_ends_a_watch_with_130(tmp_path: Path) -> None:
    spec = write(tmp_path / "spec.yaml", spec_data())
    line = [sys.executable, "-u", "-m", "dsdctl", "status", str(spec), "--watch"]
    with subprocess.Popen(
        line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert "0/4 levels, ready" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert "Traceback" not in process.stderr.read()
