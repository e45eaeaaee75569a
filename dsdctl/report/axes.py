"""The values of a matrix in words."""

import re
from collections.abc import Mapping, Sequence

from dsdctl.plan.plan import RowPlan
from dsdctl.report.shortening import short_variant
from dsdctl.spec.matrix import row_name, variant_name

SHARES = {"label_noise.rate": "noise", "pruning.fraction": "pruned per round"}
"""Axes whose values are shares, and what these are called."""


def axis_words(axis: str, value: str) -> str:
    """`student.depth` and 3 are `depth 3`, `label_noise.rate` and 0.2 `noise 20 %`.

    A value that is a word speaks for itself.
    """
    if axis in SHARES and re.fullmatch(r"[\d.]+", value):
        return f"{SHARES[axis]} {100 * float(value):g} %"
    name = axis.split(".")[-1].replace("_", " ")
    if axis.startswith("teacher."):
        name = f"teacher {name}"
    if value in ("False", "None"):
        return f"no {name}"
    if value == "True":
        return name
    return value if re.match(r"[A-Za-z]", value) else f"{name} {value}"


def variant_words(axes: Mapping[str, str]) -> str:
    """A variant by all its values; empty without a matrix."""
    return ", ".join(axis_words(axis, value) for axis, value in axes.items())


def row_words(recipe: str, axes: Mapping[str, str]) -> str:
    """A recipe, with its variant in words where there is a matrix."""
    return row_name(recipe, variant_words(axes))


def row_named(rows: Sequence[RowPlan], variant: str | None) -> RowPlan | None:
    """The row whose variant is called so, or the only row if none is named; else None."""
    found = rows if variant is None else [plan for plan in rows if is_named(plan.row.axes, variant)]
    return found[0] if len(found) == 1 else None


def is_named(axes: Mapping[str, str], name: str) -> bool:
    """Whether a variant is called so, spaces aside, by a table, a plan or a recommendation."""
    full = variant_name(axes)
    names = (full, short_variant(full), variant_words(axes))
    return "".join(name.split()) in ("".join(other.split()) for other in names)
