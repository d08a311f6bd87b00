"""Tables for the documentation, from results/*.json, to be included there.

``doc/performance/NAME.inc`` has the figures of each benchmark, ``summary.inc`` the few that tell most, as ratios,
``machine.inc`` what they were measured on, and ``goals.inc`` what was set out for and what was reached.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import harness
from harness import BEFORE, OURS, Row, number

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
DOC = HERE.parents[1] / "doc" / "performance"


class Result(NamedTuple):
    """What one benchmark has measured."""

    title: str
    command: str
    machine: dict[str, str]
    rows: list[Row]

    def row(self, name: str) -> Row:
        """The row of that name; KeyError where there is none."""
        return {row.name: row for row in self.rows}[name]


def results() -> dict[str, Result]:
    """All of them, by the names of their files."""
    found = {}
    for path in sorted(RESULTS.glob("*.json")):
        text = json.loads(path.read_text("utf-8"))
        found[path.stem] = Result(text["title"], text["command"], text["machine"], harness.from_json(text))
    return found


# ---- the summary ----


class Line(NamedTuple):
    """A line of the summary: a row, by its benchmark and name, and what is compared in it."""

    title: str
    benchmark: str
    row: str
    peers: tuple[str, ...] = ()
    bare: str = ""
    ours: str = OURS

    def best_peer(self, row: Row) -> str | None:
        """The one of the peers that execnet has to compare with most."""
        return min(self.peers, key=lambda peer: slowness(row, peer, self.ours), default=None)


CONNECTIONS = ("multiprocessing.Pipe", "pyzmq")
FORMATS = ("pickle 5", "marshal")
STARTERS = ("multiprocessing spawn", "multiprocessing forkserver", "mitogen")
SUMMARY = [
    Line("round trip, one CPU", "roundtrip", "round trip on one CPU", (*CONNECTIONS, "mitogen", "RPyC"), "os.pipe"),
    Line("round trip, two CPUs", "roundtrip", "round trip on two CPUs", (*CONNECTIONS, "mitogen", "RPyC"), "os.pipe"),
    Line("a small item of many", "stream", "50 000 small items from the worker, one by one", CONNECTIONS, "os.pipe"),
    Line("items of 1 MiB", "throughput", "1 MiB items from the worker", CONNECTIONS, "os.pipe"),
    Line("writing values, mean of all kinds", "values", "dumps: geometric mean", FORMATS),
    Line("reading values, mean of all kinds", "values", "loads: geometric mean", FORMATS),
    Line("start of a worker", "start", "a worker, after the first", STARTERS, "python -c"),
    Line("start of a warm worker", "start", "a worker, after the first", STARTERS, "python -c", "execnet warm"),
    Line("start of four workers over ssh", "start", "4 workers over ssh", (), "ssh HOST true"),
    Line("pytest -n2, 4000 empty tests", "testrun", "pytest -n2, 4000 empty tests"),
]


def slowness(row: Row, name: str, ours: str = OURS) -> float:
    """How many times as much as execnet a peer takes."""
    return row.ratio(ours, name) if row.unit.endswith("/s") else row.ratio(name, ours)


def ratio(value: float) -> str:
    """Two digits are enough to compare."""
    return f"{value:.0f} ×" if value >= 9.95 else f"{value:.2g} ×"


def summary(found: dict[str, Result]) -> str:
    """The lines of the summary as a table of ratios."""
    lines = [["", "execnet", BEFORE, "best peer", "the system alone"]]
    for line in SUMMARY:
        row = found[line.benchmark].row(line.row)
        best = line.best_peer(row)
        own = f"{number(row.median(line.ours))} {row.unit}"
        others = [f"{ratio(slowness(row, peer, line.ours))} {peer}" if peer else "" for peer in (best, line.bare)]
        lines.append([line.title, own, ratio(slowness(row, BEFORE, line.ours)), *others])
    return list_table(lines)


# ---- tables ----


def list_table(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as a reStructuredText table; the first line and the first column are heads."""
    text = [".. list-table::", "   :header-rows: 1", "   :stub-columns: 1", ""]
    for line in lines:
        text += [f"   {'*' if not index else ' '} - {cell}".rstrip() for index, cell in enumerate(line)]
    return "\n".join(text) + "\n"


def figures(rows: list[Row]) -> str:
    """The rows as a table, the longer way down."""
    names = harness.columns_of(rows)
    lines = [["", *names]]
    for row in rows:
        cells = [number(row.median(name)) if name in row.samples else "" for name in names]
        lines.append([f"{row.name}, {row.unit}", *cells])
    return list_table(list(zip(*lines)) if len(names) > len(rows) else lines)


MACHINE_WORDS = {"cpus": "{} CPUs", "memory": "{} of memory", "execnet": "execnet {}"}


def machine(found: dict[str, Result]) -> str:
    """What the results were measured on: what most have, and in what the others differ."""
    places: dict[tuple[str, ...], list[str]] = {}
    for name, result in found.items():
        words = (MACHINE_WORDS.get(key, "{}").format(value) for key, value in result.machine.items())
        places.setdefault(tuple(words), []).append(name)
    (most, _), *others = sorted(places.items(), key=lambda place: -len(place[1]))
    differences = [
        f"; {', '.join(names)}: {', '.join(word for word in where if word not in most)}" for where, names in others
    ]
    return f"Measured on {', '.join(most)}{''.join(differences)}.\n"


def goals(found: dict[str, Result]) -> str:
    """Each goal, what was reached, and whether that is enough."""
    lines = [["", "to reach", "reached", ""]]
    for result in found.values():
        for row in result.rows:
            for goal, reached, met in row.verdicts():
                lines.append([f"{row.name}, {row.unit}", str(goal), number(reached), "" if met else "MISSED"])
    return list_table(lines)


def texts(found: dict[str, Result]) -> dict[str, str]:
    """All tables, by the names of their files."""
    tables = {"summary.inc": summary(found), "machine.inc": machine(found), "goals.inc": goals(found)}
    for name, result in found.items():
        tables[f"{name}.inc"] = f"``{result.command}``:\n\n{figures(result.rows)}"
    return tables


def write(files: dict[str, str]) -> None:
    """Write what the documentation includes."""
    for name, text in files.items():
        target = DOC / name
        target.write_text(text, "utf-8")
        print(target)


def main() -> None:
    """Write all tables."""
    write(texts(results()))


if __name__ == "__main__":
    main()
