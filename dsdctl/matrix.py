"""A spec's matrix: the cells of its products, each as a document of its own."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dsdctl.errors import InputError
from dsdctl.loading import Document, KeyPath

MAX_VARIANTS = 1000

VARIED = ("dataset", "label_noise", "student", "teacher", "training", "pruning", "stop")
"""What a matrix may vary: what is trained and how, not what is compared."""


def variant_name(axes: Mapping[str, str]) -> str:
    """A cell of the matrix by its values; empty without a matrix."""
    return ", ".join(f"{path}={value}" for path, value in axes.items())


def row_name(recipe: str, variant: str) -> str:
    """A recipe, with its variant where there is a matrix."""
    return f"{recipe} [{variant}]" if variant else recipe


def shared_axes(cells: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Of each axis the value of all cells that have it, where that is one."""
    values: dict[str, dict[str, None]] = {}
    for axis, value in itertools.chain.from_iterable(cell.items() for cell in cells):
        values.setdefault(axis, {})[value] = None
    return {axis: next(iter(found)) for axis, found in values.items() if len(found) == 1}


def variants(document: Document) -> Iterator[tuple[dict[str, str], Document]]:
    """Yield each cell of the matrix, with its values by path, as a document of its own."""
    base = Document({k: v for k, v in document.data.items() if k != "matrix"}, document.marks)
    matrix = document.data.get("matrix")
    if matrix is None:
        yield {}, base
        return
    products = matrix if isinstance(matrix, list) else [matrix]
    paths: list[KeyPath] = [("matrix",)]
    if matrix is products:
        paths = [("matrix", index) for index in range(len(products))]
    for axes, where in zip(products, paths, strict=True):
        _check_axes(document, axes, where)
    count = sum(math.prod(len(values) for values in axes.values()) for axes in products)
    if not 1 <= count <= MAX_VARIANTS:
        reason = f"gives {count} variants (allowed: 1 to {MAX_VARIANTS})"
        raise InputError(document.problem(("matrix",), reason))
    names: set[str] = set()
    for cell in itertools.chain.from_iterable(map(_cells, products, paths)):
        shown = {path: label for path, label, _ in cell}
        name = variant_name(shown)
        if name in names:
            raise InputError(document.problem(("matrix",), f"gives the variant {name} twice"))
        names.add(name)
        laid_over = base
        for path, _, where in cell:
            value = document.moved(where, tuple(path.split(".")))
            laid_over = laid_over.overlay(Document(value.data, value.marks))
        yield shown, laid_over


def _check_axes(document: Document, axes: Any, path: KeyPath) -> None:
    if not isinstance(axes, dict) or not all(isinstance(v, list) and v for v in axes.values()):
        reason = "must map dotted paths to lists of values, or be a list of such mappings"
        raise InputError(document.problem(path, reason))
    for name in axes:
        if name.split(".")[0] not in VARIED:
            reason = (
                f"{name!r} cannot be varied (allowed: paths that begin with {', '.join(VARIED)})"
            )
            raise InputError(document.problem((*path, name), reason))


def _cells(axes: dict[str, Any], path: KeyPath) -> Iterator[tuple[tuple[str, str, KeyPath], ...]]:
    """Yield the product of the axes as tuples of (dotted path, label, where it was written)."""
    columns = [
        [(name, label, (*path, name, i)) for i, label in enumerate(_labels(values))]
        for name, values in axes.items()
    ]
    return itertools.product(*columns)


def _labels(values: list[Any]) -> list[str]:
    """Of mappings their names alone, where these tell them apart; else all that they hold."""
    names = [
        _short(value.get("name") or value) if isinstance(value, dict) else _short(value)
        for value in values
    ]
    return names if len(set(names)) == len(names) else [_short(value) for value in values]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "/".join(_short(item) for item in value.values() if item is not None)
    return str(value)
