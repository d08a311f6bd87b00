"""The timeline: what is recorded on both sides, over any transport, its file after any end, the page, the table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support.initiator import FORKING_ENVIRON, Initiator
from support.processes import wait_until
from support.sshd import SshServer

import execnet
from execnet._command import timeline as command
from execnet._timeline import recorder, summary, trace
from execnet._timeline.arrows import Arrows, Run
from execnet._timeline.clocks import Clock
from execnet._timeline.page import page
from execnet.script.timeline import SENT, runs

SECONDS = 20.0
Event = dict[str, Any]
Environ = dict[str, Any]
ECHO = "for item in channel: channel.send(item)\nprint('done')"
CORES = {"c": "", "portable": "1"}


@pytest.fixture(params=CORES)
def environ(request: pytest.FixtureRequest, tmp_path: Path) -> Environ:
    if request.param == "c" and execnet.gateway_base._posix_core is None:
        pytest.skip("no C core here")
    return {"EXECNET_TIMELINE": str(tmp_path / "timeline.json"), "EXECNET_PURE": CORES[request.param]}


def run(source: str, environ: Environ) -> list[Event]:
    """The timeline of a program that ends by itself."""
    with Initiator(source, **environ) as program:
        status, _, said = program.end()
        assert (status, said) == (0, "")
    events: list[Event] = json.loads(Path(environ["EXECNET_TIMELINE"]).read_text())
    return events


def of(events: list[Event], kind: str, phase: str = "X") -> list[Event]:
    return [event for event in events if event.get("cat") == kind and event["ph"] == phase]


def slices(events: list[Event]) -> Iterator[tuple[tuple[int, int], float, float, str]]:
    """(process and thread, begin, end, name) of all that has a begin and an end."""
    begun = defaultdict(list)
    for event in sorted(events, key=lambda event: event.get("ts", -1)):
        row = event["pid"], event["tid"]
        if event["ph"] == "X":
            yield row, event["ts"], event["ts"] + event["dur"], event["name"]
        elif event["ph"] == "B":
            begun[row].append(event)
        elif event["ph"] == "E":
            yield row, begun[row].pop()["ts"], event["ts"], event["name"]


def assert_nested(events: list[Event]) -> None:
    rows = defaultdict(list)
    for row, begin, end, name in slices(events):
        rows[row].append((begin, -end, name))
    for found in rows.values():
        around: list[float] = []
        for begin, end, name in sorted(found):
            while around and around[-1] <= begin + 0.002:  # times are written with so many digits
                around.pop()
            assert not around or -end <= around[-1] + 0.002, name
            around.append(-end)


TALK = """
group = execnet.Group(["popen", "popen"])
for gateway in group:
    channel = gateway.remote_exec("for item in channel: channel.send(item)")
    for number in range(5):
        channel.send(b"12345")
        channel.receive()
        time.sleep(0.002)
    channel.close()
    channel.waitclose()
got = []
channel = gateway.remote_exec("def work(channel):\\n for i in range(3): channel.send(i)\\nwork(channel)")
channel.setcallback(got.append)
channel.waitclose()
assert got == [0, 1, 2]
group.terminate(5)
"""


def test_both_sides_of_every_gateway_are_in_it(environ: Environ) -> None:
    events = run(TALK, environ)
    assert_nested(events)
    names = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert any(name.startswith("initiator ") for name in names)
    assert sorted(name.split()[0] for name in names if ": popen, Python 3" in name) == ["gw0", "gw1"]
    phases = Counter(event["name"] for event in of(events, "start"))
    assert phases == dict.fromkeys(["process", "interpreter", "handshake", "set-up", "start"], 2)
    assert len(of(events, "task", "B")) == len(of(events, "task", "E")) == 3
    for process, sends in [(1, 10), (2, 5), (3, 8)]:
        assert sum(event["args"]["items"] for event in of(events, "send") if event["pid"] == process) == sends
    assert Counter(event["name"] for event in of(events, "end", "i")) == {"told to exit": 2, "ended": 2}
    sent = {event["args"]["bytes"] for event in of(events, "send") if event["pid"] == 1}
    assert sent == {11}  # an opcode, a length, five bytes, the end


def test_an_arrow_leads_from_each_send_to_where_the_item_was_received(environ: Environ) -> None:
    events = run(TALK, environ)
    begins = {event["id"]: event for event in of(events, "item", "s")}
    ends = {event["id"]: event for event in of(events, "item", "f")}
    assert begins.keys() == ends.keys() and len(begins) >= 20
    for number, begin in begins.items():
        end = ends[number]
        assert begin["pid"] != end["pid"] and begin["ts"] <= end["ts"]
        for event, kinds in [(begin, {"send"}), (end, {"receive", "callback", "arrive"})]:
            around = [
                one
                for kind in kinds
                for one in of(events, kind)
                if (one["pid"], one["tid"]) == (event["pid"], event["tid"])
                and one["ts"] - 0.002 <= event["ts"] <= one["ts"] + one["dur"] + 0.002
            ]
            assert around, event


def test_a_task_lies_between_what_was_sent_to_it_and_what_was_received(environ: Environ) -> None:
    events = run(
        """
        channel = execnet.makegateway().remote_exec("channel.send(channel.receive())")
        channel.send(1)
        channel.receive()
        channel.waitclose()
        """.replace("\n        ", "\n"),
        environ,
    )
    (send,) = [event for event in of(events, "send") if event["pid"] == 1]
    (receive,) = [event for event in of(events, "receive") if event["pid"] == 1]
    (answer,) = [event for event in of(events, "send") if event["pid"] == 2]
    assert send["ts"] <= answer["ts"] <= receive["ts"] + receive["dur"]
    (begin,), (end,) = of(events, "task", "B"), of(events, "task", "E")
    assert begin["ts"] <= answer["ts"] <= end["ts"]


def test_items_that_follow_each_other_closely_are_one_event(environ: Environ) -> None:
    # Two notes for each item, in Python: not as many as are kept until the recorder comes.
    events = run(
        """
        channel = execnet.makegateway().remote_exec("for number in range(10000): channel.send(number)")
        assert sum(1 for item in channel) == 10000
        """.replace("\n        ", "\n"),
        environ,
    )
    sends = [event for event in of(events, "send") if event["pid"] == 2]
    assert sum(event["args"]["items"] for event in sends) == 10000
    assert len(sends) < 5000
    received = [event for kind in ("receive", "arrive") for event in of(events, kind) if "bytes" in event["args"]]
    assert sum(event["args"]["items"] for event in received) == 10000
    assert not [event for event in events if "lost" in event.get("args", {})]


def test_the_file_is_whole_after_the_program_was_killed(environ: Environ) -> None:
    source = """
channel = execnet.makegateway().remote_exec("channel.send(1)\\nchannel.receive()")
channel.receive()
say(1)
time.sleep(60)
"""
    path = Path(environ["EXECNET_TIMELINE"])
    with Initiator(source, **environ) as program:
        program.hear()
        wait_until(lambda: '"ph":"B"' in path.read_text(), SECONDS, "the begin of the task")
        program.kill()
        program.await_reaped()
    events = json.loads(path.read_text())
    assert len(of(events, "task", "B")) == 1 and not of(events, "task", "E")
    assert "(not ended)" in page(events, summary.gateways(events))


def test_the_death_of_a_worker_ends_its_task(environ: Environ) -> None:
    events = run(
        """
        gateway = execnet.makegateway()
        channel = gateway.remote_exec("channel.send(1)\\nchannel.receive()")
        channel.receive()
        time.sleep(0.5)  # it hands over what it has a few times a second
        os.kill(gateway.pid, signal.SIGKILL)
        try:
            channel.receive()
        except EOFError:
            pass
        """.replace("\n        ", "\n"),
        {**environ, "EXECNET_QUIET": "1"},
    )
    (begin,), (end,) = of(events, "task", "B"), of(events, "task", "E")
    assert end["args"]["unfinished"] and begin["ts"] < end["ts"]
    (died,) = [event for event in of(events, "end", "i") if event["name"] == "died"]
    assert "SIGKILL" in died["args"]["text"]
    (gateway,) = summary.gateways(events)
    assert gateway.end == "died"


def test_what_is_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    whole = trace.line(ph="i", pid=2, tid=0, ts=1.0, name="one")
    path.write_text(f"[\n{whole},\n{whole[:-9]}")
    assert [event["name"] for event in trace.read(str(path))] == ["one"]
    path.write_text("{}")
    with pytest.raises(ValueError, match="not a timeline"):
        trace.read(str(path))


LINE = trace.line(ph="i", pid=2, tid=0, ts=1.0, name="one")


@pytest.mark.parametrize("sizes", [[1] * 900, [*range(400, 460)], [5000, 1, 4040, 1, 4096, 1, 9000, 4000, 90, 1]])
@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_no_event_is_broken_by_the_end_of_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int], at_once: int
) -> None:
    path = tmp_path / "timeline.json"
    written = trace.Trace(str(path))
    states: list[bytes] = []
    put = trace.Trace._put

    def noting(self: trace.Trace, at: int, data: bytes) -> None:
        before = path.read_bytes()[:at]
        ends = [*range(trace.PAGE - at % trace.PAGE, len(data), trace.PAGE), len(data)]
        states.extend(before + data[:end] for end in ends)  # where a kill may break it off
        put(self, at, data)

    monkeypatch.setattr(trace.Trace, "_put", noting)
    lines = [trace.line(ph="i", pid=2, tid=0, ts=1.0, name=size * "x") for size in sizes]
    for at in range(0, len(lines), at_once):
        written.write(lines[at : at + at_once])
    written.close()
    assert json.loads(path.read_text()) == [json.loads(line) for line in lines]
    assert trace.read(str(path)) == [json.loads(line) for line in lines]
    for state in states:
        text = state.decode().rstrip().rstrip(",").removesuffix("]")
        assert max(sizes) > 3000 or json.loads(text + "]")


def test_what_a_full_disk_breaks_off_is_taken_back(environ: Environ) -> None:
    source = """
import resource
sys.stderr = None  # it is told to nobody
gateway = execnet.makegateway()
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
for number in range(100):
    gateway.remote_exec(f"channel.send({number})").receive()
time.sleep(0.5)
gateway.remote_exec("channel.send(1)").receive()
"""
    with Initiator(source, **environ) as program:
        assert program.end() == (0, [], "")
    path = Path(environ["EXECNET_TIMELINE"])
    assert 7000 < path.stat().st_size <= 9000
    assert len(json.loads(path.read_text())) > 20


# What is no event of ours, each of a file that has one before.
FOREIGN = [
    *("1", '"a"', "null", "[]", "{}", '{"ph": "X"}', '{"ph": ["X"], "pid": 1, "tid": 1, "name": ""}'),
    *(f'{{"ph": "{phase}", "pid": 2, "tid": 1, "name": ""}}' for phase in "XBEisf?"),
    *(f'{{"ph": "i", "pid": {bad}, "tid": 1, "name": "", "ts": 1}}' for bad in ('"2"', "[2]", "2.5", "null")),
    *(f'{{"ph": "i", "pid": 2, "tid": 1, "name": {bad}, "ts": 1}}' for bad in ("2", "[]", "null")),
    *(f'{{"ph": "i", "pid": 2, "tid": 1, "name": "", "ts": {bad}}}' for bad in ("NaN", "1e999", "9" * 400, '"1"')),
    *(f'{{"ph": "i", "pid": 2, "tid": 1, "name": "", "ts": 1, "args": {bad}}}' for bad in ('{"bytes": "<b>"}', "[]")),
    '{"ph": "X", "pid": 2, "tid": 1, "name": "", "ts": 1, "dur": 1, "cat": "send", "args": {}}',
    '{"ph": "M", "pid": 2, "tid": 1, "name": "process_name", "args": {"name": 1}}',
    *("[" * 100_000, '{"a":' * 100_000),
]


@pytest.mark.parametrize("line", FOREIGN, ids=range(len(FOREIGN)))
def test_what_is_no_timeline_is_said_to_be_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    path = tmp_path / "foreign.json"
    path.write_text(f"[\n{LINE},\n{line}\n]\n")
    assert command.main("execnet timeline", [str(path), "--picture", str(tmp_path / "picture.svg")]) == 1
    assert capsys.readouterr().err == f"execnet timeline: {path}: line 3 is no event\n"


def test_texts_of_any_kind_are_shown(tmp_path: Path) -> None:
    strange = "{data}{table}\ud800\0\x1b</script>\u2028"
    names = [
        trace.line(ph="M", pid=2, tid=0, name="process_name", args={"name": f"{strange} popen"}),
        trace.line(ph="M", pid=2, tid=1, name="thread_name", args={"name": strange}),
        trace.line(ph="X", pid=2, tid=1, ts=0, dur=5e6, name=strange, cat="task", args={"text": strange}),
        trace.line(ph="M", pid=3, tid=0, name="process_name", args={"name": " "}),
        trace.line(ph="X", pid=3, tid=1, ts=0, dur=5e6, name="", cat="task", args={}),
    ]
    path, picture = tmp_path / "strange.json", tmp_path / "picture.svg"
    path.write_text("[\n" + ",\n".join(names) + "\n]\n")
    program = [sys.executable, "-m", "execnet", "timeline", str(path), "--picture", str(picture)]
    ended = subprocess.run(program, capture_output=True, timeout=SECONDS)
    assert (ended.returncode, ended.stderr) == (0, b"")
    ElementTree.parse(picture)
    text = (tmp_path / "strange.json.html").read_text(encoding="utf-8")
    assert text.count("const data = ") == 1 and text.count("</script>") == 1


def test_threads_that_begin_at_once_have_one_file(environ: Environ, tmp_path: Path) -> None:
    source = """
import threading
barrier = threading.Barrier(8)
def start():
    group = execnet.Group()
    barrier.wait()
    group.makegateway().remote_exec("channel.send(1)").receive()
    group.terminate(5)
threads = [threading.Thread(target=start) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    assert len(of(run(source, environ), "task", "B")) == 8
    assert [path.name for path in tmp_path.iterdir()] == ["timeline.json"]


def test_a_second_program_has_a_file_of_its_own(environ: Environ, tmp_path: Path) -> None:
    source = "execnet.makegateway()\nsay(os.getpid())\nsys.stdin.readline()\n"
    with Initiator(source, **environ) as first, Initiator(source, **environ) as second:
        pids = [first.hear(), second.hear()]
        names = {path.name for path in tmp_path.iterdir()}
    assert "timeline.json" in names
    assert len(names & {f"timeline.json.{pid}" for pid in pids}) == 1


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Event]]]:
    """This process records; what it has recorded so far."""
    path = tmp_path / "timeline.json"
    monkeypatch.setenv("EXECNET_TIMELINE", str(path))
    monkeypatch.setattr(recorder, "_recorders", {})

    def read() -> list[Event]:
        recorder.current().flush()
        return trace.read(str(path))

    yield read
    recorder.current().stop()


def talk(gateway: execnet.Gateway) -> None:
    channel = gateway.remote_exec(ECHO)
    for number in range(3):
        channel.send(number)
        assert channel.receive(SECONDS) == number
    channel.close()
    channel.waitclose(SECONDS)


def assert_recorded(events: list[Event], process: int) -> None:
    here = [event for event in events if event["pid"] == process]
    assert len(of(here, "task", "B")) == len(of(here, "task", "E")) == 1
    assert sum(event["args"]["items"] for event in of(here, "send")) == 3
    assert len(of(here, "item", "s")) == len(of(here, "item", "f")) == 3
    (handshake,) = [event for event in of(here, "start") if event["name"] == "handshake"]
    (task,) = of(here, "task", "B")
    assert handshake["ts"] < task["ts"] < handshake["ts"] + SECONDS * 1e6  # by our clock


def test_it_works_over_a_socket_and_through_another_gateway(
    group: execnet.Group, recorded: Callable[[], list[Event]]
) -> None:
    way = group.makegateway("popen//id=way")
    for spec in ("socket//installvia=way//id=far//stdout=capture", "popen//via=way//id=through"):
        talk(group.makegateway(spec))
    far = group["far"]
    group.terminate(SECONDS)
    assert far.output("stdout") == "done\n"  # sent at the end, too, as the last notes are
    assert way.returncode is not None
    events = recorded()
    assert_recorded(events, 3)
    assert_recorded(events, 4)


def test_it_works_over_ssh(ssh_server: SshServer, group: execnet.Group, recorded: Callable[[], list[Event]]) -> None:
    talk(group.makegateway(ssh_server.spec()))
    group.terminate(SECONDS)
    assert_recorded(recorded(), 2)


def test_it_works_with_any_other_python(
    other_python: str, group: execnet.Group, recorded: Callable[[], list[Event]]
) -> None:
    talk(group.makegateway(f"popen//python={other_python}"))
    group.terminate(SECONDS)
    assert_recorded(recorded(), 2)


@pytest.mark.parametrize("model", ["main_thread_only", "thread"])
def test_the_first_task_finds_the_main_thread_free(
    model: str, group: execnet.Group, recorded: Callable[[], list[Event]]
) -> None:
    gateway = group.makegateway(f"popen//execmodel={model}")
    channel = gateway.remote_exec(
        "import threading; channel.send(threading.current_thread() is threading.main_thread())"
    )
    assert channel.receive(SECONDS)


def test_a_program_without_gateways_writes_no_file(environ: Environ) -> None:
    with Initiator("group = execnet.Group()\n", **environ) as program:
        assert program.end() == (0, [], "")
    assert not Path(environ["EXECNET_TIMELINE"]).exists()


def test_a_forked_child_leaves_the_file_to_its_parent(environ: Environ, tmp_path: Path) -> None:
    source = """
gateway = execnet.makegateway()
pid = os.fork()
if pid:
    os.waitpid(pid, 0)
    gateway.remote_exec("channel.send(1)").receive()
"""
    with Initiator(source, **{**environ, **FORKING_ENVIRON}) as program:
        assert program.end()[0] == 0
    events = json.loads(Path(environ["EXECNET_TIMELINE"]).read_text())
    assert len(of(events, "task", "E")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["timeline.json"]


def test_a_file_that_can_not_be_written_fails_the_start(tmp_path: Path) -> None:
    path = tmp_path / "none" / "timeline.json"
    environ: Environ = {"EXECNET_TIMELINE": str(path)}
    with Initiator("try: execnet.makegateway()\nexcept OSError as error: say(str(error))\n", **environ) as program:
        assert str(path) in program.hear()
        assert program.end() == (0, [], "")


def test_a_start_that_fails_is_told(group: execnet.Group, recorded: Callable[[], list[Event]]) -> None:
    with pytest.raises(OSError, match="did not start"):
        group.makegateway("popen//python=false")
    (start,) = [event for event in of(recorded(), "start") if event["name"] == "start"]
    assert start["args"]["error"] == "failed"


def test_nothing_of_it_is_imported_unless_it_is_asked_for() -> None:
    source = """
channel = execnet.makegateway().remote_exec("import sys; channel.send([name for name in sys.modules])")
say([name for name in [*channel.receive(), *sys.modules] if "timeline" in name])
"""
    environ: Environ = {"EXECNET_TIMELINE": ""}
    with Initiator(source, **environ) as program:
        assert program.hear() == []


# ---- parts


def test_the_least_round_trip_tells_the_offset() -> None:
    clock = Clock()
    clock.add(10.0, 1000.0, 10.8)
    clock.add(11.0, 1001.05, 11.2)
    assert clock.offset == pytest.approx(-989.95)


def test_clocks_that_may_be_the_same_are() -> None:
    clock = Clock()
    clock.add(10.0, 10.01, 10.1)
    assert clock.offset == 0


def at(first: int, end: int, when: float) -> Run:
    return Run(first, end, 1, 1, when)


def test_arrows_join_runs_that_share_an_item() -> None:
    arrows = Arrows()
    assert list(arrows.add(True, 1, True, at(0, 3, 1.0))) == []
    (pair,) = arrows.add(True, 1, False, at(0, 1, 2.0))
    assert pair[0].at == 1.0 and pair[1].at == 2.0
    assert len(list(arrows.add(True, 1, False, at(1, 5, 3.0)))) == 1
    assert len(list(arrows.add(True, 1, True, at(3, 5, 2.5)))) == 1
    # The notes of items 5 to 9 were lost at the sender.
    assert list(arrows.add(True, 1, True, at(10, 11, 4.0))) == []
    assert list(arrows.add(True, 1, False, at(5, 6, 4.0))) == []
    assert len(list(arrows.add(True, 1, False, at(10, 11, 5.0)))) == 1


def test_runs_are_of_one_thread_and_channel_without_a_pause() -> None:
    def note(first: int, begun: float, channel: int = 1, thread: int = 7) -> Any:
        return (SENT, channel, first, 1, 10, begun, begun + 1e-5, 1e-5, thread)

    assert [one[3] for one in runs([note(0, 1.0), note(1, 1.00002), note(2, 1.00004)])] == [3]
    assert [one[3] for one in runs([note(0, 1.0), note(1, 1.1)])] == [1, 1]
    assert [one[3] for one in runs([note(0, 1.0), note(0, 1.00002, channel=3)])] == [1, 1]
    assert [one[3] for one in runs([note(0, 1.0), note(5, 1.00002)])] == [1, 1]


def known() -> list[Event]:
    """The timeline of a gateway that starts for 1 second, works for 3, waits for 2 of them, and is idle for 4."""

    def event(seconds: float, **rest: Any) -> Event:
        return {"pid": 2, "tid": 1, "ts": seconds * 1e6, **rest}

    return [
        {"pid": 1, "tid": 0, "ph": "M", "name": "process_name", "args": {"name": "initiator 1"}},
        {"pid": 2, "tid": 0, "ph": "M", "name": "process_name", "args": {"name": "gw0 (popen)"}},
        event(0, ph="X", dur=1e6, cat="start", name="start", args={}),
        event(2, ph="B", cat="task", name="</script>", args={"channel": 1}),
        event(3, ph="X", dur=2e6, cat="receive", name="receive", args={"items": 1, "bytes": 5, "waited": 2e6}),
        event(6, ph="X", dur=1e5, cat="send", name="send", args={"items": 4, "bytes": 50}),
        event(7, ph="E", cat="task", name="</script>", args={"channel": 1}),
        event(10, ph="i", cat="end", name="ended", args={}),
    ]


def test_the_table_says_where_the_time_went() -> None:
    (gateway,) = summary.gateways(known())
    assert (gateway.starting, gateway.working, gateway.waiting, gateway.idle) == (1e6, 3e6, 2e6, 4e6)
    assert summary.table([gateway]).splitlines()[1].split() == ["gw0", *"1.000 3.000 2.000 4.000 1 1 4 ended".split()]


def test_a_gateway_without_a_free_moment_waits_when_all_its_tasks_do() -> None:
    events = known()
    for seconds, phase in ((2.5, "B"), (4, "E")):
        other = {"pid": 2, "tid": 2, "ts": seconds * 1e6, "ph": phase, "cat": "task", "name": "other"}
        events.append({**other, "args": {"channel": 3}})
    (gateway,) = summary.gateways(events)
    assert (gateway.working, gateway.waiting) == (4e6, 1e6)


def test_the_page_is_whole_in_itself() -> None:
    text = page(known(), summary.gateways(known()))
    for word in ("http:", "https:", "//cdn", "@import", "url(", " src=", " href="):
        assert word not in text
    assert text.count("</script>") == 1  # no text of a task ends it
    (data,) = [line for line in text.splitlines() if line.startswith("const data = ")]
    drawn = json.loads(data.removeprefix("const data = ").removesuffix(";"))
    assert "</script>" in drawn["texts"] and drawn["end"] == 10e6
    assert [len(row) for row in drawn["slices"]] == [4]


def test_the_command_writes_the_page_and_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "timeline.json"
    path.write_text(json.dumps(known()).replace("}, {", "},\n{").replace("[{", "[\n{").replace("}]", "}\n]"))
    assert command.main("execnet timeline", [str(path)]) == 0
    assert "gw0" in capsys.readouterr().out
    assert "<canvas" in (tmp_path / "timeline.json.html").read_text()
    assert command.main("execnet timeline", [str(tmp_path / "none.json")]) == 1
    assert "none.json" in capsys.readouterr().err
