"""Interpreters side by side in one process, each with a GIL of its own: execnet works in all of them at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import corebuild, interpreters, packages
from support.once import Once

import execnet

PROGRAM = packages.CHECKOUT / "testing" / "support" / "subinterpreters.py"
COUNT, ROUNDS = 4, 2
PYTHONS = [
    python
    for python in interpreters.found()
    if python.implementation == "cpython" and python.version >= (3, 12) and not python.free_threaded
]


@pytest.mark.parametrize("core", ["c", "portable"] if execnet.gateway_base.core == "c" else ["portable"])
@pytest.mark.parametrize("python", PYTHONS, ids=lambda python: python.name)
def test_four_at_once_work_and_end(python: interpreters.Interpreter, core: str, tmp_path: Path, once: Once) -> None:
    folder = corebuild.shared(once, core, python)
    said = packages.run([python, PROGRAM, COUNT, ROUNDS], cwd=tmp_path, PYTHONPATH=str(folder))
    assert said.split()[:1] == [core]
