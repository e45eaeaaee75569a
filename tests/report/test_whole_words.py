"""Tables break between words as long as there is room for the longest of each column."""

import io

from hypothesis import example, given
from hypothesis import strategies as st
from rich import box
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from dsdctl.report.word_wrapped import WordWrappedTable, distribute_width

CELLS = ("b721a98c 0a1b2c3d", "dataset.name=cifar100, label_noise.rate=0.1", "one two three " * 9)
WORDS = {word for cell in CELLS for word in cell.split()}


def table() -> Table:
    made = Table(box=box.SIMPLE_HEAD)
    for heading in ("keys", "variant", "read by"):
        made.add_column(heading, overflow="fold")
    made.add_row(*map(Text, CELLS))
    return made


def shown(renderable: RenderableType, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    assert max(map(len, console.file.getvalue().splitlines())) <= width
    return console.file.getvalue()


def test_words_stay_whole_where_rich_alone_breaks_them() -> None:
    # The longest words of the columns, and what stands between and beside them.
    narrowest = len("b721a98c") + len("dataset.name=cifar100,") + len("three") + 10
    assert not set(shown(table(), narrowest).split()) >= WORDS
    for width in range(narrowest, 220):
        assert set(shown(WordWrappedTable(table()), width).split()) >= WORDS


def test_where_there_is_room_for_all_or_not_even_for_the_words_it_is_richs_own() -> None:
    for width in (20, 44, 300):
        assert shown(WordWrappedTable(table()), width) == shown(table(), width)


RANGES = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 50)).map(lambda t: Measurement(t[0], sum(t))),
    min_size=1,
    max_size=9,
)


@given(RANGES, st.integers(0, 400))
@example([Measurement(0, 1), Measurement(0, 1)], 2)
def test_all_the_room_is_used_and_no_column_is_wider_than_its_lines(
    ranges: list[Measurement], room: int
) -> None:
    widths = distribute_width(ranges, room)
    if not widths:
        assert sum(one.minimum for one in ranges) > room
        return
    assert all(one.minimum <= w <= one.maximum for one, w in zip(ranges, widths, strict=True))
    assert sum(widths) == min(room, sum(one.maximum for one in ranges))
