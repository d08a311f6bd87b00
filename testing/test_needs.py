"""A machine that lacks what tests need is told so, and the tests in two runs have one outcome."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from support import needs, run_tests

# The Python that runs the tests is there on any machine, and what is installed in it.
HERE = {
    "free-threaded" if sysconfig.get_config_var("Py_GIL_DISABLED") else "python{}.{}".format(*sys.version_info),
    *(name for name in (*needs.LIBRARIES, *needs.INSTALLED) if needs.PARTS[name].is_here()),
}
CHECKOUT = Path(__file__).resolve().parents[1]
SECONDS = 60
LACKING = "lacking here: "
# As the suite's own tests are run.
SUITE = [run_tests.PYTEST, "-p", "conftest"]

SMALL = """
import pytest

def test_over_ssh(ssh_server):
    pass

def test_over_the_oracle(oracle):
    pass

def test_over_interpreters(other_python):
    pass

def test_over_interpreters_again(other_python):
    pass

NEEDED = ("index", "free-threaded", "jython", "mingw", "mypy", "twine")
@pytest.mark.parametrize("part", [pytest.param(name, marks=pytest.mark.needs(name)) for name in NEEDED])
def test_of_a_part(part):
    pass

@pytest.mark.parametrize("model", ["thread", "gevent", "eventlet"])
def test_of_a_model(model):
    pass

def test_of_nothing():
    pass
"""


class Bare:
    """A machine without anything but a Python, as far as a program can tell; runs pytest on a small file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        given = {name: value for name, value in os.environ.items() if not name.startswith(("EXECNET_TEST", "CI"))}
        self.environment = {
            **given,
            "PATH": str(folder / "bin"),
            "HOME": str(folder),
            "PYENV_ROOT": str(folder),
            "PYTHONPATH": str(CHECKOUT / "testing"),
            "PIP_NO_INDEX": "1",
            # Half the time that it takes to start, for what none of this uses.
            "PYTEST_ADDOPTS": "-p no:hypothesispytest -p no:pytest_cov",
            "EXECNET_ORACLE": str(folder / "oracle"),
        }

    def run(self, source: str, *arguments: str, **extra: str) -> tuple[int, list[str]]:
        """Run the tests in `source`: exit status, lines of output. `extra` are environment variables."""
        path = self.folder / "test_small.py"
        path.write_text(source)
        ours = ["-c", str(CHECKOUT / "pyproject.toml"), "--rootdir", str(self.folder), "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*arguments, *ours, str(path)],
            cwd=self.folder,
            env={**self.environment, **extra},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
        )
        return done.returncode, done.stdout.decode().splitlines()


@pytest.fixture
def bare(tmp_path: Path) -> Bare:
    return Bare(tmp_path)


@pytest.mark.parametrize("options", [[], ["-n", "1"]], ids=["one process", "a worker"])
def test_what_is_lacking_is_named_in_a_line_at_the_start_and_at_the_end_and_skipped(
    bare: Bare, options: list[str]
) -> None:
    status, lines = bare.run(SMALL, *SUITE, *options)
    assert status == 0, lines
    first, last = (number for number, line in enumerate(lines) if line.startswith(LACKING))
    assert lines[first] == lines[last]
    assert not any("passed" in line for line in lines[:first])
    assert lines[last + 1].startswith("=") and "passed" in lines[last + 1]
    named = lines[first].removeprefix(LACKING).split(", ")
    assert named == [name for name in needs.PARTS if name not in HERE]
    skips = [line for line in lines if line.startswith("SKIPPED")]
    assert sorted(line.partition(": ")[2] for line in skips) == sorted(
        f"needs {name}: {needs.PARTS[name].get}" for name in named
    )


def test_in_continuous_integration_what_it_installs_is_required(bare: Bare) -> None:
    status, lines = bare.run(SMALL, *SUITE, CI="true")
    assert status == pytest.ExitCode.TESTS_FAILED
    must = [name for name, part in needs.PARTS.items() if part.in_ci and name not in HERE]
    for name in must:
        assert f"CI=true requires {name}, which this machine lacks: {needs.PARTS[name].get}" in lines
        assert all(f"{name} (required by CI=true)" in line for line in lines if line.startswith(LACKING))
        assert not any(f"needs {name}:" in line for line in lines)


def test_what_is_required_by_name_is_an_error(bare: Bare) -> None:
    status, lines = bare.run(SMALL, *SUITE, EXECNET_TEST_REQUIRE="python2.7, ssh")
    assert status == pytest.ExitCode.TESTS_FAILED
    required = {line.split(" requires ")[1].split(",")[0] for line in lines if " requires " in line}
    assert required == {"python2.7", "ssh"}
    status, lines = bare.run(SMALL, *SUITE, EXECNET_TEST_REQUIRE="all")
    assert status == pytest.ExitCode.TESTS_FAILED
    assert not any(line.startswith("SKIPPED") for line in lines)
    status, lines = bare.run(SMALL, *SUITE, EXECNET_TEST_REQUIRE="sshd")
    assert status == pytest.ExitCode.USAGE_ERROR
    assert any("EXECNET_TEST_REQUIRE: 'sshd' is none of all, ssh, " in line for line in lines)


LEAVING = """
import subprocess
import pytest

@pytest.fixture(autouse=True)
def no_leaks():
    pass

def test_that_leaves_a_process():
    global left
    left = subprocess.Popen(["/bin/sleep", "1000"])
"""


@pytest.mark.parametrize("options", [[], ["-n", "1"]], ids=["one process", "a worker"])
def test_a_process_left_by_the_run_fails_it(bare: Bare, options: list[str]) -> None:
    status, lines = bare.run(LEAVING, *SUITE, *options)
    assert status == pytest.ExitCode.TESTS_FAILED
    (line,) = (line for line in lines if line.startswith("left behind by the test run, killed now: process "))
    assert line.endswith("/bin/sleep 1000")


TWO_RUNS = """
import os
import pytest

def test_beside_others():
    assert "beside" not in os.environ["FAIL"]

@pytest.mark.timing
def test_alone(pytestconfig):
    assert not hasattr(pytestconfig, "workerinput")
    assert "alone" not in os.environ["FAIL"]
"""


@pytest.mark.parametrize(
    "fail, options, status",
    [
        ("", [], pytest.ExitCode.OK),
        ("alone", [], pytest.ExitCode.TESTS_FAILED),
        ("beside", ["-k", "beside"], pytest.ExitCode.TESTS_FAILED),
        ("", ["-k", "beside"], pytest.ExitCode.OK),
        ("", ["-k", "alone"], pytest.ExitCode.OK),
        ("", ["-k", "neither"], pytest.ExitCode.NO_TESTS_COLLECTED),
        ("", ["--no-such-option"], pytest.ExitCode.USAGE_ERROR),
    ],
)
def test_two_runs_have_one_outcome(bare: Bare, fail: str, options: list[str], status: pytest.ExitCode) -> None:
    returned, lines = bare.run(TWO_RUNS, sys.executable, run_tests.__file__, *options, FAIL=fail)
    assert returned == status, lines
    runs = sum(line.startswith("====") and " in " in line for line in lines)
    assert runs == (0 if status == pytest.ExitCode.USAGE_ERROR else 2)
    assert any(line.startswith("created: 2/2 workers") for line in lines) == (runs == 2)
