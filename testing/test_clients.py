"""What ``make clients`` makes of the outcomes that it finds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from clients import run, table

pytest_plugins = ["pytester"]


def result(there: dict[str, str], here: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"version": "1", "outcomes": {"2.1.2": there, "ours": here}, "alone": {}, "cut": [], **more}


def only_there(*args: Any, **more: Any) -> list[str]:
    return table.only_there(result(*args, **more), "2.1.2", "ours")


@pytest.mark.parametrize("outcome", ["failed", "error", "skipped", "unfinished", None])
def test_a_test_that_passes_only_there_is_told(outcome: str | None) -> None:
    here = {"b": "passed"} | ({"a": outcome} if outcome else {})
    assert only_there({"a": "passed", "b": "passed"}, here) == ["a"]


def test_a_test_that_fails_on_both_sides_is_not() -> None:
    assert only_there({"a": "failed"}, {"a": "error"}) == []


def test_a_test_that_passes_alone_on_both_sides_is_remarked_but_does_not_count() -> None:
    found = result({"a": "passed"}, {"a": "failed"}, alone={"a": {"2.1.2": "passed", "ours": "passed"}})
    assert table.only_there(found, "2.1.2", "ours") == []
    assert table.row("name", found)[4:] == ("0", "0")
    (remark,) = table.remarks("name", found)
    assert "failed over this execnet, passed when run again alone" in remark


def test_what_a_side_did_not_come_to_in_its_time_is_not_compared() -> None:
    assert only_there({"a": "passed", "b": "passed"}, {"b": "unfinished"}, cut=["ours"]) == []
    assert only_there({"a": "passed"}, {"a": "failed"}, cut=["ours"]) == ["a"]


def test_the_page_is_what_the_results_give() -> None:
    assert table.PAGE.read_text("utf-8") == table.page([client.name for client in run.CLIENTS])


def test_every_outcome_is_noted(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile("""
        import pytest
        def test_passed(): pass
        def test_failed(): assert 0
        def test_skipped(): pytest.skip("for a reason")
        @pytest.mark.xfail
        def test_xfailed(): assert 0
        @pytest.mark.xfail
        def test_xpassed(): pass
        @pytest.fixture
        def before(): assert 0
        def test_error(before): pass
        @pytest.fixture
        def after():
            yield
            assert 0
        def test_error_after(after): pass
    """)
    pytester.makepyfile(test_unread="import nothing_of_that_name")
    notes = pytester.path / "notes"
    monkeypatch.setenv("CLIENTS_OUTCOMES", str(notes))
    pytester.runpytest_inprocess("-p", "clients.outcomes", "-p", "no:xdist", "--continue-on-collection-errors")
    outcomes = dict(map(json.loads, notes.read_text().splitlines()))
    assert outcomes.pop("test_unread.py") == "error"
    assert {name.partition("::")[2]: outcome for name, outcome in outcomes.items()} == {
        "test_passed": "passed",
        "test_failed": "failed",
        "test_skipped": "skipped",
        "test_xfailed": "xfailed",
        "test_xpassed": "xpassed",
        "test_error": "error",
        "test_error_after": "error",
    }
