"""Teacher tables: cached logits of a teacher."""

from typing import TYPE_CHECKING

from pydantic import ValidationError

from dsdctl.errors import DamagedError
from dsdctl.keys import TableIdentity, canonical_json, key_of
from dsdctl.results import Environment
from dsdctl.store.folders import (
    check_sizes,
    read_checked,
    read_checksums,
    tensor_bytes,
    write_folder,
)
from dsdctl.store.root import Root, read_identity
from dsdctl.system.atomic import json_bytes
from dsdctl.system.files import is_there

if TYPE_CHECKING:
    from torch import Tensor


class Tables:
    """The teacher tables of a store."""

    def __init__(self, root: Root):
        self._root = root

    def has(self, key: str) -> bool:
        """Whether the teacher table under `key` is there and, by its files' sizes, whole."""
        folder = self._root.folder("tables", key)
        if not is_there(folder):
            return False
        try:
            checksums = read_checksums(folder)
            if key_of(read_identity(folder, TableIdentity, checksums)) != key:
                raise DamagedError(f"{folder}: identity.json does not belong to this key", folder)
            read_checked(folder, "environment.json", checksums)
            check_sizes(folder, checksums)
        except (DamagedError, ValidationError) as error:
            self._root.note_damage(folder, error)
            return False
        return True

    def logits(self, key: str) -> "Tensor":
        """Read a teacher table: float32 (N, V, K), logits of image n in view v.

        Raises DamagedError.
        """
        return self._root.tensors(self._root.folder("tables", key), "logits.safetensors")["logits"]

    def commit(self, identity: TableIdentity, environment: Environment, logits: "Tensor") -> None:
        """Write a teacher table, unless another process was first: then its table stays.

        logits: float32 (N, V, K).
        """
        self._root.checked()
        write_folder(
            self._root.folder("tables", key_of(identity)),
            {
                "identity.json": canonical_json(identity).encode(),
                "environment.json": json_bytes(environment.model_dump(mode="json")),
                "logits.safetensors": tensor_bytes({"logits": logits}),
            },
        )
