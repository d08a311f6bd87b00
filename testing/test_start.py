"""Starting the other side: what is sent, what answers, and what is said where nothing answers."""

from __future__ import annotations

import ast
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import leaks
from support.interpreters import Interpreter
from support.lines import AtLine, functions_of
from support.processes import pid_of, wait_until

import execnet
from execnet import gateway_base, gateway_bootstrap, gateway_io
from execnet._group import starting
from execnet._group.calls import Call
from execnet._source.shipped import packed_text, shipped_text, strip_source
from execnet.gateway_bootstrap import GatewayStartError
from execnet.xspec import XSpec

MakeGateway = Callable[..., execnet.Gateway]
SECONDS = 10.0


def ready_spec(string: str) -> XSpec:
    """A spec as a group completes it."""
    spec = XSpec(string)
    spec.id = spec.id or "one"
    spec.execmodel = spec.execmodel or "thread"
    return spec


# the shipped text


def is_bare_constant(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def without_docstrings(source: str) -> str:
    """The statements of ``source`` and their lines, but for those that are nothing but a constant."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            body[:] = [statement for statement in body if not is_bare_constant(statement)]
    return ast.dump(tree, include_attributes=False) + repr(
        [(type(node).__name__, node.lineno) for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    )


def test_shipped_text_is_the_source_line_for_line_without_comments_and_docstrings() -> None:
    source = Path(gateway_base.__file__).read_text(encoding="utf-8")
    text = shipped_text()
    assert len(text.splitlines()) == len(source.splitlines())
    assert without_docstrings(text) == without_docstrings(source)
    comments = [line for line in text.splitlines() if line.lstrip().startswith("#")]
    assert comments == []
    assert gateway_base.serve.__doc__ is not None
    assert gateway_base.serve.__doc__ not in text


def test_shipped_text_is_ascii_and_fits_a_pipe_as_it_is_sent() -> None:
    assert shipped_text().isascii()
    assert len(packed_text().encode("ascii")) < 65 * 1024 // 2


def test_shipped_text_is_made_once() -> None:
    assert shipped_text() is shipped_text()


def test_names_made_on_demand_are_missing_where_there_is_only_the_text(makegateway: MakeGateway) -> None:
    gateway = makegateway(f"popen//python={sys.executable} -I -S")
    channel = gateway.remote_exec(
        "import __main__; channel.send([hasattr(__main__, name) for name in ('serve', 'IO', '_Serializer')])"
    )
    assert channel.receive(30) == [True, False, False]


def test_shipped_text_compiles_on(other_python: Interpreter, tmp_path: Path) -> None:
    path = tmp_path / "shipped.py"
    path.write_text(shipped_text(), encoding="ascii")
    program = f"compile(open({str(path)!r}).read(), 'shipped', 'exec')"
    subprocess.run([other_python, "-c", program], check=True, timeout=60, cwd=tmp_path)


@pytest.mark.parametrize(
    ("source", "stripped"),
    [
        ("a = 1  # why\n", "a = 1\n"),
        ('"""Doc."""\n', '""\n'),
        ('def f():\n    """One # two\n    "three".\n    """\n    x = "#"\n', 'def f():\n ""\n\n\n x = "#"\n'),
        ('x = (\n    "text"  # no docstring\n)\n', 'x = (\n "text"\n)\n'),
        ('class C:\n    # first\n\n    """doc"""\n', 'class C:\n\n\n ""\n'),
        ("if a:\n    if b:\n        c = '    '\n", "if a:\n if b:\n  c = '    '\n"),
        ("x = 'a\\'#b'  # 'c'\n", "x = 'a\\'#b'\n"),
        ('x = "a\\"#b" + \'"\'  # "c"\n', 'x = "a\\"#b" + \'"\'\n'),
        ('x = """\n# y\n    """\nz = b""\n', 'x = """\n# y\n    """\nz = b""\n'),
    ],
)
def test_strip_source(source: str, stripped: str) -> None:
    assert strip_source(source) == stripped


# what is sent


class FakeIO:
    """An io with read and write only."""

    def __init__(self, answer: bytes = b"1") -> None:
        self.answer = answer
        self.written: list[bytes] = []

    def read(self, numbytes: int) -> bytes:
        if not self.answer:
            raise EOFError("expected 1 bytes, got 0")
        return self.answer[:numbytes]

    def write(self, data: bytes) -> None:
        self.written.append(data)


BOOTSTRAPS = [
    (gateway_bootstrap.bootstrap_import, "popen"),
    (gateway_bootstrap.bootstrap_exec, "popen//python=python3"),
    (gateway_bootstrap.bootstrap_exec, "ssh=host"),
    (gateway_bootstrap.bootstrap_socket, "socket=host:1"),
]


def test_sendexec_writes_one_ascii_line() -> None:
    io = FakeIO()
    gateway_bootstrap.sendexec(io, "a = 1", "b = '\u20ac'")
    (line,) = io.written
    assert line.endswith(b"\n")
    assert ast.literal_eval(line.decode("ascii")) == "a = 1\nb = '\u20ac'"


@pytest.mark.parametrize(("bootstrap", "string"), BOOTSTRAPS)
def test_one_line_that_fits_a_pipe_is_sent_and_one_byte_awaited(bootstrap: Any, string: str) -> None:
    io = FakeIO()
    bootstrap(io, ready_spec(string))
    data = b"".join(io.written)
    assert data.count(b"\n") == 1
    assert len(data) < 64 * 1024
    compile(ast.literal_eval(data.decode("ascii")), "sent", "exec")


@pytest.mark.parametrize("id", ["mine", ready_spec("socket//id=mine")])
def test_a_socket_is_told_its_id_or_its_spec(id: Any) -> None:
    io = FakeIO()
    gateway_bootstrap.bootstrap_socket(io, id=id)
    assert "serve(io, id='mine-worker')" in ast.literal_eval(io.written[0].decode("ascii"))


@pytest.mark.parametrize("answer", [b"", b"2"])
@pytest.mark.parametrize(("bootstrap", "string"), BOOTSTRAPS)
def test_no_or_another_answer_is_an_error_naming_the_spec(bootstrap: Any, string: str, answer: bytes) -> None:
    with pytest.raises(GatewayStartError, match=string) as caught:
        bootstrap(FakeIO(answer), ready_spec(string))
    assert caught.value.output == answer
    assert caught.value.spec == string


def test_an_ssh_that_exits_255_is_host_not_found() -> None:
    class GoneIO(FakeIO):
        def wait(self) -> int:
            return 255

    with pytest.raises(execnet.HostNotFound, match="somewhere"):
        gateway_bootstrap.bootstrap_exec(GoneIO(b""), ready_spec("ssh=somewhere"))
    with pytest.raises(GatewayStartError) as caught:
        gateway_bootstrap.bootstrap_exec(GoneIO(b""), ready_spec("popen//python=python3"))
    assert not isinstance(caught.value, execnet.HostNotFound)


@pytest.mark.parametrize(
    ("spec", "hinted"),
    [("ssh=host", True), ("vagrant_ssh=box", True), ("ssh=host//python=python3", False), ("popen//python=x", False)],
)
def test_the_error_of_a_host_without_python_says_what_to_write(spec: str, hinted: bool) -> None:
    class GoneIO(FakeIO):
        def wait(self) -> int:
            return 127

    with pytest.raises(GatewayStartError, match=r"127 \(command not found\)") as caught:
        gateway_bootstrap.bootstrap_exec(GoneIO(b""), ready_spec(spec))
    assert ("python=NAME in the spec" in str(caught.value)) is hinted


# popen


REPORT = """
import os, sys
channel.send((sys.argv, sys.path, os.getcwd(), sorted(name for name in sys.modules if "execnet" in name)))
"""


def test_a_popen_worker_imports_the_initiators_execnet_whatever_its_cwd(
    makegateway: MakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoy = tmp_path / "execnet"
    decoy.mkdir()
    (decoy / "__init__.py").write_text("raise RuntimeError('the wrong execnet')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    channel = makegateway("popen").remote_exec(
        "import sys; channel.send((sys.argv, sys.modules['execnet.gateway_base'].__file__))"
    )
    assert channel.receive(SECONDS) == (["-c"], gateway_base.__file__)


def test_a_popen_worker_finds_execnet_once_on_its_path(
    makegateway: MakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", gateway_bootstrap.importdir)
    _, path, cwd, _ = makegateway("popen").remote_exec(REPORT).receive(SECONDS)
    assert path[:2] == ["", gateway_bootstrap.importdir]
    assert path.count(gateway_bootstrap.importdir) == 1
    assert cwd == str(tmp_path)


def test_a_worker_of_another_interpreter_needs_nothing_installed(
    makegateway: MakeGateway, other_python: Interpreter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("EXECNET_PURE", "1")  # where execnet happens to be installed there, its C core would be used
    gateway = makegateway(f"popen//python={other_python}")
    argv, path, _, modules = gateway.remote_exec(REPORT).receive(SECONDS)
    assert argv == ["-c"]
    own_path = subprocess.run([other_python, "-c", "import sys; print(sys.path)"], stdout=subprocess.PIPE, check=True)
    assert path == ast.literal_eval(own_path.stdout.decode())
    assert modules == []
    with pytest.raises(execnet.RemoteError, match=r"gateway_base.*\n(.*\n)*.*SyntaxError"):
        gateway.remote_exec("1 +").waitclose(SECONDS)


@pytest.mark.parametrize("bootstrap", [gateway_bootstrap.bootstrap_import, gateway_bootstrap.bootstrap_exec])
def test_a_worker_whose_initiator_ended_as_it_started_says_nothing(bootstrap: Any) -> None:
    io = FakeIO()
    bootstrap(io, ready_spec("popen"))
    read_end, write_end = os.pipe()
    os.close(read_end)
    arguments = [sys.executable, "-X", "dev", "-c", gateway_io.popen_bootstrapline]
    ended = subprocess.run(
        arguments, input=b"".join(io.written), stdout=write_end, stderr=subprocess.PIPE, timeout=6 * SECONDS
    )
    os.close(write_end)
    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.timing
def test_an_idle_worker_hardly_wakes_up(gw: execnet.Gateway) -> None:
    pid = gw.remote_exec("import os; channel.send(os.getpid())").receive(SECONDS)

    def switches() -> int:
        return sum(
            int(line.split()[1])
            for status in Path(f"/proc/{pid}/task").glob("*/status")
            for line in status.read_text().splitlines()
            if line.startswith("voluntary_ctxt_switches")
        )

    time.sleep(2)  # its looks for signals are ever rarer, down to one a second
    before = switches()
    time.sleep(2)
    assert switches() - before <= 4


def test_collection_of_garbage_is_as_python_starts_it(
    makegateway: MakeGateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ask = "import gc; channel.send((gc.isenabled(), gc.get_threshold()))"
    assert makegateway("popen").remote_exec(ask).receive(SECONDS) == (True, gc.get_threshold())
    (tmp_path / "sitecustomize.py").write_text("import gc; gc.disable()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert makegateway("popen").remote_exec(ask).receive(SECONDS)[0] is False


def test_dont_write_bytecode(makegateway: MakeGateway) -> None:
    source = "import sys; channel.send(sys.dont_write_bytecode)"
    assert makegateway("popen//dont_write_bytecode").remote_exec(source).receive(SECONDS) is True


def test_replacements_of_module_names_are_honoured(makegateway: MakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Master(gateway_io.Popen2IOMaster):
        def __init__(self, *args: Any) -> None:
            calls.append(args)
            super().__init__(*args)

    def local_ssh(spec: XSpec) -> list[str]:
        return [sys.executable, "-u", "-c", gateway_io.popen_bootstrapline]

    monkeypatch.setattr(gateway_io, "Popen2IOMaster", Master)
    monkeypatch.setattr(gateway_io, "ssh_args", local_ssh)
    monkeypatch.setattr(gateway_io, "popen_bootstrapline", "import sys;sys.x=5;exec(eval(sys.stdin.readline()))")
    gateway = makegateway("ssh=nowhere")
    assert gateway.remote_exec("import sys; channel.send(sys.x)").receive(SECONDS) == 5
    assert gateway.remoteaddress == "nowhere"
    assert isinstance(gateway._io, Master)
    assert [len(args) for args in calls] == [2]


def test_the_pipes_of_a_gateway_are_not_inherited_by_other_processes(gw: execnet.Gateway) -> None:
    for stream in (gw._io.outfile, gw._io.infile):
        assert not os.get_inheritable(stream.fileno())


def test_processes_can_be_started_first_and_answered_later(no_leaks: None) -> None:
    execmodel = gateway_base.get_execmodel("thread")
    specs = [ready_spec(f"popen//id={number}") for number in range(3)]
    ios = [gateway_io.create_io(spec, execmodel) for spec in specs]
    for io, spec in zip(ios, specs):
        gateway_bootstrap.begin(io, spec)
    for io, spec in zip(ios, specs):
        gateway_bootstrap.await_answer(io, spec)
    for io in ios:
        gateway_bootstrap.discard(io)
        assert io.popen.returncode is not None


@pytest.mark.parametrize("model", ["thread", "main_thread_only", "gevent", "eventlet"])
def test_the_worker_runs_the_model_it_is_asked_for(makegateway: MakeGateway, model: str) -> None:
    for spec in (f"popen//execmodel={model}", f"popen//python={sys.executable}//execmodel={model}"):
        assert makegateway(spec).remote_status().execmodel == model


# start errors


def started_processes() -> list[int]:
    """The pids of the children of this process, zombies too, but for those of the session's fixtures."""
    parents = leaks.parents_of_all()
    return sorted(pid for pid, parent in parents.items() if parent == os.getpid() and pid not in leaks.KEPT)


def script(folder: Path, text: str) -> Path:
    path = folder / "script"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


FAILURES = {
    "exits": ("exit 3", ["exited with status 3"]),
    "says something": ("echo what is this; exit 0", ["what is this", "status 0"]),
    "not found": ("exit 127", ["127", "command not found"]),
    "killed": ("kill -9 $$", ["killed by SIGKILL"]),
    "another byte, no newline, stays": ("printf hello; exec sleep 60", ["hello", "no answer"]),
    "floods": ("yes", ["y\\ny\\n", "no answer"]),
    "echoes": ("cat; exit 4", ["import"]),
    "leaves a child with the pipe": ("sleep 1.5 & exit 5", ["exited with status 5"]),
    "closes stdout": ("exec 1>&-; exec sleep 60", ["no answer"]),
}


@pytest.mark.parametrize("via", ["", "//via=master"])
@pytest.mark.parametrize(("text", "said"), FAILURES.values(), ids=FAILURES)
def test_a_program_that_is_no_interpreter(
    group: execnet.Group, tmp_path: Path, text: str, said: list[str], via: str
) -> None:
    group.makegateway("popen//id=master")
    children = started_processes()
    spec = f"popen//python={script(tmp_path, text)}//id=failing{via}"
    began = time.monotonic()
    with pytest.raises(GatewayStartError) as caught:
        group.makegateway(spec)
    assert time.monotonic() - began < 5.0
    for part in [spec, str(tmp_path / "script"), "-u -c", *said]:
        assert part in str(caught.value)
    assert caught.value.spec == spec
    assert caught.value.command is not None
    assert caught.value.command[0] == str(tmp_path / "script")
    assert [gateway.id for gateway in group] == ["master"]
    assert started_processes() == children
    group.makegateway("popen//id=failing")


def test_a_program_that_closes_its_stdin_and_stays(group: execnet.Group, tmp_path: Path) -> None:
    with pytest.raises(GatewayStartError, match="no answer"):
        group.makegateway(f"popen//python={script(tmp_path, 'exec 0<&-; exec sleep 60')}")
    assert started_processes() == []


@pytest.mark.parametrize("model", ["gevent", "eventlet"])
def test_a_green_initiator_is_told_why_as_well(model: str, tmp_path: Path) -> None:
    failing = script(tmp_path, "echo what is this; exit 3")
    program = f"""
import execnet
group = execnet.Group(execmodel={model!r})
for spec in ["popen//python={failing}", "popen//python=/nowhere/python"]:
    try:
        group.makegateway(spec)
    except OSError as error:
        print(type(error).__name__, error)
print(group.makegateway("popen").remote_exec("channel.send(1)").receive())
group.terminate(5)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "GatewayStartError" in run.stdout, run.stderr
    assert "what is this" in run.stdout
    assert "status 3" in run.stdout
    assert "FileNotFoundError" in run.stdout
    assert run.stdout.endswith("\n1\n")


@pytest.mark.parametrize("via", ["", "//via=master"])
def test_a_missing_executable_is_file_not_found(group: execnet.Group, via: str) -> None:
    group.makegateway("popen//id=master")
    spec = f"popen//python=/nowhere/python -E{via}"
    with pytest.raises(FileNotFoundError) as caught:
        group.makegateway(spec)
    assert spec in str(caught.value)
    assert "/nowhere/python -E -u -c" in str(caught.value)
    assert caught.value.filename == "/nowhere/python"
    assert len(group) == 1


@pytest.mark.parametrize("via", ["", "//via=master"])
def test_a_file_that_may_not_be_executed_is_a_permission_error(group: execnet.Group, tmp_path: Path, via: str) -> None:
    group.makegateway("popen//id=master")
    path = tmp_path / "data"
    path.write_text("no program")
    with pytest.raises(PermissionError, match=str(path)):
        group.makegateway(f"popen//python={path}{via}")


def test_an_unknown_execmodel_is_told_before_anything_is_started(
    group: execnet.Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execnet.gateway_io, "Popen2IOMaster", None)
    for specs in (["popen//execmodel=treads"], ["popen", "popen//id=x//execmodel=treads"]):
        with pytest.raises(ValueError, match=r"unknown execmodel 'treads', known are: .*thread"):
            group.makegateways(specs)
    assert len(group) == 0


def test_a_key_that_is_nearly_a_known_one_is_warned_of_once(
    makegateway: MakeGateway, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr("execnet.xspec._asked", set())
    for _ in range(2):
        gateway = makegateway("popen//pyton=python2//rack=7//env:PYTON=1")
        assert (gateway.spec.pyton, gateway.spec.rack) == ("python2", "7")
    [warning] = recwarn
    text = "unknown key 'pyton' in 'popen//pyton=python2//rack=7//env:PYTON=1': did you mean 'python'?"
    assert (str(warning.message), warning.category) == (text, UserWarning)


def test_a_warning_of_a_key_names_the_line_that_asked_for_the_gateway(
    group: execnet.Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("execnet.xspec._asked", set())
    with pytest.warns(UserWarning, match="did you mean 'chdir'") as caught:
        group.makegateway("popen//chdr=x")
    assert caught[0].filename == __file__


IS_MAIN = "import threading; channel.send(threading.current_thread() is threading.main_thread())"


@pytest.mark.parametrize("key", ["env:NAME=value", "stdout=prefix"])
def test_after_what_a_start_runs_in_the_worker_its_main_thread_is_free(group: execnet.Group, key: str) -> None:
    gateways = group.makegateways([f"popen//{key}"] * 20)
    assert [gateway.remote_exec(IS_MAIN).receive(SECONDS) for gateway in gateways] == [True] * 20
    assert {gateway.remote_status().numchannels for gateway in gateways} == {0}


SLOW = "exec sleep 60"


@pytest.mark.parametrize("options", [{}, {"stderr": "capture"}])
@pytest.mark.parametrize("given", ["argument", "spec"])
def test_a_start_that_takes_too_long_is_given_up(
    group: execnet.Group, tmp_path: Path, given: str, options: dict[str, str]
) -> None:
    children, began = started_processes(), time.monotonic()
    program = script(tmp_path, f"echo waiting for nothing >&2\n{SLOW}")
    spec = f"popen//id=slow//python={program}" + "".join(f"//{key}={value}" for key, value in options.items())
    timeout = 0.7 if given == "argument" else None
    with pytest.raises(GatewayStartError, match=r"did not start within 0\.7 seconds") as caught:
        group.makegateway(spec if given == "argument" else f"{spec}//timeout=0.7", timeout=timeout)
    assert 0.7 <= time.monotonic() - began < 5.0
    assert isinstance(caught.value, execnet.TimeoutError)
    assert caught.value.spec.startswith(spec)
    assert caught.value.command is not None and caught.value.command[0] == str(program)
    assert "on stderr: waiting for nothing" in str(caught.value)
    assert started_processes() == children
    assert len(group) == 0
    group.makegateway("popen//id=slow//timeout=60", timeout=SECONDS)


def test_several_starts_of_which_some_take_too_long(group: execnet.Group, tmp_path: Path) -> None:
    children, slow = started_processes(), script(tmp_path, SLOW)
    specs = ["popen", f"popen//id=one//python={slow}", "popen//via=one", f"popen//id=other//python={slow}//timeout=60"]
    with pytest.raises(execnet.TimeoutError) as caught:
        group.makegateways(specs, timeout=2)
    assert sorted(str(caught.value).splitlines()) == sorted(
        f"gateway {spec!r} did not start within 2 seconds" for spec in specs[1:]
    )
    assert started_processes() == children
    assert len(group) == 0


def test_the_timeout_of_one_spec_is_not_that_of_others(group: execnet.Group, tmp_path: Path) -> None:
    later = script(tmp_path, f'sleep 3.5; exec {sys.executable} "$@"')
    assert len(group.makegateways(["popen//timeout=3", f"popen//python={later}"])) == 2


@pytest.mark.parametrize("far", ["popen//via=stopped", "socket//installvia=stopped"])
def test_what_can_t_be_hurried_is_left_behind(group: execnet.Group, far: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "UNDO_PATIENCE", 0.5)
    stopped = group.makegateway("popen//id=stopped")
    os.kill(pid_of(stopped), signal.SIGSTOP)
    try:
        began = time.monotonic()
        gateway, error = group.makegateways(["popen", f"{far}//id=far"], timeout=2, return_errors=True)
        assert time.monotonic() - began < 10.0
    finally:
        os.kill(pid_of(stopped), signal.SIGCONT)
    assert isinstance(error, execnet.TimeoutError) and isinstance(gateway, execnet.Gateway)
    assert gateway.remote_exec("channel.send(1)").receive(SECONDS) == 1
    assert list(group) == [stopped, gateway]
    wait_until(lambda: group._membership.is_free("far"), SECONDS, "the end of what was left behind")
    # Nothing of it is left there, too: the tests' own look at all processes tells.
    stopped.remote_exec("channel.send(1)").receive(SECONDS)


def test_an_interrupt_at_any_line_of_giving_up_leaves_nothing_behind(group: execnet.Group, tmp_path: Path) -> None:
    slow, children = script(tmp_path, SLOW), started_processes()
    chosen = functions_of(starting.__file__, ("run", "_conducted", "_give_up"))
    calls = functions_of(Call.__init__.__code__.co_filename, ("__init__", "done_within"))
    wheres, number = [], 0

    def interrupt() -> None:
        raise KeyboardInterrupt

    while True:
        at_line = AtLine(number, interrupt, lambda code: chosen(code) or calls(code))
        with at_line, pytest.raises((KeyboardInterrupt, execnet.TimeoutError)):
            group.makegateway(f"popen//python={slow}", timeout=0.1)
        if not at_line.where:
            break
        wheres.append(at_line.where)
        wait_until(lambda: started_processes() == children, SECONDS, f"the end of it all, after {at_line.where}")
        number += 1
    assert any(where.startswith("_give_up") for where in wheres)
    assert len(group) == 0


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon", ""])
def test_a_timeout_is_a_positive_number_of_seconds(group: execnet.Group, seconds: str) -> None:
    with pytest.raises(ValueError, match="timeout= needs a positive number of seconds: 'popen//timeout="):
        group.makegateway(f"popen//timeout={seconds}")
    with pytest.raises(ValueError, match="timeout must be positive, not 0"):
        group.makegateway(timeout=0)


def test_an_interrupt_while_waiting_for_the_answer_leaves_nothing_behind(group: execnet.Group, tmp_path: Path) -> None:
    failing = script(tmp_path, f"touch {tmp_path}/started; exec sleep 60")

    def interrupt() -> None:
        deadline = time.monotonic() + SECONDS
        while not (tmp_path / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        group.makegateway(f"popen//python={failing}")
        time.sleep(SECONDS)
    thread.join(SECONDS)
    assert len(group) == 0
    assert started_processes() == []


# via


def test_via_runs_on_the_other_gateway_and_via_of_via(group: execnet.Group) -> None:
    pid = "import os; channel.send((os.getpid(), os.getppid()))"
    pids = {}
    for spec in ("popen//id=a", "popen//id=b//via=a", "popen//id=c//via=b"):
        gateway = group.makegateway(spec)
        pids[gateway.id] = gateway.remote_exec(pid).receive(SECONDS)
    assert pids["b"][1] == pids["a"][0]
    assert pids["c"][1] == pids["b"][0]


def test_via_any_interpreter_carries_bytes_both_ways(group: execnet.Group, other_python: Interpreter) -> None:
    group.makegateway(f"popen//id=master//python={other_python}")
    same = group.makegateway("popen//id=same//via=master")
    assert same._rinfo().executable == group["master"]._rinfo().executable
    other = group.makegateway(f"popen//id=other//via=master//python={sys.executable}")
    data = bytes(range(256)) * 4096
    channel = other.remote_exec("channel.send(channel.receive())")
    channel.send(data)
    assert channel.receive(30) == data


@pytest.mark.parametrize("model", ["thread", "main_thread_only", "gevent", "eventlet"])
def test_a_gateway_of_any_model_stays_free_while_others_go_through_it(group: execnet.Group, model: str) -> None:
    master = group.makegateway(f"popen//id=master//execmodel={model}")
    for name in ("one", "two"):
        group.makegateway(f"popen//id={name}//via=master//execmodel={model}")
    assert master.remote_status().numexecuting == 0
    for gateway in group:
        assert gateway.remote_exec("channel.send(1)").receive(SECONDS) == 1


def test_a_proxied_process_is_killed_and_its_status_told(group: execnet.Group) -> None:
    group.makegateway("popen//id=master")
    gateway = group.makegateway("popen//id=far//via=master")
    channel = gateway.remote_exec("channel.receive()")
    gateway._io.kill()
    assert gateway._io.wait() == -signal.SIGKILL
    assert gateway._io.wait() == -signal.SIGKILL
    gateway._io.kill()
    with pytest.raises(EOFError):
        channel.receive(SECONDS)


def test_a_proxied_gateway_ends_with_its_master(group: execnet.Group) -> None:
    master = group.makegateway("popen//id=master")
    gateway = group.makegateway("popen//id=far//via=master")
    channel = gateway.remote_exec("channel.receive()")
    master._io.kill()
    with pytest.raises(EOFError):
        channel.receive(SECONDS)
    assert gateway._io.wait() is None
    gateway._io.kill()


def test_via_an_unknown_gateway_and_via_for_a_socket(group: execnet.Group) -> None:
    with pytest.raises(KeyError, match="nobody"):
        group.makegateway("popen//via=nobody")
    group.makegateway("popen//id=master")
    with pytest.raises(ValueError, match="socket=host:1//via=master"):
        group.makegateway("socket=host:1//via=master")


def test_a_start_whose_thread_dies_before_its_first_line_is_an_error(
    group: execnet.Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "CONDUCTOR_PATIENCE", 0.05)
    monkeypatch.setattr(type(group.execmodel), "start", lambda self, function, args=(): None)
    with pytest.raises(OSError, match="the thread that starts gateways has not begun"):
        group.makegateway("popen//id=a")
    monkeypatch.undo()
    assert group.makegateway("popen//id=a").remote_exec("channel.send(1)").receive(10) == 1
