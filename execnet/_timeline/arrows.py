"""Which send an item came from: both sides number the items of a channel, run by run."""

from __future__ import annotations

from collections import deque, namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Items, by the number of the first and of the one behind the last; where they were sent or received, and when.
Run = namedtuple("Run", "first end process row at")


class Arrows:
    """What was sent and not yet received, of one gateway, or the other way round."""

    def __init__(self) -> None:
        #: How many there are so far.
        self.count = 0
        self._waiting: dict[tuple[bool, int], tuple[deque[Run], deque[Run]]] = {}

    def add(self, ours: bool, channel: int, is_sent: bool, run: Run) -> Iterator[tuple[Run, Run]]:
        """Add a run of items that we, or the far side, have sent: the pairs of sent and received that it makes.

        Runs come in the order of their numbers.
        """
        sent, received = self._waiting.setdefault((ours, channel), (deque(), deque()))
        (sent if is_sent else received).append(run)
        while sent and received:
            first, second = sent[0], received[0]
            if first.first < second.end and second.first < first.end:  # else some were lost
                self.count += 1
                yield first, second
            if first.end <= second.end:
                sent.popleft()
            if second.end <= first.end:
                received.popleft()
