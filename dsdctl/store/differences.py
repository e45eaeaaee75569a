"""The fields in which two identities differ, whatever version of dsdctl wrote them."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dsdctl.errors import WorkError
from dsdctl.store.folders import read_checked, read_checksums
from dsdctl.store.maintenance import entries
from dsdctl.store.store import Store

Fields = Mapping[str, Any]
"""An identity as plain JSON data."""

GetFields = Callable[[str], Fields | None]
"""Looks up an identity by key; None if it cannot be found."""

ABSENT = "absent"

PARENT, TEACHER, TABLE = "parent", "distillation.teacher.level", "distillation.table"
"""Fields that hold the key of another piece of work."""


@dataclass(frozen=True)
class Difference:
    """A field by its dotted path, and its two values as JSON; ABSENT if an identity lacks it."""

    field: str
    first: str
    second: str


class Identities:
    """The identities of a store's finished levels and tables, by key, each read once."""

    def __init__(self, store: Store):
        self._store = store
        self._read: dict[str, Fields | None] = {}

    def get(self, key: str) -> Fields | None:
        """The identity of a level or table; None if it is missing or damaged."""
        if key not in self._read:
            found = (_fields(self._store, kind, key) for kind in ("levels", "tables"))
            self._read[key] = next(filter(None, found), None)
        return self._read[key]

    def levels(self) -> Iterator[tuple[str, Fields]]:
        """Yield the keys and identities of all levels."""
        for entry in entries(self._store):
            identity = self.get(entry.key) if entry.kind == "level" else None
            if identity is not None:
                yield entry.key, identity


def differences(first: Fields, second: Fields, get: GetFields) -> list[Difference]:
    """The fields in which two identities differ, tracing other keys to their causes.

    If the teachers are different levels, the fields in which these differ are listed instead of
    their keys. If only the parents differ, the differences are those of the nearest ancestors with
    other differences. Both as far as `get` finds the identities.
    """
    while True:
        found = _differences(first, second, get)
        parents = [_referred(identity, PARENT, get) for identity in (first, second)]
        if [one.field for one in found] != [PARENT] or parents[0] is None or parents[1] is None:
            return found
        first, second = parents[0], parents[1]


def _differences(first: Fields, second: Fields, get: GetFields) -> list[Difference]:
    """The differences of two identities and their teachers. The keys of a parent or a table, which
    follow from other fields, are listed only if nothing else differs."""
    one, other = flat(first), flat(second)
    paths = [path for path in dict.fromkeys((*one, *other)) if one.get(path) != other.get(path)]
    found: list[Difference] = []
    for path in paths:
        difference = Difference(path, one.get(path, ABSENT), other.get(path, ABSENT))
        teachers = [_referred(identity, path, get) for identity in (first, second)]
        if path == TEACHER and teachers[0] is not None and teachers[1] is not None:
            for inner in differences(teachers[0], teachers[1], get):
                found.append(replace(inner, field=f"teacher.{inner.field}"))
        elif path not in (PARENT, TABLE):
            found.append(difference)
    last = [path for path in (TABLE, PARENT) if path in paths and not found][:1]
    return found + [
        Difference(path, one.get(path, ABSENT), other.get(path, ABSENT)) for path in last
    ]


def distance(one: Mapping[str, str], other: Mapping[str, str]) -> int:
    """The number of fields in which two identities, as from `flat`, differ."""
    return sum(one.get(path) != other.get(path) for path in one.keys() | other.keys())


def flat(identity: Fields) -> dict[str, str]:
    """The leaf fields of an identity as JSON, by dotted path; null is left out."""
    return dict(_leaves(identity, ""))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    elif value is not None:
        yield path, json.dumps(value)


def _referred(identity: Fields, path: str, get: GetFields) -> Fields | None:
    """The identity whose key is at `path`; None if there is no key, or it cannot be found."""
    key = _value(identity, path)
    return get(key) if isinstance(key, str) else None


def _value(identity: Any, path: str) -> Any:
    for key in path.split("."):
        identity = identity.get(key) if isinstance(identity, Mapping) else None
    return identity


def _fields(store: Store, kind: str, key: str) -> Fields | None:
    folder = store.folder(kind, key)
    try:
        found = json.loads(read_checked(folder, "identity.json", read_checksums(folder)))
    except (WorkError, OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
