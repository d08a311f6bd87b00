"""Round trips of a small item.

The number 42 goes to another process and comes back, one after another: both processes on one CPU, and each on
a CPU of its own. A thread of execnet that waits looks for input for up to 50 µs before it sleeps; without spinning
(EXECNET_SPIN=0) it sleeps at once, as the others do. The pipe carries as many bytes as execnet does, but no
values; mitogen and RPyC call a function over there.
"""

from __future__ import annotations

import os

import harness
import links
from harness import NO_SLOWER, Goal, Options, Row

GOALS = {
    "on one CPU": [Goal(0.6, "multiprocessing.Pipe"), Goal(2.5, "os.pipe"), NO_SLOWER],
    "on two CPUs": [Goal(1.0, "multiprocessing.Pipe"), NO_SLOWER],
}


def measure(options: Options) -> list[Row]:
    """All rows."""
    cpus = sorted(os.sched_getaffinity(0))
    placements = {"on one CPU": (cpus[:1], cpus[:1]), "on two CPUs": (cpus[:1], cpus[1:2] or cpus[:1])}
    players = [options.player(name) for name in links.LINKS if name != harness.COPYING]
    rows = []
    for placement, (near, far) in placements.items():
        for player in players:
            player.ask("place", near, far)
        row = Row(f"round trip {placement}", "µs", GOALS[placement])
        rows.append(
            links.measure_row(
                options, row, players, "round_trips", 100_000, lambda seconds, count: seconds / count * 1e6
            )
        )
    for player in players:
        player.close()
    return rows


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure, links.play)
