"""On a free-threaded build of Python the GIL stays off, and the C core is right without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import corebuild, interpreters, packages
from support.once import Once

import execnet

pytestmark = pytest.mark.needs("free-threaded")

SECONDS = 30.0
# How long threads get at each other, on all CPUs.
STRESS_SECONDS = 60.0 if os.environ.get("EXECNET_CHAOS") == "long" else 6.0

HAS_GIL = "import sys; channel.send(sys._is_gil_enabled())"
GATEWAYS = f"""
import sys
import execnet, execnet.gateway_base
group = execnet.Group()
gateways = [group.makegateway(spec) for spec in ("popen", "popen//warm")]
told = [gateway.remote_exec({HAS_GIL!r}).receive({SECONDS}) for gateway in gateways]
kinds = {{type(gateway._connection).__name__ for gateway in gateways}}
group.terminate({SECONDS})
print(execnet.gateway_base.core, *kinds, sys._is_gil_enabled(), *told)
"""
XDIST_SUITE = """
import sys

def test_the_gil_is_off():
    import execnet.gateway_base
    assert execnet.gateway_base.core == "c"
    assert not sys._is_gil_enabled()
"""

SLOW_END = """
import os, threading, time
import execnet.gateway_base

class Slow:
    def __del__(self):
        time.sleep(0.05)
        os.write(1, b"ended")

def run():
    local.slow = Slow()
    runs.set()

local, runs = threading.local(), threading.Event()
execnet.gateway_base.THREAD_END_TIME = 30.0
execnet.gateway_base.get_execmodel("thread").start(run)
runs.wait()
"""


@pytest.fixture(scope="module")
def python() -> str:
    """The newest free-threaded interpreter."""
    found = interpreters.free_threaded()
    assert found is not None
    return os.path.realpath(found)  # a virtual environment of a link to it would not find its library


@pytest.fixture(scope="module")
def with_the_core(python: str, once: Once) -> Path:
    """A folder with the package and its C core for that interpreter."""
    if execnet.gateway_base.core != "c":
        pytest.skip("compiles the C core")
    if corebuild.headers(python) is None:
        pytest.skip("there are no headers of the free-threaded build")
    return once("free-threaded core", lambda folder: corebuild.package(folder, python))


def test_the_gil_stays_off_here_and_in_popen_and_warm_workers(python: str, with_the_core: Path) -> None:
    said = packages.run([python, "-W", "error", "-c", GATEWAYS], cwd=with_the_core, PYTHONWARNINGS="error")
    assert said.split() == ["c", "Connection", "False", "False", "False"]


def test_the_gil_stays_off_in_a_worker_that_is_sent_the_text(
    python: str, with_the_core: Path, group: execnet.Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EXECNET_PURE", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(with_the_core))
    gateway = group.makegateway(f"popen//python={python}")
    assert gateway.remote_exec(HAS_GIL).receive(SECONDS) is False
    core = gateway.remote_exec("import __main__; channel.send(__main__.core)").receive(SECONDS)
    assert core == "c"


def test_threads_share_the_codec_and_what_it_writes(python: str, with_the_core: Path) -> None:
    program = packages.CHECKOUT / "testing" / "support" / "sharing_values.py"
    options = ["-X", "dev", "-W", "error"]
    said = packages.run([python, *options, program, STRESS_SECONDS], cwd=with_the_core, PYTHONPATH=str(with_the_core))
    assert said.split() == ["c", "False"]


def test_threads_share_a_connection_and_its_channels(python: str, with_the_core: Path) -> None:
    program = packages.CHECKOUT / "testing" / "support" / "sharing_connections.py"
    options = ["-X", "dev", "-W", "error"]
    said = packages.run([python, *options, program, STRESS_SECONDS], cwd=with_the_core, PYTHONPATH=str(with_the_core))
    assert said.split() == ["Connection", "False"]


@pytest.mark.timeout(240)
def test_a_process_whose_threads_start_and_end_gateways_forks(python: str, with_the_core: Path) -> None:
    program = packages.CHECKOUT / "testing" / "support" / "forking.py"
    options = ["-X", "dev", "-W", "error"]
    said = packages.run([python, *options, program, STRESS_SECONDS], cwd=with_the_core, PYTHONPATH=str(with_the_core))
    assert said.split() == ["Connection", "False"]


def test_the_interpreter_does_not_end_while_a_thread_takes_its_own_state_apart(
    python: str, with_the_core: Path
) -> None:
    assert packages.run([python, "-W", "error", "-c", SLOW_END], cwd=with_the_core) == "ended"


@pytest.fixture(scope="module")
def installed(python: str, sources: Path, once: Once) -> packages.Venv:
    """An environment of that interpreter with the package, built by pip, and pytest-xdist."""

    def make(folder: Path) -> None:
        venv = packages.Venv.make(folder, python)
        venv.run("-m", "ensurepip")  # the pip of an older Python does not know this one
        venv.install(sources, "pytest-xdist", EXECNET_BUILD_CORE="1")

    return packages.Venv(once("free-threaded", make))


@pytest.mark.timeout(300)
@pytest.mark.needs("index")
def test_it_is_installed_with_the_c_core(installed: packages.Venv) -> None:
    assert installed.run("-W", "error", "-c", GATEWAYS).split() == ["c", "Connection", "False", "False", "False"]


@pytest.mark.timeout(300)
@pytest.mark.needs("index")
def test_the_gil_stays_off_in_workers_of_pytest_xdist(installed: packages.Venv, tmp_path: Path) -> None:
    (tmp_path / "test_gil.py").write_text(XDIST_SUITE)
    installed.run("-W", "error", "-m", "pytest", "-p", "no:cacheprovider", "-n2", "--dist=each", tmp_path)
