"""The MACs of networks, counted once and cached in the store, where reading them needs no torch."""

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

import dsdctl
from dsdctl.cost.ledger import Macs, fvcore_macs
from dsdctl.plan.rows import TrainingSetup
from dsdctl.store.store import Store

FILE = "macs.json"

_COUNTS: TypeAdapter[dict[str, tuple[int, list[tuple[str, int]]]]] = TypeAdapter(
    dict[str, tuple[int, list[tuple[str, int]]]]
)
"""By name: the total, and the count of each layer in the network's order."""


class MacCache:
    """`fvcore_macs`, cached in a store.

    Counts by other versions, or that were altered since, are ignored.
    """

    def __init__(self, store: Store):
        self._store = store
        self._counts = _read(store)
        self._new = False

    def __call__(self, setup: TrainingSetup) -> Macs:
        name = _name(setup)
        if name not in self._counts:
            self._counts[name] = fvcore_macs(setup)
            self._new = True
        return self._counts[name]

    def save(self) -> None:
        """Write new counts into the store. Raises OSError, and WorkError if it has vanished."""
        if self._new:
            counts = {
                name: [macs.total, [[*layer] for layer in macs.per_layer.items()]]
                for name, macs in self._counts.items()
            }
            self._store.write_json(FILE, {"counts": counts, "checksum": _checksum(counts)})
            self._new = False


def _read(store: Store) -> dict[str, Macs]:
    found = store.read_json(FILE) or {}
    counts = found.get("counts")
    if found.get("checksum") != _checksum(counts):
        return {}
    try:
        known = _COUNTS.validate_python(counts)
    except ValidationError:
        return {}
    return {name: Macs(total, dict(layers)) for name, (total, layers) in known.items()}


def _name(setup: TrainingSetup) -> str:
    """What a count depends on: the network, its input and its output."""
    facts = setup.images.facts
    shape = (facts.channels, facts.height, facts.width, facts.classes)
    return json.dumps([setup.network.model_dump(mode="json"), shape], sort_keys=True)


def _checksum(counts: Any) -> str:
    """sha256 of the counts and of what they depend on: fvcore, torch, the code of the networks."""
    digest = hashlib.sha256(json.dumps(counts, sort_keys=True).encode())
    for package in ("fvcore", "torch", "torchvision"):
        digest.update(importlib.metadata.version(package).encode())
    for file in sorted((Path(dsdctl.__file__).parent / "ml").rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
