"""A program that starts or ends gateways and is interrupted on the way, over and over; what is left is counted.

``python raising.py WHERE WHAT FIRST STEP SPEC…``. WHERE is

- ``caller``: KeyboardInterrupt before the n-th line that the calling thread executes, of the package or of the library,
- ``start``: MemoryError before the n-th line of the package by which a thread of the starts brings a gateway up,
- ``signal``: KeyboardInterrupt by a signal after a random time, FIRST is the seed and STEP the number of rounds.

WHAT is ``start`` or ``end``. n is FIRST, FIRST + STEP, … until nothing is raised any more. Prints the number of rounds,
then a line for each thing that was left behind.
"""

from __future__ import annotations

import gc
import random
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import execnet
from execnet._group import starting
from support import leaks

SECONDS = 20.0
PACKAGE = str(Path(execnet.__file__).parent)
STEPS = {getattr(starting.Start, name).__code__ for name in ("reserve", "begin", "finish", "enter")}


class Raiser:
    """Raises an exception before the n-th line that is traced."""

    def __init__(self, number: int, error: type[BaseException]) -> None:
        self.missing = number
        self.error = error
        self.raised = ""
        # CPython 3.11 crashes where a trace function that raises in a finalizer has no other reference.
        self.kept = self.trace

    def trace(self, frame: FrameType, event: str, arg: object) -> Any:
        """A trace function for every line."""
        if event == "line" and not self.raised:
            self.missing -= 1
            if self.missing < 0:
                self.raised = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise self.error(f"before {self.raised}")
        return self.kept

    def trace_start(self, frame: FrameType, event: str, arg: object) -> Any:
        """A trace function for the lines of the package, below the steps of a start."""
        return self._below_start if frame.f_code in STEPS else None

    def _below_start(self, frame: FrameType, event: str, arg: object) -> Any:
        # Called for the lines of the step; what it calls is traced while it runs.
        sys.settrace(self._in_package)
        self.trace(frame, event, arg)
        if event == "return":
            sys.settrace(self.trace_start)
        return self._below_start

    def _in_package(self, frame: FrameType, event: str, arg: object) -> Any:
        return self.kept if frame.f_code.co_filename.startswith(PACKAGE) else None


class Program:
    """A group whose starts and ends are interrupted."""

    def __init__(self, where: str, what: str, specs: list[str]) -> None:
        self.where, self.what, self.specs = where, what, specs
        self.group = execnet.Group()
        self.left: list[str] = []
        self.rounds = 0
        self.make()  # what the first start of a process imports and keeps
        self.group.terminate(SECONDS)
        self.before = leaks.Snapshot.take()

    def make(self) -> list[execnet.Gateway]:
        """The gateways, as a program would start them."""
        if len(self.specs) == 1:
            return [self.group.makegateway(self.specs[0])]
        return self.group.makegateways(self.specs)

    def act(self) -> None:
        """What is interrupted."""
        if self.what == "start":
            self.make()
        else:
            self.group.terminate(SECONDS)

    def round(self, number: int) -> bool:
        """One interruption; false where it came too late."""
        if self.what == "end":
            self.make()
        raiser = Raiser(number, KeyboardInterrupt if self.where == "caller" else MemoryError)
        restore = self.trace_threads(raiser) if self.where == "start" else None
        raised = None
        # Where the collector runs a finalizer while a frame's trace function is about to be called, and that of the
        # finalizer raises, CPython 3.11 calls what is no trace function any more.
        gc.disable()
        try:
            if self.where == "caller":
                sys.settrace(raiser.kept)
            self.act()
        except BaseException as error:
            raised = repr(error)  # not the error, whose traceback keeps what its frames know
        finally:
            sys.settrace(None)
            gc.enable()
            if restore is not None:
                type(self.group.execmodel).start = restore  # type: ignore[method-assign]
        self.check(raised, raiser.raised, raiser.error)
        return bool(raiser.raised)

    def trace_threads(self, raiser: Raiser) -> Any:
        """Have the threads of starts traced; returns what was in place."""
        kind: Any = type(self.group.execmodel)
        original = kind.start

        def start(execmodel: Any, func: Any, args: tuple[object, ...] = ()) -> None:
            def traced() -> None:
                sys.settrace(raiser.trace_start)
                func(*args)

            original(execmodel, traced)

        kind.start = start
        return original

    def signalled_round(self, dice: random.Random, longest: float) -> None:
        """One interruption by a signal."""
        if self.what == "end":
            self.make()
        raised = None
        try:
            signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.0001, longest))
            self.act()
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt as error:
            raised = repr(error)
        self.check(raised, "a signal" if raised else "", KeyboardInterrupt)

    def check(self, raised: str | None, where: str, error: type[BaseException]) -> None:
        """What is left, and whether the next start works."""
        self.rounds += 1
        if raised is not None and error.__name__ not in raised:
            self.left.append(f"{where}: {raised} was raised instead")
        if self.what == "start" and raised is not None:
            membership = self.group._membership
            held = [*self.group._gateways, *self.group._gateways_to_join, *membership.places, *membership._claims]
            self.left += [f"{where}: {thing!r} in the group" for thing in held]
            self.compare(where, forkservers=True)
        try:
            if self.what == "start" and raised is not None:
                for gateway in self.make():
                    gateway.remote_exec("channel.send(1)").receive(SECONDS)
            self.group.terminate(SECONDS)
        except Exception as exc:
            self.left.append(f"{where}: then {exc!r}")
        self.compare(where)

    def compare(self, where: str, forkservers: bool = False) -> None:
        """Note what is here that was not before; a fork server may stay until the group ends."""
        processes = [forkserver.popen for forkserver in self.group._forkservers.values()]
        kept = {popen.pid for popen in processes if popen} if forkservers else set()
        deadline = time.monotonic() + SECONDS
        while True:
            left = leaks.wait_for_none(self.before)
            if forkservers and kept:
                left = [line for line in left if line.startswith("process") and int(line.split()[1][:-1]) not in kept]
            if not left or time.monotonic() > deadline:
                break
        self.left += [f"{where}: {line}" for line in left]


def main(where: str, what: str, first: int, step: int, specs: list[str]) -> None:
    """Run, and print what came of it."""
    program = Program(where, what, specs)
    if where == "signal":
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        dice = random.Random(first)
        began = time.monotonic()
        program.act()
        longest = time.monotonic() - began
        program.group.terminate(SECONDS)
        for _ in range(step):
            program.signalled_round(dice, longest)
    else:
        number = first
        while not program.left and program.round(number):
            number += step
    print(program.rounds, *program.left, sep="\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
