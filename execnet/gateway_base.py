# -*- coding: utf-8 -*-
"""The portable core: what both ends of a connection need, in one file.

This text runs on every Python from 2.7 on: imported as ``execnet.gateway_base``, imported bare as
``gateway_base``, or sent as source to an interpreter that has nothing installed.  Its types are in
``gateway_base.pyi``.

What runs for every message or value exists twice: here, and in C in ``execnet._core``.  Where the C core
is at hand it takes over at the bottom of this file (values), in ``Channel`` (sending and receiving) and
in ``BaseGateway`` (the connection).

In this order: tracing, errors, execution models, running tasks, input and output, sending, channels, gateways, values,
the start of a worker, names that are made when they are first asked for.
"""

import _collections
import os
import sys
import time
from _collections import deque
from io import BytesIO
from itertools import compress, count, islice, repeat, starmap

try:
    import _struct as struct  # what struct gives names to: start-up speed
except ImportError:
    import struct

PY3 = sys.version_info[0] >= 3

if PY3:
    import _thread
    from _operator import is_, methodcaller

    unicode = str
    long = int
    imap = map
    now = time.monotonic
else:
    from itertools import imap
    from operator import is_, methodcaller

    import thread as _thread

    unicode = unicode  # noqa: F821
    long = long  # noqa: F821
    now = time.time

_HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
if not _HAS_GIL:
    # For tasks, and what they import: while one thread imports collections, others find no collections.abc.
    import collections.abc  # noqa: F401

#: What the C core must say of itself to be used by this text.
CORE_ABI = "2.2.7"

sysex = (KeyboardInterrupt, SystemExit)

INTERRUPT_TEXT = "keyboard-interrupted"
MAIN_THREAD_ONLY_DEADLOCK_TEXT = "concurrent remote_exec would cause deadlock for main_thread_only execmodel"

#: A worker that is asked to end interrupts its tasks after the first time and leaves after the second
#: (seconds, one after the other).
TERMINATE_TIMES = (5.0, 10.0)
#: A worker that lost its connection interrupts its tasks after the first time and has left after the second
#: (seconds, both from the loss).  EXECNET_LOST_TIMES="1,3" in the worker's environment sets them.
LOST_TIMES = (1.0, 3.0)
#: What a worker writes first: the byte that says that it is there, and a message that means nothing, by which the
#: byte is recognised after what others have written before.
ANSWER = b"1" + b"\7" + 8 * b"\0"
#: The exit status of a worker that Ctrl-C has ended while it had nothing to do.
INTERRUPTED = 130


# tracing

DEBUG = os.environ.get("EXECNET_DEBUG")


def notrace(*msg):
    """Trace nothing: what ``trace`` is unless EXECNET_DEBUG is set."""


def _tracer(write):
    def trace(*msg):
        try:
            write(" ".join([str(part) for part in msg]))
        except Exception:
            # Tracing is for debugging; what it can't format or write must not disturb what it watches.
            pass

    return trace


def _open_tracefile():
    import io
    import tempfile

    path = os.path.join(tempfile.gettempdir(), "execnet-debug-%d" % os.getpid())
    return path, io.open(path, "w", encoding="utf-8", errors="backslashreplace" if PY3 else "replace")


def _trace_to_stderr(line):
    sys.stderr.write("[%d] %s\n" % (os.getpid(), line))
    sys.stderr.flush()


def _trace_to_file(line):
    _tracefile.write((line + "\n") if PY3 else (line + "\n").decode("utf-8", "replace"))
    _tracefile.flush()


if DEBUG == "2":
    trace = _tracer(_trace_to_stderr)
elif DEBUG:
    fn, _tracefile = _open_tracefile()
    trace = _tracer(_trace_to_file)
else:
    trace = notrace


# errors


class GatewayReceivedTerminate(Exception):
    """The peer asked this side to end."""


class RemoteError(Exception):
    """Code on the other side failed; ``formatted`` is its traceback as text."""

    def __init__(self, formatted):
        super(RemoteError, self).__init__()
        self.formatted = formatted

    def __str__(self):
        return self.formatted

    def __repr__(self):
        return "%s: %s" % (self.__class__.__name__, self.formatted)

    def warn(self):
        """Print the error to stderr, since nobody receives it; an interrupt is no error."""
        if self.formatted == INTERRUPT_TEXT:
            return
        try:
            sys.stderr.write("[%d] Warning: unhandled %r\n" % (os.getpid(), self))
        except Exception:
            # There may be no stderr, or it is closed: no reason for the receiver, which warns, to end.
            pass


class GatewayDied(EOFError):
    """The other side is gone without having been told to; its text says what is known of it.

    gateway_id and spec say which gateway it was (str); pid and returncode are those of its process (int or
    None: not known; a negative returncode is the number of the signal that killed it); stderr is the last it
    wrote there (str, with stderr=capture).
    """

    gateway_id = spec = pid = returncode = None
    stderr = ""


class TimeoutError(IOError):
    """Nothing came within the given seconds."""


class DataFormatError(Exception):
    """Base of what goes wrong with values on the wire."""


class DumpError(DataFormatError):
    """A value that can't be written."""


class LoadError(DataFormatError):
    """Bytes that are not a whole valid value; position (int) says within how many of the value's first, if known."""

    position = None

    def _found_within(self, position):
        self.position = position
        if hasattr(self, "add_note"):
            self.add_note("in the value's first %d bytes" % position)


def geterrortext(exc, format_exception=None, sysex=sysex):
    """The traceback of exception exc as text that can be sent, as far as it can be formatted.

    format_exception is called instead of traceback.format_exception(); what it raises of sysex is raised.
    """
    try:
        if format_exception is None:
            # lazy: start-up speed
            from traceback import format_exception
        tb = getattr(exc, "__traceback__", None) if PY3 else sys.exc_info()[2]
        text = "".join(format_exception(type(exc), exc, tb))
    except sysex:
        raise
    except BaseException as formaterror:
        text = "%s (its traceback can't be formatted: %s)" % (_without_its_traceback(exc), type(formaterror).__name__)
    return text.encode("utf-8", "backslashreplace").decode("utf-8") if PY3 else text


def _without_its_traceback(exc):
    name = type.__dict__["__name__"].__get__(type(exc))  # a metaclass may raise
    try:
        text = str(exc)
    except Exception:
        text = ""
    return name + (text and ": " + text)


def _without_traceback(exc):
    # An exception kept and raised again and again would gather frames, and keep alive what they hold.
    if PY3:
        exc.__traceback__ = None
    return exc


# execution models

# what nothing comes between
#
# At any bytecode of the main thread a signal handler may run, and raise; at any of any thread, a finalizer. Both may
# use the gateway that they interrupt, and wait for other threads. So no thread holds a lock here that another one, or
# what interrupts it, blocks on, and what must happen in one step is one call of something that is written in C, in
# which nothing is made that the collector counts (as a tuple of arguments, for __delitem__): it might run there.


def exhaust(iterator):
    """Run an iterator to its end."""
    deque(iterator, 0)  # made before the first step, and no other thread's: without a GIL, that one would be waited for


def removing(values, key, value):
    """An iterator that takes key out of the dict values when it is run, if its value is that very one then."""
    return imap(values.pop, compress((key,), imap(is_, imap(values.get, (key,)), (value,))), (None,))


#: Whoever waits looks again after this many seconds: what every platform's locks, and every model, can wait for.
LONGEST_WAIT = 1000


def _main_thread():
    threading = sys.modules.get("threading")
    return threading.main_thread().ident if hasattr(threading, "main_thread") else _thread.get_ident()


#: And the main thread after this many, for a signal that comes just before a lock blocks does not interrupt the lock;
#: where nothing is urgent, after twice as many each time, up to a second.
SIGNALS_WAIT = 0.05
MAIN_THREAD = _main_thread() if PY3 else None  # Python 2's waits look again and again


_BUILTIN = type(os.getpid)  # as those of thread are in Jython, too; patched by nobody
_system_lock = _thread.allocate_lock
_SYSTEM_LOCK = type(_system_lock())
#: Which functions that took the place of _thread's start green threads.
_starters = {}


def threads_are_green():
    """Whether what _thread starts now are no threads of the system, but green ones: the process is monkey-patched."""
    start = _thread.start_new_thread
    if type(start) is _BUILTIN:
        return False
    if start not in _starters:
        _starters[start] = _starts_green(start)
    return _starters[start]


def _threads_are_mixed():
    # Whether gateways from before the patch receive in threads that wake no green one.
    return threads_are_green() and any(gateway._receives_in_thread for gateway in list(_receiving))


def _starts_green(start):
    # A debugger's may start real ones. So one is started, while this thread waits in its way and can't have ended.
    def tell():
        idents.append(_system_ident())
        told.release()

    idents, told = [_system_ident()], _thread.allocate_lock()
    told.acquire()
    start(tell, ())
    told.acquire()
    return idents[0] == idents[1] != []


def _system_ident():
    # What get_ident() gives may be a green thread's own; only a thread of the system executes a frame at a time.
    frame = sys._getframe()
    return [ident for ident, executed in thread_frames().items() if frame in (executed, executed.f_back)]


def thread_frames():
    """What each thread executes, by ident; nothing where that is not told, or not only of this interpreter."""
    # CPython looks at the threads of other interpreters, too, and crashes. What makes them is not imported for this:
    # it has 3.12 crash at the exit of a forked child.
    interpreters = sys.modules.get("_interpreters") or sys.modules.get("_xxsubinterpreters")
    is_main = getattr(_thread, "_is_main_interpreter", lambda: True)
    if not is_main() or interpreters is not None and len(interpreters.list_all()) > 1:
        return {}
    return getattr(sys, "_current_frames", dict)()


def _doze(delay, deadline=None):
    # A green thread waits for a thread of the system, which does not wake it: the other green ones go on.
    # Returns the next delay.
    time.sleep(delay if deadline is None else max(0, min(delay, deadline - now())))
    return min(2 * delay or 0.0005, SIGNALS_WAIT)


# What threads wait by is a lock that is held: whoever waits acquires it, whoever wakes them releases it.
_release = methodcaller("release")


class _EventLock(object):
    # Such a lock for green threads.

    def __init__(self, event):
        self._event = event
        self.release = event.set

    def locked(self):
        return not self._event.is_set()

    def acquire(self, blocking, seconds):
        self._event.wait(seconds)
        is_set = self._event.is_set()
        self._event.clear()
        return is_set


class _PolledLock(object):
    # And for Python 2, no wait of which can be interrupted, and between green threads and those of the system.

    def __init__(self, lock):
        self._lock = lock
        self.locked, self.release = lock.locked, lock.release

    def acquire(self, blocking=True, seconds=-1):
        deadline, delay = now() + seconds, 0
        while not self._lock.acquire(0):
            if not blocking or (seconds >= 0 and now() >= deadline):
                return False
            delay = _doze(delay, None if seconds < 0 else deadline)
        return True

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *exc_info):
        self.release()


class _PolledRLock(_PolledLock):
    # The same, of whoever acquires it, as often as that one likes.

    _owner = _count = 0

    def __init__(self, lock):
        _PolledLock.__init__(self, lock)
        self.release = self._release_one

    def acquire(self, blocking=True, seconds=-1):
        ident = _thread.get_ident()
        if self._owner != ident and not _PolledLock.acquire(self, blocking, seconds):
            return False
        self._owner = ident
        self._count += 1
        return True

    def _release_one(self):
        if self._owner != _thread.get_ident():
            raise RuntimeError("it is not this thread's")
        self._count -= 1
        if not self._count:
            self._owner = 0
            self._lock.release()


class _PolledEvent(object):
    # And an event between the two.

    _set = False

    def is_set(self):
        return self._set

    isSet = is_set

    def set(self):
        self._set = True

    def clear(self):
        self._set = False

    def wait(self, timeout=None):
        deadline, delay = timeout if timeout is None else now() + timeout, 0
        while not self._set and (deadline is None or now() < deadline):
            delay = _doze(delay, deadline)
        return self._set


class Waiters(object):
    """Threads that wait for a condition; each by a lock of its own, so that none takes a wake-up from another."""

    def __init__(self, execmodel):
        self._execmodel = execmodel
        self.any = []

    def wake(self):
        """Let all of them look again: to be called after what they wait for has become so."""
        try:
            exhaust(imap(_release, starmap(self.any.pop, repeat((), len(self.any)))))
        except IndexError:
            pass  # another thread woke them

    def wait(self, is_so, timeout=None, wakeup=LONGEST_WAIT):
        """Wait until is_so() is true, at most timeout seconds, and look again every wakeup seconds; whether it is."""
        deadline = timeout if timeout is None else now() + timeout
        is_green = threads_are_green()
        look = SIGNALS_WAIT if is_green or _thread.get_ident() == MAIN_THREAD else wakeup
        while not is_so():
            seconds = min(wakeup, look) if deadline is None else min(wakeup, look, deadline - now())
            if not is_green:  # whom a thread from before the patch may not wake
                look = min(2 * look, max(1, look))
            if seconds <= 0:
                return False
            waiter, woken = self._execmodel._waiter(), False
            self.any.append(waiter)
            try:
                if is_so():
                    return True
                woken = waiter.acquire(True, seconds)
            finally:
                if not woken:
                    self._forget(waiter)
        return True

    def _forget(self, waiter):
        try:
            self.any.remove(waiter)
        except ValueError:
            pass  # woken at the same time


class OneShotEvent(object):
    """An event that is set once, and can be waited for by many."""

    def __init__(self, execmodel):
        self._waiters = Waiters(execmodel)
        self._set = False

    def is_set(self):
        return self._set

    isSet = is_set

    def set(self):
        try:
            self._set = True
        finally:
            self._waiters.wake()

    def wait(self, timeout=None):
        return self._waiters.wait(self.is_set, timeout)


class ExecModel(object):
    """How a side runs concurrent work: abstract, see the subclasses; get one with get_execmodel()."""

    backend = None
    _modules = {}

    def __repr__(self):
        return "<ExecModel %r>" % self.backend

    def start(self, func, args=()):
        raise NotImplementedError("ExecModel is abstract: see get_execmodel()")

    def get_ident(self):
        return self.start(None)

    def sleep(self, delay):
        self.start(None)

    def _module(self, role):
        name = self._modules[role]
        __import__(name)
        return sys.modules[name]

    @property
    def queue(self):
        return self._module("queue")

    @property
    def subprocess(self):
        return self._module("subprocess")

    @property
    def socket(self):
        return self._module("socket")

    def _waiter(self):
        return _EventLock(self.Event())

    def Lock(self):
        return self._module("threading").Lock()

    def RLock(self):
        return self._module("threading").RLock()

    def Event(self):
        return self._module("threading").Event()

    def fdopen(self, fd, mode, bufsize=1, closefd=True):
        # lazy: start-up speed; io.open takes closefd on Python 2, too
        import io

        if bufsize == 1 and "b" in mode:
            bufsize = -1
        return io.open(fd, mode, bufsize, closefd=closefd)


#: Seconds that the threads of gateways that have ended need to end themselves.
THREAD_END_TIME = 0.1
#: The handles of threads that may not have ended yet, without values; only where there is no GIL.
_threads = {}


def _start_joinable(func, args):
    for handle in list(_threads):
        if handle.is_done():  # or almost
            handle.join()
            _threads.pop(handle, None)
    handle = _thread._ThreadHandle()
    _thread.start_joinable_thread(lambda: func(*args), handle=handle, daemon=True)
    _threads[handle] = None


def _await_threads():
    # CPython 3.13 without a GIL crashes where the interpreter ends while a thread is taking its own state apart.
    deadline = now() + THREAD_END_TIME
    for handle in list(_threads):
        handle.join(max(deadline - now(), 0))


if not _HAS_GIL:
    import atexit

    atexit.register(_await_threads)


class ThreadExecModel(ExecModel):
    """Threads of the operating system; the first task of a worker runs in its main thread."""

    backend = "thread"
    _modules = {
        "queue": "queue" if PY3 else "Queue",
        "subprocess": "subprocess",
        "socket": "socket",
        "threading": "threading",
    }

    def get_ident(self):
        return _thread.get_ident()

    def sleep(self, delay):
        time.sleep(delay)

    def start(self, func, args=()):
        if sys.version_info < (3, 13):
            # The first importer of threading is taken for the main thread: it must not be what is started here.
            import threading  # noqa: F401
        start = _thread.start_new_thread
        if not _HAS_GIL and type(start) is _BUILTIN:
            start = _start_joinable
        start(func, args)

    def Lock(self):
        return _PolledLock(_system_lock()) if _threads_are_mixed() else _thread.allocate_lock()

    @staticmethod
    def _waiter():
        mixed = _threads_are_mixed()
        lock = _system_lock() if mixed else _thread.allocate_lock()
        lock.acquire()
        return _PolledLock(lock) if mixed or not PY3 else lock

    if PY3:

        def RLock(self):
            return _PolledRLock(_system_lock()) if _threads_are_mixed() else _thread.RLock()

        def Event(self):
            return _PolledEvent() if _threads_are_mixed() else super(ThreadExecModel, self).Event()


class MainThreadOnlyExecModel(ThreadExecModel):
    """Like thread, but a worker runs every task in its main thread, one at a time."""

    backend = "main_thread_only"


class EventletExecModel(ExecModel):
    """Green threads of eventlet."""

    backend = "eventlet"
    _modules = {
        "queue": "eventlet.queue",
        "subprocess": "eventlet.green.subprocess",
        "socket": "eventlet.green.socket",
        "threading": "eventlet.green.threading",
    }

    def get_ident(self):
        import eventlet.green.thread

        return eventlet.green.thread.get_ident()

    def sleep(self, delay):
        import eventlet

        eventlet.sleep(delay)

    def start(self, func, args=()):
        import eventlet

        eventlet.spawn_n(func, *args)

    def fdopen(self, fd, mode, bufsize=1, closefd=True):
        import eventlet.green.os

        return eventlet.green.os.fdopen(fd, mode, -1 if bufsize == 1 and "b" in mode else bufsize, closefd=closefd)


class GeventExecModel(ExecModel):
    """Greenlets of gevent."""

    backend = "gevent"
    _modules = {"queue": "gevent.queue", "subprocess": "gevent.subprocess", "socket": "gevent.socket"}

    def get_ident(self):
        import gevent.thread

        return gevent.thread.get_ident()

    def sleep(self, delay):
        import gevent

        gevent.sleep(delay)

    def start(self, func, args=()):
        import gevent

        gevent.spawn(func, *args)

    def fdopen(self, fd, mode, bufsize=1, closefd=True):
        import gevent.fileobject

        # A thread pool reads and writes: works on any descriptor and leaves its flags, which others may share, alone.
        buffering = -1 if bufsize == 1 and "b" in mode else bufsize
        return gevent.fileobject.FileObjectThread(fd, mode, buffering, closefd=closefd)

    def Lock(self):
        import gevent.lock

        return gevent.lock.BoundedSemaphore()

    def RLock(self):
        import gevent.lock

        return gevent.lock.RLock()

    def Event(self):
        import gevent.event

        return gevent.event.Event()


def has_threads(execmodel):
    """Whether execmodel runs threads of the system."""
    return isinstance(execmodel, ThreadExecModel) and not threads_are_green()


_EXECMODELS = {
    model.backend: model for model in (ThreadExecModel, MainThreadOnlyExecModel, EventletExecModel, GeventExecModel)
}


def get_execmodel(backend):
    """The ExecModel of that name (or the ExecModel itself, as it is); ValueError for an unknown name."""
    if isinstance(backend, ExecModel):
        return backend
    try:
        return _EXECMODELS[backend]()
    except KeyError:
        raise ValueError("unknown execmodel %r, known are: %s" % (backend, ", ".join(sorted(_EXECMODELS))))


# running tasks


class Reply(object):
    """The outcome of one spawned call."""

    def __init__(self, task, threadmodel):
        self.task = task
        self.running = True
        self._finished = OneShotEvent(threadmodel)
        self._exc = None

    def get(self, timeout=None):
        """The call's result; raises what the call raised, each time; OSError if it runs longer than timeout seconds."""
        self.waitfinish(timeout)
        if self._exc is not None:
            raise self._exc
        return self._result

    def waitfinish(self, timeout=None):
        """Wait until the call is over; OSError if it runs longer than timeout seconds."""
        if not self._finished.wait(timeout):
            raise IOError("timeout waiting for %r" % (self.task,))

    def run(self):
        """Make the call, in the thread that the pool chose."""
        func, args, kwargs = self.task
        try:
            self._result = func(*args, **kwargs)
        except BaseException as exc:
            self._exc = exc
        self.running = False
        self._finished.set()


class WorkerPool(object):
    """Runs calls concurrently, each in a new thread.

    With hasprimary one at a time runs in the thread that integrates itself.
    """

    def __init__(self, execmodel, hasprimary=False):
        if hasprimary and not isinstance(execmodel, ThreadExecModel):
            raise ValueError("a primary thread needs a thread model, not %r" % (execmodel,))
        self.execmodel = execmodel
        self._running = set()
        self._ends = Waiters(execmodel)
        self._shutting_down = False
        # A token: whoever takes it out gives the primary thread its next call, or is that thread and leaves.
        self._primary_idle = [True] * hasprimary
        self._primary_calls = []
        self._primary_wakeup = Waiters(execmodel)

    def active_count(self):
        """The number of calls that are running or about to."""
        return len(self._running)

    def spawn(self, func, *args, **kwargs):
        """Run func(*args, **kwargs) concurrently; returns its Reply; ValueError once the pool shuts down."""
        reply = Reply((func, args, kwargs), self.execmodel)
        self._running.add(reply)
        try:
            if self._shutting_down:
                raise ValueError("pool is shutting down")
            if self._takes_primary():
                self._primary_calls.append(reply)
                self._primary_wakeup.wake()
            else:
                self.execmodel.start(self._run, (reply,))
        except BaseException:
            self._remove(reply)
            raise
        return reply

    def _takes_primary(self):
        try:
            return self._primary_idle.pop()
        except IndexError:
            return False

    def _run(self, reply):
        reply.run()
        self._remove(reply)

    def _remove(self, reply):
        self._running.discard(reply)
        if not self._running:
            self._ends.wake()

    def integrate_as_primary_thread(self):
        """Run spawned calls in this thread until the pool shuts down, or one of them is ended by KeyboardInterrupt."""
        while True:
            self._primary_wakeup.wait(self._primary_goes_on)
            if self._primary_calls:
                reply = self._primary_calls.pop()
                reply.run()
                # Before the removal, so that whoever waited for it finds the primary thread free.
                self._primary_idle.append(True)
                self._remove(reply)
                if isinstance(reply._exc, KeyboardInterrupt):
                    raise reply._exc
                del reply
            elif self._takes_primary():
                break

    def _primary_goes_on(self):
        # Without its token there is a call for it, or will be at once.
        return self._primary_calls or (self._shutting_down and self._primary_idle)

    def trigger_shutdown(self):
        """Accept no more calls, and release the primary thread when it is idle."""
        self._shutting_down = True
        self._primary_wakeup.wake()

    def waitall(self, timeout=None):
        """Wait until no call is running: true, or false if that takes more than timeout seconds."""
        return self._ends.wait(lambda: not self._running, timeout)

    def terminate(self, timeout=None):
        """trigger_shutdown, then waitall."""
        self.trigger_shutdown()
        return self.waitall(timeout)


# input and output


#: Bytes read at once from which on a connection is worth a larger pipe, and the size of that.
HUGE_READ = 512 * 1024
ENLARGED_PIPE = 256 * 1024
#: Linux's number of the command, which Python names from 3.10 on.
F_SETPIPE_SZ = 1031


class Popen2IO(object):
    """Bytes over a pair of files: written to the first, read from the second."""

    error = (IOError, OSError, EOFError)
    #: Whether the C core may lend what it writes to the pipe: only where it is certain to be read() at the other end.
    zero_copy = False
    _is_enlarged = False

    def __init__(self, outfile, infile, execmodel):
        self.outfile, self.infile, self.execmodel = outfile, infile, execmodel
        self._read = infile.read
        self._write = outfile.write

    def read(self, numbytes):
        """Exactly numbytes bytes; EOFError if the input ends before."""
        if numbytes >= HUGE_READ and not self._is_enlarged:
            self._enlarge_pipe()
        data = self._read(numbytes)
        if len(data) == numbytes:
            return data
        chunks, missing = [data], numbytes - len(data)
        while data and missing:
            data = self._read(missing)
            chunks.append(data)
            missing -= len(data)
        if missing:
            raise EOFError("expected %d bytes, got %d" % (numbytes, numbytes - missing))
        return b"".join(chunks)

    def _enlarge_pipe(self):
        self._is_enlarged = True
        # A green file does not tell its descriptor while it is read.
        fds = has_threads(self.execmodel) and self.descriptors()
        if fds and sys.platform.startswith("linux"):
            try:
                import fcntl  # lazy: start-up speed

                fcntl.fcntl(fds[0], F_SETPIPE_SZ, ENLARGED_PIPE)
            except (ImportError, IOError, OSError):
                pass  # it can't be asked, is no pipe, or the system grants no larger one

    def write(self, data):
        """Write all of data and flush it."""
        self._write(data)
        self.outfile.flush()

    def descriptors(self):
        """The file descriptors (to read, to write) that the C core may use instead.

        None where only the files will do, or somebody's own read or write.
        """
        if [getattr(method, "__func__", None) for method in (self.read, self.write)] != _READ_AND_WRITE:
            return None
        if self._read != getattr(self.infile, "read", None) or self._write != getattr(self.outfile, "write", None):
            return None
        try:
            return self.infile.fileno(), self.outfile.fileno()
        except (AttributeError, IOError, ValueError):
            return None

    def close_read(self):
        self.infile.close()

    def close_write(self):
        self.outfile.close()


_READ_AND_WRITE = [vars(Popen2IO)[_name] for _name in ("read", "write")]


_header = struct.Struct("!bii")


class Message(object):
    """One message: its code, the channel it is for, and its payload (doc/wire.rst, "Messages")."""

    STATUS, RECONFIGURE, GATEWAY_TERMINATE, CHANNEL_EXEC = range(4)
    CHANNEL_DATA, CHANNEL_CLOSE, CHANNEL_CLOSE_ERROR, CHANNEL_LAST_MESSAGE = range(4, 8)
    _types = {}

    def __init__(self, msgcode, channelid=0, data=b""):
        self.msgcode = msgcode
        self.channelid = channelid
        self.data = data

    @staticmethod
    def from_io(io):
        """Read one message; EOFError at the end of input, LoadError where there is no message."""
        try:
            header = io.read(9)
            if not header:
                raise EOFError("empty read")
        except EOFError as exc:
            raise EOFError("couldn't load message header, %s" % exc)
        msgcode, channelid, size = _header.unpack(header)
        if msgcode not in Message._types or size < 0:
            raise LoadError("not a message header: %r" % (header,))
        return Message(msgcode, channelid, io.read(size) if size else b"")

    def to_io(self, io):
        """Write the message with one call of io.write."""
        io.write(_header.pack(self.msgcode, self.channelid, len(self.data)) + self.data)

    def received(self, gateway):
        """Do what the message asks of gateway."""
        self._types[self.msgcode][1](self, gateway)

    def __repr__(self):
        return "<Message %s channel=%s lendata=%s>" % (self._types[self.msgcode][0], self.channelid, len(self.data))

    def _status(self, gateway):
        gateway._answer_status(self.channelid, self.data)

    def _reconfigure(self, gateway):
        strconfig = loads_internal(self.data)
        if self.channelid == 0:
            gateway._strconfig = strconfig
        else:
            channel = gateway._channelfactory._live(self.channelid)
            if channel is not None:
                channel._strconfig = strconfig

    def _gateway_terminate(self, gateway):
        raise GatewayReceivedTerminate(gateway)

    def _channel_exec(self, gateway):
        channel = gateway._channelfactory.new(self.channelid)
        gateway._local_schedulexec(channel=channel, sourcetask=self.data)

    def _channel_data(self, gateway):
        gateway._channelfactory._local_receive(self.channelid, self.data)

    def _channel_close(self, gateway):
        gateway._channelfactory._local_close(self.channelid)

    def _channel_close_error(self, gateway):
        gateway._channelfactory._local_close(self.channelid, RemoteError(loads_internal(self.data)))

    def _channel_last_message(self, gateway):
        gateway._channelfactory._local_close(self.channelid, sendonly=True)


for _name, _code in list(vars(Message).items()):
    if _name.isupper():
        Message._types[_code] = (_name, Message.__dict__["_" + _name.lower()])


# sending

#: Whoever writes more at once to a pipe keeps the reader from it.
PIPE_STRETCH = 65536
#: What is shorter is joined with its header, to be one system call.
LONGEST_AT_ONCE = 32768
#: A thread that must not wait writes no more at once: every output takes this when poll() calls it writable.
SHORT_WRITE = 512
#: And as one of many such.
JOINED_WRITE = 4096 if sys.platform.startswith("linux") else SHORT_WRITE
#: And writes no more messages for others, which go on leaving them.
MOST_FOR_OTHERS = 100
#: How often a thread finds others writing before it has them write its message, too.
MOST_OVERTAKEN = 16
#: And after this many seconds it looks whether the thread that has the way will ever leave it.
OVERDUE = 1.0


class _Outgoing(object):
    # Bytes that are being sent; also what a thread holds its way to the other side by, while it writes.

    writes = None
    data = b""
    #: How far it was, whenever somebody noted it.
    positions = ()

    def __init__(self, ident, head=b"", data=b""):
        self.ident = ident
        self.head = head
        self.size = len(head)
        if data:
            self.data = data
            self.size += len(data)
        # Bytes that were written by this hold, of this message or, with writes, of (message, from where on, counts).
        self.counts = []

    def position(self):
        return max(self.positions or (0,))

    def note(self, position):
        vars(self).setdefault("positions", []).append(position)

    def is_written(self):
        return self.size in self.positions


class _Descriptor(object):
    # A descriptor of our own, closed once, at the latest when nobody has it any more.

    _open = []

    def __init__(self, function, *args):
        self._open = []
        # From the system call into the list in one step: a handler that raises lets none be forgotten.
        self._open.extend(starmap(function, (args,)))

    @property
    def closed(self):
        return not self._open

    def fileno(self):
        for fd in list(self._open):
            return fd
        raise ValueError("it is closed")

    def close(self):
        try:
            exhaust(imap(os.close, starmap(self._open.pop, _ONCE)))
        except IndexError:
            pass  # it was closed before

    __del__ = close


class _Way(object):
    # To the other side: a descriptor, or none, and the thread that writes to it.

    def __init__(self, fd=None, file=None):
        self.fd = fd
        self.file = file  # whose descriptor it is, if it is a copy
        self.holders = {}  # under None: the hold of the thread that writes
        self.successors = {}  # under None: the way that took its place


class Writer(object):
    """Writes messages to an io, whole and in order, one thread at a time.

    A thread that comes again, while it writes in code that was interrupted, takes the way over: it goes on by a copy
    of the descriptor, and the interrupted code is left with one that leads nowhere, for a system call that was
    interrupted is made again when the handler is done. What was written by a way that is not the present one, or no
    longer, does not count.
    """

    #: In a forked child, where the connection is the parent's.
    disowned = False

    def __init__(self, io, execmodel):
        self._io = io
        self._execmodel = execmodel
        threads = has_threads(execmodel)
        self.get_ident = execmodel.get_ident
        # The io's own, and the present one.
        self._io_way = self._way = _Way()
        self._free = Waiters(execmodel)
        # What a thread that must not wait leaves to whoever writes next; the first may have begun.
        self._left = deque()
        self._helpers = [self._send_left_waiting]
        self._closes = self._is_closed = False
        self.files = []
        # Asked for now: a green file does not tell its descriptor while it is being read.
        fds = threads and os.name == "posix" and getattr(io, "descriptors", tuple)()
        if fds:
            if fds[0] != fds[1]:
                self._io_way = self._way = _Way(fds[1])
            else:
                self._way = self._copy(fds[1])

    @staticmethod
    def is_receiver():
        """Whether this is the thread that others wait for, so that it must not wait here."""
        return False

    def note_receiver(self):
        """This thread is that one; a patch of the process may give it another number later."""
        get_ident = _thread.get_ident if has_threads(self._execmodel) else self.get_ident
        ident = get_ident()
        self.is_receiver = lambda: get_ident() == ident

    @property
    def way(self):
        # A handler may move it on meanwhile.
        way = self._way
        while way.successors:
            way = way.successors[None]
        self._way = way
        return way

    @property
    def fd(self):
        return self.way.fd

    def _copy(self, fd):
        file = _Descriptor(os.dup, fd)
        self.files.append(file)
        return _Way(file.fileno(), file)

    def send(self, message):
        """Write message, and return when it is written."""
        if self._closes:
            raise ValueError("write to closed file")
        way, counts = self._way, message.counts
        if way.successors:
            way = self.way
        holder, is_done = None, False
        try:
            if message.data:
                self._send_slowly(message)
                return
            try:
                holder = way.holders.setdefault(None, message)
                if holder is message and way.fd is not None and not (self._left or way.successors):
                    # From the system call into the list in one step: a handler that raises loses no count.
                    counts.extend(starmap(os.write, ((way.fd, message.head),)))
                    is_done = counts[0] == message.size and not way.successors
            except OSError as exc:
                _raise_unless_interrupted(exc)
            finally:
                if holder is message or (holder is None and way.holders.get(None) is message):
                    try:
                        self._leave(message, way)
                    except BaseException:  # of a handler
                        self._leave_after_all(message, way)
                        raise
            if not is_done:
                message.counts = []
                self._send_slowly(message)
        finally:
            if self._left or self._closes:
                self.send_left()

    def _send_slowly(self, message):
        ident = message.ident
        while not message.is_written():
            if self._is_closed:
                raise ValueError("write to closed file")
            way = self.way
            if self._left and not self._writes_for_others(way) and self._is_written_behind(message):
                continue
            holder = self._write_as(message, self._write_up_to)
            if holder is message:
                continue  # or was, until another one took the way over
            if holder.ident != ident:
                if self.is_receiver():
                    self._left.append(message)
                    break
                self._wait_with(message, way)
            elif not self._take_over(holder):
                self._left.append(message)
                break

    def _is_written_behind(self, message):
        # After what was left, by the helper; not where no thread can be started.
        self._left.append(message)
        self._start_helper()
        try:
            return not self._helpers and self._free.wait(lambda: message.is_written() or self._is_closed)
        finally:
            self._forget(message)

    def _wait_with(self, message, way):
        # For the way to be free; a thread that is overtaken again and again leaves the message to those that overtake.
        def is_so():
            looks.append(None)
            if len(looks) == MOST_OVERTAKEN:
                self._left.append(message)
            return self._may_look(way) or message.is_written()

        looks = []
        try:
            self._wait_for_way(way, is_so)
        except BaseException:  # of a signal handler
            if not message.position():
                self._forget(message)
            raise

    def _wait_for_way(self, way, is_so):
        # Handlers may have raised wherever a thread tried to leave it, or to wake others: then those leave it for it.
        while not self._free.wait(is_so, OVERDUE):
            holder = way.holders.get(None)
            if holder is not None and _is_forsaken(holder):
                self._leave_for(holder, way)

    def _may_look(self, way):
        # Whether a thread that found way held looks again. After the close it stays held.
        return not way.holders or way.successors or self._is_closed

    def send_soon(self, message):
        """Write message now if that takes no waiting, else leave it to whoever writes next, or to a thread."""
        self._left.append(message)
        self.send_left()

    def send_left(self):
        """Write what was left as far as that takes no waiting; a thread is started for more."""
        most = MOST_FOR_OTHERS
        try:
            while self._left and not self.way.holders:
                if not self._writes_for_others(self.way):
                    self._start_helper()
                    return
                first, hold = self._first_left(), _Outgoing(self.get_ident())
                waits = not most or self._write_as(hold, self._write_at_once) is hold
                if waits and first is not None and self._first_left() is first:
                    self._start_helper()
                    return
                most -= 1
        except (IOError, OSError, ValueError):
            self._left.clear()  # there is nobody to whom it could be sent
        if self._closes and not self._left:
            self._close_if_free()

    @staticmethod
    def _writes_for_others(way):
        # Without a descriptor it is not known what became of a message when a signal handler raised; and the event loop
        # of green threads, which runs finalizers, may not wait.
        return way.fd is not None or not (threads_are_green() or _thread.get_ident() == MAIN_THREAD)

    def _first_left(self):
        try:
            return self._left[0]
        except IndexError:
            return None

    def _takes_rest_of(self, message):
        if self.fd is None:
            return True
        return message.size - message.position() <= SHORT_WRITE and is_ready_for("POLLOUT", self.fd)

    def _start_helper(self):
        try:
            helper = self._helpers.pop()
        except IndexError:
            return  # it is at work
        try:
            self._execmodel.start(helper)
        except Exception:
            self._helpers.append(helper)  # no thread can be started: whoever writes next

    def _send_left_waiting(self):
        ident = self.get_ident()
        try:
            while self._left and not self._is_closed:
                hold, way = _Outgoing(ident), self.way
                if self._write_as(hold, self._write_oldest) is not hold:
                    self._wait_for_way(way, lambda way=way: self._may_look(way))
        except (IOError, OSError, ValueError):
            self._left.clear()
        self._helpers.append(self._send_left_waiting)
        self.send_left()

    def _write_as(self, hold, write):
        # Do what write does with the way, if nobody else is writing; returns the thread that is, or was until now.
        way, holder = self.way, None
        try:
            holder = way.holders.setdefault(None, hold)
            if holder is hold:
                write(hold, way)
            return holder
        finally:
            if holder is hold or (holder is None and way.holders.get(None) is hold):
                try:
                    self._leave(hold, way)
                except BaseException:  # of a handler
                    self._leave_after_all(hold, way)
                    raise

    # Functions of their own for the sake of the finally above: some Pythons do not count a loop's jump back to it.

    def _write_up_to(self, message, way):
        # By message, which is its own hold: what was left before it, and message.
        # What is left while this thread writes is for others to take along: it might never end.
        older = len(self._left)
        while not (message.is_written() or way.successors):
            first = self._first_left()
            for_others = (older > 0 or (first and first.position())) and self._writes_for_others(way)
            if first is None or first is message or not for_others:
                self._write(message, message, way)
            else:
                self._write_oldest(message, way)
            older -= 1
        if self._left:
            self._forget(message)

    def _write_at_once(self, hold, way):
        first = self._first_left()
        if first is not None and self._takes_rest_of(first):
            self._write_oldest(hold, way)

    def _write_oldest(self, hold, way):
        # Of those that were left.
        first = self._first_left()
        if first is None:
            return  # another thread took it along
        if first.ident is None:
            first = self._joined(first)
        if not first.is_written():
            self._write(first, hold, way)
        if first.is_written():
            self._forget(first)

    def _joined(self, first):
        # Of the messages that were left without waiting, as many as are written at once: else whoever leaves them in a
        # loop is faster. If a handler raises in here, some are sent twice, which does no harm.
        heads, size = [], 0
        try:
            oldest = list(islice(self._left, JOINED_WRITE // _header.size))
        except RuntimeError:
            return first  # a finalizer has just left one more
        for message in oldest:
            size += message.size
            if message.ident is not None or message.positions or size > JOINED_WRITE:
                break
            heads.append(message)
        if len(heads) < 2:
            return first
        joined = _Outgoing(None, b"".join([message.head for message in heads]))
        self._left.appendleft(joined)
        for message in heads:
            self._forget(message)
        return joined

    def _leave(self, hold, way):
        if hold.writes is not None or hold.counts != [hold.size]:
            self._note(hold, way)
        way.holders.pop(None, None)
        if way.successors:
            self._give_back(way)
        if self._free.any:
            self._free.wake()

    def _leave_after_all(self, hold, way):
        # A handler raised in _leave. If one does so in here, too, the way stays held until somebody leaves it for this
        # thread.
        if way.holders.get(None) is hold:
            self._leave(hold, way)
        else:  # which may be another's by now
            self._free.wake()

    def _leave_for(self, holder, way):
        # Its thread holds the way no longer. Several threads may do so at once, as if it were done once.
        self._note(holder, way)
        exhaust(removing(way.holders, None, holder))
        if way.successors:
            self._give_back(way)
        self._free.wake()

    def _give_back(self, way):
        # Nobody begins to write by a way that has a successor. Where nobody is in the middle of that, its descriptor
        # can be closed, which of the io's is for the end.
        hold = _Outgoing(None)
        if (self._is_closed or way is not self._io_way) and way.holders.setdefault(None, hold) is hold:
            self._close_way(way)

    def _close_way(self, way):
        # Held for good.
        if way is self._io_way:
            self._io.close_write()
        elif way.file is not None:
            self.files.remove(way.file)
            way.file.close()

    def _write(self, message, hold, way):
        if way.fd is None:
            is_written = False
            try:
                self._io.write(message.head + message.data)
                is_written = True
            finally:
                # What a signal handler raises in there does not say whether it was written: not twice.
                if is_written or message is hold:
                    message.note(message.size)
            return
        at, counts = message.position(), []
        hold.writes = message, at, counts
        head, data = message.head, memoryview(message.data)
        while at < message.size and not way.successors:
            start = at - len(head)
            piece = data[start : start + PIPE_STRETCH] if start >= 0 else head[at:]
            try:
                counts.extend(starmap(os.write, ((way.fd, piece),)))
                at += counts[-1]
            except OSError as exc:
                _raise_unless_interrupted(exc)
        self._note(hold, way)
        hold.writes = None

    def _note(self, hold, way):
        # How far the message is. What has begun must be finished before another one.
        message, start, counts = hold.writes or (hold, 0, hold.counts)
        position = start + sum(counts)
        if position and not way.successors:
            message.note(position)
            if position < message.size and message not in self._left:
                self._left.appendleft(message)

    def _forget(self, message):
        try:
            self._left.remove(message)
        except ValueError:
            pass

    def _take_over(self, holder):
        # Whether holder, which this very thread has in code that was interrupted, holds the way no longer. This may be
        # interrupted by the same, too: whatever is done twice then is as if it were done once.
        way = self.way
        if way.holders.get(None) is not holder:
            return True
        if not _is_within(holder, sys._getframe()):  # a handler raised when this thread was about to leave
            self._leave_for(holder, way)
            return True
        if way.fd is None or self._is_closed:  # whose number may be another file's by now
            return False
        try:
            nowhere = _Descriptor(os.open, os.devnull, os.O_WRONLY)
            try:
                copy = self._copy(way.fd)
                self._note(holder, way)
                if way.successors.setdefault(None, copy) is not copy:
                    self._close_way(copy)
                os.dup2(nowhere.fileno(), way.fd, *[False] * PY3)
            finally:
                nowhere.close()
        except (IOError, OSError):
            return False  # too many files are open
        self._free.wake()
        return True

    def step_aside(self):
        """To be called before a wait: what this thread was writing when it was interrupted is others' from now on."""
        holder = self.way.holders.get(None)
        if holder is not None and holder.ident == self.get_ident() and self._take_over(holder):
            self.send_left()

    def close(self, timeout):
        """Write nothing more: when what was left is written, or without it after timeout seconds, if given."""
        self._closes = True
        self.step_aside()
        if timeout:
            self._free.wait(lambda: self._is_closed or not self.way.holders, timeout)
            self._close_if_free()
        else:
            self.send_left()

    def _close_if_free(self):
        # The way stays held, by no thread: nobody writes by it from here on. A system call that was interrupted is
        # made again by the way that the thread had then: whoever leaves that closes it.
        hold, way = _Outgoing(None), self.way
        if self._is_closed or way.holders.setdefault(None, hold) is not hold:
            return
        if way.successors:  # just now
            self._leave(hold, way)
            self._close_if_free()
            return
        self._is_closed = True
        self._free.wake()
        try:
            self._close_way(way)
        finally:
            if way is not self._io_way:
                self._give_back(self._io_way)

    def disown(self):
        """In a forked child: whoever was writing is not there."""
        self.disowned = True
        self._way = _Way()
        self._left = deque()
        self._free = Waiters(self._execmodel)


#: The functions that hold a way, and by which of their variables.
_HOLDERS = {vars(Writer)["send"].__code__: "message", vars(Writer)["_write_as"].__code__: "hold"}


def _is_forsaken(holder):
    # Whether its thread goes on without ever coming back to a function that holds a way by holder; of a green thread,
    # and where no other thread can be asked, that is not known.
    frame = thread_frames().get(holder.ident)
    return frame is not None and not _is_within(holder, frame)


def _is_within(holder, frame):
    # Whether the thread of that frame goes on, when what interrupted it is done, in a function that holds a way so.
    while frame is not None:
        if frame.f_code in _HOLDERS and frame.f_locals.get(_HOLDERS[frame.f_code]) is holder:
            return True
        frame = frame.f_back
    return False


def _raise_unless_interrupted(exc):
    import errno  # lazy: it is rare

    if exc.errno != errno.EINTR:  # which Python 2 tells of
        raise exc


def _select():
    # The module, lazily: start-up speed; None where a task has seen to it that nothing can be imported.
    try:
        import select
    except (ImportError, OSError):
        return None
    return select


def is_ready_for(event, fd, unknown=True):
    """Whether fd is ready for event (poll's name for it, or None), or broken; unknown if that can't be asked."""
    select = _select()
    if not hasattr(select, "poll"):
        return unknown
    poll = select.poll()
    poll.register(fd, getattr(select, event) if event else 0)
    return bool(poll.poll(0))


# channels


class _Marker(object):
    def __init__(self, name):
        self._name = name

    def __repr__(self):
        return self._name


NO_ENDMARKER_WANTED = _Marker("NO_ENDMARKER_WANTED")
ENDMARKER = _Marker("ENDMARKER")


def _no_channel():
    return None


#: starmap(function, _ONCE) calls it once.
_ONCE = ((),)


class _Delivery(object):
    # A callback that is set, and the baton that its caller has: a lock that nobody waits for.

    def __init__(self, callback, endmarker, execmodel):
        self.callback = callback
        self.endmarker = endmarker
        self.baton = execmodel.Lock()
        self.baton.acquire()


#: With this many items waiting, the receiver waits for a callback that was set while it was busy ...
MOST_BEHIND = 100
#: ... but no longer than this many seconds for one call of it, which may itself wait for what the receiver has to read.
CALL_PATIENCE = 1.0


class _Drain(object):
    # What a thread does that sets a callback: it gives the callback what waited then, and hands over to the receiver if
    # that has asked for it. The receiver asks by a wish, a lock that it waits for. Taking the wish out of its list
    # decides, in one step: the thread that the receiver goes on, or does without; the receiver that it waits no
    # longer for a call, which may itself wait for what the receiver has to read.

    _stuck_at = -1

    def __init__(self, queue, execmodel):
        self._own = queue.count()
        self._execmodel = execmodel
        self._calls = 0
        self._wishes = []
        self._granted = []

    def is_handed_over(self):
        """Whether the receiver goes on; it has the baton then."""
        return bool(self._granted)

    def hands_over(self):
        """After each call, the thread's: whether the receiver goes on."""
        self._calls += 1
        if self._wishes and self._calls >= self._own:
            try:
                self._granted.extend(starmap(self._wishes.pop, _ONCE))
            except IndexError:
                pass  # taken back just now
            exhaust(imap(_release, self._granted))
        return self.is_handed_over()

    def end(self):
        """The thread's last step: the receiver waits no longer."""
        try:
            exhaust(imap(_release, starmap(self._wishes.pop, _ONCE)))
        except IndexError:
            pass  # there is no wish, or it was taken back

    def await_turn(self):
        """The receiver's: whether it is to go on in the thread's place."""
        calls = self._calls
        if calls == self._stuck_at:
            return False
        wish = self._execmodel._waiter()
        self._wishes.append(wish)
        while not (wish.acquire(True, CALL_PATIENCE) or self.is_handed_over()):
            if calls == self._calls and self._take_back():
                self._stuck_at = calls
                return False
            calls = self._calls
        return self.is_handed_over()

    def _take_back(self):
        try:
            self._wishes.pop()
        except IndexError:
            return False
        return True


class ItemQueue(object):
    """What waits to be received on one channel; it outlives the Channel object while a callback is set.

    An item is the raw payload (bytes), or the value in a 1-tuple where it had to be built on arrival.  Whoever waits
    for one waits for the bell, which one thread hears.  While there are items, or after the end, it has been rung, or
    the thread that heard it last has yet to look, and rings for the next one if there is more.
    """

    delivery = None

    def __init__(self, channel, execmodel):
        # lazy: the C core needs none; and made as a whole, for handlers and finalizers that come to this meanwhile
        from _weakref import ref

        self.channel = ref(channel)
        self.closed = self.write_closed = False
        self.errors = []
        self.strconfig = (True, False)
        self.items = deque()
        self._queues = getattr(getattr(channel.gateway, "_channelfactory", None), "_queues", {})
        self._execmodel = execmodel
        self._writer = getattr(channel.gateway, "_writer", None)
        self._bell = execmodel._waiter()
        self._waiters = Waiters(execmodel)
        self._ended = False

    @property
    def callback(self):
        return self.delivery and self.delivery.callback

    @property
    def endmarker(self):
        return self.delivery.endmarker if self.delivery else NO_ENDMARKER_WANTED

    def drop(self, id):
        """The Channel is going; unless its callback waits for more, what arrives for it is not kept any more."""
        self.channel = _no_channel
        is_ours = not (_is_unsettled() or self._writer is not None and self._writer.disowned)
        if is_ours and (self._ended or self.delivery is None):
            exhaust(removing(self._queues, id, self))

    def _ends_as_disowned(self):
        # In a forked child, where nobody else waits.
        if self._writer is None or not self._writer.disowned:
            return False
        self._bell = self._execmodel._waiter()
        self._waiters = Waiters(self._execmodel)
        self.set()
        return True

    def put(self, item):
        self.items.append(item)
        self._ring()

    def _ring(self):
        if self._bell.locked():
            try:
                self._bell.release()
            except _thread.error:
                pass  # another thread did

    def put_back(self, taken):
        """What was taken is the next item again."""
        if taken and taken[0] is not ENDMARKER:
            try:
                self.items.extendleft(taken)
            finally:
                self._ring()

    def take(self, taken, timeout=None, wakeup=LONGEST_WAIT):
        """Move the next item into the list taken, in one step, or put ENDMARKER there after the end.

        Leaves it empty if there was nothing within timeout seconds.
        """
        if (self.items or self._ended or self._ends_as_disowned()) and self._takes(taken):
            return
        is_green = type(_thread.start_new_thread) is not _BUILTIN and threads_are_green()
        if wakeup > SIGNALS_WAIT and (is_green or _thread.get_ident() == MAIN_THREAD):
            wakeup = SIGNALS_WAIT
        bell = self._bell
        if is_green and type(bell) is _SYSTEM_LOCK:  # from before the patch
            bell = _PolledLock(bell)
        deadline = timeout if timeout is None else now() + timeout
        while not taken:
            self._step_aside()
            seconds = wakeup if deadline is None else min(wakeup, deadline - now())
            if seconds <= 0:
                break
            try:
                bell.acquire(True, seconds)
                self._takes(taken)
            finally:
                if self.items or self._ended:
                    self._ring()

    def _step_aside(self):
        if self._writer is not None and (self._writer._way.holders or self._writer._way.successors):
            self._writer.step_aside()

    def _takes(self, taken):
        # Whether one was taken, now or before.
        ended = self._ended  # asked first: what came before the end is there then
        if taken:
            pass
        elif self.items:
            try:
                taken.extend(starmap(self.items.popleft, _ONCE))
            except IndexError:
                pass  # another thread was faster
        elif ended:
            taken.append(ENDMARKER)
        return taken

    def get_nowait(self):
        """The next item, ENDMARKER after the end, None if there is none."""
        taken = []
        self.take(taken, 0)
        return taken[0] if taken else None

    def is_set(self):
        """Whether nothing more can arrive."""
        return self._ended

    isSet = is_set

    def set(self):
        """Let nothing more arrive, and wake all that wait."""
        try:
            self._ended = True
        finally:
            try:
                self._ring()
            finally:
                self._waiters.wake()

    def wait(self, timeout=None):
        """Wait until nothing more can arrive; returns whether that is so after timeout seconds."""
        if self._ends_as_disowned():
            return True
        self._step_aside()
        return self._waiters.wait(self.is_set, timeout)

    def begin_callback(self, callback, endmarker):
        """Set the callback, unless there is one; whoever does gives it what waits, by next_for_callback()."""
        delivery = _Delivery(callback, endmarker, self._execmodel)
        return vars(self).setdefault("delivery", delivery) is delivery

    def abandon_callback(self):
        """Forget the callback: it raised when it was given what waits."""
        vars(self).pop("delivery", None)

    def next_for_callback(self, taken):
        """The next item for the holder of the baton, put into the list taken as well; without one, the baton is let go.

        It is let go at the ENDMARKER, too, which is in no list.
        """
        delivery = self.delivery
        while delivery is not None and not (self._takes(taken) and taken[0] is not ENDMARKER):
            delivery.baton.release()
            # Whoever came with more meanwhile did not get the baton.
            if taken or not self.is_waiting() or not delivery.baton.acquire(False):
                break
        if taken and taken[0] is ENDMARKER:
            return taken.pop()
        return taken[0] if taken else None

    def count(self):
        """How many items wait."""
        return len(self.items)

    def is_waiting(self):
        """Whether the callback has still to be called."""
        return self.items or self._ended

    def take_endmarker(self):
        """The end marker, once; not (NO_ENDMARKER_WANTED) while items are delivered: whoever does that looks again."""
        delivery = self.delivery
        # Whoever gets this baton keeps it: after the end marker the callback is not called.
        if delivery is None or not delivery.baton.acquire(False):
            return NO_ENDMARKER_WANTED
        endmarker, delivery.endmarker = delivery.endmarker, NO_ENDMARKER_WANTED
        return endmarker


class PortableChannel(object):
    """The part of a channel that runs per item, in Python; the C core has its twin."""

    def __init__(self, gateway, id):
        self.gateway = gateway
        self.id = id

    def send(self, item):
        """Send item to the other side and return when the operating system has taken it.

        OSError if this channel or the connection is closed, DumpError if item can't be serialized (then
        nothing is sent).
        """
        if self._queue.closed or self._queue.write_closed:
            raise IOError("cannot send to %r" % (self,))
        self.gateway._send(Message.CHANNEL_DATA, self.id, dumps_internal(item, self.gateway))

    def receive(self, timeout=None):
        """The next item the other side sent; waits for it, at most timeout seconds if given.

        TimeoutError if no item came in time.  After the last item: RemoteError (once) if the remote code
        failed, else EOFError.  OSError if a callback is set.
        """
        queue = self._queue
        if queue.delivery is not None:
            raise IOError("cannot receive(), channel has receiver callback")
        taken = []
        try:
            queue.take(taken, timeout, self._INTERNALWAKEUP)
            item = taken[0] if taken else None
            if type(item) is bytes:
                return loads_internal(item, None, queue.strconfig)
            return self._receive_other(item, timeout)
        except (DataFormatError, EOFError):
            raise
        except BaseException:  # a signal handler raised
            queue.put_back(taken)
            raise

    def __next__(self):
        try:
            return self.receive()
        except EOFError:
            raise StopIteration()


def _find_core():
    """The C core that belongs to this very text, or None."""
    if os.environ.get("EXECNET_PURE") or not PY3:
        return None
    try:
        if __name__ == "execnet.gateway_base":
            from execnet import _core as found
        else:
            found = _find_core_from_afar()
    except (ImportError, SyntaxError):  # SyntaxError: that execnet is too new for this Python
        return None
    return found if getattr(found, "ABI", None) == CORE_ABI else None


def _find_core_from_afar():
    # A shipped text must not import some other execnet that the far side happens to have: it looks for the
    # extension file first.
    for folder in sys.path:
        base = os.path.join(folder, "execnet")
        if os.path.isdir(base):
            if not any(name.startswith("_core.") for name in os.listdir(base)):
                return None
            from execnet import _core as found

            return found
    return None


_core = _find_core()
#: The same where it has connections, too: only on POSIX, and with a GIL.
_posix_core = _core if hasattr(_core, "Connection") else None
#: Which core does the work per message and value: "c" or "portable".
core = "portable" if _core is None else "c"


def _as_remote_error(error):
    # The C core keeps an error as it came.
    return RemoteError(loads_internal(error)) if type(error) is bytes else error


class Channel(PortableChannel if _posix_core is None else _posix_core.Channel):
    """One end of a bidirectional stream of items between two sides of a gateway."""

    RemoteError = RemoteError
    TimeoutError = TimeoutError
    _INTERNALWAKEUP = 1000
    _executing = False
    _portable_send = PortableChannel.__dict__["send"]
    _portable_receive = PortableChannel.__dict__["receive"]

    def __init__(self, gateway, id):
        super(Channel, self).__init__(gateway, id)
        connection = getattr(gateway, "_connection", None)
        self._queue = ItemQueue(self, gateway.execmodel) if connection is None else _core.ItemQueue(self, connection)
        self._queue.strconfig = getattr(gateway, "_strconfig", (True, False))

    def __repr__(self):
        sends = "closed for sending" if self._queue.write_closed else "open"
        return "<Channel id=%d %s>" % (self.id, "closed" if self._closed else sends)

    def __iter__(self):
        return self

    def next(self):
        """The next item; StopIteration after the last."""
        return self.__next__()

    @property
    def _closed(self):
        return self._queue.closed

    @_closed.setter
    def _closed(self, closed):
        self._queue.closed = closed

    @property
    def _receiveclosed(self):
        return self._queue

    @property
    def _items(self):
        return self._queue if self._queue.callback is None else None

    @property
    def _strconfig(self):
        return self._queue.strconfig

    @_strconfig.setter
    def _strconfig(self, strconfig):
        self._queue.strconfig = strconfig

    def _trace(self, *msg):
        self.gateway._trace(self.id, *msg)

    def _receive_other(self, item, timeout):
        # What receive() does with an item that is no payload.
        if item is None:
            raise self.TimeoutError("no item after %r seconds" % (timeout,))
        if item is ENDMARKER:
            end = EOFError("%r: the other side sends nothing more" % (self,))
            end.gateway_id = getattr(self.gateway, "id", None)
            raise self._getremoteerror() or end
        return item[0]

    def _getremoteerror(self):
        try:
            return _as_remote_error(self._queue.errors.pop(0))
        except IndexError:
            error = getattr(self.gateway, "_error", None)
            return error and _without_traceback(error)

    def isclosed(self):
        """Whether the channel is closed; items that arrived before may still be received."""
        return self._closed

    def waitclose(self, timeout=None):
        """Wait until nothing more can arrive.

        RemoteError if the remote code failed, EOFError if the connection broke, TimeoutError after timeout seconds.
        """
        if not self._queue.wait(timeout):
            raise self.TimeoutError("channel not closed after %r seconds" % (timeout,))
        error = self._getremoteerror()
        if error:
            raise error

    def close(self, error=None):
        """Close the channel on both sides; with a string error the other side gets RemoteError(error)."""
        if self._executing:
            raise IOError("cannot explicitly close channel within remote_exec")
        self._close(error)

    def close_write(self):
        """Send nothing more: after the last item the other side gets EOFError, or its end marker; it may still send.

        send() raises OSError from then on; receive() and callbacks go on.  Does nothing the second time, and when the
        channel is closed; OSError if the connection is.
        """
        queue = self._queue
        if queue.closed or queue.write_closed:
            return
        try:
            queue.write_closed = True
            self.gateway._send(Message.CHANNEL_LAST_MESSAGE, self.id)
        except BaseException:  # of a signal handler, too: no other close_write() does this; told twice does no harm
            queue.write_closed = True
            self._send_soon(Message.CHANNEL_LAST_MESSAGE)
            raise

    def _send_soon(self, code):
        getattr(self.gateway, "_send_soon", self.gateway._send)(code, self.id)

    def _close(self, error=None):
        queue, factory = self._queue, self.gateway._channelfactory
        if queue.closed:
            self._trace("close() of a closed channel")
            return
        # The queue of an open channel ends with the connection, or when the other side only lost its Channel.
        message = None
        if not getattr(self.gateway, "_disowned", False) and not (queue.is_set() and factory.finished):
            message = (Message.CHANNEL_CLOSE, self.id)
            if error is not None:
                message = (Message.CHANNEL_CLOSE_ERROR, self.id, dumps_internal(error))
        told = [] if message else [None]
        try:
            if isinstance(error, RemoteError):
                queue.errors.append(error)
            self._end_here(queue)
            if not told:
                self.gateway._send(*message)
                told.append(message)
            factory._end_callback(queue)
        except BaseException:
            # A signal handler may raise at any of these steps: all are done nevertheless. No other close() does them.
            self._end_here(queue)
            if not told:  # or it is not known: it does no harm to be told twice
                self._send_soon(Message.CHANNEL_CLOSE)
            factory._end_callback(queue)
            raise

    def _end_here(self, queue):
        queue.closed = True
        exhaust(removing(self.gateway._channelfactory._queues, self.id, queue))
        queue.set()

    def setcallback(self, callback, endmarker=NO_ENDMARKER_WANTED):
        """Call callback(item) for every item: at once for those that wait, then in the receiver thread as they arrive.

        With an endmarker, callback(endmarker) is the last call.  OSError if a callback is set already.

        What the callback raises for an item that waits is raised here, and then no callback is set; nor is one when a
        signal handler raises here, unless the receiver has taken over by then.  In the receiver thread, an Exception
        closes the channel, with its traceback for both sides; KeyboardInterrupt and SystemExit end the receiver: all
        channels of the gateway end, with an EOFError that says so.  A process that the callback forked is left when the
        callback returns.
        """
        queue = self._queue
        drain = _Drain(queue, self.gateway.execmodel)
        refused = False
        try:
            refused = not queue.begin_callback(callback, endmarker)
            if refused:
                raise IOError("%r has callback already registered" % (self,))
            getattr(self.gateway, "_callback_begins", bool)()
            self.gateway._channelfactory._deliver_waiting(self.id, queue, drain)
        except BaseException:  # also of a signal handler, at any of these steps
            if not refused and queue.callback is callback and not drain.is_handed_over():
                queue.abandon_callback()
            raise

    def reconfigure(self, py2str_as_py3str=True, py3str_as_py2str=False):
        """Set how strings are read on this channel, on both sides, from now on."""
        self._strconfig = (py2str_as_py3str, py3str_as_py2str)
        self.gateway._send(Message.RECONFIGURE, self.id, dumps_internal(self._strconfig))

    def makefile(self, mode="w", proxyclose=False):
        """A file-like object that sends what is written to it ("w") or reads what is received ("r").

        With proxyclose its close() closes the channel.  ValueError for another mode.
        """
        if mode == "w":
            return ChannelFileWrite(channel=self, proxyclose=proxyclose)
        if mode == "r":
            return ChannelFileRead(channel=self, proxyclose=proxyclose)
        raise ValueError("mode %r not available, only 'w' and 'r'" % (mode,))

    def __del__(self):
        queue = getattr(self, "_queue", None)
        if queue is None or self.gateway is None or _thread is None:  # the last: the interpreter takes modules apart
            return
        closed = queue.closed
        try:
            self._drop(queue, closed)
        except BaseException:  # of a signal handler, which may raise anywhere: nobody else does this
            self._drop(queue, closed)
            raise

    def _drop(self, queue, closed):
        queue.drop(self.id)
        while queue.errors:
            self._getremoteerror().warn()
        factory = getattr(self.gateway, "_channelfactory", None)
        ended, has_callback = queue.is_set(), queue.callback is not None
        if closed or queue.write_closed and has_callback and not ended:
            return
        if not has_callback:
            # Whoever got hold of the Channel just now, from the queue, has one that is closed.
            queue.closed = True
            queue.set()
        if not ended or not getattr(factory, "finished", True):
            code = Message.CHANNEL_LAST_MESSAGE if has_callback and not ended else Message.CHANNEL_CLOSE
            try:
                self._send_soon(code)
            except (IOError, ValueError):
                # The connection is gone, and with it the side that was to be told.
                pass


class ChannelFactory(object):
    """The channels of one side of a gateway."""

    def __init__(self, gateway, startcount=1):
        self.gateway = gateway
        self.finished = False
        self._ids = count(startcount, 2)
        # Finalizers take queues out, anywhere: whoever goes through it makes a list of the keys first.
        self._queues = {}
        # What threads deliver that have just set a callback, by channel id.
        self._drains = {}

    def new(self, id=None):
        """The channel of that id, or a new one; OSError once the connection has ended."""
        if id is None:
            id = next(self._ids)
        channel = self._live(id)
        while channel is None:
            made = Channel(self.gateway, id)
            queue = self._queues.setdefault(id, made._queue)
            channel = queue.channel()
            if channel is not made:
                made._closed = True  # it was never there: nobody is told of its end
            if channel is None:
                exhaust(removing(self._queues, id, queue))
        # Asked last: who sets it closes what is registered afterwards.
        if self.finished:
            channel._queue.closed = True
            exhaust(removing(self._queues, id, channel._queue))
            channel._queue.set()
            error = getattr(self.gateway, "_error", None)
            raise IOError("connection already closed: %s" % (error or repr(self.gateway)))
        return channel

    def _live(self, id):
        queue = self._queues.get(id)
        return queue and queue.channel()

    def channels(self):
        """The channels in use, in no order."""
        return list(self._channels.values())

    @property
    def _channels(self):
        pairs = [(id, self._live(id)) for id in list(self._queues)]
        return {id: channel for id, channel in pairs if channel is not None}

    @property
    def _callbacks(self):
        pairs = [(id, self._queues.get(id)) for id in list(self._queues)]
        return {
            id: (queue.callback, getattr(queue, "endmarker", NO_ENDMARKER_WANTED), queue.strconfig)
            for id, queue in pairs
            if queue is not None and queue.callback is not None
        }

    def _no_longer_opened(self, id):
        queue = self._queues.pop(id, None)
        if queue is not None:
            queue.set()
            self._end_callback(queue)

    def _end_callback(self, queue):
        # Exactly once: whoever takes the end marker out delivers it. A child that a callback forked hears no end.
        if getattr(self.gateway, "_disowned", False):
            return
        endmarker, callback = queue.take_endmarker(), queue.callback
        if endmarker is not NO_ENDMARKER_WANTED and callback is not None:
            try:
                callback(endmarker)
            except Exception as exc:
                self.gateway._trace("exception during callback of an end marker: %s" % geterrortext(exc))

    def _local_close(self, id, remoteerror=None, sendonly=False):
        # The other side closed the channel, or with sendonly: sends nothing more, and may still want to receive. Then
        # the channel stays registered, for its close.
        queue = self._settle(id, remoteerror, sendonly)
        if queue is not None:
            self._end_callback(queue)

    def _settle(self, id, remoteerror=None, sendonly=False):
        # All of the end of a channel but the callback.
        if remoteerror is not None and not isinstance(remoteerror, RemoteError):
            remoteerror = RemoteError(remoteerror)
        queue = self._queues.get(id)
        channel = queue and queue.channel()
        if channel is not None:
            if remoteerror is not None:
                queue.errors.append(remoteerror)
            if not sendonly:
                queue.closed = True
        elif remoteerror is not None:
            remoteerror.warn()
        if queue is not None:
            if not sendonly or self.finished:
                exhaust(removing(self._queues, id, queue))
            queue.set()
            # Asked after the end is set: whoever drops the Channel asks for the end afterwards.
            if queue.channel() is None:
                exhaust(removing(self._queues, id, queue))
        return queue

    def _local_receive(self, id, data):
        queue = self._queues.get(id)
        delivery = queue and queue.delivery
        if queue is None or queue.is_set() or (delivery is None and queue.channel() is None):
            self.gateway._trace("dropping data for channel", id)
            return
        if delivery is not None and not queue.items and delivery.baton.acquire(False):
            try:
                try:
                    delivery.callback(loads_internal(data, self, queue.strconfig))
                finally:
                    delivery.baton.release()
            except Exception as exc:
                self._callback_failed(id, exc)
        else:
            queue.put(self._as_item(data, queue))
            delivery = queue.delivery
            if delivery is not None and queue.count() >= MOST_BEHIND:
                self._catch_up(id, queue)
        # A callback may have been set just now, or what it did let something wait.
        if delivery is not None and queue.is_waiting() and delivery.baton.acquire(False):
            try:
                self._deliver(queue)
            except BaseException as exc:
                delivery.baton.release()
                if not isinstance(exc, Exception):
                    raise
                self._callback_failed(id, exc)

    def _as_item(self, data, queue):
        # A channel inside must be there before the next message, which may be for it.
        if opcode.CHANNEL in data:
            try:
                return (loads_internal(data, self, queue.strconfig),)
            except (DataFormatError, EOFError):
                pass  # told to whoever receives it
        return data

    def _deliver_waiting(self, id, queue, drain):
        # To a callback that has just been set.
        self._drains[id] = drain
        try:
            self._deliver(queue, drain)
        finally:
            self._drains.pop(id, None)
            drain.end()

    def _catch_up(self, id, queue):
        # The receiver, when a callback that has been set is slower than what arrives: nothing more is read until the
        # thread that gives it what waits is done with what waited at first; the receiver goes on in its place.
        drain = self._drains.get(id)
        if drain is None or not drain.await_turn():
            return
        try:
            self._deliver(queue)
        except BaseException as exc:
            is_failure = isinstance(exc, Exception)
            if is_failure:
                self._callback_failed(id, exc)
            item = ()
            while item is not None and item is not ENDMARKER:  # which leaves the end marker to whoever asks next
                item = queue.next_for_callback([])
            if not is_failure:
                raise
            self._end_callback(queue)

    def _deliver(self, queue, drain=None):
        # What waits, to the callback, by whoever has begun it or has its baton.
        taken = []
        try:
            ends = self._deliver_items(queue, taken, drain)
        except (DataFormatError, EOFError):
            raise
        except BaseException:
            queue.put_back(taken)
            raise
        if ends:
            self._end_callback(queue)

    def _deliver_items(self, queue, taken, drain):
        # Whether the end came. A function of its own, as _write_up_to is.
        callback, item = queue.callback, queue.next_for_callback(taken)
        while item is not None and item is not ENDMARKER:
            value = item[0] if type(item) is tuple else loads_internal(item, self, queue.strconfig)
            # From the list into the callback in one step: a handler that raises before it loses no item.
            returned = []
            returned.extend(imap(callback, compress((value,), starmap(taken.pop, _ONCE))))
            if not returned:
                raise RuntimeError("callback raised StopIteration")
            if drain is not None and (getattr(self.gateway, "_disowned", False) or drain.hands_over()):
                return False
            item = queue.next_for_callback(taken)
        return item is ENDMARKER

    def _callback_failed(self, id, exc):
        if getattr(self.gateway, "_disowned", False):
            self.gateway._leave_as_child(exc)
        errortext = self.gateway._geterrortext(exc)
        self.gateway._trace("exception during callback:", errortext)
        queue = self._settle(id, errortext)
        self._tell(Message.CHANNEL_CLOSE_ERROR, id, dumps_internal(errortext))
        if queue is not None:
            self._end_callback(queue)

    def _tell(self, *message):
        # What the receiver answers; if nobody is there to hear it, that is no reason to end.
        try:
            self.gateway._send(*message)
        except IOError as exc:
            self.gateway._trace("can't tell:", exc)

    def _disown(self):
        # In a forked child: no callback may run. Without a GIL, a thread that is not there may have locked the queues'
        # table; their connection ends them, or each itself when it is asked.
        self.finished = True
        self._queues = {}

    def _finished_receiving(self):
        self.finished = True
        for id in list(self._queues):
            raised = None
            try:
                self._local_close(id, sendonly=True)
            except BaseException as exc:  # SystemExit ends the receiver, which ends anyway: the others are told, too
                raised = exc
                self.gateway._trace("a callback raised at the end:", repr(exc))
            if getattr(self.gateway, "_disowned", False):
                self.gateway._leave_as_child(raised)


class ChannelFile(object):
    """Base of the files that write to a channel or read from it."""

    def __init__(self, channel, proxyclose=True):
        self.channel = channel
        self._proxyclose = proxyclose

    def isatty(self):
        return False

    def close(self):
        if self._proxyclose:
            self.channel.close()

    def __repr__(self):
        state = "closed" if self.channel.isclosed() else "open"
        return "<%s %r %s>" % (self.__class__.__name__, self.channel.id, state)


class ChannelFileWrite(ChannelFile):
    """A file whose writes are sent as items."""

    def write(self, out):
        self.channel.send(out)

    def flush(self):
        """Nothing to do: an item is sent when it is written."""


class ChannelFileRead(ChannelFile):
    """A file that reads received strings as one text."""

    def __init__(self, channel, proxyclose=True):
        super(ChannelFileRead, self).__init__(channel, proxyclose)
        self._buffer = None

    def _more(self):
        try:
            item = self.channel.receive()
        except EOFError:
            self.close()
            return False
        self._buffer = item if self._buffer is None else self._buffer + item
        return True

    def _take(self, count):
        buffered = self._buffer
        if buffered is None:
            return ""
        self._buffer = buffered[count:]
        return buffered[:count]

    def read(self, n):
        """n characters, fewer only at the end."""
        while (self._buffer is None or len(self._buffer) < n) and self._more():
            pass
        return self._take(n)

    def readline(self):
        """A line with its newline, the rest at the end, an empty string after it."""
        while True:
            buffered = self._buffer
            if buffered is not None:
                newline = b"\n" if isinstance(buffered, bytes) else unicode("\n")
                end = buffered.find(newline)
                if end >= 0:
                    return self._take(end + 1)
            if not self._more():
                return self._take(len(buffered or ""))


# gateways


def _files_of(io):
    # The raw ones: in a forked child, a buffered one may be locked by a thread that is not there.
    files = [getattr(io, name, None) for name in ("infile", "outfile", "sock")]
    return _numbers_of([getattr(file, "raw", file) for file in files])


def _numbers_of(files):
    numbers = []
    for file in files:
        try:
            numbers.append((file, file.fileno()))
        except (AttributeError, IOError, ValueError):
            pass  # there is none, or the system does not know it
    return numbers


#: The gateways whose receiver runs; without values, as of_parent() wants it.
_receiving = {}
#: The process that this one was before it was forked, until its gateways are disowned; on Python 2 no hook can do that.
_process = os.getpid() if hasattr(os, "register_at_fork") else None
#: One for each fork under way, and in a forked child for that fork: while there is none, this process needs not ask who
#: it is.
_forks = []


def _main_thread_is(ident):
    global MAIN_THREAD
    MAIN_THREAD = ident
    if _posix_core is not None:
        _posix_core.set_main_thread(ident)


_main_thread_is(MAIN_THREAD)


def of_parent(table):
    """The keys of a dict without values, in a forked child, where it is used no more.

    Without a GIL, a thread that is not there may have locked it: only C code can look nevertheless.
    """
    return list(table) if _posix_core is None else _posix_core.unlocked_keys(table)


def _disown_gateways():
    global _process, _receiving, _threads
    # The thread that forked is the main thread here.
    _main_thread_is(_thread.get_ident())
    _threads = {}
    disowned = of_parent(_receiving)
    _receiving = {}
    try:
        for gateway in disowned:
            gateway._disown()
        for gateway in disowned:
            gateway._let_go()
    finally:
        _process = os.getpid()
        if _posix_core is not None:
            _posix_core.settle()


def _is_unsettled():
    # In a forked child, finalizers and the hooks of others run before that of ours.
    return bool(_forks) and _process != os.getpid()


def _lead_nowhere(fd):
    # The descriptor's number stays taken, for whoever closes it later.
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
    except (IOError, OSError):  # too many files are open: its own number is the only free one
        os.close(fd)
        nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != fd:
        os.dup2(nowhere, fd, False)
        os.close(nowhere)


if hasattr(os, "register_at_fork"):
    # Methods of a list: what a signal's handler raises in a hook in Python is printed and forgotten.
    _bound = type(_main_thread_is.__get__(0))
    os.register_at_fork(
        before=_bound(_forks.append, True),
        after_in_parent=_bound(_forks.__delitem__, slice(1)),
        after_in_child=_disown_gateways,
    )


class BaseGateway(object):
    """What both sides of a connection have: the receiver, sending, the channels."""

    _core = core
    _sysex = sysex
    _disowned = False
    _writer = None
    id = "<worker>"

    def __init__(self, io, id, _startcount=2):
        self.execmodel = io.execmodel
        self._io = io
        self.id = id
        self._strconfig = (True, False)
        self._receivelock = self.execmodel.RLock()  # for whoever wants one; nothing here takes it
        # Asked for now: a green file does not tell its descriptor while it is being read.
        self._files = _files_of(io)
        self._connection = self._core_connection(io)
        if self._connection is None:
            self._writer = Writer(io, self.execmodel)
        self._channelfactory = ChannelFactory(self, _startcount)
        if self._connection is not None:
            self._connection.attach(self._channelfactory, self._channelfactory._queues, self._received)
        self._receivepool = WorkerPool(self.execmodel)

    @staticmethod
    def _core_connection(io):
        # The C core works on descriptors with threads; whoever traces wants to see every message.
        if _posix_core is None or trace is not notrace or not has_threads(io.execmodel):
            return None
        descriptors = getattr(io, "descriptors", None)
        fds = descriptors and descriptors()
        return fds and _posix_core.Connection(_codec, fds[0], fds[1], getattr(io, "zero_copy", False))

    def _trace(self, *msg):
        trace(self.id, *msg)

    def _geterrortext(self, exc):
        return geterrortext(exc)

    def _initreceive(self):
        self._receives_in_thread = has_threads(self.execmodel)
        _receiving[self] = None
        try:
            self._receivepool.spawn(self._thread_receiver)
        except BaseException:
            _receiving.pop(self, None)
            raise

    def _thread_receiver(self):
        self._trace("starting to receive")
        lost = True
        try:
            self._receive_messages()
        except GatewayReceivedTerminate:
            self._trace("asked to end")
            lost = False
        except EOFError as exc:
            self._trace("EOF without prior gateway termination message")
            self._error = self._end_error(exc)
        except (IOError, OSError) as exc:
            # A socket whose other end died is reset.
            self._trace("can't read:", exc)
            self._error = self._end_error(EOFError("can't read: %s" % exc))
        except Exception as exc:
            self._trace(self._geterrortext(exc))
            self._error = EOFError("connection given up: %s: %s" % (type(exc).__name__, exc))
        except BaseException as exc:
            self._trace("ended by", type(exc).__name__)
            self._error = EOFError("a callback ended the receiver: %r" % (exc,))
            lost = False
        self._channelfactory._finished_receiving()
        if self._connection is not None:
            self._connection.stop()
        self._terminate_execution(lost)
        self._before_closing()
        for close, args in ((self._io.close_read, ()), (self._close_write, (1.0,))):
            try:
                close(*args)
            except (IOError, OSError, ValueError) as exc:
                self._trace("closing:", exc)
        _receiving.pop(self, None)
        self._trace("receiver ends")

    def _receive_messages(self):
        try:
            if self._connection is not None:
                self._connection.receive()
            self._writer.note_receiver()
            while not self._disowned:
                message = Message.from_io(self._io)
                if trace is not notrace:
                    self._trace("received", message)
                message.received(self)
                del message
        finally:
            if self._disowned:
                exc = sys.exc_info()[1]
                self._leave_as_child(exc if isinstance(exc, SystemExit) else None)

    def _leave_as_child(self, exc):
        # What runs here has forked, and this is the child: all other work is the parent's.
        status = exc is not None
        try:
            if isinstance(exc, SystemExit):
                status = exc.code
            elif status:
                sys.stderr.write(self._geterrortext(exc))
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status if isinstance(status, int) else bool(status))

    def _received(self, msgcode, channelid, data, channel):
        # What the C core does not do itself; a channel that it made for a task may have ended meanwhile.
        if channel is None:
            Message(msgcode, channelid, data).received(self)
        else:
            self._local_schedulexec(channel=channel, sourcetask=data)

    def _end_error(self, exc):
        """What channels raise after the end of input that exc tells of."""
        return exc

    def _callback_begins(self):
        """Called when a callback is set, which may keep the receiver for long."""

    def _terminate_execution(self, lost):
        """Called when nothing more can be received: the worker ends its tasks."""

    @staticmethod
    def _before_closing():
        """Called when the tasks have ended, while something can still be sent; script/output.py has another one."""

    def _disown(self):
        # In a forked child: the connection, its threads and the state of its locks are the parent's.
        self._disowned = True
        self._error = self._disowned_error()
        if self._connection is not None:
            self._connection.disown()
        else:
            self._writer.disown()
        self._receivelock = self.execmodel.RLock()
        self._receivepool = WorkerPool(self.execmodel)
        self._channelfactory._disown()

    def _disowned_error(self):
        return IOError("gateway %r belongs to the process that this one was forked from" % (self.id,))

    def _let_go(self):
        # In a forked child: the descriptors are no way to the other side any more.
        for file, fd in self._files + _numbers_of(self._writer.files if self._writer is not None else ()):
            if not (file.closed if hasattr(file, "closed") else file.fileno() < 0):
                _lead_nowhere(fd)

    def _send(self, msgcode, channelid=0, data=b""):
        if self._disowned:
            raise _without_traceback(self._error)
        if self._connection is not None:
            self._connection.send(msgcode, channelid, data)
            return
        if _is_unsettled():
            raise self._disowned_error()
        writer, header = self._writer, _header.pack(msgcode, channelid, len(data))
        if len(data) < LONGEST_AT_ONCE:
            message = _Outgoing(writer.get_ident(), header + data)
        else:
            message = _Outgoing(writer.get_ident(), header, data)
        try:
            writer.send(message)
        except (IOError, OSError, ValueError) as exc:
            self._trace("failed to send", exc)
            # ValueError: the file is closed
            raise IOError("cannot send (already closed?): %s" % exc)
        if trace is not notrace:
            self._trace("sent", Message(msgcode, channelid, data))

    def _send_soon(self, msgcode, channelid=0):
        # Never waits: a finalizer may run in the middle of a write of its own thread, and whoever says goodbye
        # may find the pipe full.
        if self._disowned:
            return
        if self._connection is not None:
            self._connection.send_soon(msgcode, channelid)
        elif not _is_unsettled():
            self._writer.send_soon(_Outgoing(None, _header.pack(msgcode, channelid, 0)))

    def _close_write(self, timeout=0.0):
        # A descriptor that a thread still writes to stays open, or it could become another file's: with the C core the
        # receiver's end closes it, else whoever leaves as the writer.
        if self._connection is None:
            self._writer.close(timeout)
        elif self._connection.close_write(timeout):
            self._io.close_write()

    def _answer_status(self, channelid, question=b""):
        self._channelfactory._tell(Message.CHANNEL_DATA, channelid, self._answer(question))
        self._channelfactory._tell(Message.CHANNEL_CLOSE, channelid)

    def _answer(self, question):
        status = {
            "numchannels": len(self._channelfactory.channels()),
            "numexecuting": self._numexecuting(),
            "execmodel": self.execmodel.backend,
        }
        return dumps_internal(status)

    def _numexecuting(self):
        return 0

    def _local_schedulexec(self, channel, sourcetask):
        channel.close("execution disallowed")

    # The public part.

    def newchannel(self):
        """A new channel, to be sent to the other side inside an item."""
        return self._channelfactory.new()

    def join(self, timeout=None):
        """Wait until the receiver has ended, at most timeout seconds if given."""
        if self._writer is not None:
            self._writer.step_aside()
        self._receivepool.waitall(timeout)


def _lost_times():
    try:
        interrupt_after, leave_after = [float(part) for part in os.environ["EXECNET_LOST_TIMES"].split(",")]
    except (KeyError, ValueError):
        return LOST_TIMES
    return interrupt_after, max(interrupt_after, leave_after)


def _interrupt_main(ident):
    # A signal ends what the main thread waits for; where there are none, it notices when it is back in Python.
    import signal

    if hasattr(signal, "pthread_kill") and callable(signal.getsignal(signal.SIGINT)):
        threading = sys.modules.get("threading")
        signal.pthread_kill(threading.main_thread().ident if threading else ident, signal.SIGINT)
    else:
        _thread.interrupt_main()


class WorkerGateway(BaseGateway):
    """The side that executes code for its initiator."""

    _execpool = None
    _watches = False

    def __init__(self, io, id, _startcount=2):
        super(WorkerGateway, self).__init__(io, id, _startcount)
        # The channels of the tasks that count as running.
        self._tasks = set()

    def _numexecuting(self):
        return len(self._tasks)

    def _answer(self, question):
        if not question:
            return super(WorkerGateway, self)._answer(question)
        # The initiator asks for what only code can tell; this is no task.
        names = {"gateway": self}
        exec(loads_internal(question), names)
        return dumps_internal(names["answer"])

    def _local_schedulexec(self, channel, sourcetask):
        if self._execpool.execmodel.backend == "main_thread_only" and not self._execpool.waitall(1.0):
            # The running task may be waiting for what the new one would do.
            channel.close(MAIN_THREAD_ONLY_DEADLOCK_TEXT)
            return
        self._tasks.add(channel)
        if self._connection is not None:
            self._connection.add_task()
        try:
            self._execpool.spawn(self.executetask, (channel, loads_internal(sourcetask)))
        except Exception as exc:
            # A request that can't be read, or no thread can be started.
            self._end_task(channel, self._geterrortext(exc))

    def _terminate_execution(self, lost):
        self._trace("ending the tasks")
        pool = self._execpool
        if pool is None or self._disowned:
            return
        interrupt_after, leave_after = _lost_times() if lost else (TERMINATE_TIMES[0], sum(TERMINATE_TIMES))
        # Should this thread never get to the end of this function, because another one holds the GIL:
        self._leave_in(leave_after + (0 if lost else 1))
        pool.trigger_shutdown()
        if not self._tasks_end_within(interrupt_after, lost):
            self._trace("interrupting the main thread after %s seconds" % interrupt_after)
            _interrupt_main(self._main)
            if not self._tasks_end_within(leave_after - interrupt_after, lost):
                self._trace("leaving after %s seconds" % leave_after)
                os._exit(1)
        if not lost:
            self._leave_in(None)

    def _tasks_end_within(self, seconds, lost):
        step = seconds if lost else 0.2
        while not self._execpool.waitall(step):
            seconds -= step
            if seconds <= 0:
                return False
            if not lost and self._initiator_is_gone():
                self._trace("the initiator has gone")
                self._terminate_execution(True)
                break
        return True

    def _initiator_is_gone(self):
        fd = self._writer.fd if self._writer is not None else (self._io.descriptors() or (None, None))[1]
        return fd is not None and is_ready_for(None, fd, False)

    def _leave_in(self, seconds):
        if self._connection is not None:
            self._connection.leave_in(seconds)

    def _callback_begins(self):
        # The portable receiver does not meet the end of its input while a callback runs.
        if not self._watches and self._connection is None and isinstance(self.execmodel, ThreadExecModel):
            self._watches = True
            self.execmodel.start(self._leave_when_lost)

    def _leave_when_lost(self):
        import stat  # lazy: start-up speed

        select = _select()
        # A socket does not tell whether its other end has only nothing more to say.
        fd = self._writer.fd
        try:
            if fd is None or not hasattr(select, "poll") or not stat.S_ISFIFO(os.fstat(fd).st_mode):
                return
        except OSError:  # it is closed already
            return
        broken = select.poll()
        broken.register(fd, 0)
        broken.poll()
        interrupt_after, leave_after = _lost_times()
        self.execmodel.sleep(interrupt_after)
        if not self._channelfactory.finished:
            self._trace("the initiator has gone")
            self._execpool.trigger_shutdown()
            _interrupt_main(self._main)
        self.execmodel.sleep(leave_after - interrupt_after)
        os._exit(1)

    def serve(self):
        """Execute tasks until the initiator ends the connection or it is lost; the exit status for an interrupt."""
        self._main = _thread.get_ident()
        hasprimary = isinstance(self.execmodel, ThreadExecModel)
        self._execpool = WorkerPool(self.execmodel, hasprimary=hasprimary)
        if self._connection is not None:
            self._connection.watch(_lost_times()[1])
            self._connection.answer_status(self.execmodel.backend)
        try:
            self._initreceive()
            if hasprimary:
                self._execpool.integrate_as_primary_thread()
            self.join()
        except KeyboardInterrupt:
            self._trace("interrupted, serve() ends")
            return INTERRUPTED

    def executetask(self, item):
        """Execute one task: item is (channel, (source, file name or None, function name or None, kwargs))."""
        channel, task = item
        if not PY3:
            sys.exc_clear()
        try:
            channel._executing = True
            try:
                self._execute(channel, *task)
            finally:
                channel._executing = False
                self._trace("execution finished on channel", channel.id)
        except KeyboardInterrupt:  # ends the task only; one that comes later ends the worker
            self._end_task(channel, INTERRUPT_TEXT)
        except BaseException as exc:
            try:
                # A task that received all there was has ended, not failed. What else raises EOFError has failed.
                is_end = type(exc) is EOFError or type(exc) is GatewayDied
                ended = is_end and getattr(exc, "gateway_id", None) == self.id
                errortext = None if ended else self._geterrortext(exc)
            except BaseException:  # Ctrl-C
                errortext = INTERRUPT_TEXT
            self._end_task(channel, errortext)
        else:
            self._end_task(channel)

    def _execute(self, channel, source, filename, funcname, kwargs):
        self._trace("execution starts on channel", channel.id, repr(source)[:50])
        filename = filename or "<remote exec>"
        begun = now()  # noqa: F841 - for script/stacks.py, as are the names of the parameters
        if self._connection is not None:
            self._connection.run_task(channel.id, filename, funcname)
        namespace = {"channel": channel, "__name__": "__channelexec__"}
        exec(compile(source + "\n", filename, "exec"), namespace)
        if funcname:
            namespace[funcname](channel, **kwargs)

    def _end_task(self, channel, errortext=None):
        if self._disowned:
            self._leave_as_child(None if errortext is None else sys.exc_info()[1])
        self._trace("task ends:", errortext)
        if channel in self._tasks:
            # Before the other side is told.
            self._tasks.discard(channel)
            if self._connection is not None:
                self._connection.end_task(channel.id)
        try:
            channel._close(errortext)
        except IOError as exc:
            self._trace("nobody to tell the end of the task:", exc)


# values

#: The byte before a value written by dumps and dump.
DUMPFORMAT_VERSION = b"\x02"
#: How deep containers may be nested to be written, and tuples in a dict's key to be read.
MAX_DEPTH = 400
#: How many list elements a value may announce without ever assigning them.
MAX_UNASSIGNED = 65536
#: What a stream is asked for at once, at most, before it gave as much.
STREAM_PIECE = 65536
#: Bytes of a value that are not worth the preparations of reading it by _load_ahead.
SHORT_VALUE = 32
FOUR_BYTE_INT_MAX = 2**31 - 1
FOUR_BYTE_INT_MIN = -(2**31)
FLOAT_FORMAT, FLOAT_FORMAT_SIZE = "!d", 8
COMPLEX_FORMAT, COMPLEX_FORMAT_SIZE = "!dd", 16


def bchr(n):
    """The byte of number n."""
    return struct.pack("B", n)


class opcode(object):
    """The operations that a value on the wire consists of (doc/wire.rst, "Values")."""

    BUILDTUPLE = b"@"
    BYTES = b"A"
    CHANNEL = b"B"
    FALSE = b"C"
    FLOAT = b"D"
    FROZENSET = b"E"
    INT = b"F"
    LONG = b"G"
    LONGINT = b"H"
    LONGLONG = b"I"
    NEWDICT = b"J"
    NEWLIST = b"K"
    NONE = b"L"
    PY2STRING = b"M"
    PY3STRING = b"N"
    SET = b"O"
    SETITEM = b"P"
    STOP = b"Q"
    TRUE = b"R"
    UNICODE = b"S"
    COMPLEX = b"T"


_int4 = struct.Struct("!i")
_float8 = struct.Struct(FLOAT_FORMAT)
_complex16 = struct.Struct(COMPLEX_FORMAT)
_op_int4 = struct.Struct("!ci")
_unpack_int4 = _int4.unpack
_unpack_op_int4 = struct.Struct("!bi").unpack_from
_op_float8 = struct.Struct("!cd")


def _load_sized(op):
    def load(self):
        self._push(self._sized[op](self._read_sized()))

    return load


class Unserializer(object):
    """Builds the value that a stream holds, reading up to its STOP and no further.

    channel_or_gateway gives the factory for channels inside; strconfig is (py2str_as_py3str, py3str_as_py2str).
    """

    num2func = {}
    py2str_as_py3str = True
    py3str_as_py2str = False
    #: All that the stream holds, where it is at hand and not short.
    _data = b""
    #: The stream or the channelfactory is running: what it raises is its own.
    _outside = False
    #: Where a BytesIO was before the value, or the negative number of bytes that another stream gave.
    _start = 0

    def __init__(self, stream, channel_or_gateway=None, strconfig=None):
        self.channelfactory = None
        if channel_or_gateway is not None:
            gateway = getattr(channel_or_gateway, "gateway", channel_or_gateway)
            if strconfig is None:
                strconfig = getattr(channel_or_gateway, "_strconfig", None) or getattr(gateway, "_strconfig", None)
            self.channelfactory = getattr(gateway, "_channelfactory", gateway)
        if strconfig is not None:
            self.py2str_as_py3str, self.py3str_as_py2str = strconfig
        self.stream = stream
        if type(stream) is BytesIO:
            # What it gives at once is there already, and no more is coming.
            self._read = self._read_some = stream.read
        else:
            self._read, self._read_some = self._read_whole, self._read_checked

    def load(self, versioned=False):
        """The value; LoadError for what is no value, EOFError where it ends early.  versioned: after a version byte."""
        if versioned:
            version = self._read_some(1)
            if not version:
                raise EOFError("expected 1 bytes, got 0")
            if version != DUMPFORMAT_VERSION:
                raise LoadError("wrong dumpformat version %r" % (version,))
        self.stack = []
        self._push = self.stack.append
        self.announced = {}
        self.unassignable = MAX_UNASSIGNED
        self._sized = _SIZED[not self.py2str_as_py3str, not self.py3str_as_py2str]
        self._start = self.stream.tell() if type(self.stream) is BytesIO else 0
        try:
            return self._load_value()
        except LoadError as exc:
            if not self._outside:
                exc._found_within((self.stream.tell() if type(self.stream) is BytesIO else 0) - self._start)
            raise

    def _load_value(self):
        try:
            self._load_until_stop(self.num2func, self._read_some)
        except struct.error:
            if self._outside:
                raise
            raise EOFError("value ends within a number")
        except UnicodeDecodeError as exc:
            if self._outside:
                raise
            raise LoadError("a text that is not UTF-8: %s" % exc)
        if len(self.stack) != 1:
            raise LoadError("internal unserialization error")
        if self.announced:
            self._finish(self.stack)
        return self.stack[0]

    def _load_until_stop(self, functions, read):
        if self._data and functions == _FUNCTIONS:  # nobody replaced one
            self._load_ahead(self._data, functions)
        op, stop = read(1), opcode.STOP
        while op != stop:
            if op not in functions:  # not get(), for which without a GIL all threads would queue
                if op:
                    raise LoadError("unknown opcode %r - wire protocol corruption?" % (op,))
                raise EOFError("value ends before its STOP")
            functions[op](self)
            op = read(1)

    def _load_ahead(self, data, functions):
        # The frequent operations without a call for each, and SETITEM together with the value before it. What is
        # unusual is left to their functions, and the end to whoever goes on reading. A full list stays announced: where
        # its id comes back, it is that of an object of another type, or of a list announced anew.
        stream, at, last = self.stream, self.stream.tell(), len(data) - 5
        stack, announced, push, pop = self.stack, self.announced, self.stack.append, self.stack.pop
        sized, unpack, setitem = self._sized, _unpack_op_int4, opcode.SETITEM[0]
        filling, size = None, 0
        try:
            while at < last:
                op, number = unpack(data, at)
                if op == 0x46:  # INT
                    value = number
                    at += 5
                elif op in sized and 0 <= number < last - at:
                    start = at + 5
                    at = start + number
                    value = sized[op](data[start:at])
                elif op == 0x50 and len(stack) > 2:  # SETITEM
                    value = pop()
                elif op == 0x40 and number >= 0:  # BUILDTUPLE
                    at += 5
                    value = tuple(self._pop_many(number))
                elif op == 0x4B and number >= 0:  # NEWLIST
                    value = []
                    announced[id(value)] = number
                    at += 5
                elif op == 0x4A:  # NEWDICT
                    value = {}
                    at += 1
                elif op in _CONSTANTS:
                    value = _CONSTANTS[op]
                    at += 1
                elif op == 0x44 and at + 4 < last:  # FLOAT
                    value = _float8.unpack_from(data, at + 1)[0]
                    at += 9
                else:
                    code = data[at : at + 1]
                    if op == 0x51 or code not in functions:  # STOP
                        break
                    stream.seek(at + 1)
                    at = None  # where the stream is, should this raise
                    functions[code](self)
                    at = stream.tell()
                    continue
                if data[at] != setitem or len(stack) < 2:
                    push(value)
                    continue
                at += 1
                key, container = pop(), stack[-1]
                if type(value) is list and announced.get(id(value), 0) > len(value):
                    self._finish((value,))
                if container is not filling:
                    filling = container
                    size = announced.get(id(container), 0) if type(container) is list else 0
                if size and type(key) is int and key == len(container) < size:
                    container.append(value)
                elif type(container) is dict and type(key) in _LEAVES:
                    container[key] = value
                else:
                    self._set_item(container, key, value)
        finally:
            if at is not None:
                stream.seek(at)

    def _read_checked(self, count):
        self._outside = True
        piece = self.stream.read(count)
        self._outside = False
        if type(piece) is not bytes:
            piece = b"".join((piece,))  # TypeError for what holds no bytes
        self._start -= len(piece)
        if len(piece) > count:
            raise ValueError("the stream's read gave %d bytes, %d were asked for" % (len(piece), count))
        return piece

    def _read_whole(self, count):
        # A stream may give less than it was asked for, and is never asked for much more than it gave.
        pieces, got = [], 0
        while got < count:
            pieces.append(self._read_checked(min(count - got, max(got, STREAM_PIECE))))
            if not pieces[-1]:
                break
            got += len(pieces[-1])
        return b"".join(pieces)

    def _read_int4(self):
        return _unpack_int4(self._read(4))[0]

    def _read_count(self):
        count = self._read_int4()
        if count < 0:
            raise LoadError("a size of %d" % count)
        return count

    def _read_sized(self):
        count = _unpack_int4(self._read(4))[0]
        if count <= 0:
            if count:
                raise LoadError("a size of %d" % count)
            return b""
        data = self._read(count)
        if len(data) != count:
            raise EOFError("expected %d bytes, got %d" % (count, len(data)))
        return data

    def _pop_many(self, count):
        stack = self.stack
        if count > len(stack):
            raise LoadError("a container of %d objects, there are %d" % (count, len(stack)))
        if not count:
            return []
        items = stack[-count:]
        del stack[-count:]
        if self.announced:
            self._finish(items)
        return items

    def _finish(self, items):
        # Lists among the items that were announced longer than they were filled: the rest is None.
        for item in items:
            if type(item) is list and id(item) in self.announced:
                missing = self.announced.pop(id(item)) - len(item)
                if missing > self.unassignable:
                    raise LoadError("a list with %d elements that are never assigned" % missing)
                self.unassignable -= missing
                item.extend([None] * missing)

    def load_stop(self):
        """The end of the value, at which load() returns it."""

    def load_none(self):
        self._push(None)

    def load_true(self):
        self._push(True)

    def load_false(self):
        self._push(False)

    def load_int(self):
        self._push(_unpack_int4(self._read(4))[0])

    def load_long(self):
        self._push(long(self._read_int4()))

    def load_float(self):
        self._push(_float8.unpack(self._read(FLOAT_FORMAT_SIZE))[0])

    def load_complex(self):
        self._push(complex(*_complex16.unpack(self._read(COMPLEX_FORMAT_SIZE))))

    load_bytes = _load_sized(0x41)
    load_longint = _load_sized(0x48)
    load_longlong = _load_sized(0x49)
    load_py2string = _load_sized(0x4D)
    load_py3string = _load_sized(0x4E)
    load_unicode = _load_sized(0x53)

    def load_newlist(self):
        # Filled as the elements arrive: memory follows what was sent, not what was announced.
        items = []
        self.announced[id(items)] = self._read_count()
        self._push(items)

    def load_newdict(self):
        self._push({})

    def load_setitem(self):
        stack = self.stack
        if len(stack) < 3:
            raise LoadError("not enough items for setitem")
        value = stack.pop()
        key = stack.pop()
        self._set_item(stack[-1], key, value)

    def _set_item(self, container, key, value):
        if type(value) is list and self.announced:
            self._finish((value,))
        try:
            if type(container) is list:
                if type(key) is int and key == len(container) < self.announced.get(id(container), 0):
                    container.append(value)
                else:
                    self._finish((container,))
                    container[key] = value
            elif type(container) is dict:
                if type(key) is tuple:
                    _check_hashable(key)
                container[key] = value
            else:
                raise LoadError("SETITEM on %s, not on a list or dict" % type(container))
        except (TypeError, IndexError, RuntimeError) as exc:
            raise LoadError("an element that can't be stored: %s" % exc)

    def load_buildtuple(self):
        self._push(tuple(self._pop_many(self._read_count())))

    def load_set(self):
        self._push(self._set_of(set, self._pop_many(self._read_count())))

    def load_frozenset(self):
        self._push(self._set_of(frozenset, self._pop_many(self._read_count())))

    def _set_of(self, kind, items):
        try:
            for item in items:
                _check_hashable(item)
            return kind(items)
        except (TypeError, RuntimeError) as exc:
            raise LoadError("an element that can't be stored: %s" % exc)

    def load_channel(self):
        channelid = self._read_int4()
        if self.channelfactory is None:
            raise LoadError("a channel, where nobody holds channels")
        self._outside = True
        channel = self.channelfactory.new(channelid)
        self._outside = False
        self._push(channel)


for _name, _op in list(vars(opcode).items()):
    if not _name.startswith("_"):
        Unserializer.num2func[_op] = getattr(Unserializer, "load_" + _name.lower())
if not PY3:
    for _op, _load in list(Unserializer.num2func.items()):
        Unserializer.num2func[_op] = getattr(_load, "__func__", _load)
_FUNCTIONS = dict(Unserializer.num2func)


_utf8_of = bytes.decode if PY3 else lambda data: data.decode("utf-8")


def _latin1_of(data):
    return data.decode("latin-1")


def _int_of(digits):
    if not digits.isdigit() and not (digits.startswith(b"-") and digits[1:].isdigit()):
        raise LoadError("an integer with other bytes than digits: %r" % digits[:20])
    return int(digits) if len(digits) <= _DIGITS_AT_ONCE else _int_from_digits(digits)


def _long_of(digits):
    return long(_int_of(digits))


# What is made of an operation's sized operand, by how strings are wanted. A Python 3 str is text, unless it is
# wanted as the bytes that a str is on Python 2.
_SIZED = {
    (py2_is_bytes, py3_is_text): {
        0x41: bytes,  # BYTES
        0x48: _int_of,  # LONGINT
        0x49: _long_of,  # LONGLONG
        0x4D: bytes if py2_is_bytes or not PY3 else _latin1_of,  # PY2STRING
        0x4E: _utf8_of if py3_is_text else bytes,  # PY3STRING
        0x53: _utf8_of,  # UNICODE
    }
    for py2_is_bytes in (False, True)
    for py3_is_text in (False, True)
}
_CONSTANTS = {0x43: False, 0x4C: None, 0x52: True}


def _check_hashable(key):
    # Python hashes tuples inside tuples by recursion without a limit.
    if type(key) is tuple:
        level = [key]
        for _ in range(MAX_DEPTH):
            level = [item for items in level for item in items if type(item) is tuple]
            if not level:
                return
        raise LoadError("a key of tuples nested deeper than %d" % MAX_DEPTH)


# Integers and their decimal digits without the interpreter's limit on their number: by halves, for the
# limit is there for the cost.
_DIGITS_AT_ONCE = 500


def _int_from_digits(digits):
    if digits.startswith(b"-"):
        return -_int_from_digits(digits[1:])
    powers = {}

    def power(count):
        if count not in powers:
            half = count // 2
            powers[count] = 10**count if count <= _DIGITS_AT_ONCE else power(half) * power(count - half)
        return powers[count]

    def convert(start, end):
        if end - start <= _DIGITS_AT_ONCE:
            return int(digits[start:end])
        half = (end - start) // 2
        return convert(start, end - half) * power(half) + convert(end - half, end)

    return convert(0, len(digits))


def _digits_from_int(number):
    if not hasattr(sys, "set_int_max_str_digits") or number.bit_length() < 3 * _DIGITS_AT_ONCE:
        return ("%d" % number).encode("ascii")
    # lazy: huge ints only; its multiplication is faster than division
    import decimal

    context = decimal.Context(prec=decimal.MAX_PREC, Emax=decimal.MAX_EMAX)
    powers = {}

    def power(bits):
        if bits not in powers:
            half = bits // 2
            small = bits < 1024
            powers[bits] = decimal.Decimal(1 << bits) if small else context.multiply(power(half), power(bits - half))
        return powers[bits]

    def convert(part, bits):
        if bits < 1024:
            return decimal.Decimal(part)
        half = bits // 2
        upper = context.multiply(convert(part >> half, bits - half), power(half))
        return context.add(upper, convert(part & ((1 << half) - 1), half))

    digits = str(convert(abs(number), number.bit_length())).encode("ascii")
    return b"-" + digits if number < 0 else digits


def _serialized(obj, chunks, gateway=None):
    if _changes or _dispatch:
        chunks.append(_saved_by_methods(obj, gateway))
    else:
        _save(obj, chunks.append, gateway)
    chunks.append(opcode.STOP)
    return b"".join(chunks)


def _save(root, write, gateway):
    # The containers being written are generators on a stack: depth costs memory, not recursion.
    containers = []
    current = iter((root,))
    try:
        while True:
            for obj in current:
                try:
                    save = _SAVERS[type(obj)]  # not get(), for which without a GIL all threads would queue
                except KeyError:
                    save = None
                inside = save(obj, write) if save is not None else _save_other(obj, write, gateway)
                if inside is not None:
                    if len(containers) == MAX_DEPTH:
                        nested = "nested" if type(obj) in _SAVERS else "nested or reduced"
                        raise DumpError("can't serialize %s: %s deeper than %d" % (type(obj), nested, MAX_DEPTH))
                    containers.append(current)
                    current = inside
                    break
            else:
                if not containers:
                    return
                current = containers.pop()
    except _Unwritable as exc:
        for container in reversed((containers + [current])[1:]):
            try:
                container.throw(exc)
            except _Unwritable:
                pass
        text = "can't serialize %s%s%s" % (type(obj), exc.path and " at " + exc.path, exc)
    raise DumpError(text)


class _Unwritable(Exception):
    """Why an object can't be written; thrown into the containers that it is in, each of which adds its step."""

    path = ""

    def leave(self, step):
        self.path = step + self.path
        raise self


def _sized(op, data, write):
    if len(data) > FOUR_BYTE_INT_MAX:
        raise _Unwritable(": too large")
    write(_op_int4.pack(op, len(data)))
    write(data)


def _save_text(op):
    def save(text, write):
        try:
            _sized(op, text.encode("utf-8"), write)
        except UnicodeEncodeError:
            raise _Unwritable(": strings must be utf-8 encodable")

    return save


def _save_integer(short_op, long_op):
    def save(number, write):
        if FOUR_BYTE_INT_MIN <= number <= FOUR_BYTE_INT_MAX:
            write(_op_int4.pack(short_op, number))
        else:
            _sized(long_op, _digits_from_int(number), write)

    return save


# A finalizer or another thread may change a container while it is written: what is written is well formed or refused.


def _save_list(items, write):
    size, index = len(items), -1
    write(_op_int4.pack(opcode.NEWLIST, size))
    try:
        for index, item in zip(range(size), items):
            write(_op_int4.pack(b"F", index))
            yield item
            write(b"P")
    except _Unwritable as exc:
        exc.leave("[%d]" % index)
    if not index + 1 == size == len(items):
        raise RuntimeError("list changed size while it was serialized")


def _save_dict(items, write, pairs=dict.items):
    write(opcode.NEWDICT)
    for key, value in pairs(items):
        try:
            yield key
        except _Unwritable as exc:
            exc.leave("<key>")
        try:
            yield value
        except _Unwritable as exc:
            exc.leave("[%s]" % _subscript(key))
        write(b"P")


def _save_tuple(items, write):
    index = -1
    try:
        for item in items:
            index += 1
            yield item
    except _Unwritable as exc:
        exc.leave("[%d]" % index)
    write(_op_int4.pack(opcode.BUILDTUPLE, len(items)))


def _save_set(op):
    def save(items, write):
        count = 0
        try:
            for item in items:
                count += 1
                yield item
        except _Unwritable as exc:
            exc.leave("<element>")
        write(_op_int4.pack(op, count))

    return save


_LEAVES = {
    type(None): lambda obj, write: write(b"L"),
    bool: lambda obj, write: write(b"R" if obj else b"C"),
    int: _save_integer(opcode.INT, opcode.LONGINT),
    float: lambda number, write: write(_op_float8.pack(b"D", number)),
    complex: lambda number, write: write(opcode.COMPLEX + _complex16.pack(number.real, number.imag)),
    unicode: _save_text(opcode.PY3STRING if PY3 else opcode.UNICODE),
}
if PY3:
    _LEAVES[bytes] = lambda data, write: _sized(opcode.BYTES, data, write)
else:
    _LEAVES[str] = lambda data, write: _sized(opcode.PY2STRING, data, write)
    _LEAVES[long] = _save_integer(opcode.LONG, opcode.LONGLONG)

_CONTAINERS = {
    list: _save_list,
    dict: _save_dict,
    tuple: _save_tuple,
    set: _save_set(opcode.SET),
    frozenset: _save_set(opcode.FROZENSET),
}

_SAVERS = dict(_LEAVES)
_SAVERS.update(_CONTAINERS)

# An object of a subclass is written as its base has it: none of its own methods is asked.


def _inherited(base, method, *args):
    save = _SAVERS[base]
    return lambda obj, write: save(method(obj, *args), write)


_INHERITED = {base: _inherited(base, base.__getitem__, slice(None)) for base in (bytes, unicode, list, tuple)}
_INHERITED.update({base: _inherited(base, base.__add__, 0) for base in (int, long)})
_INHERITED.update({base: _inherited(base, base.__pos__) for base in (float, complex)})
_INHERITED.update({base: _inherited(base, base.__iter__) for base in (set, frozenset)})
_INHERITED[dict] = _save_dict
_OrderedDict = getattr(_collections, "OrderedDict", dict)  # has an order beside that of the dict it is
_INHERITED[_OrderedDict] = lambda items, write: _save_dict(items, write, _OrderedDict.items)

# What is written of objects of other classes, by class; reducers.py fills it.
_reducers = {}


def _save_channel(channel, write, gateway):
    # It means another channel, or none, on the other side of another gateway.
    if gateway is not None and channel.gateway is not gateway:
        raise _Unwritable(": it belongs to gateway %r, not to %r" % (channel.gateway.id, gateway.id))
    try:
        write(_op_int4.pack(opcode.CHANNEL, channel.id))
    except struct.error:
        raise _Unwritable(": its id is not an int of 32 bits")


def _save_other(obj, write, gateway, by_method=True):
    if issubclass(type(obj), Channel):
        return _save_channel(obj, write, gateway)
    for base in type(obj).__mro__:
        if base in _reducers:
            reduced = _reducers[base](obj)
            if reduced is obj:
                raise _Unwritable(": its reducer gives it back")
            if reduced is not NotImplemented:
                return _save_reduced(reduced)
        if base in _INHERITED:
            return _INHERITED[base](obj, write)
    data = _saved_by_own_method(obj, gateway) if by_method else None
    if data is None:
        raise _Unwritable("")
    return write(data)


def _save_reduced(reduced):
    try:
        yield reduced
    except _Unwritable as exc:
        exc.leave("<reduced>")


def _subscript(key):
    text = repr(type(key))
    if type(key) in _LEAVES:
        try:
            text = repr(key)
        except ValueError:  # an int beyond the interpreter's digit limit
            text = repr(int)
    return text if len(text) <= 60 else text[:57] + "..."


# Programs for execnet 2.1 send objects of their own classes by methods that they add to _Serializer, or to a subclass
# in its place. Where the class was changed, its methods write the whole value; else they are asked for what nothing
# above can write.

#: Which attributes of _Serializer were changed, and its _dispatch; the C core, too, looks whether they are empty.
_changes = {}
_dispatch = {}


def _saved_by_methods(obj, gateway):
    pieces = []
    serializer = globals()["_Serializer"](pieces.append)
    serializer._gateway = gateway
    serializer._save(obj)
    return b"".join(pieces)


def _saved_by_own_method(obj, gateway):
    # The bytes of what nothing else can write, or None.
    serializer = globals().get("_Serializer")
    if serializer is None or ("_base" in vars(serializer) and serializer._method_of(type(obj)) is None):
        return None
    return _saved_by_methods(obj, gateway)


def dumps(obj):
    """Serialize obj to bytes, as any execnet reads them.

    None, bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset; their subclasses, as what they are
    subclasses of; what register_reducer() knows.  DumpError for anything else.
    """
    return _serialized(obj, [DUMPFORMAT_VERSION])


def dump(byteio, obj):
    """Write serialized obj to byteio, which needs a method write; several values can follow one another."""
    byteio.write(_serialized(obj, [DUMPFORMAT_VERSION]))


def dumps_internal(obj, gateway=None):
    """Serialize obj as the payload of a message: without the version byte.

    DumpError, too, for channels inside that do not belong to the gateway, if one is given.
    """
    return _serialized(obj, [], gateway)


def loads(bytestring, py2str_as_py3str=False, py3str_as_py2str=False):
    """The value that dumps wrote.

    py2str_as_py3str: a str written by Python 2 is read as text; py3str_as_py2str: one written by Python 3 as bytes.
    LoadError for bytes that are no value, EOFError where they end early.
    """
    return _load_from(bytestring, None, (py2str_as_py3str, py3str_as_py2str), True)


def load(io, py2str_as_py3str=False, py3str_as_py2str=False):
    """Read one value from io (an object with read(n)), and nothing after it; else like loads."""
    strconfig = (py2str_as_py3str, py3str_as_py2str)
    return Unserializer(io, strconfig=strconfig).load(versioned=True)


def loads_internal(bytestring, channelfactory=None, strconfig=None):
    """The value that dumps_internal wrote; channelfactory makes the channels inside."""
    return _load_from(bytestring, channelfactory, strconfig)


def _load_from(bytestring, channelfactory, strconfig, versioned=False):
    unserializer = Unserializer(BytesIO(bytestring), channelfactory, strconfig)
    if type(bytestring) is bytes and len(bytestring) > SHORT_VALUE:
        unserializer._data = bytestring
    return unserializer.load(versioned)


if _core is not None:
    _codec = _core.Codec(globals())
    dumps, dump, loads, load = _codec.dumps, _codec.dump, _codec.loads, _codec.load
    dumps_internal, loads_internal = _codec.dumps_internal, _codec.loads_internal


# the worker's start


def init_popen_io(execmodel):
    """Take this process's standard input and output for the connection; its own code gets /dev/null for both."""
    if not hasattr(os, "dup"):  # Jython
        io = Popen2IO(sys.stdout, sys.stdin, execmodel)
        sys.stdin = open(os.devnull)  # noqa: SIM115
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return io
    if sys.platform == "win32":
        import msvcrt

        for fd in (0, 1):
            msvcrt.setmode(fd, os.O_BINARY)
    infile = execmodel.fdopen(os.dup(0), "rb", 1)
    outfile = execmodel.fdopen(os.dup(1), "wb", 1)
    for fd, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY)):
        devnull = os.open(os.devnull, flags)
        os.dup2(devnull, fd)
        os.close(devnull)
    return Popen2IO(outfile, infile, execmodel)


def answer(io):
    """Tell the initiator that this worker is there; if it is gone, so is the worker, without a word."""
    try:
        io.write(ANSWER)
    except (IOError, OSError):
        os._exit(1)


def serve(io, id):
    """Be the worker at the other end of io until the connection ends; the exit status that tells of an interrupt."""
    trace("creating workergateway on", io)
    return WorkerGateway(io=io, id=id, _startcount=2).serve()


# names for programs, made when they are first asked for: start-up speed

_LATE_NAMES = ("Event", "IO", "ReadIO", "WriteIO", "_Serializer")


def __getattr__(name):
    if name in _LATE_NAMES:
        try:
            from execnet._compat import made

            globals()[name] = made(name, sys.modules[__name__])
            return globals()[name]
        except ImportError:
            pass  # this is a far side, which has been sent no more than this text
    raise AttributeError("module %r has no attribute %r" % (__name__, name))


def __dir__():
    return sorted(set(globals()).union(_LATE_NAMES))
