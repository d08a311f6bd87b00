"""The rooms of the C core: each file includes only what is below it, and values know nothing of connections."""

from __future__ import annotations

import graphlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CC = os.environ.get("CC", "cc").split()
CSRC = Path(__file__).resolve().parents[1] / "csrc"
INCLUDE = re.compile(r'^#include "([\w/]+)\.h"', re.MULTILINE)
# What the files of each room may include; types.h, beside them, is for each file that defines a type.
ROOMS = {
    "": {"", "io"},
    "io": {"", "io"},
    "values": {"", "values"},
    "connection": {"", "io", "values", "connection"},
}


def includes() -> dict[str, set[str]]:
    """What each file, its source and its header as one, includes of the others."""
    found: dict[str, set[str]] = {}
    for path in sorted(CSRC.rglob("*.[ch]")):
        name = str(path.relative_to(CSRC).with_suffix(""))
        found.setdefault(name, set()).update(set(INCLUDE.findall(path.read_text())) - {name})
    return found


def room(name: str) -> str:
    return name.rpartition("/")[0]


def test_files_include_only_what_is_below_them() -> None:
    order = list(graphlib.TopologicalSorter(includes()).static_order())  # CycleError where that is not so
    assert set(order) >= {"connection/reading", "connection/writing", "connection/receiving", "module"}


def test_rooms_know_only_those_below_them() -> None:
    wrong = [(name, other) for name, others in includes().items() for other in others]
    assert [pair for pair in wrong if room(pair[1]) not in ROOMS[room(pair[0])]] == []


SPIN = """
#include "io/fdio.h"
#include <stdio.h>
int main(void) { FdioSpin spin = fdio_spin_new(); return printf("%d", fdio_spin_pays(&spin)) < 0; }
"""


@pytest.mark.skipif(shutil.which(CC[0]) is None, reason="no C compiler here")
@pytest.mark.skipif(sys.platform == "win32", reason="no connections in C there")
def test_with_execnet_spin_0_no_thread_looks_before_it_sleeps(tmp_path: Path) -> None:
    (tmp_path / "spin.c").write_text(SPIN)
    program = tmp_path / "spin"
    subprocess.run(
        [*CC, f"-I{CSRC}", CSRC / "io" / "fdio.c", tmp_path / "spin.c", "-o", program], check=True, timeout=60
    )
    for wanted, pays in [({"EXECNET_SPIN": "0"}, "0"), ({"EXECNET_SPIN": "1"}, "1"), ({}, "1")]:
        assert subprocess.run([program], env=wanted, capture_output=True, text=True, timeout=60).stdout == pays


def test_each_name_is_of_one_file() -> None:
    names = [path.stem for path in CSRC.rglob("*.c")]  # of which objects are made, and messages show no more
    assert sorted(set(names)) == sorted(names)


def test_the_state_machines_and_what_is_done_without_the_gil_know_nothing_of_python() -> None:
    for name in ("wire", "connection/reading", "connection/writing", *(f"io/{p.stem}" for p in CSRC.glob("io/*.h"))):
        below = {name}
        while below:
            stem = below.pop()
            text = "".join(path.read_text() for path in CSRC.glob(f"{stem}.[ch]"))
            assert "<Python.h>" not in text, stem
            below |= set(INCLUDE.findall(text)) - {stem}
