"""Tables for the documentation: each results/NAME.json becomes doc/performance/NAME.inc, for doc/performance.rst."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import harness
from harness import Row

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
DOC = HERE.parents[1] / "doc" / "performance"


def list_table(rows: list[Row]) -> str:
    """The rows as a reStructuredText table."""
    names = harness.columns_of(rows)
    lines = [["", *names, "to reach: reached"], *(harness.cells_of(row, names) for row in rows)]
    text = [".. list-table::", "   :header-rows: 1", "   :stub-columns: 1", ""]
    for line in lines:
        text += [f"   {'*' if not index else ' '} - {cell}".rstrip() for index, cell in enumerate(line)]
    return "\n".join(text)


def section(result: dict[str, object]) -> str:
    """A result as text to include: how it was measured, and the table."""
    about = result["machine"]
    assert isinstance(about, dict)
    where = ", ".join(f"{key}: {value}" for key, value in about.items())
    return f"``{result['command']}`` ({where})\n\n{list_table(harness.from_json(result))}\n"


def main() -> None:
    """Write all tables."""
    DOC.mkdir(exist_ok=True)
    for path in sorted(RESULTS.glob("*.json")):
        target = DOC / f"{path.stem}.inc"
        target.write_text(section(json.loads(path.read_text())))
        print(target)


if __name__ == "__main__":
    sys.exit(main())
