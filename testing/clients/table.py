"""doc/compatibility.rst, written from what run.py found."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from clients.outcomes import UNFINISHED

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = HERE.parents[1] / "doc" / "compatibility.rst"
INTRODUCTION = """\
Test suites of other programs
=============================

.. This page is written by ``make clients``.

Programs that build on execnet have test suites of their own. ``make clients`` takes the newest release of each, runs
the tests of its source distribution over execnet 2.1.2 and over this execnet, each in a fresh virtual environment with
the same versions of all else, and compares the outcomes test by test. This is what it printed last.

"""
ENDING = """
``make clients ARGS="--only remoto"`` runs the tests of one of them. What the tests wrote is in ``.cache/clients``.
"""
COLUMNS = ("program", "tests", "over 2.1.2", "over this execnet", "pass only there", "pass only here")


def keep(name: str, result: dict[str, Any]) -> None:
    """Keep what was found of a program."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def found() -> dict[str, Any]:
    """What was found of each program, by its name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}


def counts(result: dict[str, Any], side: str) -> str:
    """How many tests ended how on that side, as words."""
    counted = Counter(result["outcomes"][side].values())
    words = [f"{number} {outcome}" for outcome, number in counted.most_common()]
    return ", ".join([*words, *["then its time was over"] * (side in result["cut"])])


def only_there(result: dict[str, Any], there: str, here: str) -> list[str]:
    """The tests that pass on one side and not on the other, alone as little as among the others.

    What a side whose time was over did not come to is not compared.
    """
    outcomes, alone = result["outcomes"], result["alone"]
    tests = [test for test, outcome in outcomes[there].items() if outcome == "passed"]
    if here in result["cut"]:
        tests = [test for test in tests if outcomes[here].get(test, UNFINISHED) != UNFINISHED]
    tests = [test for test in tests if outcomes[here].get(test) != "passed"]
    return [test for test in tests if test not in alone or (alone[test][there], alone[test][here]) != ("passed",) * 2]


def row(name: str, result: dict[str, Any]) -> tuple[str, ...]:
    """The program's line of the table."""
    title = f"{name} {result['version']}"
    if "lacks" in result:
        return (title, result["lacks"], "", "", "", "")
    outcomes = result["outcomes"]
    numbers = [str(len(only_there(result, *sides))) for sides in (("2.1.2", "ours"), ("ours", "2.1.2"))]
    total = len({*outcomes["2.1.2"], *outcomes["ours"]})
    return (title, str(total), counts(result, "2.1.2"), counts(result, "ours"), *numbers)


def list_table(rows: list[tuple[str, ...]]) -> str:
    """A table of reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for cells in (COLUMNS, *rows):
        lines += [f"   {' ' if index else '*'} - {cell}".rstrip() for index, cell in enumerate(cells)]
    return "\n".join(lines) + "\n"


def remarks(name: str, result: dict[str, Any]) -> list[str]:
    """What is to be said of single tests."""
    if "lacks" in result:
        return []
    lines = []
    for test in only_there(result, "2.1.2", "ours"):
        alone = result["alone"].get(test, {}).get("ours", "not run")
        lines.append(f"* {name}, passes only over 2.1.2 ({alone} over this execnet alone, too): ``{test}``")
    for test in result["alone"]:
        if test not in only_there(result, "2.1.2", "ours"):
            outcome = result["outcomes"]["ours"].get(test, "not run")
            lines.append(f"* {name}, {outcome} over this execnet, passed when run again alone, on both: ``{test}``")
    for test in only_there(result, "ours", "2.1.2"):
        outcome = result["outcomes"]["2.1.2"].get(test, "not run")
        lines.append(f"* {name}, passed over this execnet, {outcome} over 2.1.2: ``{test}``")
    return lines


def page(order: list[str]) -> str:
    """The page: these programs, as far as something was found of them."""
    results = found()
    names = [name for name in order if name in results]
    pythons = sorted({results[name]["python"] for name in names})
    pytests = sorted({results[name]["pytest"] for name in names if "pytest" in results[name]})
    said = [line for name in names for line in remarks(name, results[name])]
    text = INTRODUCTION + list_table([row(name, results[name]) for name in names])
    text += f"\nCPython {', '.join(pythons)}, pytest {', '.join(pytests)}.\n"
    if said:
        text += "\nTests that did not end the same:\n\n" + "\n".join(said) + "\n"
    return text + ENDING


def fails() -> int:
    """1 where a test passes over 2.1.2 only."""
    compared = [result for result in found().values() if "outcomes" in result]
    return int(any(only_there(result, "2.1.2", "ours") for result in compared))
