"""Each CPython under -W error -X dev: nothing that execnet does warns, in no process of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import corebuild, interpreters, packages, wheels
from support.interpreters import Interpreter
from support.once import Once

import execnet

EVERYDAY = packages.CHECKOUT / "testing" / "support" / "everyday.py"
KINDS = ["popen", "popen//warm", "popen//via=first", "socket//installvia=first"]
PYTHONS = [python for python in interpreters.found() if python.version >= (3, 9)]
CPYTHONS = [python for python in PYTHONS if python.implementation == "cpython"]
# Workers have it from the environment.
STRICT = {"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"}


def package_with(core: str, python: Interpreter, once: Once) -> Path:
    if core == "c" and not wheels.has_own_wheel(python):
        pytest.skip(f"{python.name} has no C core")
    if core == "c" and python.free_threaded:  # as setup.py does
        return once("values only", lambda folder: corebuild.package(folder, python, only_values=True))
    return corebuild.shared(once, core, python)


@pytest.mark.parametrize("core", ["c", "portable"])
@pytest.mark.parametrize("python", CPYTHONS, ids=lambda python: python.name)
def test_nothing_warns(python: Interpreter, core: str, tmp_path: Path, once: Once) -> None:
    folder = package_with(core, python, once)
    command = [os.path.realpath(python), "-W", "error", "-X", "dev", EVERYDAY, *KINDS]
    assert packages.run(command, cwd=tmp_path, PYTHONPATH=str(folder), EXECNET_TEST_CORE=core, **STRICT) == ""


@pytest.mark.parametrize("kind", ["popen", "popen//warm"])
def test_workers_are_in_development_mode_too(kind: str, group: execnet.Group, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in STRICT.items():
        monkeypatch.setenv(name, value)
    channel = group.makegateway(kind).remote_exec("import sys; channel.send((sys.flags.dev_mode, sys.warnoptions[-1]))")
    assert channel.receive(30) == (True, "error")
