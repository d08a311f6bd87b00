"""What must hold between threads, signal handlers, finalizers and callbacks that share a connection.

What may hang or crash runs in a process of its own. EXECNET_SOUND_ROUNDS=1000 asks for the long form.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import programs
from support.blocked import Call, await_blocked
from support.initiator import Initiator, wait_for_end
from support.oracle import Oracle
from support.peer import HEADER, SECONDS, Peer, frame
from support.processes import wait_until
from support.socketserver import SocketServer

import execnet

LONG = int(os.environ.get("EXECNET_SOUND_ROUNDS", "0"))
# Where nothing should take any time: what a loaded machine may need for it all the same.
SOON = 5.0
# The times that a worker has when its initiator is lost, shorter than the default unless the long form runs.
LOST = (1.0, 3.0) if LONG else (0.1, 0.3)
ENVIRON = {"c": {}, "portable": {"EXECNET_PURE": "1"}}

pytestmark = pytest.mark.timeout(3600 if LONG else 60)


def rounds(short: int, rare: int = 1) -> int:
    """How often something is tried; what goes wrong rarely is tried so many times more often in the long form."""
    return max(short, LONG * rare)


def environment(core: str, **extra: str) -> dict[str, str]:
    """The environment of a program, and of its workers, over that core."""
    environ = {name: value for name, value in os.environ.items() if name != "EXECNET_PURE"}
    paths = [str(Path(execnet.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**environ, **ENVIRON[core], "PYTHONPATH": os.pathsep.join(filter(None, paths)), **extra}


@pytest.fixture(params=ENVIRON)
def core(request: pytest.FixtureRequest) -> str:
    """The core of a program in a process of its own and of its workers."""
    name: str = request.param
    if name == "c" and execnet.gateway_base.core != "c":
        pytest.skip("the c core is not in use")
    return name


@pytest.fixture
def program(core: str, tmp_path: Path) -> Callable[..., list[Any]]:
    """Runs a program to its good end; what it said."""

    def run(source: str, times: int = 1, each: float = 0.1, **environ: str) -> list[Any]:
        seconds = 20.0 + times * each
        return programs.run(source, environment(core, **environ), seconds, times, tmp_path).check()

    return run


# 1. threads that wait on channels of one gateway


THREE_WAIT = """
WAITS = {"receive": lambda channel: channel.receive(), "waitclose": lambda channel: channel.waitclose(),
         "next": lambda channel: next(channel), "receive in time": lambda channel: channel.receive(100)}
gateway = execnet.makegateway("popen")
server = gateway.remote_exec('''
    import time
    for first, second, pause in channel:
        first.send("first")
        time.sleep(pause)
        second.send("second")
''')
dice = random.Random(SEED)
for number in range(ROUNDS):
    first, closed, second = [gateway.newchannel() for _ in range(3)]
    wait = dice.choice(sorted(WAITS))

    def reader():
        item = first.receive()
        closed.close()
        return item

    threads = [Call(reader).await_blocked(), Call(kind, WAITS[wait], closed).await_blocked(),
               Call(second.receive).await_blocked()]
    server.send((first, second, dice.choice([0.001, 0.01])))
    ended(threads, "round %d: a thread still waits, beside one in %s whose channel was closed" % (number, wait))
    assert [threads[0].result(), threads[2].result()] == ["first", "second"]
say("done")
"""


def test_a_reader_that_closes_the_channel_of_another_waiter_leaves_the_third_one_served(program: Any) -> None:
    assert program(f"SEED = {random.random()}" + THREE_WAIT, rounds(12), 0.3) == ["done"]


RANDOM_CLOSES = """
gateway = execnet.makegateway("popen")
server = gateway.remote_exec("for one in channel: one.send(42)")
dice = random.Random(SEED)
for number in range(ROUNDS):
    channels = [gateway.newchannel() for _ in range(6)]
    waits = [Call(kind, dice.choice([channel.receive, channel.waitclose, lambda channel=channel: list(channel)]))
             for channel in channels]
    waiting = range(6)
    served = [Call(channel.receive) for channel in [gateway.newchannel() for _ in range(3)]]
    ours = [call._call[0].__self__ for call in served]

    def close(mine):
        for channel in mine:
            channel.close()

    def serve():
        for channel in ours:
            server.send(channel)

    dice.shuffle(channels)
    workers = [Call(close, channels[:3]), Call(close, channels[3:]), Call(serve)]
    ended(workers + waits + served, "round %d: a thread still waits" % number)
    assert [call.result() for call in served] == [42] * 3
say("done")
"""


def test_closes_of_channels_that_other_threads_wait_for_leave_nobody_waiting(program: Any) -> None:
    assert program(f"SEED = {random.random()}" + RANDOM_CLOSES, rounds(100), 0.1) == ["done"]


# 2. signal handlers that use the gateway they interrupt


HANDLERS = {
    "remote_status": "lambda: gateway.remote_status().numexecuting",
    "remote_exec": "lambda: gateway.remote_exec('channel.send(7)').receive()",
    "newchannel": "lambda: gateway.newchannel().close()",
    "exit and join": "lambda: (gateway.exit(), gateway.join(3), gateway.hasreceiver())[2]",
    "terminate": "lambda: [time.monotonic(), group.terminate(2), time.monotonic()]",
}
WAITS = {
    "receive": "channel.receive",
    "receive in time": "lambda: channel.receive(100)",
    "waitclose": "channel.waitclose",
    "next": "lambda: next(channel, 'StopIteration')",
}
IN_A_WAIT = """
group = execnet.Group(["popen"])
gateway = group[0]
for number in range(ROUNDS if "{handler}" not in ("exit and join", "terminate") else 1):
    channel = gateway.remote_exec("channel.receive(); channel.send('item')")
    result, given = signalled(lambda: kind({wait}), {call}, lambda: kind(channel.send, 1))
    if isinstance(given, list):
        given = given[2] - given[0] < 2.5 or "%.2f seconds" % (given[2] - given[0])
    say([result, given])
group.terminate(2)
"""
ENDS_IT = ("exit and join", "terminate")


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("handler", HANDLERS)
def test_a_handler_uses_the_gateway_whose_wait_it_interrupts(wait: str, handler: str, core: str, tmp_path: Path) -> None:
    source = IN_A_WAIT.format(handler=handler, call=HANDLERS[handler], wait=WAITS[wait])
    said = programs.run(source, environment(core), 10.0 + LONG, rounds(3), tmp_path).check()
    given = {"remote_status": 1, "remote_exec": 7, "newchannel": None, "exit and join": False, "terminate": True}
    if handler in ENDS_IT:
        result: object = "StopIteration" if wait == "next" else "EOFError"
    else:
        result = None if wait == "waitclose" else "item"
    assert said == [[result, given[handler]]] * len(said)
    assert said


IN_A_SEND = """
group = execnet.Group(["popen"])
gateway = group[0]
sink = gateway.remote_exec("for item in iter(channel.receive, None): channel.send(len(item))")
other = gateway.remote_exec("channel.send(channel.receive())")
gateway.remote_status()
os.kill(gateway.pid, signal.SIGSTOP)
HANDLERS = {
    "remote_status": lambda: gateway.remote_status().numexecuting,
    "remote_exec": lambda: gateway.remote_exec('channel.send(7)').receive(),
    "send": lambda: sink.send(b"x"),
    "send elsewhere": lambda: (other.send(8), other.receive())[1],
    "close": other.close,
    "exit": gateway.exit,
    "exit and join": lambda: (gateway.exit(), gateway.join(3), gateway.hasreceiver())[2],
    "terminate": lambda: group.terminate(2),
}
def go_on():
    if HANDLER != "terminate":
        time.sleep(0.1)  # the handler waits now, if it has to
        os.kill(gateway.pid, signal.SIGCONT)
started = time.monotonic()
result, given = signalled(lambda: kind(sink.send, b"y" * (8 << 20)), HANDLERS[HANDLER], go_on)
took = time.monotonic() - started
say([result, given, took < 3.5])
if HANDLER in ("exit", "exit and join", "terminate"):
    say(kind(sink.receive, 5))
else:
    say([sink.receive(5) for _ in range(2 if HANDLER == "send" else 1)])
group.terminate(2)
"""


@pytest.mark.parametrize(
    "handler", ["remote_status", "remote_exec", "send", "send elsewhere", "close", "exit", "exit and join", "terminate"]
)
def test_a_handler_uses_the_gateway_whose_large_send_it_interrupts(handler: str, core: str, tmp_path: Path) -> None:
    done = programs.run(f"HANDLER = {handler!r}" + IN_A_SEND, environment(core), 10.0, 1, tmp_path).check()
    (result, given, in_time), received = done
    assert in_time
    if handler in ("exit", "exit and join", "terminate"):
        assert given == (False if handler == "exit and join" else None)
        assert result in (None, "OSError")
    else:
        assert [result, given] == [None, {"remote_status": 2, "remote_exec": 7, "send elsewhere": 8}.get(handler)]
        assert received == [8 << 20, 1][: len(received)]


SIGTERM_ENDS_ALL = """
group = execnet.Group(["popen"] * 2)
channels = [gateway.remote_exec("channel.receive()") for gateway in group]
def leave(number, frame):
    group.terminate(2)
    sys.exit(3)
signal.signal(signal.SIGTERM, leave)
main = threading.get_native_id()
def interrupt():
    await_blocked(main)
    say("waits")
    os.kill(os.getpid(), signal.SIGTERM)
Call(interrupt)
WAIT
"""


@pytest.mark.parametrize("wait", ["channels[0].receive()", "execnet.MultiChannel(channels).waitclose()"])
def test_a_program_whose_sigterm_handler_terminates_its_group_ends(wait: str, core: str, tmp_path: Path) -> None:
    started = time.monotonic()
    done = programs.run(SIGTERM_ENDS_ALL.replace("WAIT", wait), environment(core), 10.0, 1, tmp_path)
    assert (done.status, done.said) == (3, ["waits"]), done.errors
    assert time.monotonic() - started < 2.5 + SOON


# 3. workers that are told to end while there is work


SERVED = """
import os, time
def work(number):
    if number == "begin":
        return
    time.sleep({seconds})
    os.write(done, b"%d " % number)
done = os.open({path!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
channel.setcallback(work)
channel.send(os.getpid())
"""
# No other thread of the worker can run while this does.
COMPUTING = """
import os, time
channel.send(os.getpid())
started = time.monotonic()
sum(range(10**6))
count = int({seconds} / (time.monotonic() - started) * 10**6)
sum(range(count))
done = os.open({path!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(done, b"computed")
"""
TOLD_TO_END = {
    "exit": "gateway.exit()\ngateway.join(30)\ngateway._io.wait()",
    "exit and wait": "gateway.exit(wait=30)",
    "terminate": "group.terminate(timeout=20)",
}
TELL = """
group = execnet.Group()
if SPEC == "installvia":
    group.makegateway("popen//id=master")
    SPEC = "socket//installvia=master"
gateway = group.makegateway(SPEC)
channel = gateway.remote_exec(SOURCE)
pid = channel.receive(10)
for number in range(10 if ITEMS else 0):
    channel.send(number)
{tell}
say(gateway.returncode)
group.terminate(20)
"""
ITEM_SECONDS = 0.6 if LONG else 0.08
CALL_SECONDS = 5.0 if LONG else 1.0
# A socket's worker is the process of somebody else.
SPECS = ["popen", "installvia", "server"]


def told_to_end(source: str, tell: str, items: bool, spec: str, core: str, path: Path) -> None:
    """Run a program that gives a worker something to do and then tells it to end."""
    source = source.format(path=str(path), seconds=ITEM_SECONDS if items else CALL_SECONDS)
    text = f"SPEC, SOURCE, ITEMS = {spec!r}, {source!r}, {items!r}" + TELL.format(tell=TOLD_TO_END[tell])
    environ = environment(core, EXECNET_LOST_TIMES="{},{}".format(*LOST))
    said = programs.run(text, environ, 30.0, 1, path.parent).check()
    assert said == [0 if spec == "popen" else None]


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a worker is started by: a process of ours, or a socket server."""
    kind: str = request.param
    if kind != "server":
        return kind
    monkeypatch.setenv("EXECNET_LOST_TIMES", "{},{}".format(*LOST))
    server: SocketServer = request.getfixturevalue("socket_server")
    return f"socket={server.address}"


@pytest.mark.parametrize("tell", TOLD_TO_END)
def test_a_worker_told_to_end_handles_the_items_that_wait(tell: str, spec: str, core: str, tmp_path: Path) -> None:
    path = tmp_path / "done"
    told_to_end(SERVED, tell, True, spec, core, path)
    wait_until(lambda: len(path.read_text().split()) == 10, 1.0 if tell != "exit" else 10 * ITEM_SECONDS, "all items")
    assert path.read_text().split() == [str(number) for number in range(10)]


@pytest.mark.parametrize("tell", TOLD_TO_END)
def test_a_worker_told_to_end_finishes_a_call_that_holds_the_gil(
    tell: str, spec: str, core: str, tmp_path: Path
) -> None:
    path = tmp_path / "done"
    told_to_end(COMPUTING, tell, False, spec, core, path)
    wait_until(path.exists, 1.0 if tell != "exit" else 2 * CALL_SECONDS, "the end of the call")


ORPHANED = """
gateway = execnet.makegateway("popen")
channel = gateway.remote_exec(SOURCE)
pid = channel.receive(10)
channel.send("begin")
for number in range(20):
    channel.send(number)
if TOLD:
    gateway.exit()
say(pid)
time.sleep(1000)
"""


@pytest.mark.parametrize("told", [False, True], ids=["not told to end", "told to end"])
@pytest.mark.parametrize("work", ["items", "call"])
def test_a_worker_whose_initiator_is_killed_is_gone_in_three_seconds(
    told: bool, work: str, core: str, tmp_path: Path
) -> None:
    if work == "call" and core == "portable":
        pytest.skip("nothing but C ends a process whose GIL is held")
    source = (SERVED if work == "items" else COMPUTING).format(path=str(tmp_path / "done"), seconds=20 if LONG else 4)
    environ = environment(core, EXECNET_LOST_TIMES="{},{}".format(*LOST))
    with Initiator(f"SOURCE, TOLD = {source!r}, {told!r}" + ORPHANED, **environ) as initiator:
        pid = initiator.hear()
        initiator.kill()
        initiator.await_reaped()
        assert wait_for_end([pid], LOST[1] + 1.0) == []


# 4. setcallback against arriving items


SETCALLBACK = """
from support.peer import Peer
sys.setswitchinterval(INTERVAL)
gc.disable()
peer = Peer(execnet, "pipe")
dice = random.Random(SEED)
begin, written = threading.Event(), threading.Event()
job = []
def write():
    while True:
        begin.wait()
        begin.clear()
        channel, spin = job
        for _ in range(spin):
            pass
        for item in range(3):
            peer.send(channel, item)
        peer.end(channel)
        written.set()
threading.Thread(target=write, daemon=True).start()
for number in range(ROUNDS):
    channel, end, seen, over = peer.gateway.newchannel(), object(), [], threading.Event()
    def callback(item):
        seen.append(item if item is not end else "end")
        if item is end:
            over.set()
    job[:] = channel, dice.randrange(300)
    begin.set()
    for _ in range(dice.randrange(300)):
        pass
    channel.setcallback(callback, endmarker=end)
    if not over.wait(PATIENCE) or seen != [0, 1, 2, "end"]:
        fail("round %d: the callback saw %s" % (number, seen))
    written.wait()
    written.clear()
say("done")
os._exit(0)
"""


@pytest.mark.parametrize("interval", [1e-6, 0.005])
def test_no_item_is_left_behind_by_setcallback(interval: float, program: Any) -> None:
    source = f"SEED, INTERVAL = {random.random()}, {interval!r}" + SETCALLBACK
    assert program(source, rounds(1500, rare=100), 0.01) == ["done"]


def lines_of(function: Any) -> list[int]:
    code = function.__code__
    return sorted({line for _, _, line in code.co_lines() if line and line > code.co_firstlineno})


class AtLine:
    """While in use, action() is called once, where that line of a function begins in this thread."""

    def __init__(self, function: Any, line: int, action: Callable[[], object]) -> None:
        self.code, self.line, self.action = function.__code__, line, action
        self.reached = False

    def __enter__(self) -> AtLine:
        self.traced = sys.gettrace()
        sys.settrace(lambda frame, event, argument: self._trace if frame.f_code is self.code else None)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.settrace(self.traced)

    def _trace(self, frame: Any, event: str, argument: object) -> Any:
        if event == "line" and frame.f_lineno == self.line and not self.reached:
            self.reached = True
            self.action()
        return self._trace


@pytest.mark.parametrize("transport", ["pipe"], indirect=True)
@pytest.mark.parametrize("arrives", ["item", "end", "item and end"])
def test_what_arrives_at_any_line_of_setcallback_is_called_back(peer: Peer, arrives: str) -> None:
    probe = peer.gateway.newchannel()
    for line in lines_of(peer.base.Channel.setcallback):
        channel, end, seen = peer.gateway.newchannel(), object(), []
        peer.send(channel, 1)
        peer.await_read()

        def arrive(channel: Any = channel) -> None:
            if "item" in arrives:
                peer.send(channel, 2)
            if "end" in arrives:
                peer.end(channel)
            peer.send(probe, "behind it")
            # Unless it has to wait for setcallback(), it has arrived when the probe has.
            try:
                probe.receive(0.05)
            except peer.base.TimeoutError:
                late.append(probe)

        late: list[Any] = []
        with AtLine(peer.base.Channel.setcallback, line, arrive) as at_line:
            channel.setcallback(seen.append, end)
        for waiting in late:
            waiting.receive(SOON)
        if arrives == "item" or not at_line.reached:
            peer.end(channel)
        try:
            wait_until(lambda: end in seen, 1.0, "the end marker")  # noqa: B023
        except TimeoutError:
            pass
        sent = [1, 2] if at_line.reached and "item" in arrives else [1]
        assert seen == [*sent, end], f"line {line}, where {arrives} arrived"
