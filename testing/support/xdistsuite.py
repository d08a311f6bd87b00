"""A suite of 300 tests of every outcome, for pytest-xdist to run over our gateways."""

from __future__ import annotations

import json
from pathlib import Path

FILES = 6
TESTS = 300
MESSAGE_BYTES = 1 << 20

INI = """\
[pytest]
disable_test_id_escaping_and_forfeit_all_rights_to_community_support = true
markers = xdist_group
"""

# Every report as the process that was started sees it, one JSON line each.
CONFTEST = """\
import hashlib, json, os

def digest(text):
    return hashlib.sha256(str(text).encode("utf-8", "surrogatepass")).hexdigest()

def pytest_runtest_logreport(report):
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    # loadgroup appends the group to the name of a test
    row = [report.nodeid.partition("@")[0], report.when, report.outcome, getattr(report, "wasxfail", None),
           len(str(report.longrepr)), digest(report.longrepr), digest(report.sections)]
    with open(os.environ["REPORTS"], "a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\\n")
"""

MODULE = """\
import logging, sys
import pytest
from code_under_test import classify

@pytest.mark.parametrize("word", ["%(number)d-" + word for word in
    ["plain", "über", "日本語", "\\U0001f40d", "a b", "x/y", "[z]", "ß-%%s", "Ω", "ë"]])
@pytest.mark.parametrize("factor", [1, 2])
def test_pass(word, factor):
    assert classify(len(word) * factor)

@pytest.mark.parametrize("index", range(8))
def test_fail(index):
    assert [index, {"file": %(number)d}] == [index, {"file": "other ü"}]

@pytest.mark.parametrize("index", range(4))
def test_skip(index):
    pytest.skip("for reason %%d" %% index)

@pytest.mark.skipif(True, reason="never")
def test_skip_by_mark():
    raise AssertionError

@pytest.mark.xfail(reason="known")
@pytest.mark.parametrize("index", range(5))
def test_xfail(index):
    assert index == -1

@pytest.mark.xfail
@pytest.mark.parametrize("index", range(2))
def test_xpass(index):
    assert classify(index)

@pytest.mark.parametrize("index", range(4))
def test_output(index):
    print("to stdout", index, "ü" * index)
    sys.stderr.write("to stderr %%d\\n" %% index)
    if index %% 2:
        raise RuntimeError("with output")

@pytest.mark.parametrize("letter", "ab")
def test_large_message(letter):
    assert False, letter * %(message_bytes)d

@pytest.fixture
def broken_setup():
    raise LookupError("in setup")

@pytest.fixture
def broken_teardown():
    yield
    raise LookupError("in teardown")

def test_setup_error(broken_setup):
    raise AssertionError

def test_teardown_error(broken_teardown):
    pass

@pytest.mark.xdist_group("one group for all files")
def test_logging():
    logging.getLogger("suite").warning("logged %%s", "ä")

@pytest.mark.xdist_group("another")
def test_capfd(capfd):
    print("captured")
    assert capfd.readouterr().out == "captured\\n"
"""

CODE_UNDER_TEST = """\
def classify(number):
    if number < 5:
        return "small"
    if number > 10**6:
        return "never reached"
    return "large"
"""


def write(folder: Path) -> Path:
    """Write the suite into the new folder `folder`."""
    folder.mkdir()
    (folder / "pytest.ini").write_text(INI)
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "code_under_test.py").write_text(CODE_UNDER_TEST)
    for number in range(FILES):
        text = MODULE % {"number": number, "message_bytes": MESSAGE_BYTES}
        (folder / f"test_{number}.py").write_text(text, encoding="utf-8")
    return folder


def read_reports(path: Path) -> list[list[object]]:
    """The reports of one run, sorted: their order is the business of the distribution."""
    with path.open(encoding="utf-8") as stream:
        return sorted((json.loads(line) for line in stream), key=repr)
