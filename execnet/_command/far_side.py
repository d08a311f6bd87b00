"""What `execnet run` and `execnet shell` execute there: code whose output, and that of what it starts, comes back.

Receives ``(job, arguments)`` for one of the functions in ``JOBS``. Sends ``("out", bytes)``, ``("err", bytes)`` and at
last ``("end", status)``. Of a shell, ``("prompt", (text, interrupts))`` is answered by ``("line", text)``,
``("give up", None)`` or ``("end", None)``: what was typed, Ctrl-C, Ctrl-D. ``("interrupt", None)`` is a Ctrl-C while
something runs; a prompt tells how many of them have been taken for that. One that comes later is for the prompt: that
is known over there.

Readable by every Python from 2.7 on, alone: the text is sent.
"""

import code
import collections
import io
import linecache
import os
import signal
import sys
import threading
import traceback
import types

CHUNK = 1 << 14
NAMES = {"-c": "<string>", "-": "<stdin>"}  # as Python calls what is no file


class Caught(object):
    """The output to some descriptors, whoever writes to them, sent as it comes; as a context manager."""

    def __init__(self, channel, kind, descriptors):
        self.channel = channel
        self.kind = kind
        self.descriptors = descriptors
        # Written after what is to be sent; a NUL is only where it begins.
        self.mark = b"\0" + os.urandom(16).replace(b"\0", b"\1")
        self.reached = threading.Semaphore(0)

    def __enter__(self):
        reading, self.writing = os.pipe()
        self.former = [os.dup(descriptor) for descriptor in self.descriptors]
        for descriptor in self.descriptors:
            os.dup2(self.writing, descriptor)
        thread = threading.Thread(target=self.send_all, args=(reading,))
        thread.daemon = True
        thread.start()
        return self

    def __exit__(self, *exc_info):
        self.drain()
        for descriptor, former in zip(self.descriptors, self.former):
            os.dup2(former, descriptor)
            os.close(former)
        os.close(self.writing)

    def drain(self):
        """Return when all that was written up to now has been sent."""
        flush(sys.stdout, sys.stderr)
        os.write(self.writing, self.mark)  # whatever became of the descriptors
        self.reached.acquire()

    def send_all(self, reading):
        """Send what comes out of the pipe, without the marks, until nobody can write to it any more."""
        waiting = b""
        try:
            while True:
                chunk = os.read(reading, CHUNK)
                if not chunk:
                    break
                whole, waiting = self.without_marks(waiting + chunk)
                self.send(whole)
            self.send(waiting)
        except (IOError, OSError):
            pass  # nobody is there to read it
        finally:
            os.close(reading)
            self.reached.release()

    def without_marks(self, data):
        """(data, rest): the rest may be the beginning of a mark. What comes before a mark is sent."""
        while True:
            before, mark, after = data.partition(self.mark)
            if not mark:
                break
            self.send(before)
            self.reached.release()
            data = after
        begin = data.rfind(b"\0", max(0, len(data) - len(self.mark) + 1))
        return (data, b"") if begin < 0 else (data[:begin], data[begin:])

    def send(self, data):
        if data:
            self.channel.send((self.kind, data))


class Encoded(object):
    """A text stream of Python 2 that takes unicode as well."""

    encoding = "utf-8"

    def __init__(self, stream):
        self.stream = stream
        self.flush = stream.flush
        self.fileno = stream.fileno
        self.close = stream.close

    def write(self, text):
        self.stream.write(text if isinstance(text, bytes) else text.encode("utf-8"))


def text_stream(descriptor):
    """A text file for what is printed, line by line, whatever it holds."""
    if sys.version_info[0] == 2:
        return Encoded(os.fdopen(os.dup(descriptor), "w", 1))
    return io.open(descriptor, "w", 1, "utf-8", "backslashreplace", None, False)


def flush(*streams):
    """Flush what can be flushed: code may have closed sys.stdout, or put anything in its place."""
    for stream in streams:
        try:
            stream.flush()
        except (AttributeError, ValueError, IOError, OSError):
            pass


class Streams(object):
    """Fresh sys.stdout and sys.stderr for as long as it lasts."""

    def __enter__(self):
        self.former = sys.stdin, sys.stdout, sys.stderr
        self.fresh = sys.stdout, sys.stderr = text_stream(1), text_stream(2)

    def __exit__(self, *exc_info):
        flush(sys.stdout, sys.stderr, *self.fresh)
        sys.stdin, sys.stdout, sys.stderr = self.former


def leave_as_child(parent, status):
    """End a process that the code has forked when the code is done: all else here is the parent's."""
    if os.getpid() != parent:
        flush(sys.stdout, sys.stderr)
        os._exit(status & 0xFF)


# -- a program


def run(channel, source, argv):
    """Run a program as ``python FILE`` would; all are bytes, ``argv[0]`` is its name."""
    argv = [native(argument) for argument in argv]
    with Caught(channel, "out", [1]), Caught(channel, "err", [2]), Streams():
        status = execute(NAMES.get(argv[0], argv[0]), source, argv)
    channel.send(("end", status))


def native(argument):
    """Bytes as this interpreter's own kind of argument."""
    return os.fsdecode(argument) if hasattr(os, "fsdecode") else argument


def execute(name, source, argv):
    """The exit status of a program; its threads have ended."""
    process, threads = os.getpid(), threading.enumerate()
    former = sys.modules["__main__"], sys.argv
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if argv[0] not in NAMES:
        main.__file__ = argv[0]
    sys.argv = argv
    # So that a traceback shows the lines.
    linecache.cache[name] = len(source), None, source.decode("utf-8", "replace").splitlines(True), name
    try:
        exec(compile(source, name, "exec", 0, True), main.__dict__)
        status = 0
    except SystemExit:
        status = exit_status(sys.exc_info()[1])
    except BaseException:
        kind, error, trace = sys.exc_info()
        traceback.print_exception(kind, error, trace.tb_next)  # without this function
        status = 1
    for thread in threading.enumerate():
        if thread not in threads and not thread.daemon:
            thread.join()
    leave_as_child(process, status)
    sys.modules["__main__"], sys.argv = former
    return status


def exit_status(error):
    """What a SystemExit stands for; a text is printed."""
    if error.code is None or isinstance(error.code, int):
        return int(error.code or 0)
    sys.stderr.write("%s\n" % (error.code,))
    return 1


# -- a prompt


class Asking(object):
    """Whoever wants a line asks over there; in between, what runs here can be interrupted.

    ``hear`` runs in the receiver thread, in the order in which things were said; all else in the thread that runs code.
    """

    def __init__(self, channel, caught, interactive):
        self.channel = channel
        self.caught = caught
        self.interactive = interactive
        self.process = os.getpid()
        self.thread = threading.current_thread().ident
        self.asking = True  # nothing runs
        self.taken = 0  # interrupts
        self.held = False  # an interrupt came where it would have broken something
        self.answers = collections.deque()
        self.answered = threading.Semaphore(0)
        signal.signal(signal.SIGINT, self.hold)
        channel.setcallback(self.hear, endmarker=("end", None))

    def hear(self, item):
        if item[0] != "interrupt":
            self.asking = False
            self.answers.append(item)
            self.answered.release()
        elif not self.asking:
            self.taken += 1
            self.interrupt()

    def interrupt(self):
        """Do as a Ctrl-C here would."""
        if hasattr(os, "getpgrp") and os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGINT)  # the programs that were started here, too
        elif hasattr(signal, "pthread_kill"):
            signal.pthread_kill(self.thread, signal.SIGINT)
        elif os.name == "nt":
            import _thread

            _thread.interrupt_main()
        else:
            os.kill(os.getpid(), signal.SIGINT)

    def hold(self, signum, frame):
        self.held = True

    def line(self, prompt):
        """The next line; raises EOFError, and KeyboardInterrupt for a Ctrl-C at the prompt."""
        if os.getpid() != self.process:
            raise EOFError  # what was forked here has nobody to ask
        signal.signal(signal.SIGINT, self.hold)
        self.caught.drain()
        self.asking = True
        kind, line = "give up", None
        if not self.held:
            self.channel.send(("prompt", (prompt, self.taken)))
            self.answered.acquire()
            kind, line = self.answers.popleft()
        self.asking = False
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.held or kind == "give up":
            self.held = False
            raise KeyboardInterrupt
        if kind == "end":
            raise EOFError
        return line


class Input(object):
    """sys.stdin for ``input()`` and its kin."""

    encoding = "utf-8"

    def __init__(self, asking):
        self.asking = asking
        self.rest = ""  # of a line

    def readline(self, size=-1):
        try:
            line = self.rest or self.asking.line("") + "\n"
        except EOFError:
            return ""
        end = len(line) if size is None or size < 0 else size
        self.rest = line[end:]
        return line[:end]

    def __iter__(self):
        return iter(self.readline, "")

    def read(self, size=-1):
        if size is None or size < 0:
            return "".join(self)
        text = ""
        while len(text) < size:
            more = self.readline(size - len(text))
            if not more:
                break
            text += more
        return text

    def isatty(self):
        return False


class Console(code.InteractiveConsole):
    """The prompt, which is shown over there."""

    def __init__(self, asking):
        code.InteractiveConsole.__init__(self)
        self.asking = asking
        # Python 2 ends the line of an empty banner.
        self.silent = sys.version_info[0] == 2 and not asking.interactive

    def write(self, data):
        flush(sys.stdout)  # the rest of a line whose print was interrupted
        if not self.silent:
            try:
                code.InteractiveConsole.write(self, data)
            except (AttributeError, ValueError):
                pass  # somebody has put away sys.stderr
        self.silent = False

    def raw_input(self, prompt=""):
        try:
            return self.asking.line(prompt)
        except EOFError:
            if self.asking.interactive:
                raise
            raise SystemExit  # nobody needs the end of the last line


def shell(channel, banner):
    """Be a Python prompt; without a banner nobody is there to see it."""
    former = signal.getsignal(signal.SIGINT)
    with Caught(channel, "out", [1, 2]) as caught, Streams():
        asking = Asking(channel, caught, interactive=bool(banner))
        sys.stdin = Input(asking)
        status = converse(Console(asking), banner and banner % sys.version.split()[0])
        leave_as_child(asking.process, status)
        signal.signal(signal.SIGINT, asking.hold)
    signal.signal(signal.SIGINT, former)
    channel.send(("end", status))


def converse(console, banner):
    """The exit status of a session."""
    while True:
        try:
            # At the end nothing is said.
            console.interact(*([banner] if sys.version_info < (3, 6) else [banner, ""]))
            return 0
        except SystemExit:
            return exit_status(sys.exc_info()[1])
        except KeyboardInterrupt:
            banner = ""  # between two lines


JOBS = {"run": run, "shell": shell}

if __name__ == "__channelexec__":
    job, arguments = channel.receive()  # noqa: F821
    JOBS[job](channel, *arguments)  # noqa: F821
