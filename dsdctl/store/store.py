"""Finished work by key. What is in the store is complete and verified, or counts as missing.

    levels/<2 hex>/<key>/   identity.json result.json environment.json epochs.jsonl
                            weights.safetensors masks.safetensors checksums.json
                            (source.json: the code of a user's own network)
    networks/<key>.json     what inspection found of a user's own network
    tables/<2 hex>/<key>/   identity.json environment.json logits.safetensors checksums.json
    inflight/<key>          the last checkpoint of a level in flight
    locks/  setaside/  logs/  slurm/  tracking/  wandb/  tensorboard/
    calibration.json  macs.json  store.json
    prepared/               prepared images, if the data's own folder cannot be written

A file's checksum is verified when the file is read. A folder that fails counts as missing; whoever
computes it again moves it to setaside/ first, so that nothing is deleted.
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
"""The content of the marker file."""


class Store(Root):
    """A store in one folder: `levels`, `tables` and `checkpoints`."""

    def __init__(self, root: Path):
        super().__init__(root)
        self.levels = Levels(self)
        self.tables = Tables(self)
        self.checkpoints = Checkpoints(self)

    def absence(self) -> str | None:
        """Why there is no store here, in words; None if there is one.

        Raises InputError if it is a store of another version, or another program's folder.
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
        """Raises InputError if there is no store."""
        absence = self.absence()
        if absence is not None:
            raise InputError(f"--store: {absence}")

    def open_for_writing(self) -> None:
        """Create the store if it does not exist, and check that it can be written.

        Raises InputError if it cannot. The marker tells a store that vanishes later, perhaps with
        its file system, from one that was never created.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self.absence()
            replace_file(self.root / MARKER, json_bytes(FORMAT))
        except OSError as error:
            raise InputError(
                f"--store: {self.root}: cannot be written ({error.strerror or error})"
            ) from error
