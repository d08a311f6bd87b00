"""What start-up costs: which modules are loaded, how much is sent, and that nothing is done twice."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

import execnet
from execnet import gateway_bootstrap
from execnet._source import shipped
from execnet.xspec import XSpec

MakeGateway = Callable[..., execnet.Gateway]
PACKAGE_PARENT = str(Path(execnet.__file__).resolve().parents[1])

# A worker loads these, what they load, and no module more. Before adding one, measure what it costs:
# `python -X importtime`, `make bench`.
CORE_WORKER = "gc, _struct" + (", threading" if sys.version_info < (3, 13) else "")
# Before 3.14, or with much in site-packages, an interpreter that runs nothing has these.
CORE_WORKER += ", io, itertools, _collections, _operator"
CORE_WORKER += "" if getattr(sys, "_is_gil_enabled", lambda: True)() else ", collections"
PORTABLE_WORKER = CORE_WORKER
EXECNET = {"execnet", "execnet.gateway_base"}

NAMES = "sorted(name for name in sys.modules if name != '__main__')"


def loaded_by(program: str) -> set[str]:
    """The modules of a fresh interpreter behind that program, beyond those of one that runs nothing."""
    lists = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", f"import sys\n{text}\nnames = {NAMES}\nimport json\nprint(json.dumps(names))"],
                check=True,
                stdout=subprocess.PIPE,
                timeout=60,
                env={**os.environ, "PYTHONPATH": PACKAGE_PARENT},
            ).stdout
        )
        for text in ("", program)
    ]
    return set(lists[1]) - set(lists[0])


def loaded_in(gateway: execnet.Gateway) -> set[str]:
    """The modules of a worker in its first task, beyond those of an interpreter that runs nothing."""
    bare = subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.stdout.write(','.join({NAMES}))"],
        check=True,
        stdout=subprocess.PIPE,
        timeout=60,
    )
    names: list[str] = gateway.remote_exec(f"import sys\nchannel.send({NAMES})").receive()
    return set(names) - set(bare.stdout.decode().split(","))


def test_importing_the_package_loads_nothing_else() -> None:
    assert loaded_by("import execnet") == {"execnet"}


def test_what_the_first_gateway_of_a_process_loads() -> None:
    program = "import execnet\nexecnet.makegateway('popen').exit(wait=5)"
    needless = {"inspect", "socket", "tempfile", "typing", "shlex", "zlib", "json", "execnet._command"}
    assert not loaded_by(program) & needless


def test_a_worker_with_the_c_core_loads_these_modules_and_no_more(makegateway: MakeGateway) -> None:
    if execnet.gateway_base.core == "c":
        assert loaded_in(makegateway("popen")) == loaded_by(f"import {CORE_WORKER}") | EXECNET | {"execnet._core"}


def test_a_portable_worker_loads_these_modules_and_no_more(
    makegateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXECNET_PURE", "1")
    assert loaded_in(makegateway("popen")) == loaded_by(f"import {PORTABLE_WORKER}") | EXECNET


# what is sent


class CountingIO:
    """An io that answers, and notes its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.sent = b""

    def read(self, numbytes: int) -> bytes:
        self.calls.append(f"read {numbytes}")
        return b"1"

    def write(self, data: bytes) -> None:
        self.calls.append("write")
        self.sent += data


def started(spec: str) -> CountingIO:
    io = CountingIO()
    full = XSpec(spec)
    gateway_bootstrap.begin(io, full)
    gateway_bootstrap.await_answer(io, full)
    return io


@pytest.mark.parametrize(
    "spec", ["popen//id=gw0", "popen//id=gw0//python=x", "ssh=host//id=gw0", "socket=host:1//id=gw0"]
)
def test_a_start_is_one_round_trip(spec: str) -> None:
    assert started(spec).calls == ["write", "read 1"]


def test_the_line_over_ssh_is_compressed_and_small() -> None:
    line = started("ssh=host//id=gw0").sent
    assert len(line) < 32_000 < len(shipped.shipped_text())
    assert len(zlib.compress(line)) > 0.7 * len(line)


def test_the_line_to_a_worker_of_our_own_is_small() -> None:
    assert len(started("popen//id=gw0").sent) < 1000


@pytest.mark.parametrize("spec", ["popen//id=gw0", "ssh=host//id=gw0"])
def test_nothing_is_compiled_twice(spec: str) -> None:
    text = ast.literal_eval(started(spec).sent.decode("ascii"))
    calls = [
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    compiled = [
        call.func.id for call in calls if isinstance(call.func, ast.Name) and call.func.id in ("compile", "exec")
    ]
    assert compiled == ([] if spec.startswith("popen") else ["exec", "compile"])


def test_packing_is_done_once() -> None:
    assert shipped.packed_text() is shipped.packed_text()


# threading, which a worker does not load before somebody wants it


def second_importer(channel):
    import _thread
    import os
    import sys
    import threading

    main = threading.main_thread()
    # From 3.13 on CPython knows the main thread's ident, but notes the native id of whoever imports threading first.
    known = sys.platform == "linux" and sys.version_info < (3, 13)
    channel.send((main.ident, main.native_id == os.getpid() or not known, _thread.get_ident()))


def test_a_second_task_that_imports_threading_first_is_not_the_main_thread(makegateway: MakeGateway) -> None:
    gateway = makegateway("popen")
    first = gateway.remote_exec(
        "import _thread; channel.send(_thread.get_ident()); channel.receive(); import threading;"
        "channel.send(threading.current_thread() is threading.main_thread())"
    )
    main = first.receive(10)
    ident, native, own = gateway.remote_exec(second_importer).receive(10)
    assert (ident, native) == (main, True)
    assert own != main
    first.send(None)
    assert first.receive(10) is True


def test_a_callback_in_a_worker_is_not_the_main_thread(makegateway: MakeGateway) -> None:
    channel = makegateway("popen").remote_exec(
        """
        import _thread
        def callback(item):
            import threading
            channel.send(threading.main_thread().ident)
        inner = channel.gateway.newchannel()
        inner.setcallback(callback)
        channel.send((inner, _thread.get_ident()))
        channel.receive()
        """
    )
    inner, main = channel.receive(10)
    inner.send(1)
    assert channel.receive(10) == main
    channel.send(None)
