"""What a long list or table is cut to where people read it; JSON always has all of it."""

from collections.abc import Sequence

from rich.cells import cell_len, chop_cells
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

MAX_ROWS = 100
"""Rows of a table on a console."""

MAX_ITEMS = 20
"""Things that are listed in a cell or a line, and lines that are listed."""


def joined(items: Sequence[str], separator: str = ", ") -> str:
    """The first of the items, and how many more there are."""
    return separator.join(_first(items, "more"))


def indented(lines: Sequence[str]) -> list[Padding]:
    """The first of the lines, and how many more there are; what wraps stays indented."""
    return [Padding(Text(line), (0, 0, 0, 2)) for line in _first(lines, "more lines")]


def _first(items: Sequence[str], what: str) -> list[str]:
    more = len(items) - MAX_ITEMS
    return [*items[:MAX_ITEMS], *([f"and {more:,} {what}"] if more > 0 else [])]


def fill(table: Table, rows: Sequence[Sequence[str | Text]]) -> Table:
    """Add the first of the rows; the table then says how many more there are."""
    for cells in rows[:MAX_ROWS]:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))
    if len(rows) > MAX_ROWS:
        table.caption = f"and {len(rows) - MAX_ROWS:,} more rows, which JSON has"
        table.caption_justify = "left"
    return table


def filled(text: str, width: int) -> str:
    """A text in exactly so many columns: its middle left out, or blanks added."""
    short = in_columns(text, width)
    return short + " " * (width - cell_len(short))


def in_columns(text: str, width: int) -> str:
    """A text in at most so many columns, without its middle where it is longer."""
    if cell_len(text) <= width:
        return text
    if width < 2:
        return "…"[:width]
    end = (width - 1) // 2
    first = chop_cells(text, width - 1 - end)[0]
    last = chop_cells(text[::-1], end)[0][::-1] if end else ""
    return f"{first}…{last}"


def short_variant(variant: str) -> str:
    """A variant with the last word of each of its paths, where these words differ."""
    axes = [axis.partition("=") for axis in variant.split(", ")]
    names = [path.rpartition(".")[2] for path, _, _ in axes]
    if len(set(names)) < len(names) or any(not value for _, _, value in axes):
        return variant
    return ", ".join(f"{name}={value}" for name, (_, _, value) in zip(names, axes, strict=True))
