"""What must hold between threads, signal handlers, finalizers and callbacks that share a connection.

What may hang or crash runs in a process of its own. EXECNET_SOUND_ROUNDS=1000 asks for the long form.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
from support import lines, pipes, programs
from support.blocked import Call, await_blocked
from support.initiator import Initiator, wait_for_end
from support.oracle import Oracle
from support.peer import HEADER, SECONDS, Peer, frame
from support.processes import wait_until
from support.socketserver import SocketServer

import execnet
from execnet import gateway_base

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


def environment(core: str, **extra: str) -> dict[str, Any]:
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
    go_on = (lambda: None) if "{handler}" in ("exit and join", "terminate") else (lambda: channel.send(1))
    result, given = signalled(lambda: kind({wait}), {call}, afterwards=go_on)
    if isinstance(given, list):
        given = given[2] - given[0] < 2.5 or "%.2f seconds" % (given[2] - given[0])
    say([result, given])
    kind(channel.waitclose)  # from here on the task does not count
group.terminate(2)
"""
ENDS_IT = ("exit and join", "terminate")


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("handler", HANDLERS)
def test_a_handler_uses_the_gateway_whose_wait_it_interrupts(
    wait: str, handler: str, core: str, tmp_path: Path
) -> None:
    source = IN_A_WAIT.format(handler=handler, call=HANDLERS[handler], wait=WAITS[wait])
    said = programs.run(source, environment(core), 10.0 + LONG, rounds(3), tmp_path).check()
    given = {"remote_status": 1, "remote_exec": 7, "newchannel": None, "exit and join": False, "terminate": True}
    if handler in ENDS_IT:
        result: object = "StopIteration" if wait == "next" else "EOFError"
    else:
        result = None if wait == "waitclose" else "item"
    assert said == [[result, given[handler]]] * len(said)
    assert said


OUTLASTED = """
channel = execnet.makegateway("popen").remote_exec("channel.receive()")
signal.signal(signal.SIGALRM, lambda *_: time.sleep(0.3))
for wait in channel.receive, channel.waitclose:
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    say(kind(lambda: wait(0.15)))
"""


def test_a_handler_that_takes_longer_than_a_wait_does_not_make_it_endless(program: Any) -> None:
    assert program(OUTLASTED) == ["TimeoutError"] * 2


IN_A_SEND = """
group = execnet.Group(["popen"])
gateway = group[0]
sink = gateway.remote_exec("for item in iter(channel.receive, None): channel.send(len(item))")
other = gateway.remote_exec("channel.send(channel.receive())")
gateway.remote_status()
stop(gateway.pid)
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
result, given = signalled(lambda: kind(sink.send, b"y" * (8 << 20)), HANDLERS[HANDLER], meanwhile=go_on)
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
channel.waitclose()
"""
# No other thread of the worker can run while this does.
COMPUTING = """
import os, time
started = time.monotonic()
sum(range(10**6))
count = int({seconds} / (time.monotonic() - started) * 10**6)
channel.send(os.getpid())
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
for number in range(10):
    channel.send(number)
{tell}
say(gateway.returncode)
group.terminate(20)
"""
# Longer than the times of a worker whose initiator is lost: it was told to end, and has the time it needs.
ITEM_SECONDS = 0.6 if LONG else 0.05
CALL_SECONDS = 5.0 if LONG else 0.5
# A socket's worker is the process of somebody else.
SPECS = ["popen", "installvia", "server"]


def told_to_end(source: str, tell: str, spec: str, core: str, path: Path) -> None:
    """Run a program that gives a worker something to do and then tells it to end."""
    source = source.format(path=str(path), seconds=ITEM_SECONDS if source is SERVED else CALL_SECONDS)
    text = f"SPEC, SOURCE = {spec!r}, {source!r}" + TELL.format(tell=TOLD_TO_END[tell])
    environ = environment(core, EXECNET_LOST_TIMES="{},{}".format(*LOST))
    said = programs.run(text, environ, 30.0, 1, path.parent).check()
    assert said == [0 if spec == "popen" else None]


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest, core: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a worker is started by: a process of ours, or a socket server."""
    kind: str = request.param
    if kind != "server":
        return kind
    for name, value in ENVIRON[core].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EXECNET_LOST_TIMES", "{},{}".format(*LOST))
    server: SocketServer = request.getfixturevalue("socket_server")
    return server.spec()


@pytest.mark.parametrize("tell", TOLD_TO_END)
def test_a_worker_told_to_end_handles_the_items_that_wait(tell: str, spec: str, core: str, tmp_path: Path) -> None:
    path = tmp_path / "done"
    told_to_end(SERVED, tell, spec, core, path)
    wait_until(lambda: len(path.read_text().split()) == 10, 1.0 if tell != "exit" else 10 * ITEM_SECONDS, "all items")
    assert path.read_text().split() == [str(number) for number in range(10)]


@pytest.mark.parametrize("tell", TOLD_TO_END)
def test_a_worker_told_to_end_finishes_a_call_that_holds_the_gil(
    tell: str, spec: str, core: str, tmp_path: Path
) -> None:
    path = tmp_path / "done"
    told_to_end(COMPUTING, tell, spec, core, path)
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
    source = (SERVED if work == "items" else COMPUTING).format(path=str(tmp_path / "done"), seconds=20)
    environ = environment(core, EXECNET_LOST_TIMES="{},{}".format(*LOST))
    with Initiator(f"SOURCE, TOLD = {source!r}, {told!r}" + ORPHANED, **environ) as initiator:
        pid = initiator.hear()
        initiator.kill()
        initiator.await_reaped()
        assert wait_for_end([pid], LOST[1] + (1.0 if LONG else SOON)) == []


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


SLOW_CALLBACK = """
gateway = execnet.makegateway("popen")
channel = gateway.remote_exec('''
    import itertools
    for number in itertools.count():
        channel.send(number)
        if number == 19:
            channel.receive()
''')
wait_until(lambda: channel._queue.count() == 20, PATIENCE, "the items")
seen = []
def callback(item):
    seen.append(item)
    time.sleep(0.001)
channel.send("go on")
channel.setcallback(callback)
at_return = len(seen)
wait_until(lambda: len(seen) > at_return + 500, PATIENCE, "more items")
waiting = channel._queue.count()
if not 20 <= at_return or waiting > 200 or seen[:500] != list(range(500)):
    fail("%d items when setcallback returned, %d waiting, %s" % (at_return, waiting, seen[:500]))
say("done")
os._exit(0)
"""


def test_setcallback_returns_though_items_come_faster_than_the_callback_takes_them(program: Any) -> None:
    assert program("from support.processes import wait_until\n" + SLOW_CALLBACK, rounds(2), 5) == ["done"]


# The receiver goes on in the place of the thread that sets the callback, which fails then.
CALLBACK_FAILS_LATER = (
    SLOW_CALLBACK.partition("seen = []")[0]
    + """
seen, receiver_called = [], threading.Event()
def callback(item):
    seen.append(item)
    time.sleep(0.001)
    if item != "end" and threading.current_thread() is not threading.main_thread():
        receiver_called.set()
        raise ValueError("of the callback")
channel.send("go on")
channel.setcallback(callback, endmarker="end")
if not receiver_called.wait(PATIENCE):
    fail("the receiver did not go on")
kind(channel.waitclose, PATIENCE)
wait_until(lambda: seen[-1] == "end", PATIENCE, "the end marker")
if seen[:-1] != list(range(len(seen) - 1)) or seen.count("end") != 1:
    fail(str(seen[-10:]))
say(kind(gateway.remote_exec("channel.send(1)").receive, PATIENCE))
os._exit(0)
"""
)


def test_a_callback_that_fails_when_the_receiver_has_taken_over_ends_as_any_other(program: Any) -> None:
    assert program("from support.processes import wait_until\n" + CALLBACK_FAILS_LATER, rounds(2), 5) == [1]


CALLBACK_WAITS = (
    SLOW_CALLBACK.partition("seen = []")[0]
    + """
other = gateway.remote_exec("for item in channel: channel.send(item)")
answers = []
def callback(item):
    if not answers:
        wait_until(lambda: channel._queue.count() > 200, PATIENCE, "items that the receiver has read on to")
        other.send("asked")
        answers.append(other.receive(20))
channel.send("go on")
threading.Thread(target=channel.setcallback, args=(callback,), daemon=True).start()
wait_until(lambda: answers, 3 * PATIENCE, "an answer to what the callback asks")
say(answers)
os._exit(0)
"""
)


def test_a_callback_that_waits_for_an_answer_gets_it_behind_many_items(program: Any) -> None:
    assert program("from support.processes import wait_until\n" + CALLBACK_WAITS, rounds(1), 15) == [["asked"]]


# A signal handler, in the steps after it was decided that the receiver goes on; the profile function is called there.
HANDED_OVER = (
    SLOW_CALLBACK.partition("seen = []")[0]
    + """
other = gateway.remote_exec("for item in channel: channel.send(item)")
seen, steps = [], [0]

def handler():
    if HANDLER == "raises":
        raise InterruptedError
    other.send(1)
    other.receive(5)

def profile(frame, event, argument):
    if frame.f_code.co_name == "hands_over" and frame.f_locals["self"].is_handed_over():
        steps.append(0)
    if len(steps) > 1:
        steps[0] += 1
        if steps[0] == STEP:
            sys.setprofile(None)
            handler()

def callback(item):
    seen.append(item)
    if item < 600:
        time.sleep(0.0003)

channel.send("go on")
sys.setprofile(profile)
try:
    channel.setcallback(callback, endmarker=-1)
except InterruptedError:
    pass
finally:
    sys.setprofile(None)
began = len(seen)
wait_until(lambda: len(seen) >= began + 1000, PATIENCE, "more items, after %d" % began)
channel.close()
wait_until(lambda: seen[-1] == -1, PATIENCE, "the end marker")
say(seen[:-1] == list(range(len(seen) - 1)))
os._exit(0)
"""
)


@pytest.mark.parametrize("handler", ["raises", "waits"])
@pytest.mark.parametrize("step", range(1, 8))
def test_a_handler_between_the_last_call_and_the_receiver_s_first_one(handler: str, step: int, program: Any) -> None:
    source = f"HANDLER, STEP = {handler!r}, {step}\nfrom support.processes import wait_until\n" + HANDED_OVER
    assert program(source, rounds(1), 10) == [True]


HARD_TO_TELL = {
    "no module is found any more": "import sys; sys.path[:] = []; sys.path_importer_cache.clear(); 1 / 0",
    "no descriptor is left": """
        import os, resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4000))
        while True:
            os.open("/etc/passwd", os.O_RDONLY)
    """,
    "its text is not UTF-8": "raise ValueError('\\udc80')",
    "its traceback raises": """
        class Failure(Exception):
            @property
            def __traceback__(self):
                raise OSError("no traceback")
        raise Failure
    """,
    "its class raises": """
        class Meta(type):
            @property
            def __name__(self):
                raise OSError("no name")
        class Failure(Exception, metaclass=Meta):
            pass
        raise Failure
    """,
    "it can't be looked at": """
        class Failure(EOFError):
            def __getattribute__(self, name):
                raise OSError("no " + name)
        raise Failure
    """,
}
FAILED_TASK = """
gateway = execnet.makegateway("popen")
channel = gateway.remote_exec(FAILURE)
try:
    channel.waitclose(PATIENCE)
except channel.RemoteError:
    pass
status = gateway.remote_status()
say([channel.isclosed(), status.numexecuting, status.numchannels])
os._exit(0)
"""
FAILED_CALLBACK = """
gateway = execnet.makegateway("popen")
other = gateway.remote_exec("for item in channel: channel.send(item)")
channel = gateway.remote_exec("channel.receive(); channel.send(1); channel.receive()")
def callback(item):
    exec(textwrap.dedent(FAILURE))
channel.setcallback(callback)
channel.send("go on")
try:
    channel.waitclose(PATIENCE)
except channel.RemoteError:
    pass
other.send("still there")
say([channel.isclosed(), other.receive(PATIENCE)])
os._exit(0)
"""


@pytest.mark.parametrize("failure", HARD_TO_TELL)
def test_a_failure_that_is_hard_to_tell_ends_its_task_all_the_same(failure: str, program: Any) -> None:
    assert program(f"FAILURE = {textwrap.dedent(HARD_TO_TELL[failure])!r}\n" + FAILED_TASK) == [[True, 0, 0]]


@pytest.mark.parametrize("failure", HARD_TO_TELL)
def test_a_failure_that_is_hard_to_tell_ends_the_channel_of_its_callback_and_no_other(
    failure: str, program: Any
) -> None:
    source = f"import textwrap\nFAILURE = {HARD_TO_TELL[failure]!r}\n" + FAILED_CALLBACK
    assert program(source) == [[True, "still there"]]


@pytest.mark.parametrize("transport", ["pipe"], indirect=True)
@pytest.mark.parametrize("arrives", ["item", "end", "item and end"])
def test_what_arrives_at_any_line_of_setcallback_is_called_back(peer: Peer, arrives: str) -> None:
    probe = peer.gateway.newchannel()
    setcallback = peer.base.Channel.setcallback.__code__
    for number in itertools.count():
        channel, end = peer.gateway.newchannel(), object()
        seen: list[object] = []
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
                late.append(probe)  # noqa: B023

        late: list[Any] = []
        with lines.AtLine(number, arrive, lambda code: code is setcallback) as at_line:
            channel.setcallback(seen.append, end)
        for waiting in late:
            waiting.receive(SOON)
        if arrives == "item" or not at_line.where:
            peer.end(channel)
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: end in seen, 1.0, "the end marker")  # noqa: B023
        sent = [1, 2] if at_line.where and "item" in arrives else [1]
        assert seen == [*sent, end], f"{at_line.where}, where {arrives} arrived"
        if not at_line.where:
            break
    assert number > 0


# 5. channels that are being let go of while somebody asks for all of them


ASKED_WHILE_DROPPED = """
gateway = execnet.makegateway("popen")
factory = gateway._channelfactory
sys.setswitchinterval(1e-6)
over = threading.Event()

def ask(question):
    while not over.is_set():
        question()

askers = [Call(ask, lambda: repr(gateway)), Call(ask, factory.channels), Call(ask, lambda: len(factory._channels)),
          Call(ask, lambda: [factory.new(id) for id in list(factory._queues)])]
for number in range(ROUNDS):
    nested = [gateway.newchannel() for _ in range(3)]
    for _ in range(60):
        nested = [nested]
    del nested
over.set()
ended(askers, "somebody still asks")
for asker in askers:
    asker.result()
say("done")
"""


def test_channels_can_be_asked_for_while_they_are_let_go_of(program: Any) -> None:
    assert program(ASKED_WHILE_DROPPED, rounds(150), 0.05) == ["done"]


# 6. finalizers that the garbage collector runs anywhere


# A collector without a GIL finalizes in no order: of what goes together with the finalized, the channel may be first.
FINALIZER_USES = {
    "closes": "self.channel.close()",
    "closes with an error": "self.channel.close('my reason')",
    "sends": "self.channel.isclosed() or self.channel.send(1)",
    "drops": "self.channel = None",
    "makes a channel": "self.channel = self.channel.gateway.newchannel()",
    "sets a callback": "self.channel.setcallback(ignore, endmarker=None)",
    "starts a task": "self.channel.gateway.remote_exec('pass')",
    "asks": "repr(self.channel.gateway), self.channel.gateway._channelfactory.channels()",
}
COLLECTED_IN = {
    "newchannel": "gateway.newchannel()",
    "remote_exec": "gateway.remote_exec('pass')",
    "send": "echo.send([1, {2: 3}]); echo.receive()",
    "receive": "echo.send([[], []]); echo.receive()",
    "a channel in an item": "echo.send(gateway.newchannel()); echo.receive()",
    "setcallback": "gateway.newchannel().setcallback(ignore)",
    "close": "gateway.newchannel().close()",
    "remote_status": "gateway.remote_status()",
    "repr": "repr(gateway), gateway._channelfactory.channels()",
    "a send that does not fit": "echo.send([b'x' * 300000, []]); echo.receive()",
}
COLLECTED = """
gateway = execnet.makegateway("popen")
echo = gateway.remote_exec("for item in channel: channel.send(item)")
finalized = []

def ignore(item):
    pass

class Finalized:
    def __init__(self):
        self.channel = gateway.newchannel()
        self.itself = self

    def __del__(self):
        {uses}
        finalized.append(1)

def act():
    {act}

def work():
    # The collector comes at the first, the second ... allocation of a container; each run has its own beginning.
    for number in range(ROUNDS):
        gc.disable()
        waste = [Finalized() for _ in range(3)]
        del waste
        gc.set_threshold(gc.get_count()[0] + (FIRST + number) % 40)
        gc.enable()
        act()
    gc.set_threshold(700)

call = Call(work)
ended([call], "still at it after %d finalizers" % len(finalized), PATIENCE + ROUNDS / 20)
call.result()
del call
deadline = time.monotonic() + PATIENCE
while len(finalized) < 3 * ROUNDS and time.monotonic() < deadline:
    gc.collect()  # does nothing while another thread is at it
    time.sleep(0.01)
say(len(finalized) == 3 * ROUNDS)
say(echo.send(7) or echo.receive(PATIENCE))
"""


@pytest.mark.parametrize("act", COLLECTED_IN)
@pytest.mark.parametrize("uses", FINALIZER_USES)
def test_a_finalizer_uses_channels_wherever_the_garbage_collector_runs_it(uses: str, act: str, program: Any) -> None:
    source = COLLECTED.format(uses=FINALIZER_USES[uses], act=COLLECTED_IN[act])
    assert program(f"FIRST = {random.randrange(40)}" + source, rounds(20), 0.1) == [True, 7]


@pytest.mark.parametrize("allocations", range(30))
def test_the_collector_comes_before_or_after_a_key_is_taken_out(allocations: int) -> None:
    kept = [(number,) for number in range(5000)]  # so that each further tuple is allocated, and counted
    mine, others = object(), object()
    values = {9: mine}

    class Replaces:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            values[9] = others

    threshold = gc.get_threshold()
    gc.disable()
    try:
        Replaces()
        gc.set_threshold(gc.get_count()[0] + allocations)
        gc.enable()
        gateway_base.exhaust(gateway_base.removing(values, 9, mine))
    finally:
        gc.set_threshold(*threshold)
        gc.enable()
    gc.collect()
    assert values == {9: others}
    del kept


# Its hook was there before the package, whose own comes behind it.
SENT_BEFORE_ITS_HOOK = """
kept, tried = [], []

def in_the_child():
    if kept:
        tried.append(kind(kept[0].send, "from the child"))
        tried.append(kind(kept[0].close))
        kept.pop()  # the finalizer of the other one

os.register_at_fork(after_in_child=in_the_child)
gateway = execnet.makegateway("popen")
assert "execnet.gateway_base" in sys.modules
echo, other = channels = [gateway.remote_exec("for item in channel: channel.send(item)") for _ in range(2)]
kept += channels
del channels, other
pid = os.fork()
if pid == 0:
    own = execnet.Group(["popen"])
    say([*tried, own[0].remote_exec("channel.send(7)").receive()])
    own.terminate(5)
    os._exit(0)
say(os.waitpid(pid, 0)[1])
for channel in kept:
    channel.send("mine")
    say(channel.receive(PATIENCE))
"""


def test_a_forked_child_sends_nothing_even_before_its_hooks_run(program: Any) -> None:
    assert program(SENT_BEFORE_ITS_HOOK) == [["OSError", "OSError", 7], 0, "mine", "mine"]


# Another thread's round trips may hold the machine's lock, or the role, at any fork.
USED_BEFORE_ITS_HOOK = """
channels = []

def in_the_child():
    if channels:
        signal.alarm(5)
        kind(lambda: USE)

os.register_at_fork(after_in_child=in_the_child)
gateway = execnet.makegateway("popen")
busy, quiet = [gateway.remote_exec("for item in channel: channel.send(item)") for _ in range(2)]
over = []

def round_trips():
    while not over:
        busy.send(1)
        busy.receive()

call = Call(round_trips)
channels.append(quiet)
statuses = set()
for _ in range(ROUNDS):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    statuses.add(os.waitpid(pid, 0)[1])
over.append(True)
call.result()
quiet.send("mine")
say([*statuses, kind(quiet.receive, PATIENCE)])
"""


@pytest.mark.parametrize(
    "use", ["quiet.receive(0.1)", "quiet.waitclose(0.1)", "gateway.newchannel()", "quiet.close()", "gateway.exit()"]
)
def test_a_forked_child_neither_waits_for_its_parents_threads_nor_reads_for_them(use: str, program: Any) -> None:
    assert program(USED_BEFORE_ITS_HOOK.replace("USE", use), rounds(30), 0.2) == [[0, "mine"]]


COLLECTED_IN_ITS_HOOK = """
after = 0

def collect_soon():
    gc.set_threshold(gc.get_count()[0] + after, 1, 1)
    gc.enable()

# As the documentation of gc advises: off over the fork.
os.register_at_fork(before=gc.disable, after_in_child=collect_soon)
gateway = execnet.makegateway("popen")

class Kept:
    def __init__(self):
        self.itself, self.channel = self, gateway.newchannel()

for after in range(ROUNDS):
    gc.disable()
    gc.collect()
    for _ in range(40):
        Kept()
    pid = os.fork()
    if pid == 0:
        refused = kind(gateway.newchannel)
        own = execnet.Group(["popen"])
        answer = own[0].remote_exec("channel.send(7)").receive()
        own.terminate(5)
        os._exit(0 if (refused, answer) == ("OSError", 7) else 1)
    say(os.waitpid(pid, 0)[1])
"""


def test_finalizers_that_run_while_a_forked_child_lets_go_hinder_nothing(program: Any) -> None:
    assert set(program(COLLECTED_IN_ITS_HOOK, rounds(40), 0.5)) == {0}


# What a signal's handler raises in a hook of os.fork is printed and forgotten: in the parent ours are no Python code.
HOOKS_IN_THE_PARENT = """
import os, types
hooks = []
os.register_at_fork = lambda **given: hooks.extend(given.items())
import execnet._output.carrier, execnet._transport.warm, execnet.gateway_base as base
forks = base._forks
before, after = [hook for when, hook in hooks if when != "after_in_child"]
assert not isinstance(before, types.FunctionType) and not isinstance(after, types.FunctionType)
assert not isinstance(getattr(before, "__func__", None), types.FunctionType)
assert not isinstance(getattr(after, "__func__", None), types.FunctionType)
for hook, count in ((before, 1), (before, 2), (after, 1), (after, 0), (after, 0)):
    hook()
    assert len(forks) == count
"""


def test_hooks_of_a_fork_run_no_python_in_the_parent() -> None:
    command = [sys.executable, "-c", HOOKS_IN_THE_PARENT]
    subprocess.run(command, env=environment("portable"), check=True, timeout=SECONDS)


# A handler raises now and then in what the main thread sends; what other threads send goes the same way.
INTERRUPTED_VIA = """
group = execnet.Group(["popen//id=way", "popen//via=way"])

class Interrupt(Exception):
    pass

def interrupt(number, frame):
    global armed
    if armed:
        armed = False
        raise Interrupt

def round_trips():
    channel = group[1].remote_exec("for item in channel: channel.send(item)")
    for number in itertools.count():
        if over:
            return number
        channel.send(number)
        received = channel.receive(PATIENCE)
        if received != number:
            fail("%r came for %r" % (received, number))

import itertools
armed, over = False, []
signal.signal(signal.SIGALRM, interrupt)
channel = group[1].remote_exec("for item in channel: pass")
calls = [Call(round_trips) for _ in range(3)]
interrupted = 0
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
while interrupted < ROUNDS:
    try:
        armed = True
        channel.send(1)
        armed = False
    except Interrupt:
        interrupted += 1
signal.setitimer(signal.ITIMER_REAL, 0)
over.append(True)
ended(calls, "a thread still waits")
say(all(call.result() for call in calls))
group.terminate(5)
"""


def test_an_interrupted_send_through_another_gateway_doubles_nothing_of_other_threads(program: Any) -> None:
    assert program(INTERRUPTED_VIA, rounds(500), 0.02) == [True]


def test_a_way_that_a_thread_was_kept_from_leaving_is_left_for_it(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    def in_what_leaves(code: CodeType) -> bool:
        return code.co_filename == peer.base.__file__ and code.co_name in ("_leave", "_note", "wake")

    monkeypatch.setattr(peer.base, "OVERDUE", 0.05)
    # A handler raises at each line in turn, and another one as soon as that is to be made good.
    monkeypatch.setattr(peer.base.Writer, "_leave_after_all", interrupt)
    channel = peer.gateway.newchannel()
    for line in range(10):
        with lines.AtLine(line, interrupt, in_what_leaves), contextlib.suppress(KeyboardInterrupt):
            channel.send("interrupted")
        for other in [Call(channel.send, number) for number in range(2)]:
            other.result(SOON)
        sent = sorted(peer.message()[2] for _ in range(3))
        assert sent == sorted(peer.base.dumps_internal(item) for item in ("interrupted", 0, 1))


INTERRUPTED_CLOSES = """
gateway = execnet.makegateway("popen")
armed = False

class Interrupt(Exception):
    pass

def interrupt(number, frame):
    global armed
    if armed:
        armed = False
        raise Interrupt

signal.signal(signal.SIGALRM, interrupt)
dice = random.Random(SEED)
interrupted = 0
while interrupted < ROUNDS:
    channel = gateway.remote_exec("channel.waitclose()")
    signal.setitimer(signal.ITIMER_REAL, dice.random() * 0.0002 + 1e-6)
    try:
        armed = True
        channel.close()
        armed = False
    except Interrupt:
        interrupted += 1
        channel.close()
    signal.setitimer(signal.ITIMER_REAL, 0)
deadline = time.monotonic() + PATIENCE
while gateway.remote_status().numexecuting and time.monotonic() < deadline:
    time.sleep(0.01)
say(gateway.remote_status().numexecuting)
"""


def test_a_close_that_a_handler_interrupts_is_told_to_the_other_side(program: Any) -> None:
    assert program(f"SEED = {random.random()}" + INTERRUPTED_CLOSES, rounds(100), 0.1) == [0]


COLLECTED_WITH_ITS_MODULE = """
import importlib.machinery, importlib.util
from execnet import gateway_base

for _ in range(50):
    loader = importlib.machinery.ExtensionFileLoader("execnet._core", gateway_base._core.__file__)
    core = importlib.util.module_from_spec(importlib.util.spec_from_loader("execnet._core", loader))
    loader.exec_module(core)
    pipe, cycle = os.pipe(), {}
    inner = {"cycle": cycle}
    cycle["inner"], cycle["connection"] = inner, core.Connection(core.Codec(vars(gateway_base)), *pipe)
    cycle["connection"].attach(cycle, inner, cycle.get)
    del loader, core, cycle, inner
    gc.collect()
    for descriptor in pipe:
        os.close(descriptor)
say("collected")
"""


def test_a_connection_may_be_collected_with_all_of_its_module() -> None:
    if execnet.gateway_base.core != "c":
        pytest.skip("the c core is not in use")
    assert programs.run(COLLECTED_WITH_ITS_MODULE, environment("c", PYTHONMALLOC="debug")).check() == ["collected"]


MADE_WITH_DEFAULTS = """
gateway = execnet.makegateway("popen")

class Node:
    def __init__(self):
        self.channel = gateway.newchannel()
        self.itself = self

    def __del__(self):
        self.channel.close()

def make():
    for _ in range(ROUNDS):
        Node()

call = Call(make)
ended([call], "still making")
say("done")
"""


def test_channels_are_made_while_the_collector_finalizes_others_as_often_as_it_wants(program: Any) -> None:
    assert program(MADE_WITH_DEFAULTS, rounds(3000), 0.002) == ["done"]


# 7. sending to a worker that does not read


INTERRUPTED_SENDS = """
gateway = execnet.makegateway("popen")
channel = gateway.remote_exec("channel.receive()")
dropped = [gateway.newchannel() for _ in range(3)]
gateway.remote_status()
stop(gateway.pid)
signal.signal(signal.SIGINT, signal.default_int_handler)
main = threading.get_native_id()
SITUATION
dropped.pop()
at = []

def interrupt():
    await_blocked(main)
    at.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(PATIENCE)
    if not heard:
        os.kill(gateway.pid, signal.SIGCONT)
        fail("Ctrl-C was not heard")

heard = []
Call(interrupt)
try:
    while True:
        channel.send(ITEM)
except KeyboardInterrupt:
    heard.append(time.monotonic() - at[0])
say(heard[0] < 1.0)
os.kill(gateway.pid, signal.SIGCONT)
gateway.exit()
say(gateway.join(PATIENCE))
os._exit(0)
"""
BEFORE_SENDING = {
    "idle": "",
    "another thread sends": """
sender = Call(channel.send, b"y" * (4 << 20)).await_blocked()
""",
    "the pipe is full": """
def alarm():
    await_blocked(main)
    os.kill(os.getpid(), signal.SIGINT)
Call(alarm)
try:
    while True:
        channel.send(b"y" * 4081)  # a page each
except KeyboardInterrupt:
    pass
""",
    "an interrupted message has begun": """
def alarm():
    await_blocked(main)
    os.kill(os.getpid(), signal.SIGINT)
Call(alarm)
try:
    channel.send(b"y" * (4 << 20))
except KeyboardInterrupt:
    pass
""",
}


@pytest.mark.parametrize("item", ["1", "b'x' * 5000", "b'x' * (4 << 20)"])
@pytest.mark.parametrize("before", BEFORE_SENDING)
def test_ctrl_c_ends_a_send_to_a_stopped_worker_with_a_dropped_channel_to_tell_of(
    before: str, item: str, program: Any
) -> None:
    source = INTERRUPTED_SENDS.replace("SITUATION", BEFORE_SENDING[before]).replace("ITEM", item)
    assert program(source) == [True, None]


# 8. messages of finalizers


PAGE = 4096


@pytest.mark.parametrize("transport", ["pipe"], indirect=True)
def test_a_finalizer_never_waits_and_its_message_needs_no_other_to_go_out(peer: Peer) -> None:
    channel = peer.gateway.newchannel()
    dropped = [peer.gateway.newchannel() for _ in range(1000)]
    ids = [channel.id for channel in dropped]
    item = b"x" * (PAGE - HEADER.size - len(peer.base.dumps_internal(b"")))
    pages = pipes.capacity(peer.in_.fileno()) // PAGE
    for _ in range(pages):
        channel.send(item)
    for _ in range(999):
        assert Call(seconds_of, dropped.pop).result(SOON) < 0.5
    # There is room for some of them now, not for all.
    peer.read(PAGE)
    assert Call(seconds_of, dropped.pop).result(SOON) < 0.5
    reader = Call(lambda: [peer.message()[:2] for _ in range(pages - 1 + 1000)])
    assert sorted(id for code, id in reader.result(SOON) if code != peer.DATA) == ids
    # Each was told once.
    channel.send(b"end")
    assert peer.message()[:2] == (peer.DATA, channel.id)


@pytest.mark.parametrize("transport", ["pipe"], indirect=True)
def test_a_send_does_not_wait_for_what_finalizers_left_to_it(peer: Peer) -> None:
    channel = peer.gateway.newchannel()
    dropped = [peer.gateway.newchannel() for _ in range(10_000)]
    item = b"x" * (PAGE - HEADER.size - len(peer.base.dumps_internal(b"")))
    pages = pipes.capacity(peer.in_.fileno()) // PAGE
    for _ in range(pages):
        channel.send(item)
    last = Call(channel.send, item).await_blocked()
    dropped.clear()
    # Room for the last one and for some of what was left, not for all of it.
    peer.read(2 * PAGE)
    last.result(SOON)


def seconds_of(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


class Worker:
    """A worker process whose initiator is played by the test."""

    def __init__(self) -> None:
        spec = execnet.XSpec("popen//id=played//execmodel=thread")
        self.process = subprocess.Popen(
            execnet.gateway_io.popen_args(spec), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        execnet.gateway_bootstrap.bootstrap_import(self, spec)
        self._message()  # the rest of the answer, which means nothing

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        view = memoryview(data)
        while view:
            view = view[self.process.stdin.write(view) :]

    def read(self, size: int) -> bytes:
        assert self.process.stdout is not None
        data = b""
        while len(data) < size:
            piece = self.process.stdout.read(size - len(data))
            if not piece:
                raise EOFError(f"{len(data)} bytes of {size}")
            data += piece
        return data

    def send(self, code: int, channel: int, value: object = None) -> None:
        self.write(frame(code, channel, b"" if value is None else execnet.gateway_base.dumps_internal(value)))

    def message(self, timeout: float = SOON) -> tuple[int, int, Any]:
        """The next message: code, channel and the value it carries."""
        code, channel, payload = Call(self._message).result(timeout)
        return code, channel, execnet.gateway_base.loads_internal(payload) if payload else None

    def _message(self) -> tuple[int, int, bytes]:
        code, channel, size = HEADER.unpack(self.read(HEADER.size))
        return code, channel, self.read(size)

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.kill()
        self.process.wait(SECONDS)
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def worker(remote_core: str) -> Iterator[Worker]:
    """A worker of each core, in the hands of the test."""
    worker = Worker()
    yield worker
    worker.close()


STATUS, TERMINATE, EXEC, DATA, CLOSE, CLOSE_ERROR, LAST = 0, 2, 3, 4, 5, 6, 7
DROPPING = """
import sys
sys.setswitchinterval(1e-6)
while True:
    mine = channel.gateway.newchannel()
    channel.send(mine.id)
    for _ in range(channel.receive()):
        pass
    del mine
    channel.receive()
"""


def task(source: str) -> tuple[str, None, None, dict[str, Any]]:
    return (source, None, None, {})


DROPPED_BESIDE_AN_ANSWER = """
import os
mine = channel.gateway.newchannel()
channel.send(mine.id)
for _ in range({pages}):
    channel.send(b"x" * {size})
os.mkdir({full!r})
open({fifo!r}).close()
del mine
os.mkdir({dropped!r})
open({last!r}).close()
"""


def test_a_channel_dropped_while_the_status_is_answered_is_told_of(worker: Worker, tmp_path: Path) -> None:
    """The answer waits for its reader, and what the finalizer has to say comes meanwhile."""
    full, fifo, dropped, end = (tmp_path / name for name in ("full", "fifo", "dropped", "end"))
    os.mkfifo(fifo)
    os.mkfifo(end)
    assert worker.process.stdout is not None
    pages = pipes.capacity(worker.process.stdout.fileno()) // PAGE - 1
    size = PAGE - HEADER.size - len(execnet.gateway_base.dumps_internal(b""))
    source = DROPPED_BESIDE_AN_ANSWER.format(
        pages=pages, size=size, full=str(full), fifo=str(fifo), dropped=str(dropped), last=str(end)
    )
    # The page of the id is full with what fills it up behind.
    worker.send(EXEC, 1, task(source))
    wait_until(full.exists, SOON, "the worker's way out full")
    for number in range(3, 1000, 2):  # answers, until one has to wait
        worker.send(STATUS, number)
    for tid in os.listdir(f"/proc/{worker.process.pid}/task"):
        await_blocked(int(tid), worker.process.pid)
    fifo.open("w").close()
    wait_until(dropped.exists, SOON, "the channel dropped")
    mine = worker.message()[2]
    last = False
    closed: list[int] = []
    while mine not in closed:
        try:
            code, channel, _ = worker.message(2.0)
        except TimeoutError:
            pytest.fail("the end of the dropped channel was not told")
        last = last or channel == 999
        if code == CLOSE:
            closed.append(channel)
    end.open("w").close()


SLOW_TO_FIND = """
import time
factory = type(channel.gateway._channelfactory)
find = factory.new

def new(self, id=None):
    if id in self._queues:
        time.sleep(0.2)
    return find(self, id)

factory.new = new
channel.send("slow")
channel.receive()
"""


def test_a_task_whose_channel_is_closed_before_it_begins_ends(worker: Worker) -> None:
    """The close comes while the request is being worked on, and another thread reads it."""
    worker.send(EXEC, 1, task(SLOW_TO_FIND))
    assert worker.message()[:2] == (DATA, 1)
    request = execnet.gateway_base.dumps_internal(task("channel.receive()"))
    worker.write(frame(EXEC, 3, request) + frame(CLOSE, 3))
    asked, deadline = 5, time.monotonic() + SOON
    tasks = 2
    while tasks > 1 and time.monotonic() < deadline:
        worker.send(STATUS, asked)
        while True:
            code, channel, payload = worker.message()
            if (code, channel) == (DATA, asked):
                tasks = payload["numexecuting"]
            elif (code, channel) == (CLOSE, asked):
                break
        asked += 2
    assert tasks == 1


def test_channels_dropped_beside_requests_for_the_status_are_told_of(worker: Worker) -> None:
    worker.send(EXEC, 1, task(DROPPING))
    dice = random.Random()
    for number in range(rounds(200, rare=10)):
        code, channel, mine = worker.message()
        assert (code, channel) == (DATA, 1)
        asks = 2 * number + 3
        spin = execnet.gateway_base.dumps_internal(dice.randrange(1500))
        worker.write(frame(DATA, 1, spin) + frame(STATUS, asks))
        expected = {(DATA, asks), (CLOSE, asks), (CLOSE, mine)}
        while expected:
            try:
                expected.discard(worker.message(2.0)[:2])
            except TimeoutError:
                pytest.fail(f"round {number}: {sorted(expected)} did not come")
        worker.send(DATA, 1, 0)


# 9. the end of the receiver


RECEIVER_ENDS = """
from support.peer import Peer
import itertools, tempfile
signal.signal(signal.SIGINT, signal.default_int_handler)
dice = random.Random(SEED)
path = os.path.join(os.getcwd(), "another file")
with open(path, "wb") as file:
    file.write(b"\\0" * 100000)

def interrupt(item):
    raise KeyboardInterrupt

def wait(channel, timeout):
    while True:
        outcome = kind(channel.receive, timeout)
        if outcome == "EOFError":
            return
        if outcome != "TimeoutError":
            return outcome

sys.setswitchinterval(1e-5)
for number in range(ROUNDS):
    peer = Peer(execnet, dice.choice(["socket", "pipe"]))
    broken = peer.gateway.newchannel()
    broken.setcallback(interrupt)
    waiters = [Call(wait, peer.gateway.newchannel(), timeout) for timeout in (0.0001, 0.001, 100)]
    files = []
    numbers = set(os.listdir("/proc/self/fd"))
    peer.send(broken, 1)
    while peer.gateway.hasreceiver() or len(files) < 5:
        files.append(os.open(path, os.O_RDONLY))
        if len(files) > 50:
            os.close(files.pop(0))
    ended(waiters, "round %d: a thread still waits after the end of the receiver" % number)
    outcomes = [waiter.result() for waiter in waiters]
    read = [os.lseek(file, 0, os.SEEK_CUR) for file in files]
    if any(read) or any(outcomes):
        fail("round %d: %s read from another file, %s received" % (number, read, outcomes))
    for file in files:
        os.close(file)
    peer.close()
say("done")
"""


def test_no_waiter_reads_another_file_when_the_receiver_ends(program: Any) -> None:
    assert program(f"SEED = {random.random()}" + RECEIVER_ENDS, rounds(60), 0.2) == ["done"]


def test_who_has_closed_the_connection_leaves_files_that_have_its_descriptors_numbers_alone(peer: Peer) -> None:
    gateway = peer.gateway
    gateway.exit()
    gateway._close_write()
    with contextlib.ExitStack() as stack:
        peer.hang_up()
        gateway.join(SECONDS)
        files = [stack.enter_context(open(__file__)) for _ in range(10)]
        for again in (gateway._close_write, gateway.exit, lambda: gateway._close_write(1.0)):
            again()
        assert {os.fstat(file.fileno()).st_ino for file in files} == {os.stat(__file__).st_ino}


# 10. objects half made, made twice, changed while they are written; and no descriptors left


class ByteByByte:
    """A stream that gives one byte at a time."""

    def __init__(self, data: bytes) -> None:
        self.data = memoryview(data)

    def read(self, size: int) -> bytes:
        piece, self.data = self.data[: min(size, 1)], self.data[min(size, 1) :]
        return bytes(piece)


VALUES = [None, 1, -1, 2**70, 1.5, 1j, "text", "x" * 1000, b"bytes", b"x" * 1000, [1, [2, "three"]], {"four": (5, {6})}]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_values_are_loaded_from_a_stream_that_gives_single_bytes(base: ModuleType, value: object) -> None:
    data = base.dumps(value)
    stream = ByteByByte(data + b"more")
    assert base.load(stream) == value
    assert bytes(stream.data) == b"more"
    with pytest.raises(EOFError):
        base.load(ByteByByte(data[:-1]))


HALF_MADE = """
core = getattr(execnet.gateway_base, "_core", None)
gateway = execnet.makegateway("popen")
channel = gateway.newchannel()
arguments = [(), (None,), (1,), (b"x",), (0.0,), (channel,), (1, 2), (1, 2, b""), (gateway, 3), (gateway, {}, print)]
kinds = [one for one in vars(core).values() if isinstance(one, type)] if core else [
    execnet.gateway_base.ItemQueue, execnet.gateway_base.PortableChannel]
kinds += [execnet.Channel, execnet.gateway_base.ChannelFactory]
NEVER = {"__new__", "__class__", "__init_subclass__", "__subclasshook__", "__getstate__", "__reduce__", "__reduce_ex__"}

def attempt(function, *args):
    try:
        function(*args)
    except Exception:
        pass

for one in kinds:
    for name in dir(one):
        if name in NEVER or name == "receive" and one is execnet.gateway_base.PortableChannel:
            continue
        for given in arguments:
            say([one.__name__, name, repr(given)[:60]])
            try:
                bare = one.__new__(one)
            except TypeError:
                break
            def use():
                member = getattr(bare, name)
                if callable(member):
                    member(*given)
            call = Call(attempt, use)
            call.thread.join(0.5)  # some wait, as they should
            attempt(setattr, bare, name, given)
            attempt(repr, bare)
            del bare, call, use
            if name != "__init__":
                attempt(gc.get_referents, one)
gc.collect()
say("done")
os._exit(0)
"""


def test_nothing_half_made_crashes(program: Any) -> None:
    assert program(HALF_MADE, 1, 40.0)[-1] == "done"


MADE_TWICE = """
def attempt(function, *args):
    try:
        function(*args)
    except Exception:
        pass

gateway = execnet.makegateway("popen")
for number in range(ROUNDS):
    channel = gateway.remote_exec("channel.send(channel.receive())")
    queue = channel._queue
    for again in (lambda: channel.__init__(gateway, channel.id), lambda: channel.__init__(gateway, 10**5 + number),
                  lambda: channel.__init__(None, 1), lambda: queue.__init__(channel, gateway._connection)):
        attempt(again)
    waiter = Call(attempt, channel.receive, 0.01)
    attempt(channel.send, 1)
    ended([waiter], "a thread still waits")
    del channel, queue
    gc.collect()
    repr(gateway), gateway._channelfactory.channels()
say(gateway.remote_exec("channel.send(1)").receive(PATIENCE))
"""


def test_init_called_twice_harms_nothing_but_its_channel(program: Any) -> None:
    assert program(MADE_TWICE, rounds(20), 0.1) == [1]


REPLACED_WHILE_DUMPED = """
class Odd:
    "Asked for its class, it replaces what it stands in."
    def __init__(self, action):
        self.action = action
    @property
    def __class__(self):
        self.action()
        return Odd

class Finalized:
    def __init__(self, action):
        self.action, self.itself = action, self
    def __del__(self):
        self.action()

def attempt(value, **given):
    try:
        execnet.dumps(value)
    except (execnet.DumpError, RuntimeError, IndexError):
        pass

for number in range(ROUNDS):
    # An element that empties the list, the dict, which holds it while it is looked at.
    for inside in (lambda odd: [[1], odd, "x" * 50], lambda odd: [[odd], [odd]], lambda odd: {1: odd, 2: [odd]}):
        value = []
        odd = Odd(value.clear)
        value.append(inside(odd))
        value.append(odd)
        del odd
        attempt(value)
    inner = [object.__new__(Odd) for _ in range(3)]
    for one in inner:
        one.action = inner.clear
    del one
    attempt(inner)
    # The collector comes somewhere in it.
    value = [[bytes([n]) * 100, 2**200, [n]] for n in range(50)]
    def replace():
        for index in range(len(value)):
            value[index] = None
    gc.disable()
    Finalized(replace)
    gc.set_threshold(gc.get_count()[0] + number % 40)
    gc.enable()
    attempt(value)
    gc.set_threshold(700)
say("done")
"""


def test_what_is_being_dumped_may_be_changed_by_a_finalizer(program: Any) -> None:
    assert program(REPLACED_WHILE_DUMPED, rounds(80), 0.1, PYTHONMALLOC="debug") == ["done"]


NO_DESCRIPTORS = """
import resource
gateway = execnet.makegateway("popen")
echo = gateway.remote_exec("import time\\nfor item in channel: time.sleep(0.01); channel.send(item)")
others = [gateway.remote_exec("import time\\nfor item in channel: time.sleep(0.01); channel.send(item)")
          for _ in range(2)]
taken = []
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
try:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass

def use(channel):
    for number in range(3):
        channel.send(number)
        if channel.receive(PATIENCE) != number:
            return number
        channel.send(number)
        if channel.receive() != number:
            return number
    return kind(channel.receive, 0.01)

calls = [Call(use, channel) for channel in others]
outcomes = [use(echo)]
ended(calls, "somebody still waits")
outcomes += [call.result() for call in calls]
outcomes.append(gateway.remote_status().numexecuting)
os.close(taken.pop())
say(outcomes)
"""


def test_channels_work_with_no_descriptor_left(program: Any) -> None:
    assert program(NO_DESCRIPTORS) == [["TimeoutError"] * 3 + [3]]


# 11. while a callback runs, and after it


@pytest.mark.parametrize("waits_before", [True, False], ids=["waits before", "waits during"])
def test_what_came_before_a_callback_began_is_received_while_it_runs(peer: Peer, waits_before: bool) -> None:
    begun, over = threading.Event(), threading.Event()

    def call_back(item: object) -> None:
        begun.set()
        over.wait(SECONDS)

    waited_for, called_back = peer.gateway.newchannel(), peer.gateway.newchannel()
    called_back.setcallback(call_back)
    data = peer.item(waited_for, 1) + peer.item(waited_for, 2) + peer.item(called_back, 3)
    try:
        if waits_before:
            receiver = Call(lambda: [waited_for.receive(), waited_for.receive()]).await_blocked()
            peer.write(data)
            assert begun.wait(SOON)
        else:
            peer.write(data)
            assert begun.wait(SOON)
            receiver = Call(lambda: [waited_for.receive(), waited_for.receive()])
        assert receiver.result(SOON) == [1, 2]
    finally:
        over.set()


def test_what_came_behind_the_item_of_a_callback_is_not_seen_before_the_callback_saw_it(peer: Peer) -> None:
    seen: list[object] = []
    waited_for, called_back = peer.gateway.newchannel(), peer.gateway.newchannel()
    called_back.setcallback(seen.append)
    for number in range(rounds(200)):
        receiver = Call(lambda: (waited_for.receive(SOON), len(seen)))
        peer.write(peer.item(called_back, number) + peer.item(waited_for, number))
        assert receiver.result(SOON) == (number, number + 1)


ROUND_TRIPS = """
gateway = execnet.makegateway("popen")
echo = gateway.remote_exec("for item in channel: channel.send(item)")
def trips():
    fastest = 100.0
    for _ in range(30):
        started = time.perf_counter()
        for number in range(30):
            echo.send(number)
            echo.receive()
        fastest = min(fastest, time.perf_counter() - started)
    return fastest
trips()
kept = []
without, beside = [], []
for _ in range(10):  # until neither was measured only while something else ran
    if beside and min(beside) < 1.4 * min(without):
        break
    kept.clear()
    gc.collect()
    without.append(trips())
    channel = gateway.remote_exec("channel.send(1)")
    channel.waitclose(PATIENCE)
    channel.setcallback(lambda item: None, endmarker=None)
    other = gateway.remote_exec("channel.send(1)")
    other.setcallback(lambda item: None, endmarker=None)
    other.waitclose(PATIENCE)
    ours = gateway.newchannel()
    ours.setcallback(lambda item: None)
    ours.close()
    kept[:] = channel, other, ours
    beside.append(trips())
say(min(beside) / min(without))
"""


@pytest.mark.timing
def test_a_closed_channel_that_had_a_callback_does_not_slow_down_round_trips(program: Any) -> None:
    assert program(ROUND_TRIPS)[0] < 1.4


# 12. settled, then told


def test_the_status_right_after_the_end_of_a_task_does_not_count_it(pair: execnet.Gateway) -> None:
    counted = []
    for _ in range(rounds(150)):
        channel = pair.remote_exec("pass")
        channel.waitclose(SOON)
        status = pair.remote_status()
        counted.append((status.numexecuting, status.numchannels))
    wrong = [numbers for numbers in counted if numbers != (0, 0)]
    assert not wrong, f"{len(wrong)} of {len(counted)}"


def test_the_status_right_after_an_error_does_not_count_its_task(pair: execnet.Gateway) -> None:
    counted = []
    for _ in range(rounds(100)):
        channel = pair.remote_exec("1/0")
        with pytest.raises(Exception, match="ZeroDivisionError"):
            channel.waitclose(SOON)
        counted.append(pair.remote_status().numexecuting)
    assert sum(counted) == 0, f"{sum(counted)} of {len(counted)}"


@pytest.fixture
def fast_switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_a_channel_whose_callback_failed_is_closed_when_the_peer_learns_of_it(peer: Peer, fast_switching: None) -> None:
    def fail(item: object) -> None:
        raise ValueError("from the callback")

    late, kept = 0, []
    for _ in range(rounds(150)):
        channel = peer.gateway.newchannel()
        kept.append(channel)
        channel.setcallback(fail)
        peer.send(channel, 1)
        code, id, _ = peer.message()
        late += not channel.isclosed()
        assert (code, id) == (peer.CLOSE_ERROR, channel.id)
    assert late == 0


def test_a_closed_channel_is_in_no_table_when_the_peer_learns_of_it(peer: Peer, fast_switching: None) -> None:
    late = 0
    for number in range(rounds(150)):
        channel = peer.gateway.newchannel()
        closer = Call(channel.close, *(["my error"] if number % 2 else []))
        id = peer.message()[1]
        late += not channel.isclosed() or id in peer.gateway._channelfactory._channels
        closer.result()
    assert late == 0


MALFORMED = {
    "no value": b"garbage",
    "empty": b"",
    "not a tuple": execnet.gateway_base.dumps_internal(7),
    "too short a tuple": execnet.gateway_base.dumps_internal(("pass",)),
    "too long a tuple": execnet.gateway_base.dumps_internal(("pass", None, None, {}, 5)),
    "no source": execnet.gateway_base.dumps_internal((None, None, None, {})),
    "arguments that are none": execnet.gateway_base.dumps_internal(("def f(channel): pass", None, "f", 5)),
    "cut short": execnet.gateway_base.dumps_internal(("pass", None, None, {}))[:-3],
}


@pytest.mark.parametrize("payload", MALFORMED)
def test_a_malformed_execution_request_is_answered_on_its_channel(payload: str, pair: execnet.Gateway) -> None:
    channel = pair.newchannel()
    pair._send(execnet.gateway_base.Message.CHANNEL_EXEC, channel.id, MALFORMED[payload])
    with pytest.raises(Exception) as raised:
        channel.waitclose(SOON)
    assert type(raised.value).__name__ == "RemoteError"
    assert pair.remote_exec("channel.send(1)").receive(SOON) == 1
    wait_until(lambda: pair.remote_status().numexecuting == 0, SOON, "no task left")


RAISED_OUT = """
from support.peer import Peer
class Interrupt(Exception):
    pass
def raise_it(number, frame):
    if SENDS and len(sent) == 0:
        sent.append(1)
        peer.send(channel, item[0])
    raise Interrupt
signal.signal(signal.SIGUSR1, raise_it)
main = threading.get_native_id()
dice = random.Random(SEED)
peer = Peer(execnet, TRANSPORT)
channel = peer.gateway.newchannel()
sent, item = [], [0]

def interrupt():
    await_blocked(main)
    spin = dice.randrange(1000)
    os.kill(os.getpid(), signal.SIGUSR1)
    # What comes behind the signal can't have been received before it: its handler runs first.
    for _ in range(spin):
        pass
    if not SENDS:
        peer.send(channel, item[0])

for number in range(ROUNDS):
    item[0] = number
    sent.clear()
    received, interrupter = [], None
    try:
        try:
            interrupter = Call(interrupt)
            received.append(CALL)
        finally:
            interrupter.result()
    except Interrupt:
        pass
    if not received:
        outcome = kind(channel.receive, PATIENCE)
        if outcome != number:
            fail("round %d: after the exception %s was received" % (number, outcome))
    elif received != [number]:
        fail("round %d: %s was received" % (number, received))
say("done")
os._exit(0)
"""


@pytest.mark.parametrize("transport", ["socket", "pipe"])
@pytest.mark.parametrize("call", ["channel.receive()", "channel.receive(100)", "next(channel)"])
@pytest.mark.parametrize("sends", [True, False], ids=["handler sends", "another thread sends"])
def test_an_exception_of_a_handler_out_of_receive_loses_no_item(
    call: str, transport: str, sends: bool, program: Any
) -> None:
    source = RAISED_OUT.replace("CALL", call).replace("TRANSPORT", repr(transport)).replace("SENDS", str(sends))
    assert program(source.replace("SEED", str(random.random())), rounds(15, rare=10), 0.1) == ["done"]


# the same programs over execnet 2.1.2


BESIDE_THE_ORACLE = {
    "handlers that use the gateway whose wait they interrupt": """
        gateway = execnet.makegateway("popen")
        for handler in (lambda: gateway.remote_status().numexecuting,
                        lambda: gateway.remote_exec("channel.send(7)").receive(),
                        lambda: gateway.newchannel().close()):
            channel = gateway.remote_exec("channel.send(channel.receive())")
            say(signalled(channel.receive, handler, afterwards=lambda: channel.send("item")))
            channel = gateway.remote_exec("channel.receive()")
            say(signalled(channel.waitclose, handler, afterwards=lambda: channel.send("item")))
        """,
    "handlers that exit and join the gateway whose wait they interrupt": """
        for wait in ("receive", "waitclose"):
            gateway = execnet.makegateway("popen")
            channel = gateway.remote_exec("channel.receive()")
            function = getattr(channel, wait)
            say(signalled(lambda: kind(function), lambda: (gateway.exit(), gateway.join(3), gateway.hasreceiver())[2]))
        """,
    "handlers that terminate the group whose wait they interrupt": """
        for wait in ("receive", "waitclose"):
            group = execnet.Group(["popen"] * 2)
            channel = group[0].remote_exec("channel.receive()")
            function, started = getattr(channel, wait), time.monotonic()
            say(signalled(lambda: kind(function), lambda: group.terminate(2)))
            say([time.monotonic() - started < 2.5, len(group)])
        """,
    "items that wait when a worker is told to end": """
        for tell in (lambda: (gateway.exit(), gateway.join(20), gateway._io.wait()), lambda: group.terminate(20)):
            group = execnet.Group(["popen"])
            gateway = group[0]
            channel = gateway.remote_exec('''
                import time
                def work(item):
                    time.sleep(0.04)
                    with open("done", "a") as file:
                        file.write("%d " % item)
                channel.setcallback(work)
                channel.send(1)
                channel.waitclose()
            ''')
            channel.receive()
            for number in range(10):
                channel.send(number)
            tell()
            say([open("done").read(), gateway._io.popen.poll()])
            os.unlink("done")
        """,
    "a call that holds the GIL when a worker is told to end": """
        for tell in (lambda: (gateway.exit(), gateway.join(20), gateway._io.wait()), lambda: group.terminate(20)):
            group = execnet.Group(["popen"])
            gateway = group[0]
            channel = gateway.remote_exec('''
                channel.send(1)
                sum(range(10 ** 7))
                open("done", "w").close()
            ''')
            channel.receive()
            for number in range(10):
                channel.send(number)
            tell()
            say([os.path.exists("done"), gateway._io.popen.poll()])
        """,
    "finalizers that close channels while others are made": """
        gateway = execnet.makegateway("popen")
        class Node:
            def __init__(self):
                self.channel, self.itself = gateway.newchannel(), self
            def __del__(self):
                self.channel.close()
        def make():
            for _ in range(2000):
                Node()
        call = Call(make)
        ended([call], "still making")
        say(gateway.remote_exec("channel.send(1)").receive())
        """,
    "what is settled when the other side learns of it": """
        gateway = execnet.makegateway("popen")
        for number in range(30):
            other = gateway.remote_exec('''
                def fail(item):
                    raise ValueError("from the callback")
                inner = channel.gateway.newchannel()
                inner.setcallback(fail)
                channel.send(inner)
                channel.receive()
                channel.send(inner.isclosed())
            ''')
            inner = other.receive()
            inner.send(1)
            say(kind(inner.waitclose))
            other.send(1)
            say(other.receive())
        """,
    "an execution request with a mistake": """
        gateway = execnet.makegateway("popen")
        channel = gateway.newchannel()
        gateway._send(3, channel.id, execnet.gateway_base.dumps_internal(("x = = 1", None, None, {})))
        say([kind(channel.waitclose), gateway.remote_exec("channel.send(1)").receive()])
        """,
}
END = """
execnet.default_group.terminate(1)
os._exit(0)
"""


@pytest.mark.parametrize("name", BESIDE_THE_ORACLE)
def test_a_program_has_the_outcome_it_has_over_the_oracle(name: str, core: str, oracle: Oracle, tmp_path: Path) -> None:
    source = textwrap.dedent(BESIDE_THE_ORACLE[name]) + END
    environ = environment(core, EXECNET_LOST_TIMES="{},{}".format(*LOST))
    theirs = programs.run(source, oracle.environment(), 20.0, 1, tmp_path)
    ours = programs.run(source, environ, 20.0, 1, tmp_path)
    assert theirs.status == 0, theirs.errors
    assert (ours.status, ours.said) == (theirs.status, theirs.said), ours.errors
