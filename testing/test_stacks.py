"""Where a worker stands: told by any core, over any transport, and when its Python code never comes back."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from support import stuck
from support.initiator import wait_for_end
from support.interpreters import HAS_GIL
from support.peer import Peer, frame
from support.processes import children_of, stop, wait_until
from support.socketserver import SocketServer
from support.sshd import SshServer

import execnet

pytestmark = pytest.mark.stuck

SECONDS = 20.0
MakeGateway = Callable[..., execnet.Gateway]

WAITING = """
def wait_for_it():
    channel.send(1)
    channel.receive()  # the line
wait_for_it()
"""
# The line of Python that the thread stays in, and C code that keeps the GIL for ever, or for longer than any test.
LOOPING = """
def loop_in_c():
    import itertools
    channel.send(1)
    sum(itertools.repeat(0))
loop_in_c()
"""
SEARCHING = """
def search():
    import re
    channel.send(1)
    re.match("(a+)+b", "a" * 1000)
search()
"""
LOCKED = """
def lock_twice():
    import threading
    lock = threading.Lock()
    channel.send(1)
    lock.acquire()
    lock.acquire()
lock_twice()
"""

c_worker = pytest.mark.skipif(execnet.gateway_base._posix_core is None, reason="the C core answers without the GIL")
# There CPython exports nothing that looks at threads without the GIL; faulthandler has to be asked before.
HAS_TO_BE_ASKED = sys.version_info[:2] not in [(3, 11), (3, 12)] and sys.version_info < (3, 15)


def begun(gateway: execnet.Gateway, source: str) -> execnet.Channel:
    """The channel of a task that has said that it is where it stays."""
    channel = gateway.remote_exec(source)
    assert channel.receive(SECONDS)
    return channel


def asked_at_once(gateway: execnet.Gateway, count: int) -> list[str]:
    """What as many threads are told that ask at the same time."""
    with ThreadPoolExecutor(count) as pool:
        return [answer.result(SECONDS) for answer in [pool.submit(gateway.remote_stacks) for _ in range(count)]]


def assert_tells_of(text: str, channel: execnet.Channel, function: str, name: str = "<remote exec>") -> None:
    assert re.search(rf"^Task of channel {channel.id}, for \d+\.\d seconds in thread 0x[0-9a-f]+: {name}", text, re.M)
    assert re.search(rf'^  File "{name}", line \d+ in {function}$', text, re.M), text


def test_each_task_is_told_with_the_line_where_it_stands(pair: execnet.Gateway) -> None:
    assert "Task" not in pair.remote_stacks()
    first, second = begun(pair, LOCKED), begun(pair, WAITING)
    wait_until(lambda: '", line 7 in lock_twice\n' in pair.remote_stacks(), SECONDS, "the line")
    text = pair.remote_stacks()
    assert_tells_of(text, first, "lock_twice")
    assert_tells_of(text, second, "wait_for_it")
    assert len(pair._channelfactory._channels) == 2
    second.send(1)
    second.waitclose(SECONDS)
    wait_until(lambda: "wait_for_it" not in pair.remote_stacks(), SECONDS, "the task's end")


def sleep_here(channel, seconds):
    import time

    channel.send(1)
    time.sleep(seconds)


def test_a_function_is_told_by_its_file_and_name(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec(sleep_here, seconds=1000)
    channel.receive(SECONDS)
    text = pair.remote_stacks()
    assert f"{__file__}, sleep_here()" in text
    line = sleep_here.__code__.co_firstlineno + 4
    wait_until(lambda: f'File "{__file__}", line {line} in sleep_here' in pair.remote_stacks(), SECONDS, "the line")


def test_asking_is_no_task_and_leaves_nothing(pair: execnet.Gateway) -> None:
    for _ in range(50):
        pair.remote_stacks()
    status = pair.remote_status()
    assert (status.numchannels, status.numexecuting) == (0, 0)
    assert not pair._channelfactory._channels


def test_a_worker_whose_only_thread_is_taken_tells_it(makegateway: MakeGateway) -> None:
    gateway = makegateway("popen//execmodel=main_thread_only")
    channel = begun(gateway, LOCKED)
    assert_tells_of(gateway.remote_stacks(), channel, "lock_twice")


@pytest.mark.parametrize("model", ["gevent", "eventlet"])
def test_green_workers_tell_what_they_can(makegateway: MakeGateway, model: str) -> None:
    gateway = makegateway(f"popen//execmodel={model}")
    begun(gateway, WAITING)
    assert gateway.remote_stacks().startswith("Process ")


def test_over_any_transport(group: execnet.Group, socket_server: SocketServer) -> None:
    group.makegateway("popen//id=master")
    specs = ["popen//id=near", "popen//id=behind//via=master", socket_server.spec(id="socket")]
    for spec in specs:
        gateway = group.makegateway(spec)
        channel = begun(gateway, WAITING)
        assert_tells_of(gateway.remote_stacks(), channel, "wait_for_it")
        channel.send(1)


def test_over_ssh(group: execnet.Group, ssh_server: SshServer) -> None:
    gateway = group.makegateway(ssh_server.spec())
    channel = begun(gateway, WAITING)
    assert_tells_of(gateway.remote_stacks(), channel, "wait_for_it")


def test_any_python_tells_it(makegateway: MakeGateway, other_python: str) -> None:
    gateway = makegateway(f"popen//python={other_python}")
    channel = begun(gateway, WAITING)
    assert_tells_of(gateway.remote_stacks(), channel, "wait_for_it")


# in C code, with the GIL held


def prepared(gateway: execnet.Gateway) -> None:
    """Have the worker ready, where it has to be asked before."""
    if HAS_TO_BE_ASKED:
        wait_until(lambda: "found from outside" not in gateway.remote_stacks(), SECONDS, "an answer from within")


@c_worker
@pytest.mark.parametrize(("source", "function", "line"), [(LOOPING, "loop_in_c", 5), (SEARCHING, "search", 5)])
@pytest.mark.parametrize("execmodel", ["thread", "main_thread_only"])
def test_a_worker_stuck_in_c_code_tells_it_again_and_again(
    makegateway: MakeGateway, execmodel: str, source: str, function: str, line: int
) -> None:
    gateway = makegateway(f"popen//execmodel={execmodel}")
    prepared(gateway)
    channel = begun(gateway, source)
    wait_until(lambda: "Python code did not answer" in gateway.remote_stacks(), SECONDS, "C code")
    for _ in range(5):
        text = gateway.remote_stacks()
        assert "Python code did not answer" in text
        assert_tells_of(text, channel, function)
        assert f'  File "<remote exec>", line {line} in {function}\n' in text
    (thread,) = re.findall("in thread (0x[0-9a-f]+)", text)
    holders = re.findall("The GIL: thread (0x[0-9a-f]+)\n", text)
    assert holders == ([thread] if HAS_GIL else [])
    assert gateway.remote_status().numexecuting == 1


@c_worker
def test_over_any_transport_in_c_code(group: execnet.Group, socket_server: SocketServer) -> None:
    group.makegateway("popen//id=master")
    for spec in ["popen//id=behind//via=master", socket_server.spec(id="socket")]:
        gateway = group.makegateway(spec)
        prepared(gateway)
        channel = begun(gateway, LOOPING.replace("repeat(0)", "repeat(0, 2 * 10 ** 8)"))  # some seconds
        assert_tells_of(gateway.remote_stacks(), channel, "loop_in_c")
        channel.waitclose(3 * SECONDS)


@c_worker
def test_what_came_before_and_waits_for_the_gil_keeps_nobody_from_being_told(gw: execnet.Gateway) -> None:
    prepared(gw)
    channel = begun(gw, LOOPING)
    wait_until(lambda: "Python code did not answer" in gw.remote_stacks(), SECONDS, "C code")
    channel.send(1)
    for _ in range(3):
        assert_tells_of(gw.remote_stacks(), channel, "loop_in_c")


@c_worker
def test_a_callback_that_does_not_return_keeps_nobody_from_being_told(gw: execnet.Gateway) -> None:
    channel = gw.remote_exec("""
        def called(item):
            import threading
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()
        channel.setcallback(called)
        channel.send(1)
        import time
        time.sleep(1000)
        """)
    assert channel.receive(SECONDS)
    prepared(gw)
    channel.send(1)
    wait_until(lambda: "in called" in gw.remote_stacks(), SECONDS, "the callback")


@c_worker
def test_while_another_task_waits_for_an_item_in_the_main_thread(gw: execnet.Gateway) -> None:
    prepared(gw)
    waiting, looping = begun(gw, WAITING), begun(gw, LOOPING)
    for _ in range(3):
        text = gw.remote_stacks()
        assert_tells_of(text, waiting, "wait_for_it")
        assert_tells_of(text, looping, "loop_in_c")


@c_worker
def test_looking_leaves_no_process_and_is_not_heard_of(gw: execnet.Gateway) -> None:
    prepared(gw)
    told = gw.remote_exec(
        """
        import signal, os, itertools
        heard = []
        signal.signal(signal.SIGCHLD, lambda number, frame: heard.append(number))
        channel.send(1)
        channel.receive()
        sum(itertools.repeat(0, 10 ** 8))  # about a second
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            heard.append("no child")
        channel.send(heard)
        """
    )
    assert told.receive(SECONDS)
    told.send(1)
    texts: list[str] = []
    while not any("did not answer" in text for text in texts):
        texts.append(gw.remote_stacks())
    assert told.receive(3 * SECONDS) == ["no child"]
    wait_until(lambda: "Python code did not answer" not in gw.remote_stacks(), SECONDS, "an answer of Python code")


@c_worker
def test_threads_that_ask_at_once_all_get_an_answer(gw: execnet.Gateway) -> None:
    prepared(gw)
    channel = begun(gw, LOOPING)
    for text in asked_at_once(gw, 4):
        assert_tells_of(text, channel, "loop_in_c")


@c_worker
def test_nor_does_one_get_none_where_nobody_reads(gw: execnet.Gateway) -> None:
    prepared(gw)
    reading = gw.remote_exec("while True: channel.receive()")
    channel = begun(gw, LOOPING)
    reading.send(1)  # whoever has read it waits for the GIL
    for text in asked_at_once(gw, 3):
        assert_tells_of(text, channel, "loop_in_c")


# no answer


def test_who_does_not_answer_is_told_as_a_timeout(peer: Peer) -> None:
    began = time.monotonic()
    with pytest.raises(OSError, match=r"did not tell its stacks within 0\.2 seconds"):
        peer.gateway.remote_stacks(timeout=0.2)
    assert time.monotonic() - began < 5
    assert not peer.gateway._channelfactory._channels


def test_a_gateway_that_has_ended_says_so(pair: execnet.Gateway) -> None:
    pair.exit()
    pair.join(SECONDS)
    with pytest.raises((OSError, EOFError)):
        pair.remote_stacks()


def test_a_worker_that_dies_meanwhile_is_told(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec(stuck.IDLE + "; import signal; channel.receive(); os.kill(os.getpid(), signal.SIGKILL)")
    channel.receive(SECONDS)
    stop(pair._io.popen.pid)
    try:
        with pytest.raises(OSError, match=r"did not tell its stacks within 0\.2 seconds"):
            pair.remote_stacks(timeout=0.2)
    finally:
        pair._io.popen.send_signal(signal.SIGCONT)
    channel.send(1)
    with pytest.raises(EOFError):
        channel.receive(SECONDS)
    with pytest.raises((OSError, EOFError)):
        pair.remote_stacks()


def test_a_group_asks_all_at_once_and_names_those_that_do_not_answer(pair_group: execnet.Group) -> None:
    gateways = [pair_group.makegateway("popen") for _ in range(3)]
    channel = begun(gateways[1], WAITING)
    stop(gateways[0]._io.popen.pid)
    stop(gateways[2]._io.popen.pid)
    began = time.monotonic()
    try:
        text = pair_group.remote_stacks(timeout=1.0)
    finally:
        for gateway in gateways:
            gateway._io.popen.send_signal(signal.SIGCONT)
    assert time.monotonic() - began < 1.9
    assert_tells_of(text, channel, "wait_for_it")
    for name in ("gw0", "gw2"):
        assert f"{name} (popen): no answer: gateway '{name}' did not tell its stacks within 1.0 seconds\n" in text
    assert "\ngw1 (popen)\n-----------\nProcess " in text


def test_the_oldest_other_side_that_can_be_met_is_named(peer: Peer) -> None:
    """Execnet 2.1 answers any STATUS with its dict."""
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            peer.gateway.remote_stacks(SECONDS)
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    code, channel, question = peer.message()
    assert code == 0 and question
    status = {"numchannels": 0, "numexecuting": 0, "execmodel": "thread"}
    peer.write(frame(peer.DATA, channel, peer.base.dumps_internal(status)) + frame(peer.CLOSE, channel))
    thread.join(SECONDS)
    (error,) = errors
    assert "too old to be asked for stacks" in str(error)


@c_worker
@pytest.mark.parametrize("senders", [1, 3])
def test_threads_that_send_keep_nobody_from_being_told(makegateway: MakeGateway, senders: int) -> None:
    gateway = makegateway("popen")
    prepared(gateway)
    for _ in range(senders):
        gateway.remote_exec("while True: channel.send(1)").setcallback(lambda item: None)
    channel = begun(gateway, LOOPING)
    for _ in range(3):
        assert_tells_of(gateway.remote_stacks(), channel, "loop_in_c")
        assert gateway.remote_status().numexecuting == senders + 1


# A look at this worker takes so long that its end comes meanwhile.
MANY_THREADS = """
import ctypes, threading, time
def descend(depth):
    descend(depth - 1) if depth else ended.wait()
ended = threading.Event()
for _ in range(60):
    threading.Thread(target=descend, args=(60,), daemon=True).start()
channel.send(1)
time.sleep(0.2)
ctypes.PyDLL(None).sleep(1000)
"""


@c_worker
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="children are read from /proc")
def test_a_worker_killed_while_it_is_looked_at_ends_and_so_does_the_look(makegateway: MakeGateway) -> None:
    gateway = makegateway("popen")
    assert gateway.pid is not None
    prepared(gateway)
    channel = begun(gateway, MANY_THREADS)
    wait_until(lambda: "Python code did not answer" in gateway.remote_stacks(), SECONDS, "C code")

    def ask() -> None:
        with suppress(EOFError, OSError):
            gateway.remote_stacks()

    asking = threading.Thread(target=ask)
    asking.start()
    while not (copies := children_of(gateway.pid)) and asking.is_alive():
        pass
    gateway._io.kill()
    with pytest.raises(EOFError):
        channel.waitclose(2.0)
    assert wait_for_end(copies, 2.0) == []
    asking.join(SECONDS)
