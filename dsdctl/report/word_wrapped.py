"""Tables on a console that break their cells between words, as far as there is room for that."""

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table

UNBOUNDED = 10_000


class WordWrappedTable:
    """A table in the box SIMPLE_HEAD, no column of which is narrower than its longest word.

    Rich alone narrows the widest columns whatever is in them, and breaks `cifar100` into `cifar10`
    and `0`. Where the console has no room even for the words, it still does.
    """

    def __init__(self, table: Table):
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        count, (_, right, _, left) = len(self.table.columns), self.table.padding
        # Beside each column, between two, and outside.
        blanks = count * (left + right) + (count - 1) + 2
        blanks -= 0 if self.table.pad_edge else left + right
        ranges = [_measured(column, console, options) for column in self.table.columns]
        widths = distribute_width(ranges, options.max_width - blanks)
        for column, width in zip(self.table.columns, widths, strict=False):
            column.width = width
        yield self.table


def natural_width(table: Table, console: Console) -> int:
    """The columns of a console that a table takes if no cell is broken."""
    return Measurement.get(console, console.options.update(width=UNBOUNDED), table).maximum


def distribute_width(ranges: Sequence[Measurement], room: int) -> list[int]:
    """Widths that sum to at most `room`, none below its minimum or above its maximum; what is
    left goes where a cell takes most lines. Empty where the minima do not fit."""
    widths = [measured.minimum for measured in ranges]
    if sum(widths) > room:
        return []
    for _ in range(min(room, sum(measured.maximum for measured in ranges)) - sum(widths)):
        # A column without any room has more lines to show than one that has all its room.
        lines = [one.maximum / max(width, 0.5) for one, width in zip(ranges, widths, strict=True)]
        widths[lines.index(max(lines))] += 1
    return widths


def _measured(column: Column, console: Console, options: ConsoleOptions) -> Measurement:
    """The longest word and the longest line of a column's cells."""
    cells = [Measurement.get(console, options, cell) for cell in (column.header, *column.cells)]
    return Measurement(max(c.minimum for c in cells), max(c.maximum for c in cells))
