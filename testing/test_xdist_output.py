"""EXECNET_STDOUT=prefix under released pytest-xdist: all that tests print is shown, and nothing else is different."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support import packages
from support.once import Once
from test_xdist import RUN_SECONDS, TESTS_FAILED, Client, made_once

pytestmark = [pytest.mark.timeout(300), pytest.mark.needs("index")]

TESTS = 40
PRINTING = f"""
import os, subprocess, sys, threading
import pytest

def say(number, what):
    print("<%d %s %s>" % (number, what, "x" * (number * 37 % 500)))

@pytest.fixture
def database(request):
    number = request.node.callspec.params["number"]
    say(number, "opened")
    yield
    say(number, "closed")

@pytest.mark.parametrize("number", range({TESTS}))
def test_it(database, number):
    say(number, "printed")
    os.write(1, b"<%d by the system>\\n" % number)
    subprocess.run([sys.executable, "-c", "print('<%d by a child>')" % number], check=True)
    pid = os.fork()
    if not pid:
        os.write(1, b"<%d by a forked child>\\n" % number)
        os._exit(0)
    os.waitpid(pid, 0)
    thread = threading.Thread(target=say, args=(number, "by a thread"))
    thread.start()
    thread.join()
    assert number % 10 != 3
"""
CRASHING = """
def test_crash():
    import faulthandler
    print('<before the crash>')
    faulthandler._sigsegv()
"""


@pytest.fixture(scope="module")
def client(once: Once, wheel: Path) -> Client:
    """The released clients over our wheel."""
    return made_once(once, "xdist", [wheel, "pytest", "pytest-xdist", "pytest-cov"], {})


def run(client: Client, folder: Path, *arguments: str, **environment: str) -> tuple[str, str]:
    """What a run over the tests in the folder writes to both outputs; some of them fail."""
    done = subprocess.run(
        [client.venv.python, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env=packages.environment(**environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )
    assert done.returncode == TESTS_FAILED, done.stdout + done.stderr
    return done.stdout, done.stderr


def outcomes(junit: Path) -> list[tuple[str | None, list[str], list[str | None]]]:
    """Of each test, from the file of junit reports: its name, and what it has: failures with their texts."""
    cases = ElementTree.parse(junit).iter("testcase")
    return sorted((case.get("name"), [part.tag for part in case], [part.text for part in case]) for case in cases)


def expected() -> Counter[str]:
    """Each line that the tests print."""
    lines: Counter[str] = Counter()
    for number in range(TESTS):
        for what in ("opened", "printed", "by a thread", "closed"):
            lines[f"<{number} {what} {'x' * (number * 37 % 500)}>"] += 1
        for what in ("by the system", "by a child", "by a forked child"):
            lines[f"<{number} {what}>"] += 1
    return lines


@pytest.mark.parametrize("warm", ["", "auto"], ids=["cold", "warm"])
def test_all_that_tests_print_is_shown_in_whole_lines(client: Client, tmp_path: Path, warm: str) -> None:
    (tmp_path / "test_it.py").write_text(PRINTING)
    plain = run(client, tmp_path, "-n", "4", "-s", "--junitxml", "plain.xml")[0]
    assert "<" not in plain.partition("FAILURES")[0]
    shown, _ = run(
        client, tmp_path, "-n", "4", "-s", "--junitxml", "shown.xml", EXECNET_STDOUT="prefix", EXECNET_WARM=warm
    )
    # What stands before the name of the worker is the progress of pytest itself, and what stands behind it pytest's in
    # the worker: neither ends with a newline.
    lines = re.findall(r"^[.F]*\[gw[0-3]\] (?:[.F]|test_it.py )*(<.*>)$", shown, re.MULTILINE)
    assert Counter(lines) == expected()
    assert outcomes(tmp_path / "shown.xml") == outcomes(tmp_path / "plain.xml")
    assert len(outcomes(tmp_path / "shown.xml")) == TESTS
    # CPython 3.12 and newer warn of a fork.
    counts = rf"=+ {TESTS // 10} failed, {TESTS - TESTS // 10} passed(, \d+ warnings)? in .*=+\n"
    assert re.search(rf"^{counts}\Z", plain, re.MULTILINE) and re.search(rf"^{counts}", shown, re.MULTILINE)


def test_the_report_of_a_worker_can_be_left_out(client: Client, tmp_path: Path) -> None:
    page = Path(__file__).resolve().parents[1] / "doc" / "xdist.rst"
    *_, recipe = re.findall(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", page.read_text("utf-8"), re.MULTILINE)
    (tmp_path / "conftest.py").write_text(re.sub(r"^    ", "", recipe, flags=re.MULTILINE))
    (tmp_path / "test_it.py").write_text(PRINTING)
    shown, _ = run(client, tmp_path, "-n", "4", "-s", EXECNET_STDOUT="prefix")
    until_the_report = shown.partition("= FAILURES =")[0].splitlines()
    of_workers = [line.partition("] ")[2] for line in until_the_report if re.match(r"[.F]*\[gw[0-3]\] ", line)]
    assert Counter(of_workers) == expected()


def test_the_reports_are_those_of_a_run_without(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "shown").mkdir()
    plain = client.reports(tmp_path / "plain", "-n", "4", "-s")
    monkeypatch.setenv("EXECNET_STDOUT", "prefix")
    monkeypatch.setenv("EXECNET_STDERR", "prefix")
    assert client.reports(tmp_path / "shown", "-n", "4", "-s") == plain


def test_with_capturing_nothing_that_tests_print_is_shown_but_for_failures(client: Client, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(PRINTING)
    shown, _ = run(client, tmp_path, "-n", "2", EXECNET_STDOUT="prefix")
    assert not re.search(r"^.*\[gw[01]\] .*<", shown.partition("FAILURES")[0], re.MULTILINE)


def test_a_crash_tells_its_last_words(client: Client, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(PRINTING + CRASHING)
    shown, told = run(client, tmp_path, "-n", "2", "-s", EXECNET_STDOUT="prefix", EXECNET_STDERR="prefix")
    assert re.search(r"^\S*\[gw[0-9]\] (?:\S*|test_it.py )<before the crash>$", shown, re.MULTILINE)
    assert re.search(r"^\[gw[0-9]\] Fatal Python error: Segmentation fault$", told, re.MULTILINE)
    assert re.search(r"^\[gw[0-9]\]   File .*test_it.py\", line \d+ in test_crash$", told, re.MULTILINE)
