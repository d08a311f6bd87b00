"""Plots for the documentation: each results/NAME.json becomes doc/performance/NAME.svg.

A row is a line, a peer a dot on it: how many times what execnet takes (to the right: slower). Memory is shown in
MiB.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import harness
import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from harness import OURS, Row
from matplotlib.axes import Axes
from tables import DOC, RESULTS

COLOURS = {
    OURS: "#d55e00",
    harness.PORTABLE: "#e69f00",
    harness.BEFORE: "#000000",
    harness.SPINLESS: "#f0b090",
    harness.COPYING: "#f0b090",
    "execnet warm": "#a00000",
    "execnet ahead": "#a05000",
    "multiprocessing.Pipe": "#0072b2",
    "multiprocessing spawn": "#0072b2",
    "multiprocessing forkserver": "#56b4e9",
    "os.pipe": "#009e73",
    "python -c": "#009e73",
    "ssh HOST true": "#009e73",
    "pyzmq": "#cc79a7",
    "mitogen": "#8c6d31",
    "RPyC": "#999999",
    "pickle 5": "#0072b2",
    "marshal": "#009e73",
    "msgpack": "#cc79a7",
}
SUMMARY_UNITS = ("ratio", "× marshal")
LINE_INCHES, OTHER_INCHES, WIDTH_INCHES = 0.32, 1.3, 9


def slowness(row: Row, name: str) -> float:
    """How many times as slow as execnet a peer is."""
    ratio = row.median(name) / row.median(OURS)
    return 1 / ratio if row.unit.endswith("/s") else ratio


def draw(axes: Axes, rows: list[Row], absolute: bool) -> None:
    """Draw the rows from top to bottom."""
    for name in harness.columns_of(rows):
        lines = [line for line, row in enumerate(rows) if name in row.samples]
        figures = [rows[line].median(name) if absolute else slowness(rows[line], name) for line in lines]
        axes.plot(
            figures,
            lines,
            linestyle="",
            marker="o",
            markersize=9 if name == OURS else 6,
            color=COLOURS[name],
            label=name,
        )
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="both", alpha=0.3)
    if absolute:
        axes.set_xlabel(rows[0].unit)
    else:
        axes.set_xscale("log")
        axes.axvline(1, color=COLOURS[OURS], linewidth=1)
        axes.set_xlabel("times what execnet takes (to the right: slower)")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def plot(path: Path) -> Path:
    """Draw one result."""
    result = json.loads(path.read_text())
    rows = [row for row in harness.from_json(result) if row.unit not in SUMMARY_UNITS]
    figure, axes = plt.subplots(figsize=(WIDTH_INCHES, OTHER_INCHES + LINE_INCHES * len(rows)))
    draw(axes, rows, absolute=path.stem == "memory")
    axes.set_title(result["title"])
    target = DOC / f"{path.stem}.svg"
    # Without a date and with fixed names inside, the same figures give the same file.
    figure.savefig(target, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return target


def main() -> None:
    """Draw all."""
    matplotlib.rcParams.update({"svg.hashsalt": "execnet", "font.size": 9})
    for path in sorted(RESULTS.glob("*.json")):
        print(plot(path))


if __name__ == "__main__":
    sys.exit(main())
