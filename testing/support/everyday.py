"""What programs do every day, over a gateway of each kind that is named; says nothing where all of it holds.

The kinds are specs; those that need another gateway find one under the id "first".
"""

from __future__ import annotations

import os
import queue
import sys
import tempfile

import execnet
import execnet.gateway_base

SECONDS = 60.0
TWICE = """
while True:
    item = channel.receive()
    if item == 'stop':
        break
    channel.send([item, item])
"""
VALUES = [None, True, 2**80, -1.5, 1j, "text ä", b"bytes", (1, [2, {"three": {4}}]), frozenset([5]), b"x" * 300_000]


def exchange(gateway: execnet.Gateway) -> None:
    channel = gateway.remote_exec(TWICE)
    for value in VALUES:
        channel.send(value)
        assert channel.receive(SECONDS) == [value, value]
    channel.send("stop")
    channel.waitclose(SECONDS)
    with_timeout = gateway.remote_exec("channel.receive()")
    try:
        with_timeout.receive(0.01)
    except with_timeout.TimeoutError:
        with_timeout.send(None)
    with_timeout.waitclose(SECONDS)


def be_called_back(gateway: execnet.Gateway) -> None:
    arrived: queue.Queue[object] = queue.Queue()
    channel = gateway.remote_exec("for number in range(50): channel.send(number)")
    channel.setcallback(arrived.put, endmarker="end")
    assert [arrived.get(timeout=SECONDS) for _ in range(51)] == [*range(50), "end"]


def hear_of_errors(gateway: execnet.Gateway) -> None:
    try:
        gateway.remote_exec("1 / 0").waitclose(SECONDS)
    except execnet.RemoteError as error:
        assert "ZeroDivisionError" in str(error)
    else:
        raise AssertionError("no error arrived")


def copy_files(gateway: execnet.Gateway) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "source")
        os.mkdir(source)
        with open(os.path.join(source, "file"), "w", encoding="ascii") as file:
            file.write("contents")
        rsync = execnet.RSync(source, verbose=False)
        rsync.add_target(gateway, os.path.join(folder, "target"))
        rsync.send()
        assert os.listdir(os.path.join(folder, "target")) == ["file"]


def main(kinds: list[str]) -> None:
    """Use a gateway of each kind, then end them all."""
    group = execnet.Group()
    for spec in ("popen//id=first", *kinds):
        gateway = group.makegateway(spec)
        exchange(gateway)
        be_called_back(gateway)
        hear_of_errors(gateway)
        copy_files(gateway)
        assert gateway.remote_status().execmodel == "thread"
    group.terminate(SECONDS)
    assert len(group) == 0


if __name__ == "__main__":
    wanted = os.environ.get("EXECNET_TEST_CORE")
    if wanted:
        assert execnet.gateway_base.core == wanted, execnet.gateway_base.core
    main(sys.argv[1:])
