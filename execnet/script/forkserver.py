"""The fork server of warm workers: a process that imports once and forks a worker for each request.

Run by :mod:`execnet._transport.warm` as ``python -c "…; work(serve(FD, 'modules'))"``: :func:`serve` returns in each
worker, and never in the fork server. That has a single thread, always, since only that one goes on in a worker.
It ends when the initiator closes the connection, and by a signal when the initiator is gone.
"""

from __future__ import annotations

# Without the enums of signal, by which each new worker had 24 to 80 KiB of memory of its own instead of shared.
import _signal  # type: ignore[import-not-found, unused-ignore]
import _socket
import gc
import os
import select
import struct
import sys

from execnet import gateway_base
from execnet.script import leaving, preloading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# A request: TOKEN on the common connection, with descriptors: a connection for its start, one for what is told of its
# end, the worker's stdin, stdout and working directory, what its code gets as stdout if that is not to lead nowhere
# (the value says so), and its stderr, unless it is to have none. On the first of them, the size of a value and the
# value, a dict for become_worker() and work(). Tokens come whole, and each value on its own: so threads and signal
# handlers of the initiator are never in each other's way.
TOKEN = b"+"
SIZE = struct.Struct("!I")
LEAST_DESCRIPTORS, MOST_DESCRIPTORS = 5, 7
CHUNK = 1 << 16

# What is told on the connection for the start, one line. The initiator shuts it down to have no worker.
STARTED = "started"  # and its pid, by the worker itself: where that can't be told any more, it leaves
FAILED = "failed"  # and why it was not started
# On the other one, the exit status as subprocess.Popen has it.
MOST_TOLD = 4096  # bytes of either: the initiator looks at them and leaves them where they are

STDIN, STDOUT, STDERR = 0, 1, 2
OUTPUT = 3  # what the worker's code gets as stdout, among the worker's descriptors

assert sys.platform != "win32"  # where nothing imports this: execnet._transport.creating says so


def serve(descriptor: int, preload: str | int) -> dict[str, Any]:
    """Import ``preload``, then fork a worker for each request on the socket ``descriptor``.

    Names of modules with commas between, or the descriptor of a file that tells what the initiator has imported.
    Returns in the worker, with the request.
    """
    environment = dict(os.environb)
    # What a worker gets back. Ctrl-C is for the initiator and the workers of its process group.
    handlers = {_signal.SIGINT: _signal.signal(_signal.SIGINT, _signal.SIG_IGN)}
    # The initiator's thread may block signals that this process must hear; each worker is told its own mask.
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    handlers[_signal.SIGIO] = _signal.signal(_signal.SIGIO, _signal.SIG_DFL)
    _end_with_initiator()
    control = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, descriptor)
    os.set_inheritable(descriptor, False)
    _occupy_standard_descriptors()
    if isinstance(preload, int):
        file = preload
        os.set_inheritable(file, False)
        failure = preloading.preload_known(
            file, lambda command: preloading.exec_again(command, environment, [descriptor, file])
        )
        os.close(file)
    else:
        failure = preloading.preload_named([name for name in preload.split(",") if name])
    if sys.version_info < (3, 13):
        import threading  # noqa: F401  # what each worker would import for itself
    handlers[_signal.SIGCHLD] = _signal.signal(_signal.SIGCHLD, _note)
    forkserver = _ForkServer(control, failure, handlers)
    os.chdir(os.sep)
    leaving.share()
    gc.collect()
    gc.disable()
    if hasattr(gc, "freeze"):
        gc.freeze()  # a collection in a worker would write to, and so copy, all that it shares
    return forkserver.run()


def work(request: dict[str, Any]) -> None:
    """Do what the start text of gateway_bootstrap has any other worker do."""
    io = gateway_base.init_popen_io(gateway_base.get_execmodel(request["execmodel"]))
    io.zero_copy = True
    if request["output"]:
        os.dup2(request["output"], STDOUT)
        os.close(request["output"])
    gateway_base.answer(io)
    status = gateway_base.serve(io, id=request["id"]) or 0
    leaving.leave(status)
    raise SystemExit(status)


def _end_with_initiator() -> None:
    """Have the kernel end this process when nobody holds the other end of its stdin any more, whatever it does then."""
    import fcntl  # lazy: start-up speed

    fcntl.fcntl(STDIN, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(STDIN, fcntl.F_SETFL, fcntl.fcntl(STDIN, fcntl.F_GETFL) | os.O_ASYNC)
    ended_before = select.poll()
    ended_before.register(STDIN, select.POLLIN)
    if ended_before.poll(0):
        os._exit(1)


def _occupy_standard_descriptors() -> None:
    # A descriptor that is received must not be one of the standard ones.
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= STDERR:
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)


class _Request:
    """A worker that is asked for: the descriptors for it, and as much of the value as has arrived."""

    def __init__(self, start: _socket.socket, descriptors: list[int]) -> None:
        self.start = start
        self.descriptors = descriptors
        self.data = b""

    def arrive(self) -> bool:
        """Take what is there; true once all is, or no more comes."""
        while not self.is_whole():
            try:
                chunk = self.start.recv(CHUNK, _socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                return True
            self.data += chunk
        return True

    def is_whole(self) -> bool:
        return len(self.data) >= SIZE.size and len(self.data) == SIZE.size + SIZE.unpack_from(self.data)[0]

    def value(self) -> dict[str, Any]:
        value: dict[str, Any] = gateway_base.loads_internal(self.data[SIZE.size :])
        return value

    def close(self) -> None:
        self.start.close()
        for descriptor in self.descriptors:
            os.close(descriptor)


class _ForkServer:
    """The process that forks: its connection to the initiator, and one for each worker that has not ended."""

    def __init__(self, control: _socket.socket, failure: str, handlers: dict[int, Any]) -> None:
        self.control = control
        self.failure = failure
        self.is_open = True
        self.poll = select.poll()
        self.requests: dict[int, _Request] = {}  # by the descriptor of the connection for their start
        self.workers: dict[int, int] = {}  # pids and the descriptors for telling of their ends
        self.wake_read, self.wake_write = os.pipe()
        for descriptor in (self.wake_read, self.wake_write):
            os.set_blocking(descriptor, False)
        self.handlers = handlers
        _signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)

    def run(self) -> dict[str, Any]:
        """Serve requests until no more can come; returns in a worker, with its own."""
        self.poll.register(self.control.fileno(), select.POLLIN)
        self.poll.register(self.wake_read, select.POLLIN)
        while self.is_open or self.requests:
            for descriptor, _ in self.poll.poll():
                if descriptor == self.wake_read:
                    os.read(self.wake_read, 4096)
                    self.reap()
                    continue
                request = self.requests.get(descriptor) if descriptor != self.control.fileno() else self.accept()
                value = self.serve(request) if request else None
                if value:
                    return value
        self.reap()
        os._exit(0)

    def accept(self) -> _Request | None:
        """The next request, of which not all may have arrived yet."""
        token, ancillary, flags, _ = self.control.recvmsg(len(TOKEN), _socket.CMSG_SPACE(MOST_DESCRIPTORS * 4))
        if not token:
            self.poll.unregister(self.control.fileno())
            self.is_open = False
            return None
        received = [fd for _, _, data in ancillary for fd in struct.unpack(f"{len(data) // 4}i", data)]
        if not received:
            return None  # this process can't open another file, and so not even say that
        start, *descriptors = received
        request = _Request(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, start), descriptors)
        if flags & _socket.MSG_CTRUNC or len(descriptors) < LEAST_DESCRIPTORS - 1:
            _tell(request.start, FAILED, "the fork server has too many open files")
            request.close()
            return None
        self.requests[start] = request
        self.poll.register(start, select.POLLIN)
        return request

    def serve(self, request: _Request) -> dict[str, Any] | None:
        """Fork the worker once its request is there; returns that in the worker."""
        if not request.arrive():
            return None
        self.poll.unregister(request.start.fileno())
        del self.requests[request.start.fileno()]
        if self.fork(request):
            value = request.value()
            self.become_worker(request, value)
            return value
        request.close()
        return None

    def fork(self, request: _Request) -> bool:
        """Fork, unless nobody waits for the worker any more; true in the worker."""
        if not request.is_whole() or _is_closed(request.start):
            return False
        try:
            if self.failure:
                raise OSError(self.failure)
            pid = os.fork()
        except OSError as error:
            _tell(request.start, FAILED, " ".join(str(error).split("\n")))
            return False
        if pid:
            self.workers[pid] = request.descriptors.pop(0)
        elif not _tell(request.start, STARTED, os.getpid()):
            os._exit(1)
        return not pid

    def reap(self) -> None:
        """Reap the workers that have ended, and tell whoever waits for them."""
        for pid, ending in list(self.workers.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                # A pid is not given to another process for as long as it takes to tell this.
                returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
                try:
                    os.write(ending, b"%d" % returncode)
                except OSError:
                    pass  # nobody wants to know
                del self.workers[pid]
                os.close(ending)

    def become_worker(self, request: _Request, value: dict[str, Any]) -> None:
        """Turn the forked process into what a new one would be."""
        _signal.set_wakeup_fd(-1)
        for number, handler in self.handlers.items():
            _signal.signal(number, handler)
        for other in self.requests.values():
            other.close()
        self.control.close()
        request.start.close()
        ending, *descriptors = request.descriptors
        for descriptor in (self.wake_read, self.wake_write, *self.workers.values()):
            os.close(descriptor)
        # Open until the worker ends: should the fork server be gone then, it is this that tells.
        os.set_inheritable(ending, False)
        _close_in_children(ending)
        if value["output"]:
            value["output"] = descriptors.pop(OUTPUT)
        _take_descriptors(*descriptors)
        if value["newsession"]:
            os.setsid()
        _take_environment(value["environment"])
        if gateway_base.DEBUG and gateway_base.DEBUG != "2":
            gateway_base.fn, gateway_base._tracefile = gateway_base._open_tracefile()
        _reseed()
        _correct_native_id()
        _signal.pthread_sigmask(_signal.SIG_SETMASK, value["blocked"])
        gc.enable()


def _note(number: int, frame: object) -> None:
    """Nothing: the signal has written to the wakeup descriptor."""


def _tell(start: _socket.socket, word: str, what: object) -> bool:
    """Write a line to whoever starts a worker; false where nobody reads there."""
    try:
        start.sendall(f"{word} {what}\n".encode("utf-8", "backslashreplace")[:MOST_TOLD])
    except OSError:
        return False
    return True


def _is_closed(start: _socket.socket) -> bool:
    try:
        return not start.recv(1, _socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def _close_in_children(descriptor: int) -> None:
    """Let what this process forks not hold a descriptor; the program may have given its number to another file."""
    file = os.fstat(descriptor)

    def close() -> None:
        try:
            if os.path.samestat(file, os.fstat(descriptor)):
                os.close(descriptor)
        except OSError:
            pass  # closed by the program

    os.register_at_fork(after_in_child=close)


def _take_descriptors(stdin: int, stdout: int, folder: int, stderr: int | None = None) -> None:
    os.dup2(stdin, STDIN)
    os.dup2(stdout, STDOUT)
    if stderr is None:  # not closed, for the connection could get its number
        stderr = os.open(os.devnull, os.O_WRONLY)
    os.dup2(stderr, STDERR)
    os.close(stderr)
    os.fchdir(folder)
    for descriptor in (stdin, stdout, folder):
        os.close(descriptor)


def _take_environment(changes: dict[bytes, bytes | None]) -> None:
    """Set what the initiator has changed in its environment since the fork server was started."""
    for name, value in changes.items():
        if value is None:
            os.environb.pop(name, None)
        else:
            os.environb[name] = value


def _reseed() -> None:
    """Random numbers of its own for the worker; the standard library's generator has reseeded itself."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _correct_native_id() -> None:
    threading = sys.modules.get("threading")
    if threading is not None and hasattr(threading.Thread, "_set_native_id"):
        threading.main_thread()._set_native_id()  # which Python before 3.13 leaves out after a fork
