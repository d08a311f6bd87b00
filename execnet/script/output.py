"""The far side of output that is sent: pipes, each read here by a thread.

The text is run through ``remote_exec`` on any Python from 2.7 on, with nothing installed. The task answers and ends;
the threads go on. Each sends what it reads as bytes on a channel, at most WINDOW bytes ahead of what the initiator has
told, on another one, to be written there. So who prints is held back by who reads, as by a pipe, and items of other
channels are not: they only share the connection. Neither channel has a `Channel` here, nor there: to the status there
is none.

An `Output` is that of this worker: its descriptor 1 or 2 leads into the pipe. When the connection is about to end, the
tasks have ended: what they wrote is sent without being asked for, as far as it is no more than LAST; then the
descriptor is again what it was. Where the connection is lost, the thread reads on, for a pipe that nobody reads would
stop who writes. A `Relay` is for a process that is to be started here (``via``), which outlives nothing: its pipe ends
with it, and what it wrote last is read.

What the receiver of this worker runs, a callback, must not print more than WINDOW before it returns, for the receiver
is who hears what was written.
"""

import io
import os
import struct
import sys

CHUNK = 32768  # bytes sent at most for one message
WINDOW = 262144  # bytes under way at most
LAST = 1048576  # bytes sent at most when nobody tells any more that they were written
PATIENCE = 0.1  # seconds without progress after which what processes of the worker may still write is not waited for
NUMBERS = {"stdout": 1, "stderr": 2}
CHANNEL_DATA, CHANNEL_CLOSE = 4, 5  # the messages, and around bytes, what a value is made of: doc/wire.rst
BYTES, STOP = b"A", b"Q"


class Pipe(object):
    """What is written into ``write_end`` is read and sent."""

    def __init__(self, gateway, data_id, written_id):
        self.gateway = gateway
        self.data_id = data_id
        self.written_id = written_id
        # Each written by one thread alone.
        self.sent = self.written = 0
        self.is_last = False
        self.done = gateway.execmodel.Event()
        # Held, but for a moment after something was told.
        self.told = gateway.execmodel.Lock()
        self.told.acquire()
        self.read_end, self.write_end = os.pipe()

    def start(self):
        """Have it read."""
        self.gateway.execmodel.start(self.carry)
        self.gateway._channelfactory.new(self.written_id).setcallback(self.tell, None)

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
                self.send(CHANNEL_DATA, BYTES + struct.pack("!i", len(chunk)) + chunk + STOP)
            self.sent += len(chunk)
        os.close(self.read_end)
        self.send(CHANNEL_CLOSE, b"")
        self.gateway._channelfactory._no_longer_opened(self.written_id)
        self.done.set()

    def await_window(self, count):
        while not self.is_last and self.sent + count - self.written > WINDOW:
            self.told.acquire()

    def send(self, code, data):
        try:
            self.gateway._send(code, self.data_id, data)
        except (IOError, OSError):  # noqa: UP024 -- two classes on Python 2
            pass  # the connection is gone


class Relay(Pipe):
    """The output of a process that is to be started with ``write_end``, and then to be the only one that has it."""

    def known(self):
        """The number of the descriptor, and what it is known by in another process."""
        status = os.fstat(self.write_end)
        return self.write_end, status.st_dev, status.st_ino


class Output(Pipe):
    """That of this process, by a descriptor."""

    def __init__(self, gateway, name, data_id, written_id):
        Pipe.__init__(self, gateway, data_id, written_id)
        self.name = name
        self.former = os.dup(NUMBERS[name])
        os.dup2(self.write_end, NUMBERS[name])
        os.close(self.write_end)
        write_at_line_ends(name, NUMBERS[name])

    def end(self):
        """Be again what it was, once what was written is sent."""
        flush(getattr(sys, self.name))
        os.dup2(self.former, NUMBERS[self.name])
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


def nowhere():
    return os.open(os.devnull, os.O_WRONLY)


def relay(gateway, wanted):
    """Pipes for a process that is to be started; how each is known, but for those that lead nowhere."""
    known = {}
    for name, ids in wanted.items():
        if ids is None:
            known[name] = nowhere(), 0, 0
        else:
            pipe = Relay(gateway, *ids)
            pipe.start()
            known[name] = pipe.known()
    return known


def redirect(gateway, wanted):
    """Have the outputs of this process go into pipes, or nowhere."""
    outputs = []
    for name, ids in wanted.items():
        if ids is None:
            end = nowhere()
            os.dup2(end, NUMBERS[str(name)])
            os.close(end)
        elif name != "stderr" or os.environ.get("EXECNET_DEBUG") != "2":  # of which each message writes to it
            outputs.append(Output(gateway, str(name), *ids))
            outputs[-1].start()
    before_closing = gateway._before_closing
    gateway._before_closing = lambda: [end() for end in [output.end for output in outputs] + [before_closing]]


def serve(channel):
    """Receive ``(whether to relay, {name: None or (id of the channel for data, of that for what was written)})``.

    None: the output leads nowhere. Answers how the writing ends are known, where they are for another process.
    """
    relays, wanted = channel.receive()
    channel.send((relay if relays else redirect)(channel.gateway, wanted))


if __name__ == "__channelexec__":
    serve(channel)  # noqa: F821
