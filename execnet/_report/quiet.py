"""How long nothing has come from the other side of a gateway.

The C core knows when it last read. Over the portable core that is noted from when somebody asks for it.
"""

from __future__ import annotations

import time
import weakref

from execnet.gateway_base import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from execnet.gateway import Gateway

_noted: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()
_is_noting: list[bool] = []


def note_messages() -> None:
    """From now on note when messages come to gateways of the portable core."""
    if _is_noting:
        return
    _is_noting.append(True)
    received = Message.received

    def noting(message: Message, gateway: Any) -> None:
        _noted[gateway] = time.monotonic()
        received(message, gateway)

    Message.received = noting  # type: ignore[method-assign, assignment]


def last_message(gateway: Gateway) -> float | None:
    """When the last one came, by time.monotonic; None where that is not known."""
    if gateway._connection is None:
        return _noted.get(gateway)
    return gateway._connection.read_at() / 1000 or None


def seconds_since_last_message(gateway: Gateway) -> float | None:
    """Seconds since the last one; None where that is not known."""
    last = last_message(gateway)
    return None if last is None else max(0.0, time.monotonic() - last)
