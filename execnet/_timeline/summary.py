"""Where the time of each gateway went, from the events of a timeline: a table."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from execnet._timeline.trace import Event

INITIATOR = 1
COLUMNS = ("gateway", "starting", "working", "waiting", "idle", "tasks", "items in", "items out", "end")


class Gateway:
    """What a timeline tells of one gateway; times in microseconds."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.begun: float | None = None
        self.last = 0.0
        self.starting = self.working = self.waiting = 0.0
        self.tasks = self.received = self.sent = 0
        #: "ended", "died", or nothing where the timeline ends before.
        self.end = ""
        # Steps of how many tasks run, and of how many threads wait within them: (when, tasks, threads).
        self._steps: list[tuple[float, int, int]] = []
        self._running: dict[int, int] = {}

    def add(self, event: Event) -> None:
        """Take an event of its process into account, in their order in time."""
        at, kind = event["ts"], event.get("cat")
        self.begun = at if self.begun is None else self.begun
        self.last = max(self.last, at + event.get("dur", 0.0))
        if kind == "task":
            self._add_task(event["ph"], at, event["tid"])
        elif kind == "start" and event["name"] == "start":
            self.starting += event["dur"]
        elif kind == "end" and event["name"] != "told to exit":
            self.end = event["name"]
        elif event["ph"] == "X":
            self._add_items(kind, at, event)

    def _add_task(self, phase: str, at: float, row: int) -> None:
        step = 1 if phase == "B" else -1
        self.tasks += phase == "B"
        self._running[row] = self._running.get(row, 0) + step
        self._steps.append((at, step, 0))

    def _add_items(self, kind: str | None, at: float, event: Event) -> None:
        args: dict[str, Any] = event.get("args", {})
        waited = args.get("waited", 0.0)
        if kind == "send":
            self.sent += args["items"]
        elif "bytes" in args:  # not so of an item that has arrived before it was received
            self.received += args["items"]
        if waited and self._running.get(event["tid"]):
            self._steps += [(at, 0, 1), (at + waited, 0, -1)]

    def finish(self, last: float) -> None:
        """Share out the time until its end, or that of the timeline."""
        self.last = self.last if self.end else max(self.last, last)
        tasks = threads = 0
        before = 0.0
        for at, task, thread in [*sorted(self._steps), (self.last, 0, 0)]:
            if tasks > threads:
                self.working += at - before
            elif tasks > 0:
                self.waiting += at - before
            tasks, threads, before = tasks + task, threads + thread, at

    @property
    def idle(self) -> float:
        """What is left."""
        whole = self.last - (self.begun or 0.0)
        return max(whole - self.starting - self.working - self.waiting, 0.0)

    def row(self) -> tuple[str, ...]:
        times = [f"{microseconds / 1e6:.3f}" for microseconds in (self.starting, self.working, self.waiting, self.idle)]
        counts = [str(count) for count in (self.tasks, self.received, self.sent)]
        return (self.name, *times, *counts, self.end or "-")


def gateways(events: Iterable[Event]) -> list[Gateway]:
    """What the events tell of each gateway, in the order of their starts."""
    found: dict[int, Gateway] = {}
    last = 0.0
    for event in sorted(events, key=lambda event: event.get("ts", -1.0)):
        process = event["pid"]
        if process != INITIATOR and event["ph"] == "M" and event["name"] == "process_name":
            name = event.get("args", {}).get("name", "").partition(" ")[0]
            found.setdefault(process, Gateway(name))
        elif "ts" in event and event["ph"] != "M":
            last = max(last, event["ts"] + event.get("dur", 0.0))
            if process in found:
                found[process].add(event)
    for gateway in found.values():
        gateway.finish(last)
    return list(found.values())


def table(found: Iterable[Gateway]) -> str:
    """The gateways as lines of a table; times in seconds."""
    rows = [COLUMNS, *(gateway.row() for gateway in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"
