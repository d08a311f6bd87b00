"""Warm starts: a forked worker is like any other one, fork servers end with their group, nothing is left of either."""

from __future__ import annotations

import gc
import itertools
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from support import leaks
from support.blocked import await_blocked
from support.initiator import FORKING_ENVIRON, Initiator, is_running, wait_for_end
from support.interpreters import Interpreter
from support.lines import AtLine, functions_of
from support.processes import children_of, pid_of, wait_until
from support.stuck import C_LOOPING, IDLE, LOOPING, SLEEPING

import execnet
from execnet import GatewayDied
from execnet._group import starting
from execnet._transport import warm as gateway_warm
from execnet.gateway_bootstrap import GatewayStartError

SECONDS = 20.0
LOST_SECONDS = 3.0
# Beside what is promised: what a loaded machine takes to run and reap some processes.
SLACK = 0.5

# How many gateways threads make and end.
MANY = 2500 if os.environ.get("EXECNET_CHAOS") == "long" else 120
THREADS = 8

CORES: dict[str, dict[str, Any]] = {"c": {}, "portable": {"EXECNET_PURE": "1"}}

# What a task finds; of a warm worker all that but the last is as of any other one.
FACTS = """
import gc, os, resource, signal, sys, time, threading
channel.send({
    "argv": sys.argv,
    "flags": repr(sys.flags),
    "path": sys.path,
    "bytecode": sys.dont_write_bytecode,
    "hooks": [sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__],
    "streams": [repr(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)],
    "standard descriptors": [os.readlink("/proc/self/fd/%d" % fd) for fd in range(3)],
    "descriptors": sorted(
        os.readlink("/proc/self/fd/%s" % fd).split(":")[0] for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and
        os.path.exists("/proc/self/fd/%s" % fd)
    ),
    "inheritable": [fd for fd in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/%s" % fd) and
        int(fd) > 2 and os.get_inheritable(int(fd))],
    "cwd": os.getcwd(),
    "environment": dict(os.environ),
    "C environment": sorted(os.popen("env -0 | sed -z '/^_=/d'").read().split(chr(0))),
    "handlers": [(number, repr(signal.getsignal(number))) for number in range(1, 32)],
    "status": [line for line in open("/proc/self/status")
        if line.split(":")[0] in ("SigBlk", "SigIgn", "SigCgt", "Umask", "Uid", "Gid", "Groups", "Threads")],
    "group and session": [os.getpgrp(), os.getsid(0)],
    "limits": [resource.getrlimit(number) for number in range(10)],
    "niceness": os.getpriority(os.PRIO_PROCESS, 0),
    "collection": [gc.isenabled(), gc.get_threshold(), gc.callbacks],
    "main thread": threading.current_thread() is threading.main_thread(),
    "native id": threading.main_thread().native_id == os.getpid(),
    "threads": threading.active_count(),
    "zone": time.tzname,
    "core": getattr(sys.modules["execnet.gateway_base"], "core"),
})
"""
LISTENING = "channel.send(__import__('os').getpid()); channel.receive()"


def facts_of(gateway: execnet.Gateway) -> dict[str, Any]:
    facts: dict[str, Any] = gateway.remote_exec(FACTS).receive(SECONDS)
    return facts


def value_of(gateway: execnet.Gateway, expression: str) -> Any:
    """What the expression is in a worker."""
    return gateway.remote_exec(f"import os, sys; channel.send({expression})").receive(SECONDS)


def forkserver_of(group: execnet.Group) -> Any:  # a ForkServer that was started
    (forkserver,) = group._forkservers.values()
    return forkserver


def own_children() -> list[int]:
    """This process's children but those that serve the whole session."""
    return [pid for pid in children_of(os.getpid()) if pid not in leaks.KEPT]


def pipes_of(pid: int) -> set[str]:
    links = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # what lists them is open for as long
            links.add(os.readlink(entry))
    return {link for link in links if link.startswith(("pipe:", "socket:"))}


class TestWorker:
    def test_it_is_like_any_other_one(self, pair_group: execnet.Group) -> None:
        cold, warm = (facts_of(pair_group.makegateway(spec)) for spec in ("popen", "popen//warm"))
        # The one connection more tells of its end, should the fork server be gone then.
        cold["descriptors"] = sorted([*cold["descriptors"], "socket"])
        assert warm == cold

    @pytest.mark.parametrize("options", ["dont_write_bytecode", "faulthandler"])
    def test_options_of_the_interpreter_are_kept(self, group: execnet.Group, options: str) -> None:
        cold, warm = (facts_of(group.makegateway(f"popen//{kind}//{options}")) for kind in ("id=cold", "id=warm//warm"))
        assert (warm["flags"], warm["bytecode"]) == (cold["flags"], cold["bytecode"])

    def test_it_has_a_process_of_its_own_that_the_forkserver_forked(self, group: execnet.Group) -> None:
        gateways = [group.makegateway("popen//warm") for _ in range(3)]
        pids = [value_of(gateway, "os.getpid()") for gateway in gateways]
        assert len({*pids, os.getpid()}) == 4
        assert pids == [gateway.pid for gateway in gateways] == [gateway._io.popen.pid for gateway in gateways]
        forkserver = forkserver_of(group).popen.pid
        assert sorted(children_of(forkserver)) == sorted(pids)
        assert {value_of(gateway, "os.getppid()") for gateway in gateways} == {forkserver}

    def test_the_forkserver_has_a_single_thread(self, group: execnet.Group) -> None:
        group.makegateway("popen//warm")
        assert len(os.listdir(f"/proc/{forkserver_of(group).popen.pid}/task")) == 1

    def test_connections_are_the_workers_own(self, group: execnet.Group) -> None:
        pids = [pid_of(group.makegateway("popen//warm")) for _ in range(3)]
        own = [pipes_of(pid) - {os.readlink(f"/proc/{pid}/fd/2")} for pid in pids]
        assert all(len(pipes) >= 3 for pipes in own)
        assert not own[0] & own[1] and not own[1] & own[2] and not own[0] & own[2]
        # Of the two pipes of each worker the fork server has nothing; of its report, the same end.
        forkserver = forkserver_of(group).popen.pid
        wait_until(
            lambda: [len(pipes & pipes_of(forkserver)) for pipes in own] == [1, 1, 1],
            SECONDS,
            "closing what was passed on",
        )

    def test_chdir_env_and_nice_are_applied(self, group: execnet.Group, tmp_path: Path) -> None:
        gateway = group.makegateway(f"popen//warm//chdir={tmp_path / 'new'}//env:COLOUR=blue//nice=3")
        assert value_of(gateway, "(os.getcwd(), os.environ['COLOUR'])") == (str(tmp_path / "new"), "blue")
        assert value_of(gateway, "os.nice(0)") == os.nice(0) + 3
        other = group.makegateway("popen//warm")
        assert value_of(other, "(os.getcwd(), os.environ.get('COLOUR'), os.nice(0))") == (os.getcwd(), None, os.nice(0))

    def test_it_has_folder_and_environment_of_this_process_as_they_are_now(
        self, group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GOES", "1")
        first = group.makegateway("popen//warm")
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("GOES")
        monkeypatch.setenv("COMES", "ü\n=")
        second = group.makegateway("popen//warm")
        expression = "(os.getcwd(), os.environ.get('GOES'), os.environ.get('COMES'))"
        assert value_of(second, expression) == (str(tmp_path), None, "ü\n=")
        assert value_of(first, "os.environ.get('GOES')") == "1"
        assert len(group._forkservers) == 1

    def test_an_environment_that_is_large(self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch) -> None:
        group.makegateway("popen//warm")
        for number in range(20):
            monkeypatch.setenv(f"LARGE_{number}", "x" * 100_000)
        gateway = group.makegateway("popen//warm")
        assert value_of(gateway, "sum(len(os.environ['LARGE_%d' % i]) for i in range(20))") == 2_000_000

    def test_a_folder_that_was_removed(
        self, group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "gone"
        folder.mkdir()
        monkeypatch.chdir(folder)
        folder.rmdir()
        gateway = group.makegateway("popen//warm")
        assert value_of(gateway, "os.readlink('/proc/self/cwd')") == f"{folder} (deleted)"

    @pytest.mark.parametrize("name", ["PYTHONHASHSEED", "EXECNET_LOST_TIMES", "TZ"])
    def test_what_is_read_at_an_interpreters_start_gets_another_forkserver(
        self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        group.makegateway("popen//warm")
        monkeypatch.setenv(name, "3")
        gateway = group.makegateway("popen//warm")
        assert value_of(gateway, f"os.environ[{name!r}]") == "3"
        assert len(group._forkservers) == 2

    def test_random_numbers_differ_from_worker_to_worker(self, group: execnet.Group) -> None:
        specs = ["popen//warm//preload=random"] * 3
        numbers = [value_of(gateway, "__import__('random').random()") for gateway in group.makegateways(specs)]
        assert len({*numbers, random.random()}) == 4

    def test_random_numbers_of_numpy_differ_as_well(
        self, group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = tmp_path / "numpy"
        package.mkdir()
        (package / "__init__.py").write_text("from . import random")
        (package / "random.py").write_text("from random import Random\nstate = Random(1)\nseed = state.seed")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        gateways = group.makegateways(["popen//warm//preload=numpy"] * 2)
        first, second = (value_of(gateway, "__import__('numpy').random.state.random()") for gateway in gateways)
        assert first != second

    def test_a_session_of_its_own(self, group: execnet.Group) -> None:
        gateway = group.makegateway("popen//warm//newsession")
        assert value_of(gateway, "(os.getpgrp(), os.getsid(0))") == (gateway.pid, gateway.pid)

    def test_stderr_is_that_of_this_process_as_it_is_now(self, group: execnet.Group, tmp_path: Path) -> None:
        group.makegateway("popen//warm")
        before = os.dup(2)
        try:
            with open(tmp_path / "stderr", "wb") as file:
                os.dup2(file.fileno(), 2)
                gateway = group.makegateway("popen//warm")
        finally:
            os.dup2(before, 2)
            os.close(before)
        gateway.remote_exec("import os, sys; os.write(2, b'one;'); sys.stderr.write('two')").waitclose(SECONDS)
        assert (tmp_path / "stderr").read_text() == "one;two"

    def test_stderr_that_is_closed(self) -> None:
        source = """
os.close(2)
with execnet.Group(["popen", "popen//warm"]) as group:
    say(group.remote_exec("import os, sys; channel.send(os.readlink('/proc/self/fd/2')[:5])").receive_each())
"""
        with Initiator(source) as initiator:
            assert initiator.hear() == ["/dev/", "/dev/"]  # no pipe of a connection, which has got the number

    def test_captured_stderr_is_told_with_the_death(
        self, group: execnet.Group, capfd: pytest.CaptureFixture[str]
    ) -> None:
        gateway = group.makegateway("popen//warm//stderr=capture")
        channel = gateway.remote_exec("import os; os.write(2, b'last words\\n'); os._exit(3)")
        with pytest.raises(GatewayDied, match=r"exited with status 3; its last words on stderr:\nlast words"):
            channel.receive(SECONDS)
        line = rf"execnet: gateway 'gw0' .* died: its process {gateway.pid} exited with status 3\n"
        assert re.fullmatch(rf"last words\n{line}", capfd.readouterr().err)

    def test_the_dump_of_faulthandler_reaches_the_captured_stderr(self, group: execnet.Group) -> None:
        gateway = group.makegateway("popen//warm//faulthandler//stderr=capture")
        channel = gateway.remote_exec("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
        with pytest.raises(GatewayDied, match=r"last words on stderr:\n(.*\n)*Fatal Python error: Segmentation fault"):
            channel.receive(SECONDS)
        gateway.exit(wait=SECONDS)
        assert gateway.returncode == -signal.SIGSEGV

    def test_a_task_that_fails_tells_its_own_lines_only(self, group: execnet.Group) -> None:
        with pytest.raises(execnet.RemoteError) as caught:
            group.makegateway("popen//warm").remote_exec("1/0").waitclose(SECONDS)
        assert "ZeroDivisionError" in str(caught.value)
        assert "fork server" not in str(caught.value)

    def test_exit_handlers_of_a_worker_run(self, group: execnet.Group, tmp_path: Path) -> None:
        gateway = group.makegateway("popen//warm")
        source = f"import atexit, pathlib; atexit.register(pathlib.Path({str(tmp_path / 'ran')!r}).touch)"
        gateway.remote_exec(source).waitclose(SECONDS)
        gateway.exit(wait=SECONDS)
        assert (tmp_path / "ran").exists() and gateway.returncode == 0

    def test_a_task_may_start_threads_and_processes(self, group: execnet.Group) -> None:
        gateway = group.makegateway("popen//warm")
        source = """
import os, subprocess, sys, threading
thread = threading.Thread(target=lambda: channel.send("from a thread"))
thread.start()
thread.join()
channel.send(subprocess.run([sys.executable, "-c", "print(1)"], stdout=subprocess.PIPE).stdout)
pid = os.fork()
if not pid:
    os._exit(7)
channel.send(os.waitpid(pid, 0)[1] >> 8)
"""
        assert list(gateway.remote_exec(source)) == ["from a thread", b"1\n", 7]

    @pytest.mark.needs("gevent", "eventlet")
    def test_every_execution_model(self, group: execnet.Group) -> None:
        for model in ("thread", "main_thread_only", "gevent", "eventlet"):
            gateway = group.makegateway(f"popen//warm//execmodel={model}")
            assert gateway.remote_status().execmodel == model
            assert value_of(gateway, "1") == 1

    @pytest.mark.parametrize("model", ["gevent", "eventlet"])
    def test_an_initiator_of_green_threads(self, model: str) -> None:
        source = f"""
group = execnet.Group(execmodel={model!r})
group.makegateways(["popen//warm//execmodel=thread"] * 2)
say(group.remote_exec("channel.send(1)").receive_each())
popens = [gateway._io.popen for gateway in group]
group.terminate(5)
say([popen.returncode for popen in popens])
"""
        with Initiator(source) as initiator:
            assert initiator.hear() == [1, 1]
            assert initiator.hear() == [0, 0]

    def test_tracing_writes_a_file_for_each_worker(self, tmp_path: Path) -> None:
        source = """
with execnet.Group(["popen//warm"] * 2) as group:
    say([gateway.pid for gateway in group])
"""
        with Initiator(source, EXECNET_DEBUG="1", TMPDIR=str(tmp_path)) as initiator:
            pids = initiator.hear()
            initiator.end()
        for pid in pids:
            assert "creating workergateway" in (tmp_path / f"execnet-debug-{pid}").read_text()


class TestPreload:
    def test_the_main_thread_is_the_workers_own(self, group: execnet.Group) -> None:
        gateway = group.makegateway("popen//warm//preload=threading")
        main = "__import__('threading').main_thread()"
        assert value_of(gateway, f"({main}.native_id, {main}.ident == __import__('_thread').get_ident())") == (
            gateway.pid,
            True,
        )

    def test_modules_are_there(self, group: execnet.Group) -> None:
        gateway = group.makegateway("popen//warm//preload=json,email.mime")
        assert value_of(gateway, "['json' in sys.modules, 'email.mime' in sys.modules]") == [True, True]
        assert value_of(group.makegateway("popen//warm"), "'email' in sys.modules") is False
        assert len(group._forkservers) == 2

    def test_a_module_that_is_missing_is_named(self, group: execnet.Group, capfd: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(GatewayStartError, match=r"preload=no\.such: ModuleNotFoundError: No module named 'no'"):
            group.makegateway("popen//warm//preload=json,no.such")
        assert list(group) == []
        assert capfd.readouterr().err == ""

    def test_several_starts_with_a_module_that_is_missing(self, group: execnet.Group) -> None:
        with pytest.raises(GatewayStartError) as caught:
            group.makegateways(["popen//warm//preload=nosuch"] * 3)
        assert str(caught.value).count("preload=nosuch: ModuleNotFoundError") == 3
        assert list(group) == []

    @pytest.mark.parametrize("source", ["1/0", "import sys; sys.exit('never')", "import nosuch"])
    def test_a_module_that_fails_is_named(
        self,
        group: execnet.Group,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        source: str,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        (tmp_path / "failing.py").write_text(source)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(GatewayStartError, match=r"preload=failing: (Zero|SystemExit: never|.* named 'nosuch')"):
            group.makegateway("popen//warm//preload=failing")
        assert 'failing.py", line 1' in capfd.readouterr().err

    def test_a_module_that_ends_the_process(
        self, group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "ending.py").write_text("import os; os._exit(9)")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(GatewayStartError, match="exited with status 9 before it answered"):
            group.makegateway("popen//warm//preload=ending")

    def test_a_start_after_one_that_failed_tries_anew(
        self, group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(GatewayStartError, match="coming"):
            group.makegateway("popen//warm//preload=coming")
        (tmp_path / "coming.py").write_text("")
        assert value_of(group.makegateway("popen//warm//preload=coming"), "'coming' in sys.modules")

    def test_a_module_that_leaves_a_thread_running_is_refused(
        self, group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = "import threading, time\n"
        source += "threading.Thread(target=time.sleep, args=(60,), name='tick', daemon=True).start()"
        (tmp_path / "ticking.py").write_text(source)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(GatewayStartError, match=r"preload=ticking started threads, .*: tick"):
            group.makegateway("popen//warm//preload=ticking")

    def test_handlers_that_a_module_sets_are_kept(
        self, group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = "import signal\nfor name in ('SIGCHLD', 'SIGUSR1', 'SIGINT'):\n"
        source += "    signal.signal(getattr(signal, name), signal.SIG_IGN if name == 'SIGINT' else print)"
        (tmp_path / "handling.py").write_text(source)
        monkeypatch.chdir(tmp_path)
        gateway = group.makegateway("popen//warm//preload=handling")
        source = "import signal; channel.send([signal.getsignal(n) is print for n in (signal.SIGCHLD, signal.SIGUSR1)])"
        assert gateway.remote_exec(source).receive(SECONDS) == [True, True]
        assert gateway.pid in children_of(forkserver_of(group).popen.pid)


class TestSpecs:
    @pytest.mark.parametrize(
        ("spec", "reason"),
        [
            ("popen//preload=json", "preload= is for warm starts"),
            ("popen//warm//preload", "preload= needs names of modules"),
            ("ssh=nowhere//warm", "warm is for processes of this machine"),
            ("socket=localhost:1//warm", "warm is for processes of this machine"),
            ("popen//warm//via=there", "warm is for processes of this machine"),
            ("popen//warm//stderr=no", "stderr=no is not known"),
        ],
    )
    def test_what_does_not_go_together_is_told(self, group: execnet.Group, spec: str, reason: str) -> None:
        group.makegateway("popen//id=there")
        with pytest.raises(ValueError, match=reason) as caught:
            group.makegateway(spec)
        assert repr(spec) in str(caught.value)
        assert len(group) == 1

    def test_a_system_without_fork(self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "fork")
        with pytest.raises(ValueError, match=r"warm needs fork, which \w+ does not have: 'popen//warm'"):
            group.makegateway("popen//warm")

    def test_a_python_that_is_not_there(self, group: execnet.Group) -> None:
        with pytest.raises(FileNotFoundError, match=r"popen//warm//python=/no/python"):
            group.makegateway("popen//warm//python=/no/python")
        assert group._forkservers == {}

    @pytest.mark.parametrize("python", ["/bin/false", "/bin/echo"])
    def test_a_python_that_is_none(self, group: execnet.Group, python: str) -> None:
        with pytest.raises(GatewayStartError, match=rf"{python} .* exited with status [01] before it answered"):
            group.makegateway(f"popen//warm//python={python}")

    def test_another_python(self, group: execnet.Group, other_python: Interpreter) -> None:
        spec = f"popen//warm//python={other_python}"
        if other_python.version < (3, 7):
            with pytest.raises(GatewayStartError, match="exited with status 1 before it answered"):
                group.makegateway(spec)
            return
        gateways = [group.makegateway(spec) for _ in range(2)]
        assert [value_of(gateway, "tuple(sys.version_info[:2])") for gateway in gateways] == [other_python.version] * 2
        assert gateways[0].pid in children_of(forkserver_of(group).popen.pid)


class TestMany:
    def test_started_side_by_side(self, pair_group: execnet.Group) -> None:
        gateways = pair_group.makegateways(["popen//warm"] * 8)
        assert [gateway.id for gateway in gateways] == [f"gw{number}" for number in range(8)]
        assert len({value_of(gateway, "os.getpid()") for gateway in gateways}) == 8
        assert len(pair_group._forkservers) == 1

    def test_started_by_threads(self, group: execnet.Group) -> None:
        meet = threading.Barrier(8)

        def start() -> None:
            meet.wait(SECONDS)
            group.makegateway("popen//warm")

        threads = [threading.Thread(target=start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert len(set(group.remote_exec("import os; channel.send(os.getpid())").receive_each())) == 8
        assert len(group._forkservers) == 1

    def test_started_and_ended_many_times(self, group: execnet.Group) -> None:
        first = group.makegateway("popen//warm")
        forkserver = forkserver_of(group).popen.pid

        def descriptors() -> int:
            return len(os.listdir(f"/proc/{forkserver}/fd"))

        # Of a worker the fork server keeps the end of its report, and lets go of the rest when it has answered.
        own = pipes_of(pid_of(first)) - {os.readlink(f"/proc/{first.pid}/fd/2")}
        wait_until(lambda: len(own & pipes_of(forkserver)) == 1, SECONDS, "closing what was passed on")
        before = descriptors()
        for _ in range(50):
            gateway = group.makegateway("popen//warm")
            gateway.exit(wait=SECONDS)
            assert gateway.returncode == 0
        assert children_of(forkserver) == [first.pid]
        wait_until(lambda: descriptors() == before, SECONDS, "closing what was the ended workers'")

    def test_a_gateway_through_a_warm_one(self, group: execnet.Group) -> None:
        group.makegateway("popen//warm//id=first")
        assert value_of(group.makegateway("popen//via=first"), "1") == 1


class TestEnds:
    def test_terminate_leaves_no_process(self, group: execnet.Group) -> None:
        group.makegateways(["popen//warm", "popen//warm//preload=json", "popen"])
        processes = [
            *(gateway.pid for gateway in group),
            *(t.popen.pid for t in group._forkservers.values() if t.popen),
        ]
        popens = [gateway._io.popen for gateway in group]
        group.terminate(SECONDS)
        assert [pid for pid in processes if Path(f"/proc/{pid}").exists()] == []
        assert [popen.returncode for popen in popens] == [0, 0, 0]
        assert group._forkservers == {}

    def test_the_group_can_be_used_again(self, group: execnet.Group) -> None:
        for _ in range(2):
            assert value_of(group.makegateway("popen//warm"), "1") == 1
            group.terminate(SECONDS)

    def test_a_forkserver_of_no_members_any_more_ends_with_the_group(self, group: execnet.Group) -> None:
        group.makegateway("popen//warm").exit(wait=SECONDS)
        pid = forkserver_of(group).popen.pid
        assert is_running(pid)
        group.terminate(SECONDS)
        assert not Path(f"/proc/{pid}").exists()

    @pytest.mark.timing
    @pytest.mark.parametrize("source", [C_LOOPING, LISTENING], ids=["looping in C", "stopped"])
    def test_a_stuck_worker_is_killed_after_the_timeout(self, group: execnet.Group, source: str) -> None:
        gateway = group.makegateway("popen//warm")
        pid = gateway.remote_exec(source).receive(SECONDS)
        if source is LISTENING:
            os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
        group.terminate(0.5)
        assert time.monotonic() - started < 0.5 + SLACK
        assert gateway._io.popen.returncode < 0 and not Path(f"/proc/{pid}").exists()

    def test_a_worker_that_is_killed_is_told_of_and_reaped(self, pair_group: execnet.Group) -> None:
        gateway, other = pair_group.makegateways(["popen//warm"] * 2)
        channel = gateway.remote_exec(LISTENING)
        pid = channel.receive(SECONDS)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EOFError, match=rf"died: its process {pid} was killed by SIGKILL$"):
            channel.receive(SECONDS)
        assert (gateway.pid, gateway.returncode) == (pid, -signal.SIGKILL)
        assert children_of(forkserver_of(pair_group).popen.pid) == [other.pid]

    def test_a_worker_that_exits_is_told_of_and_reaped(self, pair_group: execnet.Group) -> None:
        gateway = pair_group.makegateway("popen//warm")
        with pytest.raises(EOFError, match=f"died: its process {gateway.pid} exited with status 7$"):
            gateway.remote_exec("import os; os._exit(7)").receive(SECONDS)
        assert gateway.returncode == 7
        assert children_of(forkserver_of(pair_group).popen.pid) == []

    @pytest.mark.timing
    def test_its_process_is_like_a_popen(self, group: execnet.Group) -> None:
        popen = group.makegateway("popen//warm")._io.popen
        assert popen.poll() is None and popen.returncode is None
        assert popen.stdin.fileno() >= 0 and popen.stdout.fileno() >= 0
        started = time.monotonic()
        with pytest.raises(subprocess.TimeoutExpired):
            popen.wait(0.05)
        assert 0.05 <= time.monotonic() - started < 0.05 + SLACK
        popen.send_signal(signal.SIGSTOP)
        wait_until(lambda: "T (stopped)" in Path(f"/proc/{popen.pid}/status").read_text(), SECONDS, "stopping")
        popen.terminate()
        popen.send_signal(signal.SIGCONT)
        assert popen.wait() == popen.wait(0) == popen.poll() == popen.returncode == -signal.SIGTERM
        popen.kill()
        popen.terminate()
        assert popen.returncode == -signal.SIGTERM
        assert repr(popen) == f"<WarmProcess pid={popen.pid} returncode=-15>"

    def test_waited_for_by_several_threads(self, group: execnet.Group) -> None:
        popen = group.makegateway("popen//warm")._io.popen
        results = []
        threads = [threading.Thread(target=lambda: results.append(popen.wait(SECONDS))) for _ in range(4)]
        for thread in threads:
            thread.start()
        popen.kill()
        for thread in threads:
            thread.join(SECONDS)
        assert results == [-signal.SIGKILL] * 4

    @pytest.mark.timing
    def test_one_that_is_killed_before_it_is_forked_never_is(
        self, group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "slow.py").write_text("import time; time.sleep(1)")
        monkeypatch.chdir(tmp_path)
        spec = execnet.XSpec("popen//warm//preload=slow")
        io = gateway_warm.create_io(spec, group)
        started = time.monotonic()
        io.kill()
        assert io.abandon()[1] == -signal.SIGKILL
        assert time.monotonic() - started < SLACK
        gateway = group.makegateway("popen//warm//preload=slow")
        assert children_of(forkserver_of(group).popen.pid) == [gateway.pid]

    @pytest.mark.timing
    def test_ctrl_c_while_a_forkserver_imports(self, tmp_path: Path) -> None:
        (tmp_path / "slow.py").write_text("import time; time.sleep(60)")
        source = """
group = execnet.Group()
say(0)
try:
    group.makegateway("popen//warm//preload=slow")
except KeyboardInterrupt:
    say(len(group._forkservers))
"""
        with Initiator(source, session=True, PYTHONPATH=f"{tmp_path}") as initiator:
            initiator.hear()
            wait_until(lambda: children_of(initiator.pid), SECONDS, "the fork server")
            (forkserver,) = children_of(initiator.pid)
            time.sleep(0.2)
            started = time.monotonic()
            os.killpg(initiator.pid, signal.SIGINT)
            assert initiator.hear() == 0
            assert not is_running(forkserver)
            assert initiator.await_reaped() == 0
            assert time.monotonic() - started < 2 + SLACK

    def test_ctrl_c_reaches_workers_and_not_the_forkserver(self) -> None:
        source = """
group = execnet.Group(["popen//warm"] * 2)
signal.signal(signal.SIGINT, signal.SIG_IGN)
channels = [g.remote_exec("import os, time; channel.send(os.getpid()); time.sleep(1000)") for g in group]
say([channel.receive(20) for channel in channels])
for channel in channels:
    try:
        channel.waitclose(20)
    except (channel.RemoteError, EOFError) as error:
        say(type(error).__name__)
say(group.makegateway("popen//warm").remote_status().numexecuting)
group.terminate(5)
"""
        with Initiator(source, session=True) as initiator:
            initiator.hear()
            os.killpg(initiator.pid, signal.SIGINT)
            assert [initiator.hear() for _ in range(3)] == ["RemoteError", "RemoteError", 0]
            assert initiator.end()[0] == 0


class TestForkServerKilled:
    def killed(self, group: execnet.Group) -> Any:
        forkserver = forkserver_of(group)
        forkserver.popen.kill()
        forkserver.popen.wait(SECONDS)
        return forkserver

    def test_workers_live_on_and_the_next_start_makes_a_new_one(self, group: execnet.Group) -> None:
        gateway = group.makegateway("popen//warm")
        killed = self.killed(group)
        assert value_of(gateway, "1") == 1
        assert value_of(group.makegateway("popen//warm"), "1") == 1
        assert forkserver_of(group) is not killed
        assert gateway.returncode is None

    def test_a_worker_that_has_forked_is_seen_to_end(self, group: execnet.Group) -> None:
        gateway = group.makegateway("popen//warm")
        forked = gateway.remote_exec("""
import os, time
pid = os.fork()
if not pid:
    time.sleep(1000)
    os._exit(0)
channel.send(pid)
""").receive(SECONDS)
        try:
            self.killed(group)
            gateway.exit()
            assert gateway._io.popen.wait(SECONDS) == gateway_warm.STATUS_LOST
        finally:
            os.kill(forked, signal.SIGKILL)

    def test_a_worker_that_ends_then_is_noticed(self, group: execnet.Group) -> None:
        gateway = group.makegateway("popen//warm")
        channel = gateway.remote_exec(LISTENING)
        pid = channel.receive(SECONDS)
        self.killed(group)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(GatewayDied, match=rf"died: its process {pid} has closed the connection$"):
            channel.receive(SECONDS)
        assert gateway._io.popen.wait(SECONDS) == gateway_warm.STATUS_LOST
        assert gateway.returncode is None

    @pytest.mark.timing
    def test_terminate_ends_such_workers(self, group: execnet.Group) -> None:
        gateways = group.makegateways(["popen//warm"] * 2)
        gateways[1].remote_exec(C_LOOPING).receive(SECONDS)
        pids = [pid_of(gateway) for gateway in gateways]
        self.killed(group)
        started = time.monotonic()
        group.terminate(0.5)
        assert time.monotonic() - started < 0.5 + SLACK
        assert wait_for_end(pids, SECONDS) == []

    def test_one_killed_before_it_forked_is_told(
        self, group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
        (tmp_path / "deadly.py").write_text(source)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(GatewayStartError, match="was killed by SIGKILL before it answered"):
            group.makegateway("popen//warm//preload=deadly")

    def test_one_that_is_stopped_is_ended_with_the_group(self, group: execnet.Group) -> None:
        group.makegateway("popen//warm").exit(wait=SECONDS)
        forkserver = forkserver_of(group)
        forkserver.popen.send_signal(signal.SIGSTOP)
        group.terminate(1.0)
        assert forkserver.popen.returncode == -signal.SIGKILL


INITIATOR = f"""
group = execnet.Group(["popen//warm"] * 4)
sources = [{IDLE!r}, {SLEEPING!r}, {C_LOOPING!r}, {LOOPING!r}]
if "EXECNET_PURE" in os.environ:
    sources[2] = {IDLE!r}  # nothing but C ends a process whose GIL is held
channels = [gateway.remote_exec(source) for gateway, source in zip(group, sources)]
pids = [channel.receive(20) for channel in channels]
(forkserver,) = group._forkservers.values()
say([forkserver.popen.pid, pids])
"""


@pytest.mark.timing
@pytest.mark.parametrize("core", CORES)
class TestInitiatorEnds:
    @pytest.mark.parametrize("how", ["time.sleep(1000)", "os._exit(3)", "os.kill(os.getpid(), signal.SIGSEGV)"])
    def test_forkserver_and_workers_go(self, core: str, how: str) -> None:
        with Initiator(INITIATOR + how, **CORES[core]) as initiator:
            forkserver, pids = initiator.hear()
            if "sleep" in how:
                initiator.kill()
            initiator.await_reaped()
            assert wait_for_end([forkserver], SLACK) == []
            assert wait_for_end(pids, LOST_SECONDS + SLACK) == []

    def test_its_end_leaves_nothing_and_says_nothing(self, core: str) -> None:
        with Initiator(INITIATOR.replace("* 4", "* 2"), **CORES[core]) as initiator:
            forkserver, pids = initiator.hear()
            assert initiator.end() == (0, [], "")
            assert [pid for pid in [forkserver, *pids] if is_running(pid)] == []

    @pytest.mark.parametrize("source", ["import time; time.sleep(1000)", "sum(range(10**12))"])
    def test_a_forkserver_that_imports_goes_at_once(self, core: str, source: str, tmp_path: Path) -> None:
        started = tmp_path / "started"
        (tmp_path / "stuck.py").write_text(f"open({str(started)!r}, 'w').close()\n{source}")
        program = """
threading.Thread(target=execnet.makegateway, args=("popen//warm//preload=stuck",), daemon=True).start()
time.sleep(1000)
"""
        with Initiator(program, PYTHONPATH=str(tmp_path), **CORES[core]) as initiator:
            wait_until(started.exists, SECONDS, "the import")
            (forkserver,) = children_of(initiator.pid)
            initiator.kill()
            initiator.await_reaped()
            assert wait_for_end([forkserver], SLACK) == []

    def test_killed_while_workers_are_forked(self, core: str) -> None:
        program = """
group = execnet.Group(["popen//warm"])
(forkserver,) = group._forkservers.values()
say(forkserver.popen.pid)
while True:
    group.makegateways(["popen//warm"] * 4)
"""
        for delay in (0.0, 0.003, 0.01, 0.05):
            with Initiator(program, EXECNET_LOST_TIMES="0.2,0.6", **CORES[core]) as initiator:
                forkserver = initiator.hear()
                time.sleep(delay)  # somewhere in the middle of it
                initiator.kill()
                initiator.await_reaped()
                assert wait_for_end([forkserver], SLACK) == []
            # The no_leaks fixture looks for the workers.


def in_threads(*functions: Callable[[], object]) -> list[BaseException]:
    """Run them side by side; what they raised. AssertionError if one does not return."""
    failures = []

    def run(function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(function,), daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + SECONDS + MANY / 25
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        assert not thread.is_alive(), "a thread waits for ever"
    return failures


class TestThreads:
    @pytest.mark.timeout(60 + MANY / 10)
    @pytest.mark.parametrize("ended", ["one by one", "with the group, again and again"])
    def test_gateways_they_make_are_all_ended(self, group: execnet.Group, ended: str) -> None:
        pids: list[int | None] = []
        numbers, running = itertools.count(), [True]

        def make(seed: int) -> None:
            dice = random.Random(seed)
            for number in itertools.takewhile(lambda number: number < MANY, numbers):
                gateway = group.makegateway(f"popen//warm//id=made{number}")
                popen = gateway._io.popen
                # That others ask as well takes nothing from who asks.
                assert in_threads(*[lambda: pids.append(gateway.pid)] * 2) == []  # noqa: B023 -- called at once
                dice.choice([popen.kill, popen.terminate, popen.poll, gateway.exit])()
                if ended == "one by one":
                    gateway.exit(wait=SECONDS)
                    assert popen.returncode is not None

        def end() -> None:
            while running[0] and "group" in ended:
                group.terminate(SECONDS)
                time.sleep(0.01)

        def make_all() -> None:
            failures = in_threads(*(partial(make, seed) for seed in range(THREADS)))
            running[0] = False
            assert failures == []

        assert in_threads(make_all, end) == []
        group.terminate(SECONDS)
        assert len(set(pids)) >= MANY and None not in pids
        assert [pid for pid in pids if pid is None or is_running(pid)] == []
        assert group._forkservers == {}

    def test_many_that_wait_for_one_all_learn_of_its_start_and_its_end(self, group: execnet.Group) -> None:
        for _ in range(25):
            io = gateway_warm.create_io(execnet.XSpec("popen//warm"), group)
            process = io.popen
            pids: list[int | None] = []
            statuses: list[int | None] = []
            asking = [lambda: pids.append(process.pid)] * 4  # noqa: B023 -- called at once
            waiting = [lambda: statuses.append(process.wait())] * 4  # noqa: B023
            assert in_threads(*asking, *waiting, process.terminate) == []
            assert len(set(pids)) == 1 and set(statuses) == {-signal.SIGTERM}
            io.abandon()

    def test_a_start_in_the_middle_of_the_groups_end_succeeds(
        self, group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "slow.py").write_text("import time; time.sleep(2)")
        monkeypatch.chdir(tmp_path)
        made = []
        other = threading.Thread(target=lambda: made.append(group.makegateway("popen//warm//preload=slow")))
        other.start()
        wait_until(lambda: any(t.processes for t in list(group._forkservers.values())), SECONDS, "the request")
        group.terminate(SECONDS)
        other.join(SECONDS)
        (gateway,) = made
        assert value_of(gateway, "os.getppid()") == forkserver_of(group).popen.pid
        gateway.exit(wait=SECONDS)
        assert gateway.returncode == 0
        forkserver = forkserver_of(group)
        group.terminate(SECONDS)
        assert group._forkservers == {} and forkserver.popen.returncode == 0

    def test_a_start_that_is_undone_after_the_groups_end_leaves_no_forkserver(
        self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun, let_go, over = threading.Event(), threading.Event(), threading.Event()
        create_io = gateway_warm.create_io

        def late_create_io(*args: Any) -> Any:
            begun.set()
            let_go.wait(SECONDS)
            try:
                return create_io(*args)
            finally:
                over.set()

        def interrupted_wait(self: object) -> None:
            begun.wait(SECONDS)
            raise KeyboardInterrupt

        monkeypatch.setattr(starting, "UNDO_PATIENCE", 0.01)
        monkeypatch.setattr(gateway_warm, "create_io", late_create_io)
        monkeypatch.setattr(starting.Starts, "_wait", interrupted_wait)
        with pytest.raises(KeyboardInterrupt):
            group.makegateway("popen//warm")
        group.terminate(SECONDS)
        let_go.set()
        assert over.wait(SECONDS)
        wait_until(lambda: group._forkservers == {} and not own_children(), SECONDS, "the end of the fork server")

    def test_a_forkserver_that_takes_no_more_stays_for_its_workers(self, group: execnet.Group) -> None:
        gateway = group.makegateway("popen//warm")
        first = forkserver_of(group)
        first.usable = False
        other = group.makegateway("popen//warm")
        assert value_of(gateway, "os.getppid()") != value_of(other, "os.getppid()")
        channel = gateway.remote_exec("import os; os._exit(7)")
        with pytest.raises(GatewayDied, match="exited with status 7"):
            channel.receive(SECONDS)
        group.terminate(SECONDS)
        assert group._forkservers == {} and first.popen.returncode == 0

    def test_forkservers_started_by_several_at_once_are_one(self, group: execnet.Group) -> None:
        meet = threading.Barrier(4)

        def start() -> None:
            meet.wait(SECONDS)
            group.makegateway("popen//warm")

        assert in_threads(*[start] * 4) == []
        forkserver = forkserver_of(group)
        wait_until(lambda: own_children() == [forkserver.popen.pid], SECONDS, "the end of the others")


CODE = functions_of(gateway_warm.__file__)
FORKSERVERS = functions_of(gateway_warm.__file__, ["_forkserver", "__init__", "serves", "_connect", "hand_over"])


class TestAtEachLine:
    """What a signal handler does, and an exception that it raises, at each line of gateway_warm in turn."""

    @pytest.mark.timeout(180)
    @pytest.mark.parametrize("chosen", [CODE, FORKSERVERS], ids=["started", "fork server too"])
    def test_of_a_start_another_one_may_be_made_and_ended(
        self, group: execnet.Group, chosen: Callable[[CodeType], bool]
    ) -> None:
        spec = execnet.XSpec("popen//warm")

        def other() -> None:
            io = gateway_warm.create_io(spec, group)
            assert io.popen.pid is not None
            io.kill()
            assert io.abandon()[1] == -signal.SIGKILL

        for number in itertools.count():
            if chosen is FORKSERVERS:
                gateway_warm.end_forkservers(group._forkservers)
            with AtLine(number, other, chosen) as at_line:
                io = gateway_warm.create_io(spec, group)
            assert io.popen.pid is not None
            io.kill()
            assert io.abandon()[1] == -signal.SIGKILL
            if at_line.lines <= number:
                break
        assert number > 20

    @pytest.mark.filterwarnings("ignore::ResourceWarning")  # what closes what was opened is that nobody refers to it
    @pytest.mark.timeout(180)
    @pytest.mark.parametrize("chosen", [CODE, FORKSERVERS], ids=["started", "fork server too"])
    def test_of_a_start_an_exception_leaves_nothing(
        self, group: execnet.Group, chosen: Callable[[CodeType], bool]
    ) -> None:
        spec = execnet.XSpec("popen//warm")

        def interrupt() -> None:
            raise KeyboardInterrupt

        first = gateway_warm.create_io(spec, group)
        first.kill()
        first.abandon()
        wait_until(lambda: not children_of(forkserver_of(group).popen.pid), SECONDS, "the end of the first")
        for number in itertools.count():
            if chosen is FORKSERVERS:
                gateway_warm.end_forkservers(group._forkservers)
            descriptors = len(os.listdir("/proc/self/fd"))
            at_line = AtLine(number, interrupt, chosen)
            try:
                with at_line:
                    io = gateway_warm.create_io(spec, group)
            except KeyboardInterrupt:
                assert [server.processes for server in group._forkservers.values()] in ([set()], []), at_line.where
            else:
                assert at_line.lines <= number
                io.kill()
                io.abandon()
                break
            if chosen is FORKSERVERS:
                gateway_warm.end_forkservers(group._forkservers)
                wait_until(lambda: not [p for p in own_children() if is_running(p)], SECONDS, at_line.where)
            else:
                wait_until(lambda: not children_of(forkserver_of(group).popen.pid), SECONDS, at_line.where)
            if len(os.listdir("/proc/self/fd")) != descriptors:
                gc.collect()
            assert len(os.listdir("/proc/self/fd")) == descriptors, at_line.where
        assert number > 20

    @pytest.mark.parametrize("ask", ["process.pid", "process.poll()", "process.kill()", "process.terminate()"])
    def test_of_a_question_the_process_may_be_ended(self, group: execnet.Group, ask: str) -> None:
        spec = execnet.XSpec("popen//warm")

        ends = (-signal.SIGKILL, -signal.SIGTERM)

        def end() -> None:
            process.kill()
            assert process.wait(SECONDS) in ends

        for number in itertools.count():
            io = gateway_warm.create_io(spec, group)
            process = io.popen
            with AtLine(number, end, CODE) as at_line:
                eval(ask)
            status = process.poll()
            process.kill()
            assert io.abandon()[1] in ends
            if at_line.lines <= number:
                break
            assert status in ends
        assert number > 1


class TestInherited:
    @pytest.mark.parametrize("how", ["{signal.SIGCHLD}", "signal.valid_signals()", "ignored"])
    def test_signals_that_the_initiator_does_not_hear(self, how: str) -> None:
        source = f"""
if {how!r} == "ignored":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGIO, signal.SIG_IGN)
else:
    signal.pthread_sigmask(signal.SIG_BLOCK, {how if "." in how else "()"})
with execnet.Group(["popen", "popen//warm", "popen//warm"]) as group:
    status = "channel.send([line for line in open('/proc/self/status') if line[:4] in ('SigB', 'SigI')])"
    cold, warm, other = group.remote_exec(status).receive_each()
    say(cold == warm == other)
    cold, warm, other = group
    began = time.monotonic()
    warm.exit(wait=3)
    say([time.monotonic() - began < 1, warm.returncode])
    try:
        other.remote_exec("import os; os._exit(7)").receive(20)
    except EOFError as error:
        say(str(error).endswith("exited with status 7"))
"""
        with Initiator(source) as initiator:
            returncode, said, stderr = initiator.end()
        assert (returncode, said) == (0, [True, [True, 0], True])
        assert re.fullmatch(r"execnet: gateway 'gw2' .* exited with status 7\n", stderr)

    def test_a_mask_is_that_of_the_thread_that_starts(self, group: execnet.Group) -> None:
        blocked = "__import__('signal').pthread_sigmask(0, ())"
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGIO})
        try:
            first = group.makegateway("popen//warm")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        second = group.makegateway("popen//warm")
        masks = [value_of(gateway, f"sorted(map(int, {blocked}))") for gateway in (first, second)]
        assert masks == [sorted([signal.SIGUSR1, signal.SIGIO]), sorted(before)]
        assert len(group._forkservers) == 1

    def test_an_initiator_that_blocks_everything_is_killed(self) -> None:
        source = """
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
group = execnet.Group(["popen//warm"])
(forkserver,) = group._forkservers.values()
os.kill(forkserver.popen.pid, signal.SIGSTOP)
say([forkserver.popen.pid])
time.sleep(1000)
"""
        with Initiator(source) as initiator:
            pids = initiator.hear()
            initiator.kill()
            initiator.await_reaped()
            os.kill(pids[0], signal.SIGCONT)
            assert wait_for_end(pids, SLACK) == []

    @pytest.mark.parametrize("closed", [[0], [1], [0, 1], [0, 2], [1, 2], [0, 1, 2]], ids=str)
    def test_standard_descriptors_that_are_closed(self, closed: list[int]) -> None:
        source = f"""
os.dup2(1, 20)
for descriptor in {closed}:
    os.close(descriptor)
group = execnet.Group(["popen//warm", "popen//warm"])
values = group.remote_exec("import os; channel.send(os.readlink('/proc/self/fd/1'))").receive_each()
(forkserver,) = group._forkservers.values()
running = forkserver.popen.poll() is None
group.terminate(5)
os.dup2(20, 1)
say([values, running])
"""
        with Initiator(source) as initiator:
            assert initiator.end() == (0, [[["/dev/null", "/dev/null"], True]], "")

    def test_a_module_that_fails_where_stderr_is_closed_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "failing.py").write_text("1/0")
        source = """
os.close(2)
try:
    execnet.makegateway("popen//warm//preload=failing")
except OSError as error:
    say("preload=failing: ZeroDivisionError" in str(error))
"""
        with Initiator(source, PYTHONPATH=f"{tmp_path}") as initiator:
            assert initiator.hear() is True

    def test_a_timer_of_the_initiator_ends_nobody(self) -> None:
        source = """
signal.signal(signal.SIGALRM, lambda *args: None)
signal.setitimer(signal.ITIMER_REAL, 0.2, 0.05)
group = execnet.Group(["popen//warm"])
time.sleep(0.4)
say(group.makegateway("popen//warm").remote_status().numexecuting)
signal.setitimer(signal.ITIMER_REAL, 0)
group.terminate(5)
"""
        with Initiator(source) as initiator:
            assert initiator.end() == (0, [0], "")


class TestTold:
    def test_an_end_is_told_though_a_child_of_the_worker_lives_on(self, group: execnet.Group) -> None:
        gateway = group.makegateway("popen//warm")
        source = """
import os, signal, time
child = os.fork()
if not child:
    try:
        time.sleep(1000)
    finally:
        os._exit(0)
channel.send(child)
os._exit(7)
"""
        child = gateway.remote_exec(source).receive(SECONDS)
        try:
            assert gateway._io.popen.wait(SECONDS) == 7
        finally:
            os.kill(child, signal.SIGKILL)

    def test_a_reason_that_is_very_long_is_cut(
        self, group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "talking.py").write_text("raise ValueError('\u20ac' * 2000000)")
        monkeypatch.chdir(tmp_path)
        for _ in range(2):
            with pytest.raises(GatewayStartError, match="preload=talking: ValueError"):
                group.makegateway("popen//warm//preload=talking")
            capfd.readouterr()

    def test_a_forkserver_that_can_open_no_more_files_says_so(self, group: execnet.Group) -> None:
        gateway = group.makegateway("popen//warm")
        forkserver = forkserver_of(group).popen.pid
        await_blocked(forkserver, forkserver)  # it has let go of what was the first one's
        limit = len(os.listdir(f"/proc/{forkserver}/fd")) + 3
        resource.prlimit(forkserver, resource.RLIMIT_NOFILE, (limit, limit))
        with pytest.raises(GatewayStartError, match="the fork server has too many open files"):
            group.makegateway("popen//warm")
        assert value_of(group.makegateway("popen//warm"), "os.getppid()") != forkserver
        gateway.exit(wait=SECONDS)
        assert gateway.returncode == 0

    def test_a_request_that_is_cut_off_harms_no_other(
        self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        group.makegateway("popen//warm")
        for number in range(20):
            monkeypatch.setenv(f"LARGE_{number}", "x" * 100_000)
        forkserver_of(group).popen.send_signal(signal.SIGSTOP)
        with pytest.raises(ZeroDivisionError):  # in the middle of the request, which the fork server does not read
            interrupted_after(0.2, lambda: group.makegateway("popen//warm"))
        forkserver_of(group).popen.send_signal(signal.SIGCONT)
        gateway = group.makegateway("popen//warm")
        assert value_of(gateway, "len(os.environ['LARGE_7'])") == 100_000
        assert len(group._forkservers) == 1


def interrupted_after(seconds: float, function: Callable[[], object]) -> None:
    """Call the function; a signal handler raises ZeroDivisionError in it after that time."""
    before = signal.signal(signal.SIGALRM, lambda *args: 1 / 0)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        function()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class TestForkedInitiator:
    def test_a_child_holds_nothing_and_ends_nothing(self) -> None:
        source = """
group = execnet.Group(["popen//warm"])
(gateway,) = group
(forkserver,) = group._forkservers.values()
child = os.fork()
if not child:
    say([gateway._io.popen.poll() is not None, len(group), forkserver.popen.poll()])
    own = execnet.Group()
    say(own.makegateway("popen//warm").remote_status().numexecuting)
    own.terminate(5)
    again = group.makegateway("popen//warm")
    say(again.pid != gateway.pid)
    sys.exit()
os.waitpid(child, 0)
say([gateway.remote_status().numexecuting, forkserver.popen.poll()])
group.terminate(5)
say([gateway._io.popen.returncode, forkserver.popen.returncode])
"""
        with Initiator(source, **FORKING_ENVIRON) as initiator:
            assert initiator.end() == (0, [[True, 1, 0], 0, True, [0, None], [0, 0]], "")

    @pytest.mark.timing
    def test_forkserver_and_workers_go_though_a_child_lives_on(self) -> None:
        source = """
group = execnet.Group(["popen//warm"])
(forkserver,) = group._forkservers.values()
child = os.fork()
if not child:
    time.sleep(1000)
say([child, group[0].pid, forkserver.popen.pid])
time.sleep(1000)
"""
        with Initiator(source) as initiator:
            child, *pids = initiator.hear()
            initiator.kill()
            initiator.await_reaped()
            try:
                assert wait_for_end(pids, LOST_SECONDS + SLACK) == []
                assert is_running(child)
            finally:
                os.kill(child, signal.SIGKILL)


class TestPrivateMemory:
    def test_an_idle_worker_has_less_than_a_bare_interpreter(self, group: execnet.Group) -> None:
        bare = subprocess.Popen([sys.executable, "-c", "print(1, flush=True); input()"], stdin=-1, stdout=-1)
        gateways = group.makegateways(["popen//warm"] * 2)
        try:
            assert bare.stdout is not None
            bare.stdout.readline()
            assert private_memory(pid_of(gateways[1])) < private_memory(bare.pid)
        finally:
            bare.communicate(b"\n", SECONDS)


def private_memory(pid: int) -> int:
    """KiB of a process that no other has."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


@pytest.mark.parametrize("tx", ["2*popen//warm", "2*popen//warm//preload=_pytest.pytester"])
def test_a_run_of_xdist(tx: str, tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        "import os, pytest\n"
        "@pytest.mark.parametrize('number', range(20))\n"
        "def test_passes(number): assert number >= 0\n"
        "def test_fails(): assert 0\n"
        "def test_ends(): os._exit(3)\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    paths = [str(Path(execnet.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--dist=load", f"--tx={tx}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    output = done.stdout.decode()
    assert "2 failed, 20 passed" in output, output
    assert "crashed while running" in output
