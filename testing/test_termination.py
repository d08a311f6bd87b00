"""Ends: one deadline, nothing left behind, whatever the workers do."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest
from support import leaks
from support.blocked import Call
from support.initiator import FORKING_ENVIRON
from support.interpreters import Interpreter
from support.lines import AtLine, functions_of
from support.processes import stop
from support.socketserver import SocketServer
from support.sshd import SshServer
from support.stuck import C_LOOPING, SLEEPING, SWALLOWING

import execnet
from execnet import Group, XSpec, gateway_base, multi
from execnet._group import ending

SECONDS = 20.0
THREAD = gateway_base.get_execmodel("thread")
NO_KILL: Any = None  # of a function that ends in time


class Interrupt(BaseException):
    """What a signal handler raises."""


def interrupt() -> None:
    raise Interrupt


LoggingGroup = Any  # a Group, with the log of its stand-ins


class StandIn:
    """A member that notes what is done to it, in the group's common log."""

    def __init__(self, group: LoggingGroup, id: str, via: str | None = None, spec: str | None = None) -> None:
        self.group, self.id = group, id
        self.spec = XSpec(spec or (f"popen//via={via}" if via else "popen"))
        self.log = group.__dict__.setdefault("log", [])
        self._io = self
        group._register(self)

    def exit(self) -> None:
        self.log.append(("exit", self.id))
        self.group._unregister(self)

    def join(self) -> None:
        self.log.append(("join", self.id))

    def wait(self) -> None:
        self.log.append(("wait", self.id))


class TestStandIns:
    def test_each_is_told_to_exit_and_joined_and_awaited_once(self, group: LoggingGroup) -> None:
        StandIn(group, "a")
        group.terminate(1.0)
        assert group.log == [("exit", "a"), ("join", "a"), ("wait", "a")]
        assert (group._gateways, group._gateways_to_join) == ([], [])

    def test_one_that_does_not_unregister_itself_is_done_with_as_well(self, group: LoggingGroup) -> None:
        StandIn(group, "a")
        group["a"].exit = lambda: None
        group.terminate(1.0)
        assert list(group) == []

    def test_members_others_go_through_end_after_those(self, group: LoggingGroup) -> None:
        for name, via in [("a", None), ("b", "a"), ("c", "b"), ("d", "a")]:
            StandIn(group, name, via)
        group.terminate(1.0)
        levels = [{"c", "d"}, {"b"}, {"a"}]
        log = list(group.log)
        for level in levels:
            steps, log = log[: 3 * len(level)], log[3 * len(level) :]
            assert {name for _, name in steps} == level
            assert [step for step, _ in steps[: len(level)]] == ["exit"] * len(level)

    def test_one_that_runs_in_a_task_of_another_ends_before_that(self, group: LoggingGroup) -> None:
        StandIn(group, "a")
        StandIn(group, "b", spec="socket//installvia=a")
        group.terminate(1.0)
        assert [name for step, name in group.log if step == "exit"] == ["b", "a"]

    def test_one_that_exited_before_is_still_joined(self, group: LoggingGroup) -> None:
        StandIn(group, "a").exit()
        group.terminate(1.0)
        assert group.log == [("exit", "a"), ("join", "a"), ("wait", "a")]

    def test_an_error_of_a_member_is_raised_when_all_are_done_with(self, group: LoggingGroup) -> None:
        StandIn(group, "a")
        group["a"].join = lambda: 1 / 0
        StandIn(group, "b")
        with pytest.raises(ZeroDivisionError):
            group.terminate(1.0)
        assert ("wait", "b") in group.log
        assert (group._gateways, group._gateways_to_join) == ([], [])

    def test_an_error_of_a_member_keeps_none_that_it_goes_through_from_ending(self, group: LoggingGroup) -> None:
        for name, via in [("a", None), ("b", "a"), ("c", "b")]:
            StandIn(group, name, via)
        group["c"].join = lambda: 1 / 0
        with pytest.raises(ZeroDivisionError):
            group.terminate(1.0)
        assert [name for step, name in group.log if step == "wait"] == ["b", "a"]
        assert (group._gateways, group._gateways_to_join) == ([], [])

    def test_safe_terminate_is_looked_up_in_the_module(
        self, group: LoggingGroup, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = []
        monkeypatch.setattr(multi, "safe_terminate", lambda *args: calls.append(args))
        StandIn(group, "a")
        group.terminate(1.0)
        ((execmodel, timeout, pairs),) = calls
        assert execmodel is group.execmodel and 0.9 < timeout <= 1.0 and len(pairs) == 1
        term, kill = pairs[0]
        term()
        assert group.log == [("exit", "a"), ("join", "a"), ("wait", "a")] and callable(kill)

    @pytest.mark.parametrize(
        ("timeout", "signals"), [(0, [signal.SIGKILL]), (0.1, [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])]
    )
    def test_only_where_there_is_time_a_process_is_interrupted_before_it_is_killed(
        self, group: LoggingGroup, monkeypatch: pytest.MonkeyPatch, timeout: float, signals: list[signal.Signals]
    ) -> None:
        popen = group.makegateway()._io.popen
        stop(popen.pid)
        send_signal, sent = popen.send_signal, list[int]()

        def send_and_note(signum: int) -> None:
            sent.append(signum)
            send_signal(signum)

        monkeypatch.setattr(popen, "send_signal", send_and_note)
        group.terminate(timeout)
        assert sent == signals

    def test_terminating_an_empty_group_is_nothing(self, group: LoggingGroup) -> None:
        group.terminate()
        group.terminate(0)


class TestToldOrNot:
    """Who has left the group ends with it, also where a Ctrl-C kept it from being told."""

    def test_one_that_left_and_was_not_told_is_told(self, group: execnet.Group) -> None:
        gateway = group.makegateway()
        group._unregister(gateway)
        Call(group.terminate).result(SECONDS)
        assert gateway._io.popen.returncode == 0

    def test_an_exit_that_is_interrupted_is_told_by_the_next(
        self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gateway = group.makegateway()

        def interrupt() -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(gateway, "_say_goodbye", interrupt)
            with pytest.raises(KeyboardInterrupt):
                gateway.exit()
        assert gateway not in group
        gateway.exit()
        gateway.join(SECONDS)
        assert gateway._io.popen.wait(SECONDS) == 0


class TestSafeTerminate:
    def test_pairs_run_side_by_side(self) -> None:
        meet = threading.Barrier(5)
        multi.safe_terminate(THREAD, SECONDS, [(lambda: meet.wait(SECONDS), NO_KILL)] * 5)

    def test_only_the_late_are_killed(self) -> None:
        ended, killed = threading.Event(), []

        def kill() -> None:
            killed.append(1)
            ended.set()

        multi.safe_terminate(THREAD, 0.05, [(lambda: None, NO_KILL), (lambda: ended.wait(SECONDS), kill)])
        # A kill that needs longer than the timeout goes on by itself.
        assert ended.wait(SECONDS) and killed == [1]

    def test_none_waits_for_every_termfunc(self) -> None:
        go, done = threading.Event(), list[int]()

        def wait_and_note() -> None:
            if go.wait(SECONDS):
                done.append(1)

        timer = threading.Timer(0.1, go.set)
        timer.start()
        multi.safe_terminate(THREAD, None, [(wait_and_note, NO_KILL)])
        timer.join()
        assert done == [1]

    @pytest.mark.timing
    def test_a_kill_that_blocks_takes_no_longer_than_twice_the_timeout(self) -> None:
        go = threading.Event()

        def block() -> None:
            go.wait(SECONDS)

        started = time.monotonic()
        multi.safe_terminate(THREAD, 0.2, [(block, block)] * 8)
        assert time.monotonic() - started < 0.8
        go.set()

    def test_the_first_error_is_raised_when_all_were_dealt_with(self) -> None:
        done = []
        with pytest.raises(ZeroDivisionError):
            multi.safe_terminate(THREAD, 1.0, [(lambda: 1 / 0, NO_KILL), (lambda: done.append(1), NO_KILL)])
        assert done == [1]

    def test_without_threads_the_pairs_run_one_after_another(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(*args: object) -> NoReturn:
            raise RuntimeError("can't create new thread at interpreter shutdown")

        execmodel = gateway_base.ThreadExecModel()
        monkeypatch.setattr(execmodel, "start", refused, raising=False)
        done = []
        multi.safe_terminate(execmodel, 1.0, [(lambda: done.append(1), NO_KILL), (lambda: done.append(2), NO_KILL)])
        assert done == [1, 2]


def busy(group: execnet.Group, spec: str, source: str) -> execnet.Gateway:
    """A gateway whose worker is in the middle of ``source``."""
    gateway = group.makegateway(spec)
    gateway.remote_exec(source).receive(SECONDS)
    return gateway


class TestGateways:
    def test_processes_are_reaped_when_terminate_returns(self, group: execnet.Group) -> None:
        group.makegateways(["popen"] * 3)
        popens = [gateway._io.popen for gateway in group]
        group.terminate(5.0)
        assert [popen.returncode for popen in popens] == [0, 0, 0]
        assert repr(group) == "<Group []>"

    def test_without_timeout(self, group: execnet.Group) -> None:
        popen = group.makegateway("popen")._io.popen
        group.terminate()
        assert popen.returncode == 0

    def test_a_gateway_that_exited_by_itself_is_reaped(self, group: execnet.Group) -> None:
        gateway = group.makegateway("popen")
        gateway.exit()
        assert gateway not in group
        group.terminate(5.0)
        assert gateway._io.popen.returncode == 0

    @pytest.mark.timing
    @pytest.mark.parametrize(
        "source", [SLEEPING, SWALLOWING, C_LOOPING], ids=["sleeping", "swallowing", "looping in C"]
    )
    def test_a_stuck_worker_is_killed_after_the_timeout(
        self, group: execnet.Group, source: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        gateway = busy(group, "popen", source)
        started = time.monotonic()
        group.terminate(0.5)
        assert time.monotonic() - started < 1.0
        assert gateway._io.popen.returncode is not None
        assert not gateway.hasreceiver()
        assert capfd.readouterr().err == ""

    @pytest.mark.timing
    def test_stopped_swallowing_and_looping_workers_end_within_one_deadline(self, group: execnet.Group) -> None:
        gateways = [busy(group, "popen", source) for source in (SLEEPING, SWALLOWING, C_LOOPING, SLEEPING)]
        stop(gateways[0]._io.popen.pid)
        started = time.monotonic()
        group.terminate(1.0)
        assert time.monotonic() - started < 1.5
        assert all(gateway._io.popen.returncode is not None for gateway in gateways)

    def test_a_stuck_worker_gets_the_signals_in_order(
        self, group: execnet.Group, capfd: pytest.CaptureFixture[str]
    ) -> None:
        gateway = busy(
            group,
            "popen",
            "import signal, os, time\n"
            "def note(number, frame):\n"
            "    os.write(2, b'%d;' % number)\n"
            "for number in (signal.SIGINT, signal.SIGTERM):\n"
            "    signal.signal(number, note)\n" + SWALLOWING,
        )
        group.terminate(0.5)
        assert gateway._io.popen.returncode == -signal.SIGKILL
        assert capfd.readouterr().err == f"{signal.SIGINT:d};{signal.SIGTERM:d};"

    @pytest.mark.timing
    def test_a_stopped_worker_whose_pipe_is_full(self, group: execnet.Group) -> None:
        gateway = group.makegateway("popen")
        channel = gateway.remote_exec("import time; time.sleep(1000)")
        stop(gateway._io.popen.pid)
        failed: queue.Queue[OSError] = queue.Queue()

        def send() -> None:
            try:
                channel.send(b"x" * (64 << 20))
            except OSError as exc:
                failed.put(exc)

        sender = threading.Thread(target=send)
        sender.start()
        status = f"/proc/self/task/{sender.native_id}/wchan"
        deadline = time.monotonic() + 1.0  # some kernels do not tell
        while "pipe" not in Path(status).read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        started = time.monotonic()
        group.terminate(0.5)
        assert time.monotonic() - started < 1.5
        assert gateway._io.popen.returncode == -signal.SIGKILL
        sender.join(SECONDS)
        assert isinstance(failed.get(timeout=SECONDS), OSError)

    @pytest.mark.parametrize("spec", ["popen", "popen//via=master"])
    def test_after_an_interrupt_of_a_send_workers_are_told_to_exit_by_other_threads(
        self, group: execnet.Group, spec: str
    ) -> None:
        group.makegateway("popen//id=master")
        gateway = group.makegateway(spec)
        channel = gateway.remote_exec("for item in channel: channel.send(item)")
        sent = []
        for line in range(20):
            with AtLine(line, interrupt, functions_of(gateway_base.__file__, ("_leave", "_note"))), suppress(Interrupt):
                channel.send(line)
                sent.append(line)
        got: list[object] = []
        all_got = threading.Event()

        def callback(item: object) -> None:
            got.append(item)
            if item == "last":
                all_got.set()

        channel.setcallback(callback)
        sender = threading.Thread(target=channel.send, args=["last"], daemon=True)
        sender.start()
        sender.join(SECONDS)  # the main thread has nothing to do with it
        assert not sender.is_alive()
        assert all_got.wait(SECONDS)
        assert [item for item in got if item in sent] == sent
        processes = [member._io for member in group]
        group.terminate(SECONDS)
        assert [process.exit_status(0) for process in processes] == [0, 0]

    def test_a_process_that_was_killed_before(self, group: execnet.Group) -> None:
        gateway = group.makegateway("popen")
        gateway._io.popen.kill()
        group.terminate(5.0)
        assert gateway._io.popen.returncode == -signal.SIGKILL

    def test_the_receiver_of_one_that_was_killed_has_ended_too(self, group: execnet.Group) -> None:
        gateway = group.makegateway("popen")

        def slowly(item: object) -> None:
            gateway._io.popen.wait(SECONDS)
            time.sleep(0.3)  # longer than terminate waits for what it was told to kill

        channel = gateway.remote_exec("channel.send(1)\nwhile True: pass")
        channel.setcallback(slowly)
        group.terminate(0.1)
        assert not gateway.hasreceiver()

    def test_terminate_with_no_time_at_all(self, group: execnet.Group) -> None:
        gateway = busy(group, "popen", SWALLOWING)
        group.terminate(0)
        assert gateway._io.popen.returncode is not None

    @pytest.mark.timing
    def test_stuck_workers_behind_a_via_share_the_deadline(self, group: execnet.Group) -> None:
        group.makegateway("popen//id=a")
        busy(group, "popen//id=b//via=a", SWALLOWING)
        busy(group, "popen//id=c//via=b", SWALLOWING)
        before = leaks.processes()
        started = time.monotonic()
        group.terminate(1.0)
        assert time.monotonic() - started < 2.5
        deadline = time.monotonic() + SECONDS
        while leaks.processes().keys() & before.keys() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not leaks.processes().keys() & before.keys()

    def test_a_socket_gateway_ends(self, group: execnet.Group, socket_server: SocketServer) -> None:
        group.makegateway(f"socket={socket_server.hostport}")
        group.terminate(5.0)
        assert list(group) == []

    def test_an_ssh_gateway_ends(self, group: execnet.Group, ssh_server: SshServer) -> None:
        gateway = group.makegateway(ssh_server.spec())
        group.terminate(5.0)
        assert gateway._io.popen.returncode is not None

    def test_a_process_that_cannot_be_ended_is_named_in_a_warning(
        self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gateway = busy(group, "popen//id=a", SWALLOWING)
        popen = gateway._io.popen
        monkeypatch.setattr(popen, "send_signal", lambda number: None)
        monkeypatch.setattr(ending, "REAP_GRACE", 0.01)
        try:
            with pytest.warns(RuntimeWarning, match=f"'a': process {popen.pid} could not be ended"):
                group.terminate(0.1)
        finally:
            monkeypatch.undo()
            popen.kill()
            popen.wait(SECONDS)

    @pytest.mark.timing
    def test_what_an_interrupt_left_is_ended_by_the_exit_handler(
        self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gateway = busy(group, "popen", SWALLOWING)

        def interrupted(*args: object) -> NoReturn:
            raise KeyboardInterrupt

        monkeypatch.setattr(multi, "safe_terminate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            group.terminate()
        monkeypatch.undo()
        started = time.monotonic()
        group._cleanup_atexit()
        assert time.monotonic() - started < 2.0
        assert gateway._io.popen.returncode is not None

    def test_the_group_can_be_used_again(self, group: execnet.Group) -> None:
        group.makegateway("popen")
        group.terminate(5.0)
        assert group.makegateway("popen").remote_exec("channel.send(1)").receive(SECONDS) == 1

    @pytest.mark.timing
    def test_eight_end_together(self, group: execnet.Group) -> None:
        group.makegateways(["popen"] * 8)
        started = time.monotonic()
        group.terminate(5.0)
        assert time.monotonic() - started < 1.0

    def test_a_with_block_terminates(self) -> None:
        with Group(["popen"]) as group:
            popen = group[0]._io.popen
            assert group[0].remote_exec("channel.send(1)").receive(SECONDS) == 1
        assert popen.returncode == 0

    def test_a_with_block_lets_its_exception_through(self) -> None:
        with pytest.raises(ZeroDivisionError), Group(["popen"]) as group:
            popen = group[0]._io.popen
            raise ZeroDivisionError
        assert popen.returncode == 0

    def test_many_rounds_leave_no_threads_or_descriptors(self, group: execnet.Group) -> None:
        group.makegateway("popen")
        group.terminate(5.0)
        before = leaks.Snapshot.take()
        for _ in range(25):
            group.makegateway("popen")
            group.terminate(5.0)
        assert leaks.wait_for_none(before) == []


@pytest.mark.timing
@pytest.mark.parametrize("backend", ["gevent", "eventlet"])
def test_stuck_workers_of_a_green_group(backend: str) -> None:
    source = f"""
import execnet, time
group = execnet.Group(["popen//execmodel=thread"] * 2, execmodel={backend!r})
for channel in group.remote_exec({SWALLOWING!r}): channel.receive()
popens = [gateway._io.popen for gateway in group]
started = time.monotonic()
group.terminate(0.5)
print(time.monotonic() - started < 1.5, [popen.returncode is not None for popen in popens])
"""
    environ = {**os.environ, "PYTHONWARNINGS": "ignore"}  # eventlet tells that it is deprecated
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, env=environ)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "True [True, True]\n")


PROGRAM = """
import execnet, os, sys, threading
group = execnet.Group()
a = group.makegateway("popen//id=a")
group.makegateway("popen//id=b//via=a")
c = group.makegateway("popen//id=c")
{more}
print(a._io.popen.pid, c._io.popen.pid, flush=True)
"""


def finish(more: str = "", python: str = sys.executable, seconds: float = SECONDS) -> tuple[int, str]:
    """Run a program that ends with live gateways; its status and stderr."""
    environ = {**os.environ, **FORKING_ENVIRON, "PYTHONPATH": os.path.dirname(os.path.dirname(execnet.__file__))}
    done = subprocess.run(
        [python, "-c", PROGRAM.format(more=more)], capture_output=True, text=True, timeout=seconds, env=environ
    )
    for pid in done.stdout.split():
        assert not os.path.exists(f"/proc/{pid}")
    return done.returncode, done.stderr


class TestInterpreterExit:
    def test_idle_workers_end_silently(self) -> None:
        assert finish() == (0, "")

    def test_stuck_workers_end_silently(self) -> None:
        more = f"for gw in group: gw.remote_exec({SWALLOWING!r}).receive({SECONDS})"
        assert finish(more) == (0, "")

    def test_works_on_the_newest_pythons_which_start_no_threads_then(self, other_python: Interpreter) -> None:
        if other_python.implementation == "cpython" and other_python.version >= (3, 9):
            more = f"for gw in group: gw.remote_exec({SWALLOWING!r}).receive({SECONDS})"
            # Beside twelve busy processes, CPython 3.13t takes 14 seconds to run nothing: its locks yield as they spin.
            assert finish(more, python=str(other_python), seconds=4 * SECONDS) == (0, "")

    def test_where_no_thread_can_be_started(self) -> None:
        more = (
            f"for gw in group: gw.remote_exec({SWALLOWING!r}).receive({SECONDS})\n"
            "import atexit, _thread\n"
            "def refuse(*args):\n"
            '    raise RuntimeError("can\'t create new thread at interpreter shutdown")\n'
            "@atexit.register\n"
            "def no_threads():\n"
            "    type(group.execmodel).start = refuse\n"
        )
        assert finish(more) == (0, "")

    def test_a_killed_worker_is_reaped_silently(self) -> None:
        assert finish("c._io.popen.kill()") == (0, "")

    def test_an_exception_ends_the_program_with_its_own_words_only(self) -> None:
        returncode, stderr = finish("raise SystemExit('that was it')")
        assert (returncode, stderr) == (1, "that was it\n")


class TestFork:
    def test_a_child_neither_ends_nor_awaits_its_parents_workers(self) -> None:
        more = """
pid = os.fork()
if not pid:
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert group.remote_exec("channel.send(1)").receive_each() == [1, 1, 1]
"""
        assert finish(more) == (0, "")

    def test_a_child_makes_gateways_of_its_own(self) -> None:
        more = """
pid = os.fork()
if not pid:
    gw = group.makegateway("popen//id=a")
    assert gw.remote_exec("channel.send(1)").receive(10) == 1
    assert list(group) == [gw]
    group.terminate(5)
    os._exit(gw._io.popen.returncode)
assert os.waitpid(pid, 0)[1] == 0
assert group.remote_exec("channel.send(1)").receive_each() == [1, 1, 1]
"""
        assert finish(more) == (0, "")
