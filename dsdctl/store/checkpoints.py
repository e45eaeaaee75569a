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
"""Bytes of a safetensors file's header at most, by its format."""


@dataclass(frozen=True)
class Checkpoint:
    """A level in flight after `epochs`: the trainer's state, and where it was trained so far."""

    epochs: Sequence[EpochRow]
    tensors: "Mapping[str, Tensor]"
    environment: Environment


class Checkpoints:
    """The last checkpoint of each level in flight."""

    def __init__(self, root: Root):
        self._root = root

    def save(self, key: str, checkpoint: Checkpoint) -> None:
        """Write the state of a level in flight, in place of an older one."""
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
            self._root.checked()  # says so where the whole store has vanished meanwhile
            raise

    def load(self, key: str) -> Checkpoint | None:
        """Return the last checkpoint of a level in flight, or None. Raises DamagedError."""
        from safetensors import SafetensorError
        from safetensors.torch import load as parse

        file = self._root.root / "inflight" / key
        try:
            content = _undigested(file)
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
            pass  # its digest fits all the same
        raise DamagedError(f"{file}: damaged, so its level starts over", file)

    def interrupted(self, key: str) -> tuple[int, Environment] | None:
        """How many epochs of a level in flight are in its last checkpoint, and where and how long
        they were trained; None without one that can be read. Its tensors are left alone."""
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
                if _undigested(file) is None:
                    found.append(file)
        return found

    def drop(self, key: str) -> None:
        """Forget the checkpoint of a level that is finished."""
        checkpoint = self._root.root / "inflight" / key
        remove_abandoned(checkpoint)
        checkpoint.unlink(missing_ok=True)


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
