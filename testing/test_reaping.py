"""No zombies: a process is reaped when it ends, and whoever asks later is told its status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support import leaks
from support.blocked import Call
from support.initiator import is_running
from support.lines import AtLine, functions_of
from support.processes import wait_until

import execnet
from execnet._process import reaping
from execnet.gateway_io import Popen2IOMaster

SECONDS = 20.0
FIGURE = 100
LINGERING = """#!/bin/sh
"%s" "$@"
exec 0<&- 1>&-
exec sleep 1000
"""


def is_there(pid: int) -> bool:
    """Whether the process has not been reaped."""
    return Path(f"/proc/{pid}").exists()


def await_reaped(pid: int) -> None:
    """Wait until nothing is left of the process, not even a zombie."""
    wait_until(lambda: not is_there(pid), SECONDS, f"reaping of process {pid}")


def zombies() -> list[int]:
    """The children of this process that have ended and were not reaped."""
    children = [pid for pid, parent in leaks.parents_of_all().items() if parent == os.getpid()]
    return [pid for pid in children if not is_running(pid) and is_there(pid)]


def test_a_second_after_a_hundred_exits_there_is_no_zombie(group: execnet.Group) -> None:
    for _ in range(FIGURE // 10):
        for gateway in group.makegateways(["popen"] * 10):
            gateway.exit()
    time.sleep(1.0)
    assert (zombies(), len(group)) == ([], 0)


def spec_of(kind: str, request: pytest.FixtureRequest) -> str:
    """A spec of that kind."""
    if kind == "ssh":
        return str(request.getfixturevalue("ssh_server").spec())
    return {
        "popen": "popen",
        "gevent": "popen//execmodel=gevent",
        "captured": "popen//stderr=capture",
        "shipped": f"popen//python={sys.executable}",
        "via": "popen//via=master",
        "warm": "popen//warm",
    }[kind]


@pytest.mark.parametrize("kind", ["popen", "gevent", "captured", "shipped", "via", "warm", "ssh"])
def test_exit_alone_leaves_nothing(group: execnet.Group, request: pytest.FixtureRequest, kind: str) -> None:
    group.makegateway("popen//id=master")
    gateway = group.makegateway(spec_of(kind, request))
    pid = gateway.pid
    assert pid is not None
    gateway.exit()
    await_reaped(pid)
    # A fork server reaps before the receiver's end; and whoever reaps may be about to note the status.
    wait_until(lambda: not gateway.hasreceiver() and gateway.returncode is not None, SECONDS, "the receiver's end")
    assert gateway.returncode == 0


@pytest.mark.parametrize("kind", ["popen", "shipped", "via", "warm"])
def test_a_death_leaves_nothing(group: execnet.Group, request: pytest.FixtureRequest, kind: str) -> None:
    group.makegateway("popen//id=master")
    gateway = group.makegateway(spec_of(kind, request))
    pid = gateway.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await_reaped(pid)
    wait_until(lambda: gateway.returncode == -signal.SIGKILL, SECONDS, "the status")


@pytest.mark.parametrize("core", ["", "1"], ids=["own core", "portable"])
@pytest.mark.parametrize("model", ["thread", "main_thread_only", "gevent", "eventlet"])
def test_the_initiators_model_makes_no_difference(model: str, core: str) -> None:
    program = f"""
import execnet, os
group = execnet.Group(["popen"] * 3, execmodel={model!r})
popens = [gateway._io.popen for gateway in group]
for gateway in list(group): gateway.exit()
deadline = 2000
while any(popen.returncode is None for popen in popens) and deadline:
    group.execmodel.sleep(0.01)
    deadline -= 1
try:
    print([popen.returncode for popen in popens], os.waitpid(-1, os.WNOHANG))
except ChildProcessError:
    print([popen.returncode for popen in popens], "no child")
"""
    environment = {**os.environ, **({"EXECNET_PURE": core} if core else {})}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment)
    assert run.stdout == "[0, 0, 0] no child\n", run.stderr


def test_who_asks_later_is_told_the_status(pair: execnet.Gateway) -> None:
    popen = pair._io.popen
    pair.remote_exec("import os; os._exit(7)")
    await_reaped(popen.pid)
    wait_until(lambda: popen.returncode is not None, SECONDS, "a note of the status")  # poll() meanwhile gives None
    ways: list[Callable[[], object]] = [
        popen.poll,
        popen.wait,
        lambda: popen.wait(0),
        lambda: pair.returncode,
        pair._io.wait,
        lambda: pair._io.exit_status(0),
    ]
    assert [Call(way).result() for way in ways] == [7] * len(ways)
    pair.exit(wait=SECONDS)
    pair._group.terminate(SECONDS)
    assert popen.returncode == 7


def test_threads_that_ask_at_the_same_time_are_all_told_the_status(group: execnet.Group) -> None:
    def polled(popen: subprocess.Popen[bytes]) -> int:
        while (status := popen.poll()) is None:
            time.sleep(0.0005)
        return status

    for gateway in group.makegateways(["popen"] * 5):
        popen = gateway._io.popen
        ways = [popen.wait, lambda p=popen: p.wait(SECONDS), lambda p=popen: polled(p), gateway._io.wait] * 2
        calls = [Call(way) for way in ways]
        os.kill(popen.pid, signal.SIGTERM)
        calls.append(Call(lambda g=gateway: g.exit(wait=SECONDS) or g.returncode))  # told earlier, it may end by itself
        assert [call.result() for call in calls] == [-signal.SIGTERM] * len(calls)


@pytest.fixture
def lingering(pair_group: execnet.Group, tmp_path: Path) -> execnet.Gateway:
    """A gateway that has lost its connection, but not its process."""
    script = tmp_path / "python"
    script.write_text(LINGERING % sys.executable)
    script.chmod(0o755)
    gateway = pair_group.makegateway(f"popen//python={script}")
    gateway.remote_exec("import os; os._exit(0)")
    gateway.join(SECONDS)
    return gateway


def test_a_process_that_outlives_its_connection_is_reaped_when_it_ends(lingering: execnet.Gateway) -> None:
    popen = lingering._io.popen
    assert (lingering.hasreceiver(), popen.poll(), lingering.returncode) == (False, None, None)
    os.kill(popen.pid, signal.SIGKILL)
    assert popen.wait(SECONDS) == popen.poll() == -signal.SIGKILL and not is_there(popen.pid)


def test_who_asks_does_not_wait_for_the_thread_that_reaps(lingering: execnet.Gateway) -> None:
    popen = lingering._io.popen
    for _ in range(20):
        assert popen._waitpid_lock.acquire(timeout=SECONDS)  # who polls could not know while the receiver had it
        popen._waitpid_lock.release()
        time.sleep(0.01)
    os.kill(popen.pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT)
    assert popen.wait(SECONDS) == -signal.SIGKILL


def test_a_gateway_has_one_thread(group: execnet.Group) -> None:
    before = leaks.threads()
    group.makegateways(["popen"] * 3)
    wait_until(lambda: len(leaks.threads().keys() - before.keys()) <= 3, SECONDS, "the end of the starts' threads")


def test_a_child_that_the_program_itself_reaps_is_no_trouble(group: execnet.Group) -> None:
    popen = group.makegateway("popen")._io.popen
    os.kill(popen.pid, signal.SIGKILL)
    try:
        os.waitpid(popen.pid, 0)
    except ChildProcessError:
        return  # the receiver was faster
    wait_until(lambda: popen.returncode is not None, SECONDS, "the note that it has ended")


class TestSignals:
    """No signal goes to a process that has been reaped, nor to another one that has got its number."""

    @pytest.fixture
    def popen(self) -> Iterator[subprocess.Popen[bytes]]:
        io = Popen2IOMaster(["sleep", "1000"], execnet.gateway_base.get_execmodel("thread"))
        yield io.popen
        io.popen.kill()
        io.abandon()

    def test_it_is_sent(self, popen: subprocess.Popen[bytes]) -> None:
        popen.send_signal(0)
        popen.terminate()
        assert popen.wait(SECONDS) == -signal.SIGTERM
        popen.kill()
        assert popen.returncode == -signal.SIGTERM

    def test_where_processes_have_no_descriptors_it_is_sent(
        self, popen: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(pid: int, flags: int = 0) -> int:
            raise OSError("not here")

        monkeypatch.setattr(os, "pidfd_open", refuse)
        popen.terminate()
        assert popen.wait(SECONDS) == -signal.SIGTERM

    @pytest.mark.parametrize("line", range(30))
    def test_a_process_reaped_in_the_middle_is_left_alone(
        self, popen: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, line: int
    ) -> None:
        sent: list[int] = []
        monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(pid))

        def end_and_reap() -> None:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            Call(popen.wait).result()

        descriptor = os.pidfd_open(popen.pid)
        try:
            with AtLine(line, end_and_reap, functions_of(reaping.__file__)):
                popen.terminate()
            assert sent == []
        finally:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL) if popen.poll() is None else None
            os.close(descriptor)
            monkeypatch.undo()

    def test_another_process_of_that_number_is_left_alone(
        self, popen: subprocess.Popen[bytes], gw: execnet.Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = "import subprocess; channel.send(subprocess.Popen(['sleep', '1000']).pid)"
        other = gw.remote_exec(source).receive(SECONDS)
        original = os.pidfd_open
        monkeypatch.setattr(os, "pidfd_open", lambda pid: original(other))
        popen.kill()
        monkeypatch.undo()
        assert is_running(other) and popen.poll() is None
        os.kill(other, signal.SIGKILL)

    def test_warm_processes_too(self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch) -> None:
        popen = group.makegateway("popen//warm")._io.popen
        sent: list[int] = []
        pid, original = popen.pid, os.pidfd_open

        def die_first(number: int) -> int:
            descriptor = original(number)
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            popen.wait(SECONDS)
            return descriptor

        monkeypatch.setattr(os, "pidfd_open", die_first)
        monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(pid))
        popen.terminate()
        assert (sent, popen.returncode, is_there(pid)) == ([], -signal.SIGKILL, False)

    def test_kills_and_ends_at_the_same_time(self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch) -> None:
        for _ in range(5):
            gateway = group.makegateway("popen")
            popen = gateway._io.popen
            calls = [Call(popen.kill) for _ in range(4)]
            gateway.exit()
            for call in calls:
                call.result()
            assert popen.wait(SECONDS) in (0, -signal.SIGKILL)
            await_reaped(popen.pid)


def test_the_proxys_kill_waits_for_its_reaping() -> None:
    from execnet.script import proxy

    process = subprocess.Popen(["sleep", "1000"])
    model = execnet.gateway_base.get_execmodel("thread")
    mutex = threading.Lock()
    watcher = Call(proxy.reaped, process, mutex, model)
    with mutex:
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert process.returncode is None and is_there(process.pid)
    assert watcher.result() == -signal.SIGKILL
    proxy.killer(process, mutex)("kill")


@pytest.mark.parametrize("replacement", ["function", "class"])
def test_a_replaced_popen_is_called_as_before(
    group: execnet.Group, monkeypatch: pytest.MonkeyPatch, replacement: str
) -> None:
    made = []

    class Popen(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: object, **kwargs: object) -> None:
            made.append(args)
            super().__init__(*args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", Popen if replacement == "class" else lambda *a, **k: Popen(*a, **k))
    gateway = group.makegateway("popen")
    assert len(made) == 1 and type(gateway._io.popen) is Popen
    gateway.exit()
    wait_until(lambda: gateway.returncode is not None, SECONDS, "the status")
    assert gateway.returncode == 0 and not is_there(gateway._io.popen.pid)
