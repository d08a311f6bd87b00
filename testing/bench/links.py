"""The peers that carry items between two Python processes, all with the same few methods."""

from __future__ import annotations

import functools
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import harness
import serving
from serving import ITEM, MIB

BLOCK = b"\x5a" * MIB


class Link:
    """A process beside this one that runs serving.serve, and how to talk with it."""

    send: Callable[[Any], object]
    receive: Callable[[], Any]

    def round_trips(self, count: int) -> float:
        """Seconds for so many items there and back, one after another."""
        self.send(("echo", count))
        return harness.time_of(self._round_trips, count)

    def _round_trips(self, count: int) -> None:
        send, receive = self.send, self.receive
        for _ in range(count):
            send(ITEM)
            receive()

    def receive_items(self, count: int) -> float:
        """Seconds for so many items from the other side, received one by one."""
        return harness.time_of(lambda count: self._receive("send", count), count)

    def receive_blocks(self, count: int) -> float:
        """Seconds for so many blocks of 1 MiB from the other side."""
        return harness.time_of(lambda count: self._receive("send blocks", count), count)

    def _receive(self, what: str, count: int) -> None:
        receive = self.receive
        self.send((what, count))
        for _ in range(count):
            receive()

    def send_items(self, count: int) -> float:
        """Seconds for so many items to the other side, until it has all of them."""
        return harness.time_of(lambda count: self._send(ITEM, count), count)

    def send_blocks(self, count: int) -> float:
        """Seconds for so many blocks of 1 MiB to the other side, until it has all of them."""
        return harness.time_of(lambda count: self._send(BLOCK, count), count)

    def _send(self, item: object, count: int) -> None:
        send = self.send
        send(("receive", count))
        for _ in range(count):
            send(item)
        self.receive()

    def close(self) -> None:
        """End the other side."""
        self.send(("", 0))


class Execnet(Link):
    """A popen gateway of whichever execnet this process imports."""

    def __init__(self) -> None:
        import execnet

        self.group = execnet.Group()
        self.gateway = self.group.makegateway()
        self.channel = self.gateway.remote_exec(serving)
        self.send, self.receive = self.channel.send, self.channel.receive

    def receive_items_by_callback(self, count: int) -> float:
        """As receive_items, through a channel's callback."""
        import threading

        received = threading.Event()
        channel = self.gateway.remote_exec(serving)
        left = count

        def callback(item: object) -> None:
            nonlocal left
            left -= 1
            if not left:
                received.set()

        channel.setcallback(callback)

        def work(count: int) -> None:
            channel.send(("send", count))
            received.wait()

        seconds = harness.time_of(work, count)
        channel.send(("", 0))
        channel.waitclose(10)
        return seconds

    def close(self) -> None:
        super().close()
        self.group.terminate(5)


class Copying(Execnet):
    """The same, but neither side lends large items to the pipe."""

    def __init__(self) -> None:
        from execnet import gateway_bootstrap, gateway_io

        gateway_bootstrap.POPEN_START = gateway_bootstrap.POPEN_START.replace("{zero_copy}", "False")
        never = property(lambda io: False, lambda io, value: None)
        setattr(gateway_io.Popen2IOMaster, "zero_copy", never)  # noqa: B010
        super().__init__()


class MultiprocessingPipe(Link):
    """multiprocessing.Pipe to a spawned process."""

    def __init__(self) -> None:
        import multiprocessing

        context = multiprocessing.get_context("spawn")
        connection, far = context.Pipe()
        self.process = context.Process(target=serve_connection, args=(far,))
        self.process.start()
        far.close()
        self.send, self.receive = connection.send, connection.recv

    def close(self) -> None:
        super().close()
        self.process.join(5)


def serve_connection(connection: Any) -> None:
    """Be the other side of MultiprocessingPipe."""
    serving.serve(connection.send, connection.recv)


class Subprocess(Link):
    """A link to ``python links.py --serve NAME``."""

    def start(self, *arguments: object, **options: Any) -> None:
        """Start the other side."""
        command = [sys.executable, os.path.abspath(__file__), "--serve", *map(str, arguments)]
        self.process = subprocess.Popen(command, **options)

    def close(self) -> None:
        super().close()
        self.process.wait(5)


class ZeroMQ(Subprocess):
    """pyzmq's PAIR sockets over a Unix socket, items pickled."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        address = f"ipc://{self.folder.name}/socket"
        self.start("pyzmq", address)
        self.send, self.receive = zmq_pair(address, "bind")

    def close(self) -> None:
        super().close()
        self.folder.cleanup()


def zmq_pair(address: str, method: str) -> tuple[Callable[[Any], object], Callable[[], Any]]:
    """send and receive of a PAIR socket; large bytes are received as one frame, other items pickled."""
    import zmq

    socket = zmq.Context.instance().socket(zmq.PAIR)
    getattr(socket, method)(address)
    dumps, loads = pickle.dumps, pickle.loads
    return lambda item: socket.send(dumps(item, 5)), lambda: loads(socket.recv())


class Pipe(Subprocess):
    """Two pipes and the functions of os: bytes of a known size, nothing that knows of items.

    What Python itself can do at best.
    """

    item = struct.pack("!bii", 4, 1, 6) + b"F\0\0\0\x2aQ"  # as many bytes as execnet writes for ITEM

    def __init__(self) -> None:
        far_in, self.out = os.pipe()
        self.input, far_out = os.pipe()
        self.start("pipe", far_in, far_out, pass_fds=(far_in, far_out))
        os.close(far_in)
        os.close(far_out)
        enlarge(self.input, self.out)
        self.send, self.receive = self._tell, lambda: os.read(self.input, 1)
        self.buffer = bytearray(MIB)

    def _tell(self, request: tuple[str, int]) -> None:
        os.write(self.out, b"%-16s%16d" % (request[0].encode(), request[1]))

    def _round_trips(self, count: int) -> None:
        read, write, item, size = os.read, os.write, self.item, len(self.item)
        out, input = self.out, self.input
        for _ in range(count):
            write(out, item)
            read(input, size)

    def _receive(self, what: str, count: int) -> None:
        self._tell((what, count))
        if what == "send blocks":
            for _ in range(count):
                read_block(self.input, self.buffer)
        else:
            read, input, size = os.read, self.input, len(self.item)
            for _ in range(count):
                read(input, size)

    def _send(self, item: object, count: int) -> None:
        data = item if isinstance(item, bytes) else self.item
        self._tell(("receive blocks" if data is item else "receive", count))
        write_many(self.out, data, count)
        os.read(self.input, 1)


def enlarge(*descriptors: int) -> None:
    """Give pipes the size that execnet gives those that carry large items."""
    import fcntl

    from execnet.gateway_base import ENLARGED_PIPE, F_SETPIPE_SZ

    for descriptor in descriptors:
        fcntl.fcntl(descriptor, F_SETPIPE_SZ, ENLARGED_PIPE)


def read_block(descriptor: int, buffer: bytearray) -> None:
    """Read MIB bytes into the buffer."""
    view = memoryview(buffer)
    while view:
        view = view[os.readv(descriptor, [view]) :]


def write_many(descriptor: int, data: bytes, count: int) -> None:
    """Write the data so many times."""
    write, size = os.write, len(data)
    for _ in range(count):
        written = write(descriptor, data)
        while written < size:
            written += write(descriptor, memoryview(data)[written:])


def serve_pipe(input: int, out: int) -> None:
    """Be the other side of Pipe."""
    size = len(Pipe.item)
    buffer = bytearray(MIB)
    read, write, item = os.read, os.write, Pipe.item
    while True:
        request = read(input, 32)
        what, many = request[:16].strip(), range(int(request[16:] or 0))
        if not many:
            return
        if what == b"echo":
            for _ in many:
                write(out, read(input, size))
        elif what == b"send":
            write_many(out, item, len(many))
        elif what == b"receive":
            for _ in many:
                read(input, size)
            write(out, b"1")
        elif what == b"send blocks":
            write_many(out, BLOCK, len(many))
        else:
            for _ in many:
                read_block(input, buffer)
            write(out, b"1")


class Mitogen(Link):
    """A mitogen context on this machine: round trips are calls of a function there."""

    def __init__(self) -> None:
        import mitogen.core
        import mitogen.master

        self.broker = mitogen.master.Broker()
        self.router = mitogen.master.Router(self.broker)
        self.context = self.router.local(python_path=sys.executable)

    def _round_trips(self, count: int) -> None:
        call = self.context.call
        for _ in range(count):
            call(echo, ITEM)

    def round_trips(self, count: int) -> float:
        return harness.time_of(self._round_trips, count)

    def close(self) -> None:
        self.context.shutdown(wait=True)
        self.broker.shutdown()
        self.broker.join()


def echo(item: object) -> object:
    """What Mitogen and RPyC call over there."""
    return item


class RPyC(Link):
    """An RPyC connection over the standard pipes of a child: round trips are calls of a function there."""

    def __init__(self) -> None:
        import rpyc

        command = [sys.executable, os.path.abspath(__file__), "--serve", "RPyC"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.connection = rpyc.connect_pipes(self.process.stdout, self.process.stdin)

    def round_trips(self, count: int) -> float:
        return harness.time_of(self._round_trips, count)

    def _round_trips(self, count: int) -> None:
        echo = self.connection.root.echo
        for _ in range(count):
            echo(ITEM)

    def close(self) -> None:
        self.connection.close()
        self.process.wait(5)


def serve_rpyc() -> None:
    """Be the other side of RPyC."""
    import rpyc

    class Service(rpyc.Service):  # type: ignore[misc]
        def exposed_echo(self, item: object) -> object:
            return item

    rpyc.connect_stdpipes(service=Service).serve_all()
    os._exit(0)  # it leaves a sys.stdout behind that can't be flushed


LINKS: dict[str, Callable[[], Link]] = {
    harness.OURS: Execnet,
    harness.PORTABLE: Execnet,
    harness.BEFORE: Execnet,
    "multiprocessing.Pipe": MultiprocessingPipe,
    "os.pipe": Pipe,
    "pyzmq": ZeroMQ,
    "mitogen": Mitogen,
    "RPyC": RPyC,
}
CARRIERS = list(LINKS)[:6]  # those that can stream items
# What execnet is without a means of its own, each where that matters.
LINKS[harness.SPINLESS] = Execnet
LINKS[harness.COPYING] = Copying


# ---- which CPU runs what ----


def processes_below(pid: int) -> list[int]:
    """The descendants of a process."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as children:
            for child in map(int, children.read().split()):
                found += [child, *processes_below(child)]
    return found


def pin(pid: int, cpus: set[int]) -> None:
    """Let all threads of a process run on these CPUs only."""
    for task in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(task), cpus)


def place(near: list[int], far: list[int]) -> None:
    """Let this process run on the CPUs `near`, those below it on the CPUs `far`."""
    pin(os.getpid(), set(near))
    for pid in processes_below(os.getpid()):
        pin(pid, set(far))


def play(name: str) -> None:
    """Be a peer: every method of its link, and place()."""
    link = LINKS[name]()
    methods = {method: getattr(link, method) for method in dir(link) if not method.startswith("_")}
    harness.play({**methods, "place": place})
    link.close()


def measure_row(
    options: harness.Options,
    row: harness.Row,
    players: list[harness.Player],
    method: str,
    most: int,
    figure: Callable[[float, int], float],
) -> harness.Row:
    """Fill a row with figure(seconds, count) of the method over all players."""
    samplers: dict[str, Callable[[], float]] = {}
    for player in players:
        sample = functools.partial(player.ask, method)
        count = harness.count_for(sample, options.seconds, most)
        samplers[player.name] = functools.partial(sampled, figure, sample, count)
    return harness.take_turns(row, samplers, options.rounds)


def sampled(figure: Callable[[float, int], float], sample: Callable[[int], float], count: int) -> float:
    """The figure of one sample."""
    return figure(sample(count), count)


if __name__ == "__main__":
    _, _, which, *arguments = sys.argv
    if which == "pipe":
        serve_pipe(*map(int, arguments))
    elif which == "pyzmq":
        serving.serve(*zmq_pair(arguments[0], "connect"))
        time.sleep(0.1)
    else:
        serve_rpyc()
