"""The programs beside the package: socket server, its companions, and a shell."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from support.interpreters import Interpreter
from support.processes import end, free_port, listening_ports, wait_until
from support.socketserver import SocketServer

import execnet
from execnet.script import loop_socketserver, proxy, socketserver

SCRIPTS = Path(socketserver.__file__).parent
SECONDS = 15.0


@contextmanager
def running(*command: object) -> Iterator[subprocess.Popen[str]]:
    """A program in its own process group, with its output for us to read."""
    process = subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        end(process)
        assert process.stdout is not None
        process.stdout.close()


def listening_port(process: subprocess.Popen[str]) -> int:
    """The port that a server started with port 0 says it got."""
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(r"\('127\.0\.0\.1', (\d+)\)", line)
        if found:
            return int(found[1])
    raise AssertionError("the server ended without naming its port")


def send_source(port: int, source: str) -> bytes:
    """What a server answers to one line with ``source``."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as sock:
        sock.sendall(f"{source!r}\n".encode())
        return sock.makefile("rb").read()


MODULE = (sys.executable, "-m", "execnet.script.socketserver")


@pytest.mark.parametrize("command", [MODULE, (sys.executable, SCRIPTS / "socketserver.py")], ids=["-m", "path"])
def test_the_server_names_its_address_and_serves(command: tuple[object, ...], group: execnet.Group) -> None:
    with running(*command, "127.0.0.1:0") as server:
        port = listening_port(server)
        for _ in range(2):
            gateway = group.makegateway(f"socket=127.0.0.1:{port}")
            assert gateway.remote_exec("channel.send(1)").receive(SECONDS) == 1
        group.terminate(SECONDS)
        assert server.poll() is None


def test_the_server_run_by_path_on(other_python: Interpreter, group: execnet.Group, tmp_path: Path) -> None:
    alone = tmp_path / "socketserver.py"
    alone.write_bytes((SCRIPTS / "socketserver.py").read_bytes())
    with running(other_python, alone, "127.0.0.1:0") as server:
        gateway = group.makegateway(f"socket=127.0.0.1:{listening_port(server)}")
        assert gateway._rinfo().version_info[:2] == other_python.version
        standard = "socketserver" if other_python.version[0] == 3 else "SocketServer"
        source = f"import {standard}; channel.send({standard}.TCPServer.__name__)"
        assert gateway.remote_exec(source).receive(SECONDS) == "TCPServer"
        group.terminate(SECONDS)


@pytest.mark.parametrize("name", ["socketserver", "proxy"])
def test_what_is_sent_to_far_sides_compiles_on(other_python: Interpreter, name: str) -> None:
    program = f"compile(open({str(SCRIPTS / name) + '.py'!r}).read(), 'sent', 'exec')"
    subprocess.run([other_python, "-c", program], check=True, timeout=60)


def test_a_source_that_fails_and_a_line_that_is_none_end_only_their_own_connection() -> None:
    with running(*MODULE, "127.0.0.1:0") as server:
        port = listening_port(server)
        assert send_source(port, "raise ZeroDivisionError") == b""
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as sock:
            sock.sendall(b"garbage\n")
            assert sock.makefile("rb").read() == b""
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS):
            pass
        assert send_source(port, "clientsock.sendall(b'alive')") == b"alive"


def test_connections_that_ended_leave_no_zombies() -> None:
    with running(*MODULE, "127.0.0.1:0") as server:
        port = listening_port(server)
        for _ in range(3):
            assert send_source(port, "clientsock.sendall(b'x')") == b"x"
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
        deadline = time.monotonic() + SECONDS
        while children.read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert children.read_text() == ""


def test_a_server_process_can_start_and_await_processes_of_its_own() -> None:
    with running(*MODULE, "127.0.0.1:0") as server:
        source = "import subprocess; clientsock.sendall(b'%d' % subprocess.call(['false']))"
        assert send_source(listening_port(server), source) == b"1"


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:port", "host.invalid:0"])
def test_an_address_that_cannot_be_listened_on_is_named(address: str) -> None:
    run = subprocess.run([*MODULE, address], capture_output=True, text=True, timeout=SECONDS)
    assert run.returncode == 1
    assert address in run.stderr
    assert "Traceback" not in run.stderr


def test_a_port_in_use_is_named(socket_server: SocketServer) -> None:
    run = subprocess.run([*MODULE, socket_server.hostport], capture_output=True, text=True, timeout=SECONDS)
    assert run.returncode == 1
    assert socket_server.hostport in run.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:70000", "127.0.0.1:²", ":-1"])
def test_a_port_that_is_none_is_named(address: str) -> None:
    for name in ("socketserver", "quitserver"):
        run = subprocess.run(
            [sys.executable, "-m", f"execnet.script.{name}", address], capture_output=True, text=True, timeout=SECONDS
        )
        assert run.returncode == 1
        assert address in run.stderr or "usage" in run.stderr
        assert "Traceback" not in run.stderr


SERIAL = f"""
import sys
sys.path[:0] = [{str(Path(execnet.__file__).parents[1])!r}]
from execnet.script import socketserver
socketserver.LINE_SECONDS = 0.3
socketserver.startserver(socketserver.bind_and_listen("127.0.0.1:0"), loop=True)
"""


@pytest.mark.parametrize("command", [(*MODULE, "127.0.0.1:0"), (sys.executable, "-c", SERIAL)], ids=["fork", "serial"])
def test_those_who_say_nothing_or_half_a_line_block_nobody(command: tuple[str, ...]) -> None:
    with running(*command) as server, ExitStack() as stack:
        port = listening_port(server)
        for beginning in (b"", b"'half", b"\0\xff", b"garbage\n", b"1\n", b"((((((" * 10000 + b"\n", b"\n"):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=SECONDS))
            sock.sendall(beginning)
        assert send_source(port, "clientsock.sendall(b'served')") == b"served"


def test_a_first_line_must_come_in_time() -> None:
    with running(sys.executable, "-c", SERIAL) as server, socket.socket() as sock:
        sock.settimeout(SECONDS)
        sock.connect(("127.0.0.1", listening_port(server)))
        sock.sendall(b"'half")
        assert sock.makefile("rb").read() == b"execnet socketserver cannot take the first line: timed out\n"


def peak_mebibytes(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) >> 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_a_first_line_without_end_is_refused_and_not_held_in_memory() -> None:
    with running(sys.executable, "-c", SERIAL.replace("0.3", "30")) as server:
        port = listening_port(server)
        before = peak_mebibytes(server.pid)
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as sock:
            megabyte = b"x" * (1 << 20)
            with suppress(ConnectionError):
                for _ in range(300):
                    sock.sendall(megabyte)
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as sock:
            sock.sendall(b"x" * (socketserver.MOST_LINE_BYTES + 1))
            refusal = sock.makefile("rb").read().decode()
        assert refusal == "execnet socketserver cannot take the first line: it has more than 4194304 bytes\n"
        assert peak_mebibytes(server.pid) - before < 40
        # The longest that is taken, with its quotes.
        start = "clientsock.sendall(b'served')#"
        assert send_source(port, start.ljust(socketserver.MOST_LINE_BYTES - 3, "x")) == b"served"


def test_a_server_out_of_descriptors_says_so_and_goes_on() -> None:
    with running(*MODULE, "127.0.0.1:0") as server:
        port = listening_port(server)
        soft, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        in_use = len(os.listdir(f"/proc/{server.pid}/fd"))
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (in_use, hard))
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as sock:
            sock.sendall(b"'clientsock.sendall(b\"served\")'\n")
            assert server.stdout is not None
            lines = iter(server.stdout)
            assert any("cannot accept a connection: [Errno 24]" in line for line in lines)
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (soft, hard))
            assert sock.makefile("rb").read() == b"served"


def test_a_server_out_of_processes_says_so_and_goes_on() -> None:
    # For root there is no limit; what is imported late might be in a place that another user can't read.
    program = """
import encodings.idna, os, resource, signal, socket
from execnet import gateway_base
from execnet.script import socketserver
def limit(processes):
    resource.setrlimit(resource.RLIMIT_NPROC, (processes, hard))
def more(signum, frame):
    limit(soft)
    print("more", flush=True)
signal.signal(signal.SIGUSR1, more)
soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
os.getuid() or os.setuid(65534)
limit(0)
socketserver.main()
"""
    with running(sys.executable, "-c", program, "127.0.0.1:0") as server:
        port = listening_port(server)
        answer = send_source(port, "clientsock.sendall(b'served')")
        assert answer.startswith(b"execnet socketserver cannot start a process: [Errno 11]")
        assert server.stdout is not None
        assert any("cannot start a process: [Errno 11]" in line for line in server.stdout)
        server.send_signal(signal.SIGUSR1)
        assert any(line == "more\n" for line in server.stdout)
        assert send_source(port, "clientsock.sendall(b'served')") == b"served"


def test_a_lost_listening_socket_ends_the_server() -> None:
    listening = socketserver.bind_and_listen(("127.0.0.1", 0))
    listening.close()
    with pytest.raises(OSError):
        socketserver.accept(listening)


@pytest.mark.parametrize("output", [">/dev/full 2>&1", "<&- >&- 2>&-", "2>&1 | head -c 1"])
def test_a_server_whose_output_fails_serves_on(output: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    with running("sh", "-c", f"{' '.join(MODULE)} {address} {output}; exit 7") as shell:
        port = int(address.rpartition(":")[2])
        wait_until(lambda: port in listening_ports(), SECONDS, "the server's listening")
        assert send_source(port, "raise ZeroDivisionError") == b""
        for _ in range(3):
            # What a program that it starts prints is no part of the connection.
            source = "import os; os.system('echo printed; echo told >&2'); clientsock.sendall(b'served')"
            assert send_source(port, source) == b"served"
        subprocess.run([sys.executable, "-m", "execnet.script.quitserver", address], check=True, timeout=SECONDS)
        assert shell.wait(SECONDS) == 7


def test_an_interrupted_server_leaves() -> None:
    with running(*MODULE, "127.0.0.1:0") as server:
        listening_port(server)
        server.send_signal(signal.SIGINT)
        assert server.wait(SECONDS) == 0


def test_the_server_sent_through_remote_exec_serves_one_connection(gw: execnet.Gateway) -> None:
    channel = gw.remote_exec(socketserver)
    channel.send(("127.0.0.1", 0))
    host, port = channel.receive(SECONDS)
    assert host == "127.0.0.1"
    assert send_source(port, "clientsock.sendall(b'done')") == b"done"
    channel.waitclose(SECONDS)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, port), timeout=SECONDS)


def test_startserver_in_a_program_of_ones_own() -> None:
    listening = socketserver.bind_and_listen(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    program = f"""
import socket
with socket.create_connection(("127.0.0.1", {port}), timeout={SECONDS}) as sock:
    sock.sendall(b"'clientsock.sendall(repr(address).encode())'\\n")
    print(sock.makefile("rb").read().decode(), end="")
"""
    with running(sys.executable, "-c", program) as client:
        socketserver.startserver(listening)
        assert client.stdout is not None
        assert client.stdout.read().startswith("('127.0.0.1', ")
    assert listening.fileno() == -1


def test_quitserver_ends_the_server() -> None:
    with running(*MODULE, "127.0.0.1:0") as server:
        port = listening_port(server)
        command = [sys.executable, "-m", "execnet.script.quitserver"]
        subprocess.run([*command, f"127.0.0.1:{port}"], check=True, timeout=SECONDS)
        assert server.wait(SECONDS) == 0
        run = subprocess.run([*command, f"127.0.0.1:{port}"], capture_output=True, text=True, timeout=SECONDS)
        assert run.returncode == 1
        assert f"127.0.0.1:{port}" in run.stderr


def test_loop_socketserver_starts_another_server_after_one_has_ended(group: execnet.Group) -> None:
    assert loop_socketserver.PAUSE > 0
    address = f"127.0.0.1:{free_port()}"
    with running(sys.executable, SCRIPTS / "loop_socketserver.py", address) as loop:
        try:
            for _ in range(2):
                assert listening_port(loop) == int(address.rpartition(":")[2])
                gateway = group.makegateway(f"socket={address}")
                assert gateway.remote_exec("channel.send(1)").receive(SECONDS) == 1
                group.terminate(SECONDS)
                subprocess.run(
                    [sys.executable, "-m", "execnet.script.quitserver", address], check=True, timeout=SECONDS
                )
        finally:
            os.killpg(loop.pid, signal.SIGINT)
        assert loop.wait(SECONDS) == 0


@pytest.mark.parametrize("name", ["quitserver", "shell"])
def test_a_missing_address_gives_the_usage(name: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", f"execnet.script.{name}"], capture_output=True, text=True, timeout=SECONDS
    )
    assert run.returncode == 1
    assert run.stderr.startswith("usage:")


def test_the_shell_runs_lines_on_the_server(socket_server: SocketServer) -> None:
    lines = "x = 20\nx + 1\nfor i in range(2):\n    print('number', i)\n\n1 / 0\nimport os\nos.getppid()\n"
    run = subprocess.run(
        [sys.executable, "-m", "execnet.script.shell", socket_server.hostport],
        input=lines,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert run.returncode == 0, run.stderr
    for part in ("21\n", "number 0\nnumber 1\n", "ZeroDivisionError", str(socket_server.process.pid)):
        assert part in run.stdout


def test_the_shell_says_where_nobody_listens() -> None:
    address = f"127.0.0.1:{free_port()}"
    run = subprocess.run(
        [sys.executable, "-m", "execnet.script.shell", address], capture_output=True, text=True, timeout=SECONDS
    )
    assert run.returncode == 1
    assert address in run.stderr
    assert "Traceback" not in run.stderr


def ascii_shell(address: str, lines: bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "execnet.script.shell", address],
        input=lines,
        capture_output=True,
        env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", **environment},
        timeout=SECONDS,
    )


def test_the_shell_in_an_ascii_locale_on(other_python: Interpreter, tmp_path: Path) -> None:
    alone = tmp_path / "socketserver.py"
    alone.write_bytes((SCRIPTS / "socketserver.py").read_bytes())
    with running("env", "LC_ALL=C", "PYTHONIOENCODING=ascii", other_python, alone, "127.0.0.1:0") as server:
        lines = 'print(u"gr\\xfcn")\nlen(u"grün")\nprint(u"grün")\nprint("plain")\n1/0\n'
        if other_python.version[0] == 3:
            lines += 'print("\\udcff")\n'
        run = ascii_shell(f"127.0.0.1:{listening_port(server)}", lines.encode())
    assert (run.returncode, run.stderr) == (0, b"")
    for part in (b"gr\\xfcn\n", b"4\n", b"plain\n", b"ZeroDivisionError"):
        assert part in run.stdout
    assert run.stdout.count(b"gr\\xfcn\n") == 2
    assert (b"\\udcff" in run.stdout) == (other_python.version[0] == 3)


def test_the_shell_reads_utf8_where_the_locale_is_ascii_and_utf8_is_off(socket_server: SocketServer) -> None:
    run = ascii_shell(
        socket_server.hostport, 'len("grün")\n'.encode(), PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING=""
    )
    assert (run.returncode, run.stderr) == (0, b"")
    assert b"4\n" in run.stdout


@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [
        ("| head -c 1", 141, ""),
        (">/dev/full", 2, "cannot write the output: No space left on device"),
        (">&-", 2, "cannot write the output: Bad file descriptor"),
        ("<&-", 0, ""),
        ("2>&-", 0, ""),
    ],
)
def test_the_shell_with_broken_streams(socket_server: SocketServer, redirection: str, status: int, said: str) -> None:
    line = f"{sys.executable} -m execnet.script.shell {socket_server.hostport} {redirection}; exit ${{PIPESTATUS[0]}}"
    lines = b"print('x' * 10000)\n" * 100
    run = subprocess.run(["bash", "-c", line], input=lines, capture_output=True, timeout=SECONDS)
    errors = run.stderr.decode()
    assert run.returncode == status
    assert errors == (f"python -m execnet.script.shell: {said}\n" if said else "")


def test_a_proxy_reports_what_it_could_not_start(makegateway: Callable[..., execnet.Gateway]) -> None:
    gateway = makegateway("popen")
    channel = gateway.remote_exec(proxy)
    data, control = gateway.newchannel(), gateway.newchannel()
    channel.send((["/nowhere/program"], data, control))
    assert channel.receive(SECONDS)[0] == 2
    for end_of in (data, control):
        with pytest.raises(EOFError):
            end_of.receive(SECONDS)


WINDOWS_SERVICE = "execnet.script.socketserverservice"
# What the service uses of pywin32, with events of threading, and a service manager that stops it when it is told to.
FAKED_PYWIN32 = """
import sys, threading, types
def module(name, **names):
    sys.modules[name] = made = types.ModuleType(name)
    made.__file__ = name + ".pyd"
    vars(made).update(names)
def wait(event, milliseconds):
    return 0 if event.wait(milliseconds / 1000) else 258
class ServiceFramework:
    def __init__(self, args):
        self.args = args
    def ReportServiceStatus(self, status):
        tell("status", status)
def tell(*what):
    sys.__stdout__.write(" ".join(map(str, what)) + "\\n")  # in one piece: print is not, and two threads tell
    sys.__stdout__.flush()
def handle(service):
    made = service([service._svc_name_])
    def stop():
        sys.stdin.readline()
        made.SvcStop()
    threading.Thread(target=stop).start()
    made.SvcDoRun()
module("servicemanager", LogInfoMsg=lambda text: tell("logged", text), EVENTLOG_INFORMATION_TYPE=4,
       PYS_SERVICE_STARTED="started", PYS_SERVICE_STOPPED="stopped")
module("win32event", CreateEvent=lambda *args: threading.Event(), SetEvent=threading.Event.set, WAIT_TIMEOUT=258,
       WaitForSingleObject=wait)
module("win32evtlogutil", AddSourceToRegistry=lambda *args: tell("source", *args),
       ReportEvent=lambda name, event, category, kind, texts: tell("event", event))
module("win32service", SERVICE_STOP_PENDING=3)
module("win32serviceutil", ServiceFramework=ServiceFramework, HandleCommandLine=handle)
"""


def faked_service(address: str) -> tuple[str, ...]:
    program = f"""{FAKED_PYWIN32}
from execnet.script import socketserver
socketserver.DEFAULT = {address!r}
import runpy
runpy.run_module({WINDOWS_SERVICE!r}, run_name="__main__")
"""
    return sys.executable, "-c", program


def test_without_pywin32_the_windows_service_says_what_it_needs() -> None:
    done = subprocess.run([sys.executable, "-m", WINDOWS_SERVICE], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ModuleNotFoundError: No module named 'servicemanager': {WINDOWS_SERVICE} needs Windows and pywin32"
    )


def test_the_windows_service_serves_until_it_is_stopped(group: execnet.Group) -> None:
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        faked_service(address), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdin is not None and process.stdout is not None
        name = "ExecNetSocketServer"
        said = [process.stdout.readline() for _ in range(3)]
        assert said[:2] == [f"source {name} servicemanager.pyd Application\n", "event started\n"]
        assert said[2].startswith("logged execnet socketserver Entering Accept loop")
        for _ in range(2):
            gateway = group.makegateway(f"socket={address}")
            assert gateway.remote_exec("import os; channel.send(os.getpid())").receive(SECONDS) == process.pid
            gateway.exit(wait=SECONDS)
        process.stdin.write("stop\n")
        process.stdin.flush()
        rest = process.stdout.read().splitlines()
        assert rest[-2:] == ["status 3", "event stopped"]
        assert process.wait(SECONDS) == 0
    finally:
        end(process)


def test_a_windows_service_that_gets_no_address_tells_why() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = faked_service(f"127.0.0.1:{taken.getsockname()[1]}")
        done = subprocess.run(command, input="stop\n", capture_output=True, text=True, timeout=SECONDS)
    assert "event stopped" in done.stdout
    assert "Address already in use" in done.stdout + done.stderr
    assert done.returncode == 1
