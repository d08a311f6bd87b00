"""The other side of a connection played by the test: the bytes of the wire, as they are."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import termios
from io import RawIOBase
from types import ModuleType
from typing import Any

from .processes import wait_until

HEADER = struct.Struct("!bii")
SECONDS = 20.0


def frame(code: int, channel: int = 0, payload: bytes = b"") -> bytes:
    """One message as it stands on the wire."""
    return HEADER.pack(code, channel, len(payload)) + payload


def count_of_bytes(descriptor: int, request: int) -> int:
    """What the system answers to a question (of termios) for so many bytes."""
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, request, count)
    return count[0]


class Peer:
    """A live `gateway` of the package `execnet`, and the test's end of it.

    transport: "socket", "pipe" (two of them), or "zero-copy pipe", whose other end is known to be read with read().
    """

    def __init__(self, execnet: ModuleType, transport: str = "socket") -> None:
        self.base = base = execnet.gateway_base
        self.out: RawIOBase
        self.in_: RawIOBase
        if transport == "socket":
            near, self.far = socket.socketpair()
            outfile, infile = near.makefile("wb"), near.makefile("rb")
            near.close()
            self.out, self.in_ = self.far.makefile("wb", buffering=0), self.far.makefile("rb", buffering=0)
        else:
            to_read, to_write = os.pipe(), os.pipe()
            outfile, infile = open(to_write[1], "wb"), open(to_read[0], "rb")  # noqa: SIM115
            self.out, self.in_ = open(to_read[1], "wb", 0), open(to_write[0], "rb", 0)  # noqa: SIM115
        self.transport = transport
        io = base.Popen2IO(outfile, infile, base.get_execmodel("thread"))
        io.zero_copy = transport == "zero-copy pipe"
        self.gateway = execnet.Gateway(io, execnet.XSpec("popen//id=peer"))
        Message = base.Message
        self.DATA = Message.CHANNEL_DATA
        self.CLOSE, self.CLOSE_ERROR = Message.CHANNEL_CLOSE, Message.CHANNEL_CLOSE_ERROR

    def write(self, data: bytes) -> None:
        """Write all of data."""
        view = memoryview(data)
        while view:
            view = view[self.out.write(view) :]

    def send(self, channel: Any, item: object) -> None:
        """Send an item as the other side of channel."""
        self.write(self.item(channel, item))

    def item(self, channel: Any, item: object) -> bytes:
        """The message that carries item."""
        return frame(self.DATA, channel.id, self.base.dumps_internal(item))

    def end(self, channel: Any, error: str | None = None) -> None:
        """Close channel, with an error if given, as its other side."""
        if error is None:
            self.write(frame(self.CLOSE, channel.id))
        else:
            self.write(frame(self.CLOSE_ERROR, channel.id, self.base.dumps_internal(error)))

    def unread(self) -> int:
        """How many bytes the gateway has not read yet (a socket counts its own way, zero is zero)."""
        request = termios.TIOCOUTQ if self.transport == "socket" else termios.FIONREAD
        return count_of_bytes(self.out.fileno(), request)

    def await_read(self) -> None:
        """Wait until the gateway has read all that was written."""
        wait_until(lambda: self.unread() == 0, SECONDS, "everything read")

    def read(self, size: int) -> bytes:
        """The next size bytes that the gateway writes; fewer at the end."""
        pieces = b""
        while len(pieces) < size:
            piece = self.in_.read(size - len(pieces))
            if not piece:
                break
            pieces += piece
        return pieces

    def message(self) -> tuple[int, int, bytes]:
        """The next message that the gateway sends: code, channel id, payload."""
        header = self.read(HEADER.size)
        if len(header) < HEADER.size:
            raise EOFError(f"{len(header)} bytes of a header")
        code, channel, size = HEADER.unpack(header)
        return code, channel, self.read(size)

    def hang_up(self) -> None:
        """Write nothing more: the end of the gateway's input."""
        if self.transport == "socket":
            self.far.shutdown(socket.SHUT_WR)
        else:
            self.out.close()

    def close(self) -> None:
        """End the connection and wait for the gateway's receiver."""
        self.out.close()
        self.in_.close()
        if self.transport == "socket":
            self.far.close()
        self.gateway.join(SECONDS)
        self.gateway.exit()
        assert not self.gateway.hasreceiver()
