"""EXECNET_WARM=auto under released pytest-xdist and pytest-cov: the same reports and the same coverage as without."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from support import packages
from support.once import Once
from test_xdist import CRASHING, TESTS_FAILED, Client, covered_lines, made_once

pytestmark = [pytest.mark.timeout(300), pytest.mark.needs("index")]

# In site-packages: the controller imports it for its conftest.py, and may measure it.
INSTALLED = {
    "installed/__init__.py": "from installed.code import double",
    "installed/code.py": """
def double(number):
    if number < 0:
        return "never reached"
    return 2 * number
""",
}


@pytest.fixture(scope="module")
def client(once: Once, wheel: Path) -> Client:
    """The released clients over our wheel, and a package."""
    requirements = [wheel, "pytest", "pytest-xdist", "pytest-cov", "pytest-django", "django", "numpy"]
    return made_once(once, "xdist warm", requirements, INSTALLED)


@pytest.fixture(scope="module")
def expected(client: Client) -> list[list[object]]:
    return client.expected()


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain gateways are warm."""
    monkeypatch.setenv("EXECNET_WARM", "auto")


def written(client: Client, folder: Path, *arguments: object, status: int = 0) -> str:
    """What a run in the folder writes, both outputs, without what is different each time."""
    done = client.pytest(folder / "reports", *arguments, cwd=folder)
    output = done.stdout.decode()
    assert done.returncode == status, output
    output = re.sub(r"^\.+ *\[ *\d+%\]\n", "", output, flags=re.MULTILINE)  # broken differently with two workers
    return re.sub(r"in \d+\.\d+s( \([\d:]+\))?", "in SECONDS", output)


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("mode", ["load", "loadscope", "loadfile", "loadgroup", "worksteal"])
def test_eight_workers_report_what_one_process_reports(
    client: Client, expected: list[list[object]], tmp_path: Path, mode: str
) -> None:
    assert client.reports(tmp_path, "-n", "8", "--dist", mode) == expected


@pytest.mark.usefixtures("warm")
def test_dist_each_reports_every_test_from_each_worker(
    client: Client, expected: list[list[object]], tmp_path: Path
) -> None:
    reports = client.reports(tmp_path, "--dist", "each", "--tx", "2*popen")
    assert reports == sorted(expected + expected, key=repr)


SMALL = {
    "conftest.py": "import installed, numpy, warnings\nwarnings.warn('of the conftest')",
    "test_small.py": """
import os, sys, warnings
import pytest, numpy

@pytest.mark.parametrize("number", range(40))
def test_it(number):
    with open(os.environ["REPORTS"], "a") as file:
        file.write("%d %d %s\\n" % (os.getpid(), os.getppid(), "installed.code" in sys.modules))
    if number < 4:
        warnings.warn("of a test")
    assert numpy.dot(numpy.ones((200, 200)), numpy.ones((200, 200))).sum() == 200 ** 3
""",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_what_is_written_is_the_same(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, SMALL)
    cold = written(client, tmp_path, "-n", "2", "-q", "-rA", "--dist", "each")
    (tmp_path / "reports").unlink()
    monkeypatch.setenv("EXECNET_WARM", "auto")
    warm = written(client, tmp_path, "-n", "2", "-q", "-rA", "--dist", "each")
    assert sorted(warm.splitlines()) == sorted(cold.splitlines())
    lines = [line.split() for line in (tmp_path / "reports").read_text().splitlines()]
    assert len(lines) == 80
    assert len({pid for pid, _, _ in lines}) == 2 and len({parent for _, parent, _ in lines}) == 1


@pytest.mark.usefixtures("warm")
def test_a_crashed_worker_is_reported_and_replaced_and_its_stack_is_shown(client: Client, tmp_path: Path) -> None:
    crash = "import faulthandler, os\n    assert faulthandler.is_enabled()\n    os.kill(os.getpid(), 11)"
    (tmp_path / "test_crash.py").write_text(CRASHING.replace("os._exit(3)", crash))
    done = client.pytest(tmp_path / "reports", "-n", "2", "-v", cwd=tmp_path, stderr=subprocess.PIPE)
    output, stderr = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == TESTS_FAILED, output
    assert re.search(r"worker 'gw\d' crashed while running '.*test_crash.py::test_crash'", output), output
    assert "Fatal Python error: Segmentation fault" in stderr
    assert re.search(r'test_crash.py", line \d+ in test_crash', stderr), stderr
    assert "replacing crashed worker" in output
    assert "1 failed, 40 passed" in output


@pytest.mark.usefixtures("warm")
def test_a_slow_test_is_dumped_by_faulthandler(client: Client, tmp_path: Path) -> None:
    (tmp_path / "test_slow.py").write_text("import time\ndef test_slow(): time.sleep(1)")
    output = written(client, tmp_path, "-n", "1", "-o", "faulthandler_timeout=0.3")
    assert 'test_slow.py", line 2 in test_slow' in output and "1 passed" in output


def test_pytest_cov_measures_the_same(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = covered_lines(client, tmp_path / "alone", "-p", "no:xdist")
    monkeypatch.setenv("EXECNET_WARM", "auto")
    assert covered_lines(client, tmp_path / "distributed", "-n", "8") == alone


COVERED = {
    "conftest.py": "import installed",
    "child.py": "def half(number):\n    return number / 2\nprint(half(4))\n",
    "test_covered.py": """
import subprocess, sys
import installed, pytest

@pytest.mark.parametrize("number", range(8))
def test_it(number):
    assert installed.double(number) == 2 * number

def test_child():
    assert subprocess.run([sys.executable, "child.py"], stdout=subprocess.PIPE).stdout == b"2.0\\n"
""",
    ".coveragerc": "[run]\nbranch = true\nparallel = true\n",
}


def measured(client: Client, folder: Path, *arguments: str) -> tuple[object, str]:
    """What is covered in a folder, and the report as it is printed."""
    folder.mkdir()
    write(folder, COVERED)
    with (folder / ".coveragerc").open("a") as file:
        file.write("patch = subprocess\n" if "subprocess" in arguments else "")
    cov = [word for word in arguments if word != "subprocess"]
    output = written(client, folder, *cov, "--cov-config=.coveragerc", "--cov-report=json:coverage.json")
    assert "Warning" not in output, output
    files = json.loads((folder / "coverage.json").read_text())["files"]
    return {Path(name).name: file["executed_lines"] for name, file in files.items()}, output


@pytest.mark.parametrize(
    "arguments",
    [
        ("--cov=installed",),
        ("--cov=installed.code", "--cov=child", "subprocess"),
        ("--cov=.", "subprocess"),
        ("--cov", "subprocess"),
    ],
    ids=" ".join,
)
def test_what_is_covered_is_the_same(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    cold, _ = measured(client, tmp_path / "cold", "-n2", *arguments)
    monkeypatch.setenv("EXECNET_WARM", "auto")
    assert measured(client, tmp_path / "warm", "-n2", *arguments)[0] == cold
    assert isinstance(cold, dict) and cold
    if "subprocess" in arguments:
        assert cold["child.py"] == [1, 2, 3]


def test_processes_measured_by_coverage_alone(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pytest-cov: a variable of the environment has every interpreter measured from its start on."""
    found = []
    if not list(client.venv.site.glob("*coverage.pth")):  # coverage 7.10, for Python 3.9
        (client.venv.site / "measured_coverage.pth").write_text("import coverage; coverage.process_startup()")
    for kind in ("", "auto"):
        folder = tmp_path / f"kind{kind}"
        folder.mkdir()
        write(folder, COVERED)
        monkeypatch.setenv("EXECNET_WARM", kind)
        monkeypatch.setenv("COVERAGE_PROCESS_START", str(folder / ".coveragerc"))
        written(client, folder, "-n2", "-p", "no:pytest_cov")
        monkeypatch.delenv("COVERAGE_PROCESS_START")
        run = [client.venv.python, "-m", "coverage"]
        packages.run([*run, "combine"], cwd=folder)
        packages.run([*run, "json", "-o", "coverage.json"], cwd=folder)
        files = json.loads((folder / "coverage.json").read_text())["files"]
        found.append({name: file["executed_lines"] for name, file in files.items()})
    assert found[0] == found[1] and "test_covered.py" in found[0] and "child.py" in found[0]


DJANGO = {
    "pytest.ini": "[pytest]\nDJANGO_SETTINGS_MODULE = settings\n",
    "settings.py": """
import os
SECRET_KEY = "x"
USE_TZ = True
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes"]
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
""",
    "test_django.py": """
import os, pytest
from django.conf import settings

@pytest.mark.django_db
@pytest.mark.parametrize("number", range(10))
def test_it(number):
    from django.contrib.auth.models import User
    User.objects.create_user("user%d" % number)
    assert User.objects.count() == 1
    assert settings.WORKER == os.environ["PYTEST_XDIST_WORKER"]
    with open(os.environ["REPORTS"], "a") as file:
        file.write("%d\\n" % os.getppid())
""",
}


@pytest.mark.usefixtures("warm")
def test_django_is_set_up_by_each_worker(client: Client, tmp_path: Path) -> None:
    output = written(client, write(tmp_path, DJANGO), "-n", "4")
    assert "10 passed" in output and "execnet" not in output and "arning" not in output
    parents = set((tmp_path / "reports").read_text().split())
    assert len(parents) == 1 and parents != {str(os.getpid())}
