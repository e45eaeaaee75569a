"""What inspection found of a user's own network, which is built once for it, and its cache.

Nothing here builds a network. Results are cached in the user's cache folder, and a run copies them
into its store.
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
    """Facts about a user's own network that dsdctl's networks have in closed form, and more.

    `layers` has the number of weights of each Conv2d and Linear layer by module name. `macs` counts
    the multiply-accumulates of one image in train mode, `macs_per_layer` those of each layer by the
    name of its weight, and `uncounted` names operators that are missing in both. `activations`
    counts calls of ReLU and GELU modules. `draws`: whether training draws random numbers.
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
        """The fraction of its parameters that are not weights of Conv2d and Linear layers."""
        return 1 - sum(self.layers.values()) / self.parameters

    def notes(self) -> list[str]:
        """What readers of its results must know, a line each."""
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
    """What to inspect: a network, and the images and classes that it is for.

    `sizes` are (H, W) in training and, if another, in measuring.
    """

    source: Source
    network: CodeNetwork
    channels: int
    sizes: tuple[tuple[int, int], ...]
    classes: int

    @property
    def key(self) -> str:
        """A hash of the network's identity and its task, under which a store keeps inspections."""
        facts = [self.network.model_dump(mode="json"), self.channels, self.sizes, self.classes]
        return sha256_of(json.dumps(facts, sort_keys=True).encode())

    @property
    def cache_key(self) -> str:
        """The same with the code, which is not in the identity if a `version` stands for it."""
        return sha256_of((self.key + self.source.digest).encode())


Inspect = Callable[[Question], Inspection | None]
"""Answers a question; None if nothing is known. Raises InputError with a reason."""


def versions_of(modules: Iterable[str]) -> dict[str, str]:
    """The installed versions of the distributions that provide these top-level modules."""
    found: dict[str, str] = {}
    unknown = []
    for module in modules:
        try:
            found[module] = importlib.metadata.version(module)
        except importlib.metadata.PackageNotFoundError:
            unknown.append(module)
    if unknown:
        providers = importlib.metadata.packages_distributions()
        for module in unknown:
            for name in providers.get(module, ())[:1]:
                found[name] = importlib.metadata.version(name)
    return dict(sorted(found.items()))


def cached(question: Question) -> Inspection | None:
    """The inspection in the cache folder, if the same versions of all packages made it."""
    found = read_mapping(_file(question))
    if found is None or found.get("versions") != _versions(question):
        return None
    return _read(found)


def keep(question: Question, inspection: Inspection) -> None:
    """Write an inspection into the cache folder; errors of the file system are ignored."""
    file = _file(question)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"versions": _versions(question), **as_mapping(inspection)}
        replace_file(file, mapping_bytes(content))


def as_mapping(inspection: Inspection) -> dict[str, Any]:
    """An inspection as JSON data; layers as lists, since small files sort the keys of mappings."""
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
    """The inspection that `as_mapping` wrote; None if `found` is not one."""
    return None if found is None else _read(found)


def _versions(question: Question) -> dict[str, str]:
    """The versions of all packages on which an answer depends."""
    modules = ("torch", "fvcore", *question.source.third_party)
    return {**versions_of(modules), "dsdctl": dsdctl.__version__, "questions": QUESTIONS}


def cache_folder() -> Path:
    """The user's cache folder for dsdctl."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dsdctl"


def _file(question: Question) -> Path:
    return cache_folder() / "networks" / f"{question.cache_key}.json"
