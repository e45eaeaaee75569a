"""How long work with dependencies takes on several machines: a list schedule and its bounds.

A list schedule never leaves a machine idle while a piece is ready. Its makespan lies between the
lower bound max(critical path, work / m) and (2 - 1/m) times that bound, for m machines (R. L.
Graham, Bounds on multiprocessing timing anomalies, 1969).
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """A piece of work, its cost in any unit, and the pieces that it depends on.

    `after` are indices into a list of pieces in which each comes before those that depend on it.
    """

    name: str
    cost: float
    after: tuple[int, ...] = ()


def tails(pieces: Sequence[Piece]) -> list[float]:
    """For each piece the cost of the longest chain of dependent pieces that begins with it."""
    longest = [0.0] * len(pieces)
    for number in reversed(range(len(pieces))):
        longest[number] += pieces[number].cost
        for before in pieces[number].after:
            longest[before] = max(longest[before], longest[number])
    return longest


def critical_path(pieces: Sequence[Piece]) -> list[Piece]:
    """A longest chain of pieces of which each depends on the one before."""
    longest = tails(pieces)
    waiting: dict[int, list[int]] = {}
    for number, piece in enumerate(pieces):
        for before in piece.after:
            waiting.setdefault(before, []).append(number)
    chain = []
    ready = [number for number, piece in enumerate(pieces) if not piece.after]
    while ready:
        first = max(ready, key=longest.__getitem__)
        chain.append(pieces[first])
        ready = waiting.get(first, [])
    return chain


def total_cost(pieces: Sequence[Piece]) -> float:
    """The sum of the pieces' costs."""
    return sum(piece.cost for piece in pieces)


class ListSchedules:
    """List schedules of the same pieces on different numbers of machines, each computed once."""

    def __init__(self, pieces: Sequence[Piece]):
        self._pieces = pieces
        self._tails = tails(pieces)
        self._waiting: list[list[int]] = [[] for _ in pieces]
        for number, piece in enumerate(pieces):
            for before in set(piece.after):
                self._waiting[before].append(number)
        self._makespans: dict[int, float] = {}

    def makespan(self, machines: int) -> float:
        """The makespan on identical `machines`; the piece with the longest tail goes first."""
        if machines not in self._makespans:
            self._makespans[machines] = self._schedule(machines)
        return self._makespans[machines]

    def _schedule(self, machines: int) -> float:
        left = [len(set(piece.after)) for piece in self._pieces]
        ready = [(-self._tails[number], number) for number, count in enumerate(left) if not count]
        heapq.heapify(ready)
        running: list[tuple[float, int]] = []
        now = 0.0
        while ready or running:
            while ready and len(running) < machines:
                number = heapq.heappop(ready)[1]
                heapq.heappush(running, (now + self._pieces[number].cost, number))
            now, ended = heapq.heappop(running)
            for number in self._waiting[ended]:
                left[number] -= 1
                if not left[number]:
                    heapq.heappush(ready, (-self._tails[number], number))
        return now

    def machines_that_help(self, within: float = 0.01) -> int:
        """A number of machines whose makespan exceeds the critical path by a fraction of at most
        `within`, so that more hardly help; with one machine less it exceeds that."""
        bound = (1 + within) * max(self._tails, default=0.0)
        # With fewer machines even the work without dependencies would take longer. The factor
        # allows for rounding.
        work = (1 - 1e-9) * total_cost(self._pieces)
        too_few = math.ceil(work / bound) - 1 if work else 0
        enough = too_few + 1
        while self.makespan(enough) > bound:
            too_few, enough = enough, 2 * enough
        while enough - too_few > 1:
            middle = (enough + too_few) // 2
            if self.makespan(middle) > bound:
                too_few = middle
            else:
                enough = middle
        return enough


def list_schedule(pieces: Sequence[Piece], machines: int) -> float:
    """The makespan on identical `machines`; the piece with the longest tail goes first."""
    return ListSchedules(pieces).makespan(machines)
