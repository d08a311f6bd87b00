"""Threads that take turns line by line, in an order that a seed repeats."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

SECONDS = 30.0


class Turns:
    """Runs functions in threads of which one at a time goes on; who that is changes before lines of one file.

    ``between`` is called at each change, in the thread that was interrupted, which thereby can do something as a signal
    handler would.
    """

    def __init__(self, path: str, dice: random.Random, between: Callable[[], object]) -> None:
        self.path, self.dice, self.between = path, dice, between
        self.gates: dict[int, threading.Lock] = {}
        self.failures: list[BaseException] = []
        self.switches = 0

    def run(self, functions: list[Callable[[], object]]) -> None:
        """Run all to their ends; raises the first exception of one of them."""
        threads = []
        for number, function in enumerate(functions):
            self.gates[number] = threading.Lock()
            self.gates[number].acquire()
            threads.append(threading.Thread(target=self._run, args=(number, function), daemon=True))
        for thread in threads:
            thread.start()
        self._pass_on()
        for thread in threads:
            thread.join(SECONDS)
            assert not thread.is_alive(), "a thread waits for another one"
        if self.failures:
            raise self.failures[0]

    def _run(self, number: int, function: Callable[[], object]) -> None:
        self.gates[number].acquire()

        def trace(frame: FrameType, event: str, arg: object) -> Any:
            if frame.f_code.co_filename != self.path:
                return None
            if event == "line" and self.dice.random() < 0.5:
                self.switches += 1
                self.between()
                self._give_way(number)
            return trace

        sys.settrace(trace)
        try:
            function()
        except BaseException as error:
            self.failures.append(error)
        finally:
            sys.settrace(None)
            del self.gates[number]
            self._pass_on()

    def _give_way(self, number: int) -> None:
        chosen = self.dice.choice(list(self.gates))
        if chosen != number:
            self.gates[chosen].release()
            self.gates[number].acquire()

    def _pass_on(self) -> None:
        if self.gates:
            self.gates[self.dice.choice(list(self.gates))].release()
