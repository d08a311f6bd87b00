"""The initiator's end of output that a worker sends (`execnet.script.output`)."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from functools import partial

from execnet._output.carrier import Stream
from execnet.gateway_base import Message, ThreadExecModel, dumps_internal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from execnet._output.carrier import Carrier
    from execnet._output.sinks import Sink
    from execnet._output.streams import Outputs
    from execnet.gateway import Gateway
    from execnet.gateway_base import OneShotEvent

# Bytes written after which the worker is told so: a part of its window, which it may have used up.
TELL = 64 * 1024
# Execution models of workers that can send while who prints waits.
WITH_THREADS = ("thread", "main_thread_only")


class Teller:
    """Sends messages on a channel from a thread that is there while there are any.

    A worker may not read for long, while its receiver is in a callback; the carrier, which has others, does not wait
    for it. Whoever adds a message sees afterwards that the thread runs, or starts it; the thread takes its entry out of
    `_running` before it looks for the last time.
    """

    def __init__(self, gateway: Gateway, channel_id: int) -> None:
        self._gateway = gateway
        self._channel_id = channel_id
        self._messages: deque[tuple[int, bytes]] = deque()
        self._running: dict[str, object] = {}

    def tell(self, code: int, data: bytes = b"") -> None:
        """Have it sent."""
        self._messages.append((code, data))
        if self._is_claimed():
            try:
                ThreadExecModel().start(self._run)
            except RuntimeError:  # the program ends, and so have its gateways
                self._run()

    def tell_now(self, code: int, data: bytes = b"") -> None:
        """Send it, before anything that is sent after this call."""
        with suppress(OSError):  # the worker is gone
            self._gateway._send(code, self._channel_id, data)

    def _is_claimed(self) -> bool:
        claim = object()
        return self._running.setdefault("thread", claim) is claim

    def _run(self) -> None:
        while True:
            try:
                while self._messages:
                    self.tell_now(*self._messages.popleft())
            finally:
                self._running.clear()
            if not (self._messages and self._is_claimed()):
                return


class Sent(Stream):
    """Output that comes as items of a channel, without a `Channel`: to the gateway's status there is none.

    The receiver does nothing with an item but order that it be written. No more of them are under way than the worker's
    window allows.
    """

    def __init__(self, gateway: Gateway, carrier: Carrier, sink: Sink) -> None:
        super().__init__(carrier, sink)
        self._untold = 0
        channel = gateway.newchannel()
        carrier.order(carrier.expect, self)
        channel.setcallback(self._receive, None)
        self.data_id = channel.id
        self.written_id: int = next(gateway._channelfactory._ids)
        self._teller = Teller(gateway, self.written_id)

    def _receive(self, data: bytes | None) -> None:
        if data is None:
            self._carrier.order(self._closed)
        else:
            self._carrier.order(self._take, data)

    def _closed(self) -> None:
        self.end()

    def _take(self, data: bytes) -> None:
        if self.ended.is_set():
            return
        self.write(data)
        self._untold += len(data)
        if self._untold >= TELL:
            untold, self._untold = self._untold, 0
            self._teller.tell(Message.CHANNEL_DATA, dumps_internal(untold))

    def begin(self) -> None:
        """The worker sends: have its receiver hear from us before anything can keep it."""
        self._teller.tell_now(Message.CHANNEL_DATA, dumps_internal(0))

    def end(self) -> None:
        """Expect no more."""
        self._carrier.forget(self)
        if not self.ended.is_set():
            self._teller.tell(Message.CHANNEL_CLOSE)
        super().end()


class SentOverSsh(Sent):
    """As Sent, of a process whose last words come with its standard error (`execnet._output.last_words`).

    It ends when both have: the channel, and the last words, which wait for that.
    """

    linger = 1.0

    def __init__(self, gateway: Gateway, carrier: Carrier, sink: Sink) -> None:
        super().__init__(gateway, carrier, sink)
        self._left = {"channel", "last words"}
        self._last = b""
        # How many of the last words have come as items, too: before them stands how much the worker had surely sent.
        self._came_before: int | None = None

    def settle_last(self) -> OneShotEvent:
        """What is set when there is nothing more of a process that has ended. For the receiver, which gets no more."""
        self._carrier.order(self._closed)
        return self.ended

    def take_last(self, data: bytes | None) -> None:
        """Last words; None: there are no more. For the carrier's thread."""
        if data is None:
            self._without("last words")
        elif not self.ended.is_set():
            self._last += data
            self._write_last()

    def end(self) -> None:
        """Expect no more."""
        self._left.discard("channel")
        self._write_last()
        super().end()

    def _closed(self) -> None:
        self._without("channel")

    def _without(self, end: str) -> None:
        self._left.discard(end)
        self._write_last()
        if not self._left:
            self.end()

    def _write_last(self) -> None:
        if "channel" in self._left or self.ended.is_set():
            return
        if self._came_before is None and b":" in self._last:
            begin, _, self._last = self._last.partition(b":")
            self._came_before = max(self.carried - int(begin), 0)
        if self._came_before is not None:
            fresh = self._last[self._came_before :]
            self._came_before -= len(self._last) - len(fresh)
            self._last = b""
            if fresh:
                self.write(fresh)


class Relayed(Sent):
    """As Sent, of a process that another gateway has started: its end is told when nobody can write any more."""

    linger = 1.0  # what it has written may wait for the window

    def settle_last(self) -> OneShotEvent:
        """What is set when there is nothing more of a process that has ended."""
        return self.ended

    def may_bring(self) -> bool:
        """Whether what it has written may wait for the window."""
        return self._carrier.is_at_work()


def set_up(gateway: Gateway, outputs: Outputs) -> None:
    """Have the worker send those of its outputs that are left."""
    if gateway.spec.execmodel not in WITH_THREADS:
        outputs.refuse(f"with execmodel={gateway.spec.execmodel} there is no thread that could send it")
        return
    names = outputs.left()
    mark = outputs.mark if names == ["stdout"] else None
    _ask(gateway, False, _streams(gateway, outputs, names, SentOverSsh if mark else Sent), mark)


def relay(gateway: Gateway, outputs: Outputs, names: list[str]) -> dict[str, tuple[int, int, int]]:
    """Have ``gateway`` make pipes for a process that it is to start: how it knows the ends for that."""
    if gateway.spec.execmodel not in WITH_THREADS:
        return {}
    known: dict[str, tuple[int, int, int]] = _ask(gateway, True, _streams(gateway, outputs, names, Relayed))
    return known


def _streams(gateway: Gateway, outputs: Outputs, names: list[str], kind: type[Sent]) -> dict[str, Sent | None]:
    """What comes of each output; None where it leads nowhere."""
    make = partial(kind, gateway)
    return {name: outputs.carry(name, make) if outputs.is_carried(name) else None for name in names}


def _ask(gateway: Gateway, relays: bool, streams: dict[str, Sent | None], mark: str | None = None) -> Any:
    from execnet.script import output  # lazy: only for what is far

    channel = gateway.remote_exec(output)
    wanted = {name: stream and (stream.data_id, stream.written_id, mark) for name, stream in streams.items()}
    channel.send((relays, wanted))
    answer = channel.receive()
    channel.waitclose()
    for stream in filter(None, streams.values()):
        stream.begin()
    return answer
