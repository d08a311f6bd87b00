"""Output of workers.

A million short lines of one local worker, each printed behind ``[gw0]``, beside the same lines of the same program
through a plain pipe into a loop that prints them so; how much memory that takes; and round trips on a channel while the
same worker's standard output is flooded, beside such without. What is printed goes to /dev/null. A thread that prints
takes its worker's GIL and a CPU from the one that answers, wherever the lines go: the least that this takes is measured
by one that writes them to /dev/null itself, and by one that writes them into a plain pipe, which `cat` reads.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import harness
from harness import OURS, Goal, Options, Row
from serving import peak, resident

LINES, ROUND_TRIPS = 1_000_000, 2000
PIPE = "a pipe and a loop"
UNDISTURBED, BY_CHILD, BY_THREAD = "nothing printed", "a child prints", "a thread prints"
TO_NOWHERE, INTO_CAT = "a thread prints to nowhere", "a thread prints into cat"  # execnet carries nothing

PRINTERS = {
    "printed one by one": "for number in range({count}): print('line', number)",
    "written 1000 at a time": """
import os
for start in range(0, {count}, 1000):
    text = b"".join([b"line %d\\n" % number for number in range(start, start + 1000)])
    while text: text = text[os.write(1, text):]
""",
}
PRINTING = """
import subprocess, sys, threading
def print_lines():
    while flooding: print("a line of output", file=into)
into = {into}
flooding = [True]
printing = threading.Thread(target=print_lines)
printing.start()
"""
FLOODS = {
    UNDISTURBED: "",
    BY_CHILD: "import subprocess; flood = subprocess.Popen(['yes', 'a line of output'])",
    **{
        flood: PRINTING.format(into=into)
        for flood, into in {
            BY_THREAD: "sys.stdout",
            TO_NOWHERE: "open('/dev/null', 'w', 1)",
            INTO_CAT: "subprocess.Popen(['cat'], bufsize=1, text=True, stdin=-1, stdout=subprocess.DEVNULL).stdin",
        }.items()
    },
}
ECHO = """
for item in channel: channel.send(item)
if "flood" in globals(): flood.kill(); flood.wait()
if "printing" in globals(): flooding.clear(); printing.join()
"""


def print_through_execnet(printer: str, count: int) -> list[float]:
    """Seconds, and MiB more than before."""
    import execnet

    gateway = execnet.makegateway("popen//stdout=prefix")
    before, began = resident(), time.perf_counter()
    gateway.remote_exec(PRINTERS[printer].format(count=count)).waitclose()
    gateway.exit(wait=60)
    return [time.perf_counter() - began, peak() - before]


def print_through_a_pipe(printer: str, count: int) -> list[float]:
    """The same, of the loop that anyone would write."""
    program = [sys.executable, "-u", "-c", f"input();{START}", PRINTERS[printer].format(count=count)]
    with subprocess.Popen(program, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        time.sleep(0.1)  # its start is not part of it
        before, began = resident(), time.perf_counter()
        process.stdin.write("\n")
        process.stdin.flush()
        for line in process.stdout:
            sys.stdout.write("[gw0] " + line)
        return [time.perf_counter() - began, peak() - before]


START = "import sys;exec(sys.argv[1])"


def round_trip(flood: str, count: int) -> float:
    """Microseconds for one."""
    import execnet

    gateway = execnet.makegateway(f"popen//stdout={'prefix' if flood in (BY_CHILD, BY_THREAD) else 'null'}")
    channel = gateway.remote_exec(FLOODS[flood] + ECHO)
    for item in range(count // 10):
        channel.send(item)
        channel.receive()
    began = time.perf_counter()
    for item in range(count):
        channel.send(item)
        channel.receive()
    seconds = time.perf_counter() - began
    channel.close()
    gateway.exit(wait=5)
    return seconds / count * 1e6


def into_nothing(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, while what is printed goes nowhere: this process's own stdout is for its answers."""

    def called(*arguments: Any) -> Any:
        own = sys.stdout
        with open(os.devnull, "w") as sys.stdout:
            try:
                return function(*arguments)
            finally:
                sys.stdout = own

    return called


def play(name: str) -> None:
    """Be a peer."""
    lines = print_through_a_pipe if name == PIPE else print_through_execnet
    harness.play({"lines": into_nothing(lines), "round trip": into_nothing(round_trip)})


def sampled(options: Options, name: str, method: str, *arguments: object) -> Any:
    """One answer of a fresh peer."""
    player = options.player(name)
    answer = player.ask(method, *arguments)
    player.close()
    return answer


def measure(options: Options) -> list[Row]:
    """All rows."""
    count = LINES // 20 if options.quick else LINES
    rows = []
    for printer in PRINTERS:
        row = Row(f"{count} lines {printer}", "s", [Goal(1.5, PIPE)])
        memory = Row(f"{count} lines {printer}", "MiB more", [Goal(2)])
        for _ in range(options.rounds):
            for name in (OURS, PIPE):
                for figures, figure in zip((row, memory), sampled(options, name, "lines", printer, count)):
                    figures.samples.setdefault(name, []).append(figure)
        rows += [row, memory]
    goals = [Goal(2, UNDISTURBED, of=of) for of in (BY_CHILD, BY_THREAD)]
    goals.append(Goal(1.1, INTO_CAT, of=BY_THREAD))
    trips = Row("round trip while the worker's stdout is flooded", "µs", goals)
    for _ in range(options.rounds):
        for flood in FLOODS:
            figure = sampled(options, OURS, "round trip", flood, ROUND_TRIPS)
            trips.samples.setdefault(flood, []).append(figure)
    return [*rows, trips]


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure, play, rounds=5)
