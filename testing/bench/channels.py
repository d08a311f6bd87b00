"""Many open channels.

What a round trip costs on a gateway with 10 000 channels open on both sides, beside one with a single channel,
both processes on one CPU: the ratio of two samples taken one right after the other.
"""

from __future__ import annotations

import os
from functools import partial

import harness
import links
from harness import NO_SLOWER, Goal, Options, Player, Row

COUNT = 10_000


class Gateways:
    """Two gateways, one of them with many channels."""

    def __init__(self) -> None:
        self.one, self.many = links.Execnet(), links.Execnet()
        self.kept: list[object] = []
        cpus = sorted(os.sched_getaffinity(0))
        links.place(cpus[:1], cpus[:1])

    def open(self, count: int) -> None:
        """Open channels on the second gateway, and send them over, so that they are open there, too."""
        self.many.send(("keep", count))
        for _ in range(count):
            self.kept.append(self.many.gateway.newchannel())
            self.many.send(self.kept[-1])
        if self.many.receive() != count:
            raise RuntimeError("not all channels arrived")

    def sample(self, count: int) -> list[float]:
        """Seconds for so many round trips: with one channel, with many."""
        return [self.one.round_trips(count), self.many.round_trips(count)]


def play(name: str) -> None:
    """Be a peer."""
    gateways = Gateways()
    harness.play({"open": gateways.open, "sample": gateways.sample})
    gateways.one.close()
    gateways.many.close()


def seconds_with_one(player: Player, count: int) -> float:
    seconds: float = player.ask("sample", count)[0]
    return seconds


def measure(options: Options) -> list[Row]:
    """All rows."""
    names = [harness.OURS, harness.PORTABLE, harness.BEFORE]
    players = [options.player(name) for name in names]
    rows = [
        Row("round trip with 1 open channel", "µs", [NO_SLOWER]),
        Row(f"round trip with {COUNT} open channels", "µs", [NO_SLOWER]),
        Row("the second by the first", "ratio", [Goal(1.05)]),
    ]
    for row in rows:
        row.samples = {name: [] for name in names}
    for player in players:
        player.ask("open", COUNT)
    counts = [harness.count_for(partial(seconds_with_one, player), options.seconds, 10**6) for player in players]
    for _ in range(options.rounds):
        for player, count in zip(players, counts):
            one, many = player.ask("sample", count)
            for row, figure in zip(rows, (one / count * 1e6, many / count * 1e6, many / one)):
                row.samples[player.name].append(figure)
    for player in players:
        player.close()
    return rows


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure, play, rounds=21, seconds=0.05)
