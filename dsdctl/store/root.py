"""The folder of a store: where what lies, locks among processes, and what was found corrupt."""

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from dsdctl.errors import DamagedError, WorkError
from dsdctl.keys import LevelIdentity, TableIdentity
from dsdctl.store.at_work import AtWork, Teller, parsed
from dsdctl.store.folders import Checksums, read_checked, read_checksums
from dsdctl.system.atomic import replace_file
from dsdctl.system.files import (
    hold,
    is_file_or_free,
    is_locked,
    is_there,
    mapping_bytes,
    open_lock,
    read_file,
    read_mapping,
)

if TYPE_CHECKING:
    from torch import Tensor

MARKER = "store.json"
"""The file that tells a store from an empty folder."""

Identity = TypeVar("Identity", LevelIdentity, TableIdentity)

Found = TypeVar("Found")


class Root:
    """A store's folder. Reading never writes: what is damaged counts as missing and is named in
    `damage`, until who computes it again has it quarantined."""

    def __init__(self, root: Path):
        self.root = root
        self._damage: dict[Path, str] = {}
        self._quarantined: dict[Path, Path] = {}

    def checked(self) -> Path:
        """The folder. Raises WorkError where there is no store any more."""
        if not (self.root / MARKER).is_file():
            raise WorkError(f"{self.root}: the store has vanished")
        return self.root

    def folder(self, kind: str, key: str) -> Path:
        """Where the `levels` or the `tables` have the folder of a key."""
        return self.root / kind / key[:2] / key

    def tensors(self, folder: Path, name: str) -> "dict[str, Tensor]":
        """What a file of a folder holds. Raises DamagedError."""
        return read_again_if_damaged(lambda: _read_tensors(folder, name))

    def note_damage(self, path: Path, error: Exception) -> None:
        """Remember to say that a folder, or a file by itself, is damaged."""
        reason = " ".join(str(error).split())
        if isinstance(error, ValidationError):
            key = ".".join(map(str, error.errors()[0]["loc"])) or "not JSON"
            reason = f"{path}: holds what this version does not write ({key})"
        self._damage.setdefault(path, reason)

    @property
    def damage(self) -> list[str]:
        """A line for each damaged thing that was found, in that order."""
        lines = []
        for path, reason in self._damage.items():
            target = self._quarantined.get(path)
            fate = "counts as missing" if target is None else f"quarantined as {target}"
            lines.append(f"{reason} ({fate})")
        return lines

    def quarantine(self, path: Path) -> None:
        """Move what is damaged, if it is still there, out of the way of what is computed again."""
        if is_there(path):
            self._quarantined[path] = self._out_of_the_way(path)

    def _out_of_the_way(self, path: Path) -> Path:
        """Move what is in a place of ours to where damaged things lie; return where that is."""
        target = self.checked() / "setaside" / f"{path.name}-{uuid.uuid4().hex[:8]}"
        target.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            path.rename(target)
        return target

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[bool]:
        """Hold the lock `name` among all processes, or yield False where another one holds it.

        The system frees it when its owner ends, however it ends.
        """
        with self._lock(name) as file:
            yield file is not None

    @contextlib.contextmanager
    def at_work(self, key: str) -> Iterator[Teller | None]:
        """Hold the lock of a piece of work, and say in it how far that is; None where another
        process is at it."""
        with self._lock(key) as file:
            if file is None:
                yield None
                return
            teller = Teller(file)
            try:
                yield teller
            finally:
                teller.end()

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[IO[str] | None]:
        folder = self.checked() / "locks"
        folder.mkdir(exist_ok=True)
        with open_lock(folder / name) as file:
            try:
                held = hold(file)
            except OSError as error:  # a file system without locks, say
                raise OSError(error.errno, error.strerror, file.name) from error
            yield file if held else None

    def is_held(self, name: str) -> bool:
        """Whether a process holds a lock; nothing is written to find that out."""
        with contextlib.suppress(OSError):
            return is_locked(self.root / "locks" / name)
        return False

    def told(self, key: str) -> AtWork | None:
        """What the worker of a piece of work last said of itself, a killed one included."""
        with contextlib.suppress(OSError):
            return parsed(read_file(self.root / "locks" / key))
        return None

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return a small file at the store's root, or None where it is missing or damaged."""
        return read_mapping(self.root / name)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a small file at the store's root, whole or not at all."""
        file = self.checked() / name
        file.parent.mkdir(exist_ok=True)
        if not is_file_or_free(file):
            self._out_of_the_way(file)
        replace_file(file, mapping_bytes(value))


def _read_tensors(folder: Path, name: str) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(read_checked(folder, name, read_checksums(folder)))
    except SafetensorError as error:
        raise DamagedError(f"{folder}/{name}: not a whole safetensors file", folder) from error


def read_again_if_damaged(read: Callable[[], Found]) -> Found:
    """What `read` returns. Readers hold no lock, so weights that are dropped between the reading of
    their checksum and their own are missing at first, and known to be dropped the second time."""
    try:
        return read()
    except (DamagedError, ValidationError):
        return read()


def read_identity(folder: Path, model: type[Identity], checksums: Checksums) -> Identity:
    """The identity that a folder holds. Raises DamagedError or pydantic's ValidationError."""
    return model.model_validate_json(read_checked(folder, "identity.json", checksums))
