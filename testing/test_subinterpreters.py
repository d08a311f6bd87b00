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


STARTS_AT_ITS_END = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
one = interpreters.create()
failure = interpreters.run_string(one, '''
import execnet, threading, time
execnet.makegateway()
def late():
    time.sleep({seconds})
    try:
        execnet.makegateway()
    except (OSError, RuntimeError) as error:
        assert "thread" in str(error), error
threading.Thread(target=late).start()
''')
assert not failure, failure
interpreters.destroy(one)
print("ended")
"""


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("python", PYTHONS, ids=lambda python: python.name)
def test_a_gateway_that_a_thread_starts_as_one_ends_does_not_keep_it(
    python: interpreters.Interpreter, seconds: float, tmp_path: Path, once: Once
) -> None:
    folder = corebuild.shared(once, execnet.gateway_base.core, python)
    program = STARTS_AT_ITS_END.format(seconds=seconds)
    assert packages.run([python, "-c", program], cwd=tmp_path, PYTHONPATH=str(folder)).split() == ["ended"]
