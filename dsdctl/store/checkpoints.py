"""Checkpoints of levels in flight."""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dsdctl.errors import DamagedError
from dsdctl.results import Environment
from dsdctl.store.folders import tensor_bytes
from dsdctl.store.levels import EpochRow
from dsdctl.store.root import Root
from dsdctl.system.atomic import remove_abandoned, replace_file
from dsdctl.system.files import NotAFileError, read_file, without_following

if TYPE_CHECKING:
    from torch import Tensor

_MAX_HEADER = 100_000_000
"""Upper limit on the bytes of a safetensors file's header, set by the format."""


@dataclass(frozen=True)
class Checkpoint:
    """A level in flight after `epochs`: the trainer's state and its environment so far."""

    epochs: Sequence[EpochRow]
    tensors: "Mapping[str, Tensor]"
    environment: Environment


class Checkpoints:
    """The last checkpoint of each level in flight."""

    def __init__(self, root: Root):
        self._root = root

    def save(self, key: str, checkpoint: Checkpoint) -> None:
        """Write the state of a level in flight, replacing an older one.

        Raises WorkError if the store has vanished, else OSError.
        """
        metadata = {
            "epochs": json.dumps([*checkpoint.epochs]),
            "environment": checkpoint.environment.model_dump_json(),
        }
        content = tensor_bytes(checkpoint.tensors, metadata)
        # The digest follows the content, so that one rename replaces both.
        whole = content + _digest(key, content)
        folder = self._root.checked() / "inflight"
        try:
            folder.mkdir(exist_ok=True)
            replace_file(folder / key, whole, "checkpoint")
        except FileNotFoundError:
            self._root.checked()  # a better message if the whole store has vanished meanwhile
            raise

    def load(self, key: str) -> Checkpoint | None:
        """Return the last checkpoint of a level in flight, or None. Raises DamagedError."""
        from safetensors import SafetensorError
        from safetensors.torch import load as parse

        file = self._root.root / "inflight" / key
        try:
            content = _verified(file)
        except FileNotFoundError:
            return None
        try:
            if content is not None:
                header_length = int.from_bytes(content[:8], "little")
                metadata = json.loads(content[8 : 8 + header_length])["__metadata__"]
                epochs = json.loads(metadata["epochs"])
                environment = Environment.model_validate_json(metadata["environment"])
                return Checkpoint(epochs, parse(content), environment)
        except (ValueError, KeyError, TypeError, SafetensorError):
            pass  # although its digest is right
        raise DamagedError(f"{file}: damaged, so its level starts over", file)

    def interrupted(self, key: str) -> tuple[int, Environment] | None:
        """How many epochs the last checkpoint of a level in flight has, and the environment and
        seconds of their training; None if there is none to read. Reads no tensors."""
        try:
            with open(self._root.root / "inflight" / key, "rb", opener=without_following) as file:
                length = int.from_bytes(file.read(8), "little")
                header = file.read(min(length, _MAX_HEADER))
            metadata = json.loads(header)["__metadata__"]
            epochs = json.loads(metadata["epochs"])
            return len(epochs), Environment.model_validate_json(metadata["environment"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def damaged(self) -> list[Path]:
        """Read every checkpoint; return those that are damaged."""
        found = []
        for file in sorted(self._root.root.glob("inflight/[0-9a-f]*")):
            with contextlib.suppress(FileNotFoundError):  # its level was finished meanwhile
                if _verified(file) is None:
                    found.append(file)
        return found

    def drop(self, key: str) -> None:
        """Delete the checkpoint of a level that is finished."""
        checkpoint = self._root.root / "inflight" / key
        remove_abandoned(checkpoint)
        checkpoint.unlink(missing_ok=True)


def _verified(checkpoint: Path) -> bytes | None:
    """A checkpoint's content without its digest; None if the digest is wrong. Raises OSError."""
    try:
        stored = read_file(checkpoint)
    except NotAFileError:
        return None
    content, digest = stored[:-32], stored[-32:]
    return content if _digest(checkpoint.name, content) == digest else None


def _digest(key: str, content: bytes) -> bytes:
    """sha256 of a checkpoint's content and its level's key, which the content does not name."""
    return hashlib.sha256(content + key.encode()).digest()
