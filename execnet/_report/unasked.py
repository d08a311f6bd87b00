"""Reports that nobody calls for: EXECNET_REPORT has them printed to standard error.

``EXECNET_REPORT=USR1`` prints one at that signal; ``EXECNET_REPORT=60`` when somebody has waited for 60 seconds and no
message came on any connection, and again each time that this has doubled; ``EXECNET_REPORT=USR1,60`` does both.
A thread prints: the signal's handler only writes a byte for it.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress

from execnet import gateway_base
from execnet._report import quiet, report, stacks, waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from execnet.gateway import Gateway

assert sys.platform != "win32", "neither its signals nor its pipes are what this needs"

VARIABLE = "EXECNET_REPORT"
LOOK_EVERY = 1.0  # seconds, or a quarter of the time, if that is less
STACKS_TIME = 5.0

_watchers: dict[int, Watcher] = {}


def begin() -> None:
    """Do what the variable says, from now on; it is read once in a process."""
    watcher = Watcher()
    if _watchers.setdefault(os.getpid(), watcher) is not watcher:
        return
    watcher.open()
    for wanted in os.environ.get(VARIABLE, "").split(","):
        watcher.add(wanted.strip())
    quiet.note_messages()
    watcher.start()


def prepare(gateways: Iterable[Any]) -> None:
    """Have the workers ready to tell what they do even when they are stuck in C code."""
    for gateway in gateways:
        if isinstance(gateway, gateway_base.BaseGateway):
            try:
                stacks.prepare(gateway)  # type: ignore[arg-type]
            except OSError:
                continue  # it has died: others tell of that


class Watcher:
    """The thread that prints reports, and what it is woken by."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._silence: Silence | None = None

    def open(self) -> None:
        """Take the descriptors it needs."""
        self._to_read, self._to_write = os.pipe()
        os.set_blocking(self._to_write, False)
        # What a program does with its standard error later, as pytest does, is not for reports.
        self._stderr = os.dup(2)

    def add(self, wanted: str) -> None:
        """Have a report printed when that is so: a signal's name, or seconds."""
        name = wanted.upper()
        number = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None) if name else None
        try:
            seconds = float(wanted or "0")
        except ValueError:
            seconds = 0
        if isinstance(number, signal.Signals):
            self._handle(number)
        elif 0 < seconds < float("inf"):
            self._silence = Silence(seconds)
        else:
            self._say(f"execnet: {VARIABLE}: {wanted!r} is neither a signal's name nor a number of seconds\n")

    def _handle(self, number: signal.Signals) -> None:
        try:
            if signal.getsignal(number) is not signal.SIG_DFL:
                raise ValueError("the program handles it")
            signal.signal(number, self._wake)
        except ValueError as error:  # or this is not the main thread
            self._say(f"execnet: {VARIABLE}: no report at {number.name}: {error}\n")

    def _wake(self, number: int, frame: object) -> None:
        if os.getpid() == self._owner:
            with suppress(BlockingIOError):  # reports are due already
                os.write(self._to_write, b"r")

    def start(self) -> None:
        gateway_base.get_execmodel("thread").start(self._run)

    def _run(self) -> None:
        every = None if self._silence is None else min(LOOK_EVERY, self._silence.seconds / 4)
        while True:
            woken = select.select([self._to_read], [], [], every)[0]
            if woken:
                os.read(self._to_read, 4096)
            if woken or (self._silence is not None and self._silence.is_due()):
                self._say(report.report(STACKS_TIME) + "\n")
                if self._silence is not None:
                    self._silence.note_answers()

    def _say(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        try:
            while data:
                data = data[os.write(self._stderr, data) :]
        except OSError:
            return  # nobody reads it


class Silence:
    """Whether somebody has waited for ``seconds`` while no message came, told once, and after each doubling."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._next = seconds
        self._marks: object = None
        self._since = time.monotonic()

    def is_due(self) -> bool:
        gateways = report.live_gateways()
        marks = self._marks_of(gateways)
        if marks != self._marks or not _somebody_waits(gateways):
            self._marks = marks
            self._since = time.monotonic()
            self._next = self.seconds
        if time.monotonic() - self._since < self._next:
            return False
        self._next *= 2
        return True

    def note_answers(self) -> None:
        """What the workers have answered for the report is no message."""
        self._marks = self._marks_of(report.live_gateways())

    @staticmethod
    def _marks_of(gateways: list[Gateway]) -> object:
        return [(gateway.id, quiet.last_message(gateway)) for gateway in gateways]


def _somebody_waits(gateways: list[Gateway]) -> bool:
    """Whether a thread waits in execnet, or a callback of an open channel for its next item."""
    return any(gateway._channelfactory._callbacks for gateway in gateways) or bool(waiting.waits(gateways))
