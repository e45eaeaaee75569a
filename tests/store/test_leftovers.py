"""What killed processes left behind goes, what a living one writes stays: one rule for all."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from leftovers import left_behind

from dsdctl.store import maintenance
from dsdctl.store.store import Store
from dsdctl.system.atomic import replace_file

KEY = "0" * 64

PLACES: dict[str, Callable[[Path], None]] = {
    f"levels/00/{KEY}": Path.mkdir,
    f"levels/00/{KEY}/checksums.json": Path.touch,
    f"tables/00/{KEY}": Path.mkdir,
    f"inflight/{KEY}": Path.touch,
    f"networks/{KEY}.json": Path.touch,
    "slurm/jobs.json": Path.touch,
    "tracking/wandb.json": Path.touch,
    "tensorboard/small/comparison/events": Path.touch,
    "prepared/pictures": Path.mkdir,
    "calibration.json": Path.touch,
}

WRITER = """
import os, pathlib, signal, sys
from dsdctl.system.atomic import beside
with beside(pathlib.Path(sys.argv[1]), getattr(pathlib.Path, sys.argv[2])) as temporary:
    print(temporary.name, flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.open_for_writing()
    return store


def age(path: Path, hours: float) -> None:
    """Let a file, or a folder with all that is in it, be of that many hours ago."""
    for one in (path, *path.glob("*")):
        os.utime(one, (time.time() - 3600 * hours,) * 2)


@contextmanager
def stopped_writer(place: Path, make: str) -> Iterator[Path]:
    """What a process is on its way to write, which is stopped until the end of the block."""
    place.parent.mkdir(parents=True, exist_ok=True)
    line = [sys.executable, "-c", WRITER, str(place), make]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        try:
            name = writer.stdout.readline().strip()
            os.waitpid(writer.pid, os.WUNTRACED)  # else it might stop after it was told to go on
            yield place.with_name(name)
        finally:
            writer.send_signal(signal.SIGCONT)
        assert writer.wait() == 0


@pytest.mark.parametrize("place", PLACES)
def test_what_nobody_holds_is_nobodys(store: Store, place: str) -> None:
    left = left_behind(store.root / place, PLACES[place])
    assert list(maintenance.leftovers(store)) == [left]


@pytest.mark.parametrize("make", ["mkdir", "touch"])
def test_what_a_stopped_process_holds_stays_however_old_it_is(store: Store, make: str) -> None:
    place = store.root / "levels" / "00" / KEY
    with stopped_writer(place, make) as temporary:
        age(temporary, 1000)
        assert list(maintenance.leftovers(store)) == []
        if make == "touch":
            replace_file(place, b"of another process")
        assert temporary.exists()
    assert list(maintenance.leftovers(store)) == []
    assert not temporary.exists()


@pytest.mark.parametrize(("hours", "may_go"), [(-1, False), (0, False), (0.9, False), (1.1, True)])
def test_what_another_machine_made_goes_once_it_is_old(
    store: Store, monkeypatch: pytest.MonkeyPatch, hours: float, may_go: bool
) -> None:
    """Its lock may be seen there alone. Of a folder all must be old that is in it."""
    place, elsewhere = store.root / "calibration.json", store.root / "levels" / "00" / KEY
    with monkeypatch.context() as there:
        there.setattr(socket, "gethostname", lambda: "elsewhere")
        file, folder = left_behind(place, Path.touch), left_behind(elsewhere, Path.mkdir)
    written = folder / "weights.safetensors"
    written.write_bytes(b"half")
    age(file, hours)
    age(folder, 1000)
    age(written, hours)
    assert list(maintenance.leftovers(store)) == ([file, folder] if may_go else [])
    replace_file(place, b"{}")
    assert file.exists() is not may_go


def test_what_is_yielded_cannot_be_taken_up_meanwhile(store: Store) -> None:
    """A writer that just made a file finds it gone, or is known to hold it: it is never between."""
    left = left_behind(store.root / "inflight" / KEY, Path.touch)
    for path in maintenance.leftovers(store):
        with pytest.raises(BlockingIOError):
            _lock(path)
    _lock(left)


def _lock(path: Path) -> None:
    import fcntl

    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("name", [".git-ignored", ".nfs0000-01", f".{KEY}-1234", "a-" + "0" * 32])
def test_files_of_other_names_are_not_ours(store: Store, name: str) -> None:
    (store.root / name).touch()
    os.utime(store.root / name, (0, 0))
    assert list(maintenance.leftovers(store)) == []
