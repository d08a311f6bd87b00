"""Runs pytest twice: first side by side what times nothing, then, alone, what does. Arguments are those of pytest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

WORKERS = os.environ.get("EXECNET_TEST_WORKERS", "2")
RUNS = [["-n", WORKERS, "--dist", "loadgroup", "-m", "not timing"], ["-m", "timing"]]
# Not "python -m pytest": that imports from the working directory first.
PYTEST = os.path.join(os.path.dirname(sys.executable), "pytest")


def main(arguments: list[str]) -> int:
    """Run both; the first status that tells of a failure, or that nothing was selected where neither run had tests."""
    # Ctrl-C is for pytest, which then ends in its own way.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    statuses = []
    for run in RUNS:
        statuses.append(subprocess.run([PYTEST, *run, *arguments]).returncode)
        if statuses[-1] not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
            break
    if all(status == pytest.ExitCode.NO_TESTS_COLLECTED for status in statuses):
        return pytest.ExitCode.NO_TESTS_COLLECTED
    failures = [status for status in statuses if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)]
    if failures and len(statuses) == len(RUNS) and not statuses[-1]:
        print("the tests that ran side by side failed, see above", file=sys.stderr)
    return failures[0] if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
