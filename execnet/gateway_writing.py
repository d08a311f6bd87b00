"""Writing a large message over the portable core so that a signal handler may raise at any byte of it."""

from __future__ import annotations

import os

# What is smaller goes through a buffer, whole: no handler can raise in the middle of it.
LARGE = 8192


class Writing:
    """The bytes of one message on their way to the descriptor ``fd``."""

    def __init__(self, fd: int, data: bytes) -> None:
        self._fd = fd
        self._rest = memoryview(data)
        self._counts: list[int] = []

    @property
    def begun(self) -> bool:
        """Whether something was written, so that the rest must follow."""
        return bool(self._counts)

    def go_on(self) -> None:
        """Write what is missing; OSError where nobody reads, or what a signal handler raises, and then it can go on."""
        while True:
            rest = self._rest[sum(self._counts) :]
            if not rest:
                return
            # From the system call into the list without a bytecode in between: a handler that raises loses no count.
            self._counts.extend(map(os.write, (self._fd,), (rest,)))
