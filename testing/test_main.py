"""python -m execnet: the table, the JSON, what it says of specs that fail, and that nothing stays behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.interpreters import Interpreter
from support.processes import wait_until
from support.sshd import SshServer

import execnet
from execnet import __main__ as program
from execnet._command import common, show

SECONDS = 60.0
INTERRUPT_SECONDS = 10.0
COLUMNS = ["id", "spec", "Python", "platform", "pid", "core", "start ms", "round trip µs", "MiB/s"]
LOCAL_CORE = {"c": "C", "portable": "portable"}[execnet.gateway_base.core]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "execnet", *arguments],
        env={**os.environ, "PYTHONUTF8": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=SECONDS,
    )


def rows_of(*arguments: str, **environment: str) -> list[dict[str, object]]:
    result = run("--json", *arguments, **environment)
    assert not result.stderr
    rows = json.loads(result.stdout)["gateways"]
    assert result.returncode == (1 if any(row["error"] for row in rows) else 0)
    return list(rows)


def cells(line: str) -> list[str]:
    return re.split(r"  +", line.strip())


def test_without_arguments_two_popen_gateways_are_shown() -> None:
    result = run()
    headline, blank, headings, *lines = result.stdout.splitlines()
    assert (result.returncode, result.stderr, blank) == (0, "", "")
    assert headline.startswith(f"execnet {execnet.__version__} on ")
    assert headline.endswith(f", {LOCAL_CORE} core")
    assert cells(headings) == COLUMNS
    assert [cells(line)[:2] for line in lines] == [["gw0", "popen"], ["gw1", "popen"]]
    for line in lines:
        _, _, python, platform, pid, core, start, round_trip, rate = cells(line)
        assert python.endswith(sys.version.split()[0])
        assert platform.startswith(sys.platform)
        assert core == LOCAL_CORE
        assert min(int(pid), float(start), float(round_trip), float(rate)) > 0


def test_columns_are_aligned() -> None:
    _, _, headings, *lines = run("popen//id=a-rather-long-name", "popen", "popen//python=/nowhere").stdout.splitlines()
    for heading in ("spec", "Python", "platform"):
        column = headings.index(heading)
        assert all(line[column - 2 : column] == "  " and line[column] != " " for line in lines[:2])
    assert headings.index("Python") == lines[2].index("failed: ")
    assert len({len(line) for line in (headings, *lines[:2])}) == 1


def test_json_has_a_row_with_all_figures_for_each_spec() -> None:
    result = run("--json", "popen//id=one", "popen")
    answer = json.loads(result.stdout)
    assert result.returncode == 0
    assert answer["execnet"] == execnet.__version__
    assert answer["core"] == execnet.gateway_base.core
    assert [(row["id"], row["spec"]) for row in answer["gateways"]] == [("one", "popen//id=one"), ("gw0", "popen")]
    for row in answer["gateways"]:
        assert row["error"] is None
        assert row["python"] == sys.version.split()[0]
        assert row["core"] == execnet.gateway_base.core
        assert min(row["start_ms"], row["round_trip_us"], row["mib_per_s"]) > 0
    assert len({row["pid"] for row in answer["gateways"]}) == 2


def test_the_portable_core_is_named_where_it_is_in_use() -> None:
    assert [row["core"] for row in rows_of("popen", EXECNET_PURE="1")] == ["portable"]


def test_each_interpreter_can_be_measured(other_python: Interpreter) -> None:
    (row,) = rows_of(f"popen//python={other_python}")
    assert row["error"] is None
    assert str(row["implementation"]).lower() == other_python.implementation
    assert str(row["python"]).startswith("{}.{}.".format(*other_python.version))


def test_a_spec_may_name_an_earlier_one_as_its_via() -> None:
    rows = rows_of("popen//id=gate", "popen//via=gate", "socket//installvia=gate")
    assert [row["error"] for row in rows] == [None, None, None]


def test_an_ssh_host_is_shown(ssh_server: SshServer) -> None:
    (row,) = rows_of(ssh_server.spec())
    assert row["error"] is None
    assert row["python"] == sys.version.split()[0]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("popen//python=/no/such/python", "FileNotFoundError: .*/no/such/python"),
        ("popen//python=false", "GatewayStartError: .*false.* status 1"),
        ("popen//python=echo", "GatewayStartError: .*echo.* it wrote '-u"),
        ("socket=127.0.0.1:1", "ConnectionRefusedError: .*127.0.0.1:1"),
        ("socket=nowhere.invalid:80", "HostNotFound: .*nowhere.invalid"),
        ("popen//via=nobody", "KeyError: .*nobody"),
        ("nonsense", "ValueError: .*nonsense"),
        ("popen//popen", "ValueError: .*popen//popen"),
        ("popen//_private=1", "AttributeError: .*_private"),
        ("", "ValueError: "),
    ],
)
def test_a_failing_spec_has_its_reason_and_the_others_still_run(spec: str, reason: str) -> None:
    failed, fine = rows_of(spec, "popen")
    assert re.match(reason, str(failed["error"]), re.DOTALL), failed["error"]
    assert (failed["spec"], fine["error"]) == (spec, None)


def test_a_reason_of_several_lines_stays_in_its_column() -> None:
    row = {"id": None, "spec": "popen", "error": "OSError: first\nsecond"}
    headings, first, second = show.table([row]).splitlines()
    assert first[: headings.index("Python")].split() == ["-", "popen"]
    assert first.index("failed: OSError: first") == second.index("second") == headings.index("Python")


def test_a_start_that_never_answers_ends_with_the_timeout_and_leaves_no_process(tmp_path: Path) -> None:
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 1000\n")
    silent.chmod(0o755)
    began = time.monotonic()
    failed, fine = rows_of("--timeout", "3", f"popen//python={silent}", "popen")
    assert time.monotonic() - began < INTERRUPT_SECONDS
    assert str(failed["error"]).startswith("TimeoutError: no answer within 3 seconds")
    assert fine["error"] is None


def test_ctrl_c_ends_it_without_a_traceback_and_leaves_no_process(tmp_path: Path) -> None:
    silent = tmp_path / "silent"
    silent.write_text(f"#!/bin/sh\necho > {silent}.began; exec sleep 1000\n")
    silent.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-m", "execnet", "popen", f"popen//python={silent}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    wait_until(Path(f"{silent}.began").exists, SECONDS, "the start of the silent program")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to workers as well
    output, errors = process.communicate(timeout=INTERRUPT_SECONDS)
    assert (process.returncode, output, errors) == (130, b"", b"")


def test_bytes_that_are_no_text_can_stand_in_a_spec() -> None:
    result = run("popen//python=/no/\udcff", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert result.returncode == 1
    assert r"popen//python=/no/\udcff" in result.stdout
    assert not result.stderr


def test_help_shows_the_options_and_examples() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert all(text in result.stdout for text in ("SPEC", "--json", "--version", "--timeout", "ssh="))


def test_version() -> None:
    assert run("--version").stdout == f"execnet {execnet.__version__}\n"


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "soon", "inf", "-inf", "1e300", "86401", "", "\udcff"])
def test_a_timeout_that_is_none_is_refused(timeout: str) -> None:
    result = run(f"--timeout={timeout}")
    assert result.returncode == 2
    assert "argument --timeout: " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [
        ("| head -c 1", 141, ""),
        ("| true", 141, ""),
        (">/dev/full", 2, "cannot write the output: No space left on device"),
        (">&-", 2, "cannot write the output: Bad file descriptor"),
        ("<&- >&- 2>&-", 2, ""),
        ("<&-", 0, ""),
        ("2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
    ],
)
@pytest.mark.parametrize("arguments", ["popen", "--json popen", "popen//python=/nowhere", "--help", "--version"])
def test_broken_streams_give_one_line_at_most(arguments: str, redirection: str, status: int, said: str) -> None:
    line = f"{sys.executable} -m execnet {arguments} {redirection}; exit ${{PIPESTATUS[0]}}"
    # Unbuffered, argparse itself meets the error, and keeps it to itself.
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    run = subprocess.run(
        ["bash", "-c", line], capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS, env=environment
    )
    assert run.stderr.decode() == (f"python -m execnet: {said}\n" if said else "")
    answered = 1 if "nowhere" in arguments else 0
    possible = {"| head -c 1": (status, answered), "| true": (status,)}.get(redirection, (status or answered,))
    assert run.returncode in possible


@pytest.mark.parametrize(
    "spec",
    [
        *("popen//id=\udcff", "popen//env:A=\udcff", "popen//env:\udcff=1", "popen//chdir=/\udcff", "socket=\udcff:1"),
        *("popen//via", "popen//chdir", "popen//env:A", "popen//python", "popen//python='", "ssh", "socket", "//", "="),
        *("socket=127.0.0.1:99999", f"socket={300 * 'h'}:1", "popen//id=a\nb", "popen//nice=x", "popen//\x1b[2J"),
        *("popen//chdir=/nowhere/\n", "popen//execmodel=x", "popen//execmodel", f"popen//nice={20 * '9'}"),
    ],
)
def test_whatever_is_asked_for_has_one_row_and_no_traceback_of_ours(spec: str) -> None:
    for environment in ({}, {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}):
        result = run("--timeout", "20", spec, **environment)
        assert result.returncode in (0, 1)
        assert not re.search(r"_command|__main__\.py", result.stderr)
        first = result.stdout.split("\n")[3]
        assert first.split("  ")[1].strip() == common.shown(spec) or "  " in spec
        assert first.isprintable()


def test_main_can_be_called_and_returns_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["popen"]) == 0
    assert "gw0" in capsys.readouterr().out
