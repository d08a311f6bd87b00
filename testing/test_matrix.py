"""The short form of `make matrix`: over popen, from the interpreter that runs the tests to every far side there is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support import interpreters, packages
from support.interpreters import Interpreter

import execnet

CELL = packages.CHECKOUT / "testing" / "support" / "cell.py"


def hold(*specs: str) -> None:
    """Fail unless all that the cell's program tries holds."""
    pure = {"EXECNET_PURE": "1"} if os.environ.get("EXECNET_PURE") else {}
    core = execnet.gateway_base.core
    done = subprocess.run(
        [sys.executable, CELL, "far", *specs],
        env=packages.environment(EXECNET_TEST_CORE=core, **pure),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    # A Python 2.7 that is interrupted while a task goes on says at its exit that sys.stderr is lost.
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["all"]), done.stdout + done.stderr


def test_what_a_gateway_is_for_holds_with(other_python: Interpreter) -> None:
    hold(f"popen//id=far//python={other_python}")


@pytest.mark.needs("jython")
def test_what_a_gateway_is_for_holds_with_jython() -> None:
    hold(f"popen//id=far//python={interpreters.jython()}")


@pytest.mark.needs("jython")
def test_what_a_gateway_is_for_holds_through_jython() -> None:
    hold(f"popen//id=first//python={interpreters.jython()}", "popen//id=far//via=first")
