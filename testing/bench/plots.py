"""Plots for the documentation: each results/NAME.json becomes doc/performance/NAME.svg; summary.svg is of all.

A plot is bars: a group for each row, a bar for each peer, its figure at its end. A page includes it as a part of
itself, so it has the page's font and, in light and in dark, its colours; it is as wide as a telephone, and grows with
the page.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import NamedTuple

from harness import BEFORE, OURS, PORTABLE, Row, number
from tables import SUMMARY, Result, ratio, results, slowness, write

# One colour for each peer in all plots; those that do the same for a start and for values share it.
COLOURS = {
    OURS: "#d55e00",
    PORTABLE: "#e69f00",
    BEFORE: "currentColor",
    "execnet without spinning": "#f0b090",
    "execnet without zero copy": "#f0b090",
    "execnet warm": "#b3367d",
    "execnet ahead": "#a05000",
    "multiprocessing.Pipe": "#2a87c8",
    "multiprocessing spawn": "#2a87c8",
    "multiprocessing forkserver": "#7fbfe8",
    "pickle 5": "#2a87c8",
    "os.pipe": "#009e73",
    "python -c": "#009e73",
    "ssh HOST true": "#009e73",
    "marshal": "#009e73",
    "pyzmq": "#cc79a7",
    "msgpack": "#cc79a7",
    "mitogen": "#a5803a",
    "RPyC": "#8c8c8c",
    "GIL off": "#d55e00",
    "GIL on": "#2a87c8",
}
OTHER_COLOUR = "#8c8c8c"
# Long names, as the column of names has them.
SHORT = {
    "execnet without spinning": "without spinning",
    "execnet without zero copy": "without zero copy",
    "multiprocessing forkserver": "multiprocessing fork",
}
# Of these benchmarks a few rows are drawn, those that end so; the tables have all.
DRAWN = {
    "values": ("geometric mean", "test report"),
    "start": ("after the first", "8 workers", "in a loop", "4 workers over ssh"),
}
NOT_DRAWN = "ratio"  # the unit of rows that compare others

WIDTH, NAMES, BARS = 360, 150, 146  # in units, which are pixels on a telephone; figures are right of the bars
BAR, LINE, TITLE, GAP = 9, 15, 19, 12
OUTLIER = 3.0  # the longest bar is cut where it would be more than this many times as long as the next
SUMMARY_SCALE = 10.0  # so many times what execnet takes
LETTERS = 44  # that fit above a group


class Group(NamedTuple):
    """The bars of one row: what it is, what they count, and each peer's figure with the text for it."""

    title: str
    unit: str
    bars: list[tuple[str, float, str]]


def groups_of(name: str, rows: Iterable[Row]) -> list[Group]:
    """The rows of a benchmark that are drawn."""
    endings = DRAWN.get(name, ("",))
    drawn = [row for row in rows if row.unit != NOT_DRAWN and row.name.endswith(endings)]
    return [
        Group(
            row.name,
            f"{row.unit}, {'more' if row.unit.endswith('/s') else 'less'} is better",
            [(peer, row.median(peer), number(row.median(peer))) for peer in row.samples],
        )
        for row in drawn
    ]


def summary_groups(found: dict[str, Result]) -> list[Group]:
    """Of the summary's lines, execnet 2.1 and the best peer."""
    groups = []
    for line in SUMMARY:
        row = found[line.benchmark].row(line.row)
        best = line.best_peer(row)
        peers = [line.ours, BEFORE, *([best] if best else [])]
        figures = [(peer, slowness(row, peer, line.ours)) for peer in peers]
        groups.append(Group(line.title, "", [(peer, figure, ratio(figure)) for peer, figure in figures]))
    return groups


def longest(figures: Iterable[float]) -> float:
    """The figure that is as long as a bar can be: the largest, or the next one if that is an outlier."""
    following, largest = sorted([0.0, *figures])[-2:]
    return following if 0 < following * OUTLIER < largest else largest


def bar(top: int, name: str, figure: float, text: str, scale: float) -> list[str]:
    """One bar with its name and its figure, as SVG; cut where it is longer than the scale."""
    length = round(BARS * min(figure / scale, 1), 1) if scale else 0
    colour, base = COLOURS.get(name, OTHER_COLOUR), top + BAR
    weight = " strong" if name == OURS else ""
    lines = [
        f'<text class="end{weight}" x="{NAMES}" y="{base}">{escape(SHORT.get(name, name))}</text>',
        f'<rect x="{NAMES + 6}" y="{top}" width="{max(length, 1)}" height="{BAR}" fill="{colour}"/>',
        f'<text class="start" x="{NAMES + length + 11:.1f}" y="{base}">{escape(text)}</text>',
    ]
    if figure > scale:
        cut = NAMES + BARS - 12
        lines.insert(2, f'<path class="cut" d="M{cut} {top + BAR + 2} L{cut + 6} {top - 2}"/>')
    return lines


def plot(name: str, title: str, groups: list[Group], scale: float = 0.0) -> str:
    """The groups, one below the other, as SVG; each with a scale of its own unless there is one for all."""
    lines, top = [], 0
    for group in groups:
        lines.append(f'<text class="start strong" x="0" y="{top + 12}">{escape(group.title)}</text>')
        if len(group.title) + len(group.unit) > LETTERS:
            top += LINE
        lines.append(f'<text class="end note" x="{WIDTH}" y="{top + 12}">{escape(group.unit)}</text>')
        top += TITLE
        for peer, figure, text in group.bars:
            lines += bar(top, peer, figure, text, scale or longest(figure for _, figure, _ in group.bars))
            top += LINE
        top += GAP
    head = [
        f'<svg class="drawing plot" viewBox="0 0 {WIDTH} {top - GAP}" role="img" aria-labelledby="plot-{name}">',
        f'<title id="plot-{name}">{escape(title)}</title>',
    ]
    return "\n".join([*head, *lines, "</svg>", ""])


def texts(found: dict[str, Result]) -> dict[str, str]:
    """All plots, by the names of their files."""
    title = "How many times what execnet takes: execnet 2.1 and the best peer"
    plots = {"summary.svg": plot("summary", title, summary_groups(found), SUMMARY_SCALE)}
    for name, result in found.items():
        plots[f"{name}.svg"] = plot(name, result.title, groups_of(name, result.rows))
    return plots


def main() -> None:
    """Draw all."""
    write(texts(results()))


if __name__ == "__main__":
    main()
