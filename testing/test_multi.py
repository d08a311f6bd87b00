"""Groups and multi-channels: naming, starting, addressing several gateways together."""

from __future__ import annotations

import atexit
import itertools
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import leaks
from support.blocked import Call
from support.interpreters import Interpreter
from support.processes import wait_until

import execnet
from execnet import Group, MultiChannel, RemoteError, XSpec, gateway_base, gateway_io, multi
from execnet._group import starting

SECONDS = 20.0


class Member:
    """What a group needs of a member."""

    class _io:
        @staticmethod
        def wait() -> None:
            pass

    def __init__(self, id: str, via: str | None = None) -> None:
        self.id = id
        self.spec = XSpec("popen" if via is None else f"popen//via={via}")

    def exit(self) -> None:
        pass

    def join(self) -> None:
        pass


StandIn: Any = Member  # taken for a Gateway


class TestContainer:
    def test_an_empty_group(self, group: execnet.Group) -> None:
        assert (len(group), list(group), repr(group)) == (0, [], "<Group []>")

    def test_members_are_found_by_index_id_and_themselves(self, group: execnet.Group) -> None:
        a, b = group.makegateway("popen//id=a"), group.makegateway("popen//id=b")
        assert [group[0], group[-1], group["a"], group[b]] == [a, b, a, b]
        assert "a" in group and b in group and "c" not in group and StandIn("c") not in group
        assert repr(group) == "<Group ['a', 'b']>"
        assert (a.id, a._group, list(group), len(group)) == ("a", group, [a, b], 2)

    @pytest.mark.parametrize("key", ["nix", None, 1.5, object()])
    def test_an_unknown_key_is_a_keyerror(self, group: execnet.Group, key: Any) -> None:
        with pytest.raises(KeyError):
            group[key]

    def test_iteration_goes_over_a_copy(self, group: execnet.Group) -> None:
        for name in "ab":
            group._register(StandIn(name))
        for gateway in group:
            group._unregister(gateway)
        assert len(group) == 0

    def test_items_can_be_neither_set_nor_deleted(self, group: Any) -> None:
        group._register(StandIn("a"))
        with pytest.raises(TypeError):
            group[0] = StandIn("b")
        with pytest.raises(TypeError):
            del group[0]

    def test_registering_the_same_id_twice_is_refused(self, group: execnet.Group) -> None:
        group._register(StandIn("a"))
        with pytest.raises(ValueError, match="'a'"):
            group._register(StandIn("a"))

    def test_unregistered_members_wait_to_be_joined(self, group: execnet.Group) -> None:
        member = StandIn("a")
        group._register(member)
        group._unregister(member)
        assert (group._gateways, group._gateways_to_join) == ([], [member])


class TestIds:
    def test_specs_without_id_are_numbered(self, group: execnet.Group) -> None:
        specs = [XSpec("popen"), XSpec("popen//id=own"), XSpec("popen")]
        for spec in specs:
            group.allocate_id(spec)
        assert [spec.id for spec in specs] == ["gw0", "own", "gw1"]

    @pytest.mark.parametrize("string", ["popen//id=gw0", "popen"])
    def test_a_taken_id_is_a_valueerror(self, group: execnet.Group, string: str) -> None:
        group._register(StandIn("gw0"))
        with pytest.raises(ValueError, match="'gw0'"):
            group.allocate_id(XSpec(string))

    def test_makegateway_takes_the_id_that_was_allocated_before(self, group: execnet.Group) -> None:
        spec = XSpec("popen")
        group.allocate_id(spec)
        assert group.makegateway(spec).id == spec.id == "gw0"
        assert group.makegateway().id == "gw1"

    def test_the_spec_of_a_live_gateway_can_be_used_again(self, group: execnet.Group) -> None:
        first = group.makegateway("popen")
        first.spec.id = None
        second = group.makegateway(first.spec)
        assert (first.id, second.id) == ("gw0", "gw1")

    def test_an_id_that_is_being_started_is_refused(self, group: execnet.Group) -> None:
        spec = XSpec("popen//id=a")
        start = starting.Start(group, spec)
        start.reserve()
        for taking in (lambda: group.allocate_id(XSpec("popen//id=a")), lambda: group._register(StandIn("a"))):
            with pytest.raises(ValueError, match="'a'"):
                taking()
        start.undo()
        assert group.makegateway(spec).id == "a"

    def test_the_automatic_id_of_a_failed_start_blocks_nobody_when_it_was_taken_by_name(
        self, group: execnet.Group
    ) -> None:
        with pytest.raises(OSError):
            group.makegateway("popen//python=/bin/false")
        assert group.makegateway("popen//id=gw0").id == "gw0"
        assert [group.makegateway().id, group.makegateway().id] == ["gw1", "gw2"]

    def test_many_threads_get_different_ids(self, group: execnet.Group) -> None:
        specs = [XSpec("popen") for _ in range(200)]
        pending = iter(specs)
        lock = threading.Lock()

        def allocate() -> None:
            while True:
                with lock:
                    spec = next(pending, None)
                if spec is None:
                    return
                group.allocate_id(spec)

        threads = [threading.Thread(target=allocate) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert {spec.id for spec in specs} == {f"gw{i}" for i in range(200)}

    def test_of_two_concurrent_starts_with_one_id_one_is_refused(self, group: execnet.Group) -> None:
        results: queue.Queue[object] = queue.Queue()

        def start() -> None:
            try:
                results.put(group.makegateway("popen//id=same"))
            except ValueError as exc:
                results.put(str(exc))

        threads = [threading.Thread(target=start) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        outcomes = [results.get(timeout=SECONDS) for _ in threads]
        assert [item for item in outcomes if isinstance(item, str)] == ["already have gateway with id 'same'"]
        assert len(group) == 1

    @pytest.mark.parametrize("error", [ValueError, AssertionError])
    def test_an_id_that_is_taken_is_also_the_error_that_it_was_in_2_1(
        self, group: execnet.Group, error: type[Exception]
    ) -> None:
        gateway = group.makegateway("popen//id=same")
        for step in (
            lambda: group.makegateway("popen//id=same"),
            lambda: group._register(gateway),
            lambda: group.allocate_id(XSpec("popen//id=same")),
        ):
            with pytest.raises(error, match="already have gateway with id 'same'"):
                step()


class TestExecmodels:
    def test_default(self, group: execnet.Group) -> None:
        assert (group.execmodel.backend, group.remote_execmodel.backend) == ("thread", "thread")

    def test_the_remote_model_defaults_to_the_local_one(self, group: execnet.Group) -> None:
        group.set_execmodel("main_thread_only")
        assert group.remote_execmodel.backend == "main_thread_only"
        group.set_execmodel("thread", "main_thread_only")
        assert (group.execmodel.backend, group.remote_execmodel.backend) == ("thread", "main_thread_only")

    def test_they_are_read_only_properties(self, group: execnet.Group) -> None:
        for name in ("execmodel", "remote_execmodel"):
            with pytest.raises(AttributeError):
                setattr(group, name, group.execmodel)

    def test_unknown_model(self) -> None:
        with pytest.raises(ValueError, match="nix"):
            Group(execmodel="nix")

    def test_no_change_once_gateways_exist(self, group: execnet.Group) -> None:
        group.makegateway("popen")
        with pytest.raises(ValueError, match="gateways"):
            group.set_execmodel("thread")

    def test_specs_without_model_get_the_remote_one(self, group: execnet.Group) -> None:
        group.set_execmodel("thread", "main_thread_only")
        own = group.makegateway("popen//execmodel=thread")
        other = group.makegateway("popen")
        assert own.remote_status().execmodel == "thread"
        assert other.spec.execmodel == other.remote_status().execmodel == "main_thread_only"

    @pytest.mark.parametrize("backend", ["gevent", "eventlet"])
    def test_a_whole_life_with_a_green_model(self, backend: str) -> None:
        patch = {
            "gevent": "import gevent.monkey as m; m.patch_all()",
            "eventlet": "import eventlet as m; m.monkey_patch()",
        }
        source = f"""{patch[backend]}
import execnet
group = execnet.Group(["popen", "popen//execmodel=thread"], execmodel={backend!r})
channels = group.remote_exec("channel.send(channel.receive())")
channels.send_each(7)
print(channels.receive_each())
group.terminate(5)
print(group)
"""
        assert run_python(source) == "[7, 7]\n<Group []>\n"


def run_python(source: str) -> str:
    """The output of a program that must succeed and say nothing on stderr."""
    environ = {**os.environ, "PYTHONWARNINGS": "ignore"}  # eventlet tells that it is deprecated
    result = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, env=environ)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


class TestMakegateway:
    def test_defaultspec_is_used_for_empty_and_missing_specs(self, group: execnet.Group) -> None:
        group.defaultspec = "popen//id=mine"
        assert Group.defaultspec == "popen"
        assert group.makegateway().id == "mine"
        group.defaultspec = "popen//id=other"
        assert group.makegateway("").id == "other"

    def test_the_gateway_has_the_very_spec(self, group: execnet.Group) -> None:
        spec = XSpec("popen")
        assert group.makegateway(spec).spec is spec

    def test_a_spec_of_no_type_is_named(self, group: execnet.Group) -> None:
        with pytest.raises(ValueError, match="'qwe=1'"):
            group.makegateway("qwe=1")
        assert list(group) == []

    @pytest.mark.parametrize("string", ["popen//via=nix", "socket//installvia=nix"])
    def test_an_unknown_way_is_a_keyerror(self, group: execnet.Group, string: str) -> None:
        with pytest.raises(KeyError, match="nix"):
            group.makegateway(string)

    def test_a_nice_that_is_no_number_is_named_before_anything_starts(
        self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gateway_io, "create_io", None)
        with pytest.raises(ValueError, match="popen//nice=much"):
            group.makegateway("popen//nice=much")

    def test_chdir_nice_and_env_are_applied(self, group: execnet.Group, tmp_path: Path) -> None:
        gateway = group.makegateway(f"popen//chdir={tmp_path / 'new'}//nice=3//env:EXECNET_X=grün//env:EXECNET_Y=")
        channel = gateway.remote_exec(
            "import os; channel.send((os.getcwd(), os.nice(0), os.environ['EXECNET_X'], os.environ['EXECNET_Y']))"
        )
        assert channel.receive(SECONDS) == (str(tmp_path / "new"), os.nice(0) + 3, "grün", "")
        assert "EXECNET_X" not in os.environ

    def test_the_first_task_after_it_runs_in_the_main_thread_and_is_nice_as_well(
        self, group: execnet.Group, tmp_path: Path
    ) -> None:
        main, *others = (
            group.makegateway(f"popen//chdir={tmp_path}//nice=3"),
            *group.makegateways(["popen//nice=3"] * 4),
        )
        for gateway in (main, *others):
            source = "import os, threading as t; channel.send((t.current_thread() is t.main_thread(), os.nice(0)))\n"
            first = gateway.remote_exec(source + "channel.receive()")
            second = gateway.remote_exec(source)
            nice = os.nice(0) + 3
            assert (first.receive(SECONDS), second.receive(SECONDS)) == ((True, nice), (False, nice))
            first.send(None)

    def test_a_relative_chdir_of_several_workers(
        self, group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        group.makegateways(["popen//chdir=here"] * 3)
        cwds = group.remote_exec("import os; channel.send(os.getcwd())").receive_each()
        assert cwds == [str(tmp_path / "here")] * 3

    def test_nothing_is_executed_for_a_spec_without_settings(
        self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(execnet.Gateway, "remote_exec", None)
        assert group.makegateway("popen").hasreceiver()

    @pytest.mark.parametrize("string", ["popen//python", "ssh", "popen//via", "popen//chdir", "popen//id"])
    def test_a_key_without_the_value_it_needs_is_a_valueerror_that_names_the_spec(
        self, group: execnet.Group, string: str
    ) -> None:
        with pytest.raises(ValueError, match=f"'{string}'"):
            group.makegateway(string)

    def test_a_signal_handler_may_end_the_group_while_a_gateway_starts(self, group: execnet.Group) -> None:
        def end(*args: object) -> None:
            group.terminate(SECONDS)
            group.makegateway("popen//id=of the handler")

        former = signal.signal(signal.SIGALRM, end)
        try:
            for delay in (0.0005, 0.002, 0.005, 0.01):
                signal.setitimer(signal.ITIMER_REAL, delay)
                gateway = group.makegateway("popen")
                wait_until(lambda: "of the handler" in group, SECONDS, "the handler's gateway")
                if gateway in group:
                    assert gateway.remote_exec("channel.send(1)").receive(SECONDS) == 1
                group.terminate(SECONDS)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, former)

    def test_a_failing_setup_names_the_spec_and_leaves_nothing(self, group: execnet.Group, tmp_path: Path) -> None:
        before = leaks.processes()
        with pytest.raises(RemoteError, match="nix/deeper") as info:
            group.makegateway(f"popen//id=a//chdir={tmp_path}/nix/deeper")
        assert f"'popen//id=a//chdir={tmp_path}/nix/deeper'" in str(info.value)
        assert (list(group), group._gateways_to_join) == ([], [])
        assert leaks.processes() == before

    def test_after_a_failed_start_id_and_group_are_as_before(self, group: execnet.Group) -> None:
        spec = XSpec("popen//python=/bin/false")
        with pytest.raises(OSError, match="/bin/false"):
            group.makegateway(spec)
        assert (spec.id, list(group)) == (None, [])
        with pytest.raises(OSError, match="/bin/false"):
            group.makegateway("popen//id=a//python=/bin/false")
        assert group.makegateway("popen//id=a").id == "a"
        assert group.makegateway("popen").id == "gw0"

    def test_setup_runs_on_every_python(self, group: execnet.Group, other_python: Interpreter, tmp_path: Path) -> None:
        gateway = group.makegateway(f"popen//python={other_python}//chdir={tmp_path / 'ü'}//env:EXECNET_X=ü")
        assert gateway.remote_exec("import os; channel.send(len(os.listdir('..')))").receive(SECONDS) == 1
        (name,) = os.listdir(tmp_path)
        assert name == "ü"

    def test_via_a_via(self, group: execnet.Group) -> None:
        for spec in ("popen//id=a", "popen//id=b//via=a", "popen//id=c//via=b"):
            group.makegateway(spec)
        pids = group.remote_exec("import os; channel.send((os.getpid(), os.getppid()))").receive_each()
        assert [ppid for _, ppid in pids] == [os.getpid(), pids[0][0], pids[1][0]]


class TestMakegateways:
    def test_ids_and_order_as_written(self, group: execnet.Group) -> None:
        group.makegateway("popen//id=first")
        gateways = group.makegateways(["popen", "popen//id=x", "popen"])
        assert [gateway.id for gateway in gateways] == ["gw0", "x", "gw1"]
        assert repr(group) == "<Group ['first', 'gw0', 'x', 'gw1']>"

    def test_max_parallel_is_at_least_one(self, group: execnet.Group) -> None:
        with pytest.raises(ValueError, match="max_parallel"):
            group.makegateways(["popen"], max_parallel=0)

    def test_no_specs(self, group: execnet.Group) -> None:
        assert group.makegateways([]) == []

    def test_a_group_starts_its_specs(self) -> None:
        with Group(["popen", "popen//id=x"]) as group:
            assert [gateway.id for gateway in group] == ["gw0", "x"]

    def test_all_processes_are_started_before_one_is_awaited(
        self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from execnet import gateway_bootstrap

        steps: list[str] = []
        create_io, finish = gateway_io.create_io, gateway_bootstrap.finish

        def noted_create_io(*args: Any, **options: Any) -> gateway_io.Popen2IOMaster:
            steps.append("create")
            return create_io(*args, **options)

        def noted_finish(*args: Any) -> execnet.Gateway:
            steps.append("finish")
            return finish(*args)

        monkeypatch.setattr(gateway_io, "create_io", noted_create_io)
        monkeypatch.setattr(gateway_bootstrap, "finish", noted_finish)
        group.makegateways(["popen"] * 3)
        assert steps == ["create"] * 3 + ["finish"] * 3

    @pytest.mark.parametrize("limit", [1, 2])
    def test_max_parallel_bounds_the_starts_under_way(
        self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch, limit: int
    ) -> None:
        from execnet import gateway_bootstrap

        begun, under_way = itertools.count(1), []
        done = itertools.count(1)
        finished = [0]
        begin, finish = gateway_bootstrap.begin, gateway_bootstrap.finish

        def counting_begin(*args: Any) -> None:
            under_way.append(next(begun) - finished[0])
            begin(*args)

        def counting_finish(*args: Any) -> execnet.Gateway:
            gateway = finish(*args)
            finished[0] = next(done)
            return gateway

        monkeypatch.setattr(gateway_bootstrap, "begin", counting_begin)
        monkeypatch.setattr(gateway_bootstrap, "finish", counting_finish)
        assert len(group.makegateways(["popen"] * 5, max_parallel=limit)) == 5
        assert max(under_way) <= limit

    @pytest.mark.parametrize("limit", [None, 1, 2])
    def test_via_and_installvia_wait_for_what_they_need_wherever_that_stands(
        self, group: execnet.Group, limit: int | None
    ) -> None:
        gateways = group.makegateways(
            ["popen//id=c//via=b", "popen//id=b//via=a", "socket//id=s//installvia=a", "popen//id=a"], limit
        )
        assert [gateway.id for gateway in gateways] == [gateway.id for gateway in group] == ["c", "b", "s", "a"]
        assert group.remote_exec("channel.send(1)").receive_each() == [1] * 4

    def test_all_are_awaited_also_where_a_worker_is_fast(
        self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        start = group.execmodel.start

        def started_and_at_work(
            execmodel: gateway_base.ExecModel, func: Callable[..., object], args: tuple[Any, ...] = ()
        ) -> None:
            start(func, args)
            if getattr(func, "__func__", None) is starting.Starts._work:
                time.sleep(0.05)  # it takes its start

        monkeypatch.setattr(type(group.execmodel), "start", started_and_at_work)
        assert len(group.makegateways(["popen"] * 3)) == len(group) == 3

    def test_going_through_oneself_is_refused(self, group: execnet.Group) -> None:
        with pytest.raises(ValueError, match="goes through itself"):
            group.makegateways(["popen//id=a//via=b", "popen//id=b//via=a"])
        assert group.makegateway("popen//id=a").id == "a"

    def test_one_failure_is_raised_as_it_is_and_the_others_are_ended(self, group: execnet.Group) -> None:
        group.makegateway("popen//id=stays")
        before = leaks.processes()
        with pytest.raises(FileNotFoundError, match="nix"):
            group.makegateways(["popen", "popen//python=/nix/python", "popen"])
        assert repr(group) == "<Group ['stays']>"
        assert leaks.processes() == before
        assert group.makegateways(["popen"])[0].id == "gw0"

    def test_several_failures_are_all_named(self, group: execnet.Group) -> None:
        specs = ["popen//id=a//python=/bin/false", "popen", "qwe", "popen//via=a"]
        with pytest.raises(OSError) as info:
            group.makegateways(specs)
        text = str(info.value)
        assert text.startswith("3 of 4 gateways could not be started:")
        assert all(repr(spec) in text for spec in specs if spec != "popen")
        assert list(group) == []

    def test_a_failure_is_told_at_once_though_another_start_hangs(self, group: execnet.Group, tmp_path: Path) -> None:
        hanging = tmp_path / "hanging"
        hanging.write_text("#!/bin/sh\nexec sleep 60\n")
        hanging.chmod(0o755)
        before = leaks.processes()
        started = time.monotonic()
        with pytest.raises(OSError, match="/bin/false"):
            group.makegateways(["popen", f"popen//python={hanging}", "popen//python=/bin/false"])
        assert time.monotonic() - started < starting.FAILURE_GRACE + 5.0
        assert (list(group), leaks.processes()) == ([], before)

    def test_after_a_failure_nothing_more_is_begun(self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch) -> None:
        begun = []
        create_io = gateway_io.create_io

        def noted_create_io(spec: XSpec, **options: Any) -> gateway_io.Popen2IOMaster:
            begun.append(spec.id)
            return create_io(spec, **options)

        monkeypatch.setattr(gateway_io, "create_io", noted_create_io)
        with pytest.raises(OSError, match="/bin/false"):
            group.makegateways(["popen//id=a//python=/bin/false", "popen//id=b", "popen//id=c"], max_parallel=1)
        assert begun == ["a"]

    def test_members_of_one_call_stand_together_as_written_behind_those_that_came_before(
        self, group: execnet.Group
    ) -> None:
        specs = [[f"popen//id={name}{number}" for number in range(3)] for name in "ab"]
        threads = [threading.Thread(target=group.makegateways, args=(some,)) for some in specs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        ids = [gateway.id for gateway in group]
        assert sorted(ids) == ["a0", "a1", "a2", "b0", "b1", "b2"]
        assert [[id for id in ids if id[0] == name] for name in "ab"] == [["a0", "a1", "a2"], ["b0", "b1", "b2"]]

    def test_the_same_id_twice_starts_nothing(self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gateway_io, "create_io", None)
        with pytest.raises(ValueError, match="'a'"):
            group.makegateways(["popen//id=a", "popen//id=a"])
        monkeypatch.undo()
        assert group.makegateway("popen//id=a").id == "a"

    def test_an_interrupted_start_leaves_no_process(
        self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(self: object, missing: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(starting.Starts, "_await_all", interrupted)
        before = leaks.processes()
        with pytest.raises(KeyboardInterrupt):
            group.makegateways(["popen"] * 2)
        assert leaks.processes() == before


class TestSeveralOfOneSpec:
    def test_each_has_an_id_of_its_own(self, group: execnet.Group) -> None:
        gateways = group.makegateways(["2*popen", "popen//id=x", "1*popen//id=y"])
        assert [gateway.id for gateway in gateways] == ["gw0", "gw1", "x", "y"]
        assert len({gateway.pid for gateway in gateways}) == 4
        assert [str(gateway.spec) for gateway in group] == ["popen", "popen", "popen//id=x", "popen//id=y"]

    def test_a_group_is_made_of_them(self) -> None:
        with execnet.Group(["2*popen//env:A=1"]) as group:
            assert [gateway.spec.env for gateway in group] == [{"A": "1"}] * 2

    def test_errors_have_a_place_for_each(self, group: execnet.Group) -> None:
        results = group.makegateways(["2*popen//python=/nowhere", "popen"], return_errors=True)
        assert [isinstance(result, FileNotFoundError) for result in results] == [True, True, False]

    @pytest.mark.parametrize(
        ("spec", "said"),
        [
            ("0*popen", r"the number before \* must be at least 1: '0\*popen'"),
            ("2*popen//id=a", "2 gateways can't have the same id"),
            ("x*popen", r"no gateway type found for 'x\*popen': before \* goes a whole number, not 'x'"),
            ("-1*popen", "before [*] goes a whole number, not '-1'"),
            ("²*popen", "before [*] goes a whole number, not '²'"),
        ],
    )
    def test_what_is_no_number_is_named_and_nothing_started(self, group: execnet.Group, spec: str, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            group.makegateways(["popen", spec])
        assert len(group) == 0

    def test_one_call_of_makegateway_is_for_one(self, group: execnet.Group) -> None:
        with pytest.raises(ValueError, match=r"'2\*popen': several are for makegateways"):
            group.makegateway("2*popen")


class TestStartAhead:
    """What makes a loop over makegateway faster where its specs were announced to allocate_id, as pytest-xdist does."""

    @staticmethod
    def announced(group: execnet.Group, count: int = 4, string: str = "popen") -> list[XSpec]:
        specs = [execnet.XSpec(string) for _ in range(count)]
        for spec in specs:
            group.allocate_id(spec)
        return specs

    def test_announced_specs_are_started_while_the_first_comes_up(self, group: execnet.Group) -> None:
        group.start_ahead = 2
        specs = self.announced(group)
        first = group.makegateway(specs[0])
        ahead = {start.id: start.io.popen.pid for start in group._ahead.begun()}
        assert list(ahead) == ["gw1", "gw2"]
        gateways = [first, *map(group.makegateway, specs[1:])]
        assert [gateway.id for gateway in gateways] == ["gw0", "gw1", "gw2", "gw3"] == [gateway.id for gateway in group]
        assert [gateway.pid for gateway in gateways[1:3]] == list(ahead.values())
        assert [gateway.spec for gateway in gateways] == specs
        assert not group._ahead

    def test_what_nobody_asked_for_ends_with_the_group(self, group: execnet.Group) -> None:
        group.start_ahead = 8
        group.makegateway(self.announced(group)[0])
        popens = [start.io.popen for start in group._ahead.begun()]
        assert len(popens) == 3
        group.terminate(5.0)
        assert all(popen.returncode is not None for popen in popens)
        assert group.makegateway("popen//id=gw1").id == "gw1"

    def test_who_asks_for_one_that_is_being_discarded_starts_it_anew(
        self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        group.start_ahead = 8
        first, asked = self.announced(group, 2)
        group.makegateway(first)
        (ahead,) = group._ahead.begun()
        pid = ahead.io.popen.pid
        discarding, go_on = threading.Event(), threading.Event()
        undo = ahead.undo

        def undo_slowly() -> None:
            discarding.set()
            assert go_on.wait(SECONDS)
            undo()

        monkeypatch.setattr(ahead, "undo", undo_slowly)
        ending = Call(group.terminate, SECONDS)
        assert discarding.wait(SECONDS)
        starting = Call(group.makegateway, asked)
        time.sleep(0.05)
        go_on.set()
        gateway = starting.result(SECONDS)
        ending.result(SECONDS)
        assert gateway.pid != pid
        assert gateway.id == asked.id and gateway in group

    def test_one_that_can_not_be_started_is_told_when_it_is_asked_for(self, group: execnet.Group) -> None:
        group.start_ahead = 8
        (good,), (bad,) = self.announced(group, 1), self.announced(group, 1, "popen//python=no-such-python")
        group.makegateway(good)
        with pytest.raises(FileNotFoundError):
            group.makegateway(bad)

    @pytest.mark.parametrize("string", ["popen//python", "popen//python=no-such-python", "popen//nice=x", "qwe", "ssh"])
    def test_a_bad_one_neither_fails_a_good_one_nor_leaves_anything(self, group: execnet.Group, string: str) -> None:
        group.start_ahead = 8
        before = leaks.processes()
        (good,), (bad,), (last,) = self.announced(group, 1), self.announced(group, 1, string), self.announced(group, 1)
        assert group.makegateway(good).id == "gw0"
        assert [start.spec for start in group._ahead.begun()] == [last]
        with pytest.raises((OSError, ValueError), match=r"gateway|needs"):
            group.makegateway(bad)
        group.terminate(SECONDS)
        assert leaks.processes() == before

    def test_nothing_starts_ahead_by_default(self, group: execnet.Group) -> None:
        group.makegateway(self.announced(group)[0])
        assert not group._ahead

    def test_the_environment_variable_sets_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EXECNET_START_AHEAD", "3")
        assert execnet.Group().start_ahead == 3
        monkeypatch.setenv("EXECNET_START_AHEAD", "many")
        with pytest.raises(ValueError, match="EXECNET_START_AHEAD"):
            execnet.Group()


class TestMultiChannel:
    class FakeChannel:
        """A channel, as far as a MultiChannel needs one."""

        def __init__(self, items: Sequence[object] = (), end: Exception | None = None) -> None:
            self.items, self.end = list(items), end
            self.sent: list[object] = []

        class gateway:
            execmodel = gateway_base.get_execmodel("thread")

        def send(self, item: object) -> None:
            self.sent.append(item)

        def receive(self, *timeout: float) -> object:
            if not self.items and timeout:
                raise execnet.TimeoutError("its own words")
            item = self.items.pop(0)
            if isinstance(item, Exception):
                raise item
            return item

        def setcallback(self, callback: Callable[[Any], object], endmarker: object = None) -> None:
            for item in [*self.items, *([] if endmarker is None else [endmarker])]:
                callback(item)

        def waitclose(self) -> None:
            if self.end is not None:
                raise self.end

    Fake: Any = FakeChannel  # taken for a Channel

    def test_container(self) -> None:
        channels = [self.Fake(), self.Fake()]
        multichannel = MultiChannel(channels)
        assert (len(multichannel), list(multichannel), multichannel[1]) == (2, channels, channels[1])
        assert channels[0] in multichannel and self.Fake() not in multichannel

    def test_send_each_and_receive_each_over_real_gateways(self, group: execnet.Group) -> None:
        group.makegateways(["popen"] * 2)
        multichannel = group.remote_exec("while 1: channel.send(channel.receive() + 1)")
        multichannel.send_each(1)
        assert multichannel.receive_each() == [2, 2]
        multichannel.send_each(5)
        assert multichannel.receive_each(withchannel=True) == [(multichannel[0], 6), (multichannel[1], 6)]

    def test_receive_each_has_one_timeout_for_all(self, group: execnet.Group) -> None:
        group.makegateways(["popen"] * 3)
        multichannel = group.remote_exec("if channel.receive(): channel.send(1)\nchannel.receive()")
        for channel in multichannel:
            channel.send(channel is not multichannel[1])
        began = time.monotonic()
        with pytest.raises(execnet.TimeoutError, match=r"^no item of gateway 'gw1' after 1\.5 seconds$"):
            multichannel.receive_each(timeout=1.5)
        assert 1.5 <= time.monotonic() - began < 4.0
        with pytest.raises(
            execnet.TimeoutError, match=r"channels of 'gw0', 'gw1', 'gw2' not closed after 0\.4 seconds"
        ):
            multichannel.waitclose(timeout=0.4)
        assert time.monotonic() - began < 6.0
        multichannel.send_each(0)
        multichannel.waitclose(timeout=SECONDS)

    def test_receive_each_returns_errors_in_the_place_of_items(self, group: execnet.Group) -> None:
        group.makegateways(["popen"] * 4)
        source = "n = channel.receive()\nif n: channel.send(1 // (n - 1))\nif n == 3: channel.receive()"
        multichannel = group.remote_exec(source)
        for number, channel in enumerate(multichannel):
            channel.send(number)
        ended, failed, fine, late = multichannel.receive_each(timeout=SECONDS, return_errors=True)
        assert (type(ended), type(failed), fine, late) == (EOFError, RemoteError, 1, 0)
        assert "ZeroDivisionError" in str(failed)
        pairs = multichannel.receive_each(withchannel=True, timeout=0.3, return_errors=True)
        assert [channel for channel, _ in pairs] == list(multichannel)
        assert [type(error) for _, error in pairs] == [EOFError, EOFError, EOFError, execnet.TimeoutError]
        multichannel[3].send(0)

    def test_receive_each_returns_no_errors_of_other_kinds(self) -> None:
        odd = MultiChannel([self.Fake([ZeroDivisionError()])])
        with pytest.raises(ZeroDivisionError):
            odd.receive_each(return_errors=True)

    def test_functions_with_arguments(self, group: execnet.Group) -> None:
        def remote(channel: execnet.Channel, value: int) -> None:
            channel.send(value * 2)

        group.makegateways(["popen"] * 2)
        assert group.remote_exec(remote, value=4).receive_each() == [8, 8]

    def test_the_receive_queue_is_made_once(self, group: execnet.Group) -> None:
        group.makegateways(["popen"] * 2)
        multichannel = group.remote_exec("channel.send(1)")
        received = multichannel.make_receive_queue(endmarker=None)
        assert multichannel.make_receive_queue() is received
        got = [received.get(timeout=SECONDS) for _ in range(4)]
        assert {(channel, item) for channel, item in got} == {
            (channel, item) for channel in multichannel for item in (1, None)
        }

    def test_the_endmarker_is_the_same_object_and_none_without_one(self) -> None:
        marker = object()
        channels = [self.Fake([1]), self.Fake([2])]
        received = MultiChannel(channels).make_receive_queue(endmarker=marker)
        assert [received.get_nowait() for _ in range(received.qsize())] == [
            (channels[0], 1), (channels[0], marker), (channels[1], 2), (channels[1], marker)
        ]  # fmt: skip
        assert MultiChannel([self.Fake()]).make_receive_queue().empty()

    def test_the_receive_queue_of_no_channels(self) -> None:
        assert MultiChannel([]).make_receive_queue(endmarker=1).empty()

    def test_waitclose_waits_for_all_and_raises_the_first_remote_error(self, group: execnet.Group) -> None:
        group.makegateways(["popen"] * 3)
        multichannel = group.remote_exec(
            "n = channel.receive()\n"
            "if n: raise ValueError('error %d' % n)"
        )  # fmt: skip
        for number, channel in enumerate(multichannel):
            channel.send(number)
        with pytest.raises(RemoteError, match="error 1"):
            multichannel.waitclose()
        assert all(channel.isclosed() for channel in multichannel)

    def test_waitclose_prefers_a_remote_error_to_a_lost_connection(self) -> None:
        lost, failed = EOFError("lost"), RemoteError("failed")
        with pytest.raises(RemoteError, match="failed"):
            MultiChannel([self.Fake(end=lost), self.Fake(end=failed)]).waitclose()
        with pytest.raises(EOFError, match="lost"):
            MultiChannel([self.Fake(end=lost), self.Fake()]).waitclose()
        MultiChannel([self.Fake()]).waitclose()

    def test_a_remote_error_says_more_than_that_others_are_late(self, group: execnet.Group) -> None:
        group.makegateways(["popen"] * 2)
        multichannel = group.remote_exec("if channel.receive(): raise ValueError('reason')\nchannel.receive()")
        multichannel[0].send(0)
        multichannel[1].send(1)
        with pytest.raises(RemoteError, match="reason"):
            multichannel.waitclose(timeout=1)
        multichannel[0].send(0)


class TestErrorsOfStarts:
    def test_they_are_in_the_place_of_gateways(self, group: execnet.Group) -> None:
        specs = ["popen//id=a", "popen//python=no-such-python//id=b", "popen//via=b//id=c", "popen//via=a//id=d"]
        first, missing, behind, last = group.makegateways(specs, return_errors=True)
        assert isinstance(first, execnet.Gateway) and isinstance(last, execnet.Gateway)
        assert [gateway.id for gateway in group] == [first.id, last.id] == ["a", "d"]
        assert isinstance(missing, FileNotFoundError)
        assert type(behind) is OSError
        assert "'b' failed" in str(behind)
        assert last.remote_exec("channel.send(1)").receive(SECONDS) == 1
        assert group.makegateways(["popen//id=b", "popen//id=c"], max_parallel=1, return_errors=True) == list(group)[2:]

    @pytest.mark.parametrize("max_parallel", [None, 1])
    def test_one_that_is_late_is_given_up_alone(
        self, group: execnet.Group, tmp_path: Path, max_parallel: int | None
    ) -> None:
        slow = tmp_path / "slow"
        slow.write_text("#!/bin/sh\nexec sleep 60\n")
        slow.chmod(0o755)
        specs = ["popen//id=a", f"popen//id=b//python={slow}//timeout=2", "popen//id=c"]
        began = time.monotonic()
        first, late, last = group.makegateways(specs, max_parallel, return_errors=True)
        assert time.monotonic() - began < 6.0
        assert isinstance(first, execnet.Gateway) and isinstance(last, execnet.Gateway)
        assert [gateway.id for gateway in group] == [first.id, last.id] == ["a", "c"]
        assert isinstance(late, execnet.TimeoutError)
        assert "did not start within 2 seconds" in str(late)
        group.makegateway("popen//id=b")

    def test_of_all_of_them(self, group: execnet.Group) -> None:
        errors = group.makegateways(
            ["popen//python=no-such-python", "popen//id=x//python=nor-this"], return_errors=True
        )
        assert [type(error) for error in errors] == [FileNotFoundError] * 2
        assert len(group) == 0
        assert group.makegateway().id == "gw0"

    def test_specs_that_cannot_be_right_are_raised_for(self, group: execnet.Group) -> None:
        for wrong in ("popen//nice=much", "popen//id=a"):
            with pytest.raises(ValueError):
                group.makegateways(["popen//id=a", wrong], return_errors=True)
            assert len(group) == 0


class TestAtexit:
    def test_a_group_registers_its_cleanup_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        registered: list[Callable[[], object]] = []
        monkeypatch.setattr(atexit, "register", registered.append)
        group = Group(["popen"])
        assert registered == [group._cleanup_atexit]
        registered[0]()
        assert len(group) == 0

    def test_cleanup_terminates_with_a_second(self, group: execnet.Group, monkeypatch: pytest.MonkeyPatch) -> None:
        timeouts: list[float] = []
        group._register(StandIn("a"))
        monkeypatch.setattr(group, "terminate", timeouts.append)
        group._cleanup_atexit()
        monkeypatch.undo()
        assert timeouts == [1.0]


def test_the_default_group_is_the_packages_face() -> None:
    assert isinstance(execnet.default_group, Group)
    methods: Any = (execnet.makegateway, execnet.set_execmodel)
    assert [method.__self__ for method in methods] == [execnet.default_group] * 2
    assert multi.default_group is execnet.default_group
