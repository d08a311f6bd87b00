"""How far the clock of a far side is from ours, by round trips: its answer is made between question and arrival."""

from __future__ import annotations


class Clock:
    """What to add to times of a far side."""

    def __init__(self) -> None:
        self.offset = 0.0
        self._least = float("inf")
        self._middle = 0.0
        # What the offset can be.
        self._lowest, self._highest = float("-inf"), float("inf")

    def add(self, asked: float, theirs: float, answered: float) -> None:
        """A round trip: our time, theirs, and ours, in seconds. The middle of the least one counts."""
        lowest, highest = asked - theirs, answered - theirs
        self._lowest, self._highest = max(self._lowest, lowest), min(self._highest, highest)
        if answered - asked < self._least:
            self._least, self._middle = answered - asked, (lowest + highest) / 2
        # One that can be none is none: processes of one machine have the same clock.
        self.offset = 0.0 if self._lowest <= 0 <= self._highest else self._middle
