"""The far side of output that is sent: a worker's descriptors 1 and 2 become pipes, read here by a thread each.

The text is run through ``remote_exec`` on any Python from 2.7 on, with nothing installed, where the initiator has no
pipe to the worker for that. The task answers and ends; the threads go on. Each sends what it reads as bytes on a
channel, at most WINDOW bytes ahead of what the initiator has told, on another one, to be written there. So who prints
is held back by who reads, as by a pipe, and items of other channels are not: they only share the connection.

Neither channel has a `Channel` here, nor there: to the worker's status there is none.

When the connection is about to end, the tasks have ended: what they wrote is sent without being asked for, as far as it
is no more than LAST; then the descriptors are again what they were. Where the connection is lost, the threads
read on, for a pipe that nobody reads would stop who writes.
"""

import io
import os
import struct
import sys

CHUNK = 32768  # bytes sent at most for one message
WINDOW = 262144  # bytes under way at most
LAST = 1048576  # bytes sent at most when nobody tells any more that they were written
PATIENCE = 0.1  # seconds without progress after which what processes of the worker may still write is not waited for
CHANNEL_DATA = 4  # the message, and around bytes, what it is made of: doc/wire.rst
BYTES, STOP = b"A", b"Q"


class Output(object):
    """One descriptor of this process."""

    def __init__(self, gateway, name, number, data_id):
        self.gateway = gateway
        self.name = name
        self.number = number
        self.data_id = data_id
        self.former = os.dup(number)
        # Each written by one thread alone.
        self.sent = self.written = 0
        self.is_last = False
        self.done = gateway.execmodel.Event()
        # Held, but for a moment after something was told.
        self.told = gateway.execmodel.Lock()
        self.told.acquire()

    def redirect(self):
        """Have the descriptor lead into a pipe."""
        self.read_end, write_end = os.pipe()
        os.dup2(write_end, self.number)
        os.close(write_end)
        write_at_line_ends(self.name, self.number)

    def tell(self, count):
        """So much was written; None: nothing more will be told."""
        if count is None:
            self.is_last = True
        else:
            self.written += count
        if self.told.locked():
            self.told.release()

    def carry(self):
        """Send what is written, until nobody can write any more."""
        while True:
            chunk = os.read(self.read_end, CHUNK)
            if not chunk:
                break
            self.await_window(len(chunk))
            if not self.is_last or self.sent - self.written <= WINDOW + LAST:
                self.send(chunk)
            self.sent += len(chunk)
        os.close(self.read_end)
        self.done.set()

    def await_window(self, count):
        while not self.is_last and self.sent + count - self.written > WINDOW:
            self.told.acquire()

    def send(self, chunk):
        data = BYTES + struct.pack("!i", len(chunk)) + chunk + STOP
        try:
            self.gateway._send(CHANNEL_DATA, self.data_id, data)
        except (IOError, OSError):  # noqa: UP024 -- two classes on Python 2
            pass  # the connection is gone

    def end(self):
        """Be again what it was, once what was written is sent."""
        flush(getattr(sys, self.name))
        os.dup2(self.former, self.number)
        os.close(self.former)
        sent = -1
        while sent != self.sent and not self.done.is_set():
            sent = self.sent
            self.done.wait(PATIENCE)


def flush(stream):
    try:
        stream.flush()
    except (AttributeError, IOError, OSError, ValueError):  # noqa: UP024 -- None, failing, failing, closed
        pass


def write_at_line_ends(name, number):
    """Have what is printed go out with each line: so it is where a program writes to a terminal."""
    stream = getattr(sys, name)
    if not hasattr(stream, "fileno") or stream is not getattr(sys, "__%s__" % name):
        return
    try:
        stream.reconfigure(line_buffering=True)
    except (AttributeError, IOError, OSError):  # noqa: UP024 -- not there before Python 3.7, failing on PyPy
        flush(stream)
        if str is bytes:
            fresh = os.fdopen(number, "w", 1)  # noqa: SIM115
        else:
            fresh = io.open(number, "w", 1, stream.encoding, "backslashreplace", closefd=False)  # noqa: SIM115, UP020
        setattr(sys, name, fresh)


def lead_nowhere(number):
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def serve(channel):
    """Receive ``{name: None or (id of the channel for data, of that for what was written)}``; answer when it is so.

    None: the output leads nowhere.
    """
    gateway = channel.gateway
    outputs = []
    for name, ids in sorted(channel.receive().items()):
        number = {"stdout": 1, "stderr": 2}[str(name)]
        if ids is None:
            lead_nowhere(number)
            continue
        output = Output(gateway, str(name), number, ids[0])
        output.redirect()
        gateway.execmodel.start(output.carry)
        gateway._channelfactory.new(ids[1]).setcallback(output.tell, None)
        outputs.append(output)
    gateway._before_closing = lambda: [output.end() for output in outputs]


if __name__ == "__channelexec__":
    serve(channel)  # noqa: F821
