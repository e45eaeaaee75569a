"""Kill `dsdctl run` again and again, start it again each time, and compare what it ends with.

    python -m tests.soak.soak --kills 200 [--seed 0] [--epochs 40] [--minutes 60]

A small spec is run once undisturbed. Then, in fresh stores, it is run with `--checkpoint-every 0
--jobs 2`, and at random moments the parent, a worker or all of them together get SIGKILL; every
fourth round dies at a random named kill point instead. Each store that gets finished must hold
the same bytes as the undisturbed one, print the same report and pass `dsdctl store check`, and no
worker may outlive its parent. Then reports, figures, an export and `store gc` of that store are
killed in turn, and must leave what they leave undisturbed. The first difference ends the soak with
exit code 1.
"""

import argparse
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from dsdctl.system.kill_points import POINTS

from . import result_bytes, session_members, spec, start, workers
from .pace import Pace
from .readers import DifferenceError, check_store, kill_gc, kill_readers

ORPHAN_SECONDS = 60.0
"""How long what is left of a killed run may take to be gone."""


@dataclass
class Round:
    """How one start of the command ended, and how many kills it took."""

    code: int
    out: str
    err: str
    kills: int


def soak(folder: Path, kills: int, seed: int, epochs: int, minutes: float) -> str:
    """Kill at least `kills` times, but none after `minutes`; return the final line.

    Raises DifferenceError.
    """
    dice = random.Random(seed)
    file = spec(
        folder,
        ("epochs: 3", f"epochs: {epochs}"),
        ("milestones: [2]", f"milestones: [{epochs // 2}]"),
        ("levels: 1", "levels: 2"),
        ("[vanilla]", "[vanilla, kd-dense-teacher, kd-pruned-teacher]"),
        ("seeds: [0]", "seeds: [0, 1]"),
        name="soak",
    )
    began = time.monotonic()
    done = _round(folder, file, folder / "reference", None, dice, "")
    longest = time.monotonic() - began
    if done.code != 0:
        raise DifferenceError(f"the undisturbed run ended with {done.code}: {done.err}")
    reference = result_bytes(folder / "reference")
    print(f"undisturbed: {len(reference)} files, {longest:.0f} s", flush=True)
    killed, completed, of_readers = 0, 0, 0

    def over() -> bool:
        return killed >= kills or time.monotonic() - began > 60 * minutes

    while not over():
        store, rounds, before = folder / f"store-{completed}", 0, killed
        pace = Pace(dice, 3.0, growth=1.02)
        while True:
            point = f"{dice.choice(POINTS)}:{dice.randint(1, 2 * epochs)}"
            point = point if rounds % 4 == 3 else ""
            one = _round(folder, file, store, None if over() else pace, dice, point)
            rounds += 1
            killed += one.kills
            if one.code == 0:
                break
        if one.out != done.out:
            raise DifferenceError(f"{store}: another report:\n{one.out}")
        _compare(store, reference)
        completed += 1
        reading = kill_readers(folder, file, store, dice)
        tending = kill_gc(folder, file, store, dice)
        of_readers += reading + tending
        print(
            f"{killed} kills, store {completed}: {rounds} starts, {killed - before} kills, "
            f"identical; {reading} of its readers, {tending} of gc",
            flush=True,
        )
        shutil.rmtree(store)
    return (
        f"{killed} kills of runs and {of_readers} of reports, exports and gc, "
        f"{completed} completed stores, all identical"
    )


def _round(
    folder: Path, file: Path, store: Path, pace: Pace | None, dice: random.Random, point: str
) -> Round:
    """Start the command once and, with a pace, kill until it has ended.

    With a kill `point` it may die there before.
    """
    line = ("run", file, "--store", store, "--checkpoint-every", "0", "--jobs", "2")
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = start(
            folder, *line, kill_at=point, stdout=out, stderr=err, start_new_session=True
        )
        mine = 0
        try:
            while pace is not None and process.poll() is None:
                try:
                    process.wait(pace.wait())
                except subprocess.TimeoutExpired:
                    mine += _kill(process, dice)
                    pace.killed()
            process.wait(600)
        finally:
            _end_session(process.pid)
        out.seek(0)
        err.seek(0)
        ended = Round(process.returncode, out.read(), err.read(), mine)
    if ended.code not in (0, 3, -signal.SIGKILL) or _traceback(ended):
        raise DifferenceError(f"ended with {ended.code} at {point or 'random'}: {ended.err}")
    if point and not mine:
        died = ended.err.count("FAILED: its worker process died")
        ended.kills = died + (ended.code == -signal.SIGKILL)
    if ended.code == 3 and not ended.kills:
        raise DifferenceError(f"failed without a kill: {ended.err}")
    return ended


def _traceback(ended: Round) -> bool:
    """Whether there is one, other than of a child whose parent was killed while it started it.

    Nothing of dsdctl runs yet in such a child: Python finds the end of what it was to be told.
    """
    cut_off = ended.err.count("EOFError: Ran out of input") if ended.code == -signal.SIGKILL else 0
    return ended.err.count("Traceback") > cut_off


def _kill(process: subprocess.Popen[str], dice: random.Random) -> int:
    """Kill the parent, a worker, or all; return how many kills that was."""
    victims = workers(process.pid)
    match dice.choice(("parent", "worker", "worker", "group")):
        case "parent":
            process.kill()
        case "worker" if victims:
            os.kill(dice.choice(victims), signal.SIGKILL)
        case "group":
            os.killpg(process.pid, signal.SIGKILL)
        case _:
            return 0
    return 1


def _end_session(session: int) -> None:
    """Wait until all processes of a run are gone. Raises DifferenceError where one stays."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    while left := session_members(session):
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            raise DifferenceError(f"{len(left)} processes outlived the run that started them")
        time.sleep(0.05)


def _compare(store: Path, reference: dict[str, bytes]) -> None:
    """Raises DifferenceError where a finished store is not the undisturbed one."""
    found = result_bytes(store)
    for name in sorted(found.keys() | reference.keys()):
        if found.get(name) != reference.get(name):
            raise DifferenceError(f"{store}/{name}: not what the undisturbed run wrote")
    if list(store.glob("setaside/*")):
        raise DifferenceError(f"{store}: something was damaged and set aside")
    check_store(store)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="kill at least so often")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    parser.add_argument("--epochs", type=int, default=40, help="of each level")
    parser.add_argument("--minutes", type=float, default=math.inf, help="kill none after so many")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dsdctl-soak-") as folder:
        try:
            print(soak(Path(folder), **vars(options)))
        except DifferenceError as error:
            sys.exit(f"DIFFERENT: {error}")


if __name__ == "__main__":
    main()
