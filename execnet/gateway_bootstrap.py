"""The first bytes of a connection: what text is sent, the answer, and errors that say why there is none.

The far side executes one line, answers the byte ``1``, which `execnet._process.noise` finds after what others
write, and from then on speaks messages. A local interpreter of our own imports execnet from where we have it;
every other one is sent the source of ``gateway_base``, stripped for the wire and compressed.
"""

from __future__ import annotations

import os

from execnet._process.death import signal_name, stderr_of, watch_memory
from execnet._process.noise import ACCEPTED, warn_of_noise
from execnet.gateway import Gateway
from execnet.gateway_base import TimeoutError
from execnet.gateway_io import named_error, runs_this_interpreter
from execnet.xspec import XSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from execnet.gateway_base import IOLike

    class StartIO(Protocol):
        """What the functions here need of an io; where it has more, errors tell more."""

        def read(self, numbytes: int, /) -> bytes: ...

        def write(self, data: bytes, /) -> object: ...


# The folder our worker imports execnet from.
importdir = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# What starting makes lives as long as the process: a collection meanwhile would find nothing, and once it is frozen,
# later collections and the process's end are cheaper. Of the instructions of a worker that has nothing to do, those of
# the bare interpreter apart, freezing saves 5 to 11 %, not collecting 0.4 to 3 % (CPython 3.9, 3.11, 3.13).
# What can't freeze is left alone: Jython's garbage is Java's, which can't be told anything.
QUIET_START = """\
import gc
quiet = hasattr(gc, 'freeze') and gc.isenabled()
if quiet:
    gc.disable()
"""
IMPORT_START = """\
import sys
found = {importdir} in sys.path
sys.path.insert(0, {importdir})
import execnet
if found:
    del sys.path[0]
del found
from execnet.gateway_base import answer, get_execmodel, init_popen_io, serve
"""
POPEN_START = """\
io = init_popen_io(get_execmodel({execmodel}))
io.zero_copy = {zero_copy}
{take_back}answer(io)
if quiet:
    gc.freeze()
    gc.enable()
del quiet
raise SystemExit(serve(io, id={id}))
"""
SOCKET_START = """\
execmodel = get_execmodel({execmodel})
if execmodel.backend in ('gevent', 'eventlet'):
    clientsock = execmodel.socket.fromfd(clientsock.fileno(), clientsock.family, clientsock.type)
clientsock.setsockopt(execmodel.socket.IPPROTO_TCP, execmodel.socket.TCP_NODELAY, 1)
io = Popen2IO(clientsock.makefile('wb'), clientsock.makefile('rb'), execmodel)
io.write(b'1')
try:
    serve(io, id={id})
finally:
    clientsock.close()
"""


class GatewayStartError(OSError):
    """A gateway did not start.

    ``spec`` (str), ``command`` (list of str or None), ``returncode`` (the process's exit status, None
    where it is not known or it had to be killed) and ``output`` (bytes: what it wrote to stdout
    instead of the answer) and ``stderr`` (str: the last lines it wrote there, where they are kept)
    tell more.
    """

    spec: str = ""
    command: list[str] | None = None
    returncode: int | None = None
    output: bytes = b""
    stderr: str = ""


class GatewayStartTimeout(GatewayStartError, TimeoutError):
    """A gateway took longer to start than it may, and was given up."""


class HostNotFound(GatewayStartError):
    """The host of a gateway can't be found or reached."""


def sendexec(io: StartIO, *sources: str) -> None:
    """Send ``sources`` to be executed as one text, before the other side serves messages."""
    io.write((ascii("\n".join(sources)) + "\n").encode("ascii"))


def _filled(start: str, spec: XSpec, io: StartIO | None = None) -> str:
    first_words = getattr(io, "first_words", None)
    return start.format(
        importdir=ascii(importdir),
        execmodel=ascii(spec.execmodel or "thread"),
        id=ascii(f"{spec.id}-worker"),
        zero_copy=runs_this_interpreter(spec),
        take_back=first_words.take_back if first_words is not None else "",
    )


def _import_text(spec: XSpec, io: StartIO) -> str:
    return _filled(QUIET_START + IMPORT_START + POPEN_START, spec, io)


def _exec_text(spec: XSpec, io: StartIO) -> str:
    from execnet._source import shipped  # lazy: a local worker is sent none

    return QUIET_START + shipped.packed_text() + _filled(POPEN_START, spec, io)


def _socket_text(spec: XSpec) -> str:
    from execnet._source import shipped  # lazy: a local worker is sent none

    return shipped.packed_text() + _filled(SOCKET_START, spec)


def _send(io: StartIO, spec: XSpec, text: str) -> None:
    try:
        sendexec(io, text)
    except OSError:  # a broken pipe is no news: what broke it is
        raise start_error(io, spec, b"") from None


def begin(io: StartIO, spec: XSpec) -> None:
    """Send the text that fits ``spec``, without waiting for the answer; :func:`finish` does that.

    Raises GatewayStartError or HostNotFound where it can't be sent.
    """
    if spec.warm or not begins_as_usual():
        return  # the request for it said what to run, or finish() does both
    if spec.socket:
        text = _socket_text(spec)
    elif runs_this_interpreter(spec):
        text = _import_text(spec, io)
    else:
        text = _exec_text(spec, io)
    _send(io, spec, text)


def finish(io: IOLike, spec: XSpec) -> Gateway:
    """Wait for the answer to :func:`begin` and return the gateway.

    Raises GatewayStartError or HostNotFound, or another OSError naming ``spec``, where none comes.
    """
    if not (spec.warm or begins_as_usual()):
        return bootstrap(io, spec)
    await_answer(io, spec)
    watch_memory()
    return Gateway(io, spec)


def bootstrap(io: IOLike, spec: XSpec) -> Gateway:
    """Make a gateway of a started process or connection; nothing is left of it where that fails.

    Raises GatewayStartError or HostNotFound, or another OSError naming ``spec``.
    """
    try:
        if spec.socket:
            bootstrap_socket(io, spec)
        elif runs_this_interpreter(spec):
            bootstrap_import(io, spec)
        else:
            bootstrap_exec(io, spec)
        watch_memory()
        gateway = Gateway(io, spec)
        warn_of_noise(io, spec, 2)
        return gateway
    except BaseException:  # Ctrl-C at a password prompt as well
        discard(io)
        raise


def bootstrap_import(io: StartIO, spec: XSpec) -> None:
    """Have a local interpreter import execnet from :data:`importdir` and serve."""
    _send(io, spec, _import_text(spec, io))
    await_answer(io, spec)


def bootstrap_exec(io: StartIO, spec: XSpec) -> None:
    """Have an interpreter that needs nothing installed execute the shipped text and serve."""
    _send(io, spec, _exec_text(spec, io))
    await_answer(io, spec)


def bootstrap_socket(io: StartIO, id: XSpec | str) -> None:
    """As :func:`bootstrap_exec`, on the connection of an ``execnet.script.socketserver``.

    ``id`` is the spec, or just what the other side is to be called.
    """
    spec = XSpec("socket") if isinstance(id, str) else id
    if isinstance(id, str):
        spec.id = id
    _send(io, spec, _socket_text(spec))
    await_answer(io, spec)


_STEPS = (bootstrap, bootstrap_import, bootstrap_exec, bootstrap_socket)


def begins_as_usual() -> bool:
    """Whether nobody has replaced a step of :func:`bootstrap`; else all is done by that, as in execnet 2.1."""
    return all(globals()[step.__name__] is step for step in _STEPS)


def await_answer(io: StartIO, spec: XSpec) -> None:
    """Wait for the other side's first byte, without a deadline.

    Raises GatewayStartError or HostNotFound where it is another one or none.
    """
    wait = getattr(io, "await_answer", None)
    try:
        answer = wait() if wait else io.read(1)
    except EOFError:
        answer = b""
    except OSError as error:
        discard(io)
        raise named_error(error, spec, _shown(_command(io))) from None
    if answer != ACCEPTED:
        raise start_error(io, spec, answer)


def discard(io: StartIO) -> None:
    """End process and pipes, or connection, at once; harmless where they have ended."""
    for method in ("kill", "abandon"):
        end = getattr(io, method, None)
        if end:
            end()


def start_error(io: StartIO, spec: XSpec, answer: bytes) -> GatewayStartError:
    """End what failed to start, and the error that tells spec, command, exit status and output."""
    output, returncode = _last_words(io)
    output = getattr(io, "noise", b"") + answer + output
    unreachable = returncode == 255 and (spec.ssh or spec.vagrant_ssh)
    error_class = HostNotFound if unreachable else GatewayStartError
    command = _command(io)
    reasons = [_what_happened(spec, returncode, command, bool(output))]
    if output:
        reasons.append(f"it wrote {output[:2000].decode('utf-8', 'backslashreplace')!r}")
    stderr = _stderr_of(io)
    if stderr:
        reasons.append(f"on stderr: {stderr}")
    elif not (spec.socket or getattr(io, "first_words", None)):
        outputs = getattr(io, "outputs", None)
        place = "to where ours goes" if outputs is None else outputs.place_of_stderr()
        reasons.append(f"its stderr went {place}; stderr=capture in the spec keeps it for this error, too")
    if returncode == 127 and not spec.python and (spec.ssh or spec.vagrant_ssh):
        reasons.append("python=NAME in the spec says what the interpreter there is called")
    host = f"{unreachable}: " if unreachable else ""
    error = error_class(f"{host}gateway {str(spec)!r} did not start: {'; '.join(reasons)}")
    error.spec, error.command = str(spec), command
    error.returncode, error.output, error.stderr = returncode, output, stderr
    return error


def late_error(late: list[tuple[XSpec, Any]], seconds: float) -> GatewayStartTimeout:
    """What to raise for gateways, given by spec and io (None: not even that), that took longer to start."""
    lines = []
    for spec, io in late:
        stderr = _stderr_of(io)
        lines.append(f"gateway {str(spec)!r} did not start within {seconds:g} seconds")
        if stderr:
            lines[-1] += f"; on stderr: {stderr}"
    error = GatewayStartTimeout("\n".join(lines))
    error.spec, error.command = str(late[0][0]), _command(late[0][1])
    error.stderr = _stderr_of(late[0][1])
    return error


def _stderr_of(io: StartIO) -> str:
    first_words = getattr(io, "first_words", None)
    return stderr_of(io, 0) if first_words is None else str(first_words.text())


def _last_words(io: StartIO) -> tuple[bytes, int | None]:
    abandon = getattr(io, "abandon", None)
    if abandon:
        words: tuple[bytes, int | None] = abandon()
        return words
    wait = getattr(io, "wait", None)
    return b"", wait() if wait else None


def _what_happened(spec: XSpec, returncode: int | None, command: list[str] | None, talked: bool) -> str:
    if spec.socket:
        peer = "what listens there is no execnet socket server" if talked else "no answer"
        return f"the connection gave {peer}"
    shown = _shown(command)
    if returncode is None:
        return f"{shown} gave no answer and was ended"
    if returncode < 0:
        return f"{shown} was killed by {signal_name(-returncode)} before it answered"
    hints = {126: " (could not be executed)", 127: " (command not found)"}
    return f"{shown} exited with status {returncode}{hints.get(returncode, '')} before it answered"


def _command(io: StartIO) -> list[str] | None:
    args = getattr(getattr(io, "popen", io), "args", None)
    return None if args is None else ["python" if arg is None else str(arg) for arg in args]


def _shown(command: list[str] | None) -> str:
    import shlex  # lazy: start-up speed

    return "the other side" if command is None else shlex.join(command)
