"""Reports as pytest-xdist sends them: makes ``reports.txt``, which the benchmark of values reads.

``python testing/bench/reports.py`` runs pytest on the tests below and writes what TestReport._to_json gives.
"""

from __future__ import annotations

import os
import pprint
import tempfile
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parent / "reports.txt"
TESTS = """
import pytest

class TestAccounts:
    @pytest.fixture
    def balance(self):
        print("opening the account")
        return {"Ann": 17, "Bob": 4}

    def check(self, balance, name, amount):
        if balance[name] < amount:
            raise ValueError(f"{name} has only {balance[name]}")
        balance[name] -= amount

    def test_money_goes_over(self, balance, record_property):
        record_property("bank", "first")
        self.check(balance, "Ann", 10)
        assert balance["Ann"] == 7

    @pytest.mark.parametrize("amount", [5, 50])
    def test_no_more_than_there_is(self, balance, amount):
        try:
            self.check(balance, "Bob", amount)
        except ValueError as error:
            raise RuntimeError("the bank is closed") from error

    def test_accounts_are_compared_in_depth(self, balance):
        assert {**balance, "history": [1, 2, 3]} == {"Ann": 17, "Bob": 5, "history": [1, 2]}

    @pytest.mark.skip(reason="not today")
    def test_interest(self):
        pass
"""


class Recorder:
    """A plugin of pytest that keeps the reports as plain values."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.reports.append(report._to_json())


def main() -> None:
    """Write the file."""
    import pytest

    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("test_accounts.py").write_text(TESTS)
        pytest.main(["-q", "--rootdir=.", "-pno:cacheprovider", "test_accounts.py"], plugins=[recorder])
        text = pprint.pformat(recorder.reports, width=118).replace(os.path.realpath(folder), "/home/user/project")
        os.chdir(os.sep)
    FILE.write_text(text + "\n")


if __name__ == "__main__":
    main()
