"""Which threads of this process wait in execnet, and in which line of a program."""

from __future__ import annotations

import _thread
import linecache
import os
import sys

from execnet.gateway_base import BaseGateway, Channel, thread_frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

    from execnet.gateway import Gateway

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# What execnet itself waits with.
NAMES_BELOW = ("threading", "queue", "subprocess", "selectors")
BELOW = tuple(f"{os.path.dirname(os.__file__)}{os.sep}{name}.py" for name in NAMES_BELOW)


class Wait:
    """A thread that waits in execnet: `call` is what it has called, `frame` that of the line which did."""

    def __init__(self, ident: int, call: str, frame: FrameType | None) -> None:
        self.call = call
        self.gateway: BaseGateway | None = None
        self.channel: int | None = None
        threading = sys.modules.get("threading")
        thread = dict(getattr(threading, "_active", {})).get(ident)
        self._name = f"thread {ident:#x}" if thread is None else thread.name
        self._place = "" if frame is None else _place(frame)

    def __str__(self) -> str:
        return f"{self._name} waits in {self.call}(){self._place}"


def _place(frame: FrameType) -> str:
    code = frame.f_code
    line = linecache.getline(code.co_filename, frame.f_lineno).strip()
    shown = f": {line}" if line else ""
    return f", {code.co_filename}:{frame.f_lineno} in {code.co_name}{shown}"


def waits(gateways: list[Gateway]) -> list[Wait]:
    """Every thread that waits in execnet now, but for execnet's own and the one that asks."""
    frames = thread_frames()
    frames.pop(_thread.get_ident(), None)
    found = {ident: wait for ident, frame in frames.items() for wait in [_wait_in_frames(ident, frame)] if wait}
    for gateway in gateways:
        if gateway._connection is None:
            continue
        for ident, channel, for_end in gateway._connection.waits():  # receive() of the C core has no frame
            wait = found.get(ident)
            if wait is None:
                frame = _users(frames.get(ident))
                if frame is None:
                    continue
                wait = found[ident] = Wait(ident, "waitclose" if for_end else "receive", frame)
            if wait.channel is None and channel >= 0:
                wait.gateway, wait.channel = gateway, channel
    return list(found.values())


def _wait_in_frames(ident: int, frame: FrameType | None) -> Wait | None:
    """What a thread whose frames say so waits for."""
    inner = None
    while frame is not None and _is_ours(frame):
        inner = frame if _is_in(frame, HERE) else inner
        frame = frame.f_back
    if inner is None or frame is None:
        return None  # it runs a program's code, or is a thread of execnet's
    wait = Wait(ident, inner.f_code.co_name, frame)
    subject = inner.f_locals.get("self")
    if isinstance(subject, Channel):
        wait.gateway, wait.channel = subject.gateway, subject.id
    elif isinstance(subject, BaseGateway):
        wait.gateway = subject
    return wait


def _users(frame: FrameType | None) -> FrameType | None:
    while frame is not None and _is_ours(frame):
        frame = frame.f_back
    return frame


def _is_ours(frame: FrameType) -> bool:
    return _is_in(frame, HERE) or frame.f_code.co_filename in BELOW


def _is_in(frame: FrameType, folder: str) -> bool:
    return frame.f_code.co_filename.startswith(folder + os.sep)
