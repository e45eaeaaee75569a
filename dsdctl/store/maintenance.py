"""Maintenance of a store: list what is in it, verify it, find what can be deleted."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dsdctl.errors import DamagedError, WorkError, describe_os_error
from dsdctl.keys import NUMERICS_VERSION, SCHEMA_VERSION, LevelIdentity, TableIdentity, key_of_json
from dsdctl.results import FinishedLevel, Measured
from dsdctl.spec.network import network_name
from dsdctl.store.folders import read_checked, read_checksums
from dsdctl.store.store import Store
from dsdctl.system import atomic
from dsdctl.system.files import is_file_or_free, read_mapping


@dataclass(frozen=True)
class Entry:
    """One finished folder of a store: `kind` is `level` or `table`."""

    kind: str
    key: str
    folder: Path
    bytes: int

    @property
    def finished(self) -> float:
        """When it was written, in seconds since 1970; 0 if that is not known."""
        with contextlib.suppress(OSError):
            return (self.folder / "identity.json").lstat().st_mtime
        return 0.0


def entries(store: Store) -> Iterator[Entry]:
    """Yield every finished folder, levels first, in the order of their keys."""
    for kind, name in (("level", "levels"), ("table", "tables")):
        for folder in sorted(store.root.glob(f"{name}/[0-9a-f][0-9a-f]/[0-9a-f]*")):
            yield Entry(kind, folder.name, folder, _bytes_in(folder))


def _bytes_in(folder: Path) -> int:
    """Bytes of the files in a folder; 0 if it is a link or cannot be read."""
    size = 0
    with contextlib.suppress(OSError):
        size += sum(file.lstat().st_size for file in folder.iterdir() if not folder.is_symlink())
    return size


def describe(store: Store, entry: Entry) -> str:
    """One line about an entry."""
    try:
        schema, numerics = versions(entry.folder)
    except (DamagedError, OSError):
        return "DAMAGED"
    if (schema, numerics) != (SCHEMA_VERSION, NUMERICS_VERSION):
        return f"{entry.kind} of schema {schema}, numerics {numerics}: not read by this version"
    if entry.kind == "table":
        return "cached teacher logits"
    level = store.levels.get(entry.key)
    if level is None:
        return "DAMAGED"
    return describe_level(store.levels.identity(entry.key), level)


def describe_level(identity: LevelIdentity, level: FinishedLevel) -> str:
    """One line about a level: data set, network, seed, whether distilled, test accuracy."""
    distilled = "" if identity.distillation is None else ", distilled"
    network, seed = network_name(identity.network), identity.seed
    what = f"{identity.images.dataset}, {network}, seed {seed}{distilled}, level {identity.level}"
    if identity.iterations is not None:
        what += f" after {identity.iterations} batches"
    if isinstance(level.result, Measured):
        return f"{what}: test {100 * level.result.test_accuracy:.2f} %"
    return f"{what}: diverged"


def check_all(store: Store) -> tuple[int, list[str]]:
    """Read every byte of a store; return its number of folders, and a line per damaged file."""
    found = list(entries(store))
    problems = [problem for entry in found for problem in check(entry)]
    checkpoints = [f"{file}: a damaged checkpoint" for file in store.checkpoints.damaged()]
    small = [f"{file}: damaged, counts as missing" for file in damaged_small_files(store)]
    return len(found), problems + checkpoints + small


def check(entry: Entry) -> list[str]:
    """Read every byte of an entry; return a line per damaged or unreadable file."""
    try:
        return problems(entry.folder)
    except WorkError as error:
        return [str(error)]
    except OSError as error:
        return [describe_os_error(error) or str(entry.folder)]


def damaged_small_files(store: Store) -> list[Path]:
    """Read the small files of a store, such as rates and locks; return those that are damaged."""
    names = ("*.json", "networks/*.json", "tracking/*.json", "slurm/*.json")
    files = sorted(file for name in names for file in store.root.glob(name))
    damaged = [file for file in files if read_mapping(file) is None]
    return damaged + [
        lock for lock in sorted(store.root.glob("locks/*")) if not is_file_or_free(lock)
    ]


def problems(folder: Path) -> list[str]:
    """Read every byte of a finished folder; return a line per damaged file.

    Raises DamagedError if even its checksums are damaged, and OSError.
    """
    kind = TableIdentity if folder.parent.parent.name == "tables" else LevelIdentity
    found = []
    checksums = read_checksums(folder)
    for name, checksum in checksums.items():
        if checksum.dropped:
            continue
        try:
            content = read_checked(folder, name, checksums)
            if len(content) != checksum.bytes:
                found.append(f"{folder}/checksums.json: another size than {name} has")
            if name == "identity.json" and key_of_json(kind, content) != folder.name:
                found.append(f"{folder}/{name}: does not belong to this key")
        except DamagedError as error:
            found.append(str(error))
    return found


def versions(folder: Path) -> tuple[int, int]:
    """The schema and the numerics version of a finished folder. Raises DamagedError."""
    identity = json.loads(read_checked(folder, "identity.json", read_checksums(folder)))
    return identity["schema_version"], identity["numerics_version"]


_WRITTEN_TO = (
    "levels/??", "levels/??/*", "tables/??", "tables/??/*",
    "inflight", "networks", "slurm", "tracking", "tensorboard/*/*", "prepared",
)  # fmt: skip
"""The folders, besides the store's own, that hold temporary files until these are renamed."""


def leftovers(store: Store) -> Iterator[Path]:
    """Yield what killed processes left behind: temporary files and folders, stale checkpoints.

    Each path is locked until the next one is asked for, so that it can be deleted meanwhile; what
    another process holds is skipped. Checkpoints of unfinished levels are not stale: interrupted
    levels resume from them.
    """
    for path in sorted(path for folder in _written_to(store) for path in _inside(folder)):
        if atomic.is_temporary(path):
            with atomic.abandoned(path) as is_abandoned:
                if is_abandoned:
                    yield path
    finished = {entry.key for entry in entries(store)}
    yield from _stale_checkpoints(store, finished.__contains__)


def drop_stale_checkpoints(store: Store) -> None:
    """Delete the checkpoints of finished levels, whose processes were killed before they did."""
    for path in _stale_checkpoints(store, lambda key: store.levels.get(key) is not None):
        store.checkpoints.drop(path.name)


def _stale_checkpoints(store: Store, finished: Callable[[str], bool]) -> Iterator[Path]:
    """Yield those that no level resumes from, each locked until the next one is asked for."""
    for path in sorted(_inside(store.root / "inflight")):
        if not atomic.is_temporary(path) and finished(path.name):
            with store.lock(path.name) as locked:
                stale = not store.levels.lacks_weights(path.name)
                if locked and stale and path.exists():
                    yield path


def _written_to(store: Store) -> Iterator[Path]:
    yield store.root
    for pattern in _WRITTEN_TO:
        for folder in store.root.glob(pattern):
            # Users may link top-level folders to other disks; links further down are not followed.
            if folder.parent == store.root or not folder.is_symlink():
                yield folder


def _inside(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # it may just have been moved
        yield from folder.iterdir()


def remove(path: Path) -> int:
    """Delete a file or folder; return the bytes that it took up."""
    inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    size = sum(file.lstat().st_size for file in inside if not file.is_dir())
    atomic.remove(path)
    return size
