"""What can be told of Python code without running it: names it binds, modules it imports."""

import ast
from collections.abc import Iterator
from pathlib import PurePosixPath

from dsdctl.errors import InputError

ANY_NAME = "*"
"""Stands for the names of a star import, which may be any."""


def parse(content: bytes, shown: str) -> ast.Module:
    """The syntax tree of a file, which messages call `shown`. Raises InputError if invalid."""
    try:
        return ast.parse(content)
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        raise InputError(f"{shown}{line}: SyntaxError: {error.msg}") from error
    except ValueError as error:  # null bytes
        raise InputError(f"{shown}: not Python code ({error})") from error


def bound_names(tree: ast.Module) -> list[str]:
    """The names that a module binds at its top level, also within `if`, `try` and the like."""
    return list(dict.fromkeys(_bound(tree)))


def defined_names(tree: ast.Module) -> list[str]:
    """The public functions and classes that a module defines itself."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = [node.name for node in tree.body if isinstance(node, kinds)]
    return [name for name in names if not name.startswith("_")]


def _bound(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield child.name
            case ast.Import():
                yield from (alias.asname or alias.name.partition(".")[0] for alias in child.names)
            case ast.ImportFrom():
                yield from (alias.asname or alias.name for alias in child.names)
            case ast.Name(ctx=ast.Store()):
                yield child.id
            case ast.Lambda():
                pass
            case _:
                yield from _bound(child)


def imported(tree: ast.Module, path: str) -> Iterator[str]:
    """Yield the dotted names that the module at `path` below its root may import, anywhere in it.

    `from a import b` gives `a` and `a.b`, which need not be a module. Relative imports are made
    absolute from the root.
    """
    package = PurePosixPath(path).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            outer = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*outer, *filter(None, [node.module])))
            if base:
                yield base
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)
