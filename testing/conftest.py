"""Fixtures of the whole suite: gateways, real counterparts, both cores, and the leak check."""

from __future__ import annotations

import faulthandler
import functools
import importlib
import importlib.util
import os
import pkgutil
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import interpreters, leaks, needs, oracle, packages
from support.once import Once
from support.peer import Peer
from support.socketserver import SocketServer
from support.sshd import SshServer
from support.twin import load_portable_twin

import execnet

CHECKOUT = Path(__file__).resolve().parents[1]
TERMINATE_SECONDS = 5.0
# The last resort behind pytest-timeout: a test stuck in C code, where no Python signal handler runs.
STUCK_SECONDS = 60.0


def tested_core() -> str:
    """Which core the execnet under test uses: "c" or "portable"."""
    core: str = execnet.gateway_base.core
    return core


STDERR = pytest.StashKey[int]()
LEFT = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    leaks.mark_session()
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST_")]:
        del os.environ[name]  # a pytest that a test starts is not one of the workers of this run
    config.stash[LEFT] = []
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # So it is for what a shell runs in the background, and every process started here would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # While a test runs, descriptor 2 is pytest's capture file; here it is still the terminal.
    config.stash[STDERR] = os.dup(2)
    needs.look(config)
    installed = Path(execnet.__file__).resolve().parent != CHECKOUT / "execnet"
    if os.environ.get("EXECNET_TEST_INSTALLED") and not installed:
        pytest.exit(f"the checkout would be tested, not the installed package: {execnet.__file__}", returncode=3)
    wanted = os.environ.get("EXECNET_TEST_CORE")
    if wanted and tested_core() != wanted:
        pytest.exit(f"the {wanted} core was to be tested, the package has the {tested_core()} core", returncode=3)


def pytest_report_header(config: pytest.Config) -> list[str]:
    names = ", ".join(interpreter.name for interpreter in interpreters.found())
    return [
        f"execnet {execnet.__version__} ({tested_core()} core) from {execnet.__file__}",
        f"interpreters: {names}",
        needs.line(config),
    ]


# Around pytest's own summary: the lines are the last but its count.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> Iterator[None]:
    yield
    for line in config.stash[LEFT]:
        terminalreporter.write_line(f"left behind by the test run, killed now: {line}", red=True)
    terminalreporter.write_line(needs.line(config))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist what was found out here."""
    node.workerinput["lacking"] = node.config.stash[needs.LACKING]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Hear what a worker of pytest-xdist found at its end; one that crashed tells nothing."""
    node.config.stash[LEFT] += getattr(node, "workeroutput", {}).get("left", [])


# What these fixtures need; before they are made, so that pytest folds all skips of a reason into one line.
NEEDS_OF_FIXTURES = {"ssh_server": "ssh", "oracle": "oracle", "sdist": "index", "wheel": "index"}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Function) -> None:
    names = [name for marker in item.iter_markers("needs") for name in marker.args]
    names += [name for fixture, name in NEEDS_OF_FIXTURES.items() if fixture in item.fixturenames]
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    names += [name for name in needs.LIBRARIES if any(isinstance(one, str) and name in one for one in parameters)]
    for name in names:
        needs.need(item.config, name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    marker = item.get_closest_marker("timeout")
    seconds = float(marker.args[0]) if marker and marker.args else float(item.config.getini("timeout") or 120)
    faulthandler.dump_traceback_later(seconds + STUCK_SECONDS, exit=True, file=item.config.stash[STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[STDERR])


# The last: in the process that pytest-xdist was started in, its workers have ended by then.
@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    left = session.config.stash[LEFT]
    left += leaks.end_all_processes()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left"] = left
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves a process, thread or descriptor which was not there before it."""
    before = leaks.Snapshot.take()
    yield
    left = leaks.wait_for_none(before)
    if left:
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture
def terminate_seconds(request: pytest.FixtureRequest) -> float:
    """How long the workers of a test may take to end."""
    return 0.0 if request.node.get_closest_marker("stuck") else TERMINATE_SECONDS


@pytest.fixture
def group(terminate_seconds: float) -> Iterator[execnet.Group]:
    """A fresh group, terminated at the end."""
    group = execnet.Group()
    yield group
    group.terminate(timeout=terminate_seconds)


@pytest.fixture
def makegateway(group: execnet.Group) -> Callable[..., execnet.Gateway]:
    """Makes gateways in a group of the test's own."""
    return group.makegateway


@pytest.fixture
def gw(makegateway: Callable[..., execnet.Gateway]) -> execnet.Gateway:
    """One popen gateway."""
    return makegateway("popen")


@pytest.fixture(scope="session")
def ssh_server(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """A real OpenSSH server on 127.0.0.1."""
    needs.need(pytestconfig, "ssh")  # for who asks for it when the test runs already
    server = SshServer(tmp_path_factory.mktemp("sshd"))
    leaks.KEPT.add(server.process.pid)
    yield server
    server.close()
    leaks.KEPT.discard(server.process.pid)


@pytest.fixture
def vagrant(ssh_server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a machine that the `vagrant` on PATH knows: the ssh server."""
    folder = tmp_path / "vagrant-bin"
    folder.mkdir()
    ssh_server.write_vagrant(folder)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return ssh_server.host


@pytest.fixture
def socket_server() -> Iterator[SocketServer]:
    """The package's socket server in its own process."""
    server = SocketServer()
    yield server
    server.close()


OTHER_PYTHONS = [
    *(pytest.param(found, id=found.name) for found in interpreters.found()),
    *(pytest.param(None, id=name, marks=pytest.mark.needs(name)) for name in interpreters.lacking()),
]


@pytest.fixture(params=OTHER_PYTHONS)
def other_python(request: pytest.FixtureRequest) -> interpreters.Interpreter:
    """Each interpreter: the path of its executable, with `implementation` and `version`."""
    chosen: interpreters.Interpreter = request.param
    return chosen


@pytest.fixture(scope="session", name="oracle")
def oracle_212() -> oracle.Oracle:
    """Runs programs over execnet 2.1.2."""
    return oracle.Oracle(oracle.folder())


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout to build from."""
    return packages.copy_checkout(tmp_path_factory.mktemp("sources") / "execnet")


@pytest.fixture(scope="session")
def once(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Makes what workers of pytest-xdist share."""
    own = tmp_path_factory.getbasetemp()
    return Once(own.parent if hasattr(pytestconfig, "workerinput") else own)


@pytest.fixture(scope="session")
def sdist(once: Once, sources: Path) -> Path:
    """The source distribution of the checkout."""
    (built,) = once("sdist", lambda folder: packages.build("sdist", sources, folder)).iterdir()
    return built


@pytest.fixture(scope="session")
def wheel(once: Once, sources: Path) -> Path:
    """The wheel of the checkout, with the C core as this test run has it."""
    core = "1" if tested_core() == "c" else "0"
    make = functools.partial(packages.build, "wheel", sources, EXECNET_BUILD_CORE=core)
    (built,) = once("wheel", make).iterdir()
    return built


def _package_in_use() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "execnet"}


@functools.cache
def _portable_package() -> dict[str, ModuleType]:
    """The modules of the package, loaded a second time over the portable core."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXECNET_PURE", "1")
        for name in _package_in_use():
            patch.delitem(sys.modules, name)
        for module in pkgutil.iter_modules(execnet.__path__, "execnet."):
            if module.name not in ("execnet._core", "execnet.__main__"):
                importlib.import_module(module.name)
        for module in pkgutil.iter_modules(importlib.import_module("execnet._report").__path__, "execnet._report."):
            importlib.import_module(module.name)
        loaded = _package_in_use()
        for name in loaded:
            del sys.modules[name]
    assert loaded["execnet.gateway_base"].core == "portable"
    return loaded


CORES = ["c", "portable"] if tested_core() == "c" else ["portable"]


@pytest.fixture(params=CORES, ids=lambda core: f"local-{core}")
def local(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package execnet, once over each core; while the test runs, it is what `import execnet` gives."""
    if request.param not in CORES:
        pytest.skip(f"the {request.param} core is not in use")
    if request.param != tested_core():
        for name, module in _portable_package().items():
            monkeypatch.setitem(sys.modules, name, module)
    return sys.modules["execnet"]


@pytest.fixture(params=CORES, ids=lambda core: f"remote-{core}")
def remote_core(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each core, for the workers that the test starts."""
    core: str = request.param
    if core == "portable":
        monkeypatch.setenv("EXECNET_PURE", "1")  # inherited by the worker; this process has made its choice
    else:
        monkeypatch.delenv("EXECNET_PURE", raising=False)
    return core


@pytest.fixture
def pair_group(local: ModuleType, remote_core: str, terminate_seconds: float) -> Iterator[execnet.Group]:
    """A fresh group for each local and each remote core."""
    group: execnet.Group = local.Group()
    yield group
    group.terminate(timeout=terminate_seconds)


@pytest.fixture
def pair(pair_group: execnet.Group) -> execnet.Gateway:
    """One popen gateway for each local and each remote core."""
    return pair_group.makegateway("popen")


@pytest.fixture
def local_pair(local: ModuleType) -> Iterator[execnet.Gateway]:
    """One popen gateway for each local core, to a worker with the core under test: for what that has no part in."""
    group: execnet.Group = local.Group()
    yield group.makegateway("popen")
    group.terminate(timeout=TERMINATE_SECONDS)


@pytest.fixture(params=["socket", "pipe"])
def transport(request: pytest.FixtureRequest) -> str:
    """What a connection is made of: a socket, or two pipes."""
    kind: str = request.param
    return kind


@pytest.fixture
def peer(local: ModuleType, transport: str) -> Iterator[Peer]:
    """A gateway over each core and transport, whose other side is played by the test."""
    peer = Peer(local, transport)
    yield peer
    peer.close()


@pytest.fixture(params=CORES)
def base(request: pytest.FixtureRequest) -> ModuleType:
    """The gateway_base module, once over each core."""
    module: ModuleType = execnet.gateway_base if request.param == "c" else load_portable_twin()
    return module
