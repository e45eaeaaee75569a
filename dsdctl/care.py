"""Care of a store: what is in it, whether it is whole, and what may go."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dsdctl.keys import LevelIdentity
from dsdctl.progress import Progress
from dsdctl.results import FinishedLevel, Measured
from dsdctl.stopping import read_trajectory
from dsdctl.store import Store


@dataclass(frozen=True)
class Entry:
    """One finished folder of a store: `kind` is `level` or `table`."""

    kind: str
    key: str
    folder: Path
    bytes: int


def entries(store: Store) -> Iterator[Entry]:
    """Yield every finished folder, levels first, in the order of their keys."""
    for kind, name in (("level", "levels"), ("table", "tables")):
        for folder in sorted(store.root.glob(f"{name}/[0-9a-f][0-9a-f]/[0-9a-f]*")):
            size = sum(file.stat().st_size for file in folder.iterdir())
            yield Entry(kind, folder.name, folder, size)


def describe(store: Store, entry: Entry) -> str:
    """An entry in one line."""
    if entry.kind == "table":
        return "teacher table"
    level = store.level(entry.key)
    if level is None:
        return "DAMAGED"
    return describe_level(store.level_identity(entry.key), level)


def describe_level(identity: LevelIdentity, level: FinishedLevel) -> str:
    """A level in one line: data set, network, seed, how it was taught, what it reached."""
    taught = "" if identity.distillation is None else ", distilled"
    what = (
        f"{identity.images.dataset}, {identity.network.arch}, seed {identity.seed}{taught}, "
        f"level {identity.level}"
    )
    if isinstance(level.result, Measured):
        return f"{what}: test {100 * level.result.test_accuracy:.2f} %"
    return f"{what}: diverged"


def check(entry: Entry) -> list[str]:
    """Read every byte of an entry; return what is wrong, in a line a file."""
    try:
        checksums = json.loads((entry.folder / "checksums.json").read_bytes())
    except (OSError, ValueError) as error:
        return [f"{entry.folder}/checksums.json: {error}"]
    problems = []
    for name, expected in checksums.items():
        try:
            with (entry.folder / name).open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            problems.append(f"{entry.folder}/{name}: {error.strerror}")
            continue
        if digest != expected["sha256"]:
            problems.append(f"{entry.folder}/{name}: its checksum does not fit")
    return problems


def leftovers(store: Store) -> list[Path]:
    """What killed processes left behind: unfinished folders and files, and unused locks.

    Checkpoints are kept: a level that was interrupted goes on from them.
    """
    hidden = [
        *store.root.glob("levels/??/.*"),
        *store.root.glob("tables/??/.*"),
        *store.root.glob("inflight/.*"),
        *store.root.glob(".*-*"),
    ]
    finished = {entry.key for entry in entries(store)}
    checkpoints = [p for p in store.root.glob("inflight/[0-9a-f]*") if p.name in finished]
    return sorted(hidden + checkpoints)


def unneeded_weights(progress: Progress) -> list[str]:
    """Keys of finished levels of a plan whose weights nobody needs any more.

    Needed are the last level of a trajectory, which the next one starts from, every level that
    teaches, and every level that a row reports.
    """
    needed: set[str] = set()
    for trajectory in progress.plan.trajectories.values():
        known = progress.known[trajectory.key]
        needed.update(level.key for level in known.levels[-1:])
        if trajectory.teacher is not None:
            teacher = progress.teacher_identity(trajectory.teacher)
            needed.update(filter(None, [teacher.level if teacher else None]))
    for row_plan in progress.plan.rows:
        for key in row_plan.students:
            known = progress.known[key]
            levels = row_plan.row.student.pruning.rounds + 1
            reading = read_trajectory(
                row_plan.row.stop, known.measured, levels, diverged=known.diverged
            )
            chosen = {reading.best, reading.stopped_at} - {None}
            needed.update(known.levels[level].key for level in chosen if level is not None)
    keys = [level.key for known in progress.known.values() for level in known.levels]
    return [key for key in dict.fromkeys(keys) if key not in needed]


def remove(path: Path) -> int:
    """Delete a file or folder; return the bytes that it took."""
    if path.is_dir():
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        shutil.rmtree(path)
        return size
    size = path.stat().st_size
    path.unlink()
    return size
