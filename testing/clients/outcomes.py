"""A pytest plugin that notes each test's outcome at once, one JSON line each: a run that hangs has told what it did."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

UNFINISHED = "unfinished"


def note(nodeid: str, outcome: str) -> None:
    """Add a line to the file that the environment names; the last one on a test counts."""
    with open(os.environ["CLIENTS_OUTCOMES"], "a", encoding="utf-8") as stream:
        stream.write(json.dumps([nodeid, outcome]) + "\n")


class Notes:
    """What the process that was started for the tests sees; pytest runs of the tests themselves have their own."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.outcomes.pop(nodeid, None)
        note(nodeid, UNFINISHED)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            note(report.nodeid, "error")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "setup" or report.outcome == "rerun":
            self.outcomes.pop(report.nodeid, None)  # a new attempt
        if report.failed:
            self.outcomes[report.nodeid] = "failed" if report.when == "call" else "error"
        elif report.when == "call" or report.skipped:
            expected = hasattr(report, "wasxfail")
            outcome = "xfailed" if expected and report.skipped else "xpassed" if expected else report.outcome
            self.outcomes.setdefault(report.nodeid, outcome)
        if report.when == "teardown":
            note(report.nodeid, self.outcomes.get(report.nodeid, "passed"))


def pytest_configure(config: pytest.Config) -> None:
    """Begin to note."""
    config.pluginmanager.register(Notes(), "clients-notes")
