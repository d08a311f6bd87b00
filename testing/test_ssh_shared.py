"""Several ssh gateways started at once share one connection, and end it with the last of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.sshd import SshServer

import execnet
from execnet import gateway_io, gateway_ssh
from execnet.gateway_bootstrap import HostNotFound

SECONDS = 20.0


def logins(server: SshServer) -> int:
    return server.log.read_text().count("Accepted publickey")


def connection_of(gateway: execnet.Gateway) -> Any:
    return gateway._io._connection  # type: ignore[attr-defined]


def test_they_log_in_once_and_are_gateways_of_their_own(group: execnet.Group, ssh_server: SshServer) -> None:
    before = logins(ssh_server)
    gateways = group.makegateways([ssh_server.spec()] * 4)
    assert logins(ssh_server) == before + 1
    assert [gateway.id for gateway in group] == ["gw0", "gw1", "gw2", "gw3"] == [gateway.id for gateway in gateways]
    assert len({gateway._rinfo().pid for gateway in gateways}) == 4
    connection = connection_of(gateways[0])
    group.terminate(SECONDS)
    assert connection._popen.returncode is not None
    assert not os.path.exists(connection._folder)


def test_more_than_a_server_allows_for_a_connection_have_several(group: execnet.Group, ssh_server: SshServer) -> None:
    before = logins(ssh_server)
    gateways = group.makegateways([ssh_server.spec()] * (gateway_ssh.SESSIONS + 3))
    assert logins(ssh_server) == before + 2
    assert gateway_ssh.SESSIONS < 10 < len(gateways)


def test_one_that_is_killed_takes_no_other_with_it(group: execnet.Group, ssh_server: SshServer) -> None:
    first, *others = group.makegateways([ssh_server.spec()] * 3)
    first._io.kill()
    first.join(SECONDS)
    group._terminate_only([first], SECONDS)
    for gateway in others:
        assert gateway.remote_exec("channel.send(1)").receive(SECONDS) == 1
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


def test_where_sharing_fails_each_connects_by_itself(
    group: execnet.Group, ssh_server: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_ssh.SshConnection, "wait_until_open", lambda connection: connection._popen.kill())
    before = logins(ssh_server)
    gateways = group.makegateways([ssh_server.spec()] * 3)
    assert len(gateways) == 3
    assert logins(ssh_server) >= before + 3


def test_an_unreachable_host_is_named_for_each(group: execnet.Group, ssh_server: SshServer) -> None:
    specs = [f"ssh=-p 1 {ssh_server.host}//ssh_config={ssh_server.config}//id=far{number}" for number in range(3)]
    with pytest.raises(OSError, match="3 of 3") as caught:
        group.makegateways(specs)
    assert isinstance(caught.value.__cause__, HostNotFound)
    assert all(f"far{number}" in str(caught.value) for number in range(3))
    assert list(group) == []


PROGRAM = """
import sys, time, execnet
group = execnet.Group([sys.argv[1]] * 3)
print(*[gateway._io.popen.pid for gateway in group], group[0]._io._connection._popen.pid, flush=True)
time.sleep(60)
"""


def test_the_connection_ends_when_the_initiator_is_killed(ssh_server: SshServer) -> None:
    folder = str(Path(execnet.__file__).resolve().parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, ssh_server.spec()],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": folder},
    )
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=SECONDS)
    assert len(pids) == 4
    deadline = time.monotonic() + SECONDS
    while left := [
        pid for pid in pids if os.path.exists(f"/proc/{pid}/cmdline") and Path(f"/proc/{pid}/cmdline").read_bytes()
    ]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
