"""Warm starts (``popen//warm``): workers forked from a template process, which has imported execnet before."""

from __future__ import annotations

import _socket
import os
import struct
import sys
import time
from contextlib import ExitStack, suppress

from execnet.gateway_base import dumps_internal
from execnet.gateway_bootstrap import importdir
from execnet.gateway_io import Popen2IOMaster, named_error, popen_args, process_options, wait_readable
from execnet.script.template import ENDED, FAILED, SIZE, STARTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from typing import IO, Any

    from execnet.gateway_base import ExecModel
    from execnet.multi import Group
    from execnet.xspec import XSpec

# What a template runs.
PROGRAM = (
    "import sys;sys.path.insert(0,{importdir!r});"
    "from execnet.script import template;sys.path.remove({importdir!r});"
    "template.work(template.serve({descriptor},{preload!r}))"
)
# Variables that act when an interpreter starts: with other ones there, another template is needed.
START_VARIABLES = (b"PYTHON", b"EXECNET_", b"LANG", b"LC_", b"LD_", b"DYLD_", b"TZ")

END_TIME = 1.0  # seconds a template has for ending by itself
STATUS_LOST = 255  # the returncode of a worker whose exit status nobody is left to tell
SIGKILL = 9
STDERR = 2
DEVNULL, PIPE = -3, -1  # as in subprocess, the same for every execution model


def create_io(spec: XSpec, group: Group) -> WarmIO:
    """Have a worker forked by a template of the group, without waiting for it; the template is started where needed.

    Raises ValueError for a spec that can't be started so, OSError naming spec and command where no template starts.
    """
    _check(spec)
    args = popen_args(spec)
    try:
        return WarmIO(_template(spec, args, group), spec, group.execmodel)
    except OSError as error:
        import shlex  # lazy: start-up speed

        raise named_error(error, spec, shlex.join(args)) from None


def _check(spec: XSpec) -> None:
    if not spec.warm:
        raise ValueError(f"preload= is for warm starts, popen//warm//preload=…: {str(spec)!r}")
    if not spec.popen or spec.via:
        raise ValueError(f"warm is for processes of this machine, popen//warm: {str(spec)!r}")
    if not hasattr(os, "fork") or not hasattr(_socket.socket, "sendmsg"):
        raise ValueError(f"warm needs fork, which {sys.platform} does not have: {str(spec)!r}")
    if spec.preload is True:
        raise ValueError(f"preload= needs names of modules: {str(spec)!r}")


def _template(spec: XSpec, args: list[str], group: Group) -> Template:
    """The template of the group for such workers."""
    environment = dict(os.environb)
    preload = str(spec.preload or "")
    start_environment = sorted(item for item in environment.items() if item[0].startswith(START_VARIABLES))
    # What a template has inherited and can't change is part of what tells it from others.
    identity = (os.getpgrp(), os.geteuid(), os.getegid(), *os.getgroups())
    key = (*args, preload, identity, tuple(start_environment))
    with group._lock:
        template = group._templates.get(key)
        if template is None or not template.is_usable():
            if template is not None:
                template.end()
            template = group._templates[key] = Template(args, preload, environment, group.execmodel)
    return template


# What belongs to this process, and not to a child that it forks.
_owned: set[Template | WarmProcess] = set()


def _disown() -> None:
    while _owned:
        _owned.pop().disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown)


class Template:
    """The initiator's end of a template process, whose ``popen`` it holds.

    Raises OSError where the process can't be started.
    """

    def __init__(self, args: list[str], preload: str, environment: dict[bytes, bytes], execmodel: ExecModel) -> None:
        self.environment = environment
        self.usable = True
        self._lock = execmodel.Lock()
        self._control, far = _socket.socketpair()
        program = PROGRAM.format(importdir=importdir, descriptor=far.fileno(), preload=preload)
        try:
            # Nothing is ever written to its stdin: its end is the end of this process.
            self.popen: subprocess.Popen[bytes] = execmodel.subprocess.Popen(
                [*args[:-1], program], stdin=PIPE, stdout=DEVNULL, pass_fds=[far.fileno()]
            )
        except BaseException:
            self._control.close()
            raise
        finally:
            far.close()
        _owned.add(self)

    def is_usable(self) -> bool:
        """Whether workers can be had from it: it runs, and has not said that it can't fork."""
        return self.usable and self.popen.poll() is None

    def fork(self, descriptors: list[int], request: dict[str, Any]) -> None:
        """Ask for a worker; that the template has ended is told later, like all else that becomes of it."""
        data = dumps_internal({**request, "environment": _changes(self.environment, dict(os.environb))})
        message = SIZE.pack(len(data)) + data
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(descriptors)}i", *descriptors))]
        with self._lock:
            if self._control.fileno() < 0:
                return  # ended meanwhile
            try:
                sent = self._control.sendmsg([message], rights)
                self._control.sendall(message[sent:])
            except ConnectionError:  # it has ended
                self.usable = False
            except BaseException:  # interrupted half-way: what follows would not be understood
                self.usable = False
                raise

    def exit_status(self, timeout: float) -> int | None:
        """Exit status of the process, None if it runs for ``timeout`` seconds more."""
        import subprocess  # lazy: start-up speed

        with suppress(subprocess.TimeoutExpired):
            return self.popen.wait(timeout)
        return None

    def end(self) -> None:
        """End the process and reap it; workers it has forked live on."""
        if self not in _owned:
            return
        _owned.discard(self)
        with self._lock:
            self._control.close()
        if self.exit_status(END_TIME) is None:
            self.popen.kill()
            self.exit_status(END_TIME)
        if self.popen.stdin is not None:
            self.popen.stdin.close()

    def disown(self) -> None:
        """In a forked child: the process is the parent's, and its end must not wait for the child's."""
        self._control.close()
        if self.popen.stdin is not None:
            self.popen.stdin.close()
        self.popen.returncode = 0  # no child of this process


class WarmProcess:
    """A process forked from a template: what gateways and their users need of a `subprocess.Popen`.

    ``stdin``, ``stdout`` and, if it is captured, ``stderr`` are this side's ends of its pipes. ``returncode`` is
    None while it runs; when its template was killed meanwhile, it is STATUS_LOST, and ``status_lost`` is true.
    ``failure`` says why the template did not fork it.
    """

    stderr: IO[bytes] | None = None

    def __init__(self, template: Template, request: dict[str, Any], execmodel: ExecModel, capture_stderr: bool) -> None:
        self.args = template.popen.args
        self.returncode: int | None = None
        self.status_lost = False
        self.failure = ""
        self._template = template
        self._execmodel = execmodel
        self._lock = execmodel.Lock()
        self._pid: int | None = None
        self._cancelled = False
        self._told = b""
        self._waiting = 0
        with ExitStack() as theirs, ExitStack() as ours:
            stdin, near_stdin = _pipe(theirs, ours)
            near_stdout, stdout = _pipe(ours, theirs)
            if capture_stderr:
                near_stderr, stderr = _pipe(ours, theirs)
            self._report, far_report = _socket.socketpair()
            ours.callback(self._report.close)
            theirs.callback(far_report.close)
            folder = os.open(os.curdir, getattr(os, "O_PATH", os.O_RDONLY))
            theirs.callback(os.close, folder)
            descriptors = [stdin, stdout, folder, far_report.fileno()]
            if capture_stderr:
                descriptors.append(stderr)
            elif _is_inheritable(STDERR):
                descriptors.append(STDERR)
            template.fork(descriptors, request)
            ours.pop_all()
        self.stdin = _file(execmodel, near_stdin, "wb")
        self.stdout = _file(execmodel, near_stdout, "rb")
        if capture_stderr:
            self.stderr = os.fdopen(near_stderr, "rb")
        _owned.add(self)

    def __repr__(self) -> str:
        return f"<WarmProcess pid={self._pid} returncode={self.returncode}>"

    @property
    def pid(self) -> int | None:
        """The process's id, waiting until it is forked; None if it never was."""
        self.poll()
        while self._pid is None and self.returncode is None:
            self._await_report(None)
            self.poll()
        return self._pid

    def never_ran(self) -> bool:
        """Whether it has been told that there will be no process."""
        return self.poll() is not None and self._pid is None

    def poll(self) -> int | None:
        """The exit status, None while the process runs."""
        with self._lock:
            while self.returncode is None and self._take():
                pass
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the process's end; its exit status. Raises subprocess.TimeoutExpired after ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise self._execmodel.subprocess.TimeoutExpired(self.args, timeout)
            self._await_report(left)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send the signal to the process, unless it has ended."""
        if self.poll() is None and self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM, as send_signal."""
        self.send_signal(15)

    def kill(self) -> None:
        """Send SIGKILL, as send_signal; a process that is not forked yet never will be."""
        if self.poll() is None and self._pid is None:
            self._cancel()
        else:
            self.send_signal(SIGKILL)

    def _cancel(self) -> None:
        with self._lock:
            if self.returncode is not None:
                return
            # From now on the template can tell nothing more, and kills what it can't tell of; what it has told is here.
            self._cancelled = True
            with suppress(OSError):  # the template has ended
                self._report.shutdown(_socket.SHUT_RDWR)
            while self.returncode is None and self._take():
                pass

    def disown(self) -> None:
        """In a forked child: the process is the parent's."""
        self._lock = self._execmodel.Lock()
        self.returncode, self.status_lost = STATUS_LOST, True
        self._report.close()

    def _await_report(self, timeout: float | None) -> None:
        with self._lock:
            if self.returncode is not None:
                return
            self._waiting += 1
        try:
            wait_readable(self._execmodel, self._report.fileno(), timeout)
        finally:
            with self._lock:
                self._waiting -= 1
                self._close_after_end()

    def _take(self) -> bool:
        """Take what the template has told; false if that is nothing. With the lock held."""
        try:
            data = self._report.recv(4096, _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""
        if not data:
            self._nothing_more_is_told()
            return False
        *lines, self._told = (self._told + data).split(b"\n")
        for line in lines:
            word, _, text = line.decode("utf-8", "replace").partition(" ")
            if word == STARTED:
                self._pid = int(text)
            elif word == ENDED:
                self._end(int(text))
            elif word == FAILED:
                self._template.usable = False
                self.failure = text
                self._end(1)
        return True

    def _nothing_more_is_told(self) -> None:
        if self._cancelled:
            if self._pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(self._pid, SIGKILL)
            self._end(-SIGKILL)
        elif self._pid is None:
            status = self._template.exit_status(END_TIME)
            self._end(STATUS_LOST if status is None else status)
        else:
            # Template and worker have ended: the worker has held the connection open as long as it ran.
            self.status_lost = True
            self._end(STATUS_LOST)

    def _end(self, returncode: int) -> None:
        self.returncode = returncode
        with suppress(OSError):  # the other end is closed
            self._report.shutdown(_socket.SHUT_RDWR)  # wakes whoever waits
        self._close_after_end()

    def _close_after_end(self) -> None:
        # Not while another thread waits: the number could become another file's, which it would then wait for.
        if self.returncode is not None and not self._waiting:
            self._report.close()
            _owned.discard(self)


class WarmIO(Popen2IOMaster):
    """As Popen2IOMaster, of a process that a template forks."""

    popen: WarmProcess  # type: ignore[assignment]
    lends = True

    def __init__(self, template: Template, spec: XSpec, execmodel: ExecModel) -> None:
        options = process_options(spec)
        request = {
            "id": f"{spec.id}-worker",
            "execmodel": spec.execmodel or "thread",
            "newsession": options.get("newsession", False),
        }
        self._own(WarmProcess(template, request, execmodel, options.get("capture_stderr", False)), execmodel)

    def _last_words(self, deadline: float) -> bytes:
        if self.popen.never_ran():
            return self.popen.failure.encode()
        return super()._last_words(deadline)

    def exit_status(self, timeout: float) -> int | None:
        """As Popen2IOMaster.exit_status; None as well where nobody is left to tell it."""
        returncode = super().exit_status(timeout)
        return None if self.popen.status_lost else returncode


def _pipe(read: ExitStack, write: ExitStack) -> tuple[int, int]:
    """The descriptors of a new pipe, closed with the stacks."""
    descriptors = os.pipe()
    for stack, descriptor in zip((read, write), descriptors):
        stack.callback(os.close, descriptor)
    return descriptors


def _file(execmodel: ExecModel, descriptor: int, mode: str) -> IO[bytes]:
    if execmodel.backend == "gevent":
        # As gevent.subprocess does; the file of the execution model is for descriptors that others may share.
        from gevent.fileobject import FileObject  # type: ignore[import-untyped, import-not-found, unused-ignore]

        green: IO[bytes] = FileObject(descriptor, mode)
        return green
    file: IO[bytes] = execmodel.fdopen(descriptor, mode)
    return file


def _is_inheritable(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:  # closed
        return False


def _changes(before: dict[bytes, bytes], now: dict[bytes, bytes]) -> dict[bytes, bytes | None]:
    gone: dict[bytes, bytes | None] = dict.fromkeys(before.keys() - now.keys())
    return {**gone, **{name: value for name, value in now.items() if before.get(name) != value}}
