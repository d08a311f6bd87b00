"""One ssh connection for several gateways to the same host.

Finding the host, exchanging keys and logging in is most of what an ssh gateway costs, for both machines. Where several
start at once, one ssh does that, and the others hand their sessions to it (OpenSSH's ControlMaster). Each gateway still
has an ssh process and a far process of its own.

The connection is ours alone: where the user has a say in ControlMaster or ControlPath there is none, and it logs in
without asking anybody. Its socket lives in a folder that the shell around its ssh makes, and removes when ssh has
ended, whatever became of us. It ends by itself with the last session that goes through it. A gateway that can't use
it, for whatever reason, connects by itself with the usual command; such gateways go one at a time where two could ask
at one terminal, or where the first opens the user's own connection for the others.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

from execnet import gateway_io
from execnet._process.waiting import LAST_WORDS, wait_readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from typing import Any

    from execnet.xspec import XSpec

# OpenSSH's server allows ten sessions for a connection unless it is told otherwise; the first ssh's own is one of them.
SESSIONS = 9
# Below this many, connecting side by side is as fast.
WORTH_SHARING = 3
# Seconds until the connection has to be open, and between two looks for its socket.
OPEN_TIME, POLL = 10.0, 0.001
# Seconds of silence after which the connection is asked for an echo, and seconds that it has for that.
SILENCE, ECHO_TIME = 2.0, 5.0
# Seconds that it has for its end, at each of the ways to end it.
END_TIME = 0.3
# Seconds between two looks whether others still want their turn.
TURN = 0.1
# The status of an ssh that failed itself.
SSH_FAILED = 255

# Who decides about sharing: execnet, or the user, who has a shared connection or wants none.
OURS, THEIRS, NOBODYS = "ours", "theirs", "nobody's"

# What the path of a Unix socket may take on every system, its end included, and what ssh appends while it binds one.
SOCKET_PATH, SSH_APPENDS = 104, len(".") + 16
# A path in which ssh finds nothing to expand: no %, no $, no ~.
PLAIN_PATH = r"/[A-Za-z0-9_./+-]*"
WORLD_FOLDER = "/tmp"

# An option of ssh, after others that take no argument, with a say in sharing (-M, -S, -O) or for the log (-E, -y).
OWN_OPTION = "-[46AaCfGgKkNnqsTtVvXxYy]*[MSOEy]"
OWN_SETTING = "(?i)control(master|path)"
# What a configuration says so that ``ssh -G`` shows the same as where it says nothing.
SAID_NO = r'(?im)^\s*control(master|path)[\s="]+(none|no|false)\b'
READING = "debug1: Reading configuration data "

# What /bin/sh runs, with the folder and ssh's command: a line of input starts ssh, and what a signal to the shell would
# end is done all the same once ssh has ended.
KEEPER = 'trap : HUP INT TERM; mkdir -m 700 "$0" || exit; read -r go && "$@"; status=$?; rm -rf "$0"; exit $status'
GO = b"\n"


def shared(specs: list[XSpec]) -> dict[int, SshConnection]:
    """Connections for those of ``specs`` that can share one, by their index; each connection is being opened."""
    targets: dict[tuple[object, ...], list[int]] = {}
    for index, spec in enumerate(specs):
        if spec.ssh and not (spec.via or spec.newsession) and os.name == "posix":
            targets.setdefault((spec.ssh, spec.ssh_command, spec.ssh_config), []).append(index)
    connections: dict[int, SshConnection] = {}
    for indices in targets.values():
        for first in range(0, len(indices), SESSIONS):
            users = indices[first : first + SESSIONS]
            if len(users) >= WORTH_SHARING:
                with suppress(OSError, RuntimeError):  # no place for it, or no more threads: all connect by themselves
                    connections.update(dict.fromkeys(users, SshConnection(specs[users[0]])))
    return connections


class SshConnection:
    """An ssh process whose connection others use; it ends with the last session of theirs.

    Raises OSError where the command or the machine does not allow a shared connection, RuntimeError where no thread
    can be started.
    """

    def __init__(self, spec: XSpec) -> None:
        import threading  # lazy: start-up speed

        self._arguments = _arguments(spec)
        self._folder = _new_folder()
        self._path = _socket_path(self._folder)
        self._deadline = time.monotonic() + OPEN_TIME
        # Whether an ssh may be handed to it: once settled, it only ever turns from yes to no.
        self._usable = False
        self._settled = threading.Event()
        # Whether those that connect by themselves do so one after another.
        self._in_turn = False
        self._turn = threading.Lock()
        # What is known of the process and of its users: each change is one step, no exception leaves half of it.
        self._popen: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._starting = True
        self._users: set[Any] = set()
        # Guards the pipes, held for ECHO_TIME at most.
        self._pipes = threading.Lock()
        threading.Thread(target=self._open, name="execnet ssh", daemon=True).start()

    # -- opening, in a thread of its own

    def _open(self) -> None:
        try:
            if self._start():
                whose = _whose_sharing(self._arguments, OPEN_TIME)
                self._in_turn = whose == THEIRS
                self._usable = whose == OURS and self._connect()
        finally:
            self._settled.set()
            if not self._usable:
                self._shut()

    def _start(self) -> bool:
        """Start the shell around ssh, which makes the folder while the configuration is asked for."""
        import subprocess  # lazy: start-up speed

        sharing = ["-M", "-S", self._path, "-o", "ControlPersist=no"]
        # If a password has to be asked for, each gateway's own ssh does that.
        alone = ["-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={OPEN_TIME:.0f}"]
        try:
            popen = subprocess.Popen(
                ["/bin/sh", "-c", KEEPER, self._folder, "ssh", *sharing, *alone, *self._arguments, "exec cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "SSH_ASKPASS_REQUIRE": "never"},
                start_new_session=True,  # no terminal to ask at, and a group that is ended as one
            )
        except OSError:
            return False
        self._popen = popen
        return True

    def _connect(self) -> bool:
        """Have ssh log in; whether its socket has come in time."""
        from execnet._source import shipped  # lazy: start-up speed

        popen = self._popen
        assert popen is not None
        with self._pipes:
            if self._closed or not self._write(GO):
                return False
        shipped.shipped_text()  # made once, meanwhile, as every gateway here needs it
        while popen.poll() is None and not self._closed and time.monotonic() < self._deadline:
            if os.path.exists(self._path):
                return True
            time.sleep(POLL)
        self._in_turn = popen.returncode == SSH_FAILED
        return False

    # -- use

    def try_begin(self, start: Any) -> None:
        """Begin ``start`` over the connection, or when it is its turn, and wait until its far side talks.

        Otherwise ``start`` is left as one that has no connection and was not begun.
        """
        from execnet.gateway_bootstrap import HostNotFound  # lazy: start-up speed

        self._settled.wait(max(0.0, self._deadline - time.monotonic()))
        if self._usable:
            with suppress(HostNotFound):  # told by the attempt without the connection, if that fails too
                start.begin()
                if self._carries(start.io):
                    return
        start.discard()
        start.connection = None
        if self._in_turn:
            with self._turn:
                self._begin_alone(start)

    def _begin_alone(self, start: Any) -> None:
        """Begin ``start`` and wait until nobody is asked for it any more."""
        if self._closed:
            return
        start.begin()
        io = start.io
        while not wait_readable(io.execmodel, io.infile.fileno(), TURN):
            if self._closed or io.popen.poll() is not None:
                return

    def _carries(self, io: Any) -> bool:
        """Wait until an ssh has output or has ended; whether it is not the connection that failed."""
        while not wait_readable(io.execmodel, io.infile.fileno(), SILENCE):
            if io.popen.poll() is not None:
                break
            if not self._is_alive():
                return False
        return _has_output(io) or io.exit_status(LAST_WORDS) != SSH_FAILED

    def _is_alive(self) -> bool:
        """Whether both sides of the connection answer."""
        with self._pipes:
            self._usable = self._usable and self._echoes()
            return self._usable

    def _echoes(self) -> bool:
        import select  # lazy: start-up speed

        if sys.platform == "win32":  # here and below for mypy: connections are shared on POSIX only
            return False
        assert self._popen is not None and self._popen.stdout is not None
        if self._popen.stdout.closed:
            return False
        output = self._popen.stdout.fileno()
        ready = select.poll()
        ready.register(output, select.POLLIN)
        while ready.poll(0):  # what the far shell says to everyone
            if not os.read(output, 4096):
                return False
        return self._write(b"\n") and bool(ready.poll(ECHO_TIME * 1000)) and bool(os.read(output, 1))

    def _write(self, line: bytes) -> bool:
        """With the pipes' lock held; whether somebody may read it."""
        assert self._popen is not None and self._popen.stdin is not None
        try:
            os.write(self._popen.stdin.fileno(), line)
        except (OSError, ValueError):  # has ended, is closed
            return False
        return True

    def options(self) -> list[str]:
        """What tells an ssh to use the connection; without it, it connects by itself."""
        return ["-S", self._path]

    def use(self, io: Any) -> None:
        """Don't be ended before ``io`` is released."""
        self._users.add(io)

    def release(self, io: Any) -> None:
        """``io`` has ended; may be called again."""
        # Asked after that: of the last user and the one that says that all have started, one sees both, or each does.
        self._users.discard(io)
        if not self._users and not self._starting:
            self.close()

    # -- ending

    def all_started(self) -> None:
        """No more users will come: from now on the connection ends by itself, with its last session."""
        self._starting = False
        if not self._users:
            self.close()
        else:
            self._end_input()

    def close(self) -> None:
        """End the connection, and with it the sessions of those that still use it; may be called again."""
        self._closed = True
        self._shut()

    def _shut(self) -> None:
        import shutil  # lazy: start-up speed

        popen, used = self._popen, bool(self._users)
        if popen is None:
            return
        if not used:
            self._end_input()
        _end(popen, 0.0 if used else END_TIME)
        self._end_input()
        with self._pipes:
            assert popen.stdout is not None
            popen.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)  # left where the shell had to be killed

    def _end_input(self) -> None:
        """End the session that ssh itself has: it stays for those of others only."""
        with self._pipes:
            if self._popen is not None and self._popen.stdin is not None:
                self._popen.stdin.close()


def _end(popen: subprocess.Popen[bytes], patience: float) -> None:
    """Wait ``patience`` seconds for a process, then end it and its children."""
    import signal  # lazy: start-up speed
    import subprocess  # lazy: start-up speed

    if sys.platform == "win32":
        return
    for signum in (signal.SIGTERM, signal.SIGKILL):
        try:
            popen.wait(patience)
            return
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):  # ended in this moment
                os.killpg(popen.pid, signum)
        patience = END_TIME
    with suppress(subprocess.TimeoutExpired):  # held by the system
        popen.wait(patience)


def _has_output(io: Any) -> bool:
    import array  # lazy: start-up speed
    import fcntl  # lazy: not everywhere
    import termios  # lazy: not everywhere

    if sys.platform == "win32":
        return False
    waiting = array.array("i", [0])
    fcntl.ioctl(io.infile.fileno(), termios.FIONREAD, waiting)
    return waiting[0] > 0


# -- what the user and the machine say


def _arguments(spec: XSpec) -> list[str]:
    """The options and the host that ssh is called with; OSError where they, or another program, rule sharing out."""
    import re  # lazy: start-up speed

    program, *arguments, _ = gateway_io.ssh_args(spec)
    if program != "ssh":
        raise OSError(f"{program} is not known to share connections")
    if any(re.match(OWN_OPTION, argument) or re.search(OWN_SETTING, argument) for argument in arguments):
        raise OSError(f"the spec has its own say in sharing: {str(spec)!r}")
    return arguments


def _whose_sharing(arguments: list[str], timeout: float) -> str:
    """Who decides about sharing, by the configuration that ssh would use."""
    import re  # lazy: start-up speed

    # -q would hide which files it reads.
    output, log = _outputs(["ssh", "-v", "-G", *(argument for argument in arguments if argument != "-q")], timeout)
    settings = dict(line.lower().partition(" ")[::2] for line in output.splitlines())
    if "controlmaster" not in settings or not any(line.startswith("OpenSSH") for line in log.splitlines()):
        return NOBODYS
    if settings["controlmaster"] not in ("false", "no") or settings.get("controlpath", "none") != "none":
        return THEIRS
    try:
        files = {line[len(READING) :] for line in log.splitlines() if line.startswith(READING)}
        return NOBODYS if any(re.search(SAID_NO, _text(file)) for file in files) else OURS
    except OSError:  # a path that the log shows in another way
        return NOBODYS


def _text(path: str) -> str:
    if os.path.exists(path) and not os.path.isfile(path):
        return ""  # /dev/null, or what can be read once only
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _outputs(command: list[str], timeout: float) -> tuple[str, str]:
    """What a command writes to stdout and stderr; nothing where it fails, or takes too long."""
    import subprocess  # lazy: start-up speed

    nothing = "", ""
    try:
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError:
        return nothing
    with popen:
        try:
            output, log = popen.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            _end(popen, 0.0)
            return nothing
    return nothing if popen.returncode else (os.fsdecode(output), os.fsdecode(log))


def _new_folder() -> str:
    """A path for a folder that nobody has, short enough for a socket in it; OSError where there is no place."""
    import re  # lazy: start-up speed

    for base in (_runtime_folder(), WORLD_FOLDER):
        folder = f"{base}/execnet-{os.urandom(8).hex()}"
        fits = len(os.fsencode(_socket_path(folder))) + SSH_APPENDS < SOCKET_PATH
        if base and fits and re.fullmatch(PLAIN_PATH, base) and os.access(base, os.W_OK | os.X_OK):
            return folder
    raise OSError("no folder is short enough for a socket")


def _runtime_folder() -> str | None:
    """XDG_RUNTIME_DIR, where it is this user's alone."""
    if sys.platform == "win32":
        return None
    base = os.environ.get("XDG_RUNTIME_DIR")
    try:
        status = os.stat(base) if base else None
    except OSError:
        return None
    private = status is not None and status.st_uid == os.geteuid() and status.st_mode & 0o777 == 0o700
    return base if private else None


def _socket_path(folder: str) -> str:
    return f"{folder}/ssh"
