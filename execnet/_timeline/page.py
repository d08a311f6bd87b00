"""One page that shows a timeline, whole in itself: `page.html` with the data put in."""

from __future__ import annotations

import html
import json
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from execnet._timeline.summary import Gateway
    from execnet._timeline.trace import Event

# As the page numbers them.
KINDS = ("start", "task", "send", "receive", "wait", "callback", "arrive", "end", "other")


def page(events: Iterable[Event], found: Iterable[Gateway]) -> str:
    """The page, as text."""
    loader: Any = __spec__.loader
    template: str = loader.get_data(__file__.replace("page.py", "page.html")).decode()
    data = json.dumps(Picture(events).data(), separators=(",", ":")).replace("<", "\\u003c")
    before, between, after = re.split("{table}|{data}", template)  # not in what is put in
    return "".join((before, _table(found), between, data, after))


class Picture:
    """What is drawn: rows of slices, and arrows between rows; texts are kept once, and times are microseconds."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._texts: dict[str, int] = {}
        self._processes: dict[int, str] = {}
        self._threads: dict[tuple[int, int], str] = {}
        self._slices: dict[tuple[int, int], list[list[float]]] = {}
        self._open: dict[tuple[int, int], list[Event]] = {}
        self._sent: dict[str, tuple[tuple[int, int], float]] = {}
        self._arrows: list[tuple[tuple[int, int], float, tuple[int, int], float]] = []
        self._last = 0.0
        for event in sorted(events, key=lambda event: event.get("ts", -1.0)):
            getattr(self, f"_add_{event['ph']}", lambda event: None)(event)
        for left in self._open.values():
            for event in left:
                self._add(event, self._last - event["ts"], f"{event['name']} (not ended)")

    def data(self) -> dict[str, Any]:
        """For the page: names of rows, slices row by row, arrows, texts."""
        keys = sorted(self._slices)
        rows = [{"process": self._processes.get(key[0], ""), "thread": self._threads.get(key, "")} for key in keys]
        places = {key: index for index, key in enumerate(keys)}
        for index, (process, _) in enumerate(keys):
            rows[index]["first"] = not index or keys[index - 1][0] != process  # type: ignore[assignment]
        slices = [sorted(self._slices[key], key=lambda one: (one[0], -one[1])) for key in keys]
        arrows = [[places[a], at, places[b], then] for a, at, b, then in self._arrows if a in places and b in places]
        return {"end": self._last, "rows": rows, "slices": slices, "arrows": arrows, "texts": list(self._texts)}

    def _row(self, event: Event) -> tuple[int, int]:
        # A start has the row of the worker's first thread, which begins when it is over.
        return event["pid"], max(event["tid"], 1) if event["pid"] != 1 else event["tid"]

    def _add(self, event: Event, duration: float, name: str) -> None:
        args = event.get("args", {})
        kind = event.get("cat", "other")
        text = args.get("gateway") or args.get("text") or args.get("error") or ""
        one = [
            event["ts"],
            round(duration, 1),
            KINDS.index(kind) if kind in KINDS else len(KINDS) - 1,
            self._text(name),
            args.get("channel", 0),
            args.get("items", 0),
            args.get("bytes", 0),
            args.get("waited", 0),
            self._text(text),
        ]
        self._slices.setdefault(self._row(event), []).append(one)
        self._last = max(self._last, event["ts"] + duration)

    def _text(self, text: str) -> int:
        return self._texts.setdefault(text, len(self._texts))

    def _add_M(self, event: Event) -> None:
        name = event.get("args", {}).get("name", "")
        if event["name"] == "process_name":
            self._processes[event["pid"]] = name
        elif event["name"] == "thread_name" and event["tid"]:
            self._threads[event["pid"], event["tid"]] = name

    def _add_X(self, event: Event) -> None:
        if event["name"] == "start" and not event["args"].get("error"):
            return  # its phases are there
        self._add(event, event["dur"], event["name"])

    def _add_i(self, event: Event) -> None:
        self._add(event, 0.0, event["name"])

    def _add_B(self, event: Event) -> None:
        self._open.setdefault(self._row(event), []).append(event)
        self._last = max(self._last, event["ts"])

    def _add_E(self, event: Event) -> None:
        began = self._open.get(self._row(event), [])
        if began:
            begin = began.pop()
            left = " (not ended)" if event.get("args", {}).get("unfinished") else ""
            self._add(begin, event["ts"] - begin["ts"], begin["name"] + left)

    def _add_s(self, event: Event) -> None:
        self._sent[event["id"]] = self._row(event), event["ts"]

    def _add_f(self, event: Event) -> None:
        sent = self._sent.pop(event["id"], None)
        if sent is not None:
            self._arrows.append((*sent, self._row(event), event["ts"]))


def _table(found: Iterable[Gateway]) -> str:
    from execnet._timeline.summary import COLUMNS

    rows = ["".join(f"<th>{name}</th>" for name in COLUMNS)]
    rows += ["".join(f"<td>{html.escape(cell)}</td>" for cell in gateway.row()) for gateway in found]
    return "\n".join(f"<tr>{row}</tr>" for row in rows)
