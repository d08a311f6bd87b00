"""The far side of every link: it echoes, sends or receives as it is told.

Also sent to execnet's workers as it is, so it imports nothing.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from typing import Any

    channel: Any  # in a worker

ITEM = 42
MIB = 1 << 20


def resident() -> float:
    """MiB of memory this process has."""
    return _field("/proc/self/smaps_rollup", "Rss:")


def peak() -> float:
    """MiB of memory this process had at most."""
    return _field("/proc/self/status", "VmHWM:")


def _field(path: str, name: str) -> float:
    with open(path) as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(name))


def serve(send: "Callable[[Any], object]", receive: "Callable[[], Any]") -> None:
    """Do what is asked, as (what, count), until a count of 0."""
    while True:
        what, count = receive()
        if not count:
            return
        many = range(count)
        if what == "echo":
            for _ in many:
                send(receive())
        elif what == "send":
            for _ in many:
                send(ITEM)
        elif what == "receive":
            for _ in many:
                receive()
            send(None)
        elif what == "send blocks":
            block = b"\x5a" * MIB
            for _ in many:
                send(block)
        elif what == "keep":
            kept = [receive() for _ in many]
            send(len(kept))
        elif what == "send large":
            large = b"\x5a" * (count * MIB)
            before = resident()
            send(large)
            receive()
            send(peak() - before)
        elif what == "receive large":
            before = resident()
            send("ready")
            large = receive()
            send(peak() - before - len(large) / MIB)
        else:
            raise ValueError(what)


def answer(connection: "Connection") -> None:
    """Be a process that calls what comes, and sends back what that returns, until None comes."""
    while True:
        function = connection.recv()
        if function is None:
            return
        connection.send(function())


if __name__ == "__channelexec__":
    serve(channel.send, channel.receive)  # noqa: F821
