"""Threads.

Threads of one program, each of which dumps and loads values, sends them and receives them back: over a gateway for
each, and over one gateway for all, whose worker answers by callbacks, or by a task for each. To be run by a
free-threaded Python: measured with its GIL off, and on. The far sides send back bytes, so most work is done here.
"""

from __future__ import annotations

import sys
import threading
import time
from functools import partial

import harness
from harness import Goal, Options, Player, Row

import execnet

GIL_OFF, GIL_ON = "GIL off", "GIL on"
SETTINGS = {GIL_OFF: "0", GIL_ON: "1"}
THREADS = [1, 2, 4]
TO_REACH = {2: [Goal(0.6, GIL_ON, of=GIL_OFF)]}
VALUE = [{"name": f"item {number}", "size": number, "tags": ("a", "b"), "ratio": number / 7} for number in range(200)]
BY_TASKS = "for item in channel: channel.send(item)"
BY_CALLBACKS = "channel.setcallback(channel.send); channel.waitclose()"
PLACES = {
    "over gateways of their own": (True, BY_TASKS),
    "over one gateway, by callbacks": (False, BY_CALLBACKS),
    "over one gateway, by tasks": (False, BY_TASKS),
}
SECONDS = 60.0


class Work:
    """The work of so many threads in one of the places."""

    def __init__(self, threads: int, place: str) -> None:
        own, echo = PLACES[place]
        self.group = execnet.Group()
        gateways = [self.group.makegateway() for _ in range(threads if own else 1)]
        self.channels = [gateways[number % len(gateways)].remote_exec(echo) for number in range(threads)]

    def microseconds(self, count: int) -> float:
        """For one value, where each thread has so many."""
        workers = [threading.Thread(target=self._work, args=(channel, count)) for channel in self.channels]
        began = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return (time.perf_counter() - began) / (count * len(workers)) * 1e6

    @staticmethod
    def _work(channel: execnet.Channel, count: int) -> None:
        value = execnet.loads(execnet.dumps(VALUE))  # its own
        for _ in range(count):
            channel.send(execnet.dumps(value))
            execnet.loads(channel.receive(SECONDS))


def sample(threads: int, place: str, count: int) -> float:
    """Microseconds for a value, over fresh gateways."""
    work = Work(threads, place)
    work.microseconds(count // 10 + 1)
    figure = work.microseconds(count)
    work.group.terminate(SECONDS)
    return figure


def play(name: str) -> None:
    """Be a peer."""
    harness.play({"sample": sample, "has_gil": getattr(sys, "_is_gil_enabled", lambda: True)})


def sampled(player: Player, *arguments: object) -> float:
    figure: float = player.ask("sample", *arguments)
    return figure


def measure(options: Options) -> list[Row]:
    """All rows."""
    players = [Player(options.file, name, {"PYTHON_GIL": setting}) for name, setting in SETTINGS.items()]
    if [player.ask("has_gil") for player in players] != [False, True]:
        raise SystemExit("needs a free-threaded Python, whose GIL stays off when execnet is imported")
    count = max(10, int(options.seconds * 2000))
    rows = []
    for place in PLACES:
        for threads in THREADS:
            row = Row(f"{threads} thread{'s' * (threads > 1)} {place}", "µs", TO_REACH.get(threads, []))
            samplers = {player.name: partial(sampled, player, threads, place, count) for player in players}
            rows.append(harness.take_turns(row, samplers, options.rounds))
    for player in players:
        player.close()
    return rows


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure, play, rounds=7)
