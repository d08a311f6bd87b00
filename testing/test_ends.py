"""Deaths: initiators, workers, both by Ctrl-C, and forks; nothing hangs, nothing is left, and it is told why."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.blocked import Call, await_blocked, interrupted_after
from support.initiator import FORKING_ENVIRON, Initiator, is_running, wait_for_end
from support.interpreters import Interpreter
from support.peer import Peer
from support.processes import pid_of, stop, wait_until
from support.socketserver import SocketServer
from support.sshd import SshServer
from support.stuck import BLOCKED_IN_SEND, C_LOOPING, IDLE, LOOPING, SLEEPING, SWALLOWING

import execnet
from execnet import GatewayDied
from execnet._process import death

SECONDS = 20.0
WAKE_SECONDS = 0.05
INTERRUPT_SECONDS = 0.02
# Beside the times that are promised: what a loaded machine takes to run and reap some dozen processes.
SLACK = 0.5

CORES: dict[str, dict[str, Any]] = {"c": {}, "portable": {"EXECNET_PURE": "1"}}
WORK = {
    "idle": IDLE,
    "sleeping": SLEEPING,
    "looping": LOOPING,
    "swallowing": SWALLOWING,
    "blocked in send": BLOCKED_IN_SEND,
    "several tasks": SWALLOWING,
    "with children": SLEEPING,
    "looping in C": C_LOOPING,
}
ORPHANS = f"""
work = {WORK!r}
if "EXECNET_PURE" in os.environ:
    del work["looping in C"]  # nothing but C ends a process whose GIL is held
group = execnet.Group()
gateways = dict(zip(work, group.makegateways(["popen"] * len(work))))
pids = {{}}
for kind, source in work.items():
    tasks = 4 if kind == "several tasks" else 1
    channels = [gateways[kind].remote_exec(source) for _ in range(tasks)]
    pids[kind] = [channel.receive(20) for channel in channels][0]
    if kind == "blocked in send":
        channels[0].setcallback(lambda item: time.sleep(1000))
        channels[0].send(None)
    work[kind] = channels
child = gateways["with children"].remote_exec(
    "import subprocess; channel.send(subprocess.Popen(['sleep', '1000']).pid)").receive(20)
say([pids, child])
"""
ENDS = {
    "SIGKILL": "time.sleep(1000)",
    "SIGTERM": "time.sleep(1000)",
    "_exit": "os._exit(3)",
    "crash": "os.kill(os.getpid(), signal.SIGSEGV)",
}


def orphans_after(how: str, seconds: float, **environ: Any) -> list[str]:
    """Start workers at all kinds of work, end their initiator, and return those that still run after the seconds."""
    with Initiator(ORPHANS + ENDS[how], **environ) as initiator:
        pids, child = initiator.hear()
        try:
            if how in ("SIGKILL", "SIGTERM"):
                initiator.kill(getattr(signal, how))
            initiator.await_reaped()
            left = set(wait_for_end(pids.values(), seconds))
            assert is_running(child)
        finally:
            os.kill(child, signal.SIGKILL)
    return [kind for kind, pid in pids.items() if pid in left]


@pytest.mark.timing
@pytest.mark.parametrize("core", CORES)
class TestInitiatorDies:
    def test_no_worker_outlives_it_by_more_than_the_lost_times(self, core: str) -> None:
        assert orphans_after("SIGKILL", 3.0 + SLACK, **CORES[core]) == []

    @pytest.mark.parametrize("how", ENDS)
    def test_however_it_dies_and_with_times_of_ones_own(self, core: str, how: str) -> None:
        assert orphans_after(how, 0.6 + SLACK, EXECNET_LOST_TIMES="0.2,0.6", **CORES[core]) == []

    def test_a_task_that_ends_by_itself_is_not_interrupted(self, core: str, tmp_path: Path) -> None:
        source = f"""
gateway = execnet.makegateway()
channel = gateway.remote_exec('''
import os, time
channel.send(os.getpid())
try:
    channel.receive()
except EOFError:
    time.sleep(0.3)
    open({str(tmp_path / "done")!r}, "w").close()
''')
say(channel.receive(20))
time.sleep(1000)
"""
        with Initiator(source, **CORES[core]) as initiator:
            worker = initiator.hear()
            initiator.kill()
            assert wait_for_end([worker], 3.0 + SLACK) == []
        assert (tmp_path / "done").exists()

    def test_a_sleeping_task_is_interrupted_after_the_first_time(self, core: str, tmp_path: Path) -> None:
        source = f"""
gateway = execnet.makegateway()
channel = gateway.remote_exec('''
import os, time
channel.send(os.getpid())
try:
    time.sleep(1000)
except KeyboardInterrupt:
    open({str(tmp_path / "interrupted")!r}, "w").close()
''')
say(channel.receive(20))
time.sleep(1000)
"""
        with Initiator(source, EXECNET_LOST_TIMES="0.1,20", **CORES[core]) as initiator:
            worker = initiator.hear()
            initiator.kill()
            assert wait_for_end([worker], 0.1 + SLACK) == []
        assert (tmp_path / "interrupted").exists()

    def test_in_the_middle_of_a_termination(self, core: str) -> None:
        source = f"""
gateway = execnet.makegateway()
gateway.remote_exec({SWALLOWING!r}).receive(20)
say(gateway.pid)
gateway.exit()
time.sleep(1000)
"""
        with Initiator(source, EXECNET_LOST_TIMES="0.2,0.6", **CORES[core]) as initiator:
            worker = initiator.hear()
            initiator.kill()
            assert wait_for_end([worker], 0.2 + 0.6 + SLACK) == []

    def test_workers_behind_others_go_as_well(self, core: str) -> None:
        source = """
group = execnet.Group(["popen//id=a", "popen//id=b//via=a", "socket//id=c//installvia=a"])
source = "import os, time; channel.send(os.getpid()); time.sleep(1000)"
say([gateway.remote_exec(source).receive(20) for gateway in group])
time.sleep(1000)
"""
        with Initiator(source, EXECNET_LOST_TIMES="0.2,0.6", **CORES[core]) as initiator:
            pids = initiator.hear()
            initiator.kill()
            assert wait_for_end(pids, 2 * 0.6 + SLACK) == []


class TestWorkerDies:
    def test_a_signal_is_named(self, pair: execnet.Gateway) -> None:
        channel = pair.remote_exec("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        with pytest.raises(EOFError) as caught:
            channel.receive(SECONDS)
        died: Any = caught.value
        pid = pair._io.popen.pid
        assert type(died).__name__ == "GatewayDied"
        assert (died.gateway_id, died.spec, died.pid, died.returncode) == ("gw0", str(pair.spec), pid, -signal.SIGKILL)
        assert died.stderr == ""
        assert str(died) == f"gateway 'gw0' ({pair.spec}) died: its process {pid} was killed by SIGKILL"
        assert (pair.pid, pair.returncode) == (pid, -signal.SIGKILL)
        assert pair._error is died and channel._getremoteerror() is died

    def test_an_exit_status_is_told(self, pair: execnet.Gateway) -> None:
        channel = pair.remote_exec("import os; os._exit(7)")
        with pytest.raises(EOFError, match=f"died: its process {pair.pid} exited with status 7$"):
            channel.receive(SECONDS)
        assert pair.returncode == 7

    def test_a_message_cut_off_is_told(self, gw: execnet.Gateway) -> None:
        channel = gw.remote_exec(
            "import os, select, threading\n"
            "output = channel.gateway._io.outfile.fileno()\n"
            "channel.receive()\n"
            "threading.Thread(target=lambda: channel.send(b'x' * (64 << 20)), daemon=True).start()\n"
            "channel.receive()\n"
            "while select.select([], [output], [], 0)[1]: pass\n"
            "os._exit(7)"
        )
        gate = threading.Event()
        blocker = gw.remote_exec("channel.receive(); channel.send(1)")
        blocker.setcallback(lambda item: gate.wait(SECONDS))
        blocker.send(None)
        channel.send(1)
        channel.send(2)
        wait_until(lambda: gw.returncode == 7, SECONDS, "the worker's end")
        gate.set()
        with pytest.raises(GatewayDied, match="in the middle of a message: expected 67108"):
            channel.waitclose(SECONDS)

    def test_all_later_calls_give_the_same_error_or_a_clear_one(self, pair: execnet.Gateway) -> None:
        channel, other = pair.remote_exec("import os; os._exit(7)"), pair.newchannel()
        for _ in range(3):
            with pytest.raises(EOFError, match="status 7"):
                channel.receive(SECONDS)
        for call in (lambda: channel.receive(0.1), lambda: channel.waitclose(0.1), other.receive):
            with pytest.raises(EOFError, match="status 7"):
                call()
        pair.join(SECONDS)
        with pytest.raises(OSError, match="cannot send"):
            other.send(1)
        for call in (pair.newchannel, pair.remote_status, lambda: pair.remote_exec("")):
            with pytest.raises(OSError, match=r"gw0"):
                call()
        assert list(channel) == []

    def test_an_alive_gateway_has_a_pid_and_no_returncode(self, pair: execnet.Gateway) -> None:
        assert pair.pid == pair.remote_exec("import os; channel.send(os.getpid())").receive(SECONDS)
        assert pair.returncode is None

    def test_of_a_gateway_told_to_exit_nobody_says_it_died(self, pair: execnet.Gateway) -> None:
        channel = pair.remote_exec("channel.receive()")
        pair.exit()
        with pytest.raises(EOFError, match="'gw0' was told to exit") as caught:
            channel.receive(SECONDS)
        assert type(caught.value) is EOFError

    @pytest.mark.timing
    def test_a_child_of_the_worker_does_not_hide_its_death(self, pair: execnet.Gateway) -> None:
        source = "import subprocess; channel.send(subprocess.Popen(['sleep', '1000']).pid)"
        child = pair.remote_exec(source).receive(SECONDS)
        try:
            channel = pair.remote_exec("channel.receive()")
            pair._io.popen.kill()
            with pytest.raises(EOFError, match="SIGKILL"):
                channel.receive(1.0)
            assert is_running(child)
        finally:
            os.kill(child, signal.SIGKILL)

    def test_memory_is_suspected_where_the_kernel_counts_a_kill(
        self, makegateway: Callable[..., execnet.Gateway], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        counts = tmp_path / "memory.events"
        counts.write_text("low 0\noom 2\noom_kill 2\n")
        monkeypatch.setattr(death, "_OOM_COUNTS", (str(counts),))
        monkeypatch.setattr(death, "_seen_oom_kills", [])
        first, second = makegateway(), makegateway()
        channels = [gateway.remote_exec("channel.receive()") for gateway in (first, second)]
        counts.write_text("low 0\noom 3\noom_kill 3\n")
        first._io.popen.kill()
        with pytest.raises(GatewayDied, match=r"SIGKILL \(out of memory\?\)$"):
            channels[0].receive(SECONDS)
        second._io.popen.kill()
        with pytest.raises(GatewayDied, match=r"SIGKILL$"):
            channels[1].receive(SECONDS)

    def test_a_via_gateways_process(self, group: execnet.Group) -> None:
        group.makegateways(["popen//id=a", "popen//id=b//via=a"])
        channel = group["b"].remote_exec("import os; channel.send(os.getpid()); os.kill(os.getpid(), 15)")
        pid = channel.receive(SECONDS)
        with pytest.raises(GatewayDied, match=rf"'b' \(.*\) died: its process {pid} was killed by SIGTERM") as caught:
            channel.receive(SECONDS)
        assert (caught.value.pid, caught.value.returncode) == (pid, -signal.SIGTERM)
        assert (group["b"].pid, group["b"].returncode) == (pid, -signal.SIGTERM)

    def test_what_a_gateway_goes_through(self, group: execnet.Group) -> None:
        a, b = group.makegateways(["popen//id=a", "popen//id=b//via=a"])
        channel = b.remote_exec("channel.receive()")
        a._io.popen.kill()
        with pytest.raises(GatewayDied, match=r"'b' .* what it goes through is gone: gateway 'a' .* killed by SIGKILL"):
            channel.receive(SECONDS)
        assert b.returncode is None

    def test_a_socket_gateways_connection(self, group: execnet.Group) -> None:
        a, c = group.makegateways(["popen//id=a", "socket//id=c//installvia=a"])
        channel = c.remote_exec("channel.receive()")
        a._io.popen.kill()
        with pytest.raises(GatewayDied, match=rf"'c' \(.*\) died: the connection to {c.remoteaddress} ended") as caught:
            channel.receive(SECONDS)
        assert (caught.value.pid, caught.value.returncode, c.pid, c.returncode) == (None, None, None, None)

    def test_an_ssh_client_that_was_killed(
        self, makegateway: Callable[..., execnet.Gateway], ssh_server: SshServer
    ) -> None:
        gateway = makegateway(ssh_server.spec())
        channel = gateway.remote_exec("channel.receive()")
        gateway._io.popen.kill()
        with pytest.raises(GatewayDied, match=rf"ssh \(pid {gateway.pid}\) was killed by SIGKILL") as caught:
            channel.receive(SECONDS)
        assert caught.value.returncode == -signal.SIGKILL

    def test_the_far_process_of_ssh(self, makegateway: Callable[..., execnet.Gateway], ssh_server: SshServer) -> None:
        gateway = makegateway(ssh_server.spec())
        channel = gateway.remote_exec("import os; os._exit(5)")
        with pytest.raises(GatewayDied, match=rf"ssh \(pid {gateway.pid}\) exited with status 5"):
            channel.receive(SECONDS)
        gateway = makegateway(ssh_server.spec())
        channel = gateway.remote_exec("import os; os.kill(os.getpid(), 9)")
        with pytest.raises(GatewayDied, match=rf"ssh \(pid {gateway.pid}\) exited with status 255: .*execnet-test"):
            channel.receive(SECONDS)


MORTALS = {
    "popen": ["popen//id=mortal"],
    "warm": ["popen//warm//id=mortal"],
    "via": ["popen//id=way", "popen//via=way//id=mortal"],
    "other python": [f"popen//id=mortal//python={sys.executable}"],
}
DYING = """
group = execnet.Group({specs})
mortal = group["mortal"]
mortal.remote_exec({death!r})
mortal.join(20)
say(mortal.pid)
sys.stdin.readline()
"""


class TestPeopleAreTold:
    """One line on stderr, of a death that the program has not brought about itself."""

    def told(self, source: str, **environ: Any) -> str:
        """All that a program writes to stderr."""
        with Initiator(source, **environ) as initiator:
            initiator.tell()
            return initiator.end()[2]

    @pytest.mark.parametrize("core", CORES)
    @pytest.mark.parametrize("kind", MORTALS)
    def test_at_once_and_once(self, kind: str, core: str) -> None:
        source = DYING.format(specs=MORTALS[kind], death="import os; os.kill(os.getpid(), 11)")
        with Initiator(source, **CORES[core]) as initiator:
            pid = initiator.hear()
            line = f"execnet: gateway 'mortal' ({MORTALS[kind][-1]}) died: its process {pid} was killed by SIGSEGV\n"
            assert initiator.stderr.readline().decode() == line
            initiator.tell()
            assert initiator.end() == (0, [], "")

    def test_in_one_write(self, tmp_path: Path) -> None:
        connect = "import socket\nsock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\nsock.connect(%r)\n"
        dying = DYING.format(specs=["popen//id=mortal"], death="import os; os._exit(3)")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stderr:  # keeps one write apart from the next
            stderr.bind(str(tmp_path / "stderr"))
            stderr.settimeout(SECONDS)
            source = connect % str(tmp_path / "stderr") + "os.dup2(sock.fileno(), 2)\n" + dying
            with Initiator(source) as initiator:
                pid = initiator.hear()
                line = f"execnet: gateway 'mortal' (popen//id=mortal) died: its process {pid} exited with status 3\n"
                assert stderr.recv(4096).decode() == line
                initiator.tell()
                initiator.end()

    @pytest.mark.parametrize("kind", MORTALS)
    def test_quiet(self, kind: str) -> None:
        source = DYING.format(specs=MORTALS[kind], death="import os; os._exit(3)")
        assert self.told(source, EXECNET_QUIET="1") == ""

    def test_before_who_waits_is_woken(self) -> None:
        source = """
try:
    execnet.makegateway("popen").remote_exec("import os; os._exit(3)").receive(20)
except EOFError:
    os._exit(0)
"""
        assert re.fullmatch(r"execnet: gateway 'gw0' .* exited with status 3\n", self.told(source))

    def test_a_stderr_that_nobody_reads_keeps_nobody_waiting(self) -> None:
        source = """
os.set_blocking(2, False)
try:
    while True: os.write(2, b"x" * 4096)
except BlockingIOError:
    os.set_blocking(2, True)
try:
    execnet.makegateway("popen").remote_exec("import os; os._exit(3)").receive(20)
except EOFError:
    say("woken")
sys.stdin.readline()
"""
        with Initiator(source) as initiator:
            assert initiator.hear() == "woken"
            read = b""
            while b"exited with status 3" not in read:
                read += os.read(initiator.stderr.fileno(), 65536)
            initiator.tell()
            assert initiator.end() == (0, [], "")

    def test_of_a_connection(self, socket_server: SocketServer) -> None:
        spec = f"{socket_server.spec()}//id=mortal"
        line = f"execnet: gateway 'mortal' ({spec}) died: the connection to {socket_server.hostport} ended\n"
        assert self.told(DYING.format(specs=[spec], death="import os; os._exit(3)")) == line

    def test_what_goes_through_it_is_not_told_as_well(self) -> None:
        source = """
group = execnet.Group(["popen//id=a", "popen//id=b//via=a", "socket//id=c//installvia=a"])
group["a"].remote_exec("import os; os._exit(3)")
for gateway in group: gateway.join(20)
"""
        (line,) = self.told(source).splitlines()
        assert line.startswith("execnet: gateway 'a' (popen//id=a) died: ")

    def test_a_closed_stderr_disturbs_nobody(self) -> None:
        source = "os.close(2)\n" + DYING.format(specs=["popen//id=mortal"], death="import os; os._exit(3)")
        with Initiator(source) as initiator:
            initiator.hear()
            initiator.tell()
            assert initiator.end()[0] == 0

    @pytest.mark.parametrize("core", CORES)
    @pytest.mark.parametrize(
        "end",
        [
            "for gateway in list(group): gateway.exit()\nfor popen in popens: popen.wait(20)",
            "for gateway in list(group): gateway.exit(wait=20)",
            "for gateway in list(group)[1:]: gateway._io.kill(); gateway.join(20)",
            "for popen in popens: popen.kill(); popen.wait(20)",
            "for popen in popens: popen.terminate(); popen.wait(20)",
            "group.terminate(20)",
            "group.terminate(0)",
            "group.remote_exec('import time; time.sleep(1000)'); group.terminate(0.1)",
            "",
            "group.remote_exec('import time; time.sleep(1000)')",
            "sys.exit(0)",
        ],
    )
    def test_nobody_is_told_what_the_program_does_itself(self, end: str, core: str) -> None:
        source = f"""
group = execnet.Group(["popen//id=a", "popen//via=a", "popen//warm", "popen", "socket//installvia=a"])
popens = [group[2]._io.popen, group[3]._io.popen]
{end}
"""
        assert self.told(source, **CORES[core]) == ""

    def test_nor_of_starts_that_were_given_up(self) -> None:
        source = """
try:
    execnet.makegateway("popen//chdir=/proc//timeout=0.5//python=sh -c 'exec sleep 1000'")
except OSError:
    pass
"""
        assert self.told(source) == ""

    @pytest.mark.parametrize("core", CORES)
    def test_nor_by_ctrl_c(self, core: str) -> None:
        source = """
group = execnet.Group(["popen", "popen//warm", "popen//via=gw0", "popen//execmodel=main_thread_only"])
busy = group[3].remote_exec("channel.send(1); import time; time.sleep(1000)")
busy.receive(20)
idle = [gateway.remote_exec("import os; channel.send(os.getpid())") for gateway in list(group)[:3]]
try:
    say([channel.receive(20) for channel in idle])
    time.sleep(1000)
except KeyboardInterrupt:
    for gateway in list(group)[:3]:
        gateway.join(20)
    # A join knows that the connection has ended; what the process ended with may come a moment later.
    at_latest = time.monotonic() + 20
    while None in (statuses := [gateway.returncode for gateway in group][:2]) and time.monotonic() < at_latest:
        time.sleep(0.01)
    say(statuses)
"""
        with Initiator(source, session=True, **CORES[core]) as initiator:
            # One that has just ended a task may still forget an interrupt, as any finalizer of Python does.
            for worker in initiator.hear():
                await_blocked(worker, worker)
            os.killpg(initiator.pid, signal.SIGINT)
            returncode, said, stderr = initiator.end()
        assert (returncode, said, stderr) == (0, [[130, 130]], "")


class TestStderr:
    def test_the_last_words_are_kept_and_passed_through(
        self, makegateway: Callable[..., execnet.Gateway], capfd: pytest.CaptureFixture[str]
    ) -> None:
        gateway = makegateway("popen//stderr=capture")
        channel = gateway.remote_exec(
            "import os, sys\n"
            "for number in range(100): sys.stderr.write('line %d\\n' % number)\n"
            "sys.stderr.write('no newline'); sys.stderr.flush(); os._exit(3)"
        )
        with pytest.raises(GatewayDied) as caught:
            channel.receive(SECONDS)
        died = caught.value
        assert died.stderr.splitlines() == [f"line {number}" for number in range(61, 100)] + ["no newline"]
        assert str(died).endswith(f"exited with status 3; its last words on stderr:\n{died.stderr}")
        gateway.exit(wait=SECONDS)
        told = f"execnet: {str(died).partition('; its last')[0]}\n"
        assert capfd.readouterr().err == "".join(f"line {number}\n" for number in range(100)) + f"no newline\n{told}"

    def test_a_long_output_costs_a_bounded_tail(
        self, makegateway: Callable[..., execnet.Gateway], capfd: pytest.CaptureFixture[str]
    ) -> None:
        gateway = makegateway("popen//stderr=capture")
        channel = gateway.remote_exec("import os\nfor _ in range(300): os.write(2, b'x' * 10000)\nos._exit(3)")
        with pytest.raises(GatewayDied) as caught:
            channel.receive(SECONDS)
        assert set(caught.value.stderr) == {"x"} and len(caught.value.stderr) <= 16384
        gateway.exit(wait=SECONDS)
        passed, told = capfd.readouterr().err.splitlines()
        assert len(passed) == 3000000 and told.endswith(f"died: its process {gateway.pid} exited with status 3")

    @pytest.mark.timing
    def test_a_child_that_keeps_stderr_open_keeps_nobody_waiting(
        self, makegateway: Callable[..., execnet.Gateway]
    ) -> None:
        gateway = makegateway("popen//stderr=capture")
        channel = gateway.remote_exec(
            "import os, subprocess; channel.send(subprocess.Popen(['sleep', '1000']).pid)\n"
            "os.write(2, b'bye'); os._exit(3)"
        )
        child = channel.receive(SECONDS)
        try:
            with pytest.raises(GatewayDied, match="bye"):
                channel.receive(1.0)
            started = time.monotonic()
            gateway.exit(wait=SECONDS)
            assert time.monotonic() - started < 1.0
        finally:
            os.kill(child, signal.SIGKILL)

    def test_the_traceback_of_a_crash(self, makegateway: Callable[..., execnet.Gateway]) -> None:
        gateway = makegateway("popen//stderr=capture//faulthandler")
        channel = gateway.remote_exec("def crash():\n    import faulthandler; faulthandler._sigsegv()\ncrash()")
        with pytest.raises(GatewayDied, match="killed by SIGSEGV") as caught:
            channel.receive(SECONDS)
        assert "Segmentation fault" in caught.value.stderr and "in crash" in caught.value.stderr

    def test_of_a_crash_all_lines_are_kept_however_deep_its_stacks(
        self, makegateway: Callable[..., execnet.Gateway]
    ) -> None:
        gateway = makegateway("popen//stderr=capture")
        channel = gateway.remote_exec(
            "import os, sys\n"
            "sys.stderr.write('before\\nFatal Python error: Aborted\\n' + '  Binary file\\n' * 100)\n"
            "sys.stderr.flush(); os._exit(3)"
        )
        with pytest.raises(GatewayDied) as caught:
            channel.receive(SECONDS)
        assert caught.value.stderr.splitlines() == ["Fatal Python error: Aborted"] + ["  Binary file"] * 100

    def test_without_capture_it_is_inherited(
        self, makegateway: Callable[..., execnet.Gateway], capfd: pytest.CaptureFixture[str]
    ) -> None:
        gateway = makegateway("popen//faulthandler")
        with pytest.raises(GatewayDied) as caught:
            gateway.remote_exec("import faulthandler; faulthandler._sigsegv()").receive(SECONDS)
        assert caught.value.stderr == ""
        assert "Segmentation fault" in capfd.readouterr().err

    def test_a_start_that_fails_tells_it(
        self, makegateway: Callable[..., execnet.Gateway], capfd: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(OSError, match=r"No such file or directory|can't open file"):
            makegateway("popen//stderr=capture//python=python3 /does/not/exist")

    def test_other_values_and_places_are_refused(self, group: execnet.Group) -> None:
        with pytest.raises(ValueError, match="stderr=keep is not known"):
            group.makegateway("popen//stderr=keep")
        group.makegateway("popen//id=a")
        with pytest.raises(ValueError, match="not through via"):
            group.makegateway("popen//via=a//newsession")


@pytest.mark.timing
def test_every_waiter_wakes(pair: execnet.Gateway) -> None:
    woken: dict[str, list[float]] = {}
    each, ENDED = 8, object()

    def note(kind: str) -> None:
        woken.setdefault(kind, []).append(time.monotonic())

    def blocked(kind: str, call: Callable[[], object]) -> Call:
        def run() -> None:
            try:
                call()
            except EOFError as error:
                assert f"process {pair.pid} was killed by SIGKILL" in str(error)
            note(kind)

        return Call(run)

    channels = [pair.newchannel() for _ in range(6 * each)]
    ways = {
        "receive": lambda channel: channel.receive,
        "receive with a timeout": lambda channel: lambda: channel.receive(SECONDS),
        "waitclose": lambda channel: channel.waitclose,
        "waitclose with a timeout": lambda channel: lambda: channel.waitclose(SECONDS),
        "iteration": lambda channel: lambda: list(channel),
    }
    calls = [
        blocked(kind, way(channel))
        for number, (kind, way) in enumerate(ways.items())
        for channel in channels[number * each : number * each + each]
    ]
    for call in calls:
        call.await_blocked()
    for channel in channels[-each:]:
        channel.setcallback(lambda item: note("endmarker" if item is ENDED else "item"), endmarker=ENDED)
    pair._io.popen.kill()
    killed = time.monotonic()
    for call in calls:
        call.result()
    wait_until(lambda: len(woken.get("endmarker", [])) == each, SECONDS, "the end markers")
    assert {kind: len(times) for kind, times in woken.items()} == dict.fromkeys([*ways, "endmarker"], each)
    slowest = {kind: max(times) - killed for kind, times in woken.items()}
    assert max(slowest.values()) <= WAKE_SECONDS, slowest


class TestOneGateway:
    def test_exit_with_wait_reaps_it(self, pair: execnet.Gateway) -> None:
        popen = pair._io.popen
        pair.exit(wait=SECONDS)
        assert (popen.returncode, pair.returncode, pair.hasreceiver()) == (0, 0, False)
        pair.exit(wait=SECONDS)
        pair.exit()

    @pytest.mark.timing
    def test_exit_with_wait_ends_a_stuck_one_and_leaves_the_others(self, group: execnet.Group) -> None:
        stuck, other = group.makegateways(["popen"] * 2)
        stuck.remote_exec(SWALLOWING).receive(SECONDS)
        started = time.monotonic()
        stuck.exit(wait=0.3)
        assert time.monotonic() - started < 0.3 + SLACK
        assert stuck.returncode is not None and not is_running(pid_of(stuck))
        assert list(group) == [other]
        assert other.remote_exec("channel.send(1)").receive(SECONDS) == 1

    def test_exit_then_exit_with_wait(self, gw: execnet.Gateway) -> None:
        gw.exit()
        gw.exit(wait=SECONDS)
        assert gw.returncode == 0

    def test_exit_with_wait_of_a_dead_one(self, gw: execnet.Gateway) -> None:
        gw._io.popen.kill()
        gw.exit(wait=SECONDS)
        assert gw.returncode == -signal.SIGKILL

    def test_what_others_go_through(self, group: execnet.Group) -> None:
        a, b = group.makegateways(["popen//id=a", "popen//id=b//via=a"])
        pid = pid_of(b)
        b.exit(wait=SECONDS)
        assert not is_running(pid) and b.returncode == 0
        assert a.remote_exec("channel.send(1)").receive(SECONDS) == 1

    def test_with_a_gateway(self, group: execnet.Group) -> None:
        with group.makegateway() as gateway:
            assert gateway.remote_exec("channel.send(1)").receive(SECONDS) == 1
        assert gateway.returncode == 0 and list(group) == []
        with pytest.raises(ZeroDivisionError), group.makegateway() as gateway:
            raise ZeroDivisionError
        assert gateway.returncode == 0

    def test_what_is_used_after_the_end_says_so(self, pair: execnet.Gateway) -> None:
        channel = pair.newchannel()
        pair.exit(wait=SECONDS)
        for call in (pair.newchannel, pair.remote_status, lambda: pair.remote_exec("")):
            with pytest.raises(OSError, match="gw0"):
                call()
        with pytest.raises(OSError, match="cannot send"):
            channel.send(1)
        with pytest.raises(EOFError, match="'gw0' was told to exit"):
            channel.receive(SECONDS)
        assert "not-receiving" in repr(pair)


STUCK = f"""
stopped, swallowing, looping = gateways = group.makegateways(["popen"] * 3)
pids = [gateway.pid for gateway in group]
for gateway, source in zip(gateways, [{SLEEPING!r}, {SWALLOWING!r}, {C_LOOPING!r}]):
    gateway.remote_exec(source).receive(20)
os.kill(pids[0], signal.SIGSTOP)
"""


@pytest.mark.parametrize("core", CORES)
class TestOneDeadline:
    @pytest.mark.timing
    def test_stopped_swallowing_and_looping_in_c(self, core: str) -> None:
        source = f"""
group = execnet.Group()
{STUCK}
before = set(os.listdir("/proc/self/task")), set(os.listdir("/proc/self/fd"))
started = time.monotonic()
group.terminate(1.0)
took = time.monotonic() - started
deadline = time.monotonic() + 2
while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < deadline:
    time.sleep(0.001)
say([took, [os.path.exists("/proc/%d" % pid) for pid in pids], len(os.listdir("/proc/self/task"))])
"""
        with Initiator(source, **CORES[core]) as initiator:
            took, left, threads = initiator.hear()
            assert took <= 1.5 and left == [False] * 3 and threads == 1
            assert initiator.end() == (0, [], "")

    @pytest.mark.timing
    def test_at_interpreter_exit(self, core: str) -> None:
        with Initiator(f"group = execnet.Group()\n{STUCK}\nsay(pids)", **CORES[core]) as initiator:
            pids = initiator.hear()
            started = time.monotonic()
            assert initiator.end() == (0, [], "")
            assert time.monotonic() - started < 1.5 + SLACK
            assert not any(map(is_running, pids))

    def test_at_interpreter_exit_with_threads_that_wait(self, core: str) -> None:
        source = """
gateway = execnet.makegateway()
for wait in ("receive", "waitclose"):
    for _ in range(4):
        channel = gateway.remote_exec("channel.receive()")
        threading.Thread(target=getattr(channel, wait), daemon=True).start()
kept = gateway.remote_exec("channel.receive()")
kept.setcallback(print, endmarker=None)
def send():
    while True:
        try:
            channel.send(b"x" * 100000)
        except OSError:
            return
threading.Thread(target=send, daemon=True).start()
say(gateway.pid)
"""
        with Initiator("threading.excepthook = lambda args: None\n" + source, **CORES[core]) as initiator:
            worker = initiator.hear()
            status = initiator.process.wait(SECONDS)
            said, err = initiator.stdout.read(), initiator.stderr.read()
            assert (status, err.decode()) == (0, "") and said in (b"", b"None\n")
            assert not is_running(worker)


def test_interpreter_exit_of_every_python_is_silent(other_python: Interpreter) -> None:
    if other_python.implementation != "cpython" or other_python.version < (3, 9):
        return
    source = f"group = execnet.Group()\n{STUCK}\nsay(pids)"
    with Initiator(source, python=str(other_python), PYTHONDEVMODE="1") as initiator:
        pids = initiator.hear()
        status, said, err = initiator.end()
        # Popen objects that are collected by the interpreter's own end are no news.
        assert (status, said, re.sub(r".*ResourceWarning.*\n|.*tracemalloc.*\n", "", err)) == (0, [], "")
        assert not any(map(is_running, pids))


INTERRUPTED = """
group = execnet.Group(["popen//id=a", "popen//id=b//via=a", "popen//id=apart//newsession"])
sleeping = group["a"].remote_exec('''
import os, time
channel.send(os.getpid())
try:
    time.sleep(1000)
except KeyboardInterrupt:
    channel.send("interrupted")
''')
source = "import os; channel.send((os.getpid(), os.getsid(0))); channel.receive(); channel.send(2)"
apart = group["apart"].remote_exec(source)
pid, sid = apart.receive(20)
pids = [sleeping.receive(20), group["b"].pid, pid, sid]
try:
    say(pids)
    sleeping.receive()
    sleeping.receive()
except KeyboardInterrupt:
    say("KeyboardInterrupt")
except EOFError:
    time.sleep(20)
apart.send(1)
say(apart.receive(20))
"""


@pytest.mark.timing
class TestCtrlC:
    @pytest.mark.parametrize("core", CORES)
    def test_nothing_is_left_and_a_session_of_its_own_is_not_disturbed(self, core: str) -> None:
        with Initiator(INTERRUPTED, session=True, **CORES[core]) as initiator:
            a, b, apart, session = initiator.hear()
            assert apart == session
            os.killpg(initiator.pid, signal.SIGINT)
            interrupted = time.monotonic()
            assert initiator.hear() == "KeyboardInterrupt"
            assert initiator.hear() == 2
            initiator.await_reaped()
            assert wait_for_end([a, b, apart], 0) == []
            assert time.monotonic() - interrupted <= 2.0

    @pytest.mark.parametrize("core", CORES)
    def test_a_program_that_does_not_catch_it(self, core: str) -> None:
        source = INTERRUPTED.partition("try:\n    say(pids)")[0] + "say(pids); sleeping.receive(); sleeping.receive()"
        with Initiator(source, session=True, **CORES[core]) as initiator:
            pids = initiator.hear()[:3]
            os.killpg(initiator.pid, signal.SIGINT)
            interrupted = time.monotonic()
            assert initiator.await_reaped() == -signal.SIGINT
            assert wait_for_end(pids, 0) == []
            assert time.monotonic() - interrupted <= 2.0

    def test_from_a_terminal(self) -> None:
        source = "import fcntl, termios\nfcntl.ioctl(int(sys.stdin.readline()), termios.TIOCSCTTY, 0)\n" + INTERRUPTED
        master, slave = pty.openpty()
        os.set_inheritable(slave, True)
        try:
            source = source.replace("int(sys.stdin.readline())", "slave")
            source = f"slave = os.open({os.ttyname(slave)!r}, os.O_RDWR)\n" + source
            with Initiator(source, session=True) as initiator:
                pids = initiator.hear()[:3]
                os.write(master, b"\x03")
                interrupted = time.monotonic()
                assert initiator.hear() == "KeyboardInterrupt"
                assert initiator.hear() == 2
                initiator.await_reaped()
                assert wait_for_end(pids, 0) == []
                assert time.monotonic() - interrupted <= 2.0
        finally:
            os.close(master)
            os.close(slave)


@pytest.mark.timing
class TestInterruptedWaits:
    @pytest.mark.parametrize("wait", ["receive", "receive with a timeout", "waitclose", "iteration"])
    def test_of_a_channel(self, pair: execnet.Gateway, wait: str) -> None:
        channel = pair.remote_exec("channel.receive(); channel.send(1)")
        calls = {
            "receive": channel.receive,
            "receive with a timeout": lambda: channel.receive(SECONDS),
            "waitclose": channel.waitclose,
            "iteration": lambda: list(channel),
        }
        assert interrupted_after(calls[wait]) <= INTERRUPT_SECONDS
        channel.send(1)
        assert channel.receive(SECONDS) == 1

    def test_a_blocked_send(self, pair: execnet.Gateway) -> None:
        channel = pair.remote_exec("channel.send(len(channel.receive()))")
        stop(pid_of(pair))
        try:
            assert interrupted_after(channel.send, b"x" * (64 << 20)) <= INTERRUPT_SECONDS
        finally:
            os.kill(pid_of(pair), signal.SIGCONT)
        assert channel.receive(SECONDS) == 64 << 20
        assert pair.remote_exec("channel.send(1)").receive(SECONDS) == 1


@pytest.mark.timing
def test_a_goodbye_behind_an_interrupted_send_is_heard(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec("channel.send(len(channel.receive()))")
    stop(pid_of(pair))
    try:
        interrupted_after(channel.send, b"x" * (64 << 20))
        pair.exit()
    finally:
        os.kill(pid_of(pair), signal.SIGCONT)
    started = time.monotonic()
    pair._group.terminate(SECONDS)
    assert time.monotonic() - started < 3.0 and pair.returncode == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_callback_that_interrupts_the_receiver_ends_all_waits(
    pair: execnet.Gateway, error: type[BaseException]
) -> None:
    channel, other = pair.remote_exec("channel.receive(); channel.send(1)"), pair.remote_exec("channel.receive()")
    ends = []

    def callback(item: object) -> None:
        if item == 1:
            raise error("enough")
        ends.append(item)

    channel.setcallback(callback, endmarker="end")
    waiting = [Call(wait).await_blocked() for wait in (other.receive, other.waitclose, pair.join)]
    channel.send(None)
    for call in waiting[:2]:
        with pytest.raises(EOFError, match=f"callback ended the receiver: {error.__name__}"):
            call.result()
    waiting[2].result()
    assert ends == ["end"]
    with pytest.raises(OSError):
        other.send(1)


class TestHandlers:
    """Signal handlers in the main thread, which is in the middle of something."""

    @pytest.fixture(autouse=True)
    def alarm(self) -> Iterator[None]:
        before = signal.getsignal(signal.SIGALRM)
        yield
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    def call_after(self, seconds: float, function: Callable[[], object]) -> list[object]:
        called: list[object] = []
        signal.signal(signal.SIGALRM, lambda number, frame: called.append(function()))
        signal.setitimer(signal.ITIMER_REAL, seconds)
        return called

    # Its receiver does not read for a while.
    SLOW = """
        import time
        slow = channel.gateway.newchannel()
        slow.setcallback(lambda item: time.sleep(0.3) if item is None else channel.send(len(item)))
        channel.send(slow)
        channel.receive()
    """

    def test_one_that_receives_during_a_blocked_send(self, pair: execnet.Gateway) -> None:
        channel, echo = pair.remote_exec(self.SLOW), pair.remote_exec("for item in channel: channel.send(item)")
        slow = channel.receive(SECONDS)

        def handler() -> tuple[Any, int]:
            os.kill(pid_of(pair), signal.SIGCONT)
            echo.send(b"y" * 100_000)
            return echo.receive(SECONDS), pair.remote_status().numexecuting

        stop(pid_of(pair))
        called = self.call_after(0.1, handler)
        slow.send(b"x" * (4 << 20))
        assert called == [(b"y" * 100_000, 2)]
        assert channel.receive(SECONDS) == 4 << 20
        echo.send("after")
        assert echo.receive(SECONDS) == "after"

    def test_one_that_ends_the_gateway_during_a_blocked_send(self, pair: execnet.Gateway) -> None:
        slow = pair.remote_exec(self.SLOW).receive(SECONDS)
        slow.send(None)

        def handler() -> bool:
            pair.exit()
            pair.join(SECONDS)
            return pair.hasreceiver()

        called = self.call_after(0.1, handler)
        with suppress(OSError):  # the worker has ended
            slow.send(b"x" * (4 << 20))
        assert called == [False]

    def test_one_that_uses_the_gateway_during_a_receive(self, pair: execnet.Gateway) -> None:
        channel = pair.remote_exec("import time; time.sleep(0.3); channel.send(1)")

        def handler() -> tuple[Any, str]:
            return pair.remote_exec("channel.send(2)").receive(SECONDS), pair.remote_status().execmodel

        called = self.call_after(0.1, handler)
        assert channel.receive(SECONDS) == 1
        assert called == [(2, "thread")]

    def test_one_that_terminates_the_group_during_a_receive(self, pair: execnet.Gateway) -> None:
        channel = pair.remote_exec("channel.receive()")
        called = self.call_after(0.1, lambda: pair._group.terminate(SECONDS))
        started = time.monotonic()
        with pytest.raises(EOFError):
            channel.receive(SECONDS)
        assert called == [None]
        assert time.monotonic() - started < 7.0  # a task that waits to receive ends with the connection


class TestFullPipe:
    """Nobody reads at the other side."""

    @pytest.fixture
    def blocked(self, peer: Peer) -> Iterator[Peer]:
        channel = peer.gateway.newchannel()
        sender = Call(channel.send, b"x" * (8 << 20)).await_blocked()
        yield peer
        # channel and sender live until here
        with suppress(OSError):
            sender.result()

    def test_dropping_channels_does_not_wait_and_is_told_later(self, blocked: Peer) -> None:
        channels = [blocked.gateway.newchannel() for _ in range(999)]
        ids = {channel.id for channel in channels}
        started = time.monotonic()
        channels.clear()
        assert time.monotonic() - started < 1.0
        assert blocked.message()[0] == blocked.DATA
        closed = [blocked.message() for _ in ids]
        assert {code for code, _, _ in closed} == {blocked.CLOSE}
        assert {id for _, id, _ in closed} == ids

    def test_ctrl_c_is_heard_while_a_dropped_channels_message_waits(self, blocked: Peer) -> None:
        blocked.gateway.newchannel()
        channel = blocked.gateway.newchannel()
        assert interrupted_after(channel.send, 1) <= INTERRUPT_SECONDS
        assert blocked.message()[0] == blocked.DATA
        assert blocked.message()[0] == blocked.CLOSE

    def test_what_the_receiver_answers_does_not_keep_it_from_receiving(self, blocked: Peer) -> None:
        channel, failing = blocked.gateway.newchannel(), blocked.gateway.newchannel()
        failing.setcallback(lambda item: 1 / item)
        blocked.send(failing, 0)
        blocked.send(channel, "next")
        assert channel.receive(SECONDS) == "next"
        wait_until(failing.isclosed, SECONDS, "the failure to be noted")  # who receives is served during a callback
        assert blocked.message()[0] == blocked.DATA
        assert blocked.message()[:2] == (blocked.CLOSE_ERROR, failing.id)


FORKING = """
group = execnet.Group()
gateway = group.makegateway()
echo = gateway.remote_exec("for item in channel: channel.send(item)")
echo.send(1)
assert echo.receive(20) == 1

def refused(call):
    try:
        call()
    except (OSError, EOFError) as error:
        assert "forked" in str(error), repr(error)
    else:
        raise AssertionError("not refused")

def use_what_is_the_parents():
    refused(lambda: echo.send(2))
    refused(echo.receive)
    refused(lambda: echo.receive(1))
    refused(echo.waitclose)
    refused(lambda: gateway.remote_exec("1"))
    refused(gateway.remote_status)
    refused(gateway.newchannel)
    repr(gateway), repr(group), repr(echo), echo.isclosed()

def in_child(work, leave=os._exit):
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(20)  # a deadlock must not outlive the test
    try:
        work()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(9)
    leave(0)

def reap(pid):
    status = os.waitpid(pid, 0)[1]
    assert status == 0, status
    echo.send(3)
    assert echo.receive(20) == 3
"""


def run_forking(source: str, core: str, **environ: Any) -> list[Any]:
    """Run a program that forks; it must end well and silently, its workers gone."""
    environ = {**FORKING_ENVIRON, **CORES[core], **environ}
    with Initiator(FORKING + source + "\nsay(gateway.pid)", **environ) as initiator:
        status, said, err = initiator.end()
        assert (status, err) == (0, "")
        assert not is_running(said[-1])
        return said[:-1]


@pytest.mark.parametrize("core", CORES)
class TestFork:
    def test_the_child_is_refused_and_the_parent_goes_on(self, core: str) -> None:
        run_forking("reap(in_child(use_what_is_the_parents))", core)

    def test_a_child_that_ends_as_a_program_does(self, core: str) -> None:
        run_forking("reap(in_child(use_what_is_the_parents, sys.exit))", core)

    def test_what_ends_gateways_ends_none_of_the_parents(self, core: str) -> None:
        work = "def work():\n    gateway.exit(); gateway.exit(wait=1); group.terminate(1); echo.close()\n"
        run_forking(work + "reap(in_child(work)); reap(in_child(work, sys.exit))", core)

    def test_dropping_channels_in_the_child(self, core: str) -> None:
        names = "echo, gateway, group"
        work = f"def work():\n    global {names}\n    del {names}\n    import gc; gc.collect()\n"
        run_forking(work + "reap(in_child(work)); reap(in_child(work, sys.exit))", core)

    def test_a_gateway_of_the_childs_own(self, core: str) -> None:
        work = """
def work():
    with execnet.Group(["popen"]) as own:
        assert own[0].remote_exec("channel.send(4)").receive(20) == 4
"""
        run_forking(work + "reap(in_child(work)); reap(in_child(work, sys.exit))", core)

    def test_multiprocessing(self, core: str) -> None:
        source = """
import multiprocessing
context = multiprocessing.get_context("fork")
for _ in range(3):
    process = context.Process(target=use_what_is_the_parents)
    process.start()
    process.join(20)
    assert process.exitcode == 0
with context.Pool(4) as pool:
    assert pool.map(abs, range(-8, 8)) == [abs(number) for number in range(-8, 8)]
echo.send(3)
assert echo.receive(20) == 3
"""
        run_forking(source, core)

    def test_inside_a_callback(self, core: str) -> None:
        source = """
channel = gateway.remote_exec("for item in channel: channel.send(item); channel.send(0)")
pids, items, called = [], [], threading.Event()
def callback(item):
    items.append(item)
    if item == 1:
        pids.append(os.fork())
        if not pids[-1]:
            refused(lambda: echo.send(2))
            print("child", flush=True)
    elif item == 2:
        pids.append(os.fork())
        if not pids[-1]:
            sys.stderr = open(os.devnull, "w")
            raise ValueError
    elif not item:
        called.set()
channel.setcallback(callback)
for number in (1, 2):
    called.clear()
    channel.send(number)
    assert called.wait(20)
assert items == [1, 0, 2, 0], items
assert [os.waitpid(pid, 0)[1] >> 8 for pid in pids] == [0, 1]
echo.send(3)
assert echo.receive(20) == 3
"""
        environ = {**FORKING_ENVIRON, **CORES[core]}
        with Initiator(FORKING + source.replace('print("child", flush=True)', 'say("child")'), **environ) as initiator:
            status, said, err = initiator.end()
        assert (status, said, err) == (0, ["child"], "")

    def test_while_other_threads_receive_and_send(self, core: str) -> None:
        source = """
stop = threading.Event()
pairs = [gateway.remote_exec("for item in channel: channel.send(item)") for _ in range(3)]
failures = []
def work(channel):
    number = 0
    while not stop.is_set():
        channel.send((number, b"x" * 70000))
        if channel.receive(20)[0] != number:
            failures.append(number)
        number += 1
quiet = gateway.remote_exec("channel.receive()")
waiting = threading.Thread(target=quiet.waitclose, daemon=True)
called = []
back = gateway.remote_exec("import time\\nwhile not channel.isclosed(): channel.send(1); time.sleep(0.001)")
back.setcallback(called.append)
threads = [waiting] + [threading.Thread(target=work, args=(channel,), daemon=True) for channel in pairs]
for thread in threads:
    thread.start()
for number in range(20):
    reap(in_child(use_what_is_the_parents, sys.exit if number % 2 else os._exit))
stop.set()
quiet.send(1)
for thread in threads:
    thread.join(20)
    assert not thread.is_alive()
assert not failures and called
back.close()
"""
        run_forking(source, core)

    @pytest.mark.timing
    def test_a_child_does_not_hide_the_workers_death(self, core: str) -> None:
        source = """
child = in_child(lambda: time.sleep(19))
started = time.monotonic()
gateway._io.popen.kill()
try:
    echo.receive(10)
except execnet.GatewayDied as error:
    assert "SIGKILL" in str(error), error
assert time.monotonic() - started < 1
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
"""
        run_forking(source, core)

    @pytest.mark.timing
    def test_a_child_does_not_hide_the_initiators_death(self, core: str) -> None:
        source = FORKING + "say([in_child(lambda: time.sleep(19)), gateway.pid])\ntime.sleep(1000)"
        with Initiator(source, EXECNET_LOST_TIMES="0.2,0.6", **CORES[core]) as initiator:
            child, worker = initiator.hear()
            initiator.kill()
            try:
                assert wait_for_end([worker], 0.6 + SLACK) == []
            finally:
                os.kill(child, signal.SIGKILL)

    def test_inside_a_task(self, core: str, tmp_path: Path) -> None:
        source = f"""
forking = gateway.remote_exec('''
import os
pid = os.fork()
if not pid:
    try:
        channel.send(1)
    except OSError as error:
        open({str(tmp_path / "refused")!r}, "w").write(str(error))
else:
    channel.send(os.waitpid(pid, 0)[1])
''')
assert forking.receive(20) == 0
forking.waitclose(20)
echo.send(3)
assert echo.receive(20) == 3
"""
        run_forking(source, core)
        assert "forked" in (tmp_path / "refused").read_text()

    def test_multiprocessing_inside_a_task(self, core: str) -> None:
        source = """
forking = gateway.remote_exec('''
import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:
    channel.send(pool.map(abs, [-1, -2, -3]))
''')
assert forking.receive(20) == [1, 2, 3]
forking.waitclose(20)
echo.send(3)
assert echo.receive(20) == 3
"""
        run_forking(source, core)

    @pytest.mark.timing
    def test_a_child_of_a_task_hides_neither_death(self, core: str) -> None:
        source = """
FORK = '''
import os, time
pid = os.fork()
if not pid:
    time.sleep(19)
    os._exit(0)
channel.send(pid)
'''
child = gateway.remote_exec(FORK).receive(20)
other = group.makegateway()
child2 = other.remote_exec(FORK).receive(20)
gateway._io.popen.kill()
started = time.monotonic()
try:
    echo.receive(10)
except execnet.GatewayDied as error:
    assert "SIGKILL" in str(error), error
assert time.monotonic() - started < 1
say([child, child2, other.pid])
sys.stdin.readline()
"""
        with Initiator(FORKING + source, EXECNET_LOST_TIMES="0.2,0.6", **CORES[core]) as initiator:
            child, child2, worker = initiator.hear()
            try:
                initiator.kill()
                assert wait_for_end([worker], 0.6 + SLACK) == []
                assert is_running(child) and is_running(child2)
            finally:
                for pid in (child, child2):
                    os.kill(pid, signal.SIGKILL)


def test_nothing_of_a_connection_is_inherited(pair: execnet.Gateway) -> None:
    script = "import os; print(sorted(os.listdir('/proc/self/fd'), key=int))"
    output = f"subprocess.check_output([sys.executable, '-c', {script!r}], close_fds=False)"
    source = f"import subprocess, sys; channel.send({output})"
    inside = pair.remote_exec(source).receive(SECONDS)
    assert inside.strip() == b"['0', '1', '2', '3']"  # 3 is that of listdir itself
    links = [os.open("/dev/null", os.O_RDONLY)]
    os.close(links[0])
    for fd in os.listdir("/proc/self/fd"):
        path = Path("/proc/self/fd", fd)
        if path.exists() and os.readlink(path).startswith("pipe:") and int(fd) > 2:
            target = os.readlink(path)
            mine = {os.readlink(f"/proc/self/fd/{end.fileno()}") for end in (pair._io.infile, pair._io.outfile)}
            assert target not in mine or not os.get_inheritable(int(fd))


def test_the_package_has_the_error() -> None:
    assert execnet.GatewayDied is GatewayDied and issubclass(GatewayDied, EOFError)
