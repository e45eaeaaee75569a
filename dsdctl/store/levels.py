"""Finished levels."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from dsdctl.errors import DamagedError, DriftError
from dsdctl.keys import LevelIdentity, canonical_json, key_of
from dsdctl.own.source import Source, source_from_json
from dsdctl.results import Environment, FinishedLevel, LevelResult, environment_line
from dsdctl.store.folders import (
    WEIGHTS,
    check_sizes,
    checksum_of,
    read_checked,
    read_checksums,
    tensor_bytes,
    write_checksums,
    write_folder,
)
from dsdctl.store.root import Root, read_again_if_damaged, read_identity
from dsdctl.system.atomic import json_bytes, replace_file
from dsdctl.system.files import is_there

if TYPE_CHECKING:
    from torch import Tensor

SOURCE = "source.json"
"""The code of a user's own network."""

_RESULT: TypeAdapter[LevelResult] = TypeAdapter(LevelResult)

EpochRow = Mapping[str, Any]
"""The metrics of one epoch by name: a line of epochs.jsonl."""


class Levels:
    """The finished levels of a store."""

    def __init__(self, root: Root):
        self._root = root

    def get(self, key: str) -> FinishedLevel | None:
        """Read the finished level under `key`; None if it is missing or damaged."""
        folder = self._root.folder("levels", key)
        if not is_there(folder):
            return None
        try:
            return read_again_if_damaged(lambda: _read(folder))
        except (DamagedError, ValidationError) as error:
            self._root.note_damage(folder, error)
            return None

    def identity(self, key: str) -> LevelIdentity:
        """Return the identity of a finished level. Raises DamagedError."""
        folder = self._root.folder("levels", key)
        return read_identity(folder, LevelIdentity, read_checksums(folder))

    def tensors(self, key: str, name: str) -> "dict[str, Tensor]":
        """Read the `weights` or `masks` of a finished level.

        Raises DamagedError, and WorkError if they were dropped.
        """
        return self._root.tensors(self._root.folder("levels", key), f"{name}.safetensors")

    def source(self, key: str) -> Source | None:
        """Read the code of a level's network if it is a user's own; else None.

        Raises DamagedError.
        """
        folder = self._root.folder("levels", key)
        checksums = read_checksums(folder)
        if SOURCE not in checksums:
            return None
        try:
            content = read_checked(folder, SOURCE, checksums)
            return source_from_json(content, f"{SOURCE} of level {key[:8]}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(f"{folder}/{SOURCE}: holds no code", folder) from error

    def commit(
        self,
        identity: LevelIdentity,
        result: LevelResult,
        environment: Environment,
        epochs: Sequence[EpochRow],
        weights: "Mapping[str, Tensor]",
        masks: "Mapping[str, Tensor]",
        source: Source | None = None,
    ) -> FinishedLevel:
        """Write a finished level, unless another process was first: then its level stays.

        `source` is the code of a user's own network, which is kept with it. If the level exists and
        its weights were dropped, they are restored; raises DriftError if what was computed now is
        not, byte for byte, what was computed then.
        """
        key = key_of(identity)
        folder = self._root.folder("levels", key)
        lines = "".join(json.dumps(epoch, sort_keys=True) + "\n" for epoch in epochs)
        files = {
            "identity.json": canonical_json(identity).encode(),
            "result.json": json_bytes(result.model_dump(mode="json")),
            "environment.json": json_bytes(environment.model_dump(mode="json")),
            "epochs.jsonl": lines.encode(),
            WEIGHTS: tensor_bytes(weights),
            "masks.safetensors": tensor_bytes(masks),
        }
        if source is not None:
            files[SOURCE] = source.to_json()
        self._root.checked()
        if self.lacks_weights(key):
            _restore_weights(folder, files, environment)
        else:
            write_folder(folder, files)
        return FinishedLevel(key=key, result=result, environment=environment)

    def files(self, key: str) -> tuple[Path, Path]:
        """The paths of the weights and masks of a finished level."""
        folder = self._root.folder("levels", key)
        return folder / WEIGHTS, folder / "masks.safetensors"

    def lacks_weights(self, key: str) -> bool:
        """Whether the weights of a finished level were dropped on request."""
        try:
            return read_checksums(self._root.folder("levels", key))[WEIGHTS].dropped
        except DamagedError:  # reported when the level is read
            return False

    def drop_weights(self, key: str) -> int:
        """Delete the weights of a finished level, but nothing else; return the bytes freed.

        Does nothing if a process is running the level. Raises DamagedError.
        """
        folder = self._root.folder("levels", key)
        with self._root.lock(key) as locked:
            if not locked:
                return 0
            checksums = read_checksums(folder)
            checksum = checksums[WEIGHTS]
            # The checksums first: without this mark a missing file would count as damage.
            dropped = checksum.model_copy(update={"dropped": True})
            write_checksums(folder, {**checksums, WEIGHTS: dropped})
            (folder / WEIGHTS).unlink(missing_ok=True)
        return 0 if checksum.dropped else checksum.bytes


def _read(folder: Path) -> FinishedLevel:
    checksums = read_checksums(folder)
    result = _RESULT.validate_json(read_checked(folder, "result.json", checksums))
    environment = Environment.model_validate_json(
        read_checked(folder, "environment.json", checksums)
    )
    identity = read_identity(folder, LevelIdentity, checksums)
    if key_of(identity) != folder.name or result.level != identity.level:
        raise DamagedError(f"{folder}: identity.json does not belong to this key", folder)
    read_checked(folder, "epochs.jsonl", checksums)
    check_sizes(folder, checksums)
    return FinishedLevel(key=folder.name, result=result, environment=environment)


def _restore_weights(folder: Path, files: Mapping[str, bytes], environment: Environment) -> None:
    """Restore dropped weights if everything else that was computed with them is the same."""
    checksums = read_checksums(folder)
    timed = "environment.json"
    # The code may differ if its identity is a `version` rather than its content.
    may_differ = (timed, SOURCE)
    others = [
        name
        for name, content in files.items()
        if name not in may_differ and checksum_of(content).sha256 != checksums[name].sha256
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
