"""Kill what reads and tends a finished store, and compare what it leaves behind.

Reports, figures and an export are killed at random moments: what lies in their place is whole, or
not there, and in the end they write what they write undisturbed. `store gc --weights` is killed
too: nothing but weights is gone then, and the store is sound.
"""

import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import result_bytes, start
from .pace import Pace


class DifferenceError(Exception):
    """A store or a run is not what it must be."""


OUTPUTS = ("report.json", "report.html", "report.md", "figures", "network")


def kill_readers(folder: Path, spec: Path, store: Path, dice: random.Random) -> int:
    """Kill each of the commands that read `store` until it has ended; return the number of kills.

    Raises DifferenceError where what one leaves is neither whole nor absent, or in the end is not
    what it writes when nobody disturbs it.
    """
    readers = _Readers(folder, spec, store, dice)
    try:
        return readers.kill()
    finally:
        for name in ("expected", "killed"):
            shutil.rmtree(folder / name, ignore_errors=True)


class _Readers:
    """The commands that read a store, each with what it writes when nobody disturbs it."""

    def __init__(self, folder: Path, spec: Path, store: Path, dice: random.Random):
        self._folder = folder
        self._spec = spec
        self._store = store
        self._dice = dice
        self._expected = self._write_all(folder / "expected", kills=False)[0]

    def kill(self) -> int:
        found, kills = self._write_all(self._folder / "killed", kills=True)
        for name, content in found.items():
            if self._expected[name] != content:
                raise DifferenceError(f"{name}: not what an undisturbed command wrote")
        return kills

    def _write_all(self, folder: Path, *, kills: bool) -> tuple[dict[str, bytes], int]:
        folder.mkdir()
        killed = 0
        for name in OUTPUTS:
            line = _line(name, self._spec, self._store, folder / name)
            dice = self._dice if kills else None
            killed += _until_it_ends(self._folder, line, dice, partial(self._check_partial, line))
        return _content(folder), killed

    def _check_partial(self, line: list[object]) -> None:
        """What a killed command left in the place of its output is whole."""
        place = Path(str(line[-1]))
        if place.is_file() and place.read_bytes() != self._expected[place.name]:
            raise DifferenceError(f"{place}: half-written by a killed command")
        if place.name == "network" and place.is_dir():
            for name, content in _content(place.parent).items():
                if name.startswith("network/") and content != self._expected[name]:
                    raise DifferenceError(f"{place}: half-written by a killed command")
            shutil.rmtree(place)  # else the next export would refuse to write over it


def _line(name: str, spec: Path, store: Path, place: Path) -> list[object]:
    if name == "network":
        recipe = ("--recipe", "kd-pruned-teacher")
        # Else its card has times in it.
        return ["export", spec, *recipe, "--store", store, "--no-latency", "--output", place]
    if name == "figures":
        return ["report", spec, "--store", store, "--figures", place]
    return ["report", spec, "--store", store, "--output", place]


def _content(folder: Path) -> dict[str, bytes]:
    """All files but hidden ones, which are on their way."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    }


def kill_gc(folder: Path, spec: Path, store: Path, dice: random.Random) -> int:
    """Kill `store gc --weights` until it ends; return the number of kills.

    Raises DifferenceError where a file but a dropped weight is missing or changed.
    """
    before = result_bytes(store)
    line = ["store", "gc", spec, "--weights", "--yes", "--store", store]
    killed = _until_it_ends(folder, line, dice)
    after = result_bytes(store)
    for name, content in before.items():
        dropped = name.endswith("weights.safetensors") and name not in after
        if not dropped and after.get(name) != content:
            raise DifferenceError(f"{store}/{name}: changed by gc")
    check_store(store)
    return killed


def check_store(store: Path) -> None:
    """Raises DifferenceError where `store check` finds something."""
    line = [sys.executable, "-m", "dsdctl", "store", "check", "--store", str(store)]
    checked = subprocess.run(line, capture_output=True, text=True, check=False)
    if checked.returncode != 0:
        raise DifferenceError(f"{store}: {checked.stdout}{checked.stderr}")


def _until_it_ends(
    folder: Path,
    line: list[object],
    dice: random.Random | None,
    after_kill: Callable[[], None] = lambda: None,
) -> int:
    """Kill a command until it has ended, without `dice` not at all; return the number of kills."""
    killed, pace = 0, Pace(dice, 2.5, growth=1.3) if dice else None
    while True:
        process = start(folder, *line, start_new_session=True)
        try:
            _, err = process.communicate(timeout=pace.wait() if pace else 600)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            if pace is None:
                raise DifferenceError(f"{line[0]} hangs") from None
            killed += 1
            pace.killed()
            after_kill()
            continue
        if process.returncode != 0:
            raise DifferenceError(f"{line[0]} ended with {process.returncode}: {err}")
        return killed
