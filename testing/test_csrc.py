"""The order of the C core's files: each includes only what is below it."""

from __future__ import annotations

import graphlib
import re
from pathlib import Path

CSRC = Path(__file__).resolve().parents[1] / "csrc"
INCLUDE = re.compile(r'^#include "(\w+)\.h"', re.MULTILINE)


def includes() -> dict[str, set[str]]:
    """What each file, its source and its header as one, includes of the others."""
    found: dict[str, set[str]] = {}
    for path in sorted(CSRC.glob("*.[ch]")):
        found.setdefault(path.stem, set()).update(set(INCLUDE.findall(path.read_text())) - {path.stem})
    return found


def test_files_include_only_what_is_below_them() -> None:
    order = list(graphlib.TopologicalSorter(includes()).static_order())  # CycleError where that is not so
    assert set(order) >= {"reading", "writing", "receiving", "module"}


def test_the_state_machines_know_nothing_of_python() -> None:
    for name in ("sleeper", "reading", "writing", "fdio", "frame", "outlet", "sentinel", "forked"):
        below = [name]
        while below:
            stem = below.pop()
            text = "".join(path.read_text() for path in CSRC.glob(f"{stem}.[ch]"))
            assert "<Python.h>" not in text, stem
            below += INCLUDE.findall(text.replace(f'#include "{stem}.h"', ""))
