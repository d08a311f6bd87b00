"""Something that happens at each line of some code in turn, as a signal handler could."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from types import CodeType, FrameType
from typing import Any


class AtLine:
    """While entered, calls ``action`` at the line event of that ``number`` in code that ``chosen`` is true for.

    ``lines`` tells how many there were, ``where`` which one it was; what ``action`` does is not counted.
    """

    def __init__(self, number: int, action: Callable[[], object], chosen: Callable[[CodeType], bool]) -> None:
        self.number, self.action, self.chosen = number, action, chosen
        self.lines = 0
        self.where = ""
        self.acting = False

    def __enter__(self) -> AtLine:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if self.acting or not self.chosen(frame.f_code):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.number + 1:
                self.acting = True
                self.where = f"{frame.f_code.co_name}, line {frame.f_lineno}"
                try:
                    self.action()
                finally:
                    self.acting = False
        return self._trace


def functions_of(file: str, names: Collection[str] = ()) -> Callable[[CodeType], bool]:
    """Chooses the code of a file, or of its functions of those names."""
    return lambda code: code.co_filename == file and (not names or code.co_name in names)
