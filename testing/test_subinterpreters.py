"""Interpreters side by side in one process, each with a GIL of its own: execnet works in all of them at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import corebuild, interpreters, packages
from support.interpreters import Interpreter

import execnet

PROGRAM = packages.CHECKOUT / "testing" / "support" / "subinterpreters.py"
COUNT, ROUNDS = 8, 2
PYTHONS = [
    python
    for python in interpreters.found()
    if python.implementation == "cpython" and python.version >= (3, 12) and not python.free_threaded
]


def package_with(core: str, python: Interpreter, folder: Path) -> Path:
    if core == "portable":
        return corebuild.portable_package(folder)
    if corebuild.headers(python) is None or corebuild.compiler() is None:
        pytest.skip(f"no C core can be built for {python.name}: no compiler, or no headers of it")
    return corebuild.package(folder, python)


@pytest.mark.parametrize("core", ["c", "portable"] if execnet.gateway_base.core == "c" else ["portable"])
@pytest.mark.parametrize("python", PYTHONS, ids=lambda python: python.name)
def test_eight_at_once_work_and_end(python: Interpreter, core: str, tmp_path: Path) -> None:
    folder = package_with(core, python, tmp_path / "package")
    said = packages.run([python, PROGRAM, COUNT, ROUNDS], cwd=tmp_path, PYTHONPATH=str(folder))
    assert said.split()[:1] == [core]
