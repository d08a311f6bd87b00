"""Streams of small items.

50 000 times the number 42 from another process (received one by one, and by a callback) and to it. Figures per
item, both processes wherever the system puts them.
"""

from __future__ import annotations

import harness
import links
from harness import NO_SLOWER, Goal, Options, Row

COUNT = 50_000
WORK = [
    ("from the worker, one by one", "receive_items", links.CARRIERS, Goal(0.35, "multiprocessing.Pipe")),
    (
        "from the worker, by callback",
        "receive_items_by_callback",
        links.CARRIERS[:3],
        Goal(0.35, "multiprocessing.Pipe"),
    ),
    ("to the worker", "send_items", links.CARRIERS, Goal(0.5, "multiprocessing.Pipe")),
]


def measure(options: Options) -> list[Row]:
    """All rows."""
    count = COUNT // 10 if options.quick else COUNT
    players = {name: options.player(name) for name in links.CARRIERS}
    rows = []
    for title, method, names, goal in WORK:
        row = Row(f"{COUNT:,} small items {title}".replace(",", " ", 1), "µs", [goal, NO_SLOWER])
        # Who has no callbacks receives one by one, for comparison.
        samplers = {
            name: lambda player=player, method=method if name in names else "receive_items": (
                player.ask(method, count) / count * 1e6
            )
            for name, player in players.items()
        }
        rows.append(harness.take_turns(row, samplers, options.rounds))
    for player in players.values():
        player.close()
    return rows


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure, links.play)
