"""The thread of a group that carries what its workers write, from pipes and channels to sinks.

States: it *runs* while it has something to carry or to do, else there is none. `_running` has an entry in the first
case. Invariants:

- Only the thread touches pipes and sinks, and only it closes a pipe. What others want, they append to `_orders`;
  each of these is done once, in order, by the thread.
- Whoever appends sees afterwards that the thread runs, or starts it, and rings its bell. The thread takes its entry out
  before it looks at the orders for the last time: one of them sees the other. It looks at them before each wait, and
  the bell stays rung until then.
- The bell is closed when nobody refers to it, so nobody ever rings at the number of another file.
- Nothing here is done with a lock held, and a sink that blocks, as a terminal that was stopped does, blocks this
  thread: the pipes fill, the windows of channels close, and workers wait. Whoever waits for the thread asks since when
  it has not got on, and has a limit; only the end of the program has none where it is a reader of its output that does
  not read.

A forked child has no such thread: it closes its copies of the pipes, and nothing there waits for more.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from contextlib import suppress

from execnet._output.sinks import complain, somebody_does_not_read
from execnet.gateway_base import OneShotEvent, ThreadExecModel, of_parent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from execnet._output.sinks import Sink

CHUNK = 64 * 1024  # bytes read at once: a whole pipe
LOOK = 0.01  # seconds between two looks at what can't be waited for
# Seconds after something was carried in which more may come, to be carried as one. Without them a worker that prints
# line by line takes twice the time, and round trips beside a flood, too (testing/bench/output.py).
REST = 0.001
PATIENCE = 1.0  # seconds that whoever waits for the thread waits for it to get on
MOST_AT_EXIT = 10.0  # seconds that the end of the program waits for a function that does not return
MOST_WAITING = 1 << 20  # bytes that a pipe can hold: whoever waits for these does not wait for what came later


class Stream:
    """One output of one worker: what is carried goes to ``sink``."""

    #: Seconds in which the rest must begin to arrive once the process has ended: a child may hold its output for ever.
    linger = 0.1

    def __init__(self, carrier: Carrier, sink: Sink) -> None:
        self._carrier = carrier
        self._sink = sink
        #: Bytes carried so far.
        self.carried = 0
        #: Nothing more comes.
        self.ended = OneShotEvent(ThreadExecModel())

    def write(self, data: bytes) -> None:
        """Have the sink write; for the carrier's thread."""
        self._sink.write(data)
        self.carried += len(data)

    def end(self) -> None:
        """Nothing more comes; for the carrier's thread."""
        if not self.ended.is_set():
            self._sink.end()
            self.ended.set()

    def settle(self) -> OneShotEvent:
        """What is set once all that had come before this call is written."""
        settled = OneShotEvent(ThreadExecModel())
        self._carrier.order(self._when_settled, settled.set)
        return settled

    def settle_last(self) -> OneShotEvent:
        """As settle(), where who writes has ended."""
        return self.settle()

    def take_last(self, data: bytes | None) -> None:
        """Take what comes another way; for the carrier's thread."""

    def may_bring(self) -> bool:
        """Whether the rest may come when the thread has got on."""
        return False

    def finish(self) -> None:
        """End it once all that had come before this call is written."""
        self._carrier.order(self._when_settled, self.end)

    def _when_settled(self, call: Callable[[], None]) -> None:
        call()


class Pipe(Stream):
    """The output of a process that has the writing end of a pipe, whose other end, ``descriptor``, is ours."""

    def __init__(self, carrier: Carrier, sink: Sink, descriptor: int) -> None:
        super().__init__(carrier, sink)
        self.descriptor = descriptor
        if sys.platform != "win32":
            os.set_blocking(descriptor, False)
        carrier.order(carrier.open, self)

    def end(self) -> None:
        """Close it."""
        self._carrier.close(self)
        super().end()

    def _when_settled(self, call: Callable[[], None]) -> None:
        self._carrier.when_silent(self, call)


class Carrier:
    """The thread, and what it carries."""

    def __init__(self) -> None:
        self._orders: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._running: dict[str, object] = {}
        self._bell: Bell | None = None
        self._got_on: float | None = None  # when the thread last got on with its work; None while it has none
        # The thread's own.
        self._pipes: dict[int, Pipe] = {}
        self._others: set[Stream] = set()  # which bring what they have by orders
        self._awaited: list[tuple[Pipe, int, Callable[[], None]]] = []  # with how much is to be carried at most

    def order(self, function: Callable[..., None], *args: object) -> None:
        """Have the thread call it; RuntimeError or OSError where there is none and none can be started."""
        self._orders.append((function, args))
        if not self._is_claimed():
            bell = self._bell
            if bell is not None:
                bell.ring()
            return
        try:
            bell = make_bell()
            _carriers[self] = None
            # A real thread, whatever the execution model, for it shares nothing but what it carries; where gevent or
            # eventlet has patched the program a green one, whose waits are patched as well.
            ThreadExecModel().start(self._run, (bell,))
        except BaseException:
            self._release()
            raise

    def join(self) -> None:
        """Wait until what has come is written: the end of this program would break off a write of the thread's.

        What neither returns nor waits for a reader of this program's output is not waited for without end.
        """
        if self._running:
            for stream in [*list(self._pipes.values()), *list(self._others)]:
                settled = stream.settle()
                while not settled.wait(PATIENCE):
                    if self.held_up() > MOST_AT_EXIT and not somebody_does_not_read():
                        complain(f"what takes the output of workers does not return for {MOST_AT_EXIT:.0f} seconds")
                        return

    def wait(self, event: OneShotEvent, patience: float) -> bool:
        """Wait for it, but not for longer than the thread gets on within ``patience`` seconds; whether it is set."""
        return bool(event.wait(max(patience - self.held_up(), 0.0)))

    def held_up(self) -> float:
        """Seconds since the thread last got on with its work; none while it has none."""
        since = self._got_on
        return 0.0 if since is None else time.monotonic() - since

    def is_at_work(self) -> bool:
        """Whether it has something to do, and gets on with it."""
        return self._got_on is not None and self.held_up() < PATIENCE

    # -- the thread's

    def get_on(self) -> None:
        """Something is done, and more is to do."""
        self._got_on = time.monotonic()

    def open(self, pipe: Pipe) -> None:
        """Carry it from now on."""
        self._pipes[pipe.descriptor] = pipe

    def close(self, pipe: Pipe) -> None:
        """Carry it no more."""
        if self._has(pipe):
            del self._pipes[pipe.descriptor]
            os.close(pipe.descriptor)

    def expect(self, stream: Stream) -> None:
        """Stay for what it brings."""
        self._others.add(stream)

    def forget(self, stream: Stream) -> None:
        """It brings no more."""
        self._others.discard(stream)

    def when_silent(self, pipe: Pipe, call: Callable[[], None]) -> None:
        """Call when there is nothing to read of what has come before."""
        self._awaited.append((pipe, pipe.carried + MOST_WAITING, call))

    def _has(self, pipe: Pipe) -> bool:
        return self._pipes.get(pipe.descriptor) is pipe

    def _run(self, bell: Bell) -> None:
        while True:
            self._bell = bell
            try:
                self._carry(bell)
            except BaseException:
                self._give_up()
                raise
            finally:
                self._bell = self._got_on = None
                self._release()
            if not (self._orders and self._is_claimed()):
                return
            _carriers[self] = None

    def _is_claimed(self) -> bool:
        claim = object()
        return self._running.setdefault("thread", claim) is claim

    def _release(self) -> None:
        _carriers.pop(self, None)
        self._running.clear()

    def _carry(self, bell: Bell) -> None:
        while self._pipes or self._others or self._orders:
            for _ in range(len(self._orders)):  # no more: far workers may bring others faster than that
                function, args = self._orders.popleft()
                self.get_on()
                function(*args)
            self._got_on = None
            waits = (self._pipes or self._others) and not self._awaited
            talking = [pipe for pipe in bell.ready(self._pipes, None if waits else 0.0) if self._read(pipe)]
            self._got_on = None
            awaited, self._awaited = self._awaited, []
            for pipe, most, call in awaited:
                if pipe in talking and self._has(pipe) and pipe.carried < most:
                    self._awaited.append((pipe, most, call))
                else:
                    call()
            if not (self._awaited or self._orders):
                time.sleep(REST)

    def _read(self, pipe: Pipe) -> bool:
        """Whether there was something to carry."""
        try:
            data = os.read(pipe.descriptor, CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self.get_on()
        if data:
            pipe.write(data)
        else:
            pipe.end()
        return bool(data)

    def _give_up(self) -> None:
        """The thread ends before its time: nobody is to wait for it, no worker for a reader."""
        for stream in [*self._pipes.values(), *self._others]:
            stream.end()
        for _, _, call in self._awaited:
            call()

    def disown(self) -> None:
        """In a forked child: the pipes are the parent's, and there is no thread."""
        bell, self._bell, self._got_on = self._bell, None, None
        if bell is not None:
            bell.close()
        pipes = list(self._pipes.values())
        streams = [*pipes, *self._others]
        for table in (self._orders, self._running, self._pipes, self._others, self._awaited):
            table.clear()
        for pipe in pipes:
            os.close(pipe.descriptor)
        for stream in streams:
            stream.ended.set()


class Bell:
    """What the thread waits by: for pipes, and for whoever rings."""

    _ends: tuple[int, ...] = ()

    def __init__(self) -> None:
        self._ends = os.pipe()
        if sys.platform != "win32":  # here and below for mypy: there, nobody makes one
            for end in self._ends:
                os.set_blocking(end, False)

    def ring(self) -> None:
        """Let the thread look up."""
        with suppress(BlockingIOError):  # it has been rung often enough
            os.write(self._ends[1], b"!")

    def ready(self, pipes: dict[int, Pipe], seconds: float | None) -> list[Pipe]:
        """Those of the pipes that can be read, after a wait for one or for the bell."""
        import select  # lazy: start-up speed

        if sys.platform == "win32":
            return []
        poll = select.poll()
        for descriptor in (self._ends[0], *pipes):
            poll.register(descriptor, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll(None if seconds is None else seconds * 1000)]
        if self._ends[0] in ready:
            os.read(self._ends[0], 4096)
        return [pipes[descriptor] for descriptor in ready if descriptor in pipes]

    def close(self) -> None:
        """Close it; may be called again."""
        ends, self._ends = self._ends, ()
        for end in ends:
            os.close(end)

    __del__ = close


class Looks(Bell):
    """As a Bell, where the system can't wait for a pipe, or the program's green threads must not: by looking often."""

    def __init__(self) -> None:
        self._ends = ()

    def ring(self) -> None:
        """Nothing: the thread looks soon."""

    def ready(self, pipes: dict[int, Pipe], seconds: float | None) -> list[Pipe]:
        """As of Bell; a wait is a short one, and may have been for nothing."""
        if seconds is None:
            time.sleep(LOOK)
        return [pipe for pipe in pipes.values() if _may_be_read(pipe.descriptor)]


def make_bell() -> Bell:
    """What this system has."""
    import select  # lazy: start-up speed

    return Bell() if sys.platform != "win32" and hasattr(select, "poll") else Looks()


def _may_be_read(descriptor: int) -> bool:
    """Whether a read does not wait."""
    if sys.platform != "win32":
        import select  # lazy: start-up speed

        return bool(select.select([descriptor], (), (), 0)[0])
    import _winapi
    import msvcrt

    try:
        return bool(_winapi.PeekNamedPipe(msvcrt.get_osfhandle(descriptor), 0)[0])
    except OSError:  # broken: the read tells
        return True


# Those that have a thread.
_carriers: dict[Carrier, None] = {}


def _disown() -> None:
    global _carriers
    parents, _carriers = of_parent(_carriers), {}
    for carrier in parents:
        carrier.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown)
