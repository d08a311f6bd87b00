"""Runs pytest twice: first, side by side, the tests that time nothing, then those that do, alone.

The arguments are those of pytest, and go to both.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

# Not "python -m pytest": that imports from the working directory first.
PYTEST = os.path.join(os.path.dirname(sys.executable), "pytest")
# Each has files of its own, whose fixtures it makes once, until it is done with them and takes over from another.
SIDE_BY_SIDE = ["-n", os.environ.get("EXECNET_TEST_WORKERS", "2"), "--dist", "worksteal", "-m", "not timing"]
ALONE = ["-m", "timing"]


def run(arguments: list[str]) -> int:
    return subprocess.run([PYTEST, *arguments]).returncode


def main(arguments: list[str]) -> int:
    """Run both; the status of the first that failed. A selection may leave one of them without a test."""
    # Ctrl-C is for pytest, which then ends in its own way.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    first = run([*SIDE_BY_SIDE, *arguments])
    if first not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        return first
    second = run([*ALONE, *arguments])
    if first == pytest.ExitCode.TESTS_FAILED:
        print("tests that ran side by side failed, see above", file=sys.stderr)
        return first
    if second == pytest.ExitCode.NO_TESTS_COLLECTED:
        return first
    return second


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
