"""What a worker over ssh wrote last to its standard output, which comes in its standard error, between two marks.

A thread of the worker sends the rest of its output, and dies with it. What it had not sent by then, a process that
outlives the worker passes on to standard error, which ssh carries by itself (`execnet.script.output`). The mark is made
for one worker, so nothing else is taken for it.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from execnet._output.sinks import Sink


def new_mark() -> str:
    """One that nobody else writes."""
    return f"execnet:{os.urandom(16).hex()}:"


class Parted:
    """The sink of a standard error: what is between two marks goes to ``last``, the rest to ``sink``.

    ``last`` is called with None when nothing more comes for it.
    """

    def __init__(self, sink: Sink, mark: str, last: Callable[[bytes | None], None]) -> None:
        self._sink = sink
        self._mark = mark.encode()
        self._last = last
        self._is_last = False
        self._begun = b""  # of what may be a mark

    def write(self, data: bytes) -> None:
        """Pass it on, but for what may be the beginning of a mark."""
        first, *others = (self._begun + data).split(self._mark)
        self._pass_on(first if others else self._without_begun(first))
        while others:
            if self._is_last:
                self._last(None)
            self._is_last = not self._is_last
            part = others.pop(0)
            self._pass_on(part if others else self._without_begun(part))

    def end(self) -> None:
        """Nothing more comes."""
        self._pass_on(self._begun)
        self._last(None)
        self._sink.end()

    def _without_begun(self, data: bytes) -> bytes:
        sizes = range(min(len(data), len(self._mark) - 1), 0, -1)
        begun = next((size for size in sizes if data.endswith(self._mark[:size])), 0)
        self._begun = data[len(data) - begun :]
        return data[: len(data) - begun]

    def _pass_on(self, data: bytes) -> None:
        if data and self._is_last:
            self._last(data)
        elif data:
            self._sink.write(data)
