"""What makes the io of a start, by each transport of `registry`: a process begins, or a connection is made."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from execnet._group.starting import Start


def process(start: Start) -> Any:
    """Start a process of this machine."""
    from execnet import gateway_io  # lazy: start-up speed

    shared: dict[str, Any] = {} if start.connection is None else {"connection": start.connection}
    if start.outputs is not None and gateway_io.starts_as_usual():
        shared["outputs"] = start.outputs
    return gateway_io.create_io(start.spec, execmodel=start.group.execmodel, **shared)


def popen(start: Start) -> Any:
    """As process; where EXECNET_WARM says so, a fork server forks it."""
    if "EXECNET_WARM" in os.environ and not start.cold:
        from execnet._transport import unasked  # lazy: start-up speed

        preload = unasked.preload_for(start.spec)
        start.unasked_warm = preload is not None
        if sys.platform != "win32" and preload is not None:
            from execnet._transport import warm as warm_starts  # lazy: start-up speed

            home: Any = start.group
            return warm_starts.create_io(start.spec, home, preload, start.outputs)
    return process(start)


def warm(start: Start) -> Any:
    """Have a fork server fork a process. Raises ValueError where there can't be one."""
    from execnet._transport import unasked  # lazy: start-up speed

    lacks = unasked.lacking()
    if sys.platform == "win32" or lacks:
        raise ValueError(f"warm needs {lacks}, which {sys.platform} does not have: {str(start.spec)!r}")
    from execnet._transport import warm as warm_starts  # lazy: start-up speed

    home: Any = start.group
    return warm_starts.create_io(start.spec, home, outputs=start.outputs)


def via(start: Start) -> Any:
    """Have another gateway start a process."""
    from execnet import gateway_io  # lazy: start-up speed

    way = start.way(start.spec.via or "")
    return gateway_io.create_proxy_io(start.spec, way, start.group.execmodel, start.outputs)


def socket(start: Start) -> Any:
    """Connect to a socket server, one that another gateway starts where that is asked for."""
    from execnet import gateway_socket  # lazy: start-up speed

    spec, group = start.spec, start.group
    ways: Any = group if start.needed is None else {spec.installvia: start.way(start.needs or "")}
    return gateway_socket.create_io(spec, ways, execmodel=group.execmodel)
