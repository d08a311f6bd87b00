"""Benchmark of values: dumps and loads of ours beside pickle 5, marshal, msgpack and execnet 2.1.2.

All run in this one process, alternating, except execnet 2.1.2, which is asked in turn in a process of its own
(``--oracle FOLDER``, a folder with it installed). Each figure is the median over the rounds of the time of one call.
Goal of a row: no slower than the faster of pickle and msgpack (big ints, which msgpack does not have: than marshal);
of all rows: a geometric mean no slower than marshal's.
"""

from __future__ import annotations

import argparse
import json
import marshal
import os
import pickle
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

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
}

Codec = tuple[Callable[[Any], bytes], Callable[[bytes], Any]]


def codecs() -> dict[str, Codec]:
    """Name -> (dumps, loads) of all that run in this process."""
    import msgpack

    from execnet import gateway_base

    return {
        "execnet": (gateway_base.dumps, gateway_base.loads),
        "pickle": (lambda value, dumps=pickle.dumps: dumps(value, 5), pickle.loads),
        "marshal": (marshal.dumps, marshal.loads),
        "msgpack": (msgpack.Packer().pack, lambda data, unpackb=msgpack.unpackb: unpackb(data, strict_map_key=False)),
    }


def calls_for(function: Callable[[Any], Any], argument: Any, seconds: float) -> int:
    """How many calls take about so many seconds."""
    count = 1
    while True:
        took = time_of(function, argument, count)
        if took > seconds / 4:
            return max(1, int(count * seconds / took))
        count *= 4


def time_of(function: Callable[[Any], Any], argument: Any, count: int) -> float:
    """Seconds for that many calls."""
    rounds = range(count)
    start = time.perf_counter()
    for _ in rounds:
        function(argument)
    return time.perf_counter() - start


class Local:
    """Times calls in this process."""

    def __init__(self, codec: Codec) -> None:
        self.dumps, self.loads = codec

    def prepare(self, row: str, seconds: float) -> bool:
        """Choose the numbers of calls; False where this codec has no form for the value."""
        self.value = VALUES[row]
        try:
            self.data = self.dumps(self.value)
        except (OverflowError, ValueError):
            return False
        self.dumps_calls = calls_for(self.dumps, self.value, seconds)
        self.loads_calls = calls_for(self.loads, self.data, seconds)
        return True

    def measure(self) -> tuple[float, float]:
        """Seconds per call of dumps and of loads."""
        dumps = time_of(self.dumps, self.value, self.dumps_calls) / self.dumps_calls
        return dumps, time_of(self.loads, self.data, self.loads_calls) / self.loads_calls


class Far:
    """Times calls of execnet 2.1.2 in its own process: this file, run there with --answer."""

    def __init__(self, folder: str) -> None:
        environment = {**os.environ, "PYTHONPATH": folder}
        command = [sys.executable, os.path.abspath(__file__), "--answer"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=folder, text=True
        )

    def ask(self, *request: object) -> Any:
        """Send one request, give the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def prepare(self, row: str, seconds: float) -> bool:
        """As Local.prepare."""
        return bool(self.ask("prepare", row, seconds))

    def measure(self) -> tuple[float, float]:
        """As Local.measure."""
        dumps, loads = self.ask("measure")
        return dumps, loads

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=10)


def answer() -> None:
    """Be the other end of Far."""
    import execnet

    local = Local((execnet.dumps, execnet.loads))
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        print(json.dumps(getattr(local, method)(*arguments)), flush=True)


def measure_row(row: str, peers: dict[str, Local | Far], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Name -> median seconds of [dumps, loads]."""
    able = {name: peer for name, peer in peers.items() if peer.prepare(row, seconds)}
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in able}
    for _ in range(rounds):
        for name, peer in able.items():
            samples[name].append(peer.measure())
    return {name: [statistics.median(column) for column in zip(*taken)] for name, taken in samples.items()}


def goal_of(figures: dict[str, list[float]], which: int) -> float:
    """The seconds that ours should not exceed."""
    if "msgpack" not in figures:
        return figures["marshal"][which]
    return min(figures["pickle"][which], figures["msgpack"][which])


def show(results: dict[str, dict[str, list[float]]]) -> None:
    """Print the tables: microseconds of each, and ours as a ratio to the goal."""
    names = list(next(iter(results.values())))
    for which, operation in enumerate(("dumps", "loads")):
        columns = "".join(f"{name:>12}" for name in names)
        print(f"\n{operation:<18}{columns}{'to goal':>9}{'to marshal':>12}   (µs; below 1: ours is faster)")
        for row, figures in results.items():
            cells = "".join(
                f"{figures[name][which] * 1e6:12.2f}" if name in figures else f"{'-':>12}" for name in names
            )
            ours = figures["execnet"][which]
            print(f"{row:<18}{cells}{ours / goal_of(figures, which):9.2f}{ours / figures['marshal'][which]:12.2f}")
        ratios = [figures["execnet"][which] / figures["marshal"][which] for figures in results.values()]
        print(f"geometric mean to marshal: {statistics.geometric_mean(ratios):.2f}")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument(
        "--oracle", metavar="FOLDER", help="where execnet 2.1.2 is installed; without it, it is left out"
    )
    parser.add_argument("--rounds", type=int, default=7, help="samples of each figure (default: 7)")
    parser.add_argument("--seconds", type=float, default=0.02, help="length of a sample (default: 0.02)")
    parser.add_argument("--row", action="append", choices=VALUES, help="only this row (can be repeated)")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        answer()
        return
    from execnet import gateway_base

    far = Far(options.oracle) if options.oracle else None
    peers: dict[str, Local | Far] = {name: Local(codec) for name, codec in codecs().items()}
    if far is not None:
        peers["execnet 2.1"] = far
    results = {row: measure_row(row, peers, options.rounds, options.seconds) for row in options.row or VALUES}
    if far is not None:
        far.close()
    print(f"{platform.python_implementation()} {platform.python_version()}, core: {gateway_base.core}")
    show(results)
    if options.json:
        about = {"python": platform.python_version(), "core": gateway_base.core, "rounds": options.rounds}
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"benchmark": "values", **about, "seconds": results}, file, indent=1)


if __name__ == "__main__":
    main()
