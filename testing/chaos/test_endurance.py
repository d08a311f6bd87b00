"""Much of everything: opening and closing, messages while workers are killed and replaced, many gateways at once."""

from __future__ import annotations

import gc
import os
import random
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos.activities import Size
from support import leaks
from support.blocked import Call
from support.processes import pid_of

import execnet

SECONDS = 60.0
THREADS, CHANNELS, WORKERS = 8, 64, 4
WINDOW = 32
ECHO = "for item in channel: channel.send(item)"
# What an allocator keeps for itself, over any number of cycles.
MEMORY_SLACK = 1 << 20

pytestmark = pytest.mark.timeout(3600)


def memory() -> int:
    """Bytes of this process in main memory, without garbage."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("how", ["exit", "terminate", "kill"])
def test_open_and_close(how: str, size: Size, report: Callable[[str], None]) -> None:
    cycles = size.cycles // (1 if how == "exit" else 4)
    group = execnet.Group()

    def cycle() -> None:
        gateway = group.makegateway("popen")
        channel = gateway.remote_exec(ECHO)
        channel.send(b"x" * 1000)
        assert channel.receive(SECONDS) == b"x" * 1000
        if how == "exit":
            gateway.exit(wait=SECONDS)
        elif how == "terminate":
            group.terminate(SECONDS)
        else:
            os.kill(pid_of(gateway), signal.SIGKILL)
            with pytest.raises(execnet.GatewayDied):
                channel.receive(SECONDS)
            gateway.exit(wait=SECONDS)

    for _ in range(cycles // 2):
        cycle()
    before, used = leaks.Snapshot.take(), memory()
    for _ in range(cycles):
        cycle()
    assert leaks.wait_for_none(before) == []
    grown = memory() - used
    assert grown < MEMORY_SLACK, f"{grown} bytes more after {cycles} cycles"
    report(f"{cycles} times open and {how}: 0 descriptors, threads, zombies left, memory {grown / 1024:+.0f} KiB")


class Pool:
    """Workers that echo, and are replaced when they die."""

    def __init__(self, group: execnet.Group) -> None:
        self.group = group
        self.lock = threading.Lock()
        self.gateways = group.makegateways(["popen"] * WORKERS)
        self.replaced = 0

    def channel(self, worker: int) -> execnet.Channel:
        """A fresh echoing channel of that worker, which is started anew if it is dead."""
        with self.lock:
            if not self.gateways[worker].hasreceiver():
                self.gateways[worker].exit(wait=SECONDS)
                self.gateways[worker] = self.group.makegateway("popen")
                self.replaced += 1
            return self.gateways[worker].remote_exec(ECHO)


class Stream:
    """Numbers sent through one channel and received again, through further ones where its worker dies."""

    def __init__(self, pool: Pool, worker: int, count: int) -> None:
        self.pool, self.worker, self.count = pool, worker, count
        self.sent = self.received = 0
        self.channel = pool.channel(worker)

    def step(self) -> bool:
        """Send and receive a window of numbers; false when all are through."""
        try:
            while self.sent < min(self.received + WINDOW, self.count):
                self.channel.send(self.sent)
                self.sent += 1
            for expected in range(self.received, self.sent):
                item = self.channel.receive(SECONDS)
                assert item == expected, f"received {item} for {expected}"
                self.received += 1
        except execnet.TimeoutError:
            raise
        except (EOFError, OSError):  # the worker died: what it had not answered is sent again
            self.channel.gateway.join(SECONDS)
            self.channel = self.pool.channel(self.worker)
            self.sent = self.received
        return self.received < self.count


def test_messages_on_many_channels_while_a_worker_is_replaced(
    size: Size, dice: random.Random, report: Callable[[str], None]
) -> None:
    each = size.messages // CHANNELS
    before = leaks.Snapshot.take()
    with execnet.Group() as group:
        pool = Pool(group)
        streams = [Stream(pool, number % WORKERS, each) for number in range(CHANNELS)]
        unlucky = [dice.choice(streams)]

        def step(stream: Stream) -> bool:
            more = stream.step()
            if stream in unlucky and stream.received > each // 4:
                unlucky.remove(stream)
                os.kill(pid_of(stream.pool.gateways[stream.worker]), signal.SIGKILL)
            return more

        def work(mine: list[Stream]) -> None:
            while mine:
                mine = [stream for stream in mine if step(stream)]

        started = time.monotonic()
        calls = [Call(work, streams[number::THREADS]) for number in range(THREADS)]
        for call in calls:
            call.result(3000)
        took = time.monotonic() - started
        assert [stream.received for stream in streams] == [each] * CHANNELS
        assert pool.replaced == 1
        del streams, pool
    assert leaks.wait_for_none(before) == []
    report(f"{each * CHANNELS} messages echoed on {CHANNELS} channels by {THREADS} threads, a worker replaced: "
           f"0 lost, doubled, reordered; {each * CHANNELS / took:.0f}/s")  # fmt: skip


def test_many_gateways_at_once(size: Size, report: Callable[[str], None]) -> None:
    count = size.gateways
    before, limits = leaks.Snapshot.take(), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[1], max(limits[0], 10 * count)), limits[1]))
    try:
        with execnet.Group() as group:
            started = time.monotonic()
            group.makegateways(["popen"] * count, max_parallel=16)
            opened = time.monotonic() - started
            channels = group.remote_exec("import os; channel.send(os.getpid())")
            assert channels.receive_each() == [gateway.pid for gateway in group]
            channels = group.remote_exec(ECHO)
            for number in range(3):
                channels.send_each(number)
                assert channels.receive_each() == [number] * count
            del channels
            started = time.monotonic()
            group.terminate(SECONDS)
            ended = time.monotonic() - started
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert leaks.wait_for_none(before, 10.0) == []
    report(f"{count} gateways at once: opened in {opened:.1f} s, terminated in {ended:.1f} s, nothing left")
