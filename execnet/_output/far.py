"""The initiator's end of output that a worker sends (`execnet.script.output`)."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from execnet._output.carrier import Stream
from execnet._output.modes import NULL
from execnet.gateway_base import Message, dumps_internal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from execnet._output.carrier import Carrier
    from execnet._output.sinks import Sink
    from execnet._output.streams import Outputs
    from execnet.gateway import Gateway

# Bytes written after which the worker is told so: a part of its window, which it may have used up.
TELL = 64 * 1024


class Sent(Stream):
    """Output that comes as items of a channel, without a `Channel`: to the gateway's status there is none.

    The receiver does nothing with an item but order that it be written. No more of them are under way than the worker's
    window allows.
    """

    def __init__(self, gateway: Gateway, carrier: Carrier, sink: Sink) -> None:
        super().__init__(carrier, sink)
        self._gateway = gateway
        self._untold = 0
        carrier.order(carrier.expect, self)
        channel = gateway.newchannel()
        channel.setcallback(self._receive, None)
        self.data_id = channel.id
        self.written_id: int = next(gateway._channelfactory._ids)

    def _receive(self, data: bytes | None) -> None:
        if data is None:
            self._carrier.order(self.end)
        else:
            self._carrier.order(self._take, data)

    def _take(self, data: bytes) -> None:
        self.write(data)
        self._untold += len(data)
        if self._untold >= TELL:
            untold, self._untold = self._untold, 0
            with suppress(OSError):  # the worker is gone
                self._gateway._send(Message.CHANNEL_DATA, self.written_id, dumps_internal(untold))

    def end(self) -> None:
        """Expect no more."""
        self._carrier.forget(self)
        super().end()


def set_up(gateway: Gateway, outputs: Outputs) -> None:
    """Have the worker send those of its outputs that are left."""
    from execnet.script import output  # lazy: only for what is far

    names = outputs.left()
    if gateway.spec.execmodel not in ("thread", "main_thread_only"):
        outputs.refuse(f"with execmodel={gateway.spec.execmodel} there is no thread that could send it")
        return
    order: dict[str, tuple[int, int] | None] = {}
    for name in names:
        if outputs.mode(name) == NULL:
            order[name] = None
            outputs.is_done(name)
        else:
            stream = outputs.carry(name, partial(Sent, gateway))
            order[name] = (stream.data_id, stream.written_id)
    channel = gateway.remote_exec(output)
    channel.send(order)
    channel.waitclose()
