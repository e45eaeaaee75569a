"""Which trajectory is next: the longest remaining chain first. And which ones have to wait."""

import heapq
from collections.abc import Callable, Collection, Iterable


class ReadyQueue:
    """Trajectories, by key, that may have a piece of work to run.

    One is ready, waits for a piece that is running for another, or rests until a time because
    another process is running its piece. What it can run, if anything, is for the caller to say.
    """

    def __init__(self, keys: Iterable[str], chain_cost: Callable[[str], float]):
        """`keys`: all that may be run; of two chains of equal cost the one that stands first in it
        goes first. `chain_cost`: what is left of a trajectory and of the longest chain behind it.
        """
        self._positions = {key: position for position, key in enumerate(keys)}
        self._chain_cost = chain_cost
        self._heap: list[tuple[float, int, str]] = []
        self._ready: set[str] = set()
        self._waiting: dict[str, list[str]] = {}
        """By the key of the piece that they wait for."""
        self._resting: dict[str, float] = {}
        """Until when."""

    @property
    def resting(self) -> Collection[str]:
        """The trajectories that rest."""
        return self._resting.keys()

    def add(self, *keys: str) -> None:
        """Make trajectories ready, but for those that may not be run."""
        for key in keys:
            if key in self._positions and key not in self._ready:
                self._ready.add(key)
                heapq.heappush(self._heap, (-self._chain_cost(key), self._positions[key], key))

    def pop(self) -> str | None:
        """Take the ready trajectory with the longest chain; None where none is ready."""
        while self._heap:
            cost, _, key = heapq.heappop(self._heap)
            self._ready.remove(key)
            if key in self._resting:
                continue
            if -cost == self._chain_cost(key):
                return key
            self.add(key)  # it or what depends on it has gone on since it was added
        return None

    def wait_for(self, piece: str, key: str) -> None:
        """Let `key` wait until `piece` has ended, which is running for another trajectory."""
        self._waiting.setdefault(piece, []).append(key)

    def ended(self, piece: str) -> None:
        """Make ready what waited for `piece`."""
        self.add(*self._waiting.pop(piece, ()))

    def rest(self, key: str, until: float) -> None:
        """Leave `key` alone until then."""
        self._resting[key] = until

    def wake(self, now: float) -> None:
        """Make ready what has rested long enough."""
        for key in [key for key, until in self._resting.items() if until <= now]:
            del self._resting[key]
            self.add(key)

    def forget_resting(self) -> None:
        """Drop what rests: nothing more is to be started."""
        self._resting.clear()
