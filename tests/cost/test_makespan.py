"""List schedules: closed forms, and Graham's bounds on whatever depends on whatever."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsdctl.cost.makespan import (
    ListSchedules,
    Piece,
    critical_path,
    list_schedule,
    tails,
    total_cost,
)

ROUNDING = 1 + 1e-9


@st.composite
def graphs(draw: st.DrawFn) -> list[Piece]:
    """Up to a dozen pieces, each waiting for any of those before it."""
    pieces = []
    for number in range(draw(st.integers(1, 12))):
        before = st.integers(0, number - 1) if number else st.nothing()
        after = draw(st.lists(before, max_size=3)) if number else []
        pieces.append(Piece(str(number), draw(st.floats(0, 100)), tuple(after)))
    return pieces


def longest_chain(pieces: list[Piece]) -> float:
    """By trying every chain: an independent way to the critical path."""

    def ending_with(number: int) -> float:
        piece = pieces[number]
        return piece.cost + max((ending_with(before) for before in piece.after), default=0.0)

    return max(ending_with(number) for number in range(len(pieces)))


@given(graphs(), st.integers(1, 6))
def test_a_makespan_lies_within_grahams_bounds(pieces: list[Piece], machines: int) -> None:
    makespan = list_schedule(pieces, machines)
    bound = max(longest_chain(pieces), total_cost(pieces) / machines)
    assert bound <= makespan * ROUNDING
    assert makespan <= (2 - 1 / machines) * bound * ROUNDING


@given(graphs())
def test_a_machine_a_piece_takes_the_critical_path_and_one_machine_all_work(
    pieces: list[Piece],
) -> None:
    longest = longest_chain(pieces)
    assert list_schedule(pieces, len(pieces)) == pytest.approx(longest)
    assert max(tails(pieces)) == pytest.approx(longest)
    assert list_schedule(pieces, 1) == pytest.approx(total_cost(pieces))


@given(graphs())
def test_a_critical_path_is_a_chain_of_that_cost(pieces: list[Piece]) -> None:
    chain = critical_path(pieces)
    assert total_cost(chain) == pytest.approx(longest_chain(pieces))
    for before, piece in itertools.pairwise(chain):
        assert before in [pieces[number] for number in piece.after]


@given(graphs())
def test_more_machines_than_help_leave_the_critical_path(pieces: list[Piece]) -> None:
    enough = ListSchedules(pieces).machines_that_help()
    assert list_schedule(pieces, enough) <= 1.01 * longest_chain(pieces) * ROUNDING
    assert enough == 1 or list_schedule(pieces, enough - 1) > 1.01 * longest_chain(pieces)


@pytest.mark.parametrize(
    ("machines", "makespan"), [(1, 60.0), (2, 30.0), (3, 20.0), (4, 20.0), (6, 10.0), (9, 10.0)]
)
def test_six_equal_pieces_side_by_side(machines: int, makespan: float) -> None:
    assert list_schedule([Piece("", 10.0)] * 6, machines) == makespan


def test_a_teacher_and_then_three_students() -> None:
    """A chain of 4 levels, its table, then three chains of 2: 4 + 1 + 2 x ceil(3 / machines)."""
    pieces = [Piece("teacher", 1.0, (k - 1,) if k else ()) for k in range(4)]
    pieces.append(Piece("table", 1.0, (3,)))
    for _ in range(3):
        pieces.append(Piece("level 0", 1.0, (4,)))
        pieces.append(Piece("level 1", 1.0, (len(pieces) - 1,)))
    assert [list_schedule(pieces, m) for m in (1, 2, 3, 4)] == [11.0, 8.0, 7.0, 7.0]
    assert [piece.name for piece in critical_path(pieces)] == [
        *["teacher"] * 4, "table", "level 0", "level 1",
    ]  # fmt: skip
    assert ListSchedules(pieces).machines_that_help() == 3


def test_the_longest_chain_goes_first() -> None:
    """Two short pieces beside a long chain: first come, first served would take 5."""
    pieces = [Piece("short", 1.0), Piece("short", 1.0), *[Piece("long", 2.0)]]
    pieces.append(Piece("long", 2.0, (2,)))
    assert list_schedule(pieces, 2) == 4.0


def test_nothing_takes_no_time() -> None:
    assert (list_schedule([], 3), critical_path([]), ListSchedules([]).machines_that_help()) == (
        0.0,
        [],
        1,
    )
