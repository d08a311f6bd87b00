"""Warm starts (``popen//warm``): workers forked from a fork server, which has imported execnet before."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found, unused-ignore]  # without the enums of signal
import _socket
import os
import struct
import sys
import time
from contextlib import ExitStack, suppress
from io import BufferedReader, BufferedWriter, FileIO

from execnet._process.reaping import send_signal
from execnet._process.waiting import wait_readable
from execnet.gateway_base import dumps_internal, of_parent, threads_are_green
from execnet.gateway_bootstrap import importdir
from execnet.gateway_io import Popen2IOMaster, lacks_stderr, named_error, popen_args, start_variables
from execnet.script.forkserver import FAILED, MOST_TOLD, SIZE, STARTED, TOKEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from typing import IO, Any

    from execnet._output.streams import Outputs
    from execnet.gateway_base import ExecModel
    from execnet.multi import Group
    from execnet.xspec import XSpec

assert sys.platform != "win32"  # where nothing imports this: execnet._transport.creating says so

# What a fork server runs.
PROGRAM = (
    "import sys;sys.path.insert(0,{importdir!r});"
    "from execnet.script import forkserver;sys.path.remove({importdir!r});"
    "forkserver.work(forkserver.serve({descriptor},{preload!r}))"
)
# Variables that act when an interpreter starts: with other ones there, another fork server is needed.
START_VARIABLES = (b"PYTHON", b"EXECNET_", b"LANG", b"LC_", b"LD_", b"DYLD_", b"TZ")

END_TIME = 1.0  # seconds a fork server has for ending by itself
STATUS_LOST = 255  # the returncode of a worker whose exit status nobody is left to tell
SIGKILL = 9
STDERR = 2
FAMILY = (getattr(_socket, "AF_UNIX", 0), _socket.SOCK_STREAM, 0)
DEVNULL, PIPE = -3, -1  # as in subprocess, the same for every execution model


class Preload:
    """What a fork server imports: all of ``names``; with ``folders``, those that can be imported from there."""

    def __init__(self, names: tuple[str, ...], folders: tuple[str, ...] = ()) -> None:
        self.names = names
        self.folders = folders

    def key(self) -> tuple[object, ...]:
        """What tells it from others."""
        return (self.names, self.folders)


def create_io(spec: XSpec, group: Group, preload: Preload | None = None, outputs: Outputs | None = None) -> WarmIO:
    """Have a worker forked by a fork server of the group, without waiting for it; that one is started where needed.

    With ``preload`` the spec need not ask for it. Raises ValueError for a spec that can't be started so, OSError naming
    spec and command where no fork server starts.
    """
    if preload is None:
        _check(spec)
        preload = Preload(tuple(name for name in str(spec.preload or "").split(",") if name))
    args = popen_args(spec)
    process = WarmProcess(group.execmodel)
    try:
        process.fork(_forkserver(preload, args, _environment(spec), group, process), spec, outputs)
        return WarmIO(process, group.execmodel)
    except BaseException as error:
        process.give_up()
        if not isinstance(error, OSError):
            raise
        import shlex  # lazy: start-up speed

        raise named_error(error, spec, shlex.join(args)) from None


def _check(spec: XSpec) -> None:
    if not spec.warm:
        raise ValueError(f"preload= is for warm starts, popen//warm//preload=…: {str(spec)!r}")
    if not spec.popen or spec.via:
        raise ValueError(f"warm is for processes of this machine, popen//warm: {str(spec)!r}")
    if spec.preload is True:
        raise ValueError(f"preload= needs names of modules: {str(spec)!r}")


def _forkserver(
    preload: Preload, args: list[str], environment: dict[bytes, bytes], group: Group, process: WarmProcess
) -> ForkServer:
    """The fork server of the group for such workers, kept from ending as long as ``process`` runs.

    No lock is held: a signal handler may ask for a fork server in the middle of this. Each step is one operation of the
    dictionary, and whatever another thread does in between, each fork server that runs is in it.
    """
    start_environment = sorted(item for item in environment.items() if item[0].startswith(START_VARIABLES))
    # What a fork server has inherited and can't change is part of what tells it from others.
    identity = (os.getpgrp(), os.geteuid(), os.getegid(), *os.getgroups())
    key = (*args, preload.key(), identity, tuple(start_environment))
    while True:
        forkserver = group._forkservers.get(key)
        if forkserver is None:
            _add_forkserver(group, key, ForkServer(environment), args, preload)
        elif forkserver.serves(process):
            return forkserver
        else:
            _set_aside(group._forkservers, key)


def _add_forkserver(group: Group, key: object, forkserver: ForkServer, args: list[str], preload: Preload) -> None:
    """Start the fork server, and keep it for the group, unless another thread was first; after an exception as well."""
    kept = None
    try:
        forkserver.run(args, preload, group.execmodel)
        kept = group._forkservers.setdefault(key, forkserver)
    finally:
        if kept is not forkserver:
            forkserver.kill()


def _set_aside(forkservers: dict[object, ForkServer], key: object) -> None:
    """Make room for another fork server; the one there ends when no worker needs it to tell of its end."""
    forkserver = forkservers.pop(key, None)
    if forkserver is not None:
        forkservers[forkserver] = forkserver
        _end_unless_needed(forkservers, forkserver)


def end_forkservers(forkservers: dict[object, ForkServer]) -> None:
    """End fork servers; those that workers need stay: of a start by another thread meanwhile, for example."""
    for key in list(forkservers):
        _end_unless_needed(forkservers, key)


def _end_unless_needed(forkservers: dict[object, ForkServer], key: object) -> None:
    forkserver = forkservers.pop(key, None)  # from now on it is this thread's to end
    if forkserver is None:
        return
    try:
        forkserver.end_unless_needed()
    finally:
        if not forkserver.ended and forkservers.setdefault(key, forkserver) is not forkserver:
            forkservers[forkserver] = forkserver


# What belongs to this process, and not to a child that it forks.
_owned: dict[ForkServer | WarmProcess, None] = {}


def _disown() -> None:
    global _owned
    parents, _owned = of_parent(_owned), {}
    for one in parents:
        one.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown)


class _Connection(_socket.socket):
    """One end of a pair of sockets, closed when nobody refers to it any more.

    So a thread that waits for it, or uses it, never finds another file under its number.
    """

    __del__ = _socket.socket.close

    def told(self) -> bytes | None:
        """What the other side has told: None if nothing yet, empty if it is gone. It is looked at and left there.

        So all threads see the same, in any order, and whoever waits for it is never late.
        """
        try:
            return self.recv(MOST_TOLD, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            return b""


def _connect() -> tuple[_Connection, _Connection]:
    near, far = (_Connection(*FAMILY, end.detach()) for end in _socket.socketpair(*FAMILY))
    return near, far


class ForkServer:
    """The initiator's end of a fork server, whose ``popen`` it holds.

    The processes that were forked from it, or are to be, need it until their end is known; one that is
    ``closing`` takes no new ones. Whoever ends it sets ``closing`` before looking for processes, a start enters its
    process before looking at ``closing``: one of them sees the other.
    """

    popen: subprocess.Popen[bytes] | None = None
    _control: _Connection | None = None

    def __init__(self, environment: dict[bytes, bytes]) -> None:
        self.environment = environment
        self.usable = True
        self.closing = False
        self.ended = False
        self.processes: set[WarmProcess] = set()

    def run(self, args: list[str], preload: Preload, execmodel: ExecModel) -> None:
        """Start the process. Raises OSError where it can't be started."""
        import fcntl  # lazy: start-up speed

        self._control, end = _connect()
        # The numbers below are the fork server's own stdin, stdout and stderr, whatever they are here.
        far = _Connection(*FAMILY, fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, STDERR + 1))
        descriptors = [far.fileno()]
        with ExitStack() as files:
            wanted: str | int = ",".join(preload.names)
            if preload.folders:
                import tempfile  # lazy: start-up speed

                # They may be many, and the fork server may have to read them again.
                own = files.enter_context(tempfile.TemporaryFile())
                wanted = fcntl.fcntl(own.fileno(), fcntl.F_DUPFD_CLOEXEC, STDERR + 1)
                file = files.enter_context(FileIO(wanted, "wb"))
                descriptors.append(wanted)
            program = PROGRAM.format(importdir=importdir, descriptor=far.fileno(), preload=wanted)
            command = [*args[:-1], program]
            if preload.folders:
                told = {"names": list(preload.names), "folders": list(preload.folders), "command": command, "rounds": 0}
                file.write(dumps_internal(told))
            # Nothing is ever written to its stdin: its end is the end of this process.
            stderr = DEVNULL if lacks_stderr() else None
            self.popen = execmodel.subprocess.Popen(
                command, stdin=PIPE, stdout=DEVNULL, stderr=stderr, pass_fds=descriptors, env=self.environment
            )
        _owned[self] = None

    def serves(self, process: WarmProcess) -> bool:
        """Whether ``process`` can be had from it: it runs, is not being ended, and has not said that it can't fork."""
        process.forkserver = self
        self.processes.add(process)
        if self.usable and not self.closing and self.is_running():
            return True
        self.processes.discard(process)
        return False

    def is_running(self) -> bool:
        """Whether the process runs."""
        return self.popen is not None and self.popen.poll() is None

    def hand_over(self, descriptors: list[int]) -> None:
        """Ask for a worker; that the fork server has ended is told later, like all else that becomes of it."""
        control = self._control
        if control is None:
            return
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(descriptors)}i", *descriptors))]
        try:
            control.sendmsg([TOKEN], rights)  # all of it or nothing
        except ConnectionError:
            self.usable = False

    def exit_status(self, timeout: float) -> int | None:
        """Exit status of the process, None if it runs for ``timeout`` seconds more."""
        import subprocess  # lazy: start-up speed

        with suppress(subprocess.TimeoutExpired):
            return None if self.popen is None else self.popen.wait(timeout)
        return None

    def end_unless_needed(self) -> None:
        """End the process, unless it is there to tell of others that run."""
        self.closing = True
        if self.is_running() and any(process.poll() is None for process in list(self.processes)):
            self.closing = False
        else:
            self.end()

    def end(self) -> None:
        """End the process and reap it; workers it has forked live on."""
        control, self._control = self._control, None
        if control is not None:
            with suppress(OSError):  # it has ended
                control.shutdown(_socket.SHUT_RDWR)
        if self.popen is not None:
            if self.exit_status(END_TIME) is None:
                self.popen.kill()
                self.exit_status(END_TIME)
            _close_stdin(self.popen)
        self.ended = True
        _owned.pop(self, None)

    def kill(self) -> None:
        """As end(), at once."""
        if self.popen is not None:
            self.popen.kill()
        self.end()

    def disown(self) -> None:
        """In a forked child: the process is the parent's, and its end must not wait for the child's."""
        self._control = None
        if self.popen is not None:
            _close_stdin(self.popen)
            self.popen.returncode = 0  # no child of this process


def _close_stdin(popen: subprocess.Popen[bytes]) -> None:
    if popen.stdin is not None:
        popen.stdin.close()


class WarmProcess:
    """A process forked from a fork server: what gateways and their users need of a `subprocess.Popen`.

    ``stdin`` and ``stdout`` are this side's ends of its pipes. ``returncode`` is
    None while it runs; when its fork server was killed meanwhile, it is STATUS_LOST, and ``status_lost`` is true.
    ``failure`` says why the fork server did not fork it, ``signalled`` whether this program has signalled it.

    Any thread may call any method at any time, a signal handler in the middle of another one's call as well: there is
    no lock. What is told of the process stays where it was told, each thread takes note of it by itself, and the first
    outcome noted is the one that counts. A connection is let go of when all it can tell is known.
    """

    stdin: IO[bytes]
    stdout: IO[bytes]
    stderr: IO[bytes] | None = None
    failure = ""
    signalled = False

    def __init__(self, execmodel: ExecModel) -> None:
        self.args: Any = None
        self._execmodel = execmodel
        self.forkserver: ForkServer | None = None
        self._pid: int | None = None
        self._cancelled = False
        self._outcomes: list[tuple[int, bool]] = []  # returncode, and whether that is unknown
        # Takes the request and tells whether the process was started; tells of its end.
        self._start: _Connection | None = None
        self._ending: _Connection | None = None

    def fork(self, forkserver: ForkServer, spec: XSpec, outputs: Outputs | None) -> None:
        """Ask ``forkserver`` for the process, without waiting for it."""
        assert forkserver.popen is not None
        self.args = forkserver.popen.args
        # Closed by whoever has made the outputs.
        stderr, worker_stdout = (None, None) if outputs is None else (outputs.stderr_end(), outputs.stdout_end())
        request = {
            "id": f"{spec.id}-worker",
            "execmodel": spec.execmodel or "thread",
            "newsession": bool(spec.newsession),
            "output": worker_stdout is not None,
            "blocked": sorted(_signal.pthread_sigmask(_signal.SIG_BLOCK, ())),
            "environment": _changes(forkserver.environment, _environment(spec)),
        }
        data = dumps_internal(request)
        message = SIZE.pack(len(data)) + data
        with ExitStack() as ours, ExitStack() as theirs:
            stdin, near_stdin = _pipe()
            near_stdout, stdout = _pipe()
            start, far_start = _connect()
            ending, far_ending = _connect()
            theirs.callback(os.close, folder := os.open(os.curdir, getattr(os, "O_PATH", os.O_RDONLY)))
            near: list[FileIO] = [near_stdin, near_stdout]
            far: list[_Connection | FileIO] = [far_start, far_ending, stdin, stdout]
            descriptors = [*(file.fileno() for file in far), folder]
            if worker_stdout is not None:
                assert outputs is not None
                descriptors.append(worker_stdout)
                outputs.is_done("stdout")
            if stderr is not None:
                descriptors.append(stderr)
            elif not lacks_stderr():
                descriptors.append(STDERR)
            for stack, files in ((ours, near), (theirs, far)):
                for file in files:
                    stack.callback(file.close)
            sent = start.send(message, _socket.MSG_DONTWAIT)
            forkserver.hand_over(descriptors)
            theirs.close()
            self._start, self._ending = start, ending
            _owned[self] = None
            if sent < len(message):
                with suppress(ConnectionError):  # the fork server has ended
                    start.sendall(message[sent:])
            self.stdin = _file(self._execmodel, near_stdin, "wb")
            self.stdout = _file(self._execmodel, near_stdout, "rb")
            ours.pop_all()

    def give_up(self) -> None:
        """After a fork() that failed: there will be no process."""
        self.kill()
        self._end(-SIGKILL)

    def __repr__(self) -> str:
        return f"<WarmProcess pid={self._pid} returncode={self.returncode}>"

    @property
    def returncode(self) -> int | None:
        """The exit status as far as it was noted, None before."""
        return self._outcomes[0][0] if self._outcomes else None

    @property
    def status_lost(self) -> bool:
        """Whether the process has ended, and nobody is left to tell its status."""
        return bool(self._outcomes) and self._outcomes[0][1]

    @property
    def pid(self) -> int | None:
        """The process's id, waiting until it is forked; None if it never was."""
        while self.poll() is None and self._pid is None:
            self._await_news(None)
        return self._pid

    def never_ran(self) -> bool:
        """Whether it has been told that there will be no process."""
        return self.poll() is not None and self._pid is None

    def reason_not_forked(self) -> str:
        """Wait until the process is forked; why it was not, empty if it was, or was killed before."""
        if self.pid is not None or self._cancelled:
            return ""
        return self.failure or f"the fork server ended with status {self.returncode} before it had forked a worker"

    def poll(self) -> int | None:
        """The exit status, None while the process runs."""
        if not self._outcomes:
            self._take_note()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the process's end; its exit status. Raises subprocess.TimeoutExpired after ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (returncode := self.poll()) is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise self._execmodel.subprocess.TimeoutExpired(self.args, timeout)
            self._await_news(left)
        return returncode

    def send_signal(self, number: int) -> None:
        """Send the signal to the process, unless it has ended."""
        self.signalled = self.signalled or bool(number)
        pid = self.pid
        if self.poll() is None and pid is not None and not send_signal(pid, number, lambda _: self.poll() is None):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def terminate(self) -> None:
        """Send SIGTERM, as send_signal."""
        self.send_signal(15)

    def kill(self) -> None:
        """Send SIGKILL, as send_signal; a process that is not forked yet never will be."""
        # From now on it can't be told that the process was started, and one that can't tell that leaves.
        self._cancelled = self.signalled = True
        start = self._start
        if start is not None:
            with suppress(OSError):  # the other side has ended
                start.shutdown(_socket.SHUT_RDWR)
        if self.poll() is None and self._pid is not None:
            self.send_signal(SIGKILL)

    def disown(self) -> None:
        """In a forked child: the process is the parent's."""
        self._end(STATUS_LOST, lost=True)

    def _await_news(self, timeout: float | None) -> None:
        connection = self._start or self._ending
        if connection is not None:
            wait_readable(self._execmodel, connection.fileno(), timeout)

    def _take_note(self) -> None:
        start, ending = self._start, self._ending
        if start is not None:
            told = start.told()
            if told is None:
                return
            self._note_start(*told.decode("utf-8", "replace").rstrip("\n").partition(" ")[::2])
        if ending is not None and not self._outcomes:
            told = ending.told()
            if told:
                self._end(int(told))
            elif told is not None:
                self._note_silence()

    def _note_start(self, word: str, text: str) -> None:
        """Note what was told of the start; no ``word`` where nobody is left to tell it."""
        if word == STARTED:
            self._pid = int(text)
        elif word == FAILED:
            assert self.forkserver is not None
            self.forkserver.usable = False
            self.failure = text
            self._end(1)
        elif self._cancelled:
            self._end(-SIGKILL)
        self._start = None

    def _note_silence(self) -> None:
        """Note that nobody is left to tell how the process ended: neither its fork server nor itself."""
        if self._pid is not None:
            self._end(STATUS_LOST, lost=True)
        else:
            assert self.forkserver is not None
            status = self.forkserver.exit_status(END_TIME)
            self._end(STATUS_LOST if status is None else status)

    def _end(self, returncode: int, lost: bool = False) -> None:
        self._outcomes.append((returncode, lost))
        self._start = self._ending = None
        if self.forkserver is not None:
            self.forkserver.processes.discard(self)
        _owned.pop(self, None)


class WarmIO(Popen2IOMaster):
    """As Popen2IOMaster, of a process that a fork server forks."""

    popen: WarmProcess  # type: ignore[assignment]
    zero_copy = True

    def __init__(self, process: WarmProcess, execmodel: ExecModel) -> None:
        self._own(process, execmodel)

    def _last_words(self, deadline: float) -> bytes:
        if self.popen.never_ran():
            return self.popen.failure.encode()
        return super()._last_words(deadline)

    def exit_status(self, timeout: float) -> int | None:
        """As Popen2IOMaster.exit_status; None as well where nobody is left to tell it."""
        returncode = super().exit_status(timeout)
        return None if self.popen.status_lost else returncode


def _pipe() -> tuple[FileIO, FileIO]:
    """A new pipe: what is written to the second can be read from the first."""
    # No step between the two, at which an exception could find descriptors that nothing refers to.
    read, write = map(FileIO, os.pipe(), ("rb", "wb"))
    return read, write


class _GreenPipe(FileIO):
    """A pipe whose user waits in the way that all of a monkey-patched process wait: by its select()."""

    def readinto(self, buffer: Any) -> int:
        import select  # lazy: only monkey-patched processes

        select.select([self], [], [])
        return super().readinto(buffer)  # type: ignore[return-value, unused-ignore]

    def write(self, data: Any) -> int:
        import select  # lazy: only monkey-patched processes

        select.select([], [self], [])
        return super().write(data[: select.PIPE_BUF])  # type: ignore[return-value, unused-ignore]


def _file(execmodel: ExecModel, raw: FileIO, mode: str) -> IO[bytes]:
    """What subprocess.Popen of the execution model has for a pipe."""
    if execmodel.backend in ("thread", "main_thread_only"):
        if threads_are_green():
            with raw:
                raw = _GreenPipe(os.dup(raw.fileno()), mode)
        return BufferedWriter(raw) if mode == "wb" else BufferedReader(raw)
    with raw:
        descriptor = os.dup(raw.fileno())
    if execmodel.backend == "gevent":
        # As gevent.subprocess does; the file of the execution model is for descriptors that others may share.
        from gevent.fileobject import FileObject  # type: ignore[import-untyped, import-not-found, unused-ignore]

        green: IO[bytes] = FileObject(descriptor, mode)
        return green
    file: IO[bytes] = execmodel.fdopen(descriptor, mode)
    return file


def _environment(spec: XSpec) -> dict[bytes, bytes]:
    """What the worker is started with."""
    own = start_variables(spec)
    return {**os.environb, **{os.fsencode(name): os.fsencode(value) for name, value in own.items()}}


def _changes(before: dict[bytes, bytes], now: dict[bytes, bytes]) -> dict[bytes, bytes | None]:
    gone: dict[bytes, bytes | None] = dict.fromkeys(before.keys() - now.keys())
    return {**gone, **{name: value for name, value in now.items() if before.get(name) != value}}
