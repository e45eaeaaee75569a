"""What was found when a network of a user's own was built once, and where that is kept.

Nothing here builds one. What was found lies in the user's cache folder, and goes with a run into
its store.
"""

import importlib.metadata
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import dsdctl
from dsdctl.own.source import Source, sha256_of
from dsdctl.spec.fields import Model
from dsdctl.spec.network import CodeNetwork
from dsdctl.system.atomic import replace_file
from dsdctl.system.files import mapping_bytes, read_mapping

CACHE_VARIABLE = "DSDCTL_CACHE"

QUESTIONS = "2"
"""Raised with what is asked of a network, so that older answers are not taken for its."""


class Inspection(Model):
    """What closed forms say of other networks, and what a reader must know of this one.

    `layers` are the weights of its Conv2d and Linear layers by their modules' names, `macs` those
    of one image in train mode, `macs_per_layer` by the names of the weights.
    """

    layers: dict[str, int]
    parameters: int
    has_batchnorm: bool
    activations: int
    draws: bool
    macs: int
    macs_per_layer: dict[str, int]
    uncounted: tuple[str, ...] = ()

    @property
    def never_pruned(self) -> float:
        """The share of its parameters that are no weights of Conv2d and Linear layers."""
        return 1 - sum(self.layers.values()) / self.parameters

    def notes(self) -> list[str]:
        """What a reader must know."""
        lines = [
            f"{100 * self.never_pruned:.2f} % of its {self.parameters:,} parameters are no weights "
            "of Conv2d and Linear layers, and never pruned"
        ]
        if not self.activations:
            lines.append("no ReLU or GELU module seen: its entropy is that of 0 layers, 0 bits")
        lines += [f"fvcore counts no MACs of {what}" for what in self.uncounted]
        if self.draws:
            lines.append(
                "it draws random numbers while it trains (dropout, say), anew in each epoch by "
                "seed, level and epoch; of several levels at once on one GPU only one trains at a "
                "time"
            )
        return lines


@dataclass(frozen=True)
class Question:
    """Which network, on which images: (H, W, C), their sides while training and measuring."""

    source: Source
    network: CodeNetwork
    channels: int
    sizes: tuple[tuple[int, int], ...]
    classes: int

    @property
    def key(self) -> str:
        """What an answer depends on by identity: a store keeps answers under it."""
        facts = [self.network.model_dump(mode="json"), self.channels, self.sizes, self.classes]
        return sha256_of(json.dumps(facts, sort_keys=True).encode())

    @property
    def cache_key(self) -> str:
        """The same with the code, of which a `version` in its place says nothing."""
        return sha256_of((self.key + self.source.digest).encode())


Inspect = Callable[[Question], Inspection | None]
"""Answers a question, None where nothing is known; raises InputError with a reason."""


def versions_of(modules: Iterable[str]) -> dict[str, str]:
    """The installed versions of the distributions that bring these top-level modules."""
    found: dict[str, str] = {}
    unknown = []
    for module in modules:
        try:
            found[module] = importlib.metadata.version(module)
        except importlib.metadata.PackageNotFoundError:
            unknown.append(module)
    if unknown:
        brought_by = importlib.metadata.packages_distributions()
        for module in unknown:
            for name in brought_by.get(module, ())[:1]:
                found[name] = importlib.metadata.version(name)
    return dict(sorted(found.items()))


def cached(question: Question) -> Inspection | None:
    """What the cache folder holds, if this very software has found it."""
    found = read_mapping(_file(question))
    if found is None or found.get("versions") != _versions(question):
        return None
    return _read(found)


def keep(question: Question, inspection: Inspection) -> None:
    """Keep it in the cache folder; that it cannot be kept is no reason to fail."""
    file = _file(question)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"versions": _versions(question), **as_mapping(inspection)}
        replace_file(file, mapping_bytes(content))


def as_mapping(inspection: Inspection) -> dict[str, Any]:
    """An inspection as a store's small file holds it; layers in their order, which JSON files do
    not keep."""
    facts = inspection.model_dump(mode="json")
    for name in ("layers", "macs_per_layer"):
        facts[name] = [[*layer] for layer in facts[name].items()]
    return {"inspection": facts}


def _read(found: Mapping[str, Any]) -> Inspection | None:
    try:
        facts = dict(found["inspection"])
        for name in ("layers", "macs_per_layer"):
            facts[name] = dict(facts[name])
        return Inspection.model_validate_json(json.dumps(facts))
    except (KeyError, TypeError, ValueError, ValidationError):
        return None


def from_mapping(found: Mapping[str, Any] | None) -> Inspection | None:
    """What `as_mapping` was made of, or None where it is not that."""
    return None if found is None else _read(found)


def _versions(question: Question) -> dict[str, str]:
    """Of all that an answer depends on beside the code."""
    modules = ("torch", "fvcore", *question.source.third_party)
    return {**versions_of(modules), "dsdctl": dsdctl.__version__, "questions": QUESTIONS}


def cache_folder() -> Path:
    """Where what can be found again is kept for this user."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dsdctl"


def _file(question: Question) -> Path:
    return cache_folder() / "networks" / f"{question.cache_key}.json"
