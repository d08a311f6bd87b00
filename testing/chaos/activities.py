"""What a program is doing when it, or a process it needs, is killed."""

from __future__ import annotations

import itertools
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import execnet

SECONDS = 20.0
TRANSPORTS = ("popen", "via", "socket", "ssh")
COUNT = "import itertools\nfor number in itertools.count(): channel.send((number, b'x' * (number % 7 * 1000)))"
CHECK = """
import itertools
for number in itertools.count():
    if channel.receive()[0] != number:
        channel.send(number)
"""


class Size(NamedTuple):
    """How much of each kind of trouble a run makes."""

    rounds: int
    cycles: int
    messages: int
    gateways: int


SHORT = Size(rounds=3, cycles=60, messages=60_000, gateways=30)
LONG = Size(rounds=200, cycles=1000, messages=1_000_000, gateways=500)


class Wrong(Exception):
    """Items were lost, doubled or reordered, or a wait had no end."""


class Program:
    """A group with gateways over one transport, and something going on."""

    def __init__(self, transport: str, ssh: str, seed: object, begun: Callable[[], object] = lambda: None) -> None:
        self.transport, self.ssh = transport, ssh
        self.dice = random.Random(f"{seed}")
        self.group = execnet.Group()
        self.begun = begun
        self.stopped = False

    def open(self) -> execnet.Gateway:
        """A gateway over the transport."""
        group = self.group
        if self.transport in ("via", "socket") and "master" not in group:
            group.makegateway("popen//id=master")
        specs = {"popen": "popen", "via": "popen//via=master", "socket": "socket//installvia=master", "ssh": self.ssh}
        return group.makegateway(specs[self.transport])

    def starting(self) -> None:
        self.begun()
        while not self.stopped:
            gateway = self.open()
            if gateway.remote_exec("channel.send(1)").receive(SECONDS) != 1:
                raise Wrong("not what was sent")
            gateway.exit()

    def terminating(self) -> None:
        while not self.stopped:
            gateway = self.open()
            gateway.remote_exec(self.dice.choice(["channel.receive()", "import time; time.sleep(1000)"]))
            self.begun()
            started = time.monotonic()
            self.group.terminate(timeout=0.3)
            if time.monotonic() - started > 0.3 * (2 if self.transport != "via" else 3) + 1.0:
                raise Wrong(f"terminate(0.3) took {time.monotonic() - started:.3} seconds")

    def sending(self) -> None:
        gateway = self.open()
        channel = gateway.remote_exec(CHECK)
        told: list[object] = []
        channel.setcallback(told.append)
        self.begun()
        for number in itertools.count():
            channel.send((number, b"x" * self.dice.choice([0, 10, 10000, 200000])))
            if told:
                raise Wrong(f"the other side missed item {told[0]}")

    def receiving(self) -> None:
        channel = self.open().remote_exec(COUNT)
        self.begun()
        for number in itertools.count():
            item = channel.receive(SECONDS)[0]
            if item != number:
                raise Wrong(f"received {item} for {number}")

    def calling_back(self) -> None:
        gateway = self.open()
        ended: list[Any] = []
        received: list[Any] = []
        channel = gateway.remote_exec(COUNT)
        channel.setcallback(lambda item: (ended if item is ended else received).append(item), endmarker=ended)
        self.begun()
        try:
            channel.waitclose(SECONDS)
        finally:
            deadline = time.monotonic() + SECONDS
            while not ended and time.monotonic() < deadline:
                time.sleep(0.001)
            if len(ended) != 1 or [item[0] for item in received] != list(range(len(received))):
                raise Wrong(f"{len(ended)} end markers behind {len(received)} items")

    def rsyncing(self) -> None:
        gateway = self.open()
        self.begun()
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "source")
            source.mkdir()
            while True:
                for number in range(20):
                    Path(source, str(number)).write_bytes(os.urandom(self.dice.choice([0, 100, 100000])))
                rsync = execnet.RSync(source, verbose=False)
                rsync.add_target(gateway, Path(folder, "destination"))
                rsync.send()


ACTIVITIES = ("starting", "sending", "receiving", "calling_back", "rsyncing", "terminating")
