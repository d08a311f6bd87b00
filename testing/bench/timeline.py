"""What a timeline costs.

Streams of small items, and the CPU time of a test run (of stream.py and testrun.py), with EXECNET_TIMELINE and without.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import harness
import links
import testrun
from harness import OURS, Goal, Options, Player, Row

COUNT = 50_000
STREAMS = {"from the worker, one by one": "receive_items", "to the worker": "send_items"}
ON = "with a timeline"
TO_REACH = {"stream": Goal(1.5, OURS, of=ON), "test run": Goal(1.05, OURS, of=ON)}


def environments(folder: Path) -> dict[str, dict[str, str]]:
    """What each of the two runs with; `{pid}` is for the library."""
    return {OURS: {}, ON: {"EXECNET_TIMELINE": str(folder / "{pid}.json")}}


def streams(options: Options, folder: Path) -> list[Row]:
    """Microseconds for an item."""
    count = COUNT // 10 if options.quick else COUNT
    players = {name: Player(options.file, OURS, environment) for name, environment in environments(folder).items()}

    def sample(player: Player, method: str) -> float:
        return float(player.ask(method, count)) / count * 1e6

    rows = []
    for title, method in STREAMS.items():
        row = Row(f"{COUNT:,} small items {title}".replace(",", " ", 1), "µs", [TO_REACH["stream"]])
        samplers = {name: partial(sample, player, method) for name, player in players.items()}
        rows.append(harness.take_turns(row, samplers, options.rounds))
    for player in players.values():
        player.close()
    return rows


def test_run(options: Options, folder: Path) -> Row:
    """Seconds of CPU of pytest and its workers."""
    tests = testrun.TESTS // 8 if options.quick else testrun.TESTS
    python, suite = testrun.environment_with(OURS), folder / "suite"
    suite.mkdir()
    testrun.write_suite(suite, tests)
    row = Row(f"pytest -n2, {tests} empty tests", "s of CPU", [TO_REACH["test run"]])
    samplers = {
        name: partial(testrun.cpu_seconds, python, suite, environment)
        for name, environment in environments(folder).items()
    }
    for sampler in samplers.values():
        sampler()  # compiles what is to be compiled
    return harness.take_turns(row, samplers, options.rounds)


def measure(options: Options) -> list[Row]:
    """All rows."""
    with tempfile.TemporaryDirectory() as name:
        return [*streams(options, Path(name)), test_run(options, Path(name))]


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure, links.play)
