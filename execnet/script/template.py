"""The template of warm workers: a process that imports once and forks a worker for each request.

Run by :mod:`execnet.gateway_warm` as ``python -c "…; work(serve(FD, 'modules'))"``: :func:`serve` returns in each
worker, and never in the template. The template has a single thread, always, since only that one goes on in a worker.
It ends when the initiator closes the connection, and by a signal when the initiator is gone.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found, unused-ignore]  # without the enums of signal, slow in a new worker
import _socket
import _thread
import gc
import os
import select
import struct
import sys

from execnet import gateway_base

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# A request: the size of its value, with descriptors; then the value, a dict for become_worker() and work(). The
# descriptors: the worker's stdin, stdout and working directory, the connection for what is told of it, and its stderr
# unless that is closed.
SIZE = struct.Struct("!I")
MOST_DESCRIPTORS = 5

# What the connection of a worker tells, one line each.
STARTED = "started"  # and its pid
ENDED = "ended"  # and its exit status, as subprocess.Popen has it
FAILED = "failed"  # and why it was not started

STDIN, STDOUT, STDERR = 0, 1, 2


def serve(descriptor: int, preload: str) -> dict[str, Any]:
    """Import ``preload`` (names, commas between), then fork a worker for each request on the socket ``descriptor``.

    Returns in the worker, with the request.
    """
    # What a worker gets back. Ctrl-C is for the initiator and the workers of its process group.
    handlers = {_signal.SIGINT: _signal.signal(_signal.SIGINT, _signal.SIG_IGN)}
    handlers[_signal.SIGIO] = _signal.signal(_signal.SIGIO, _signal.SIG_DFL)
    _end_with_initiator()
    control = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, descriptor)
    os.set_inheritable(descriptor, False)
    _occupy_standard_descriptors()
    failure = _preload([name for name in preload.split(",") if name])
    handlers[_signal.SIGCHLD] = _signal.signal(_signal.SIGCHLD, _note)
    template = _Template(control, failure, handlers)
    os.chdir(os.sep)
    gc.collect()
    gc.disable()
    if hasattr(gc, "freeze"):
        gc.freeze()  # a collection in a worker would write to, and so copy, all that it shares
    return template.run()


def work(request: dict[str, Any]) -> None:
    """Do what the start text of gateway_bootstrap has any other worker do."""
    io = gateway_base.init_popen_io(gateway_base.get_execmodel(request["execmodel"]))
    io.lends = True
    io.write(b"1")
    gateway_base.serve(io, id=request["id"])


def _end_with_initiator() -> None:
    """Have the kernel end this process when nobody holds the other end of its stdin any more, whatever it does then."""
    import fcntl  # lazy: where there is none, this module is imported all the same

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


def _preload(names: list[str]) -> str:
    """Import modules; why that failed, or nothing."""
    for name in names:
        try:
            __import__(name)
        except (Exception, SystemExit) as error:
            if not (isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}.")):
                sys.stderr.write(gateway_base.geterrortext(error))
            return f"preload={name}: {type(error).__name__}: {error}"
    threading = sys.modules.get("threading")
    threads = [thread for thread in threading.enumerate() if thread.ident != _thread.get_ident()] if threading else []
    if threads:
        found = ", ".join(thread.name for thread in threads)
        return f"preload={','.join(names)} started threads, which no worker would have: {found}"
    return ""


class _Template:
    """The process that forks: its connection to the initiator, and one for each worker that has not ended."""

    def __init__(self, control: _socket.socket, failure: str, handlers: dict[int, Any]) -> None:
        self.control = control
        self.failure = failure
        self.workers: dict[int, _socket.socket] = {}
        self.wake_read, self.wake_write = os.pipe()
        for descriptor in (self.wake_read, self.wake_write):
            os.set_blocking(descriptor, False)
        self.handlers = handlers
        _signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)

    def run(self) -> dict[str, Any]:
        """Serve requests; returns in a worker, with its own."""
        poll = select.poll()
        poll.register(self.control.fileno(), select.POLLIN)
        poll.register(self.wake_read, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in poll.poll()]
            if self.wake_read in ready:
                os.read(self.wake_read, 4096)
                self.reap()
            if self.control.fileno() in ready:
                request = self.serve_request()
                if request:
                    return request

    def serve_request(self) -> dict[str, Any] | None:
        """Serve one request; returns it in the worker. At the end of requests the process ends."""
        head, ancillary, _, _ = self.control.recvmsg(SIZE.size, _socket.CMSG_SPACE(MOST_DESCRIPTORS * 4))
        if not head:
            self.reap()
            os._exit(0)
        (size,) = SIZE.unpack(head + self.read(SIZE.size - len(head)))
        descriptors = [fd for _, _, data in ancillary for fd in struct.unpack(f"{len(data) // 4}i", data)]
        request: dict[str, Any] = gateway_base.loads_internal(self.read(size))
        report = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, descriptors.pop(3))
        if self.fork(report):
            self.become_worker(descriptors, request)
            # Open until the worker ends: should the template be gone then, it is this that tells.
            os.set_inheritable(report.detach(), False)
            return request
        for descriptor in descriptors:
            os.close(descriptor)
        return None

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes of a request."""
        data = b""
        while len(data) < size:
            chunk = self.control.recv(size - len(data))
            if not chunk:
                os._exit(1)  # the initiator died in the middle of it
            data += chunk
        return data

    def fork(self, report: _socket.socket) -> bool:
        """Fork, unless nobody waits for the worker any more; true in the worker."""
        if _is_closed(report):
            report.close()
            return False
        try:
            if self.failure:
                raise OSError(self.failure)
            pid = os.fork()
        except OSError as error:
            _tell(report, FAILED, " ".join(str(error).split("\n")))
            report.close()
            return False
        if pid:
            self.workers[pid] = report
            if not _tell(report, STARTED, pid):
                os.kill(pid, _signal.SIGKILL)
        return not pid

    def reap(self) -> None:
        """Reap the workers that have ended, and tell who waits for them."""
        for pid, report in list(self.workers.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                # A pid is not given to another process for as long as it takes to tell this.
                _tell(report, ENDED, -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
                del self.workers[pid]
                report.close()

    def become_worker(self, descriptors: list[int], request: dict[str, Any]) -> None:
        """Turn the forked process into what a new one would be."""
        _signal.set_wakeup_fd(-1)
        for number, handler in self.handlers.items():
            _signal.signal(number, handler)
        for report in self.workers.values():
            report.close()
        self.control.close()
        for descriptor in (self.wake_read, self.wake_write):
            os.close(descriptor)
        _take_descriptors(*descriptors)
        if request["newsession"]:
            os.setsid()
        _take_environment(request["environment"])
        if gateway_base.DEBUG and gateway_base.DEBUG != "2":
            gateway_base.fn, gateway_base._tracefile = gateway_base._open_tracefile()
        _reseed()
        _correct_native_id()
        gc.enable()


def _note(number: int, frame: object) -> None:
    """Nothing: the signal has written to the wakeup descriptor."""


def _tell(report: _socket.socket, word: str, what: object) -> bool:
    """Write a line to who started a worker; false where nobody reads there."""
    try:
        report.sendall(f"{word} {what}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        return False
    return True


def _is_closed(report: _socket.socket) -> bool:
    try:
        return not report.recv(1, _socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


def _take_descriptors(stdin: int, stdout: int, folder: int, stderr: int | None = None) -> None:
    os.dup2(stdin, STDIN)
    os.dup2(stdout, STDOUT)
    if stderr is None:
        os.close(STDERR)
    else:
        os.dup2(stderr, STDERR)
        os.close(stderr)
    os.fchdir(folder)
    for descriptor in (stdin, stdout, folder):
        os.close(descriptor)


def _take_environment(changes: dict[bytes, bytes | None]) -> None:
    """Set what the initiator has changed in its environment since the template was started."""
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
