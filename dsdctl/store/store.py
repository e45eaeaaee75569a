"""Finished work by key. What lies in the store is complete and checked, or it is not there.

    levels/<2 hex>/<key>/   identity.json result.json environment.json epochs.jsonl
                            weights.safetensors masks.safetensors checksums.json
                            (source.json: the code of a user's own network)
    networks/<key>.json     what was found of a user's own network
    tables/<2 hex>/<key>/   identity.json environment.json logits.safetensors checksums.json
    inflight/<key>          the last checkpoint of a level in flight
    locks/  setaside/  logs/  slurm/  tracking/  wandb/  tensorboard/
    calibration.json  macs.json  store.json
    prepared/               images whose own folder cannot be written

Each file's checksum is checked when the file is read. The work of a folder that fails counts as
missing; who computes it again moves the folder to setaside/, and nothing is deleted.
"""

import json
from pathlib import Path

from dsdctl.errors import InputError
from dsdctl.store.checkpoints import Checkpoints
from dsdctl.store.levels import Levels
from dsdctl.store.root import MARKER, Root
from dsdctl.store.tables import Tables
from dsdctl.system.atomic import json_bytes, replace_file
from dsdctl.system.files import is_there

FORMAT = {"format": 1}
"""What its marker holds."""


class Store(Root):
    """A store under one folder: `levels`, `tables` and `checkpoints`."""

    def __init__(self, root: Path):
        super().__init__(root)
        self.levels = Levels(self)
        self.tables = Tables(self)
        self.checkpoints = Checkpoints(self)

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
