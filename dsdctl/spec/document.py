"""The content of a YAML file with the line of each key.

A document keeps the file and line of each key even after a recipe or matrix cell has overridden it,
so that every problem is reported as `file:line: key.path: reason`, where it was written.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Mark:
    """Where a key was written."""

    file: Path
    line: int


@dataclass(frozen=True)
class Document:
    """Plain data (dict, list, str, int, float, bool, None), and the mark of every key path."""

    data: dict[str, Any]
    marks: dict[KeyPath, Mark] = field(repr=False)
    written_as: dict[KeyPath, KeyPath] = field(default_factory=dict, repr=False)
    """Key paths under which values were written, if others: `training` as `teacher.training`."""

    def mark(self, path: KeyPath) -> Mark:
        """Return the mark of `path`, or of the nearest enclosing key that has one."""
        while path not in self.marks:
            path = path[:-1]
        return self.marks[path]

    def problem(self, path: KeyPath, reason: str) -> str:
        """Return the message that reports `reason` at `path`."""
        mark = self.mark(path)
        shown = self._shown(path)
        where = f"{mark.file}:{mark.line}: "
        return where + (f"{dotted(shown)}: " if shown else "") + reason

    def overlay(self, other: "Document") -> "Document":
        """Return this document with `other`'s values; mappings are merged, all else replaced."""
        marks = dict(self.marks)
        data = _overlay(self.data, other.data, (), marks, other.marks)
        return Document(data, marks, {**self.written_as, **other.written_as})

    def moved(self, source: KeyPath, target: KeyPath) -> "Document":
        """Return a document that has the value at `source`, and only that, under `target`."""
        value: Any = self.data
        for key in source:
            value = value[key]
        paths = [((*target, *inner), (*source, *inner)) for inner in _paths(value)]
        places = {new: old for new, old in paths if old in self.marks}
        for key in reversed(target):
            value = {key: value}
        return Document(value, {new: self.marks[old] for new, old in places.items()}, places)

    def _shown(self, path: KeyPath) -> KeyPath:
        """`path` as it was written, which may be elsewhere; so may a key that encloses it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.written_as:
                return (*self.written_as[path[:length]], *path[length:])
            if path[:length] in self.marks:
                break
        return path

    def part(self, *keys: str) -> "Document":
        """Return a document with only these top-level keys, without those that are null."""
        data = {key: self.data[key] for key in keys if self.data.get(key) is not None}
        marks = {path: mark for path, mark in self.marks.items() if not path or path[0] in data}
        return Document(data, marks)


def dotted(path: KeyPath) -> str:
    """Write a key path as a user reads it: `teacher.training.epochs`, `seeds[1]`."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}"
    return text.removeprefix(".")


def _paths(value: Any) -> Iterator[KeyPath]:
    """Yield the key paths of all values in `value`, beginning with its own, which is empty."""
    yield ()
    inner = value.items() if isinstance(value, dict) else ()
    for key, item in enumerate(value) if isinstance(value, list) else inner:
        for path in _paths(item):
            yield (key, *path)


def _overlay(
    base: Any,
    other: Any,
    path: KeyPath,
    marks: dict[KeyPath, Mark],
    other_marks: Mapping[KeyPath, Mark],
) -> Any:
    if path in other_marks and path:
        marks[path] = other_marks[path]
    if not (isinstance(base, dict) and isinstance(other, dict)):
        for inner in _paths(other):
            if (*path, *inner) in other_marks:
                marks[*path, *inner] = other_marks[*path, *inner]
        return other
    merged = dict(base)
    for key, value in other.items():
        merged[key] = _overlay(base.get(key), value, (*path, key), marks, other_marks)
    return merged
