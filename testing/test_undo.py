"""A start or an end that is interrupted anywhere leaves nothing: a sample here, every line with EXECNET_CHAOS=long."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from support import interpreters

PROGRAM = Path(__file__).parent / "support" / "raising.py"
LONG = os.environ.get("EXECNET_CHAOS") == "long"
SECONDS = 3600 if LONG else 100
# Lines between two that are tried, by where is raised; rounds of interruptions by a signal.
STEPS = {"caller": 1 if LONG else 75, "start": 1 if LONG else 120}
SIGNALS = 200 if LONG else 4

pytestmark = pytest.mark.timeout(SECONDS + 20)
KINDS = ["popen", "popen many", "other python", "via", "socket", "ssh", "ssh many", "warm"]


@pytest.fixture(params=KINDS)
def specs(request: pytest.FixtureRequest) -> list[str]:
    """What is started in one call."""
    kind = request.param
    if kind == "socket":
        return [request.getfixturevalue("socket_server").spec()]
    if kind.startswith("ssh"):
        return [request.getfixturevalue("ssh_server").spec()] * (3 if "many" in kind else 1)
    others = [found for found in interpreters.found() if str(found) != sys.executable]
    if kind == "other python" and not others:
        pytest.skip("no other interpreter here")
    return {
        "popen": ["popen"],
        "popen many": ["popen"] * 3,
        "other python": [f"popen//python={others[0] if others else ''}"],
        "via": ["popen//id=far//via=master", "popen//id=master"],
        "warm": ["popen//warm"],
    }[kind]


def run(where: str, what: str, first: int, step: int, specs: list[str]) -> None:
    """Run the program; nothing may be left, nor does it hang."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), where, what, str(first), str(step), *specs],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    rounds, *left = done.stdout.splitlines() or ["0"]
    assert (done.returncode, left) == (0, []), f"from {first}:\n{done.stdout}\n{done.stderr[-3000:]}"
    assert int(rounds) > 1


def first(where: str) -> int:
    """Which line is tried first, another one in each run."""
    return random.SystemRandom().randrange(STEPS[where])


def test_a_start_interrupted_at_any_line_of_its_caller_leaves_nothing(specs: list[str]) -> None:
    run("caller", "start", first("caller"), STEPS["caller"], specs)


def test_a_start_that_fails_at_any_line_of_its_own_threads_leaves_nothing(specs: list[str]) -> None:
    run("start", "start", first("start"), STEPS["start"], specs)


def test_an_end_interrupted_at_any_line_leaves_nothing_for_the_next_one(specs: list[str]) -> None:
    run("caller", "end", first("caller"), STEPS["caller"], specs)


@pytest.mark.parametrize("what", ["start", "end"])
def test_a_signal_at_any_time_leaves_nothing(specs: list[str], what: str) -> None:
    run("signal", what, random.SystemRandom().randrange(1 << 30), SIGNALS, specs)
