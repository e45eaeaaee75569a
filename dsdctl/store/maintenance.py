"""Care of a store: what is in it, whether it is whole, and what may go."""

import contextlib
import json
import time
from collections.abc import Iterator
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
        """When it was written, in seconds since 1970; 0 where that cannot be told."""
        with contextlib.suppress(OSError):
            return (self.folder / "identity.json").lstat().st_mtime
        return 0.0


def entries(store: Store) -> Iterator[Entry]:
    """Yield every finished folder, levels first, in the order of their keys."""
    for kind, name in (("level", "levels"), ("table", "tables")):
        for folder in sorted(store.root.glob(f"{name}/[0-9a-f][0-9a-f]/[0-9a-f]*")):
            yield Entry(kind, folder.name, folder, _bytes_in(folder))


def _bytes_in(folder: Path) -> int:
    """Bytes of the files in a finished folder; 0 where it is none, or may not be read."""
    size = 0
    with contextlib.suppress(OSError):
        size += sum(file.lstat().st_size for file in folder.iterdir() if not folder.is_symlink())
    return size


def describe(store: Store, entry: Entry) -> str:
    """An entry in one line."""
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
    """A level in one line: data set, network, seed, how it was taught, what it reached."""
    taught = "" if identity.distillation is None else ", distilled"
    network, seed = network_name(identity.network), identity.seed
    what = f"{identity.images.dataset}, {network}, seed {seed}{taught}, level {identity.level}"
    if identity.iterations is not None:
        what += f" after {identity.iterations} batches"
    if isinstance(level.result, Measured):
        return f"{what}: test {100 * level.result.test_accuracy:.2f} %"
    return f"{what}: diverged"


def check_all(store: Store) -> tuple[int, list[str]]:
    """Read every byte of a store; return how many folders it holds, and a line a damaged file."""
    found = list(entries(store))
    problems = [problem for entry in found for problem in check(entry)]
    checkpoints = [f"{file}: a damaged checkpoint" for file in store.checkpoints.damaged()]
    small = [f"{file}: damaged, counts as missing" for file in damaged_small_files(store)]
    return len(found), problems + checkpoints + small


def check(entry: Entry) -> list[str]:
    """Read every byte of an entry; return what is wrong, in a line a file."""
    try:
        return problems(entry.folder)
    except WorkError as error:
        return [str(error)]
    except OSError as error:
        return [describe_os_error(error) or str(entry.folder)]


def damaged_small_files(store: Store) -> list[Path]:
    """Read every small file that this version writes; return those that cannot be used."""
    names = ("*.json", "networks/*.json", "tracking/*.json", "slurm/*.json")
    files = sorted(file for name in names for file in store.root.glob(name))
    damaged = [file for file in files if read_mapping(file) is None]
    return damaged + [
        lock for lock in sorted(store.root.glob("locks/*")) if not is_file_or_free(lock)
    ]


def problems(folder: Path) -> list[str]:
    """Read every byte of a finished folder; return a line for each file that is damaged.

    Raises DamagedError where not even its checksums can be read.
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
    """The schema and the numerics version that a finished folder is of. Raises DamagedError."""
    identity = json.loads(read_checked(folder, "identity.json", read_checksums(folder)))
    return identity["schema_version"], identity["numerics_version"]


STALE_SECONDS = 3600.0
"""How old a temporary file that belongs to no key must be to be nobody's."""


def leftovers(store: Store) -> list[Path]:
    """What killed processes left behind: unfinished folders and files, needless checkpoints.

    What a running process is at is left alone. Checkpoints of unfinished levels are kept: a level
    that was interrupted goes on from them.
    """
    finished = {entry.key for entry in entries(store)}
    checkpoints = [
        path
        for path in store.root.glob("inflight/[0-9a-f]*")
        if path.name in finished and not store.levels.lacks_weights(path.name)
    ]
    named_after_key = [
        path
        for pattern in ("levels/??/.*", "tables/??/.*", "inflight/.*")
        for path in store.root.glob(pattern)
    ]
    unfinished = [
        *((path, path.name) for path in checkpoints),
        *((path, path.name[1:].partition("-")[0]) for path in named_after_key),
        *((path, path.parent.name) for path in store.root.glob("levels/??/[0-9a-f]*/.*")),
    ]
    found = [path for path, key in unfinished if not _in_use(store, key)]
    for pattern in (".*-*", "slurm/.*-*", "tracking/.*-*"):
        found += filter(_is_stale, store.root.glob(pattern))
    return sorted(found)


def _is_stale(path: Path) -> bool:
    """Whether a temporary file is nobody's by now."""
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.lstat().st_mtime > STALE_SECONDS
    return False


def _in_use(store: Store, key: str) -> bool:
    """Whether a process is at a piece of work."""
    with store.lock(key) as locked:
        return not locked


def remove(path: Path) -> int:
    """Delete a file or folder; return the bytes that it took."""
    inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    size = sum(file.lstat().st_size for file in inside if not file.is_dir())
    atomic.remove(path)
    return size
