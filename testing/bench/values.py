"""Values: dumps and loads.

Microseconds of CPU for one call, beside what Python programs use to write and read built-in types. Goal of a row: no
slower than the faster of pickle 5 and msgpack (big ints, which msgpack does not have: than marshal); of all rows: a
geometric mean no slower than marshal's.
"""

from __future__ import annotations

import ast
import marshal
import pickle
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import harness
import reports
from harness import NO_SLOWER, Goal, Options, Player, Row

PICKLE, MARSHAL, MSGPACK = "pickle 5", "marshal", "msgpack"
# Some figures differ from process to process, and stay so within one: several are measured.
GENERATIONS = 5
EXECNETS = [harness.OURS, harness.PORTABLE, harness.BEFORE]
NAMES = [*EXECNETS, PICKLE, MARSHAL, MSGPACK]

REPORT = {
    "nodeid": "testing/acceptance/test_reports.py::TestReports::test_outcome_is_told[linux-3.11]",
    "location": ("testing/acceptance/test_reports.py", 211, "TestReports.test_outcome_is_told[linux-3.11]"),
    "keywords": {
        "test_outcome_is_told[linux-3.11]": 1,
        "parametrize": 1,
        "TestReports": 1,
        "test_reports.py": 1,
        "testing": 1,
    },
    "outcome": "failed",
    "longrepr": {
        "reprcrash": {
            "path": "/home/user/project/testing/test_reports.py",
            "lineno": 214,
            "message": "AssertionError: assert 3 == 4",
        },
        "reprtraceback": {
            "reprentries": [
                {
                    "type": "ReprEntry",
                    "data": {
                        "lines": [
                            "    def test_outcome_is_told(self, outcome):",
                            ">       assert 3 == 4",
                            "E       assert 3 == 4",
                        ],
                        "reprfuncargs": {"args": [["self", "<TestReports object>"], ["outcome", "'failed'"]]},
                        "reprlocals": None,
                        "reprfileloc": {"path": "testing/test_reports.py", "lineno": 214, "message": "AssertionError"},
                        "style": "long",
                    },
                }
            ],
            "extraline": None,
            "style": "long",
        },
        "sections": [],
        "chain": None,
    },
    "when": "call",
    "user_properties": [("worker", "gw0")],
    "sections": [["Captured stdout call", "the outcome is told\n"]],
    "duration": 0.0012340000001131557,
    "start": 1700000000.1234567,
    "stop": 1700000000.1246907,
    "item_index": 17,
    "worker_id": "gw0",
    "testrun_uid": "0b5c3cbe6a5f4a0d9a0e6cf3a4d3b7ab",
}

SCRIPTS = {
    "German": "Größe: fünf Mäuse über Straßen, schön für Bären; ",
    "Russian": "Это предложение на русском языке, написанное для проверки. ",
    "Chinese": "这是一个用来测试编码速度的中文句子没有别的意思。",
    "emoji": "😀🚀🎉🐍🔥💡👍🌍",
    "mixed": "Größe 5 µm, размер 这是 ok 😀 plain text here; ",
}
VALUES: dict[str, Any] = {
    "small int": 42,
    "test report": REPORT,
    "1000 ints": list(range(0, 3_000_000, 3000)),
    "1000 big ints": [2**70 + i * 987654321 for i in range(1000)],
    "1000 floats": [i * 1.1 for i in range(1000)],
    "1000 strings": [f"string number {i}" for i in range(1000)],
    "dict of 1000": {f"key {i}": i for i in range(1000)},
    "nested small": [[i, {"a": [i], "b": (i,)}, [], {}, ()] for i in range(200)],
    "1000 tuples": [(i, str(i), None) for i in range(1000)],
    "1 MB bytes": b"\x5a" * 1_000_000,
    "1 MB ascii text": "abcdefghij" * 100_000,
    "non-ascii text": "Größe: 5 µm, Maß ≤ 7 €; " * 4000,
    "reports of pytest": ast.literal_eval(reports.FILE.read_text("utf-8")),
    "1000 random floats": [random.Random(number).gauss(0, 1e6) for number in range(1000)],
    **{f"20 000 characters, {script}": (text * 20_000)[:20_000] for script, text in SCRIPTS.items()},
    **{
        f"1000 short texts, {script}": [f"{(text * 2)[n % len(text) :][:9]} {n}" for n in range(1000)]
        for script, text in SCRIPTS.items()
    },
}

Codec = tuple[Callable[[Any], bytes], Callable[[bytes], Any]]


def codec(name: str) -> Codec:
    """dumps and loads of a peer."""
    if name == PICKLE:
        return lambda value, dumps=pickle.dumps: dumps(value, 5), pickle.loads
    if name == MARSHAL:
        return marshal.dumps, marshal.loads
    if name == MSGPACK:
        import msgpack

        return (
            msgpack.Packer().pack,
            lambda data, unpackb=msgpack.unpackb: unpackb(data, strict_map_key=False),
        )
    import execnet

    return execnet.dumps, execnet.loads


def play(name: str) -> None:
    """Be a peer."""
    dumps, loads = codec(name)

    def able(row: str) -> bool:
        try:
            dumps(VALUES[row])
        except (OverflowError, ValueError):  # msgpack has no big ints
            return False
        return True

    def sample_dumps(row: str, count: int) -> float:
        return harness.time_of(lambda count: call_often(dumps, VALUES[row], count), count, time.thread_time)

    def sample_loads(row: str, count: int) -> float:
        data = dumps(VALUES[row])
        return harness.time_of(lambda count: call_often(loads, data, count), count, time.thread_time)

    harness.play({"able": able, "dumps": sample_dumps, "loads": sample_loads})


def call_often(function: Callable[[Any], Any], argument: Any, count: int) -> None:
    """Call function(argument) so many times."""
    for _ in range(count):
        function(argument)


def measure_row(options: Options, row: Row, players: dict[str, Player], operation: str, name: str) -> None:
    """Add samples of one operation on one value."""
    samplers: dict[str, Callable[[], float]] = {}
    for player in players.values():
        if player.ask("able", name):
            sample = partial(player.ask, operation, name)
            count = harness.count_for(sample, options.seconds, 10**6)
            samplers[player.name] = partial(microseconds, sample, count)
    harness.take_turns(row, samplers, options.rounds)


def microseconds(sample: Callable[[int], float], count: int) -> float:
    """Of one of so many calls."""
    return sample(count) / count * 1e6


def goals(row: Row) -> list[Goal]:
    """What is to be reached in the row of a value."""
    return [Goal(1.0, MARSHAL if MSGPACK not in row.samples else min((PICKLE, MSGPACK), key=row.median)), NO_SLOWER]


def geometric_mean(operation: str, rows: list[Row]) -> Row:
    """All rows of an operation in one figure: how many times marshal's time."""
    names = [name for name in NAMES if all(name in row.samples for row in rows)]
    means = {
        name: [statistics.geometric_mean(row.median(name) / row.median(MARSHAL) for row in rows)] for name in names
    }
    return Row(f"{operation}: geometric mean", "× marshal", [Goal(1.0), NO_SLOWER], means)


def measure(options: Options) -> list[Row]:
    """All rows of dumps, then of loads."""
    rows = {operation: {name: Row(f"{operation}: {name}", "µs") for name in VALUES} for operation in ("dumps", "loads")}
    for _ in range(1 if options.quick else GENERATIONS):
        players = {name: options.player(name) for name in NAMES}
        for operation, row_of in rows.items():
            for name, row in row_of.items():
                measure_row(options, row, players, operation, name)
        for player in players.values():
            player.close()
    result = []
    for operation, row_of in rows.items():
        for row in row_of.values():
            row.goals = goals(row)
        result += [*row_of.values(), geometric_mean(operation, list(row_of.values()))]
    return result


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure, play, rounds=5, seconds=0.01)
