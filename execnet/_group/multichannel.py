"""Several channels as one, and queues that several channels fill."""

from __future__ import annotations

from execnet._group.calls import Deadline
from execnet.gateway_base import NO_ENDMARKER_WANTED, DataFormatError, RemoteError, TimeoutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from queue import Queue
    from typing import Any

    from execnet.gateway_base import Channel

# What `Channel.receive` raises.
RECEIVE_ERRORS = (RemoteError, EOFError, OSError, DataFormatError)


class MultiChannel:
    """Several channels, addressed together."""

    __module__ = "execnet.multi"  # where programs find it

    def __init__(self, channels: Iterable[Channel]) -> None:
        self._channels = list(channels)
        self._queue: Queue[tuple[Channel, Any]] | None = None

    def __len__(self) -> int:
        return len(self._channels)

    def __iter__(self) -> Iterator[Channel]:
        return iter(self._channels)

    def __getitem__(self, key: int) -> Channel:
        return self._channels[key]

    def __contains__(self, channel: object) -> bool:
        return channel in self._channels

    def send_each(self, item: object) -> None:
        """Send ``item`` on every channel, in order."""
        for channel in self._channels:
            channel.send(item)

    def receive_each(
        self, withchannel: bool = False, timeout: float | None = None, return_errors: bool = False
    ) -> list[Any]:
        """Receive one item from every channel, in order.

        Returns the items, or ``(channel, item)`` pairs if ``withchannel``. Raises what
        `Channel.receive` raises, TimeoutError where not all have come within ``timeout``
        seconds; what was received before is lost then. With ``return_errors`` the
        exception is in the place of the item instead.
        """
        deadline = Deadline(timeout)
        items = [self._receive(channel, deadline, return_errors) for channel in self._channels]
        return list(zip(self._channels, items)) if withchannel else items

    @staticmethod
    def _receive(channel: Channel, deadline: Deadline, return_errors: bool) -> Any:
        try:
            if deadline.timeout is None:
                return channel.receive()
            try:
                return channel.receive(deadline.remaining())
            except TimeoutError:
                text = f"no item of gateway {channel.gateway.id!r} after {deadline.timeout} seconds"
                raise TimeoutError(text) from None
        except RECEIVE_ERRORS as error:
            if not return_errors:
                raise
            return error

    def make_receive_queue(self, endmarker: object = NO_ENDMARKER_WANTED) -> Queue[tuple[Channel, Any]]:
        """Return the one queue that collects ``(channel, item)`` of every channel.

        With an ``endmarker``, the end of each channel puts ``(channel, endmarker)``.
        Later calls return the same queue.
        """
        if self._queue is None:
            self._queue = self._new_queue()
            for channel in self._channels:
                put = putter(self._queue, channel)
                if endmarker is NO_ENDMARKER_WANTED:
                    channel.setcallback(put)
                else:
                    channel.setcallback(put, endmarker=endmarker)
        return self._queue

    def _new_queue(self) -> Queue[tuple[Channel, Any]]:
        if self._channels:
            queue = self._channels[0].gateway.execmodel.queue
        else:
            import queue  # lazy: start-up speed
        collected: Queue[tuple[Channel, Any]] = queue.Queue()
        return collected

    def waitclose(self, timeout: float | None = None) -> None:
        """Wait until every channel has closed, at most ``timeout`` seconds for all of them.

        Raises the first RemoteError seen, else a TimeoutError that names the gateways whose
        channels have not closed, else the first EOFError of a lost connection.
        """
        errors: list[Exception] = []
        late: list[str] = []
        deadline = Deadline(timeout)
        for channel in self._channels:
            try:
                if timeout is None:
                    channel.waitclose()
                else:
                    channel.waitclose(deadline.remaining())
            except (RemoteError, EOFError) as exc:
                errors.append(exc)
            except TimeoutError:
                late.append(repr(channel.gateway.id))
        if late:
            errors.insert(0, TimeoutError(f"channels of {', '.join(late)} not closed after {timeout} seconds"))
        if errors:
            raise next((exc for exc in errors if isinstance(exc, RemoteError)), errors[0])


def putter(queue: Queue[Any], channel: Channel) -> Callable[[object], None]:
    """A callback for the channel that puts ``(channel, item)``."""
    return lambda item: queue.put((channel, item))
