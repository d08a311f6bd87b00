"""Processes at the other end of two pipes, and their commands: what programs call, subclass and replace, here."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

from execnet._process.noise import QUIET_TIME, await_answer
from execnet._process.proxy import ProxyIO as ProxyIO
from execnet._process.reaping import popen_class
from execnet._process.waiting import KILL_TIME, LAST_WORDS, LAST_WORDS_SIZE, patience, wait_readable
from execnet._transport.registry import command_of
from execnet.gateway_base import Popen2IO, is_ready_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from typing import Any

    from execnet._output.streams import Outputs
    from execnet._process.first_words import FirstWords
    from execnet._transport.ssh_shared import SshConnection
    from execnet.gateway import Gateway
    from execnet.gateway_base import ExecModel
    from execnet.xspec import XSpec

# Names that a shell command can give a value, and words that a shell reads itself before a command.
VARIABLE = "[A-Za-z_][A-Za-z0-9_]*"
SHELL_WORDS = ("exec", "command", "eval", "time", "source", ".")

# What a started interpreter is told to run: it evaluates one line and executes what that gives.
popen_bootstrapline = "import sys;exec(eval(sys.stdin.readline()))"


class Popen2IOMaster(Popen2IO):
    """A process started with ``args``, its stdin and stdout for us, stderr inherited.

    ``outputs`` says where else what it writes goes; with ``newsession`` it leads a session of its own, which a Ctrl-C
    in our terminal does not reach; ``env`` is added to its environment; with ``keeps_stderr`` what it writes there
    until it answers is kept as well. Raises OSError (FileNotFoundError, PermissionError …) where the operating system
    can't start it.
    """

    popen: subprocess.Popen[bytes]
    remoteaddress: str
    #: Whether this program has killed the process.
    signalled = False
    #: What came before the answer, and how long nothing may come after some of that.
    noise = b""
    quiet_time: float | None = QUIET_TIME
    # Here for those who replace __init__.
    outputs: Outputs | None = None
    first_words: FirstWords | None = None
    _connection: SshConnection | None = None

    def __init__(
        self,
        args: Sequence[str],
        execmodel: ExecModel,
        outputs: Outputs | None = None,
        newsession: bool = False,
        env: dict[str, str] | None = None,
        keeps_stderr: bool = False,
    ) -> None:
        DEVNULL, PIPE = -3, -1  # as in subprocess, the same for every execution model
        options: dict[str, Any] = {}
        if lacks_stderr():
            options["stderr"] = DEVNULL
        if newsession:
            options["start_new_session"] = True
        if env:
            options["env"] = {**os.environ, **env}
        popen = None
        try:
            if outputs is not None:
                self.outputs = outputs
                options.update(outputs.popen_options())
            if keeps_stderr and "stderr" not in options:
                self._keep_stderr(options)
            popen = popen_class(execmodel.subprocess.Popen)(args, stdin=PIPE, stdout=PIPE, **options)
            if self.first_words is not None:
                self.first_words.started()
            self._own(popen, execmodel)
        except BaseException:
            if popen is not None:
                _end(popen)
            if self.first_words is not None:
                self.first_words.close()
            raise

    def _keep_stderr(self, options: dict[str, Any]) -> None:
        from execnet._process.first_words import FirstWords  # lazy: start-up speed

        with suppress(OSError):  # there is no standard error, or too many files are open
            self.first_words = FirstWords()
            options.update(self.first_words.popen_options(options.get("pass_fds", ())))

    def _own(self, popen: Any, execmodel: ExecModel) -> None:
        self.popen = popen
        super().__init__(popen.stdin, popen.stdout, execmodel=execmodel)

    def wait(self) -> int | None:
        """Wait for the process's end and reap it; returns its exit status."""
        returncode = self.popen.wait()
        if self.outputs is not None:
            self.outputs.finish()
        if self.first_words is not None:
            self.first_words.finish()
        self._let_connection_go()
        return returncode

    def reap(self) -> None:
        """Reap the process as soon as it ends: what its gateway's receiver does last."""
        await_end = getattr(self.popen, "await_end", None)
        if await_end is not None:
            await_end()
        self.wait()

    def share(self, connection: SshConnection) -> None:
        """Keep the connection that the process uses open until the process has ended."""
        connection.use(self)
        self._connection = connection

    def _let_connection_go(self) -> None:
        if self._connection is not None:
            self._connection.release(self)

    def kill(self) -> None:
        """Kill the process, without waiting; harmless once it has ended."""
        self.signalled = True
        with suppress(OSError):  # ended in this moment
            self.popen.kill()

    def await_answer(self) -> bytes:
        """Wait for the answer; empty where the process ended, closed its stdout, or wrote something else.

        A process that has ended does not keep us waiting, even where a child of its holds the pipe open, nor does one
        that has closed its stdin.
        """
        if self.descriptors() is None:
            return self.read(1)
        answer = await_answer(self, self._receive)
        if answer and self.first_words is not None:
            self.first_words.over()
        return answer

    def _receive(self, count: int, seconds: float | None) -> bytes | None:
        if not self._can_poll():
            return self._read(count)
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self._readable(0.2):
            if self._reads_no_more() and not self._readable(LAST_WORDS):
                return b""
            if deadline is not None and time.monotonic() > deadline:
                return None
        return os.read(self.infile.fileno(), count)

    def _reads_no_more(self) -> bool:
        return self.popen.poll() is not None or is_ready_for(None, self.outfile.fileno(), False)

    def abandon(self) -> tuple[bytes, int | None]:
        """End a process that failed to start: returns the rest of its output and its exit status.

        It is given LAST_WORDS seconds to end by itself; None for the status if it had to be killed.
        Closes both pipes.
        """
        deadline = time.monotonic() + LAST_WORDS
        try:
            output = self._last_words(deadline)
        except (OSError, ValueError):  # closed, perhaps by the receiver of a gateway that came up nevertheless
            output = b""
        returncode = self.exit_status(patience(output, deadline))
        if returncode is None:
            self.kill()
            self.exit_status(KILL_TIME)
        self._close()
        return output, returncode

    def exit_status(self, timeout: float) -> int | None:
        """The exit status of the process, None if it runs for ``timeout`` seconds more."""
        import subprocess  # lazy: start-up speed

        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def _close(self) -> None:
        for stream in (self.outfile, self.infile):
            with suppress(OSError):  # what could not be flushed is lost with the process
                stream.close()
        if self.outputs is not None:
            self.outputs.finish()
        if self.first_words is not None:
            self.first_words.over()
        self._let_connection_go()

    def _last_words(self, deadline: float) -> bytes:
        output = b""
        while self._can_poll() and len(output) < LAST_WORDS_SIZE:
            if not self._readable(max(0.0, deadline - time.monotonic())):
                break
            chunk = os.read(self.infile.fileno(), LAST_WORDS_SIZE)
            if not chunk:
                break
            output += chunk
        return output

    def _can_poll(self) -> bool:
        import select  # lazy: start-up speed

        return hasattr(select, "poll")

    def _readable(self, timeout: float) -> bool:
        if self.first_words is not None:
            return self.first_words.wait_readable(self.infile.fileno(), timeout)
        return wait_readable(self.execmodel, self.infile.fileno(), timeout)


def lacks_stderr() -> bool:
    """Whether a process that we start would have none: its connection could get the number, and be written to."""
    try:
        return os.name == "posix" and not os.get_inheritable(2)
    except OSError:  # closed
        return True


def _end(popen: subprocess.Popen[bytes]) -> None:
    """End a process that nobody will use."""
    popen.kill()
    for pipe in (popen.stdin, popen.stdout):
        if pipe is not None:
            pipe.close()
    popen.wait()


def shell_split_path(path: str) -> list[str]:
    """Split ``path`` as a shell would; backslashes are kept on Windows."""
    import shlex  # lazy: start-up speed

    return shlex.split(path.replace("\\", "\\\\") if os.name == "nt" else path)


def popen_args(spec: XSpec) -> list[str]:
    """The command of a local interpreter."""
    python = shell_split_path(spec.python) if spec.python else [sys.executable]
    options = [*(["-B"] if spec.dont_write_bytecode else []), *(["-X", "faulthandler"] if spec.faulthandler else [])]
    return [*python, "-u", *options, "-c", popen_bootstrapline]


def runs_this_interpreter(spec: XSpec) -> bool:
    """Whether the other side is the interpreter we run in, started here: no wrapper between, the same execnet."""
    return bool(spec.popen and not spec.via and not spec.python)


def ssh_args(spec: XSpec) -> list[str]:
    """The command of an interpreter that ``ssh`` starts."""
    assert spec.ssh is not None
    return [*ssh_command(spec), *_config(spec), *spec.ssh.split(), _remote_command(spec)]


def ssh_command(spec: XSpec) -> list[str]:
    """What is called for ``ssh``; raises ValueError for one that a shell could not read.

    $EXECNET_SSH is for what is called on this machine, not on that of a ``via``.
    """
    own = spec.ssh_command or ("" if spec.via else os.environ.get("EXECNET_SSH", ""))
    try:
        return shell_split_path(own) or ["ssh", "-C"]
    except ValueError as error:
        raise ValueError(f"no command: {own!r}: {error} (gateway {str(spec)!r})") from None


def vagrant_ssh_args(spec: XSpec) -> list[str]:
    """The command of an interpreter that ``vagrant ssh`` starts."""
    assert spec.vagrant_ssh is not None
    return ["vagrant", "ssh", spec.vagrant_ssh, "--", "-C", *_config(spec), _remote_command(spec)]


def _config(spec: XSpec) -> list[str]:
    return ["-F", spec.ssh_config] if spec.ssh_config else []


def _remote_command(spec: XSpec) -> str:
    python = spec.python or "python"
    words = [] if _is_for_shell(python) else environment_words(spec)
    return " ".join([*(["env"] if words else []), *words, f'{python} -c "{popen_bootstrapline}"'])


def _is_for_shell(command: str) -> bool:
    """Whether env could not run the command: the shell does it in several steps, or by a word of its own."""
    return any(sign in command for sign in ";&|\n") or command.partition(" ")[0] in SHELL_WORDS


def start_variables(spec: XSpec) -> dict[str, str]:
    """The variables of ``spec`` that a process can be started with; all of them are set up once more when it runs.

    What no variable can be is left out: that is told then.
    """
    return {
        name: value for name, value in spec.env.items() if isinstance(value, str) and name and "\0" not in name + value
    }


def environment_words(spec: XSpec) -> list[str]:
    """``NAME=value`` for each of them that can be said in words which sh, csh and fish read alike."""
    import re  # lazy: start-up speed

    environment = start_variables(spec)
    names = [name for name, value in environment.items() if re.fullmatch(VARIABLE, name) and "\n" not in value]
    return [f"{name}={_word(environment[name])}" for name in names]


def _word(text: str) -> str:
    """``text`` for a shell; in single quotes fish reads a backslash, csh an exclamation mark, in a way of its own."""
    import re  # lazy: start-up speed

    parts = re.findall(r"['\\!]|[^'\\!]+", text)
    return "".join(f"\\{part}" if part in ("'", "\\", "!") else f"'{part}'" for part in parts) or "''"


def create_io(
    spec: XSpec, execmodel: ExecModel, connection: SshConnection | None = None, outputs: Outputs | None = None
) -> Popen2IOMaster:
    """Start the process of a spec whose transport names a command; ``connection`` is one that its ssh can use.

    Raises OSError, such as FileNotFoundError, naming spec and command where it can't be started.
    """
    args = command_of(spec)
    if connection is not None:
        args[1:1] = connection.options()
    options: dict[str, Any] = {**process_options(spec)}
    if spec.popen and spec.env and starts_as_usual():
        options["env"] = start_variables(spec)  # a replaced class may know two arguments only; then they are set later
    if outputs is not None and starts_as_usual():
        options["outputs"] = outputs  # likewise
    if keeps_stderr(spec, execmodel) and starts_as_usual():
        options["keeps_stderr"] = True
    io = None
    try:
        io = Popen2IOMaster(args, execmodel, **options)
        if connection is not None:
            io.share(connection)
        io.zero_copy = runs_this_interpreter(spec) and starts_as_usual()
        _note_facts(io, spec)
        return io
    except BaseException as error:
        if io is not None:
            io.kill()
            io.abandon()
        if not isinstance(error, OSError):
            raise
        import shlex  # lazy: start-up speed

        raise named_error(error, spec, shlex.join(args)) from None


_STARTING = {
    name: globals()[name] for name in ("popen_args", "ssh_args", "vagrant_ssh_args", "create_io", "Popen2IOMaster")
}
_STARTING_PROCESS = Popen2IOMaster.__init__


def starts_as_usual() -> bool:
    """Whether nobody has replaced what starts processes, and knows no more of them than execnet 2.1 asks for."""
    replaced = any(globals()[name] is not own for name, own in _STARTING.items())
    return not replaced and Popen2IOMaster.__init__ is _STARTING_PROCESS


def keeps_stderr(spec: XSpec, execmodel: ExecModel) -> bool:
    """Whether the process of the spec has a pipe for its standard error while it starts, which nobody notices."""
    if not spec.popen or sys.platform == "win32" or execmodel.backend not in ("thread", "main_thread_only"):
        return False
    import select  # lazy: start-up speed

    if not hasattr(select, "poll"):  # which eventlet takes away
        return False
    with suppress(OSError):  # it is closed
        return os.get_inheritable(2) and not (spec.python and os.isatty(2))
    return False


def process_options(spec: XSpec) -> dict[str, bool]:
    """Those arguments of Popen2IOMaster that the spec asks for."""
    return {"newsession": True} if spec.newsession else {}


def create_proxy_io(spec: XSpec, gateway: Gateway, execmodel: ExecModel, outputs: Outputs | None = None) -> ProxyIO:
    """Start the process of a spec on ``gateway``, without waiting for the answer.

    Raises ValueError for a spec that starts no process, OSError where ``gateway`` is gone.
    """
    if spec.socket:
        raise ValueError(f"a socket gateway can't go through via: {str(spec)!r}")
    if process_options(spec):
        raise ValueError(f"newsession is for processes of this machine, not through via: {str(spec)!r}")
    from execnet.script import proxy  # lazy: start-up speed

    args: list[str | None] = [*command_of(spec)]
    if spec.popen and not spec.python:
        args[0] = None  # the interpreter there, not the path of ours
    ends = {} if outputs is None else outputs.relay(gateway)
    io = ProxyIO(gateway.remote_exec(proxy), execmodel)
    io.outputs = outputs
    try:
        io.start(args, start_variables(spec) if spec.popen else None, ends)
        _note_facts(io, spec)
        return io
    except BaseException:
        io.kill()
        io.abandon()
        raise


def _note_facts(io: Popen2IOMaster | ProxyIO, spec: XSpec) -> None:
    if spec.timeout is not None:
        io.quiet_time = None  # whoever sets a limit means that one
    address = spec.ssh or spec.vagrant_ssh
    if address:
        io.remoteaddress = address


def named_error(error: OSError, spec: XSpec, command: str) -> OSError:
    """An error of the same class which names spec and command as well."""
    if error.errno is None:
        return type(error)(f"{error} (gateway {str(spec)!r}, {command})")
    reason = f"{error.strerror} (gateway {str(spec)!r}, {command})"
    if error.filename is None:
        return OSError(error.errno, reason)
    return OSError(error.errno, reason, error.filename)
