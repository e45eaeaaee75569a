"""Finished work by key. What lies in the store is complete and checked, or it is not there.

    levels/<2 hex>/<key>/   identity.json result.json environment.json epochs.jsonl
                            weights.safetensors masks.safetensors checksums.json
    tables/<2 hex>/<key>/   identity.json environment.json logits.safetensors checksums.json
    inflight/<key>          the last checkpoint of a level in flight
    locks/  setaside/  logs/  tracking/  wandb/  calibration.json  store.json

A folder is written under a temporary name beside its place, flushed, and renamed last. Each file's
sha256 is in checksums.json and checked when the file is read; a folder that fails is set aside,
never deleted, and its work counts as missing.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from dsdctl.errors import InputError, WorkError
from dsdctl.keys import LevelIdentity, TableIdentity, canonical_json, key_of
from dsdctl.killpoints import kill_point
from dsdctl.results import Environment, FinishedLevel, LevelResult

if TYPE_CHECKING:
    from torch import Tensor

    from dsdctl.ml.train import Epoch

WEIGHTS = "weights.safetensors"

_REQUIRED = {
    "levels": {
        "identity.json",
        "result.json",
        "environment.json",
        "epochs.jsonl",
        "masks.safetensors",
    },
    "tables": {"identity.json", "environment.json", "logits.safetensors"},
}
"""What a folder must hold. Weights may be dropped on request."""

MARKER = "store.json"
"""The file that tells a store from an empty folder."""

Checksums = dict[str, dict[str, Any]]
"""Of each file of a folder its size in `bytes` and its `sha256`."""

Identity = TypeVar("Identity", LevelIdentity, TableIdentity)

_RESULT: TypeAdapter[LevelResult] = TypeAdapter(LevelResult)


class DamagedError(WorkError):
    """A stored folder is incomplete or altered."""


class Store:
    """A store under one folder. With `read_only` nothing is ever written, damage only reported."""

    def __init__(self, root: Path, *, read_only: bool = False):
        self.root = root
        self.read_only = read_only
        self.damage: list[str] = []

    # Levels

    def level(self, key: str) -> FinishedLevel | None:
        """Return the finished level under `key`, or None. Damaged folders are set aside."""
        folder = self._folder("levels", key)
        if not folder.is_dir():
            return None
        try:
            checksums = self._checksums(folder)
            result = _RESULT.validate_json(self._read(folder, "result.json", checksums))
            environment = Environment.model_validate_json(
                self._read(folder, "environment.json", checksums)
            )
            identity = self._identity(folder, LevelIdentity, checksums)
            if key_of(identity) != key:
                raise DamagedError(f"{folder}: identity.json does not belong to this key")
            _check_sizes(folder, checksums)
        except (DamagedError, ValidationError) as error:
            self._set_aside(folder, error)
            return None
        return FinishedLevel(key=key, result=result, environment=environment)

    def level_identity(self, key: str) -> LevelIdentity:
        """Return the identity of a finished level. Raises DamagedError."""
        folder = self._folder("levels", key)
        return self._identity(folder, LevelIdentity, self._checksums(folder))

    def level_tensors(self, key: str, name: str) -> "dict[str, Tensor]":
        """Return the `weights` or `masks` of a finished level. Raises DamagedError."""
        return self._tensors(self._folder("levels", key), f"{name}.safetensors")

    def commit_level(
        self,
        identity: LevelIdentity,
        result: LevelResult,
        environment: Environment,
        epochs: "Sequence[Epoch]",
        weights: "Mapping[str, Tensor]",
        masks: "Mapping[str, Tensor]",
    ) -> FinishedLevel:
        """Write a finished level; what another process finished first stays."""
        key = key_of(identity)
        lines = "".join(json.dumps(asdict(epoch), sort_keys=True) + "\n" for epoch in epochs)
        self._commit(
            self._folder("levels", key),
            {
                "identity.json": canonical_json(identity).encode(),
                "result.json": _json_bytes(result.model_dump(mode="json")),
                "environment.json": _json_bytes(environment.model_dump(mode="json")),
                "epochs.jsonl": lines.encode(),
                WEIGHTS: _tensor_bytes(weights),
                "masks.safetensors": _tensor_bytes(masks),
            },
        )
        return FinishedLevel(key=key, result=result, environment=environment)

    def drop_weights(self, key: str) -> int:
        """Forget the weights of a finished level and keep the rest; return the bytes freed."""
        folder = self._folder("levels", key)
        checksums = self._checksums(folder)
        entry = checksums.pop(WEIGHTS, None)
        if entry is None:
            return 0
        # What the checksums no longer name is not missed, so they are replaced first.
        self.write_json(str((folder / "checksums.json").relative_to(self.root)), checksums)
        (folder / WEIGHTS).unlink(missing_ok=True)
        return int(entry["bytes"])

    def problems(self, folder: Path) -> list[str]:
        """Read every byte of a finished folder; return a line for each file that is damaged.

        Raises DamagedError where not even its checksums can be read.
        """
        model: type[LevelIdentity] | type[TableIdentity] = LevelIdentity
        if folder.parent.parent.name == "tables":
            model = TableIdentity
        found = []
        checksums = self._checksums(folder)
        for name, entry in checksums.items():
            try:
                content = self._read(folder, name, checksums)
                if len(content) != entry["bytes"]:
                    found.append(f"{folder}/checksums.json: another size than {name} has")
                if name == "identity.json":
                    key = key_of(model.model_validate_json(content))
                    if key != folder.name:
                        found.append(f"{folder}/{name}: does not belong to this key")
            except (DamagedError, ValidationError) as error:
                found.append(" ".join(str(error).split()))
        return found

    # Teacher tables

    def has_table(self, key: str) -> bool:
        """Say whether the teacher table under `key` is there and whole."""
        folder = self._folder("tables", key)
        if not folder.is_dir():
            return False
        try:
            checksums = self._checksums(folder)
            self._identity(folder, TableIdentity, checksums)
            _check_sizes(folder, checksums)
        except (DamagedError, ValidationError) as error:
            self._set_aside(folder, error)
            return False
        return True

    def table(self, key: str) -> "Tensor":
        """Return a teacher table: float32 (N, V, K). Raises DamagedError."""
        return self._tensors(self._folder("tables", key), "logits.safetensors")["logits"]

    def commit_table(
        self, identity: TableIdentity, environment: Environment, logits: "Tensor"
    ) -> None:
        """Write a teacher table; what another process finished first stays."""
        self._commit(
            self._folder("tables", key_of(identity)),
            {
                "identity.json": canonical_json(identity).encode(),
                "environment.json": _json_bytes(environment.model_dump(mode="json")),
                "logits.safetensors": _tensor_bytes({"logits": logits}),
            },
        )

    # Checkpoints of levels in flight

    def save_checkpoint(
        self, key: str, epochs: "Sequence[Epoch]", tensors: "Mapping[str, Tensor]"
    ) -> None:
        """Write the state after `epochs` of the level in flight, in place of an older one."""
        history = json.dumps([asdict(epoch) for epoch in epochs])
        content = _tensor_bytes(tensors, {"epochs": history})
        try:
            self._write_checkpoint(key, content)
        except FileNotFoundError:
            self._checked_root()  # says so where the whole store has vanished meanwhile
            raise

    def _write_checkpoint(self, key: str, content: bytes) -> None:
        folder = self._checked_root() / "inflight"
        folder.mkdir(exist_ok=True)
        temporary = folder / f".{key}-{uuid.uuid4().hex}"
        try:
            # The digest follows the content, so that one rename replaces both.
            _write_flushed(temporary, content + hashlib.sha256(content).digest())
            kill_point("checkpoint-written")
            temporary.replace(folder / key)
        finally:
            temporary.unlink(missing_ok=True)
        kill_point("checkpoint-renamed")
        _flush_folder(folder)

    def checkpoint(self, key: str) -> "tuple[list[Epoch], dict[str, Tensor]] | None":
        """Return the last checkpoint of a level in flight; a damaged one counts as none."""
        from safetensors.torch import load

        from dsdctl.ml.train import Epoch

        try:
            stored = (self.root / "inflight" / key).read_bytes()
        except FileNotFoundError:
            return None
        content, digest = stored[:-32], stored[-32:]
        if hashlib.sha256(content).digest() != digest:
            self.damage.append(f"{self.root}/inflight/{key}: damaged, the level starts over")
            return None
        header_length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + header_length])["__metadata__"]
        epochs = [Epoch(**epoch) for epoch in json.loads(metadata["epochs"])]
        return epochs, load(content)

    def drop_checkpoint(self, key: str) -> None:
        """Forget the checkpoint of a level that is finished."""
        (self.root / "inflight" / key).unlink(missing_ok=True)

    # Locks and small files

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[bool]:
        """Hold the lock `name` among all processes, or yield False where another one holds it.

        The system frees it when its owner ends, however it ends.
        """
        folder = self._checked_root() / "locks"
        folder.mkdir(exist_ok=True)
        with (folder / name).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def read_json(self, name: str) -> Any:
        """Return a small file at the store's root, or None where it is missing or unreadable."""
        try:
            return json.loads((self.root / name).read_bytes())
        except (OSError, ValueError):
            return None

    def write_json(self, name: str, value: Any) -> None:
        """Write a small file at the store's root, whole or not at all."""
        self._checked_root()
        self._replace(name, value)

    def open_for_writing(self) -> None:
        """Make the store if it is not there, and try that it can be written.

        Raises InputError where it cannot. A store that vanishes later, with its file system, say,
        is thereby told from one that was never made.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._replace(MARKER, {"format": 1})
        except OSError as error:
            raise InputError(
                f"--store: {self.root}: cannot be written ({error.strerror or error})"
            ) from error

    # Inside

    def _replace(self, name: str, value: Any) -> None:
        target = self.root / name
        target.parent.mkdir(exist_ok=True)
        temporary = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
        try:
            _write_flushed(temporary, _json_bytes(value))
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def _checked_root(self) -> Path:
        if not (self.root / MARKER).is_file():
            raise WorkError(f"{self.root}: the store has vanished")
        return self.root

    def _folder(self, kind: str, key: str) -> Path:
        return self.root / kind / key[:2] / key

    def _checksums(self, folder: Path) -> Checksums:
        try:
            checksums = json.loads((folder / "checksums.json").read_bytes())
        except (OSError, ValueError) as error:
            raise DamagedError(f"{folder}/checksums.json: {error}") from error
        required = _REQUIRED[folder.parent.parent.name]
        if not isinstance(checksums, dict) or not required <= checksums.keys():
            raise DamagedError(f"{folder}/checksums.json: names not all files")
        for entry in checksums.values():
            if not isinstance(entry, dict) or entry.keys() != {"bytes", "sha256"}:
                raise DamagedError(f"{folder}/checksums.json: not a size and sha256 for each file")
        return checksums

    def _read(self, folder: Path, name: str, checksums: Checksums) -> bytes:
        """Read a file whose checksum fits. Raises DamagedError."""
        entry = checksums.get(name)
        if entry is None and name == WEIGHTS:
            raise WorkError(
                f"{folder}/{name}: dropped by `dsdctl store gc --weights`; "
                "another --store computes it anew"
            )
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise DamagedError(f"{folder}/{name}: {error.strerror}") from error
        if entry is None or hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise DamagedError(f"{folder}/{name}: its checksum does not fit")
        return content

    def _identity(self, folder: Path, model: type[Identity], checksums: Checksums) -> Identity:
        return model.model_validate_json(self._read(folder, "identity.json", checksums))

    def _tensors(self, folder: Path, name: str) -> "dict[str, Tensor]":
        from safetensors.torch import load

        try:
            return load(self._read(folder, name, self._checksums(folder)))
        except DamagedError as error:
            self._set_aside(folder, error)
            raise DamagedError(f"{error}; set aside, the next run computes it anew") from error

    def _commit(self, folder: Path, files: Mapping[str, bytes]) -> None:
        self._checked_root()
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
        temporary.mkdir()
        try:
            checksums = {
                name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                for name, content in files.items()
            }
            for name, content in {**files, "checksums.json": _json_bytes(checksums)}.items():
                _write_flushed(temporary / name, content)
            _flush_folder(temporary)
            kill_point("commit-written")
            _rename_unless_there(temporary, folder)
            kill_point("commit-renamed")
            _flush_folder(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _set_aside(self, folder: Path, error: Exception) -> None:
        """Move a damaged folder out of the way and remember to say so."""
        reason = " ".join(str(error).split())
        if self.read_only:
            self.damage.append(f"{reason} (counts as missing)")
            return
        target = self._checked_root() / "setaside" / f"{folder.name}-{uuid.uuid4().hex[:8]}"
        target.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            folder.rename(target)
        self.damage.append(f"{reason} (set aside as {target})")


def _check_sizes(folder: Path, checksums: Checksums) -> None:
    """Check that every file is there in its full size, without reading the large ones."""
    for name, entry in checksums.items():
        try:
            size = (folder / name).stat().st_size
        except OSError as error:
            raise DamagedError(f"{folder}/{name}: {error.strerror}") from error
        if size != entry["bytes"]:
            raise DamagedError(f"{folder}/{name}: {size} bytes instead of {entry['bytes']}")


def _rename_unless_there(temporary: Path, folder: Path) -> None:
    """Rename, but let what another process finished first stay."""
    try:
        temporary.rename(folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _tensor_bytes(tensors: "Mapping[str, Tensor]", metadata: dict[str, str] | None = None) -> bytes:
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(plain, metadata)


def _write_flushed(file: Path, content: bytes) -> None:
    try:
        with file.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
