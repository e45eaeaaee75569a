"""Each kind of file of a store, of prepared data and of W&B's journals, damaged in each way."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .finished_store import (
    checkpoint,
    journal,
    level_0,
    level_1,
    lock,
    prepared,
    prepared_lock,
    table,
)

LEVEL = (
    "identity.json", "result.json", "environment.json", "epochs.jsonl", "weights.safetensors",
    "masks.safetensors", "checksums.json",
)  # fmt: skip
TABLE = ("identity.json", "environment.json", "logits.safetensors", "checksums.json")
PREPARED = (
    "train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy", "manifest.json",
)  # fmt: skip

READ_WHEN_USED = ("weights.safetensors", "masks.safetensors", "logits.safetensors")
"""Of these `report` compares the sizes alone: it reads none of them."""


# What can be done to a file


def flip(file: Path, _outside: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)


def truncate(file: Path, _outside: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def empty(file: Path, _outside: Path) -> None:
    file.write_bytes(b"")


def missing(path: Path, _outside: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def folder_there(path: Path, outside: Path) -> None:
    missing(path, outside)
    path.mkdir()
    (path / "inside").write_text("of another program")


def file_there(path: Path, outside: Path) -> None:
    missing(path, outside)
    path.write_text("of another program")


def fifo(path: Path, outside: Path) -> None:
    missing(path, outside)
    os.mkfifo(path)


def link_to_the_same(path: Path, outside: Path) -> None:
    """What is linked to is whole, and yet no part of the store."""
    path.rename(outside / path.name)
    path.symlink_to(outside / path.name)


def link_to_another(path: Path, outside: Path) -> None:
    missing(path, outside)
    (outside / "secret").write_text("a stranger's secret")
    path.symlink_to(outside / "secret")


def link_to_nothing(path: Path, outside: Path) -> None:
    missing(path, outside)
    path.symlink_to(outside / "nothing")


def mode_000(path: Path, _outside: Path) -> None:
    path.chmod(0)


TO_FILES = (
    flip, truncate, empty, missing, folder_there, fifo, link_to_the_same, link_to_another,
    link_to_nothing, mode_000,
)  # fmt: skip
TO_FOLDERS = (
    missing, file_there, fifo, link_to_the_same, link_to_another, link_to_nothing, mode_000,
)  # fmt: skip


def swapped(path: Path, _outside: Path) -> None:
    folder = path.parents[3] if path.parent.name != "inflight" else path.parents[2]
    other = (
        level_0(folder)
        if path.parent.name != "inflight"
        else sorted(path.parent.glob("[0-9a-f]*"))[1]
    )
    aside = path.with_name("aside")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)


# The cases


@dataclass
class Damage:
    """One kind of damage to one file, and which commands are to say so."""

    kind: str
    damage: Callable[[Path, Path], None]
    path: Callable[[Path], Path]
    said_by: tuple[str, ...] = ("report", "check", "run")
    tracked: bool = False
    checked: Callable[[Path], list[str]] = lambda _folder: []

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.damage.__name__.replace('_', ' ')}"


def damages() -> Iterator[Damage]:
    for name in LEVEL:
        yield from (_of_folder(f"level's {name}", damage, level_1, name) for damage in TO_FILES)
    for name in TABLE:
        yield from (_of_folder(f"table's {name}", damage, table, name) for damage in TO_FILES)
    for damage in TO_FOLDERS:
        said = ("report", "check", "run") if damage is not missing else ()
        yield Damage("level's folder", damage, level_1, said)
        yield Damage("table's folder", damage, table, said)
    yield Damage("two levels' folders", swapped, level_1)
    yield Damage("two checkpoints", swapped, checkpoint, ("check", "run"))
    for damage in TO_FILES:
        none = damage in (missing,)
        yield Damage("checkpoint", damage, checkpoint, () if none else ("check", "run"))
        yield Damage("marker", damage, lambda f: f / "store/store.json", ("report", "check"))
        cached = () if none else ("check",)
        for name in ("calibration.json", "macs.json", "slurm/jobs.json"):
            yield Damage(name, damage, lambda f, name=name: f / "store" / name, cached)
        for name in ("wandb.json", "wandb-offline.json"):
            yield Damage(
                f"journal {name}",
                damage,
                lambda f, name=name: journal(f, name),
                cached,
                tracked=True,
            )
        for name in PREPARED:
            yield Damage(
                f"prepared {name}",
                damage,
                lambda f, name=name: prepared(f) / name,
                (),
                checked=_prepared_is_whole,
            )
        if damage not in (flip, truncate, empty, missing):
            yield Damage("lock", damage, lock, ("check",) if damage is not mode_000 else ())
        yield Damage("log", damage, lambda f: next(f.glob("store/logs/*.log")), ())
        yield Damage("event log", damage, lambda f: next(f.glob("store/logs/*.jsonl")), ())
    for damage in TO_FOLDERS:
        yield Damage("prepared folder", damage, prepared, (), checked=_prepared_is_whole)
        yield Damage("prepared lock", damage, prepared_lock, (), checked=_prepared_is_whole)


def _of_folder(
    kind: str, damage: Callable[[Path, Path], None], place: Callable[[Path], Path], name: str
) -> Damage:
    said: tuple[str, ...] = ("report", "check", "run")
    if damage in (flip, mode_000) and name in READ_WHEN_USED:
        said = ("check", "run")
    return Damage(kind, damage, lambda folder: place(folder) / name, said)


def _prepared_is_whole(folder: Path) -> list[str]:
    from dsdctl.data.prepared import is_whole

    place = folder / "pictures/dsdctl-prepared"
    left = sorted(path.name for path in place.iterdir())
    wrong = [] if len(left) == 1 else [f"left beside the prepared data: {', '.join(left)}"]
    found = [path for path in place.iterdir() if path.name[0] != "."]
    if not found or not is_whole(found[0], thorough=True):
        wrong.append("the prepared data is not whole afterwards")
    return wrong
