"""Gateways over ssh, against a real OpenSSH server on this machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.interpreters import Interpreter
from support.sshd import SshServer

import execnet
from execnet.gateway_bootstrap import GatewayStartError

MakeGateway = Callable[..., execnet.Gateway]
SECONDS = 15.0


def test_an_ssh_gateway(makegateway: MakeGateway, ssh_server: SshServer) -> None:
    gateway = makegateway(ssh_server.spec(id="far"))
    assert gateway.remoteaddress == ssh_server.host
    data = bytes(range(256)) * 8000
    channel = gateway.remote_exec("import sys; channel.send((channel.receive(), sys.argv, channel.gateway.id))")
    channel.send(data)
    assert channel.receive(SECONDS) == (data, ["-c"], "far-worker")
    assert gateway._io.popen.args[:2] == ["ssh", "-C"]


def test_an_ssh_gateway_to(makegateway: MakeGateway, ssh_server: SshServer, other_python: Interpreter) -> None:
    gateway = makegateway(ssh_server.spec(python=other_python))
    assert gateway._rinfo().version_info[:2] == other_python.version
    source = "import sys; channel.send([name for name in sys.modules if 'execnet' in name])"
    imported = gateway.remote_exec(source).receive(SECONDS)
    assert imported == [] or other_python == sys.executable  # which has the C core of the same build


def test_ssh_options_may_stand_before_the_host(makegateway: MakeGateway, ssh_server: SshServer) -> None:
    gateway = makegateway(f"ssh=-F {ssh_server.config} {ssh_server.host}//python={sys.executable}")
    assert gateway.remote_exec("channel.send(1)").receive(SECONDS) == 1


def test_chdir_and_env_over_ssh(makegateway: MakeGateway, ssh_server: SshServer, tmp_path: Path) -> None:
    gateway = makegateway(ssh_server.spec(chdir=tmp_path / "new", **{"env:EXECNET_TEST_X": "1"}))
    channel = gateway.remote_exec("import os; channel.send((os.getcwd(), os.environ['EXECNET_TEST_X']))")
    assert channel.receive(SECONDS) == (str(tmp_path / "new"), "1")


def test_vagrant_ssh(makegateway: MakeGateway, vagrant: str) -> None:
    gateway = makegateway(f"vagrant_ssh={vagrant}//python={sys.executable}")
    assert gateway.remoteaddress == vagrant
    assert gateway.remote_exec("channel.send(1)").receive(SECONDS) == 1


def test_popen_via_ssh_and_ssh_via_popen(makegateway: MakeGateway, ssh_server: SshServer) -> None:
    makegateway(ssh_server.spec(id="far"))
    makegateway("popen//id=behind//via=far")
    gateway = makegateway(ssh_server.spec(id="back", via="behind"))
    assert gateway.remoteaddress == ssh_server.host
    assert gateway.remote_exec("channel.send(1)").receive(SECONDS) == 1


def test_installvia_ssh(makegateway: MakeGateway, ssh_server: SshServer) -> None:
    makegateway(ssh_server.spec(id="far"))
    gateway = makegateway("socket//installvia=far")
    assert gateway.remote_exec("channel.send(1)").receive(SECONDS) == 1
    # The address by which ssh has reached the machine, not what "localhost" is here.
    assert gateway.remoteaddress.startswith("127.0.0.1:")


def test_the_end_of_ssh_ends_the_gateway(makegateway: MakeGateway, ssh_server: SshServer) -> None:
    gateway = makegateway(ssh_server.spec())
    channel = gateway.remote_exec("channel.receive()")
    gateway._io.kill()
    with pytest.raises(EOFError):
        channel.receive(SECONDS)


# own commands


def wrapper(folder: Path) -> Path:
    """A program that notes its arguments and runs ssh."""
    path = folder / "my ssh"
    path.write_text(f'#!/bin/sh\necho "$*" >> \'{folder}/calls\'\nexec ssh "$@"\n')
    path.chmod(0o755)
    return path


def test_an_own_command_by_the_spec(makegateway: MakeGateway, ssh_server: SshServer, tmp_path: Path) -> None:
    gateway = makegateway(ssh_server.spec(ssh_command=f"'{wrapper(tmp_path)}' -v -E {tmp_path}/log"))
    assert gateway.remote_exec("channel.send(1)").receive(SECONDS) == 1
    assert gateway.remoteaddress == ssh_server.host
    assert (
        (tmp_path / "calls").read_text().startswith(f"-v -E {tmp_path}/log -F {ssh_server.config} {ssh_server.host} ")
    )
    assert "OpenSSH" in (tmp_path / "log").read_text()


def test_an_own_command_by_the_environment_which_the_spec_overrides(
    makegateway: MakeGateway, ssh_server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXECNET_SSH", f"'{wrapper(tmp_path)}' -C")
    assert makegateway(ssh_server.spec()).remote_exec("channel.send(1)").receive(SECONDS) == 1
    makegateway(ssh_server.spec(ssh_command="ssh -C"))
    assert (tmp_path / "calls").read_text().count("\n") == 1


def test_through_a_jump_host(makegateway: MakeGateway, ssh_server: SshServer) -> None:
    # -J would ask its own ssh without our configuration.
    through = f"ssh -o 'ProxyCommand=ssh -F {ssh_server.config} -W %h:%p {ssh_server.host}'"
    before = ssh_server.logins()
    gateway = makegateway(ssh_server.spec(ssh_command=through))
    assert gateway.remote_exec("channel.send(1)").receive(SECONDS) == 1
    assert ssh_server.logins() == before + 2


@pytest.mark.parametrize("way", ["key", "variable"])
def test_an_own_command_that_is_not_there_is_named(
    group: execnet.Group, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = "ssh=host" if way == "variable" else "ssh=host//ssh_command=/no/such/ssh -v"
    monkeypatch.setenv("EXECNET_SSH", "/no/such/ssh" if way == "variable" else "ssh")
    with pytest.raises(FileNotFoundError, match=f"{spec}.*/no/such/ssh"):
        group.makegateway(spec)


def test_a_command_that_cannot_be_read_starts_nothing(group: execnet.Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXECNET_SSH", "ssh '")
    with pytest.raises(ValueError, match="No closing quotation"):
        group.makegateways(["popen", "ssh=host", "ssh=host", "ssh=host"])
    assert len(group) == 0


# start errors


@pytest.mark.parametrize("via", [None, "master"])
def test_an_ssh_that_cannot_connect(group: execnet.Group, ssh_server: SshServer, via: str | None) -> None:
    group.makegateway("popen//id=master")
    spec = f"ssh=-p 1 {ssh_server.host}//ssh_config={ssh_server.config}" + (f"//via={via}" if via else "")
    with pytest.raises(execnet.HostNotFound) as caught:
        group.makegateway(spec)
    for part in (spec, "255", f"ssh -C -F {ssh_server.config} -p 1 {ssh_server.host}"):
        assert part in str(caught.value)
    assert isinstance(caught.value, OSError)
    assert caught.value.returncode == 255
    assert [gateway.id for gateway in group] == ["master"]


@pytest.mark.needs("ssh")
def test_an_unknown_ssh_host(group: execnet.Group) -> None:
    with pytest.raises(execnet.HostNotFound, match=r"host\.invalid"):
        group.makegateway("ssh=host.invalid")


def test_a_python_that_the_far_side_lacks(group: execnet.Group, ssh_server: SshServer) -> None:
    spec = ssh_server.spec(python="/nowhere/python")
    with pytest.raises(GatewayStartError, match=r"127 \(command not found\)") as caught:
        group.makegateway(spec)
    assert spec in str(caught.value)
    assert not isinstance(caught.value, execnet.HostNotFound)
    assert len(group) == 0


def test_the_error_of_a_host_that_is_not_reached_has_the_words_of_ssh(
    group: execnet.Group, ssh_server: SshServer
) -> None:
    spec = f"ssh=-p 1 {ssh_server.host}//ssh_config={ssh_server.config}"
    with pytest.raises(execnet.HostNotFound, match="stderr=capture in the spec keeps it for this error"):
        group.makegateway(spec)
    with pytest.raises(execnet.HostNotFound, match=r"on stderr: ssh: connect to host .* refused"):
        group.makegateway(f"{spec}//stderr=capture")


def test_a_far_shell_that_talks_before_python_does(group: execnet.Group, ssh_server: SshServer) -> None:
    with pytest.warns(RuntimeWarning, match="Welcome to this machine"):
        gateway = group.makegateway(ssh_server.spec(python=f"echo Welcome to this machine; {sys.executable}"))
    assert gateway.remote_exec("channel.send(1)").receive(20) == 1


def test_a_missing_ssh_program(group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="ssh=somewhere"):
        group.makegateway("ssh=somewhere")
    with pytest.raises(FileNotFoundError, match="vagrant_ssh=default"):
        group.makegateway("vagrant_ssh=default")


def test_ssh_keeps_its_stderr_on_ours(ssh_server: SshServer) -> None:
    program = f"""
import execnet
try:
    execnet.makegateway({ssh_server.spec(python="/nowhere/python")!r})
except OSError:
    pass
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "/nowhere/python" in run.stderr
