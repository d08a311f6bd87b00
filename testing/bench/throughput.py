"""Throughput of large items.

bytes of 1 MiB to another process and from it, in MiB per second. os.pipe's pipes have the size that execnet gives
its own, and its reader reads into one buffer again and again where the others make a new bytes object of each item.
"""

from __future__ import annotations

import harness
import links
from harness import Goal, Options, Row

GOALS = [
    Goal(1.2, "multiprocessing.Pipe", at_least=True),
    Goal(0.8, "os.pipe", at_least=True),
    Goal(1.0, harness.BEFORE, at_least=True, of=harness.PORTABLE),
]


def measure(options: Options) -> list[Row]:
    """All rows."""
    players = [options.player(name) for name in links.CARRIERS]
    rows = []
    for title, method in (("from the worker", "receive_blocks"), ("to the worker", "send_blocks")):
        row = Row(f"1 MiB items {title}", "MiB/s", GOALS)
        rows.append(links.measure_row(options, row, players, method, 2000, lambda seconds, count: count / seconds))
    for player in players:
        player.close()
    return rows


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure, links.play, seconds=0.2)
