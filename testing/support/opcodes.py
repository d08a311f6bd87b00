"""Interrupting Python code at a certain bytecode, as a signal handler or a finalizer may."""

from __future__ import annotations

import sys
from collections.abc import Callable
from opcode import opname
from types import FrameType
from typing import Any

#: Whose bytecodes count.
FILES = ("gateway_base.py", "gateway.py")


class Interruption:
    """Calls `handler()` before the bytecode of that number which this thread runs in the package, inside `during()`."""

    def __init__(self, number: int, handler: Callable[[], object]) -> None:
        self._left = number
        self._handler = handler
        #: Whether there was such a bytecode.
        self.happened = False

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.endswith(FILES):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        # An exception at the return of a value is one of the caller's: it can't be told from one after the call.
        returns = event == "opcode" and opname[frame.f_code.co_code[frame.f_lasti]].startswith("RETURN")
        if event == "opcode" and not returns and not self.happened:
            self._left -= 1
            if self._left < 0:
                self.happened = True
                self._handler()
        return self._trace

    def during(self, function: Callable[[], Any]) -> Any:
        """What function returns."""
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            return function()
        finally:
            sys.settrace(before)


def at_every_opcode(function: Callable[[], Any], handler: Callable[[], object], step: int = 1) -> int:
    """Call function again and again, interrupted by handler at one bytecode after another; how many there were."""
    # CPython 3.12 and newer tell of the bytecodes of a function from its second call on.
    Interruption(sys.maxsize, handler).during(function)
    number = 0
    while True:
        interruption = Interruption(number, handler)
        interruption.during(function)
        if not interruption.happened:
            return number
        number += step
