"""The client that matters most: released pytest-xdist and pytest-cov over our wheel."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support import packages, xdistsuite
from support.once import Once
from support.oracle import Oracle
from support.processes import wait_until
from support.socketserver import SocketServer
from support.sshd import SshServer

import execnet

pytestmark = [pytest.mark.timeout(300), pytest.mark.needs("index")]

TESTS_PASSED, TESTS_FAILED, INTERNAL_ERROR = 0, 1, 3
RUN_SECONDS = 120


class Client:
    """Runs pytest of the environment over the generated suite."""

    def __init__(self, venv: packages.Venv, suite: Path) -> None:
        self.venv = venv
        self.suite = suite

    def pytest(
        self, reports: Path, *arguments: object, cwd: Path | None = None, stderr: int = subprocess.STDOUT
    ) -> subprocess.CompletedProcess[bytes]:
        """One run; `reports` is the file that gets its reports."""
        return subprocess.run(
            [str(word) for word in (self.venv.python, "-m", "pytest", "-p", "no:cacheprovider", *arguments)],
            cwd=cwd or self.suite,
            env=packages.environment(REPORTS=str(reports)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            timeout=RUN_SECONDS,
        )

    def status(self, folder: Path, **environment: str) -> int:
        """The exit status of one worker's run over the tests in folder."""
        return subprocess.run(
            [self.venv.python, "-m", "pytest", "-p", "no:cacheprovider", "-n", "1"],
            cwd=folder,
            env=packages.environment(**environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=RUN_SECONDS,
        ).returncode

    def reports(self, tmp_path: Path, *arguments: object) -> list[list[object]]:
        """The reports of a run over the whole suite."""
        path = tmp_path / "reports"
        done = self.pytest(path, *arguments)
        assert done.returncode == TESTS_FAILED, done.stdout.decode()[-5000:]
        return xdistsuite.read_reports(path)

    def expected(self) -> list[list[object]]:
        """The reports of the whole suite without xdist, kept beside it."""
        return xdistsuite.read_reports(self.suite.parent / "reports")


@pytest.fixture(scope="module")
def client(once: Once, wheel: Path) -> Client:
    """The released clients over our wheel."""
    return made_once(once, "xdist", [wheel, "pytest", "pytest-xdist", "pytest-cov"], {})


def made_once(once: Once, name: str, requirements: list[object], site_packages: dict[str, str]) -> Client:
    """A client with what is required and these files in its environment, the suite beside that, and what it expects."""

    def make(folder: Path) -> None:
        venv = packages.Venv.make(folder / "venv")
        venv.install(*requirements)
        for name, text in site_packages.items():
            (venv.site / name).parent.mkdir(exist_ok=True)
            (venv.site / name).write_text(text)
        # Here, so that what the suite's modules are compiled to is there before others look at the folder.
        reports = Client(venv, xdistsuite.write(folder / "suite")).reports(folder, "-p", "no:xdist")
        assert len({report[0] for report in reports}) == xdistsuite.TESTS

    folder = once(name, make)
    return Client(packages.Venv(folder / "venv"), folder / "suite")


@pytest.fixture(scope="module")
def expected(client: Client) -> list[list[object]]:
    return client.expected()


@pytest.fixture(scope="module")
def venv(client: Client) -> packages.Venv:
    """The client's environment."""
    return client.venv


# A report that can't be sent is an INTERNALERROR of the worker. Which status pytest ends with depends on whether there
# are tests to come; with several workers also on which of them is done first, over the oracle as well.
@pytest.mark.parametrize("tests_to_come", [0, 4])
def test_an_internal_error_gives_the_exit_status_that_it_gives_over_the_oracle(
    client: Client, oracle: Oracle, tmp_path: Path, tests_to_come: int
) -> None:
    lines = ["def test_surrogate(record_property): record_property('name', '\\ud800')"]
    lines += [f"def test_{number}(): assert {number}" for number in range(tests_to_come)]
    (tmp_path / "test_it.py").write_text("\n".join(lines))
    expected = INTERNAL_ERROR if tests_to_come else TESTS_PASSED
    assert client.status(tmp_path, PYTHONPATH=str(oracle.path)) == expected
    assert client.status(tmp_path) == expected


def test_it_is_our_wheel_that_the_clients_use(venv: packages.Venv) -> None:
    code = "import execnet; print(execnet.__version__, execnet.gateway_base.core, execnet.__file__)"
    version, core, path = venv.run("-c", code).split()
    import execnet

    assert (version, core) == (execnet.__version__, execnet.gateway_base.core)
    assert Path(path).is_relative_to(venv.folder)


@pytest.mark.parametrize("mode", ["load", "loadscope", "loadfile", "loadgroup", "worksteal"])
def test_two_workers_report_what_one_process_reports(
    client: Client, expected: list[list[object]], tmp_path: Path, mode: str
) -> None:
    assert client.reports(tmp_path, "-n", "2", "--dist", mode) == expected


def test_dist_each_reports_every_test_from_each_worker(
    client: Client, expected: list[list[object]], tmp_path: Path
) -> None:
    reports = client.reports(tmp_path, "--dist", "each", "--tx", "2*popen")
    assert reports == sorted(expected + expected, key=repr)


def test_tx_popen(client: Client, expected: list[list[object]], tmp_path: Path) -> None:
    assert client.reports(tmp_path, "--dist", "load", "--tx", "2*popen//env:X=1") == expected


def test_tx_via(client: Client, expected: list[list[object]], tmp_path: Path) -> None:
    via = ["--px", "popen//id=proxy//execmodel=thread", "--tx", "2*popen//via=proxy"]
    assert client.reports(tmp_path, "--dist", "load", *via) == expected


@pytest.fixture
def two_socket_servers(venv: packages.Venv) -> Iterator[list[SocketServer]]:
    servers = [SocketServer(str(venv.python)) for _ in range(2)]
    yield servers
    for server in servers:
        server.close()


def rooted(reports: list[list[object]]) -> list[list[object]]:
    """Reports without what tells the folder the suite was copied to: the tracebacks' text."""
    return sorted(([*report[:4], report[6]] for report in reports), key=repr)


def test_tx_socket_with_rsyncdir(
    client: Client,
    expected: list[list[object]],
    two_socket_servers: list[SocketServer],
    tmp_path: Path,
) -> None:
    tx = []
    for number, server in enumerate(two_socket_servers):
        tx += ["--tx", server.spec(chdir=tmp_path / f"worker{number}")]
    reports = client.reports(tmp_path, "--dist", "load", *tx, "--rsyncdir", client.suite, client.suite)
    assert rooted(reports) == rooted(expected)


def test_tx_ssh_with_rsyncdir(
    client: Client, expected: list[list[object]], ssh_server: SshServer, tmp_path: Path
) -> None:
    tx = []
    for number in range(2):
        tx += ["--tx", ssh_server.spec(python=client.venv.python, chdir=tmp_path / f"worker{number}")]
    reports = client.reports(tmp_path, "--dist", "load", *tx, "--rsyncdir", client.suite, client.suite)
    assert rooted(reports) == rooted(expected)
    copies = [tmp_path / f"worker{number}" / client.suite.name / "test_0.py" for number in range(2)]
    assert all(copy.exists() for copy in copies)


CRASHING = """
import os, pytest

@pytest.mark.parametrize("index", range(20))
def test_fine(index):
    pass

def test_crash():
    os._exit(3)

@pytest.mark.parametrize("index", range(20))
def test_fine_too(index):
    pass
"""


def test_a_crashed_worker_is_reported_and_replaced(client: Client, tmp_path: Path) -> None:
    (tmp_path / "test_crash.py").write_text(CRASHING)
    done = client.pytest(tmp_path / "reports", "-n", "2", "-v", tmp_path, cwd=tmp_path)
    output = done.stdout.decode()
    assert done.returncode == TESTS_FAILED, output
    assert re.search(r"worker 'gw\d' crashed while running '.*test_crash.py::test_crash'", output), output
    assert "replacing crashed worker" in output
    assert "1 failed, 40 passed" in output


def lines_of_execnet(output: str) -> list[str]:
    """What execnet says in the output of pytest; dots may stand before it."""
    return [line[line.index("execnet: ") :] for line in output.splitlines() if "execnet: " in line]


@pytest.mark.parametrize("verbosity", ["-q", "-v"])
def test_people_are_told_how_a_worker_died(client: Client, tmp_path: Path, verbosity: str) -> None:
    segfault = "import signal; os.kill(os.getpid(), signal.SIGSEGV)"
    (tmp_path / "test_crash.py").write_text(CRASHING.replace("os._exit(3)", segfault))
    output = client.pytest(tmp_path / "reports", "-n", "2", verbosity, tmp_path, cwd=tmp_path).stdout.decode()
    (line,) = lines_of_execnet(output)
    assert re.fullmatch(r"execnet: gateway 'gw\d' \(.*\) died: its process \d+ was killed by SIGSEGV", line), output
    assert output.index(line) < output.index("node down: Not properly terminated"), output


@pytest.mark.parametrize("arguments", [[], ["-x"], ["--dist", "each"]])
def test_nobody_is_told_of_workers_that_end_as_they_should(
    client: Client, tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "test_crash.py").write_text(CRASHING.replace("os._exit(3)", "assert False"))
    output = client.pytest(tmp_path / "reports", "-n", "2", *arguments, tmp_path, cwd=tmp_path).stdout.decode()
    assert "failed" in output and lines_of_execnet(output) == []


# Objects of subclasses, and of registered classes, in all that a report carries.
OWN_TYPES = {
    "conftest.py": """
import execnet
execnet.reduce_common_types()
""",
    "test_own_types.py": """
import collections, contextlib, enum, pathlib
import pytest

if not hasattr(pytest, "Subtests"):  # pytest 8, for Python 3.9
    @pytest.fixture
    def subtests():
        class Subtests:
            def test(self, **named):
                return contextlib.nullcontext()
        return Subtests()

class Colour(str, enum.Enum):
    RED, BLUE = "red", "blue"

class Level(enum.IntEnum):
    LOW, HIGH = 1, 2

class Text(str):
    def __str__(self):
        return "another text"

Pair = collections.namedtuple("Pair", "left right")
PARAMETERS = [*Colour, *Level, pathlib.PurePosixPath("a/b"), Text("text"), Pair(Level.LOW, Text("x")),
              collections.OrderedDict(a=Colour.RED), collections.defaultdict(list, {Level.LOW: [1]})]

@pytest.mark.parametrize("number", range(23))
@pytest.mark.parametrize("parameter", PARAMETERS, ids=str)
def test_it(parameter, number, record_property, subtests):
    record_property("parameter", parameter)
    record_property(Text("all"), PARAMETERS)
    with subtests.test(msg=Text("message"), parameter=parameter, number=Level.LOW):
        assert number >= 0
    assert parameter
""",
}


def outcomes(client: Client, folder: Path, *arguments: str) -> dict[str, str]:
    """How each test of a passing suite ended, and the properties that its reports have in the process started."""
    (folder / "junit.xml").unlink(missing_ok=True)
    done = client.pytest(folder / "reports", "--junitxml=junit.xml", "-q", *arguments, cwd=folder)
    assert done.returncode == 0, done.stdout.decode()[-5000:]
    cases = ElementTree.parse(folder / "junit.xml").iter("testcase")
    return {case.attrib["name"]: f"{[child.tag for child in case]}" for case in cases}


def test_own_types_in_reports_pass_as_without_xdist(client: Client, tmp_path: Path) -> None:
    for name, text in OWN_TYPES.items():
        (tmp_path / name).write_text(text)
    alone = outcomes(client, tmp_path, "-p", "no:xdist")
    assert len(alone) >= 200 and set(alone.values()) == {"['properties']"}
    assert outcomes(client, tmp_path, "-n", "2") == alone


COVERED_TESTS = """
import pytest
from code_under_test import classify

@pytest.mark.parametrize("number", range(30))
def test_it(number):
    assert classify(number)
"""


def covered_lines(client: Client, folder: Path, *arguments: str) -> object:
    folder.mkdir()
    (folder / "code_under_test.py").write_text(xdistsuite.CODE_UNDER_TEST)
    (folder / "test_covered.py").write_text(COVERED_TESTS)
    cov = ["--cov", "code_under_test", "--cov-branch", "--cov-report", "json:coverage.json"]
    done = client.pytest(folder / "reports", *cov, *arguments, cwd=folder)
    assert done.returncode == 0, done.stdout.decode()
    assert "30 passed" in done.stdout.decode()
    return json.loads((folder / "coverage.json").read_text())["files"]


def test_pytest_cov_measures_the_same_under_xdist(client: Client, tmp_path: Path) -> None:
    alone = covered_lines(client, tmp_path / "alone", "-p", "no:xdist")
    assert covered_lines(client, tmp_path / "distributed", "-n", "2") == alone


class Watched:
    """A program whose output is waited for."""

    def __init__(self, command: list[object], cwd: Path) -> None:
        self.output = cwd.parent / "output"
        with self.output.open("wb") as stream:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                cwd=cwd,
                env=packages.environment(REPORTS=os.devnull, PYTHONUNBUFFERED="1"),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )

    def wait_for(self, text: str, times: int = 1) -> None:
        wait_until(lambda: self.output.read_text().count(text) >= times, 30, f"{text!r} {times} times in {self.output}")

    def close(self) -> None:
        """End it as Ctrl-C would."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(10)


def test_looponfail_runs_again_until_the_failure_is_mended(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    test = folder / "test_mended.py"
    test.write_text("def test_it():\n    assert 1 == 2\n")
    watched = Watched([client.venv.python, "-m", "pytest", "-f", "-p", "no:cacheprovider", folder], folder)
    try:
        watched.wait_for("waiting for changes")
        assert "1 failed" in watched.output.read_text()
        test.write_text("def test_it():\n    assert 1 == 1  # mended\n")
        watched.wait_for("1 passed")
    finally:
        watched.close()


IN_C, IN_PYTHON = "sum(itertools.repeat(0))", "while True: pass"
HANGING = """
import itertools, re, threading, time

def test_lock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()  # line 7

def test_sleep():
    time.sleep(1000)  # line 10

def test_loop():
    sum(itertools.repeat(0))  # line 13
"""


@pytest.mark.parametrize("report", ["USR1", "5"])
def test_the_report_of_a_run_that_hangs_names_the_lines_of_its_tests(
    client: Client, tmp_path: Path, report: str
) -> None:
    # Only the C core answers, and ends, where C code never comes back.
    loop = IN_PYTHON if execnet.gateway_base.core == "portable" else IN_C
    (tmp_path / "test_hanging.py").write_text(HANGING.replace(IN_C, loop))
    lines = [(7, "test_lock"), (10, "test_sleep"), (13, "test_loop")]
    with open(tmp_path / "output", "wb") as file:
        process = subprocess.Popen(
            [client.venv.python, "-m", "pytest", "-p", "no:cacheprovider", "-v", "-n", "3"],
            cwd=tmp_path,
            env=packages.environment(EXECNET_REPORT=report, PYTHONUNBUFFERED="1"),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )

    def output() -> str:
        return (tmp_path / "output").read_text()

    def names_all() -> bool:
        if report == "USR1" and output().count("execnet report of") == asked.count(None):
            asked.append(None)
            process.send_signal(signal.SIGUSR1)
        return all(f'test_hanging.py", line {line} in {name}\n' in output() for line, name in lines)

    asked: list[None] = []
    try:
        wait_until(lambda: "3 workers [3 items]" in output(), RUN_SECONDS, "the tests' start")
        wait_until(names_all, RUN_SECONDS, "a report that names all lines")
    finally:
        process.kill()
        process.wait(RUN_SECONDS)
    workers = [Path("/proc", pid) for pid in re.findall(r"^Process (\d+): ", output(), re.M)]
    wait_until(lambda: not any(worker.exists() for worker in workers), RUN_SECONDS, "the end of workers that are lost")
