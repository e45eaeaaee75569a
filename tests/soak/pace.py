"""How long to wait before a kill."""

import random


class Pace:
    """Random waits, the longest of which grows from kill to kill.

    So there are many kills at first, at all moments of a command, and yet it gets further each
    time and ends at last, on a busy machine too.
    """

    def __init__(self, dice: random.Random, longest: float, growth: float):
        self._dice = dice
        self._longest = longest
        self._growth = growth

    def wait(self) -> float:
        """Seconds until the next kill."""
        return self._dice.uniform(0, self._longest)

    def killed(self) -> None:
        """Wait a little longer from now on."""
        self._longest *= self._growth
