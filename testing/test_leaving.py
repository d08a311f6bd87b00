"""The end of a forked worker: as that of any other one, though it does not take apart what it shares."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.interpreters import HAS_GIL

import execnet

SECONDS = 20.0
SLACK = 0.5
KINDS = ["popen", "popen//warm"]
Ended = Callable[..., "tuple[int | None, str, str]"]


@pytest.fixture(params=KINDS)
def ended(
    request: pytest.FixtureRequest, group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Ended:
    """A function: runs a task in a worker, ends that, and returns its exit status and what it has left in a file."""

    def run(source: str, **modules: str) -> tuple[int | None, str, str]:
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        said = tmp_path / "said"
        preamble = f"""
import atexit, os, sys, threading, time
def say(text, append=open):
    with append({str(said)!r}, "ab") as file:
        file.write((text + ";").encode())
"""
        gateway = group.makegateway(f"{request.param}//stderr=capture")
        gateway.remote_exec(preamble + source).waitclose(SECONDS)
        gateway.exit(wait=SECONDS)
        return gateway.returncode, said.read_text() if said.exists() else "", gateway._io.outputs.last_words(SECONDS)

    return run


def test_nothing_special(ended: Ended) -> None:
    assert ended("") == (0, "", "")


def test_exit_handlers_run_last_first_after_the_threads_that_are_waited_for(ended: Ended) -> None:
    source = """
def thread():
    time.sleep(0.2)
    say("thread")
threading.Thread(target=thread).start()
atexit.register(say, "first")
atexit.register(say, "second")
"""
    assert ended(source) == (0, "thread;second;first;", "")


def test_an_exit_handler_that_fails_is_told_of_and_others_run(ended: Ended) -> None:
    status, said, stderr = ended("atexit.register(say, 'first')\natexit.register(lambda: 1 / 0)")
    assert (status, said) == (0, "first;") and "ZeroDivisionError" in stderr


def test_daemon_threads_are_no_hindrance(ended: Ended) -> None:
    source = """
def thread():
    while True:
        time.sleep(0.01)
        list(map(str, range(10)))
threading.Thread(target=thread, daemon=True).start()
atexit.register(say, "handler")
"""
    assert ended(source) == (0, "handler;", "")


def test_pools_are_ended(ended: Ended) -> None:
    source = """
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(2)
pool.submit(time.sleep, 0.1)
pool.submit(say, "job")
"""
    assert ended(source) == (0, "job;", "")


def test_standard_streams_are_flushed(ended: Ended) -> None:
    assert ended("sys.stderr = open(2, 'w', buffering=1000, closefd=False); sys.stderr.write('buffered')") == (
        0,
        "",
        "buffered",
    )


# CPython 3.14 loses at its own end what gzip has not yet written of an open file.
OWN = """
import gzip, sys, tempfile
class Ends:
    def __init__(self, text, say): self.text, self.say = text, say
    def __del__(self): self.say(self.text)
def work(say, folder):
    global plain, zipped, temporary, ends
    plain = open(folder + "/plain", "w")
    plain.write("text")
    if sys.version_info[:2] != (3, 14):
        zipped = gzip.open(folder + "/zipped", "wt")
        zipped.write("text")
    temporary = tempfile.NamedTemporaryFile(dir=folder, prefix="temporary")
    ends = Ends("finalized", say)
"""


def test_what_its_own_modules_hold_is_finalized(ended: Ended, tmp_path: Path) -> None:
    import gzip

    assert ended(f"import own; own.work(say, {str(tmp_path)!r})", own=OWN) == (0, "finalized;", "")
    assert (tmp_path / "plain").read_text() == "text"
    if sys.version_info[:2] != (3, 14):
        assert gzip.decompress((tmp_path / "zipped").read_bytes()) == b"text"
    assert list(tmp_path.glob("temporary*")) == []


def test_files_that_shared_modules_hold_are_flushed(ended: Ended, tmp_path: Path) -> None:
    path = str(tmp_path / "held")
    assert ended(f"sys.held = open({path!r}, 'w'); sys.held.write('text')") == (0, "", "")
    assert Path(path).read_text() == "text"


def test_a_file_that_can_not_be_flushed_is_no_hindrance(ended: Ended) -> None:
    source = """
import io
class Broken(io.IOBase):
    closed = False
    def close(self): pass
    def flush(self): raise LookupError
sys.held = [Broken(), open("/dev/full", "w", buffering=100)]
sys.held[1].write("x")
"""
    assert ended(source)[0] == 0


def test_a_broken_output_is_told_by_the_exit_status(ended: Ended) -> None:
    assert ended("sys.stdout = open('/dev/full', 'w'); sys.stdout.write('x')")[0] == 120


def test_c_code_runs_its_exit_handlers(ended: Ended) -> None:
    if execnet.gateway_base.core != "c":
        pytest.skip("only C code can run them without the interpreter's end")
    # What a library in C has in its buffers is written by such a handler.
    source = """
import ctypes
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
libc.fputs.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
libc.fputs(b"buffered", libc.fdopen(os.dup(2), b"w"))
"""
    assert ended(source) == (0, "", "buffered")


@pytest.mark.skipif(not HAS_GIL, reason="without a GIL, the interpreter itself ends the worker")
def test_what_is_shared_is_not_taken_apart(
    group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared.py").write_text("class Held:\n    def __del__(self): self.say('taken apart')\nheld = Held()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    gateway = group.makegateway("popen//warm//preload=shared")
    said = str(tmp_path / "said")
    source = f"import shared\nshared.held.say = lambda text, open=open: open({said!r}, 'w').write(text)"
    gateway.remote_exec(source).waitclose(SECONDS)
    gateway.exit(wait=SECONDS)
    assert gateway.returncode == 0 and not Path(said).exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_that_fails_has_the_status_of_one(kind: str, group: execnet.Group) -> None:
    gateway = group.makegateway(f"{kind}//stderr=capture")
    source = "import execnet.gateway_base as base\nbase.WorkerGateway.join = lambda self, timeout=None: 1 / 0"
    gateway.remote_exec(source).waitclose(SECONDS)
    gateway.exit(wait=SECONDS)
    assert gateway.returncode == 1


@pytest.mark.timing
def test_a_worker_without_threads_leaves_at_once(group: execnet.Group) -> None:
    gateway = group.makegateway("popen//warm")
    assert gateway.remote_exec("import sys; channel.send(sys.version_info[0])").receive(SECONDS) == sys.version_info[0]
    began = time.monotonic()
    gateway.exit(wait=SECONDS)
    assert time.monotonic() - began < SLACK
