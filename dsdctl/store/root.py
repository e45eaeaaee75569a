"""The folder of a store: its layout, locks between processes, damage found and quarantined."""

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
    """A store's folder.

    Reading never writes: damaged work counts as missing and is listed in `damage`. Whoever computes
    it again calls `quarantine` first.
    """

    def __init__(self, root: Path):
        self.root = root
        self._damage: dict[Path, str] = {}
        self._quarantined: dict[Path, Path] = {}

    def checked(self) -> Path:
        """The folder. Raises WorkError if the store has vanished."""
        if not (self.root / MARKER).is_file():
            raise WorkError(f"{self.root}: the store has vanished")
        return self.root

    def folder(self, kind: str, key: str) -> Path:
        """The folder of a key among the `levels` or `tables`."""
        return self.root / kind / key[:2] / key

    def tensors(self, folder: Path, name: str) -> "dict[str, Tensor]":
        """Read the safetensors file `name` of a folder. Raises DamagedError, and WorkError if it
        was dropped."""
        return read_again_if_damaged(lambda: _read_tensors(folder, name))

    def note_damage(self, path: Path, error: Exception) -> None:
        """Record that a folder, or a file by itself, is damaged."""
        reason = " ".join(str(error).split())
        if isinstance(error, ValidationError):
            key = ".".join(map(str, error.errors()[0]["loc"])) or "not JSON"
            reason = f"{path}: holds what this version does not write ({key})"
        self._damage.setdefault(path, reason)

    @property
    def damage(self) -> list[str]:
        """A line per damaged folder or file, in the order in which they were found."""
        lines = []
        for path, reason in self._damage.items():
            target = self._quarantined.get(path)
            fate = "counts as missing" if target is None else f"quarantined as {target}"
            lines.append(f"{reason} ({fate})")
        return lines

    def quarantine(self, path: Path) -> None:
        """Move a damaged folder or file, if it is still there, so that it can be computed again."""
        if is_there(path):
            self._quarantined[path] = self._set_aside(path)

    def _set_aside(self, path: Path) -> Path:
        """Move `path` to the quarantine under a new name, which is returned."""
        target = self.checked() / "setaside" / f"{path.name}-{uuid.uuid4().hex[:8]}"
        target.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            path.rename(target)
        return target

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[bool]:
        """Hold the lock `name` among all processes; yields False if another one holds it.

        The system releases it when its owner ends, even if that is killed.
        """
        with self._lock(name) as file:
            yield file is not None

    @contextlib.contextmanager
    def at_work(self, key: str) -> Iterator[Teller | None]:
        """Hold the lock of a piece of work, and yield what reports its progress; yields None if
        another process is running it."""
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
            except OSError as error:  # for instance, a file system without locks
                raise OSError(error.errno, error.strerror, file.name) from error
            yield file if held else None

    def is_held(self, name: str) -> bool:
        """Whether any process holds a lock; writes nothing."""
        with contextlib.suppress(OSError):
            return is_locked(self.root / "locks" / name)
        return False

    def told(self, key: str) -> AtWork | None:
        """The last progress report on a piece of work, perhaps of a process that was killed."""
        with contextlib.suppress(OSError):
            return parsed(read_file(self.root / "locks" / key))
        return None

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Read a small file at the store's root; None if it is missing or damaged."""
        return read_mapping(self.root / name)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a small file at the store's root, whole or not at all."""
        file = self.checked() / name
        file.parent.mkdir(exist_ok=True)
        if not is_file_or_free(file):
            self._set_aside(file)
        replace_file(file, mapping_bytes(value))


def _read_tensors(folder: Path, name: str) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(read_checked(folder, name, read_checksums(folder)))
    except SafetensorError as error:
        raise DamagedError(f"{folder}/{name}: not a whole safetensors file", folder) from error


def read_again_if_damaged(read: Callable[[], Found]) -> Found:
    """The result of `read`, which is called again if it finds damage.

    Readers hold no lock. If weights are dropped after their checksum was read, they seem to be
    missing; a second reading sees that they were dropped.
    """
    try:
        return read()
    except (DamagedError, ValidationError):
        return read()


def read_identity(folder: Path, model: type[Identity], checksums: Checksums) -> Identity:
    """Read the identity in a folder. Raises DamagedError or pydantic's ValidationError."""
    return model.model_validate_json(read_checked(folder, "identity.json", checksums))
