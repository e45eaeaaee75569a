"""A spec's matrix: expands its products into variants, each a document of its own."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dsdctl.errors import InputError
from dsdctl.spec.document import Document, KeyPath

MAX_CELLS = 10_000
"""Upper limit on variants x recipes x seeds of a spec."""

MAX_TRAININGS = 1_000_000
"""Upper limit on the levels of all cells together."""

VARIED = ("dataset", "label_noise", "student", "teacher", "training", "pruning", "stop")
"""The keys that a matrix may vary: what is trained and how, but not what is compared."""


def variant_name(axes: Mapping[str, str]) -> str:
    """The name of a variant, from its values by path; empty without a matrix."""
    return ", ".join(f"{path}={value}" for path, value in axes.items())


def row_name(recipe: str, variant: str) -> str:
    """The name of a row: its recipe and, if there is a matrix, its variant."""
    return f"{recipe} [{variant}]" if variant else recipe


def shared_axes(cells: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The axes on which all cells that have them agree, with their values."""
    values: dict[str, dict[str, None]] = {}
    for axis, value in itertools.chain.from_iterable(cell.items() for cell in cells):
        values.setdefault(axis, {})[value] = None
    return {axis: next(iter(found)) for axis, found in values.items() if len(found) == 1}


def variants(document: Document) -> Iterator[tuple[dict[str, str], Document]]:
    """Yield the values of each variant by path, and the variant as a document of its own.

    Raises InputError before the first one if the matrix is invalid or has too many cells, and later
    for a variant that occurs twice.
    """
    products, paths = _products(document)
    for axes, where in zip(products, paths, strict=True):
        _check_axes(document, axes, where)
    _check_count(document, products)
    marks = {path: mark for path, mark in document.marks.items() if path[:1] != ("matrix",)}
    base = Document({k: v for k, v in document.data.items() if k != "matrix"}, marks)
    names: set[str] = set()
    for axes, where in zip(products, paths, strict=True):
        for choices in itertools.product(*_columns(document, axes, where)):
            shown = {choice.path: choice.label for choice in choices}
            name = variant_name(shown)
            if name in names:
                raise InputError(document.problem(("matrix",), f"gives the variant {name} twice"))
            names.add(name)
            variant = base
            for choice in choices:
                variant = variant.overlay(choice.value)
            yield shown, variant


def _products(document: Document) -> tuple[list[Any], list[KeyPath]]:
    """The mappings from axes to values, and their key paths; one that is empty without a matrix."""
    matrix = document.data.get("matrix")
    if isinstance(matrix, list):
        return matrix, [("matrix", index) for index in range(len(matrix))]
    return [{} if matrix is None else matrix], [("matrix",)]


def _check_count(document: Document, products: Sequence[Mapping[str, Sequence[Any]]]) -> None:
    """Refuse a matrix that would take too long to expand."""
    count = sum(math.prod(len(values) for values in axes.values()) for axes in products)
    if not count:
        raise InputError(document.problem(("matrix",), "gives 0 variants (allowed: 1 or more)"))
    sizes = {"variants": count}
    for key in ("recipes", "seeds"):
        values = document.data.get(key)
        sizes[key] = len(values) if isinstance(values, list) and values else 1
    cells = math.prod(sizes.values())
    if cells > MAX_CELLS:
        factors = [f"{size} {name}" for name, size in sizes.items() if size > 1]
        total = f" = {cells} cells" if len(factors) > 1 else ""
        reason = f"gives {' x '.join(factors)}{total} (allowed: at most {MAX_CELLS})"
        largest = max(sizes, key=sizes.__getitem__)
        where = "matrix" if largest == "variants" else largest
        raise InputError(document.problem((where,), reason))


def _check_axes(document: Document, axes: Any, path: KeyPath) -> None:
    if not isinstance(axes, dict) or not all(isinstance(v, list) and v for v in axes.values()):
        reason = (
            "must map dotted paths to lists of values, or be a list of such mappings "
            "(allowed: label_noise.rate: [0.2, 0.4], say)"
        )
        raise InputError(document.problem(path, reason))
    for name in axes:
        if name.split(".")[0] not in VARIED:
            reason = (
                f"{name!r} cannot be varied (allowed: paths that begin with {', '.join(VARIED)})"
            )
            raise InputError(document.problem((*path, name), reason))


@dataclass(frozen=True)
class _Choice:
    """One value of an axis: its path, its name, and a document with the value at that path."""

    path: str
    label: str
    value: Document


def _columns(document: Document, axes: Mapping[str, Any], where: KeyPath) -> list[list[_Choice]]:
    """The values of each axis."""
    columns = []
    for path, values in axes.items():
        column = []
        for index, label in enumerate(_labels(values)):
            value = _at(document, tuple(path.split(".")), (*where, path, index))
            column.append(_Choice(path, label, value))
        columns.append(column)
    return columns


def _at(document: Document, target: KeyPath, source: KeyPath) -> Document:
    """The value that the matrix has at `source`, under `target`, as written where it is.

    So are the keys around `target` that the spec itself lacks, since a problem is found by them.
    """
    moved = document.moved(source, target)
    lacking = {target[:length] for length in range(1, len(target))} - document.marks.keys()
    return Document(moved.data, dict.fromkeys(lacking, document.mark(source)) | moved.marks)


def _labels(values: list[Any]) -> list[str]:
    """Names of an axis's values: of a mapping its `name`, or all in it if names are not unique."""
    names = [
        _short(value.get("name") or value) if isinstance(value, dict) else _short(value)
        for value in values
    ]
    return names if len(set(names)) == len(names) else [_short(value) for value in values]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "/".join(_short(item) for item in value.values() if item is not None)
    return str(value)
