"""Recording: what this process notes, what its workers hand over, and the thread that makes lines of both.

Threads of the program, receivers among them, only append to queues. One thread, or who flushes, takes from them, with
the lock: under it runs no code of the program's, and nobody waits for a peer. A forked child has a recorder of its own,
and a file of its own, if it makes gateways.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import time
from collections import deque

from execnet import gateway_base
from execnet._output.sinks import complain
from execnet._timeline.arrows import Arrows, Run
from execnet._timeline.clocks import Clock
from execnet._timeline.trace import ARROW_BEGINS, ARROW_ENDS, ITEMS, Trace, line
from execnet.gateway_base import GatewayDied, OneShotEvent, ThreadExecModel
from execnet.script import timeline
from execnet.script.timeline import ARRIVED, CALLED, RECEIVED, SENT, WAITED, Notes, clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from execnet.gateway import Gateway
    from execnet.script.timeline import Batch, Event, Note
    from execnet.xspec import XSpec

VARIABLE = "EXECNET_TIMELINE"
EVERY = 0.2  # seconds between two times that what there is becomes part of the file
NAMES = {SENT: "send", RECEIVED: "receive", CALLED: "callback", WAITED: "wait", ARRIVED: "arrive"}
US, THEM = 1, 0  # where something was noted
TRIPS = 3  # round trips of the handshake

_recorders: dict[int, Recorder] = {}
# One for each process: a forked child may have a copy that a thread of its parent held.
_locks: dict[int, threading.RLock] = {}


def current() -> Recorder:
    """That of this process, which the environment asks for."""
    process = os.getpid()
    with _locks.setdefault(process, threading.RLock()):  # a signal handler may make gateways, too
        if process not in _recorders:
            path = os.environ[VARIABLE].replace("{pid}", str(process))
            _recorders[process] = Recorder(path)
        return _recorders[process]


class Recorder:
    """The timeline of this process and its workers."""

    def __init__(self, path: str) -> None:
        self._owner = os.getpid()
        self._trace = Trace(path)
        self._epoch = clock()
        self._lines: deque[str] = deque()
        self._rows: dict[tuple[int, int], int] = {}
        self._tracks: list[Track] = []
        self._processes = itertools.count(2)
        self._lock = threading.Lock()
        self.name_process(1, f"initiator {os.getpid()}: {' '.join(sys.argv)[:80] or sys.executable}")
        self.add(1, 0, 0.0, ph="M", name="begun", args={"time": time.time(), "execnet": gateway_base.core})
        self._is_stopped = False
        self._ended = OneShotEvent(ThreadExecModel())
        # A real thread, whatever the execution model: it shares nothing but what it takes.
        ThreadExecModel().start(self._run)

    def track(self, spec: XSpec) -> Track:
        """What there will be to tell of a gateway that is about to be started."""
        track = Track(self, next(self._processes), spec)
        self._tracks.append(track)
        return track

    def flush(self) -> None:
        """Have the file be what there is to tell now; it is this process's, not that of a forked child."""
        if os.getpid() != self._owner or self._is_stopped:
            return
        with self._lock:
            for track in list(self._tracks):
                track.tell()
                if track.is_over:
                    self._tracks.remove(track)
            try:
                self._trace.write(timeline.drained(self._lines))
                return
            except OSError as error:  # the disk is full
                self._is_stopped, text = True, str(error)
        complain(f"{VARIABLE}: nothing more is recorded: {text}")

    def _run(self) -> None:
        while not self._is_stopped:
            time.sleep(EVERY)
            self.flush()
        self._ended.set()

    def stop(self) -> None:
        """Write nothing more, once the thread has ended."""
        self._is_stopped = True
        self._ended.wait()
        self._trace.close()

    # -- lines

    def add(self, process: int, row: int, at: float | None, **event: object) -> None:
        """An event, at a time of our clock, or None."""
        when = {} if at is None else {"ts": round(self.microseconds(at), 3)}
        self.add_line(line(pid=process, tid=row, **when, **event))

    def add_line(self, text: str) -> None:
        """An event as it stands in the file."""
        self._lines.append(text)

    def microseconds(self, at: float) -> float:
        """Since the begin of the timeline."""
        return (at - self._epoch) * 1e6 if at else 0.0

    def name_process(self, process: int, name: str) -> None:
        self.add(process, 0, None, ph="M", name="process_name", args={"name": name})
        self.add(process, 0, None, ph="M", name="process_sort_index", args={"sort_index": process})

    def row(self, process: int, thread: int, name: str | None) -> int:
        """The number that a thread has in the file; it is named at its first event."""
        row = self._rows.get((process, thread))
        if row is None:
            row = self._rows[process, thread] = 1 + sum(known == process for known, _ in self._rows)
            self.add(process, row, None, ph="M", name="thread_name", args={"name": name or f"thread {row}"})
        return row


class Track:
    """One gateway: its start, its items on both sides, its worker's tasks, its end."""

    def __init__(self, recorder: Recorder, process: int, spec: XSpec) -> None:
        self.is_over = self._is_started = False
        self._recorder = recorder
        self._process = process
        self._spec = spec
        self._id = json.dumps(spec.id)
        self._begun: float = clock()
        self._phase: tuple[str, float] | None = None
        self._gateway: Gateway | None = None
        self._notes: Notes | None = None
        self._batches: deque[Batch] = deque()
        self._end: deque[tuple[float, bool, str]] = deque()
        # The first channel of ours that is none of the start's own.
        self._first = sys.maxsize
        self._clock = Clock()
        self._arrows = Arrows()
        self._running: dict[tuple[int, int], str] = {}
        recorder.name_process(process, f"{spec.id} ({spec})")
        recorder.add(process, 0, None, ph="M", name="thread_name", args={"name": "start"})

    # -- the threads of a start

    def begin(self, phase: str | None) -> None:
        """The start comes to a phase, the one before is over; None: all are."""
        now = clock()
        if self._phase is not None:
            self._slice(self._phase[0], self._phase[1], now)
        self._phase = None if phase is None else (phase, now)

    def end_start(self, error: str = "") -> None:
        """It is over; may be called again."""
        if self._is_started:
            return
        self._is_started = True
        self.begin(None)
        self._slice("start", self._begun, clock(), error=error)
        if self._gateway is None:
            self.is_over = True
        else:
            self._first = next(self._gateway._channelfactory._ids)

    def connect(self, gateway: Gateway) -> None:
        """There is a gateway: what it does is noted, here and there, from now on."""
        self._gateway, self._notes = gateway, Notes(gateway)
        goodbye = gateway._say_goodbye

        def noting_goodbye() -> None:
            self._recorder.add(self._process, 0, clock(), ph="i", s="p", cat="end", name="told to exit")
            goodbye()

        gateway._say_goodbye = noting_goodbye  # type: ignore[method-assign]
        gateway._before_closing = self._note_end  # type: ignore[method-assign]
        self._notes.names = {threading.main_thread().ident or 0: "main"}
        self._notes.start()
        self.begin("handshake")
        handed = gateway.newchannel()
        handed.setcallback(self._receive)
        channel = gateway.remote_exec(timeline)
        channel.send(handed.id)
        number, python = channel.receive()
        self._recorder.name_process(self._process, f"{self._spec.id} {number or ''}: {self._spec}, {python}")
        for _ in range(TRIPS):
            asked = clock()
            channel.send(True)
            self._clock.add(asked, channel.receive(), clock())
        channel.send(False)
        channel.waitclose()

    # -- the receiver

    def _receive(self, batch: Batch) -> None:
        assert self._notes is not None, "whose worker hands over is connected"
        self._notes.names.setdefault(self._notes.gateway.execmodel.get_ident(), f"receiver of {self._spec.id}")
        self._batches.append(batch)

    def _note_end(self) -> None:
        error = getattr(self._gateway, "_error", None)
        self._end.append((clock(), isinstance(error, GatewayDied), str(error or "ended")))

    # -- with the recorder's lock

    def tell(self) -> None:
        """Have the recorder write what has come."""
        if self._notes is None:
            return
        is_over = bool(self._end)
        self._tell_batch(US, self._notes.take())
        while self._batches:
            self._tell_batch(THEM, self._batches.popleft())
        if is_over:
            self._tell_end(*self._end.popleft())

    def _tell_batch(self, side: int, batch: Batch) -> None:
        lost, notes, events, names = batch
        for event in events:
            if not self._is_own(event[3]):
                self._tell_task(event, names)
        for note in sorted(notes, key=lambda note: note[2]):
            if not self._is_own(note[1]):
                self._tell_note(side, note, names)
        if lost:
            at = clock()
            self._recorder.add(
                self._process_of(side), 0, at, ph="i", s="p", name=f"{lost} notes lost", args={"lost": lost}
            )

    def _is_own(self, channel: int) -> bool:
        """Whether the start has made it, for the timeline and what else the spec asks for. Ours have odd numbers."""
        return channel % 2 == 1 and channel < self._first

    def _process_of(self, side: int) -> int:
        return 1 if side is US else self._process

    def _tell_note(self, side: int, note: Note, names: dict[int, str]) -> None:
        kind, channel, first, count, size, begun, ended, spent, thread = note
        if side is THEM:
            begun, ended = begun + self._clock.offset, ended + self._clock.offset
        process = self._process_of(side)
        row = self._recorder.row(process, thread, names.get(thread))
        is_numbered = kind != WAITED and first >= 0
        args = "" if kind == WAITED else f',"items":{count}'
        if is_numbered:
            args += f',"bytes":{size}'
        if kind in (RECEIVED, WAITED):
            args += f',"waited":{spent * 1e6:.1f}'
        recorder, title = self._recorder, NAMES[kind]
        name = title if count == 1 else f"{title} {count} items"
        duration = max(ended - begun, 0.0) * 1e6
        at = recorder.microseconds(begun)
        recorder.add_line(ITEMS % (process, row, at, duration, title, name, self._id, channel, args))
        if not is_numbered:
            return
        is_sent = kind == SENT
        run = Run(first, first + count, process, row, begun if is_sent else ended)
        for sent, received in self._arrows.add((side is US) == is_sent, channel, is_sent, run):
            self._arrow(sent, received)

    def _arrow(self, sent: Run, received: Run) -> None:
        for text, end in ((ARROW_BEGINS, sent), (ARROW_ENDS, received)):
            at = self._recorder.microseconds(end.at)
            self._recorder.add_line(text % (end.process, end.row, at, self._process, self._arrows.count))

    def _tell_task(self, event: Event, names: dict[int, str]) -> None:
        what, at, thread, channel, text = event
        row = self._recorder.row(self._process, thread, names.get(thread))
        if what == "B":
            self._running[row, channel] = text
        else:
            text = self._running.pop((row, channel), text)
        args = {"channel": channel}
        self._recorder.add(
            self._process, row, at + self._clock.offset, ph=what, cat="task", name=text or "task", args=args
        )

    def _tell_end(self, at: float, is_death: bool, text: str) -> None:
        for (row, channel), name in self._running.items():
            args = {"channel": channel, "unfinished": True}
            self._recorder.add(self._process, row, at, ph="E", cat="task", name=name, args=args)
        name = "died" if is_death else "ended"
        self._recorder.add(self._process, 0, at, ph="i", s="p", cat="end", name=name, args={"text": text})
        self.is_over = True

    def _slice(self, name: str, begun: float, ended: float, **args: object) -> None:
        duration = round(max(ended - begun, 0) * 1e6, 3)
        self._recorder.add(self._process, 0, begun, ph="X", dur=duration, cat="start", name=name, args=args)
