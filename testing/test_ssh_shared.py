"""Several ssh gateways started at once share one connection where nobody else has a say; elsewhere each has its own.

The ssh on PATH is often a script here: it records how it was called and runs the real one.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import needs
from support.oracle import Oracle
from support.processes import end, wait_until
from support.sshd import Account, SshServer, executable

import execnet
from execnet import gateway_io
from execnet._transport import ssh_shared as gateway_ssh
from execnet._transport.ssh_shared import SshConnection
from execnet.gateway_bootstrap import GatewayStartError, HostNotFound

SECONDS = 20.0
PACKAGE = Path(execnet.__file__).resolve().parent

Server = Callable[..., SshServer]


class Recorder:
    """A program ssh, first on PATH; what is in `script` is done in place of the real one unless it falls through."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.real = executable("ssh")
        (folder / "calls").mkdir()
        (folder / "bin").mkdir()
        self.write("")
        monkeypatch.setenv("PATH", str(folder / "bin"), prepend=os.pathsep)

    def write(self, script: str, ssh: str = "") -> None:
        """Do `script` first; `ssh` is what runs in place of the real one."""
        program = self.folder / "bin" / "ssh"
        record = f"printf '%s\\n' \"$@\" > {self.folder}/calls/$$"
        program.write_text(f'#!/bin/sh\n{record}\n{script}\nexec {ssh or self.real} "$@"\n')
        program.chmod(0o755)

    def calls(self) -> list[list[str]]:
        """The arguments of each call that was for a gateway."""
        calls = [file.read_text().splitlines() for file in (self.folder / "calls").iterdir()]
        return sorted(call for call in calls if gateway_io.popen_bootstrapline in call[-1])

    def forget(self) -> None:
        for file in (self.folder / "calls").iterdir():
            file.unlink()


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Recorder:
    """The ssh on PATH."""
    needs.need(pytestconfig, "ssh")
    return Recorder(tmp_path, monkeypatch)


@pytest.fixture
def server(pytestconfig: pytest.Config) -> Iterator[Server]:
    """Starts servers of the test's own, in folders that every user may pass: sshd reads keys as who logs in."""
    needs.need(pytestconfig, "ssh")
    with contextlib.ExitStack() as stack:

        def start(*settings: str) -> SshServer:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sshd-", dir="/tmp")))
            folder.chmod(0o711)
            server = SshServer(folder, *settings)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture
def account() -> Iterator[Account]:
    """A user with a password."""
    try:
        account = Account()
    except (PermissionError, FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no user can be made: {error}")
    yield account
    account.close()


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short folder of ours as XDG_RUNTIME_DIR."""
    with tempfile.TemporaryDirectory(prefix="run-", dir="/tmp") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits for a connection that fails."""
    monkeypatch.setattr(gateway_ssh, "SILENCE", 0.2)
    monkeypatch.setattr(gateway_ssh, "ECHO_TIME", 0.5)


def connection_of(gateway: execnet.Gateway) -> Any:
    return gateway._io._connection


def plain(spec: str) -> list[str]:
    """The arguments of an ssh that connects by itself."""
    return gateway_io.ssh_args(execnet.XSpec(spec))[1:]


def all_answer(gateways: list[execnet.Gateway]) -> bool:
    return all(gateway.remote_exec("channel.send(1)").receive(SECONDS) == 1 for gateway in gateways)


def ssh_processes(folder: Path | str) -> list[int]:
    """The processes with a path of ours in their command line."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            words = Path("/proc", entry, "cmdline").read_bytes() if entry.isdigit() else b""
        except OSError:  # ended meanwhile
            continue
        if os.fsencode(f"{folder}/execnet-") in words:
            found.append(int(entry))
    return found


# sharing


def test_they_log_in_once_and_are_gateways_of_their_own(group: execnet.Group, ssh_server: SshServer) -> None:
    before = ssh_server.logins()
    gateways = group.makegateways([ssh_server.spec()] * 4)
    assert ssh_server.logins() == before + 1
    assert [gateway.id for gateway in group] == ["gw0", "gw1", "gw2", "gw3"] == [gateway.id for gateway in gateways]
    assert len({gateway._rinfo().pid for gateway in gateways}) == 4
    connection = connection_of(gateways[0])
    group.terminate(SECONDS)
    assert connection._popen.returncode is not None
    assert not os.path.exists(connection._folder)


def test_more_than_a_server_allows_for_a_connection_have_several(group: execnet.Group, ssh_server: SshServer) -> None:
    before = ssh_server.logins()
    gateways = group.makegateways([ssh_server.spec()] * (gateway_ssh.SESSIONS + 3))
    assert ssh_server.logins() == before + 2
    assert gateway_ssh.SESSIONS < 10 < len(gateways)


def test_one_that_is_killed_takes_no_other_with_it(group: execnet.Group, ssh_server: SshServer) -> None:
    first, *others = group.makegateways([ssh_server.spec()] * 3)
    first._io.kill()
    first.join(SECONDS)
    group._terminate_only([first], SECONDS)
    assert all_answer(others)
    assert connection_of(others[0])._popen.poll() is None


def test_few_and_other_targets_connect_by_themselves(group: execnet.Group, ssh_server: SshServer) -> None:
    gateways = group.makegateways([ssh_server.spec()] * 2 + ["popen"])
    assert [connection_of(gateway) for gateway in gateways] == [None] * 3


def test_a_replaced_ssh_args_is_honoured(
    group: execnet.Group, ssh_server: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = gateway_io.ssh_args
    monkeypatch.setattr(gateway_io, "ssh_args", lambda spec: ["env", *original(spec)])
    gateways = group.makegateways([ssh_server.spec()] * 3)
    assert [connection_of(gateway) for gateway in gateways] == [None] * 3


def test_an_own_command_shares_if_it_is_plain_ssh(
    group: execnet.Group, ssh_server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ssh_server.logins()
    gateways = group.makegateways([ssh_server.spec(ssh_command="ssh -4")] * 3)
    assert ssh_server.logins() == before + 1
    assert all_answer(gateways)
    own = tmp_path / "own"
    own.write_text('#!/bin/sh\nexec ssh "$@"\n')
    own.chmod(0o755)
    for command in (str(own), "env ssh", "ssh -S none"):
        monkeypatch.setenv("EXECNET_SSH", command)
        gateways = group.makegateways([ssh_server.spec()] * 3)
        assert [connection_of(gateway) for gateway in gateways] == [None] * 3


def test_those_of_other_commands_do_not_share(group: execnet.Group, ssh_server: SshServer) -> None:
    specs = [ssh_server.spec(ssh_command=command) for command in ("ssh -4", "ssh -C")]
    assert [connection_of(gateway) for gateway in group.makegateways(specs * 2)] == [None] * 4


def test_quiet_ones_share_too(group: execnet.Group, ssh_server: SshServer) -> None:
    before = ssh_server.logins()
    group.makegateways([ssh_server.spec(ssh=f"-q {ssh_server.host}")] * 3)
    assert ssh_server.logins() == before + 1


def test_they_share_one_that_goes_through_another_host(
    group: execnet.Group, ssh_server: SshServer, server: Server
) -> None:
    jump = server()
    config = ssh_server.client_config("through", "ProxyJump jump")
    with config.open("a") as file:
        file.write(jump.config.read_text().replace(f"Host {jump.host}", "Host jump"))
    before = ssh_server.logins()
    gateways = group.makegateways([ssh_server.spec(ssh_config=config)] * 3)
    assert all_answer(gateways)
    assert (jump.logins(), ssh_server.logins()) == (1, before + 1)


# where the user has a say

SAID = {
    "path": ["ControlPath {folder}/user-%C"],
    "none": ["ControlPath none"],
    "no": ["ControlMaster no"],
    "auto": ["ControlMaster auto", "ControlPath {folder}/user-%C"],
}


@pytest.mark.parametrize("said", SAID)
def test_a_configuration_with_a_say_in_sharing_is_left_alone(
    group: execnet.Group, ssh_server: SshServer, recorder: Recorder, runtime: Path, said: str
) -> None:
    lines = [line.format(folder=runtime) for line in SAID[said]]
    spec = ssh_server.spec(ssh_config=ssh_server.client_config("said", *lines))
    gateways = group.makegateways([spec] * 3)
    assert recorder.calls() == [plain(spec)] * 3
    assert [connection_of(gateway) for gateway in gateways] == [None] * 3


def test_a_say_in_an_included_file_counts(
    group: execnet.Group, ssh_server: SshServer, recorder: Recorder, tmp_path: Path
) -> None:
    (tmp_path / "included").write_text("Host *\n  ControlPath=none\n")
    spec = ssh_server.spec(ssh_config=ssh_server.client_config("including", f"Include {tmp_path}/included"))
    group.makegateways([spec] * 3)
    assert recorder.calls() == [plain(spec)] * 3


@pytest.mark.parametrize(
    "options", ["-S none", "-Snone", "-CS none", "-S {folder}/S", "-o ControlPath=none", "-oControlMaster=no"]
)
def test_a_spec_with_a_say_in_sharing_is_left_alone(
    group: execnet.Group, ssh_server: SshServer, recorder: Recorder, runtime: Path, options: str
) -> None:
    spec = ssh_server.spec(ssh=f"{options.format(folder=runtime)} {ssh_server.host}")
    assert all_answer(group.makegateways([spec] * 3))
    assert recorder.calls() == [plain(spec)] * 3


def test_the_commands_are_those_of_2_1(
    group: execnet.Group, ssh_server: SshServer, recorder: Recorder, oracle: Oracle
) -> None:
    config = ssh_server.client_config("none", "ControlPath none")
    specs = [
        *[ssh_server.spec(ssh_config=config)] * 3,
        *[ssh_server.spec(ssh=f"-S none -o Compression=no {ssh_server.host}")] * 3,
    ]
    program = f"""
import execnet
group = execnet.Group()
for spec in {specs!r}:
    group.makegateway(spec)
group.terminate(5)
"""
    oracle.run(program)
    expected = recorder.calls()
    recorder.forget()
    group.makegateways(specs)
    assert len(expected) == len(specs)
    assert recorder.calls() == expected


def test_a_host_whose_only_way_in_is_the_users_own_connection(
    group: execnet.Group, ssh_server: SshServer, runtime: Path
) -> None:
    path = runtime / "user"
    locked = ssh_server.client_config("locked", f"ControlPath {path}", "IdentityFile none", "PubkeyAuthentication no")
    own = subprocess.Popen(
        ["ssh", "-F", str(ssh_server.config), "-M", "-S", str(path), "-N", ssh_server.host], stdin=subprocess.DEVNULL
    )
    try:
        wait_until(path.exists, SECONDS, "the user's connection")
        before = ssh_server.logins()
        assert all_answer(group.makegateways([ssh_server.spec(ssh_config=locked)] * 4))
        assert ssh_server.logins() == before
        group.terminate(SECONDS)
        assert own.poll() is None
    finally:
        end(own)


# logins that ask


def asking(server: SshServer, account: Account, method: str, *settings: str) -> str:
    """The spec of a gateway whose ssh has to ask for a password."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin")  # ours may be in a home
    if python is None:
        pytest.skip("no Python for a user without a home")
    config = server.client_config(
        "asking",
        f"User {account.name}",
        "BatchMode no",
        f"PreferredAuthentications {method}",
        "NumberOfPasswordPrompts 1",
        *settings,
    )
    return server.spec(ssh_config=config, python=python)


def ask_by_program(account: Account, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have ssh ask a program that knows the password; the file with a line for each time, "crowded" where two asked."""
    asked, busy = folder / "asked", folder / "busy"
    askpass = folder / "askpass"
    askpass.write_text(f"""#!/bin/sh
mkdir {busy} && echo asked >> {asked} || echo crowded >> {asked}
sleep 0.2
rmdir {busy}
echo {account.password}
""")
    askpass.chmod(0o755)
    monkeypatch.setenv("SSH_ASKPASS", str(askpass))
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    return asked


METHODS = {
    "password": ("password",),
    "keyboard-interactive": ("keyboard-interactive",),
    "publickey,password": ("publickey", "password"),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_login_that_asks_is_each_gateways_own(
    group: execnet.Group,
    server: Server,
    account: Account,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    method: str,
) -> None:
    asked = ask_by_program(account, tmp_path, monkeypatch)
    settings = ["PasswordAuthentication yes", "KbdInteractiveAuthentication yes"]
    if method == "keyboard-interactive":
        settings.append("UsePAM yes")
    strict = server(*settings, f"AuthenticationMethods {method}")
    spec = asking(strict, account, method)
    assert all_answer(group.makegateways([spec] * 3))
    assert asked.read_text().split() == ["asked"] * 3
    assert strict.logins(METHODS[method][-1]) == 3
    assert recorder.calls() == [plain(spec)] * 3


def test_the_first_opens_the_users_own_connection_for_the_others(
    group: execnet.Group,
    server: Server,
    account: Account,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    runtime: Path,
) -> None:
    asked = ask_by_program(account, tmp_path, monkeypatch)
    strict = server("PasswordAuthentication yes", "AuthenticationMethods password")
    spec = asking(strict, account, "password", "ControlMaster auto", f"ControlPath {runtime}/user")
    assert all_answer(group.makegateways([spec] * 4))
    assert asked.read_text().split() == ["asked"]
    assert strict.logins("password") == 1


def test_passwords_from_sshpass(
    group: execnet.Group, server: Server, account: Account, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("sshpass") is None:
        pytest.skip("sshpass is not installed")
    strict = server("PasswordAuthentication yes")
    monkeypatch.setenv("SSHPASS", account.password)
    recorder.write("", ssh=f"sshpass -e {recorder.real}")
    assert all_answer(group.makegateways([asking(strict, account, "password")] * 3))
    assert strict.logins("password") == 3


def test_a_changed_host_key_is_an_error_for_each(
    group: execnet.Group, ssh_server: SshServer, recorder: Recorder, tmp_path: Path, runtime: Path
) -> None:
    key = (ssh_server.folder / "user_key.pub").read_text().split()[:2]
    known = tmp_path / "known"
    known.write_text(f"[127.0.0.1]:{ssh_server.port} {' '.join(key)}\n")
    config = ssh_server.client_config("changed", f"UserKnownHostsFile {known}", "StrictHostKeyChecking yes")
    spec = ssh_server.spec(ssh_config=config)
    with pytest.raises(GatewayStartError, match="3 of 3") as caught:
        group.makegateways([spec] * 3)
    assert isinstance(caught.value.__cause__, HostNotFound)
    assert recorder.calls() == [plain(spec)] * 3
    assert os.listdir(runtime) == []


# where the socket lives


@pytest.mark.parametrize("name", ["x" * 75, "x" * 200, "50%C", "a$HOME", "with space"])
def test_tmpdir_is_no_concern(
    group: execnet.Group, ssh_server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    before = ssh_server.logins()
    gateways = group.makegateways([ssh_server.spec()] * 3)
    assert ssh_server.logins() == before + 1
    assert os.listdir(folder) == []
    assert Path(connection_of(gateways[0])._folder).parent == Path("/tmp")


def test_it_is_in_the_runtime_folder(group: execnet.Group, ssh_server: SshServer, runtime: Path) -> None:
    before = ssh_server.logins()
    group.makegateways([ssh_server.spec()] * 3)
    (folder,) = runtime.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == ["ssh"]
    assert ssh_server.logins() == before + 1
    group.terminate(SECONDS)
    assert os.listdir(runtime) == []


@pytest.mark.parametrize("fault", ["open", "long", "percent", "missing", "another user's"])
def test_a_runtime_folder_that_will_not_do_is_left_alone(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    folder = runtime / {"long": "x" * 60, "percent": "%h"}.get(fault, "run")
    folder.mkdir(mode=0o700)
    if fault == "open":
        folder.chmod(0o755)
    elif fault == "missing":
        folder.rmdir()
    elif fault == "another user's":
        if os.geteuid() != 0:
            pytest.skip("only root gives a folder away")
        os.chown(folder, 65534, 65534)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    assert Path(gateway_ssh._new_folder()).parent == Path("/tmp")


def test_without_a_place_each_connects_by_itself(
    group: execnet.Group, ssh_server: SshServer, monkeypatch: pytest.MonkeyPatch, recorder: Recorder
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(gateway_ssh, "WORLD_FOLDER", "/nowhere")
    group.makegateways([ssh_server.spec()] * 3)
    assert recorder.calls() == [plain(ssh_server.spec())] * 3


# what goes wrong


def spoil(monkeypatch: pytest.MonkeyPatch, how: Callable[[SshConnection], object]) -> None:
    """Have `how` called with each connection when it is open, before it is used."""
    connect = SshConnection._connect

    def spoilt(connection: SshConnection) -> bool:
        usable = connect(connection)
        assert usable
        how(connection)
        return usable

    monkeypatch.setattr(SshConnection, "_connect", spoilt)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP])
def test_where_the_connection_is_killed_or_stopped_each_connects_by_itself(
    group: execnet.Group,
    ssh_server: SshServer,
    monkeypatch: pytest.MonkeyPatch,
    runtime: Path,
    hurry: None,
    signum: signal.Signals,
) -> None:
    spoil(monkeypatch, lambda connection: os.killpg(connection._popen.pid, signum))  # type: ignore[union-attr]
    before = ssh_server.logins()
    assert all_answer(group.makegateways([ssh_server.spec()] * 3))
    assert ssh_server.logins() >= before + 4  # an ssh that was refused may have been logging in by itself
    wait_until(lambda: os.listdir(runtime) == [], SECONDS, "the folder's end")
    wait_until(lambda: ssh_processes(runtime) == [], SECONDS, "the end of the connection")


def test_where_the_far_end_of_the_connection_is_stuck_each_connects_by_itself(
    group: execnet.Group, server: Server, monkeypatch: pytest.MonkeyPatch, hurry: None
) -> None:
    own = server()
    stopped: list[int] = []

    def stop(connection: SshConnection) -> None:
        children = Path(f"/proc/{own.process.pid}/task/{own.process.pid}/children").read_text().split()
        stopped.extend(int(pid) for pid in children)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)

    spoil(monkeypatch, stop)
    try:
        assert all_answer(group.makegateways([own.spec()] * 3))
        assert own.logins() == 4
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("sessions", [1, 2])
def test_where_the_server_allows_few_sessions_the_others_connect_by_themselves(
    group: execnet.Group, server: Server, sessions: int
) -> None:
    own = server(f"MaxSessions {sessions}")
    assert all_answer(group.makegateways([own.spec()] * 4))
    assert own.logins() == 1 + 4 - (sessions - 1)


SPOILT = {
    "fails": "exit 1",
    "hangs": "sleep 1000 & wait",
    "talks": "echo usage; exit 0",
}


@pytest.mark.parametrize("call", ["-G", "-M"])
@pytest.mark.parametrize("what", SPOILT)
def test_an_ssh_that_does_not_do_its_part_is_asked_for_plain_connections(
    group: execnet.Group,
    ssh_server: SshServer,
    recorder: Recorder,
    runtime: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    what: str,
) -> None:
    monkeypatch.setattr(gateway_ssh, "OPEN_TIME", 2.0)
    recorder.write(f"for word; do case $word in {call}) {SPOILT[what]};; esac; done")
    assert all_answer(group.makegateways([ssh_server.spec()] * 3))
    assert recorder.calls() == [plain(ssh_server.spec())] * 3
    group.terminate(SECONDS)
    assert os.listdir(runtime) == []


def test_a_host_that_never_answers_is_given_up(
    group: execnet.Group, ssh_server: SshServer, monkeypatch: pytest.MonkeyPatch, runtime: Path
) -> None:
    monkeypatch.setattr(gateway_ssh, "OPEN_TIME", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        options = f"-p {silent.getsockname()[1]} -o ConnectTimeout=1"
        with pytest.raises(GatewayStartError, match="3 of 3"):
            group.makegateways([ssh_server.spec(ssh=f"{options} {ssh_server.host}")] * 3)
    assert os.listdir(runtime) == []


def test_an_unreachable_host_is_named_for_each(group: execnet.Group, ssh_server: SshServer) -> None:
    specs = [f"ssh=-p 1 {ssh_server.host}//ssh_config={ssh_server.config}//id=far{number}" for number in range(3)]
    with pytest.raises(OSError, match="3 of 3") as caught:
        group.makegateways(specs)
    assert isinstance(caught.value.__cause__, HostNotFound)
    assert all(f"far{number}" in str(caught.value) for number in range(3))
    assert list(group) == []


def test_a_python_that_the_far_side_lacks_is_tried_once(
    group: execnet.Group, ssh_server: SshServer, recorder: Recorder
) -> None:
    with pytest.raises(GatewayStartError, match="3 of 3") as caught:
        group.makegateways([ssh_server.spec(python="/nowhere/python")] * 3)
    assert str(caught.value).count("127 (command not found)") == 3
    assert len(recorder.calls()) == 3


def test_the_end_of_the_connection_ends_those_that_use_it(group: execnet.Group, ssh_server: SshServer) -> None:
    gateways = group.makegateways([ssh_server.spec()] * 3)
    channels = [gateway.remote_exec("channel.receive()") for gateway in gateways]
    os.killpg(connection_of(gateways[0])._popen.pid, signal.SIGKILL)
    for channel in channels:
        with pytest.raises(EOFError):
            channel.receive(SECONDS)
    group.terminate(SECONDS)


# its end


def test_it_ends_with_its_last_gateway(group: execnet.Group, ssh_server: SshServer, runtime: Path) -> None:
    *others, last = group.makegateways([ssh_server.spec()] * 3)
    for gateway in others:
        gateway.exit()
        gateway.join(SECONDS)
    assert all_answer([last])
    assert len(os.listdir(runtime)) == 1
    last.exit()
    wait_until(lambda: os.listdir(runtime) == [], SECONDS, "the folder's end")
    wait_until(lambda: ssh_processes(runtime) == [], SECONDS, "the end of the connection")


def test_it_is_killed_with_its_last_gateway_where_it_is_stuck(
    group: execnet.Group, ssh_server: SshServer, runtime: Path
) -> None:
    gateways = group.makegateways([ssh_server.spec()] * 3)
    os.killpg(connection_of(gateways[0])._popen.pid, signal.SIGSTOP)
    group.terminate(0.5)
    assert os.listdir(runtime) == []
    wait_until(lambda: ssh_processes(runtime) == [], SECONDS, "the end of what was killed")


PROGRAM = """
import sys, time, execnet
print("begin", flush=True)
group = execnet.Group([sys.argv[1]] * 3)
assert all(gateway.remote_exec("channel.send(1)").receive(20) == 1 for gateway in group)
print("made", group[0]._io._connection is not None, flush=True)
sys.stdin.read()
group.terminate(5)
"""


def program(spec: str, python: str = sys.executable, package: Path = PACKAGE, **options: Any) -> subprocess.Popen[str]:
    """A program with three gateways; it prints "begin" and "made", and ends with its stdin."""
    environment = {**os.environ, "PYTHONPATH": str(package.parent), **options.pop("env", {})}
    command = [python, "-c", PROGRAM, spec]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, text=True, env=environment, stdin=pipe, stdout=pipe, **options)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.15, 0.3, None])
def test_nothing_is_left_of_it_when_the_initiator_is_killed(
    ssh_server: SshServer, runtime: Path, moment: float | None
) -> None:
    process = program(ssh_server.spec())
    assert line_of(process) == "begin"
    if moment is None:
        assert line_of(process) == "made True"
        assert len(os.listdir(runtime)) == 1
    else:
        time.sleep(moment)  # somewhere in the start
    process.kill()
    process.communicate(timeout=SECONDS)
    wait_until(lambda: os.listdir(runtime) == [] and ssh_processes(runtime) == [], SECONDS, "the end of the connection")


def test_nothing_is_left_of_it_after_ctrl_c(ssh_server: SshServer, runtime: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        spec = ssh_server.spec(ssh=f"-p {silent.getsockname()[1]} {ssh_server.host}")
        process = program(spec, stderr=subprocess.PIPE)
        wait_until(lambda: os.listdir(runtime) != [], SECONDS, "the folder")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=SECONDS)
    assert "KeyboardInterrupt" in errors
    assert os.listdir(runtime) == []
    assert ssh_processes(runtime) == []


def test_nothing_is_left_of_it_when_all_but_its_shell_are_killed(
    group: execnet.Group, ssh_server: SshServer, runtime: Path
) -> None:
    group.makegateways([ssh_server.spec()] * 3)
    for pid in ssh_processes(runtime):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended with another one
            if Path(f"/proc/{pid}/comm").read_text().strip() == "ssh":
                os.kill(pid, signal.SIGKILL)
    wait_until(lambda: os.listdir(runtime) == [], SECONDS, "the folder's end")


def test_two_programs_at_once_have_a_connection_each(ssh_server: SshServer, runtime: Path) -> None:
    before = ssh_server.logins()
    processes = [program(ssh_server.spec()) for _ in range(2)]
    try:
        assert [[line_of(process), line_of(process)] for process in processes] == [["begin", "made True"]] * 2
        assert len(os.listdir(runtime)) == 2
        assert ssh_server.logins() == before + 2
    finally:
        for process in processes:
            process.communicate(timeout=SECONDS)
    assert os.listdir(runtime) == []


def test_two_users_have_a_connection_each(ssh_server: SshServer, account: Account, runtime: Path) -> None:
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin")
    if python is None:
        pytest.skip("no Python for a user without a home")
    known = subprocess.run(
        [executable("id"), "-un"], user=account.uid, stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    if known != account.name:
        pytest.skip("an ordinary user can't read the list of users here, which ssh does")
    with tempfile.TemporaryDirectory(prefix="user-", dir="/tmp") as name:
        folder = Path(name)
        shutil.copytree(PACKAGE, folder / "execnet", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        shutil.copy(ssh_server.folder / "user_key", folder)
        config = f"User {getpass.getuser()}\n{ssh_server.config.read_text()}"
        (folder / "config").write_text(config.replace(str(ssh_server.folder), name))
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, account.uid, account.uid)
        theirs = program(
            ssh_server.spec(ssh_config=folder / "config"),
            python=python,
            package=folder / "execnet",
            user=account.uid,
            cwd=name,
            env={"HOME": name},  # and our XDG_RUNTIME_DIR, as su leaves it
        )
        ours = program(ssh_server.spec())
        try:
            assert [[line_of(process), line_of(process)] for process in (theirs, ours)] == [["begin", "made True"]] * 2
            assert len(os.listdir(runtime)) == 1
            (their_folder,) = (path for path in Path("/tmp").glob("execnet-*") if path.stat().st_uid == account.uid)
            assert their_folder.stat().st_mode & 0o777 == 0o700
        finally:
            for process in (theirs, ours):
                process.communicate(timeout=SECONDS)
        assert not their_folder.exists()
