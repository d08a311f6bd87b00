"""Run with a number of seconds: threads open, use, close and drop channels of one gateway, all at once.

Every item arrives once and in order, every end is told once, and no channel is left over; the first thing that is
wrong, or a wait that does not end, ends the process.
"""

from __future__ import annotations

import faulthandler
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import execnet
import execnet.gateway_base

THREADS = 4
ITEMS = 30
PATIENCE = 30.0
END = "end"

ECHO = "for item in channel: channel.send(item)"
COUNT = f"for number in range({ITEMS}): channel.send(number)"
LARGE = f"for number in range({ITEMS}): channel.send((number, b'x' * number * 5000))"
CHANNEL_AND_ERROR = "inner = channel.gateway.newchannel(); channel.send(inner); inner.send(1); inner.close(); 1 / 0"


class Collected:
    """What a callback was called with."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._changed = threading.Condition()

    def __call__(self, item: Any) -> None:
        with self._changed:
            self.items.append(item)
            self._changed.notify_all()

    def wait(self, last: Any) -> None:
        """Until that item has come."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.items[-1:] == [last], PATIENCE), self.items


def echo(gateway: execnet.Gateway) -> None:
    """One sends and receives."""
    channel = gateway.remote_exec(ECHO)
    for number in range(ITEMS):
        channel.send(number)
    assert [channel.receive(PATIENCE) for _ in range(ITEMS)] == list(range(ITEMS))
    channel.close()


def several_receive(gateway: execnet.Gateway) -> None:
    """Two threads share a channel: each item is one's."""
    channel = gateway.remote_exec(COUNT)
    received: list[list[int]] = [[], []]
    threads = [threading.Thread(target=mine.extend, args=(channel,)) for mine in received]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert all(mine == sorted(mine) for mine in received), received
    assert sorted(received[0] + received[1]) == list(range(ITEMS)), received


def large(gateway: execnet.Gateway) -> None:
    """Items that are read to where they stay."""
    for expected, (number, data) in enumerate(gateway.remote_exec(LARGE)):
        assert (number, len(data)) == (expected, expected * 5000)
    assert expected == ITEMS - 1


def callback(gateway: execnet.Gateway) -> None:
    """A callback is set while items come: all of them, and then the end."""
    channel, collected = gateway.remote_exec(COUNT), Collected()
    channel.setcallback(collected, endmarker=END)
    collected.wait(END)
    assert collected.items == [*range(ITEMS), END]


def closed_callback(gateway: execnet.Gateway) -> None:
    """The channel is closed here while its callback may run: the end is told once, and last."""
    channel, collected = gateway.remote_exec(ECHO), Collected()
    channel.setcallback(collected, endmarker=END)
    for number in range(ITEMS):
        channel.send(number)
    channel.close()
    collected.wait(END)
    assert collected.items == [*range(len(collected.items) - 1), END]


def dropped(gateway: execnet.Gateway) -> None:
    """The last reference goes while items come."""
    channel = gateway.remote_exec(COUNT)
    if random.random() < 0.5:
        assert channel.receive(PATIENCE) == 0


def inner_and_error(gateway: execnet.Gateway) -> None:
    """A channel in an item, which is used at once, and an error at the end."""
    channel = gateway.remote_exec(CHANNEL_AND_ERROR)
    assert channel.receive(PATIENCE).receive(PATIENCE) == 1
    try:
        channel.waitclose(PATIENCE)
    except execnet.RemoteError as exc:
        assert "ZeroDivisionError" in str(exc)
    else:
        raise AssertionError("the error was not told")


ALL: list[Callable[[execnet.Gateway], None]] = [
    echo, several_receive, large, callback, closed_callback, dropped, inner_and_error,
]  # fmt: skip


def play(gateway: execnet.Gateway, deadline: float, number: int) -> None:
    dice = random.Random(number)
    try:
        while time.monotonic() < deadline:
            dice.choice(ALL)(gateway)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def main(seconds: float) -> None:
    """Prints the class of the gateway's connection and whether there is a GIL."""
    faulthandler.dump_traceback_later(seconds + 4 * PATIENCE, exit=True)
    with execnet.Group() as group:
        gateway = group.makegateway()
        deadline = time.monotonic() + seconds
        threads = [threading.Thread(target=play, args=(gateway, deadline, number)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        deadline = time.monotonic() + PATIENCE
        while gateway._channelfactory._queues and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not gateway._channelfactory._queues
        print(type(gateway._connection).__name__, getattr(sys, "_is_gil_enabled", lambda: True)())


if __name__ == "__main__":
    main(float(sys.argv[1]))
