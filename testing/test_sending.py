"""Sending large items: whole, whoever reads how, and from memory that is free for other uses afterwards."""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import signal
import termios
import threading
import time
from typing import Any

import pytest
from support.blocked import Call, await_blocked, interrupted_after
from support.interpreters import Interpreter
from support.peer import HEADER, Peer, count_of_bytes
from support.processes import wait_until

import execnet
from execnet import gateway_base

SECONDS = 20.0
KIB, MIB = 1 << 10, 1 << 20
SIZES = [
    *(size + more for size in (256 * KIB, 320 * KIB, 512 * KIB, 768 * KIB) for more in (-15, -1, 0, 1)),
    MIB,
    3 * MIB + 5,
]

each_transport = pytest.mark.parametrize("transport", ["socket", "pipe", "zero-copy pipe"], indirect=True)
lending = pytest.mark.parametrize("transport", ["zero-copy pipe"], indirect=True)


def block(size: int) -> bytes:
    """So many bytes, each page of them another one."""
    return (random.Random(size).randbytes(256 * KIB + 1) * (size // (256 * KIB) + 1))[:size]


def overwrite(item: bytes) -> None:
    """Do with the memory of item what the C library does with memory that is free: anything."""
    ctypes.memset(id(item) + bytes.__basicsize__ - 1, 0, len(item))


def message_slowly(peer: Peer, pause: float) -> bytes:
    """The payload of the next message, read in pieces of all sizes."""
    header = peer.read(HEADER.size)
    _, _, size = HEADER.unpack(header)
    payload = bytearray()
    sizes = random.Random(size)
    while len(payload) < size:
        payload += peer.read(min(sizes.choice([1, 4096, 5000, 70_000]), size - len(payload)))
        if sizes.random() < 0.05:
            time.sleep(pause)
    return bytes(payload)


@each_transport
def test_a_large_item_arrives_whole_and_its_memory_is_free_afterwards(peer: Peer) -> None:
    channel = peer.gateway.newchannel()
    sizes = [*SIZES, *reversed(SIZES)]
    expected = [peer.base.dumps_internal(block(size)) for size in sizes]
    reader = Call(lambda: [message_slowly(peer, 0.001) for _ in sizes])
    for size in sizes:
        item = block(size)
        channel.send(item)
        overwrite(item)
    assert reader.result() == expected


@lending
def test_an_item_stays_as_it_is_in_a_pipe_that_its_reader_enlarges(peer: Peer) -> None:
    channel = peer.gateway.newchannel()
    item = block(900 * KIB)
    expected = peer.base.dumps_internal(item)

    def send() -> None:
        channel.send(item)
        overwrite(item)

    sender = Call(send).await_blocked()
    fcntl.fcntl(peer.in_.fileno(), gateway_base.F_SETPIPE_SZ, MIB)  # all of the item fits in now
    wait_until(lambda: count_of_bytes(peer.in_.fileno(), termios.FIONREAD) > len(item), SECONDS, "the item in the pipe")
    assert message_slowly(peer, 0.001) == expected
    sender.result()


@lending
def test_an_item_whose_sending_was_interrupted_is_kept_until_it_is_read(peer: Peer) -> None:
    channel = peer.gateway.newchannel()
    expected = peer.base.dumps_internal(block(2 * MIB))

    def send_and_forget() -> None:
        channel.send(block(2 * MIB))

    interrupted_after(send_and_forget)
    others = [bytes([number]) * (2 * MIB + number) for number in range(20)]
    assert message_slowly(peer, 0.001) == expected
    assert [len(other) for other in others] == [2 * MIB + number for number in range(20)]
    channel.send("after")
    assert peer.message()[2] == peer.base.dumps_internal("after")


@lending
def test_sending_ends_where_the_reader_does(peer: Peer) -> None:
    channel = peer.gateway.newchannel()
    sender = Call(channel.send, block(MIB)).await_blocked()
    peer.in_.close()
    with pytest.raises(OSError, match="cannot send"):
        sender.result()


def test_large_items_of_many_threads_come_back_whole(pair: execnet.Gateway) -> None:
    channels = [pair.remote_exec("for item in channel: channel.send(item)") for _ in range(3)]

    def back_and_forth(channel: Any) -> None:
        for size in SIZES:
            item = block(size)
            channel.send(item)
            assert channel.receive(SECONDS) == item

    for call in [Call(back_and_forth, channel) for channel in channels]:
        call.result(60)


INTERRUPTED = """
channel.receive()
channel.send("next comes a large item")
try:
    channel.send(b'x' * (16 << 20))
except KeyboardInterrupt:
    channel.send("interrupted")
"""


def items_of_interrupted(gateway: execnet.Gateway) -> list[Any]:
    """What the worker sends that gets a SIGINT when the large item is half in the pipe."""
    channel, pid = gateway.remote_exec(INTERRUPTED), gateway.pid
    assert pid is not None
    items: list[Any] = []
    may_read = threading.Event()

    def receive(item: object) -> None:
        items.append(item)
        may_read.wait(SECONDS)

    channel.setcallback(receive)
    channel.send("begin")  # not before: an item that has come already would hold this thread in the callback
    wait_until(lambda: items, SECONDS, "the first item")
    await_blocked(pid, pid)
    os.kill(pid, signal.SIGINT)
    await_blocked(pid, pid)
    may_read.set()
    channel.waitclose(SECONDS)
    return items


def test_a_large_item_is_sent_whole_by_a_worker_that_is_interrupted(pair: execnet.Gateway) -> None:
    assert items_of_interrupted(pair) == ["next comes a large item", b"x" * (16 * MIB), "interrupted"]


def test_a_large_item_is_sent_whole_by_any_python(group: execnet.Group, other_python: Interpreter) -> None:
    gateway = group.makegateway(f"popen//python={other_python}")
    gateway.reconfigure(py2str_as_py3str=False)
    first, large, last = items_of_interrupted(gateway)
    assert (first, large, last) in [
        ("next comes a large item", b"x" * (16 * MIB), "interrupted"),
        (b"next comes a large item", b"x" * (16 * MIB), b"interrupted"),
    ]


# waiting


@pytest.mark.timing
def test_waiting_for_rare_items_costs_no_cpu(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec("import time\nfor _ in range(200):\n    time.sleep(0.002)\n    channel.send(None)")
    before = time.process_time()
    for _ in range(200):
        channel.receive(SECONDS)
    assert time.process_time() - before < 0.1
