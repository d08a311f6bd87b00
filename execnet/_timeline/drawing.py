"""A timeline as a drawing that does not move: SVG, for a page of documentation."""

from __future__ import annotations

import html
import re

from execnet._timeline.page import KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

WIDTH, GUTTER, ROW, TOP = 860, 150, 26, 24
#: The least width that is drawn, and what of the height of a row each kind has.
LEAST = 0.6
HEIGHTS = {"start": (0.12, 0.88), "task": (0.12, 0.88), "end": (0.0, 1.0), "callback": (0.2, 0.8)}
MOST_ARROWS = 400
# Where the system's colors are light, and where they are dark.
COLORS = {
    "back": ("#fff", "#14181e"),
    "text": ("#1c2430", "#e4e8ee"),
    "quiet": ("#66707d", "#98a2af"),
    "grid": ("#e3e6ea", "#2a313b"),
    "start": ("#c9cfd8", "#46505e"),
    "task": ("#bcd7f5", "#27507f"),
    "send": ("#d9730d", "#f09a4a"),
    "receive": ("#2e8b57", "#55c288"),
    "wait": ("#e8d9a0", "#5d5330"),
    "callback": ("#7a52c7", "#a98bf0"),
    "arrive": ("#5fb389", "#3f8f69"),
    "end": ("#1c2430", "#e4e8ee"),
    "other": ("#888", "#888"),
}
NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
STYLE = (
    "text { font: 11px system-ui, sans-serif; } .line { stroke-width: 0.8; marker-end: url(#head); } "
    "text, rect, path { stroke: none !important; }"
)


def drawing(data: dict[str, Any]) -> str:
    """The SVG of what a `Picture` has; its slices and arrows that are too small to be seen are left out."""
    return "\n".join(_lines(data)) + "\n"


def _lines(data: dict[str, Any]) -> Iterator[str]:
    rows: list[dict[str, Any]] = data["rows"]
    end = data["end"] * 1.01 or 1.0
    height = TOP + ROW * len(rows) + 4

    def place(microseconds: float) -> float:
        return round(GUTTER + microseconds / end * (WIDTH - GUTTER), 1)

    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
    names = ", ".join(_first_word(row["process"]) for row in rows if row["first"] and row["process"])
    yield f"<title>What {_shown(names)} did when</title><style>{_style()}</style>"
    yield '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
    yield '<path class="quiet" d="M0 0 L8 4 L0 8 Z"/></marker></defs>'
    yield f'<rect class="back" width="{WIDTH}" height="{height}"/>'
    step = _step(end / 8)
    for part in range(int(end / step) + 1):
        time = part * step
        yield f'<line class="grid" x1="{place(time)}" x2="{place(time)}" y1="{TOP - 4}" y2="{height}"/>'
        yield f'<text class="quiet" x="{place(time) + 3}" y="14">{time / 1e6:g} s</text>'
    for index, row in enumerate(rows):
        y = TOP + index * ROW
        if row["first"]:
            yield f'<line class="grid" x1="0" x2="{WIDTH}" y1="{y}" y2="{y}"/>'
        name = f"{_first_word(row['process'])}  {row['thread']}" if row["first"] and row["process"] else row["thread"]
        yield f'<text class="{"text" if row["first"] else "quiet"}" x="8" y="{y + 17}">{_shown(name)}</text>'
        yield from _row(data["slices"][index], data["texts"], y, place)
    shown = dict.fromkeys((source, place(at), target, place(then)) for source, at, target, then in data["arrows"])
    for source, x, target, x2 in list(shown)[:MOST_ARROWS]:
        y, y2 = (TOP + (row + 0.5) * ROW for row in (source, target))
        yield f'<line class="quiet line" x1="{x}" y1="{y}" x2="{x2}" y2="{y2}"/>'
    yield "</svg>"


def _first_word(text: str) -> str:
    return text.partition(" ")[0]


def _shown(text: str) -> str:
    """As text of XML, which knows no control characters."""
    return html.escape(NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", text))


def _step(least: float) -> float:
    """A round number that is at least this."""
    power = 10.0 ** (len(str(int(least))) - 1)
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)


def _style() -> str:
    schemes = [
        "".join(f".{name}{{fill:{both[index]};stroke:{both[index]}}}" for name, both in COLORS.items())
        for index in (0, 1)
    ]
    return f"{STYLE} {schemes[0]} @media (prefers-color-scheme: dark) {{{schemes[1]}}}"


def _row(slices: list[list[float]], texts: list[str], y: float, place: Any) -> Iterator[str]:
    drawn = dict.fromkeys(KINDS, 0.0)
    labels = []
    for begun, duration, number, text, *_ in slices:
        kind = KINDS[int(number)]
        left, right = place(begun), place(begun + duration)
        if right < drawn[kind] + LEAST:
            continue
        drawn[kind] = right
        top, bottom = HEIGHTS.get(kind, (0.32, 0.68))
        gap = 0.8 if kind in ("start", "task") else 0
        wide = max(right - left - gap, 1.5 if kind == "end" else LEAST)
        yield (
            f'<rect class="{kind}" x="{left}" y="{y + top * ROW:.1f}" width="{wide:.1f}" '
            f'height="{(bottom - top) * ROW:.1f}"/>'
        )
        name = texts[int(text)]
        if kind in ("start", "task") and wide > 6 * len(name) + 8:
            labels.append(f'<text class="text" x="{left + 4}" y="{y + 17}">{_shown(name)}</text>')
    yield from labels
