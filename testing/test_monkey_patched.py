"""Processes that gevent or eventlet has patched: other green threads run on while one waits for a gateway."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(180)

PROGRAM_SECONDS = 90
# A green thread that has not run for so many seconds was kept from it; the machine may be slow.
LONGEST_PAUSE = 0.4
PATCHES = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}
LIBRARIES = pytest.mark.parametrize("library", PATCHES)
# The ends of a green thread: its start, and what lets others run.
GREEN = {
    "gevent": "from gevent import sleep, spawn",
    "eventlet": "from eventlet import sleep, spawn",
}
MEANWHILE = """
import time
pauses = []

def tick():
    last = time.monotonic()
    while True:
        sleep(0.01)
        pauses.append(time.monotonic() - last)
        last += pauses[-1]

spawn(tick)
sleep(0)

def meanwhile(function):
    "Call it, while the green thread runs."
    sleep(0.02)
    pauses.clear()
    result = function()
    sleep(0.02)
    assert max(pauses) < LONGEST_PAUSE, (function, max(pauses))
    return result
"""
USE = """
SLOW = "import time; time.sleep(0.5); channel.send(42)"

def timed_out(channel):
    try:
        channel.receive(timeout=0.5)
    except channel.TimeoutError:
        return True

def use(gateway):
    assert meanwhile(gateway.remote_exec(SLOW).receive) == 42
    meanwhile(gateway.remote_exec(SLOW).waitclose)
    channel = gateway.remote_exec("channel.receive()")
    assert meanwhile(lambda: timed_out(channel))
    channel.send(None)
    channel = gateway.remote_exec("while True: channel.send(channel.receive())")
    for number in range(20):
        channel.send(number)
        assert channel.receive() == number
    large = b"x" * 3_000_000  # more than a pipe holds
    channel.send(large)
    assert channel.receive() == large
    assert meanwhile(gateway.remote_status).numexecuting > 0
    channel.close()
    got = []
    channel = gateway.remote_exec("for number in range(3): channel.send(number)")
    channel.setcallback(got.append, endmarker="end")
    deadline = time.monotonic() + 20
    while "end" not in got:
        assert time.monotonic() < deadline
        sleep(0.01)
    assert got == [0, 1, 2, "end"]

def use_side_by_side(gateways):
    "Several green threads wait for each of them."
    received = []
    for gateway in gateways * 3:
        spawn(lambda gateway: received.append(gateway.remote_exec(SLOW).receive()), gateway)
    deadline = time.monotonic() + 20
    while len(received) < 3 * len(gateways):
        assert time.monotonic() < deadline, received
        sleep(0.01)

def use_all(group):
    for gateway in group:
        use(gateway)
    use_side_by_side(list(group))
    assert meanwhile(group.remote_exec(SLOW).receive_each) == [42] * len(group)
    gateway = group[0]
    gateway.exit()
    meanwhile(gateway.join)
    group.remote_exec("import time; time.sleep(60)")
    popens = [gateway._io.popen for gateway in group]
    meanwhile(lambda: group.terminate(1.0))
    assert [popen.returncode is not None for popen in popens] == [True] * len(popens)
"""


def run(library: str, *parts: str, then: str = "use_all(group)") -> None:
    """Run a program of these parts, and then that one, to its end; it shows where it hangs."""
    texts = [
        "import faulthandler",
        f"faulthandler.dump_traceback_later({PROGRAM_SECONDS - 10}, exit=True)",
        *parts,
        GREEN[library],
        f"LONGEST_PAUSE = {LONGEST_PAUSE}",
        MEANWHILE,
        USE,
        then,
        "print('done')",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(texts)],
        capture_output=True,
        text=True,
        timeout=PROGRAM_SECONDS,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},  # eventlet tells that it is deprecated
    )
    assert (done.returncode, done.stdout, without_eventlets_own(done.stderr)) == (0, "done\n", "")


def without_eventlets_own(stderr: str) -> str:
    """The text but for what eventlet says in any program on CPython 3.14 and newer: one lock there it does not find."""
    return re.sub(r"(?m)^\d+ RLock\(s\) were not greened.*\n", "", stderr)


TWO = "import execnet; group = execnet.Group(); group.makegateway(); group.makegateway()"


@LIBRARIES
def test_a_process_that_is_patched_first(library: str) -> None:
    run(library, PATCHES[library], TWO)


@LIBRARIES
def test_a_process_that_is_patched_after_execnet_was_imported(library: str) -> None:
    run(library, "import execnet; execnet.gateway_base", PATCHES[library], TWO)


@LIBRARIES
def test_a_process_that_is_patched_while_gateways_exist(library: str) -> None:
    run(library, TWO, PATCHES[library], then="group.makegateway(); use_all(group)")


MANY_SEND = """
def send_much(gateway, done):
    channel = gateway.remote_exec("for item in channel: channel.send(len(item))")
    for _ in range(10):
        channel.send(b"x" * 200_000)
    assert [channel.receive(20) for _ in range(10)] == [200_000] * 10
    done.append(channel)

def send_side_by_side(gateway):
    done = []
    for _ in range(3):
        spawn(send_much, gateway, done)
    deadline = time.monotonic() + 40
    while len(done) < 3:
        assert time.monotonic() < deadline, done
        sleep(0.01)
"""


@LIBRARIES
def test_green_threads_send_side_by_side_over_a_gateway_from_before_the_patch(library: str) -> None:
    run(library, TWO, PATCHES[library], MANY_SEND, then="send_side_by_side(group[0]); group.terminate(5.0)")


@LIBRARIES
def test_a_channel_that_is_dropped_in_the_event_loop_closes_the_other_side(library: str) -> None:
    """Its message waits for a green thread: the loop itself may not wait."""
    program = """
gateway = group.makegateway("popen//via=" + group[0].id)
other = gateway.remote_exec("channel.send(channel.receive().waitclose())")
dropped = gateway.newchannel()
other.send(dropped)
boxed = [dropped]
del dropped
call_soon(boxed.clear)
assert other.receive(20) is None
group.terminate(5.0)
"""
    call_soon = {
        "gevent": "import gevent; call_soon = gevent.get_hub().loop.run_callback",
        "eventlet": "import eventlet.hubs; call_soon = lambda f: eventlet.hubs.get_hub().schedule_call_global(0, f)",
    }
    run(library, PATCHES[library], TWO, call_soon[library], then=program)


@LIBRARIES
@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
def test_warm_starts_of_a_patched_process(library: str) -> None:
    run(library, PATCHES[library], TWO.replace("makegateway()", "makegateway('popen//warm')"))


@LIBRARIES
def test_gateways_behind_another_one_and_over_sockets(library: str) -> None:
    specs = ["popen//id=one", "popen//via=one", "socket//installvia=one"]
    program = f"import execnet; group = execnet.Group()\nfor spec in {specs}: group.makegateway(spec)"
    run(library, PATCHES[library], program, then="use(group[1]); use(group[2]); group.terminate(5.0)")


def test_threads_that_something_else_starts_are_none_of_green_ones() -> None:
    program = """
import _thread, sys
start = _thread.start_new_thread
_thread.start_new_thread = lambda *args: start(*args)  # as debuggers do
import execnet
group = execnet.Group(["popen"])
connection = group[0]._connection
assert not execnet.gateway_base.threads_are_green()
assert connection is not None or execnet.gateway_base.core == "portable"
group.terminate(5.0)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_to_ask_imports_nothing() -> None:
    program = """
import sys
from pathlib import Path
from execnet import gateway_base
assert not gateway_base.threads_are_green()
assert not {"threading", "gevent", "eventlet"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


CONFTEST = "import warnings; warnings.simplefilter('ignore')\n{}\n"
TESTS = """
import threading, time
import pytest

@pytest.mark.parametrize("number", range(20))
def test_it(number):
    done = []
    thread = threading.Thread(target=lambda: (time.sleep(0.005), done.append(number)))
    thread.start()
    thread.join()
    assert done == [number]
"""


@LIBRARIES
def test_a_conftest_that_patches_every_process_of_pytest_xdist(library: str, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.format(PATCHES[library]))
    (tmp_path / "test_patched.py").write_text(TESTS)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment["PYTHONWARNINGS"] = "ignore"  # gevent forks where there are threads
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "-c", os.devnull, str(tmp_path)],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PROGRAM_SECONDS,
    )
    assert (done.returncode, without_eventlets_own(done.stderr)) == (0, ""), done.stdout + done.stderr
    assert "20 passed" in done.stdout


def test_the_main_thread_stays_the_main_thread_of_threading() -> None:
    program = """
import execnet
group = execnet.Group(["popen"])
import threading
assert threading.current_thread() is threading.main_thread(), threading.main_thread()
group.terminate(5.0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
