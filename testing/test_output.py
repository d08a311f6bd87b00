"""What workers write: each mode on each transport, whole lines, slow readers, deaths, forks."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.initiator import FORKING_ENVIRON, Initiator
from support.processes import wait_until
from support.socketserver import SocketServer
from support.sshd import SshServer

import execnet
from execnet import GatewayDied
from execnet._output.carrier import Carrier
from execnet._output.far import SentOverSsh
from execnet._output.last_words import Parted
from execnet._output.sinks import LONGEST_LINE, Lines

MakeGateway = Callable[..., execnet.Gateway]
SECONDS = 20.0

PRINTS = """
import os, subprocess, sys
print("printed")
os.write(1, b"by the system\\n")
subprocess.call([sys.executable, "-c", "print('by a child')"])
os.write(2, b"to stderr\\n")
sys.stdout.write("last")
sys.stdout.flush()
"""
OUT = ["printed", "by the system", "by a child", "last"]


class Transports:
    """Specs of each kind, in a group that has what they go through."""

    def __init__(self, group: execnet.Group, request: pytest.FixtureRequest) -> None:
        self.group = group
        self.request = request

    def spec(self, kind: str) -> str:
        if kind in ("via", "installvia", "ssh via") and "master" not in self.group:
            self.group.makegateway("popen//id=master")
        if kind.startswith("ssh"):
            server: SshServer = self.request.getfixturevalue("ssh_server")
            return server.spec() + ("//via=master" if kind == "ssh via" else "")
        if kind == "socket":
            sockets: SocketServer = self.request.getfixturevalue("socket_server")
            return sockets.spec()
        return {
            "popen": "popen",
            "python": f"popen//python={sys.executable}",
            "warm": "popen//warm",
            "installvia": "socket//installvia=master",
            "via": "popen//via=master",
        }[kind]


SSH, SSH_VIA = (pytest.param(kind, marks=pytest.mark.needs("ssh")) for kind in ("ssh", "ssh via"))
KINDS = ["popen", "python", "warm", SSH, "socket", "installvia", "via"]


@pytest.fixture(params=KINDS)
def spec(request: pytest.FixtureRequest, group: execnet.Group) -> str:
    """A spec of each kind that starts a worker, or finds one."""
    return Transports(group, request).spec(request.param)


def run(gateway: execnet.Gateway, source: str) -> None:
    """Have a task run, and end the worker."""
    gateway.remote_exec(source).waitclose(SECONDS)
    gateway.exit(wait=SECONDS)


def assert_both_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """What ``PRINTS`` wrote was printed by this process, each line with the id of its worker, ``w``."""
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [f"[w] {line}" for line in OUT]
    assert "[w] to stderr" in printed.err.splitlines()


class TestModes:
    def test_prefix(self, group: execnet.Group, spec: str, capsys: pytest.CaptureFixture[str]) -> None:
        run(group.makegateway(f"{spec}//id=w//stdout=prefix//stderr=prefix"), PRINTS)
        assert_both_printed(capsys)

    def test_capture(self, group: execnet.Group, spec: str, capfd: pytest.CaptureFixture[str]) -> None:
        gateway = group.makegateway(f"{spec}//stdout=capture//stderr=capture")
        run(gateway, PRINTS)
        assert gateway.output("stdout").splitlines() == OUT
        assert gateway.output("stderr").endswith("to stderr\n")
        passed = capfd.readouterr()
        assert passed.out == "" and passed.err.count("to stderr\n") == 1

    def test_inherit(self, group: execnet.Group, spec: str, capfd: pytest.CaptureFixture[str]) -> None:
        run(group.makegateway(f"{spec}//stdout=inherit//stderr=inherit"), PRINTS)
        printed = capfd.readouterr()
        assert printed.out.splitlines() == OUT
        assert printed.err.count("to stderr\n") == 1

    def test_file(self, group: execnet.Group, spec: str, tmp_path: Path) -> None:
        # In a spec, two slashes are four.
        run(
            group.makegateway(f"{spec}//id=w//stdout=file:{tmp_path}/{{id}}.out//stderr=file:{tmp_path}/{{id}}.err"),
            PRINTS,
        )
        assert (tmp_path / "w.out").read_text().splitlines() == OUT
        assert (tmp_path / "w.err").read_text().endswith("to stderr\n")

    def test_null(self, group: execnet.Group, spec: str, capfd: pytest.CaptureFixture[str]) -> None:
        run(group.makegateway(f"{spec}//stdout=null//stderr=null"), PRINTS)
        printed = capfd.readouterr()
        assert printed.out == "" and "to stderr" not in printed.err

    def test_the_environment_gives_the_default(
        self, group: execnet.Group, spec: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EXECNET_STDOUT", "prefix")
        monkeypatch.setenv("EXECNET_STDERR", "null")
        run(group.makegateway(f"{spec}//id=w"), PRINTS)
        printed = capfd.readouterr()
        assert "to stderr" not in printed.err
        assert printed.out.splitlines()[-len(OUT) :] == [f"[w] {line}" for line in OUT]

    def test_a_function_of_the_program_gets_lines(self, request: pytest.FixtureRequest) -> None:
        came: list[tuple[object, str, str]] = []
        with execnet.Group(output=lambda *line: came.append(line)) as group:
            for kind in ("popen", "via"):
                gateway = group.makegateway(Transports(group, request).spec(kind) + "//stdout=prefix//stderr=prefix")
                run(gateway, PRINTS)
                assert [text for of, name, text in came if of is gateway and name == "stdout"] == OUT
                assert (gateway, "stderr", "to stderr") in came

    @pytest.mark.parametrize("value", ["keep", "file:", "Prefix"])
    def test_others_are_refused(self, group: execnet.Group, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ValueError, match=f"stdout={value} is not known"):
            group.makegateway(f"popen//stdout={value}")
        monkeypatch.setenv("EXECNET_STDERR", value)
        with pytest.raises(ValueError, match=f"EXECNET_STDERR={value} is not known"):
            group.makegateway("popen")

    def test_a_file_that_cannot_be_opened_is_an_error_of_the_start(self, group: execnet.Group, tmp_path: Path) -> None:
        for kind in ("popen", "popen//warm"):
            with pytest.raises(OSError, match="No such file"):
                group.makegateway(f"{kind}//stdout=file:{tmp_path}/none/there")
        assert len(group) == 0

    def test_what_is_not_kept_cannot_be_asked_for(self, gw: execnet.Gateway, makegateway: MakeGateway) -> None:
        kept = makegateway("popen//stdout=capture")
        assert kept.output("stdout") == ""
        for gateway, name, told in ((gw, "stdout", "not kept"), (kept, "stderr", "not kept"), (kept, "in", "no 'in'")):
            with pytest.raises(ValueError, match=told):
                gateway.output(name)

    def test_the_last_mebibyte_is_kept(self, makegateway: MakeGateway) -> None:
        gateway = makegateway("popen//stdout=capture")
        run(gateway, "import os\nfor _ in range(40): os.write(1, b'x' * 100000)\nos.write(1, b'end')")
        assert gateway.output("stdout") == "x" * ((1 << 20) - 3) + "end"

    @pytest.mark.parametrize("kind", ["popen", "via"])
    @pytest.mark.parametrize("execmodel", ["thread", "main_thread_only"])
    def test_the_worker_is_as_free_as_without(self, group: execnet.Group, kind: str, execmodel: str) -> None:
        group.makegateway("popen//id=master")
        way = "//via=master" if kind == "via" else ""
        gateway = group.makegateway(f"popen{way}//execmodel={execmodel}//stdout=prefix//stderr=prefix")
        status = gateway.remote_status()
        assert (status.numchannels, status.numexecuting) == (0, 0)
        assert repr(gateway).endswith("0 active channels>")
        source = "import threading; channel.send(threading.current_thread() is threading.main_thread())"
        assert gateway.remote_exec(source).receive(SECONDS) is True

    @pytest.mark.needs("gevent")
    def test_green_workers_have_it_where_they_are_given_a_pipe(
        self, group: execnet.Group, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        group.makegateway("popen//id=master")
        for way in ("", "//via=master"):
            run(group.makegateway(f"popen{way}//id=w//execmodel=gevent//stdout=prefix"), PRINTS)
            assert "[w] by the system" in capsys.readouterr().out.splitlines()
        with pytest.raises(ValueError, match="stdout=prefix: with execmodel=gevent there is no thread"):
            group.makegateway("socket//installvia=master//execmodel=gevent//stdout=prefix")
        monkeypatch.setenv("EXECNET_STDOUT", "prefix")
        group.makegateway("socket//installvia=master//execmodel=gevent").exit(wait=SECONDS)


class TestFarPythons:
    @pytest.mark.parametrize("way", ["", "//via=master"], ids=["here", "via"])
    def test_any_python_has_both(
        self, group: execnet.Group, other_python: Any, way: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        group.makegateway("popen//id=master")
        run(group.makegateway(f"popen{way}//id=w//python={other_python}//stdout=prefix//stderr=prefix"), PRINTS)
        assert_both_printed(capsys)

    def test_any_python_can_be_on_the_way(
        self, group: execnet.Group, other_python: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        group.makegateway(f"popen//id=master//python={other_python}")
        run(group.makegateway("popen//id=w//via=master//stdout=prefix//stderr=prefix"), PRINTS)
        assert_both_printed(capsys)

    def test_a_wrapper_that_hands_on_no_descriptors_has_it_sent(
        self, group: execnet.Group, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        wrapper = tmp_path / "wrapper.py"
        wrapper.write_text("import subprocess, sys\nsys.exit(subprocess.call([sys.executable] + sys.argv[1:]))\n")
        run(group.makegateway(f"popen//id=w//python={sys.executable} {wrapper}//stdout=prefix"), PRINTS)
        assert capsys.readouterr().out.splitlines() == [f"[w] {line}" for line in OUT]


MANY = 20000
COUNTS = f"""
import os, threading
def count(name):
    for number in range({MANY // 4}):
        os.write(1, ("%s %d %s\\n" % (name, number, "x" * (number % 97))).encode())
threads = [threading.Thread(target=count, args=(name,)) for name in "abcd"]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


class TestLines:
    def test_lines_of_many_workers_are_whole(
        self, group: execnet.Group, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
    ) -> None:
        transports = Transports(group, request)
        kinds = ["popen", "warm", "socket", "via", "installvia"]
        specs = [f"{transports.spec(kind)}//id={kind}//stdout=prefix" for kind in kinds]
        gateways = group.makegateways(specs)
        for channel in [gateway.remote_exec(COUNTS) for gateway in gateways]:
            channel.waitclose(60)
        group.terminate(SECONDS)
        lines = capsys.readouterr().out.splitlines()
        for kind in kinds:
            for name in "abcd":
                own = [line for line in lines if line.startswith(f"[{kind}] {name} ")]
                assert own == [f"[{kind}] {name} {number} {'x' * (number % 97)}" for number in range(MANY // 4)]
        assert len(lines) == len(kinds) * MANY

    @pytest.mark.parametrize(
        ("chunks", "lines"),
        [
            (["a\nb\n"], ["a", "b"]),
            (["a", "b", "\nc"], ["ab", "c"]),
            (["a\r\nb\r", "\nc\r", "d\n"], ["a", "b", "c", "d"]),
            (["\r10%\r20%", "\r30%\n"], ["10%", "20%", "30%"]),
            (["\r10%", "\r20%", "\r"], ["10%", "20%"]),
            (["a\r\r\n\n\nb"], ["a", "", "", "b"]),
            (["\r", "\r", "\n", "a"], ["", "a"]),
            (["x" * LONGEST_LINE, "y", "z\n"], ["x" * LONGEST_LINE + "y", "z"]),
            ([""], []),
        ],
    )
    def test_ends_of_lines(self, chunks: list[str], lines: list[str]) -> None:
        came: list[bytes] = []
        sink = Lines(came.append)
        for chunk in chunks:
            sink.write(chunk.encode())
        sink.end()
        assert all(part.endswith(b"\n") for part in came)
        assert b"".join(came).decode().split("\n")[:-1] == lines

    def test_however_they_are_cut_lines_are_the_same(self) -> None:
        text = b"one\r\ntwo\rthree\n\n\r4\r\r5\r\r\nsix"
        for size in range(1, len(text)):
            came: list[bytes] = []
            sink = Lines(came.append)
            for at in range(0, len(text), size):
                sink.write(text[at : at + size])
            sink.end()
            assert b"".join(came).decode().split("\n")[:-1] == ["one", "two", "three", "", "4", "5", "six"], size

    def test_what_is_no_text_or_not_of_the_encoding_is_shown(
        self, makegateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        buffer = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="ascii"))
        run(makegateway("popen//id=w//stdout=prefix"), r"import os; os.write(1, b'\xc3\xa4 \xff\n')")
        assert buffer.getvalue() == b"[w] \\xe4 \\xff\n"


class TestSinksThatFail:
    def test_a_stdout_that_is_replaced_and_closed(
        self, makegateway: MakeGateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        gateway = makegateway("popen//id=w//stdout=prefix")
        closed = io.StringIO()
        closed.close()
        for stream in (closed, None):
            monkeypatch.setattr(sys, "stdout", stream)
            gateway.remote_exec("print('lost')").waitclose(SECONDS)
            gateway._io.outputs.settle()
        fresh = io.StringIO()
        monkeypatch.setattr(sys, "stdout", fresh)
        run(gateway, "print('seen')")
        assert fresh.getvalue() == "[w] seen\n"
        assert capsys.readouterr().err.count("can't be printed: I/O operation on closed file") == 1

    def test_a_function_that_raises_is_told_once_and_called_again(self, capsys: pytest.CaptureFixture[str]) -> None:
        called: list[str] = []

        def output(gateway: object, name: str, text: str) -> None:
            called.append(text)
            raise SystemExit(text)

        with execnet.Group(output=output) as group:
            run(group.makegateway("popen//stdout=prefix"), "for number in range(3): print(number)")
        assert called == ["0", "1", "2"]
        assert capsys.readouterr().err.count("SystemExit: 0") == 1

    @pytest.mark.parametrize("mode", ["null", "inherit", "prefix", "capture"])
    def test_a_stderr_that_is_closed_is_no_connection_of_a_worker(self, mode: str) -> None:
        source = f"""
os.close(2)
group = execnet.Group(["popen//id=master"])
for kind in ("popen", "popen//warm", "popen//via=master", "socket//installvia=master"):
    gateway = group.makegateway(f"{{kind}}//stderr={mode}")
    gateway.remote_exec("import os, sys; os.write(2, b'x'); os.dup2(os.open(os.devnull, 1), 2)").waitclose({SECONDS})
    gateway.exit(wait=5)
    group["master"].remote_exec("").waitclose({SECONDS})
group.terminate(5)
"""
        with Initiator(source) as program:
            assert program.end() == (0, [], "")

    @pytest.mark.parametrize("kind", ["popen", "popen//via=master"])
    def test_a_broken_pipe_does_not_stop_the_worker(self, kind: str) -> None:
        source = f"""
import execnet, sys
group = execnet.Group(["popen//id=master", "{kind}//id=w//stdout=prefix"])
channel = group["w"].remote_exec("for n in range(100000): print(n)\\nchannel.send('all')")
sys.stderr.write(channel.receive({SECONDS}))
group.terminate({SECONDS})
import os; os._exit(0)
"""
        process = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"[w] 0\n"
        process.stdout.close()
        told = process.stderr.read().decode()
        process.stderr.close()
        assert process.wait(SECONDS) == 0
        assert told.count("can't be printed") == 1 and told.endswith("all")


# Prints for ever; its initiator's stdout is a pipe that this test reads when it wants to.
FLOODED = """
import execnet, os, sys, time
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
group = execnet.Group(["popen//id=master"])
gateway = group.makegateway("{spec}//id=w//stdout=prefix")
channel = gateway.remote_exec('''
import threading
written = [0]
def flood():
    while True:
        print("x" * 99)
        written[0] += 100
thread = threading.Thread(target=flood)
thread.daemon = True
thread.start()
for item in channel: channel.send(written[0])
''')
def ask():
    channel.send(None)
    return channel.receive({seconds})
def say(*what):
    sys.stderr.write(" ".join(map(str, what)) + "\\n")
    sys.stderr.flush()
before, last = peak(), -1
while last != (last := ask()):  # it is held back once it has written what fits in between
    time.sleep(0.3)
say("held", last, peak() - before)
sys.stdin.readline()
while ask() < last + 20000000: pass
say("goes on", peak() - before)
group.terminate(1.0)
say("ended")
os._exit(0)
"""

# A program that does not wait for long at its end for what does not return.
SHORT_END = "from execnet._output import carrier; carrier.MOST_AT_EXIT = 0.4"


class TestSlowReader:
    @pytest.mark.parametrize("kind", ["popen", "popen//warm", "popen//via=master", "socket//installvia=master"])
    def test_it_holds_back_who_prints_and_nothing_else(self, kind: str) -> None:
        program = FLOODED.format(spec=kind, seconds=SECONDS)
        with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, stderr=-1) as process:
            assert process.stdin is not None and process.stdout is not None and process.stderr is not None
            word, written, grown = process.stderr.readline().split()
            # What the pipes, the window and a chunk under way can hold; in KiB, what that made of memory.
            assert word == b"held" and int(written) < 1 << 20 and int(grown) < 8192
            process.stdin.write(b"\n")
            process.stdin.flush()
            reader = threading.Thread(target=self.read_all, args=(process.stdout,))
            reader.start()
            assert re.fullmatch(rb"goes on (\d+)\n", line := process.stderr.readline()), line
            assert int(line.split()[2]) < 8192
            assert process.stderr.readline() == b"ended\n"
            reader.join(SECONDS)
            assert process.wait(SECONDS) == 0

    @staticmethod
    def read_all(stream: Any) -> None:
        whole = b"[w] " + 99 * b"x" + b"\n"
        for line in stream:
            if line != whole:  # its worker was killed as it wrote
                assert whole.startswith(line[:-1]) and stream.read() == b""

    def test_the_end_of_the_program_waits_for_its_reader(self) -> None:
        source = """
import execnet
gateway = execnet.makegateway("popen//stdout=prefix")
gateway.remote_exec("for n in range(20000): print(n)")
"""
        with subprocess.Popen(
            [sys.executable, "-c", source + "channel = gateway.remote_exec('')"], stdout=-1
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"[gw0] 0\n"
            time.sleep(2.5)  # more than any patience there is; its worker is killed meanwhile
            rest = process.stdout.read().decode().splitlines()
            assert rest == [f"[gw0] {number}" for number in range(1, len(rest) + 1)] and len(rest) > 5000
            assert process.wait(SECONDS) == 0

    def test_a_terminal_that_is_stopped_does_not_stop_terminate(self) -> None:
        source = """
import execnet, os, sys, time
group = execnet.Group(["popen//stdout=prefix"] * 2)
group.remote_exec("while True: print('x' * 1000)")
time.sleep(0.5)
group.terminate(0.5)
sys.stderr.write("ended")
os._exit(0)
"""
        with subprocess.Popen([sys.executable, "-c", source], stdout=-1, stderr=-1) as process:
            assert process.stderr is not None
            began = time.monotonic()
            assert process.stderr.read() == b"ended"
            assert time.monotonic() - began < 10.0
            process.kill()

    def test_the_end_of_the_program_waits_longer_for_its_reader_than_for_a_function(self) -> None:
        source = f"""
import execnet
{SHORT_END}
group = execnet.Group(["popen//stdout=prefix"], output=lambda gateway, name, text: print(text * 100000))
group.remote_exec("for n in range(9): print('x')").waitclose()
"""
        with subprocess.Popen([sys.executable, "-c", source], stdout=-1, stderr=-1) as process:
            assert process.stdout is not None and process.stderr is not None
            time.sleep(4.0)
            assert process.stdout.read() == b"".join([b"x" * 100000 + b"\n"] * 9)
            assert process.stderr.read() == b""
            assert process.wait(SECONDS) == 0

    @pytest.mark.parametrize("kind", ["popen", "warm", "via", "installvia", SSH])
    @pytest.mark.parametrize("seconds", [1000, 0.02])
    def test_a_function_that_takes_its_time_does_not_stop_terminate(
        self, group: execnet.Group, request: pytest.FixtureRequest, kind: str, seconds: float
    ) -> None:
        spec = Transports(group, request).spec(kind)
        source = f"""
import execnet, threading, time
{SHORT_END}
called = threading.Event()
def output(gateway, name, text):
    called.set()
    time.sleep({seconds})
group = execnet.Group(["popen//id=master", "{spec}//stdout=prefix//stderr=prefix"], output=output)
group[1].remote_exec('import os\\nwhile os.write(1, b"1\\\\n") and os.write(2, b"2\\\\n"): pass')
assert called.wait({SECONDS})
began = time.monotonic()
group.terminate(1.0)
print(time.monotonic() - began, flush=True)
"""
        with subprocess.Popen([sys.executable, "-c", source], stdout=-1, stderr=-1) as process:
            assert process.stdout is not None and process.stderr is not None
            assert float(process.stdout.readline()) < 4.0
            if seconds > 1:
                told = process.stderr.read().decode()
                assert told == "execnet: what takes the output of workers does not return for 0 seconds\n"
                assert process.wait(SECONDS) == 0
            process.kill()

    def test_a_worker_that_does_not_read_holds_back_no_other(self) -> None:
        group = execnet.Group(["popen//id=master"], output=lambda gateway, name, text: None)
        stuck = group.makegateway("socket//installvia=master//stdout=prefix")
        channel, items = stuck.remote_exec(STUCK), stuck.newchannel()
        channel.send(items)
        assert channel.receive(SECONDS) == "ready"
        sent = [0]

        def fill() -> None:
            with suppress(OSError):  # it is ended at last
                while True:
                    items.send(100_000 * b"x")
                    sent[0] += 1

        threading.Thread(target=fill, daemon=True).start()
        wait_until(lambda: sent[0] > 0, SECONDS, "the callback")
        last = -1
        while last != (last := sent[0]):  # until nothing more fits in between
            time.sleep(0.5)
        other = group.makegateway("popen//stdout=prefix").remote_exec("for n in range(50000): print(n)")
        other.waitclose(SECONDS)
        group.terminate(1.0)


# Prints for ever, by a thread, and has a callback that does not return.
STUCK = """
import os, threading, time
items = channel.receive()
def flood():
    while True: os.write(1, b"flood\\n")
def on_item(item):
    thread = threading.Thread(target=flood)
    thread.daemon = True
    thread.start()
    time.sleep(1000)
items.setcallback(on_item)
channel.send("ready")
time.sleep(1000)
"""

# Prints in a callback, which its receiver runs, more than any pipe and window hold, for each of two items.
CALLED = """
import os
numbers = channel.receive()
def on_number(number):
    for line in range(20000): os.write(1, ("%d %d %s\\n" % (number, line, "x" * 40)).encode())
    numbers.send(number)
numbers.setcallback(on_number)
channel.send("ready")  # what comes later is for the receiver
channel.receive()
"""
CALLED_LINES = [f"{number} {line} {'x' * 40}" for number in range(2) for line in range(20000)]


class TestCallbacks:
    @pytest.mark.parametrize("mode", ["prefix", "capture", "file", "inherit"])
    def test_one_that_prints_does_not_wait_for_itself(
        self, group: execnet.Group, spec: str, mode: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        mode = f"file:{tmp_path}/{{id}}" if mode == "file" else mode
        gateway = group.makegateway(f"{spec}//id=w//stdout={mode}")
        channel, numbers = gateway.remote_exec(CALLED), gateway.newchannel()
        channel.send(numbers)
        assert channel.receive(SECONDS) == "ready"
        for number in range(2):
            numbers.send(number)
        assert [numbers.receive(SECONDS) for _ in range(2)] == [0, 1]
        channel.send(None)
        channel.waitclose(SECONDS)
        gateway.exit(wait=SECONDS)
        printed = {"capture": lambda: gateway.output("stdout"), "file": lambda: (tmp_path / "w").read_text()}
        lines = printed.get(mode.partition(":")[0], lambda: capfd.readouterr().out)().splitlines()
        if mode == "prefix":
            lines = [line.partition("[w] ")[2] for line in lines]
        if mode == "capture":  # of which the last MiB is kept
            assert len(lines) > 10000
            del lines[0]
        assert lines == CALLED_LINES[-len(lines) :]
        assert mode == "capture" or len(lines) == len(CALLED_LINES)

    @pytest.mark.parametrize("kind", ["socket//installvia=master", "popen//via=master"])
    def test_one_that_is_not_written_in_python(
        self, group: execnet.Group, kind: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        gateway = group.makegateway("popen//id=master") and group.makegateway(f"{kind}//id=w//stdout=prefix")
        channel, texts = gateway.remote_exec(CALLED.replace("on_number)", "print)")), gateway.newchannel()
        channel.send(texts)
        assert channel.receive(SECONDS) == "ready"
        for letter in "abc":
            texts.send(letter * 1_000_000)
        channel.send(None)
        channel.waitclose(SECONDS)
        gateway.exit(wait=SECONDS)
        assert capsys.readouterr().out.splitlines() == [f"[w] {letter * 1_000_000}" for letter in "abc"]


class TestDeaths:
    LAST = "import os\nfor n in range(3000): os.write(1, b'line %d\\n' % n)\nos.write(1, b'the end')\n"

    @pytest.mark.parametrize("kind", ["popen", "warm", "via", SSH, SSH_VIA])
    @pytest.mark.parametrize("death", ["os._exit(3)", "os.kill(os.getpid(), 9)", "os.abort()"])
    def test_what_was_written_last_comes_before_the_death_is_told(
        self,
        group: execnet.Group,
        kind: str,
        death: str,
        monkeypatch: pytest.MonkeyPatch,
        request: pytest.FixtureRequest,
    ) -> None:
        start = Transports(group, request).spec(kind)
        both = io.StringIO()
        monkeypatch.setattr(sys, "stdout", both)
        monkeypatch.setattr(sys, "stderr", both)
        channel = group.makegateway(f"{start}//id=w//stdout=prefix//stderr=null").remote_exec(self.LAST + death)
        with pytest.raises(GatewayDied):
            channel.receive(SECONDS)
        lines = both.getvalue().splitlines()
        assert lines[:3001] == [f"[w] line {number}" for number in range(3000)] + ["[w] the end"]
        wait_until(lambda: "died" in both.getvalue().splitlines()[-1], SECONDS, "the death to be told")

    @pytest.mark.parametrize("kind", ["popen", "popen//via=master"])
    def test_last_words_of_a_crash_have_a_prefix(
        self, makegateway: MakeGateway, kind: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        makegateway("popen//id=master")
        gateway = makegateway(f"{kind}//id=w//stderr=prefix//faulthandler")
        channel = gateway.remote_exec("def crash():\n    import faulthandler; faulthandler._sigsegv()\ncrash()")
        with pytest.raises(GatewayDied):
            channel.receive(SECONDS)
        told = capsys.readouterr().err
        assert "[w] Fatal Python error: Segmentation fault\n" in told and "in crash\n" in told

    def test_a_captured_stderr_of_what_is_far_is_told_with_the_death(self, group: execnet.Group) -> None:
        group.makegateway("popen//id=master")
        gateway = group.makegateway("popen//via=master//stderr=capture")
        channel = gateway.remote_exec("import os; os.write(2, b'last words\\n'); os._exit(3)")
        with pytest.raises(GatewayDied, match=r"its last words on stderr:\nlast words"):
            channel.receive(SECONDS)

    @pytest.mark.needs("ssh")
    def test_a_captured_stderr_over_ssh_is_told_with_the_death(
        self, group: execnet.Group, ssh_server: SshServer
    ) -> None:
        gateway = group.makegateway(ssh_server.spec(stderr="capture", stdout="prefix"))
        channel = gateway.remote_exec("import os; os.write(2, b'last words\\n'); os._exit(3)")
        with pytest.raises(GatewayDied, match=r"its last words on stderr:\n(.*\n)*last words"):
            channel.receive(SECONDS)

    @pytest.mark.parametrize("way", ["", "//via=master"])
    def test_a_start_that_fails_tells_it_and_leaves_nothing(self, group: execnet.Group, way: str) -> None:
        group.makegateway("popen//id=master")
        with pytest.raises(OSError, match="on stderr: so it is"):
            group.makegateway(f"popen{way}//python=sh -c 'echo so it is >&2'//stderr=capture//stdout=prefix")
        with pytest.raises(OSError, match="not/there"):
            group.makegateway(f"popen{way}//python=/not/there//stderr=capture//stdout=prefix")
        group["master"].exit(wait=SECONDS)
        wait_until(lambda: not group._carriers["carrier"]._running, SECONDS, "the end of the thread")

    @pytest.mark.parametrize("kind", ["popen", "popen//via=master", "socket//installvia=master"])
    def test_a_slow_sink_gets_all_of_a_worker_that_has_ended(self, kind: str) -> None:
        came: list[str] = []

        def output(gateway: execnet.Gateway, name: str, text: str) -> None:
            if not len(came) % 1000:
                time.sleep(0.05)
            came.append(text)

        with execnet.Group(["popen//id=master"], output=output) as group:
            run(group.makegateway(f"{kind}//stdout=prefix"), "for number in range(50000): print(number)")
            assert came == [str(number) for number in range(50000)]

    @pytest.mark.needs("ssh")
    def test_who_waits_for_all_children_over_ssh_has_none(
        self, group: execnet.Group, ssh_server: SshServer, other_python: Any
    ) -> None:
        gateway = group.makegateway(f"{ssh_server.spec(python=str(other_python))}//stdout=capture")
        channel = gateway.remote_exec("import os\ntry: os.wait()\nexcept OSError: channel.send('none')")
        assert channel.receive(SECONDS) == "none"
        with pytest.raises(GatewayDied):
            gateway.remote_exec(f"{self.LAST}\nos.kill(os.getpid(), 9)").receive(SECONDS)
        assert gateway.output("stdout").splitlines() == [*(f"line {number}" for number in range(3000)), "the end"]

    @pytest.mark.parametrize("size", range(1, 12))
    def test_last_words_are_found_however_they_are_cut(self, size: int) -> None:
        came: dict[str, list[bytes | None]] = {"sink": [], "last": []}

        class Came:
            write = came["sink"].append

            def end(self) -> None:
                self.write(None)

        parted = Parted(Came(), "<mark>", came["last"].append)
        text = b"one <mar<mark>two <<<mark>three <mark>four<mark>five <mar"
        for at in range(0, len(text), size):
            parted.write(text[at : at + size])
        parted.end()
        assert came["sink"].pop() is None and b"".join(filter(None, came["sink"])) == b"one <marthree five <mar"
        assert b"".join(filter(None, came["last"])) == b"two <<four"
        assert came["last"][-2:] == [None, None]

    @pytest.mark.parametrize("closed_after", range(4))
    def test_last_words_that_have_come_as_items_are_written_once(self, gw: execnet.Gateway, closed_after: int) -> None:
        for size in range(1, 12):
            self.assert_written_once(gw, size, closed_after)

    @staticmethod
    def assert_written_once(gw: execnet.Gateway, size: int, closed_after: int) -> None:
        came: list[bytes] = []

        class Came:
            write = came.append

            def end(self) -> None:
                self.write(b"!")

        carrier = Carrier()
        stream = SentOverSsh(gw, carrier, Came())
        words = b"4:efghijkl"
        carrier.order(stream._take, b"abcdefg")
        for number, at in enumerate(range(0, len(words), size)):
            if number == closed_after:
                carrier.order(stream._closed)
            carrier.order(stream.take_last, words[at : at + size])
        carrier.order(stream.take_last, None)
        carrier.order(stream._closed)
        assert stream.ended.wait(SECONDS)
        assert b"".join(came) == b"abcdefghijkl!"

    @pytest.mark.parametrize("kind", ["popen", "via", SSH])
    def test_a_child_that_goes_on_writing_keeps_nobody_waiting(
        self, group: execnet.Group, kind: str, request: pytest.FixtureRequest
    ) -> None:
        gateway = group.makegateway(f"{Transports(group, request).spec(kind)}//stdout=capture")
        channel = gateway.remote_exec("import subprocess; channel.send(subprocess.Popen(['yes']).pid)")
        child = channel.receive(SECONDS)
        try:
            began = time.monotonic()
            gateway.exit(wait=SECONDS)
            assert time.monotonic() - began < 5.0
            # Nobody reads any more, or somebody does and drops it.
            wait_until(lambda: kind != "popen" or not Path(f"/proc/{child}").exists(), SECONDS, "the end of the child")
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def test_terminate_and_start_again_and_again(
        self, group: execnet.Group, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for _ in range(5):
            gateways = group.makegateways(["popen//stdout=prefix", "popen//warm//stdout=prefix//stderr=capture"] * 2)
            ids = [gateway.id for gateway in gateways]
            group.remote_exec("print('said')").waitclose(SECONDS)
            group.terminate(SECONDS)
            assert sorted(capsys.readouterr().out.splitlines()) == sorted(f"[{id}] said" for id in ids)


class TestForks:
    @pytest.mark.parametrize("kind", ["popen", "popen//warm", "popen//via=master"])
    def test_a_child_of_the_worker_writes_as_the_worker(
        self, group: execnet.Group, kind: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        group.makegateway("popen//id=master")
        source = (
            "import os\npid = os.fork()\nif not pid:\n    os.write(1, b'child\\n')\n    os._exit(0)\nos.waitpid(pid, 0)"
        )
        run(group.makegateway(f"{kind}//id=w//stdout=prefix"), source)
        assert capsys.readouterr().out == "[w] child\n"

    def test_a_forked_initiator_carries_nothing_and_ends(self) -> None:
        source = f"""
import execnet, os, sys
group = execnet.Group(["popen//stdout=prefix//id=w"])
channel = group["w"].remote_exec("for item in channel: print(item); channel.send(item)")
channel.send(1); channel.receive({SECONDS})
pid = os.fork()
if not pid:
    with execnet.Group(["popen//stdout=prefix//id=child"]) as own:
        own.remote_exec("print('own')").waitclose({SECONDS})
    group.terminate()
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
channel.send(2); channel.receive({SECONDS})
group.terminate({SECONDS})
"""
        done = subprocess.run(
            [sys.executable, "-c", source],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, **FORKING_ENVIRON},
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert sorted(done.stdout.splitlines()) == ["[child] own", "[w] 1", "[w] 2"]


GREEN = r"""
import sys
library, patched, model = sys.argv[1:]
if patched and library == "gevent":
    import gevent.monkey; gevent.monkey.patch_all()
elif patched:
    import eventlet; eventlet.monkey_patch()
import execnet
with execnet.Group(["popen//id=master"], execmodel=model) as group:
    for spec in ("popen//stdout=prefix//stderr=capture", "popen//via=master//execmodel=thread//stdout=prefix"):
        gateway = group.makegateway(spec)
        gateway.remote_exec("import os\nfor n in range(5000): os.write(1, b'line %d\\n' % n)").waitclose()
        gateway.exit(wait=10)
"""


@pytest.mark.parametrize(("patched", "model"), [("", "library"), ("patched", "library"), ("patched", "thread")])
@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_a_program_of_green_threads_has_it_too(library: str, patched: str, model: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", GREEN, library, patched, library if model == "library" else model]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    ids = [line.partition("]")[0] for line in done.stdout.splitlines()]
    assert ids == [ids[0]] * 5000 + [ids[-1]] * 5000 and ids[0] != ids[-1]
    assert [line.partition("] ")[2] for line in done.stdout.splitlines()] == [f"line {n}" for n in range(5000)] * 2


def test_messages_that_are_traced_to_stderr_are_not_sent_by_messages(
    group: execnet.Group, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    group.makegateway("popen//id=master//env:EXECNET_DEBUG=2")
    gateway = group.makegateway("socket//installvia=master//stdout=prefix//stderr=prefix")
    run(gateway, PRINTS)
    assert "to stderr\n" in capfd.readouterr().err


class TestNothingAsked:
    def test_nothing_of_it_is_there(self) -> None:
        source = """
import os, sys
import execnet
group = execnet.Group(["popen"])
group.remote_exec("print('nowhere')").waitclose()
print(sorted(name for name in sys.modules if "_output" in name), group._carriers)
"""
        done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout == "[] {}\n"
