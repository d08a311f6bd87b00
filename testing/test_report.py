"""The report of what hangs: asked for, at a signal, after a silence, and of pytest-xdist's runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from support import corebuild, interpreters, packages
from support.blocked import await_blocked
from support.interpreters import Interpreter
from support.processes import stop, wait_until

import execnet

SECONDS = 30.0
WAITING = "channel.send(1)\nchannel.receive()"


def begun(gateway: execnet.Gateway, source: str = WAITING) -> execnet.Channel:
    channel = gateway.remote_exec(source)
    assert channel.receive(SECONDS)
    return channel


def test_it_tells_of_each_gateway_and_channel(pair: execnet.Gateway, local: ModuleType) -> None:
    channel, called = begun(pair), begun(pair)
    sending = begun(pair, "for _ in range(3): channel.send(1)\nchannel.receive()")
    items = sending._items
    assert items is not None
    wait_until(lambda: items.count() == 2, SECONDS, "items")
    called.setcallback(print)
    line_of_task = 'File "<remote exec>", line 2 in <module>'
    wait_until(lambda: line_of_task in local.report(), SECONDS, "stacks")  # a busy worker was to be asked before
    text = local.report()
    (line,) = re.findall(r"^gw0 \(popen\): .*", text, re.M)
    assert f"connected, process {pair.pid} " in line and "0 bytes wait to be read there" in line
    assert f"  channel {channel.id}: open, 0 items not received, its task: <remote exec>, for " in text
    assert f"  channel {called.id}: open, items go to a callback, its task: <remote exec>, for " in text
    assert f"  channel {sending.id}: open, 2 items not received, its task: <remote exec>, for " in text
    assert "\ngw0 (popen)\n-----------\nProcess " in text and line_of_task in text


def test_it_names_who_waits_and_the_line(pair: execnet.Gateway, local: ModuleType) -> None:
    channel = begun(pair)
    calls = [lambda: channel.receive(), lambda: channel.waitclose(), lambda: pair.join()]
    first = sys._getframe().f_lineno - 1
    ready = [threading.Event() for _ in calls]

    def run(call: Callable[[], object], event: threading.Event) -> None:
        event.set()
        try:
            call()
        except (EOFError, OSError):
            return

    threads = [threading.Thread(target=run, args=args, name=f"one-{i}") for i, args in enumerate(zip(calls, ready))]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: local.report().count(" waits in ") == 3, SECONDS, "all three")
        text = local.report()
    finally:
        pair.exit()
        for thread in threads:
            thread.join(SECONDS)
    for number, call in enumerate(["receive", "waitclose", "join"]):
        assert f"one-{number} waits in {call}(), {__file__}:{first} in <lambda>: calls = [" in text
    assert re.search(
        rf"^  channel {channel.id}: open.*\n    one-\d waits .*\n    one-\d waits .*\n\none-2 waits", text, re.M
    )


def test_a_worker_that_gives_no_answer_is_named(pair: execnet.Gateway, local: ModuleType) -> None:
    channel = begun(pair)
    stop(pair._io.popen.pid)
    try:
        text = local.report(timeout=0.3)
    finally:
        pair._io.popen.send_signal(signal.SIGCONT)
    assert "gw0 (popen): no answer: gateway 'gw0' did not tell its stacks within 0.3 seconds\n" in text
    assert (
        " is stopped, " in text and f"channel {channel.id}: open, 0 items not received, its task is not known" in text
    )


def test_without_gateways_there_is_little_to_tell() -> None:
    assert execnet.report().startswith(f"execnet report of process {os.getpid()}, ")


# unasked

PROGRAM = """
import sys, threading, time, execnet
gateway = execnet.makegateway()
channel = gateway.remote_exec("channel.send(1)\\nfor item in channel: channel.send(item)")
channel.receive()
print("ready", flush=True)
def wait_here():
    {wait}
try:
    wait_here()
except EOFError:
    pass
"""


class Program:
    """PROGRAM in a process of its own, with what it has written to standard error so far."""

    def __init__(self, folder: Path, report: str, wait: str = "channel.receive()", before: str = "") -> None:
        self.path = folder / "stderr"
        (folder / "program.py").write_text(before + PROGRAM.format(wait=wait))
        with open(self.path, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, folder / "program.py"],
                env={**os.environ, "EXECNET_REPORT": report},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
            )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def said(self) -> str:
        return self.path.read_text()

    def reports(self) -> int:
        return self.said().count("execnet report of process ")

    def await_reports(self, count: int) -> None:
        # Whole: what comes last is the stack of a thread, and an empty line.
        wait_until(lambda: self.reports() >= count and self.said().endswith("\n\n"), SECONDS, f"{count} reports")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=SECONDS)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def start(*args: str, **kwargs: str) -> Program:
        folder = tmp_path / str(len(programs))
        folder.mkdir()
        programs.append(Program(folder, *args, **kwargs))
        return programs[-1]

    yield start
    for one in programs:
        one.close()


WAITS = {
    "in execnet": "channel.receive()",
    "for a lock": "lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "asleep": "time.sleep(1000)",
    "busy": "while True: pass",
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_signal_has_it_printed_each_time(program: Callable[..., Program], wait: str) -> None:
    one = program("USR1", wait)
    if wait != WAITS["busy"]:
        # Without a GIL, CPython's lock misses a signal that comes just before it waits.
        await_blocked(one.process.pid, one.process.pid)
    for count in (1, 2):
        one.process.send_signal(signal.SIGUSR1)
        one.await_reports(count)
    text = one.said()
    # It may still be returning from its send.
    assert re.search('File "<remote exec>", line [12] in <module>', text)
    assert ("MainThread waits in receive()" in text) == (wait == WAITS["in execnet"])
    assert one.process.poll() is None


def test_a_signal_that_the_program_handles_stays_its_own(program: Callable[..., Program]) -> None:
    handling = "import signal\nsignal.signal(signal.SIGUSR1, lambda *args: print('mine', flush=True))\n"
    one = program("sigusr1", "time.sleep(1000)", handling)
    assert "no report at SIGUSR1: the program handles it" in one.said()
    one.process.send_signal(signal.SIGUSR1)
    assert one.process.stdout is not None
    assert one.process.stdout.readline() == b"mine\n"
    assert one.reports() == 0


def test_what_is_no_signal_and_no_time_is_told(program: Callable[..., Program]) -> None:
    assert "'soon' is neither a signal's name nor a number of seconds" in program("soon").said()


def test_a_silence_has_it_printed_and_again_each_time_that_has_doubled(program: Callable[..., Program]) -> None:
    began = time.monotonic()
    one = program("0.5")
    one.await_reports(1)
    assert time.monotonic() - began >= 0.5
    one.await_reports(2)
    assert time.monotonic() - began >= 1.0
    one.await_reports(3)
    assert time.monotonic() - began >= 2.0


def test_messages_keep_it_away(program: Callable[..., Program]) -> None:
    talking = "for _ in range(30): channel.send(1); channel.receive(); time.sleep(0.1)"
    one = program("1", f"{talking}\n    print('done', flush=True); channel.receive()")
    assert one.process.stdout is not None
    assert one.process.stdout.readline() == b"done\n"
    assert one.reports() == 0
    one.await_reports(1)


def test_who_has_set_a_callback_waits_and_who_computes_does_not(program: Callable[..., Program]) -> None:
    program("0.3", "channel.setcallback(print); time.sleep(1000)").await_reports(1)
    one = program("0.3", "time.sleep(1000)")
    time.sleep(1.0)  # a report of its start has come, where that was slow
    before = one.reports()
    time.sleep(2.0)
    assert one.reports() == before


AT_ONCE = """
import os, sys, threading
from execnet._report import unasked
sys.setswitchinterval(1e-6)
before, together = len(os.listdir("/proc/self/fd")), threading.Barrier(8)
def begin():
    together.wait()
    unasked.begin()
threads = [threading.Thread(target=begin) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(os.listdir("/proc/self/fd")) - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts in /proc")
def test_threads_that_begin_at_once_have_one_watcher() -> None:
    for _ in range(5):
        said = packages.run([sys.executable, "-c", AT_ONCE], cwd=Path("/"), EXECNET_REPORT="60")
        assert said.split() == ["3"]


def test_nothing_of_it_is_loaded_unless_asked_for() -> None:
    source = (
        "import sys, execnet\nexecnet.makegateway().exit(wait=5)\nprint([n for n in sys.modules if '_report' in n])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "EXECNET_REPORT"}
    said = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, timeout=60, check=True)
    assert said.stdout == b"[]\n"


BESIDE_OTHERS = """
import importlib, threading, time, execnet
name = "_interpreters" if __import__("sys").version_info >= (3, 13) else "_xxsubinterpreters"
interpreters = importlib.import_module(name)
other = interpreters.create()
run = getattr(interpreters, "exec", None) or interpreters.run_string
thread = threading.Thread(target=run, args=(other, "import time; time.sleep(1)"))
thread.start()
time.sleep(0.3)
group = execnet.Group(["popen"])
for _ in range(3):
    assert "gw0" in execnet.report()
thread.join()
group.terminate(10)
"""


@pytest.mark.parametrize(
    "python", [python for python in interpreters.found() if python.version >= (3, 12)], ids=lambda python: python.name
)
def test_other_interpreters_of_the_process_are_left_alone(python: Interpreter, tmp_path: Path) -> None:
    folder = corebuild.portable_package(tmp_path / "package")
    assert packages.run([python, "-W", "ignore", "-c", BESIDE_OTHERS], cwd=tmp_path, PYTHONPATH=str(folder)) == ""
