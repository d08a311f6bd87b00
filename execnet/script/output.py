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

Over ssh there is a process in between. It outlives this one, and writes what this one had not sent to standard error,
which ssh carries by itself, between two marks that the initiator has chosen (`execnet._output.last_words`). A chunk is
this process's from when it was sent, which is told.

Who hears what was written is the receiver of this worker. While it handles a message, most often in a callback, it
hears nothing: nobody waits for the window then, or a callback that prints would wait for itself.
"""

import io
import os
import select
import struct
import sys

CHUNK = 32768  # bytes sent at most for one message
WINDOW = 262144  # bytes under way at most
LAST = 1048576  # bytes sent at most when nobody tells any more that they were written
PATIENCE = 0.1  # seconds without progress after which what processes of the worker may still write is not waited for
LOOK = 0.05  # seconds between two looks whether the receiver is away; it is if both find it handling the same message
NUMBERS = {"stdout": 1, "stderr": 2}
CHANNEL_DATA, CHANNEL_CLOSE = 4, 5  # the messages, and around bytes, what a value is made of: doc/wire.rst
BYTES, STOP = b"A", b"Q"
SENT, ENDS = b"+", b"."  # what the process in between is told: a chunk is sent, the worker ends
TOLD, SOURCE, ERRORS, TO_WORKER = range(4)  # its descriptors
MOST_FILES = 256  # that a worker has open at its start


class Pipe(object):
    """What is written into ``write_end`` is read and sent."""

    def __init__(self, gateway, data_id, written_id, mark):
        self.gateway = gateway
        self.mark = mark
        self.data_id = data_id
        self.written_id = written_id
        # Each written by one thread alone, but that the receiver lets go of what it has handled.
        self.sent = self.written = 0
        self.is_last = False
        self.receiver = self.handled = self.sent_end = None
        self.done = gateway.execmodel.Event()
        self.told = gateway.execmodel.Event()
        self.read_end, self.write_end = os.pipe()

    def start(self):
        """Have it read."""
        self.gateway.execmodel.start(self.carry)
        self.gateway._channelfactory.new(self.written_id).setcallback(self.tell, None)

    def tell(self, count):
        """So much was written, at first nothing; None: nothing more will be told. Called by the receiver."""
        self.receiver = self.gateway.execmodel.get_ident()
        self.handled = None
        if count is None:
            self.written = self.sent  # LAST counts from here
            self.is_last = True
        else:
            self.written += count
        self.told.set()

    def carry(self):
        """Send what is written, until nobody can write any more."""
        while True:
            self.await_window(CHUNK)  # before it is read: what is in the pipe, a death leaves there
            chunk = os.read(self.read_end, CHUNK)
            if not chunk:
                break
            if not self.is_last or self.sent - self.written <= WINDOW + LAST:
                self.send(CHANNEL_DATA, BYTES + struct.pack("!i", len(chunk)) + chunk + STOP)
            self.sent += len(chunk)
            self.tell_between(SENT)
        os.close(self.read_end)
        self.send(CHANNEL_CLOSE, b"")
        self.gateway._channelfactory._no_longer_opened(self.written_id)
        self.done.set()

    def await_window(self, count):
        """Wait until so much more may be sent, or the receiver would not hear that it may."""
        while not self.is_last and self.sent + count - self.written > WINDOW:
            handled = self.handling()
            if handled is not None and handled == self.handled:
                return
            self.handled = handled
            self.told.wait(LOOK)
            self.told.clear()
        self.handled = None

    def handling(self):
        """What is the same as long as the receiver handles one message, and None while it reads."""
        if self.gateway._connection is not None:
            return self.gateway._connection.handling() or None
        receive = self.gateway._receive_messages.__func__
        core = receive.__globals__
        above, frame = None, core["thread_frames"]().get(self.receiver)
        while frame is not None and frame.f_code is not receive.__code__:
            above, frame = frame, frame.f_back
        if frame is None or above is None or above.f_code is core["Message"].from_io.__code__:
            return None
        return above

    def send(self, code, data):
        try:
            self.gateway._send(code, self.data_id, data)
        except (IOError, OSError):  # noqa: UP024 -- two classes on Python 2
            pass  # the connection is gone

    def tell_between(self, word):
        if self.sent_end is not None:
            try:
                os.write(self.sent_end, word)
            except (IOError, OSError):  # noqa: UP024
                pass  # it is gone


class Relay(Pipe):
    """The output of a process that is to be started with ``write_end``, and then to be the only one that has it."""

    def known(self):
        """The number of the descriptor, and what it is known by in another process."""
        status = os.fstat(self.write_end)
        return self.write_end, status.st_dev, status.st_ino


class Output(Pipe):
    """That of this process, by a descriptor."""

    def __init__(self, gateway, name, *ids):
        Pipe.__init__(self, gateway, *ids)
        self.name = name
        self.former = os.dup(NUMBERS[name])
        os.dup2(self.write_end, NUMBERS[name])
        os.close(self.write_end)
        if self.mark:
            self.read_end, self.sent_end = in_between(self.mark, self.read_end)
        write_at_line_ends(name, NUMBERS[name])

    def end(self):
        """Be again what it was, once what was written is sent."""
        flush(getattr(sys, self.name))
        os.dup2(self.former, NUMBERS[self.name])
        os.close(self.former)
        sent, most = -1, self.sent + WINDOW + LAST  # more is what a child goes on writing
        while sent != self.sent < most and not self.done.is_set():
            sent = self.sent
            self.done.wait(PATIENCE)
        self.tell_between(ENDS)


def in_between(mark, source):
    """Start the process that reads the source: what comes of it, and where it is told what was sent."""
    read_end, to_worker = os.pipe()
    told, sent_end = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setsid()
            if not os.fork():  # no child of the worker, where somebody may wait for those
                for number, descriptor in enumerate([os.dup(one) for one in (told, source, 2, to_worker)]):
                    os.dup2(descriptor, number)
                os.closerange(TO_WORKER + 1, MOST_FILES)
                pass_on(mark.encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    for descriptor in (told, source, to_worker):
        os.close(descriptor)
    for descriptor in (read_end, sent_end):
        not_for_children(descriptor)
    return read_end, sent_end


def not_for_children(descriptor):
    import fcntl  # lazy: only over ssh, which is no way to Windows

    fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)


def pass_on(mark):
    """Pass chunks on until the worker ends; then what it has not sent to standard error.

    That is all if the worker has died, else what is there by then.
    """
    sent, chunk, is_dead = pass_on_to_worker()
    os.close(TO_WORKER)
    os.write(ERRORS, mark + str(sent).encode() + b":")
    most = LAST
    while chunk is not None:
        while chunk:
            chunk = chunk[os.write(ERRORS, chunk) :]
        may_come = is_dead or (most > 0 and select.select([SOURCE], (), (), 0)[0])
        chunk = os.read(SOURCE, CHUNK) or None if may_come else None
        most -= CHUNK
    os.write(ERRORS, mark)


def pass_on_to_worker():
    """How much it has sent, the first chunk that it has not, and whether it is dead."""
    sent = 0
    while TOLD not in select.select([TOLD, SOURCE], (), ())[0]:
        chunk = os.read(SOURCE, CHUNK)
        if not chunk:
            return sent, b"", False
        try:
            os.write(TO_WORKER, chunk)
            word = os.read(TOLD, 1)
        except (IOError, OSError):  # noqa: UP024
            word = b""
        if word != SENT:
            return sent, chunk, not word
        sent += len(chunk)
    return sent, b"", not os.read(TOLD, 1)


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
