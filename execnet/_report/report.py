"""The report of what this process has and waits for in execnet: text for a person who asks why it hangs."""

from __future__ import annotations

import os
import re
import sys
import time

from execnet import gateway_base
from execnet._report import quiet, stacks, waiting
from execnet.gateway import Gateway

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from execnet._report.waiting import Wait
    from execnet.gateway_base import Channel
    from execnet.multi import Group

    Answer = "str | Exception"

TASK = re.compile(r"^Task of channel (\d+), (?:for ([\d.]+) seconds in thread \w+: )?(.*)$", re.MULTILINE)
STATES = {"R": "runs", "S": "sleeps", "D": "waits for a device", "T": "is stopped", "t": "is stopped", "Z": "has ended"}


def report(timeout: float = 5.0) -> str:
    """What each group and gateway of this process does, who waits for what, and the stacks of the workers, as text.

    The workers are asked all at once, and have timeout seconds.
    """
    return "".join(f"{line}\n" for line in _lines(timeout))


def _lines(timeout: float) -> Iterator[str]:
    gateways = live_gateways()
    waits = waiting.waits(gateways)  # but for this thread, which asks
    states = [_state(gateway) for gateway in gateways]  # before the workers say something
    answers = stacks.of_all(gateways, timeout)
    yield f"execnet report of process {os.getpid()}, {time.strftime('%H:%M:%S')}"
    for group in _groups(gateways):
        yield ""
        yield f"{group!r}" if group is not None else "Gateways of no group"
        for gateway, state, answer in zip(gateways, states, answers):
            if getattr(gateway, "_group", None) is group:
                yield f"{gateway.id} ({gateway.spec}): {state}"
                yield from _channels(gateway, waits, answer)
    yield from _waits_for_no_channel(waits)
    for gateway, answer in zip(gateways, answers):
        yield ""
        yield from stacks.section(gateway, answer).splitlines()


def live_gateways() -> list[Gateway]:
    """The gateways of this process whose other side is not known to have ended, gw2 before gw10."""
    found = [gateway for gateway in list(gateway_base._receiving) if isinstance(gateway, Gateway)]
    return sorted(found, key=lambda gateway: (len(str(gateway.id)), str(gateway.id)))


def _groups(gateways: list[Gateway]) -> list[Group | None]:
    groups: dict[int, Group | None] = {}
    for gateway in gateways:
        group = getattr(gateway, "_group", None)
        groups[id(group)] = group
    return list(groups.values())


# a gateway


def _state(gateway: Gateway) -> str:
    state = "told to exit" if gateway._exiting else "connected"
    return ", ".join(fact for fact in (state, _process(gateway), _unread(gateway), _silence(gateway)) if fact)


def _process(gateway: Gateway) -> str:
    if gateway.pid is None:
        return ""
    name = f"process {gateway.pid}" if gateway.spec.popen else f"process {gateway.pid} on this side"
    if gateway.returncode is not None:
        return f"{name} has ended with status {gateway.returncode}"
    try:
        with open(f"/proc/{gateway.pid}/stat", encoding="utf-8", errors="replace") as file:
            letter = file.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):  # not every system has it
        return name
    return f"{name} {STATES.get(letter, f'is in state {letter}')}"


def _unread(gateway: Gateway) -> str:
    """How many bytes the system has that the other side, or what leads there, has not read."""
    descriptors = getattr(gateway._io, "descriptors", lambda: None)()
    if descriptors is None or sys.platform == "win32":
        return ""
    import array
    import fcntl
    import stat
    import termios

    count = array.array("i", [0])
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(descriptors[1]).st_mode)
        fcntl.ioctl(descriptors[1], termios.FIONREAD if is_pipe else termios.TIOCOUTQ, count)
    except OSError:
        return ""
    return f"{count[0]} bytes wait to be read there"


def _silence(gateway: Gateway) -> str:
    seconds = quiet.seconds_since_last_message(gateway)
    return "" if seconds is None else f"last message {seconds:.1f} seconds ago"


# its channels


def _channels(gateway: Gateway, waits: list[Wait], answer: str | Exception) -> Iterator[str]:
    tasks = {int(channel): (seconds, name) for channel, seconds, name in TASK.findall(str(answer))}
    factory = gateway._channelfactory
    live = {channel.id: channel for channel in factory.channels()}
    for number in sorted({*live, *factory._callbacks}):
        parts = [_items(live.get(number))]
        if number in tasks:
            seconds, name = tasks[number]
            parts.append(f"its task: {name}" + (f", for {seconds} seconds" if seconds else ""))
        elif isinstance(answer, Exception):
            parts.append("its task is not known")
        yield f"  channel {number}: {', '.join(parts)}"
        for wait in waits:
            if wait.gateway is gateway and wait.channel == number:
                yield f"    {wait}"


def _items(channel: Channel | None) -> str:
    if channel is None:
        return "open, items go to a callback"
    state = "closed" if channel.isclosed() else "open"
    items = channel._items
    return f"{state}, items go to a callback" if items is None else f"{state}, {items.count()} items not received"


def _waits_for_no_channel(waits: list[Wait]) -> Iterator[str]:
    others = [wait for wait in waits if wait.channel is None]
    if others:
        yield ""
    for wait in others:
        yield str(wait)
