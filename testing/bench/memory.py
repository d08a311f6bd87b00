"""Memory for one item of 256 MiB.

How far the peak of a process's memory is above what it has anyway: the sender has the item already, the
receiver gets one. Each sample is taken in fresh processes.
"""

from __future__ import annotations

import harness
import links
from harness import NO_SLOWER, Goal, Options, Row
from serving import MIB, peak, resident

SIZE = 256
ENDS = [f"from the {who}, {end}" for who in ("initiator", "worker") for end in ("sender", "receiver")]


def send_large(link: links.Link, size: int) -> list[float]:
    """MiB above the item: of this process, which sends it, and of the other one, which receives it."""
    link.send(("receive large", size))
    link.receive()
    item = b"\x5a" * (size * MIB)
    before = resident()
    link.send(item)
    far = link.receive()
    return [peak() - before, far]


def receive_large(link: links.Link, size: int) -> list[float]:
    """MiB above the item: of the other process, which sends it, and of this one, which receives it."""
    before = resident()
    link.send(("send large", size))
    item = link.receive()
    near = peak() - before - len(item) / MIB
    link.send("received")
    return [link.receive(), near]


def play(name: str) -> None:
    """Be a peer."""
    link = links.LINKS[name]()
    harness.play({"send": lambda size: send_large(link, size), "receive": lambda size: receive_large(link, size)})
    link.close()


def measure(options: Options) -> list[Row]:
    """All rows."""
    size = SIZE // 8 if options.quick else SIZE
    rows = [Row(f"an item of {size} MiB {end}", "MiB more", [Goal(2), NO_SLOWER]) for end in ENDS]
    for _ in range(options.rounds):
        for name in links.CARRIERS:
            if name == "os.pipe":
                continue  # it knows of no items
            figures = []
            for method in ("send", "receive"):
                player = options.player(name)
                figures += player.ask(method, size)
                player.close()
            for row, figure in zip(rows, figures):
                row.samples.setdefault(name, []).append(figure)
    return rows


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure, play, rounds=5)
