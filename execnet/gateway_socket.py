"""Sockets instead of pipes: connecting to an ``execnet.script.socketserver``."""

from __future__ import annotations

import time
from contextlib import suppress

from execnet._process.waiting import LAST_WORDS, LAST_WORDS_SIZE
from execnet.gateway_bootstrap import HostNotFound
from execnet.gateway_io import named_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket as Socket

    from execnet._output.streams import Outputs
    from execnet.gateway import Gateway
    from execnet.gateway_base import ExecModel
    from execnet.multi import Group
    from execnet.xspec import XSpec


# Addresses and ports of both ends, as the ssh server of the machine tells them.
SSH_CONNECTION = "import os; channel.send(os.environ.get('SSH_CONNECTION', ''))"


class SocketIO:
    """Bytes over a connected TCP socket."""

    remoteaddress: str
    #: Whether this program has cut the connection.
    signalled = False
    outputs: Outputs | None = None

    def __init__(self, sock: Socket, execmodel: ExecModel) -> None:
        self.sock = sock
        self.execmodel = execmodel
        self._ends_open = {"read", "write"}
        socket = execmodel.socket
        with suppress(OSError):  # no TCP socket: nothing to hurry up
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read(self, numbytes: int) -> bytes:
        """Exactly ``numbytes`` bytes; raises EOFError where they end before."""
        received = bytearray()
        while len(received) < numbytes:
            chunk = self.sock.recv(numbytes - len(received))
            if not chunk:
                raise EOFError(f"expected {numbytes} bytes, got {len(received)}")
            received += chunk
        return bytes(received)

    def write(self, data: bytes) -> None:
        """Write all of ``data``; raises OSError where the connection is gone."""
        self.sock.sendall(data)

    def descriptors(self) -> tuple[int, int] | None:
        """The file descriptors to read and to write, None once closed, and for somebody's own read or write."""
        if [getattr(method, "__func__", None) for method in (self.read, self.write)] != _READ_AND_WRITE:
            return None
        number = self.sock.fileno()
        return None if number < 0 else (number, number)

    def close_read(self) -> None:
        """Nothing more will be read."""
        self._shut("read")

    def close_write(self) -> None:
        """Nothing more will be written: the other side reads the end."""
        self._shut("write")

    def wait(self) -> None:
        """There is no process of ours to wait for, but perhaps the last that it wrote."""
        if self.outputs is not None:
            self.outputs.finish()

    def kill(self) -> None:
        """Cut the connection, in both directions."""
        self.signalled = True
        with suppress(OSError):  # cut already
            self.sock.shutdown(self.execmodel.socket.SHUT_RDWR)

    def await_answer(self) -> bytes:
        """Wait for the first byte; empty where the connection ended."""
        try:
            return self.read(1) if self.descriptors() is None else self.sock.recv(1)
        except ConnectionError:
            return b""  # closed with our text unread

    def abandon(self) -> tuple[bytes, None]:
        """Close a connection that failed to start; returns what still came, within LAST_WORDS."""
        deadline = time.monotonic() + LAST_WORDS
        output = b""
        try:
            while len(output) < LAST_WORDS_SIZE:
                self.sock.settimeout(max(0.001, deadline - time.monotonic()))
                chunk = self.sock.recv(LAST_WORDS_SIZE)
                if not chunk:
                    break
                output += chunk
        except OSError:
            pass  # the time is over, or the connection
        self.kill()
        self.sock.close()
        return output, None

    def _shut(self, end: str) -> None:
        socket = self.execmodel.socket
        with suppress(OSError):  # the other side was faster
            self.sock.shutdown(socket.SHUT_RD if end == "read" else socket.SHUT_WR)
        self._ends_open.discard(end)
        if not self._ends_open:
            self.sock.close()


_READ_AND_WRITE = [SocketIO.read, SocketIO.write]


def start_via(gateway: Gateway, hostport: tuple[str, int] | None = None) -> tuple[str, int]:
    """Start a socket server for one connection on ``gateway``; returns its (host, port).

    It listens on ``hostport``, by default on a free port of its "localhost".
    """
    from execnet.script import socketserver  # lazy: start-up speed

    host, port = ("localhost", 0) if hostport is None else hostport
    channel = gateway.remote_exec(socketserver)
    channel.send((host, port))
    realhost, realport = channel.receive()
    return ("localhost" if realhost in ("", "0.0.0.0", "::") else realhost), realport


def create_io(spec: XSpec, group: Group, execmodel: ExecModel) -> SocketIO:
    """Connect to the socket server of ``spec``, one started on ``installvia`` if given.

    Raises ValueError for an address that is no ``host:port``, HostNotFound for an unknown
    host, another OSError naming ``spec`` where the connection fails.
    """
    if spec.installvia:
        try:
            master = group[spec.installvia]
            address = _address_on_its_machine(master, group)
            host, port = start_via(master) if address is None else start_via(master, address)
        except EOFError as error:
            raise OSError(f"no socket server for gateway {str(spec)!r}: {error}") from None
    else:
        host, port = _address(spec)
    sock = None
    try:
        sock = _connect(host, port, spec, execmodel)
        io = SocketIO(sock, execmodel)
        io.remoteaddress = f"{host}:{port}"
        return io
    except BaseException:
        if sock is not None:
            sock.close()
        raise


def _address_on_its_machine(gateway: Gateway, group: Group) -> tuple[str, int] | None:
    """Where a server of that gateway listens so that we can connect to it: None where its machine is this one."""
    leads_there = _leads_to_machine(gateway, group)
    if leads_there is None:
        return None
    if isinstance(leads_there._io, SocketIO):
        return leads_there._io.sock.getpeername()[0], 0
    connection: str = leads_there.remote_exec(SSH_CONNECTION).receive()
    return (connection.split()[2], 0) if connection else None


def _leads_to_machine(gateway: Gateway, group: Group) -> Gateway | None:
    """Of a gateway and those that it goes through, the one that leads to another machine."""
    spec = gateway.spec
    if spec.ssh or spec.vagrant_ssh or (spec.socket and not spec.installvia):
        return gateway
    nearer = spec.via or spec.installvia
    return _leads_to_machine(group[nearer], group) if nearer else None


def _address(spec: XSpec) -> tuple[str, int]:
    host, colon, port = str(spec.socket).rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(f"socket= needs host:port: {str(spec)!r}")
    return host, int(port)


def _connect(host: str, port: int, spec: XSpec, execmodel: ExecModel) -> Socket:
    socket = execmodel.socket
    try:
        return socket.create_connection((host.strip("[]"), port))  # type: ignore[no-any-return]
    except socket.gaierror as error:
        raise HostNotFound(f"{host}: {error.strerror} (gateway {str(spec)!r})") from None
    except OSError as error:
        raise named_error(error, spec, f"connecting to {host}:{port}") from None
