"""A strict reader of YAML 1.2: plain data only, no duplicate keys, with the line of each value.

Tags, and with them merge keys and Python objects, are refused.
"""

import math
import re
from pathlib import Path
from typing import Any

import yaml

from dsdctl.errors import InputError, Problems
from dsdctl.spec.document import Document, KeyPath, Mark, dotted
from dsdctl.system.reading import read_text

MAX_BYTES = 256 * 1024
MAX_NODES = 20_000
MAX_DEPTH = 32


def read_document(file: Path) -> Document:
    """Read one YAML file. Raises InputError."""
    return parse_document(read_text(file, MAX_BYTES), file)


def parse_document(text: str, file: Path) -> Document:
    """Parse YAML text that came from `file`. Raises InputError."""
    try:
        root = yaml.compose(text, Loader=_CoreLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{file}:{line}: not valid YAML: {error.problem}") from error
    except _TooManyValues as error:
        raise InputError(_too_large(file, error.line)) from error
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else _one_line(error)
        raise InputError(f"{file}:1: not valid YAML: {reason}") from error
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{file}:1: must be a mapping of keys to values")
    builder = _Builder(file)
    data = builder.build(root, (), root.start_mark.line + 1)
    if builder.problems:
        raise builder.problems.error()
    return Document(data, builder.marks)


class _TooManyValues(Exception):
    """There are more values than allowed; the first one too many is on `line`."""

    def __init__(self, line: int):
        super().__init__(line)
        self.line = line


def _too_large(file: Path, line: int) -> str:
    return (
        f"{file}:{line}: too large or too deeply nested (allowed: {MAX_NODES} values with aliases "
        f"expanded, {MAX_DEPTH} levels)"
    )


class _CoreLoader(yaml.SafeLoader):
    """SafeLoader with the implicit types of YAML 1.2: 1e-4 is a number, yes is a string.

    It stops at MAX_NODES values, before aliases are expanded; the builder counts them expanded.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (as the base class has it)
    _values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if parent is None or index is not None:  # no key
            self._values += 1
            if self._values > MAX_NODES:
                raise _TooManyValues(self.peek_event().start_mark.line + 1)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _CoreLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first
    )


class _Builder:
    """Builds plain data from YAML nodes within limits of size, depth and type."""

    def __init__(self, file: Path):
        self.file = file
        self.marks: dict[KeyPath, Mark] = {}
        self.problems = Problems()
        self._nodes = 0

    def build(self, node: yaml.Node, path: KeyPath, line: int) -> Any:
        self.marks[path] = Mark(self.file, line)
        self._nodes += 1
        if self._nodes > MAX_NODES or len(path) > MAX_DEPTH:
            raise InputError(_too_large(self.file, line))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, path, "seq")
            return [
                self.build(item, (*path, i), item.start_mark.line + 1)
                for i, item in enumerate(node.value)
            ]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        self._check_tag(node, path, "map")
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or _tag_of(key_node) != "str":
                self._report(path, line, "keys must be plain words")
                continue
            key = key_node.value
            if key in data:
                first = self.marks[(*path, key)].line
                self._report((*path, key), line, f"given twice (first on line {first})")
                continue
            data[key] = self.build(value_node, (*path, key), line)
        return data

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        line, text = node.start_mark.line + 1, node.value
        match _tag_of(node):
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int" if len(text) > 30:
                self._report(path, line, "too long a number")
            case "int":
                return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
            case "float":
                number = float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
                if math.isfinite(number):
                    return number
                self._report(path, line, f"is {text} (allowed: finite numbers)")
            case "str" if not text.isascii() and not _is_unicode(text):
                self._report(path, line, "is not valid Unicode")
            case "str":
                return text
            case _:
                self._report(path, line, f"YAML tag {node.tag} (allowed: plain data, no tags)")
        return None

    def _check_tag(self, node: yaml.Node, path: KeyPath, kind: str) -> None:
        if node.tag != f"tag:yaml.org,2002:{kind}":
            self._report(
                path,
                node.start_mark.line + 1,
                f"YAML tag {node.tag} (allowed: plain data, no tags)",
            )

    def _report(self, path: KeyPath, line: int, reason: str) -> None:
        where = f"{self.file}:{line}: " + (f"{dotted(path)}: " if path else "")
        self.problems.add(where + reason)


def _tag_of(node: yaml.ScalarNode) -> str | None:
    """The type that a scalar has by how it is written; None if a tag says otherwise."""
    plain = node.style is None
    resolver = yaml.resolver.BaseResolver()
    resolver.yaml_implicit_resolvers = _CoreLoader.yaml_implicit_resolvers
    tag: str = resolver.resolve(yaml.ScalarNode, node.value, (plain, not plain))  # type: ignore[no-untyped-call]
    return tag.removeprefix("tag:yaml.org,2002:") if tag == node.tag else None


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
