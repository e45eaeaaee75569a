"""Finished work by key. What lies in the store is complete and checked, or it is not there.

    levels/<2 hex>/<key>/   identity.json result.json environment.json epochs.jsonl
                            weights.safetensors masks.safetensors checksums.json
    tables/<2 hex>/<key>/   identity.json environment.json logits.safetensors checksums.json
    inflight/<key>          the last checkpoint of a level in flight
    locks/  setaside/  logs/  slurm/  tracking/  wandb/  calibration.json  macs.json  store.json
    prepared/               images whose own folder cannot be written

Each file's checksum is checked when the file is read; a folder that fails is set aside, never
deleted, and its work counts as missing.
"""

import contextlib
import fcntl
import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from dsdctl.errors import DamagedError, DriftError, InputError, WorkError
from dsdctl.folders import (
    WEIGHTS,
    Checksums,
    NotAFileError,
    check_sizes,
    checksum_of,
    is_file_or_free,
    is_there,
    json_bytes,
    mapping_bytes,
    open_lock,
    read_checked,
    read_checksums,
    read_file,
    read_mapping,
    replace_file,
    tensor_bytes,
    without_following,
    write_checksums,
    write_folder,
)
from dsdctl.keys import LevelIdentity, TableIdentity, canonical_json, key_of, key_of_json
from dsdctl.results import Environment, FinishedLevel, LevelResult, environment_line

if TYPE_CHECKING:
    from torch import Tensor

    from dsdctl.ml.train import Epoch

MARKER = "store.json"
"""The file that tells a store from an empty folder."""

FORMAT = {"format": 1}
"""What it holds."""

Identity = TypeVar("Identity", LevelIdentity, TableIdentity)

Found = TypeVar("Found")

_MAX_HEADER = 100_000_000
"""Bytes of a safetensors file's header at most, by its format."""

_RESULT: TypeAdapter[LevelResult] = TypeAdapter(LevelResult)


@dataclass(frozen=True)
class Checkpoint:
    """A level in flight after `epochs`: the trainer's state, and where it was trained so far."""

    epochs: "Sequence[Epoch]"
    tensors: "Mapping[str, Tensor]"
    environment: Environment


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
        if not is_there(folder):
            return None
        try:
            return _read_again_if_damaged(lambda: self._level(folder))
        except (DamagedError, ValidationError) as error:
            self._set_aside(folder, error)
            return None

    def _level(self, folder: Path) -> FinishedLevel:
        checksums = read_checksums(folder)
        result = _RESULT.validate_json(read_checked(folder, "result.json", checksums))
        environment = Environment.model_validate_json(
            read_checked(folder, "environment.json", checksums)
        )
        identity = self._identity(folder, LevelIdentity, checksums)
        if key_of(identity) != folder.name or result.level != identity.level:
            raise DamagedError(f"{folder}: identity.json does not belong to this key")
        read_checked(folder, "epochs.jsonl", checksums)
        check_sizes(folder, checksums)
        return FinishedLevel(key=folder.name, result=result, environment=environment)

    def level_identity(self, key: str) -> LevelIdentity:
        """Return the identity of a finished level. Raises DamagedError."""
        folder = self._folder("levels", key)
        return self._identity(folder, LevelIdentity, read_checksums(folder))

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
        """Write a finished level; what another process finished first stays.

        Where its weights were dropped they are put back. Raises DriftError if what was computed
        now is not, byte for byte, what was computed then.
        """
        key = key_of(identity)
        folder = self._folder("levels", key)
        lines = "".join(json.dumps(asdict(epoch), sort_keys=True) + "\n" for epoch in epochs)
        files = {
            "identity.json": canonical_json(identity).encode(),
            "result.json": json_bytes(result.model_dump(mode="json")),
            "environment.json": json_bytes(environment.model_dump(mode="json")),
            "epochs.jsonl": lines.encode(),
            WEIGHTS: tensor_bytes(weights),
            "masks.safetensors": tensor_bytes(masks),
        }
        self._checked_root()
        if self.lacks_weights(key):
            _restore_weights(folder, files, environment)
        else:
            write_folder(folder, files)
        return FinishedLevel(key=key, result=result, environment=environment)

    def network_files(self, key: str) -> tuple[Path, Path]:
        """Where the weights and masks of a finished level lie."""
        folder = self._folder("levels", key)
        return folder / WEIGHTS, folder / "masks.safetensors"

    def lacks_weights(self, key: str) -> bool:
        """Say whether the weights of a finished level were dropped on request."""
        try:
            return read_checksums(self._folder("levels", key))[WEIGHTS].dropped
        except DamagedError:  # said when the level is read
            return False

    def drop_weights(self, key: str) -> int:
        """Forget the weights of a finished level and keep the rest; return the bytes freed.

        A level that a process is at is left alone. Raises DamagedError.
        """
        folder = self._folder("levels", key)
        with self.lock(key) as locked:
            if not locked:
                return 0
            checksums = read_checksums(folder)
            checksum = checksums[WEIGHTS]
            # What the checksums call dropped is not missed, so they are replaced first.
            dropped = checksum.model_copy(update={"dropped": True})
            write_checksums(folder, {**checksums, WEIGHTS: dropped})
            (folder / WEIGHTS).unlink(missing_ok=True)
        return 0 if checksum.dropped else checksum.bytes

    def problems(self, folder: Path) -> list[str]:
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

    def versions(self, folder: Path) -> tuple[int, int]:
        """The schema and the numerics version that a finished folder is of. Raises DamagedError."""
        identity = json.loads(read_checked(folder, "identity.json", read_checksums(folder)))
        return identity["schema_version"], identity["numerics_version"]

    # Teacher tables

    def has_table(self, key: str) -> bool:
        """Say whether the teacher table under `key` is there and whole."""
        folder = self._folder("tables", key)
        if not is_there(folder):
            return False
        try:
            checksums = read_checksums(folder)
            if key_of(self._identity(folder, TableIdentity, checksums)) != key:
                raise DamagedError(f"{folder}: identity.json does not belong to this key")
            read_checked(folder, "environment.json", checksums)
            check_sizes(folder, checksums)
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
        self._checked_root()
        write_folder(
            self._folder("tables", key_of(identity)),
            {
                "identity.json": canonical_json(identity).encode(),
                "environment.json": json_bytes(environment.model_dump(mode="json")),
                "logits.safetensors": tensor_bytes({"logits": logits}),
            },
        )

    # Checkpoints of levels in flight

    def save_checkpoint(self, key: str, checkpoint: Checkpoint) -> None:
        """Write the state of a level in flight, in place of an older one."""
        metadata = {
            "epochs": json.dumps([asdict(epoch) for epoch in checkpoint.epochs]),
            "environment": checkpoint.environment.model_dump_json(),
        }
        content = tensor_bytes(checkpoint.tensors, metadata)
        # The digest follows the content, so that one rename replaces both.
        whole = content + _digest(key, content)
        folder = self._checked_root() / "inflight"
        try:
            folder.mkdir(exist_ok=True)
            replace_file(folder / key, whole, "checkpoint")
        except FileNotFoundError:
            self._checked_root()  # says so where the whole store has vanished meanwhile
            raise

    def checkpoint(self, key: str) -> Checkpoint | None:
        """Return the last checkpoint of a level in flight. A damaged one is set aside."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        from dsdctl.ml.train import Epoch

        file = self.root / "inflight" / key
        try:
            content = _undigested(file)
        except FileNotFoundError:
            return None
        try:
            if content is not None:
                header_length = int.from_bytes(content[:8], "little")
                metadata = json.loads(content[8 : 8 + header_length])["__metadata__"]
                epochs = [Epoch(**epoch) for epoch in json.loads(metadata["epochs"])]
                environment = Environment.model_validate_json(metadata["environment"])
                return Checkpoint(epochs, load(content), environment)
        except (ValueError, KeyError, TypeError, SafetensorError):
            pass  # its digest fits all the same
        self._set_aside(file, DamagedError(f"{file}: damaged, so its level starts over"))
        return None

    def interrupted(self, key: str) -> tuple[int, Environment] | None:
        """How many epochs of a level in flight are in its last checkpoint, and where and how long
        they were trained; None without one that can be read. Its tensors are left alone."""
        try:
            with open(self.root / "inflight" / key, "rb", opener=without_following) as file:
                length = int.from_bytes(file.read(8), "little")
                header = file.read(min(length, _MAX_HEADER))
            metadata = json.loads(header)["__metadata__"]
            epochs = json.loads(metadata["epochs"])
            return len(epochs), Environment.model_validate_json(metadata["environment"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def damaged_checkpoints(self) -> list[Path]:
        """Read every checkpoint; return those that are damaged."""
        found = []
        for file in sorted(self.root.glob("inflight/[0-9a-f]*")):
            with contextlib.suppress(FileNotFoundError):  # its level was finished meanwhile
                if _undigested(file) is None:
                    found.append(file)
        return found

    def damaged_small_files(self) -> list[Path]:
        """Read every small file that this version writes; return those that cannot be used."""
        names = ("*.json", "tracking/*.json", "slurm/*.json")
        files = sorted(file for name in names for file in self.root.glob(name))
        locks = [lock for lock in sorted(self.root.glob("locks/*")) if not is_file_or_free(lock)]
        return [
            file for file in files if self.read_json(str(file.relative_to(self.root))) is None
        ] + locks

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
        with open_lock(folder / name) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                locked = False
            except OSError as error:  # a file system without locks, say
                raise OSError(error.errno, error.strerror, file.name) from error
            else:
                locked = True
            yield locked

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return a small file at the store's root, or None where it is missing or damaged."""
        return read_mapping(self.root / name)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a small file at the store's root, whole or not at all."""
        file = self._checked_root() / name
        file.parent.mkdir(exist_ok=True)
        if not is_file_or_free(file):
            self._out_of_the_way(file)
        replace_file(file, mapping_bytes(value))

    def absence(self) -> str | None:
        """Say why there is no store here; None where there is one.

        Raises InputError where it is one of another version, or another program's.
        """
        if not is_there(self.root / MARKER):
            there = f"not a store, there is no {MARKER} in it"
            return f"{self.root}: {there if self.root.exists() else 'no such folder'}"
        if self.read_json(MARKER) != FORMAT:
            raise InputError(
                f"--store: {self.root}/{MARKER}: not that of a store of this version "
                f"(allowed: {json.dumps(FORMAT)})"
            )
        return None

    def require(self) -> None:
        """Raises InputError where there is no store."""
        absence = self.absence()
        if absence is not None:
            raise InputError(f"--store: {absence}")

    def open_for_writing(self) -> None:
        """Make the store if it is not there, and try that it can be written.

        Raises InputError where it cannot. A store that vanishes later, with its file system, say,
        is thereby told from one that was never made.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self.absence()
            replace_file(self.root / MARKER, json_bytes(FORMAT))
        except OSError as error:
            raise InputError(
                f"--store: {self.root}: cannot be written ({error.strerror or error})"
            ) from error

    # Inside

    def _checked_root(self) -> Path:
        if not (self.root / MARKER).is_file():
            raise WorkError(f"{self.root}: the store has vanished")
        return self.root

    def _folder(self, kind: str, key: str) -> Path:
        return self.root / kind / key[:2] / key

    def _identity(self, folder: Path, model: type[Identity], checksums: Checksums) -> Identity:
        return model.model_validate_json(read_checked(folder, "identity.json", checksums))

    def _tensors(self, folder: Path, name: str) -> "dict[str, Tensor]":
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            try:
                return _read_again_if_damaged(
                    lambda: load(read_checked(folder, name, read_checksums(folder)))
                )
            except SafetensorError as error:
                raise DamagedError(f"{folder}/{name}: not a whole safetensors file") from error
        except DamagedError as error:
            self._set_aside(folder, error)
            raise DamagedError(f"{error}; set aside, to be computed anew") from error

    def _set_aside(self, folder: Path, error: Exception) -> None:
        """Move a damaged folder out of the way and remember to say so."""
        reason = " ".join(str(error).split())
        if isinstance(error, ValidationError):
            key = ".".join(map(str, error.errors()[0]["loc"])) or "not JSON"
            reason = f"{folder}: holds what this version does not write ({key})"
        if self.read_only:
            line = f"{reason} (counts as missing)"
            if line not in self.damage:  # it stays where it is, and is found again
                self.damage.append(line)
            return
        target = self._out_of_the_way(folder)
        self.damage.append(f"{reason} (set aside as {target})")

    def _out_of_the_way(self, path: Path) -> Path:
        """Move what is in a place of ours to where damaged things lie; return where that is."""
        target = self._checked_root() / "setaside" / f"{path.name}-{uuid.uuid4().hex[:8]}"
        target.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            path.rename(target)
        return target


def _read_again_if_damaged(read: Callable[[], Found]) -> Found:
    """What `read` returns. Readers hold no lock, so weights that are dropped between the reading of
    their checksum and their own are missing at first, and known to be dropped the second time."""
    try:
        return read()
    except (DamagedError, ValidationError):
        return read()


def _undigested(checkpoint: Path) -> bytes | None:
    """What comes before its digest, None where that does not fit. Raises OSError."""
    try:
        stored = read_file(checkpoint)
    except NotAFileError:
        return None
    content, digest = stored[:-32], stored[-32:]
    return content if _digest(checkpoint.name, content) == digest else None


def _digest(key: str, content: bytes) -> bytes:
    """Of a checkpoint and of the key that it is of, since its content does not tell."""
    return hashlib.sha256(content + key.encode()).digest()


def _restore_weights(folder: Path, files: Mapping[str, bytes], environment: Environment) -> None:
    """Put dropped weights back if everything that was computed with them is the same."""
    checksums = read_checksums(folder)
    timed = "environment.json"
    others = [
        name
        for name, content in files.items()
        if name != timed and checksum_of(content).sha256 != checksums[name].sha256
    ]
    if others:
        then = Environment.model_validate_json(read_checked(folder, timed, checksums))
        raise DriftError(
            f"{folder}: trained again for its dropped weights, but {', '.join(others)} came out "
            f"different (then {environment_line(then)}; now {environment_line(environment)}); "
            "train it where it was, or use another --store"
        )
    replace_file(folder / WEIGHTS, files[WEIGHTS], "commit")
    write_checksums(folder, {**checksums, WEIGHTS: checksum_of(files[WEIGHTS])})
