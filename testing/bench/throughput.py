"""Throughput of large items.

bytes of 1 MiB to another process and from it, in MiB per second. os.pipe's pipes have the size that execnet gives
its own, and its reader reads into one buffer again and again where the others make a new bytes object of each item.
execnet lends large items to the pipe, which its reader copies; without zero copy it writes them as the others do.
"""

from __future__ import annotations

import harness
import links
from harness import Goal, Options, Row

# How fast large blocks of memory come and go differs from process to process, and stays so: several are measured.
GENERATIONS = 5
GOALS = [
    Goal(1.2, "multiprocessing.Pipe", at_least=True),
    Goal(0.8, "os.pipe", at_least=True),
    Goal(1.0, harness.BEFORE, at_least=True, of=harness.PORTABLE),
]


def measure(options: Options) -> list[Row]:
    """All rows."""
    work = {"receive_blocks": "from the worker", "send_blocks": "to the worker"}
    rows = {method: Row(f"1 MiB items {title}", "MiB/s", GOALS) for method, title in work.items()}
    for _ in range(1 if options.quick else GENERATIONS):
        players = [options.player(name) for name in [*links.CARRIERS, harness.COPYING]]
        for method, row in rows.items():
            links.measure_row(options, row, players, method, 2000, lambda seconds, count: count / seconds)
        for player in players:
            player.close()
    return list(rows.values())


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure, links.play, rounds=5, seconds=0.2)
