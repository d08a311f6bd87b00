"""The stubs tell the truth, hold every name that programs use, and type a user's program."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

import execnet
from execnet import gateway_base

SECONDS = 110
PACKAGE = Path(gateway_base.__file__).parent
STUBBED = (
    "execnet.gateway_base",
    "execnet.rsync_remote",
    "execnet._command.far_side",
    "execnet.script.proxy",
    "execnet.script.socketserver",
)

# What programs in the field use of gateway_base, public or private by spelling: class by class, the functions
# and data under "".
NAMES = {
    "": """
        geterrortext trace notrace sysex INTERRUPT_TEXT MAIN_THREAD_ONLY_DEADLOCK_TEXT get_execmodel
        NO_ENDMARKER_WANTED ENDMARKER dumps loads dump load dumps_internal loads_internal DUMPFORMAT_VERSION
        bchr init_popen_io serve core GatewayReceivedTerminate DataFormatError DumpError LoadError
        TimeoutError BaseGateway
    """,
    "RemoteError": "formatted warn",
    "ExecModel": "backend queue subprocess socket fdopen Lock RLock Event",
    "ThreadExecModel": "backend queue subprocess socket start get_ident sleep fdopen Lock RLock Event",
    "MainThreadOnlyExecModel": "backend queue subprocess socket start get_ident sleep fdopen Lock RLock Event",
    "EventletExecModel": "backend start get_ident sleep fdopen Lock RLock Event",
    "GeventExecModel": "backend start get_ident sleep fdopen Lock RLock Event",
    "WorkerPool": "spawn integrate_as_primary_thread trigger_shutdown terminate waitall active_count _running",
    "Reply": "get waitfinish running",
    "Popen2IO": "outfile infile read _read _write write close_read close_write",
    "Message": """
        msgcode channelid data from_io to_io received _types STATUS RECONFIGURE GATEWAY_TERMINATE CHANNEL_EXEC
        CHANNEL_DATA CHANNEL_CLOSE CHANNEL_CLOSE_ERROR CHANNEL_LAST_MESSAGE
    """,
    "WorkerGateway": """
        id execmodel newchannel join executetask serve
        _io _channelfactory _trace _send _receivelock _geterrortext _strconfig
    """,
    "Channel": """
        id gateway RemoteError TimeoutError send receive __iter__ __next__ next setcallback close isclosed
        waitclose makefile reconfigure
        _INTERNALWAKEUP _getremoteerror _items _closed _receiveclosed _executing _strconfig
    """,
    "ChannelFactory": """
        new channels finished _channels _callbacks _local_close _local_receive _no_longer_opened _finished_receiving
    """,
    "ChannelFileWrite": "write flush close isatty",
    "ChannelFileRead": "read readline close isatty",
    "Unserializer": "load num2func",
    "_Serializer": "save",
    "opcode": """
        BUILDTUPLE BYTES CHANNEL FALSE FLOAT FROZENSET INT LONG LONGINT LONGLONG NEWDICT NEWLIST NONE
        PY2STRING PY3STRING SET SETITEM STOP TRUE UNICODE COMPLEX
    """,
}


class QuietIO:
    """An io that takes everything and gives nothing."""

    def __init__(self, execmodel: object) -> None:
        self.execmodel = execmodel

    def write(self, data: bytes) -> None:
        pass


def specimens(base: ModuleType) -> dict[str, object]:
    """One object of each class whose instances have more attributes than the class."""
    execmodel = base.get_execmodel("thread")
    pool = base.WorkerPool(execmodel)
    reply = pool.spawn(int)
    reply.waitfinish(SECONDS)
    assert pool.waitall(SECONDS)
    gateway = base.WorkerGateway(QuietIO(execmodel), "worker")
    return {
        "RemoteError": base.RemoteError("text"),
        "WorkerPool": pool,
        "Reply": reply,
        "Popen2IO": base.Popen2IO(io.BytesIO(), io.BytesIO(), execmodel),
        "Message": base.Message(base.Message.STATUS),
        "WorkerGateway": gateway,
        "Channel": gateway.newchannel(),
        "ChannelFactory": gateway._channelfactory,
    }


def test_the_module_has_every_name_that_programs_use(base: ModuleType) -> None:
    objects = specimens(base)
    for owner, names in NAMES.items():
        holder = objects.get(owner) or getattr(base, owner, base)
        missing = [name for name in names.split() if name not in dir(holder)]
        assert not missing, f"{owner or base.__name__} lacks {missing}"


def test_the_module_names_its_trace_file(tmp_path: Path) -> None:
    program = "from execnet.gateway_base import fn; print(fn)"
    environ = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "EXECNET_DEBUG": "1", "TMPDIR": str(tmp_path)}
    output = subprocess.check_output([sys.executable, "-c", program], env=environ, text=True, timeout=SECONDS)
    assert [Path(output.strip())] == list(tmp_path.iterdir())


def test_the_stub_has_every_name_that_programs_use() -> None:
    stub = ast.parse((PACKAGE / "gateway_base.pyi").read_text(encoding="utf-8"))
    for owner, names in NAMES.items():
        known = defined(stub) if not owner else members(stub, owner)
        missing = [name for name in names.split() if name not in known]
        assert not missing, f"the stub of {owner or 'gateway_base'} lacks {missing}"


def defined(scope: ast.Module | ast.ClassDef) -> set[str]:
    names = {node.name for node in scope.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    names |= {ast.unparse(node.target) for node in scope.body if isinstance(node, ast.AnnAssign)}
    return names


def members(stub: ast.Module, owner: str) -> set[str]:
    """What the class defines or inherits inside the stub."""
    for node in stub.body:
        if isinstance(node, ast.ClassDef) and node.name == owner:
            return defined(node).union(*(members(stub, ast.unparse(parent)) for parent in node.bases))
    return set()


def run_mypy(arguments: list[str], folder: Path, **environ: str) -> None:
    """Run a module of mypy in folder, on the execnet that is being tested; fails with what it printed."""
    where = {} if PACKAGE.parent.name in ("site-packages", "dist-packages") else {"MYPYPATH": str(PACKAGE.parent)}
    run = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), **where, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    assert run.returncode == 0, run.stdout


@pytest.mark.needs("mypy")
@pytest.mark.parametrize("core", sorted({"portable", gateway_base.core}))
def test_stubs_match_the_modules(core: str, tmp_path: Path) -> None:
    modules = STUBBED if core == "portable" else (*STUBBED, "execnet._core")
    command = ["mypy.stubtest", "--concise", "--ignore-disjoint-bases", *modules]
    pure = "1" if core == "portable" else ""
    # Of C, free-threaded builds lack one function.
    allowed = tmp_path / "allowed"
    allowed.write_text("execnet._core.leave\n" * bool(sysconfig.get_config_var("Py_GIL_DISABLED")))
    command += ["--allowlist", str(allowed), "--ignore-unused-allowlist"]
    # With a trace file every name is there.
    run_mypy(command, tmp_path, EXECNET_PURE=pure, EXECNET_DEBUG="1", TMPDIR=str(tmp_path))


PROGRAM = """
from typing import Any, Optional

from typing_extensions import assert_type

import execnet


def work(channel: execnet.Channel, factor: int) -> None:
    for item in channel:
        channel.send(item * factor)


with_id = execnet.XSpec("popen//id=one")
group = execnet.Group([with_id])
assert_type(group["one"], execnet.Gateway)
gateway = group.makegateway("popen")
assert_type(gateway, execnet.Gateway)
channel = gateway.remote_exec(work, factor=3)
assert_type(channel, execnet.Channel)
channel.send([1, {"two": 2.0}])
assert_type(channel.receive(timeout=1.0), Any)
channel.setcallback(print, endmarker=None)
assert_type(channel.isclosed(), bool)
assert_type(execnet.dumps(1), bytes)
execnet.reduce_common_types()
execnet.register_reducer(execnet.XSpec, lambda spec: assert_type(spec, execnet.XSpec).popen)
assert_type(gateway.id, str)
assert_type(gateway.remote_status().numchannels, Any)
print("text", file=channel.makefile("w"))
print(channel.makefile("r").readline())
try:
    channel.waitclose(2)
except channel.RemoteError as error:
    assert_type(error.formatted, str)
except execnet.GatewayDied as died:
    assert_type(died.returncode, Optional[int])
channels = group.remote_exec("channel.send(1)")
assert_type(channels, execnet.MultiChannel)
rsync = execnet.RSync("folder")
rsync.add_target(gateway, "there", delete=True)
rsync.send()
group.terminate(timeout=1.0)
"""


@pytest.mark.needs("mypy")
def test_a_users_program_is_typed(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    run_mypy(["mypy", "--strict", "program.py"], tmp_path)


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(execnet.__file__).parent / "py.typed").exists()
