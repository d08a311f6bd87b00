"""The Python interpreters found on this machine, 2.7 to the newest, free-threaded builds, PyPy and Jython too."""

from __future__ import annotations

import functools
import glob
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

PROBE = """import platform, sys, sysconfig
version = sys.version_info[:2] + (bool(sysconfig.get_config_var("Py_GIL_DISABLED")), platform.python_version())
print("%s %d %d %d %s %s" % ((platform.python_implementation(),) + version + (sys.executable,)))
"""
NAME = re.compile(r"(python2\.7|python3(\.\d+)?t?|pypy3?)$")
#: Whether this one has its GIL.
HAS_GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
# Those that tests ask for, under the names by which programs start them; any further one that is found is used too.
NAMES = ["python2.7", *(f"python3.{minor}" for minor in range(6, 16)), "pypy3"]


class Interpreter(str):
    """The path of an interpreter's executable, with what it is."""

    implementation: str
    version: tuple[int, int]
    free_threaded: bool
    full_name: str  #: for people: "CPython 3.9.18"

    @property
    def name(self) -> str:
        return f"{self.implementation}{self.version[0]}.{self.version[1]}{'t' * self.free_threaded}"

    @property
    def command(self) -> str:
        """The name by which programs start it."""
        if self.implementation == "cpython":
            return self.name.replace("cpython", "python")
        return f"{self.implementation}{self.version[0]}"


def _candidates() -> Iterator[str]:
    # The environment variable comes first: it says which one to prefer of each version.
    yield from os.environ.get("EXECNET_TEST_PYTHONS", "").split()
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    yield from sorted(glob.glob(os.path.join(pyenv, "versions", "*", "bin", "python")))
    for folder in os.get_exec_path():
        for path in sorted(glob.glob(os.path.join(folder, "py*"))):
            if NAME.search(path):
                yield path
    yield sys.executable


def _probe(path: str, seconds: float = 20) -> Interpreter | None:
    try:
        answer = subprocess.run(
            [path, "-c", PROBE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=seconds, check=True
        ).stdout.decode()
    except (OSError, subprocess.SubprocessError):
        return None  # a launcher without an interpreter behind it
    implementation, major, minor, free_threaded, release, executable = answer.split(None, 5)
    interpreter = Interpreter(executable.strip())
    interpreter.implementation = implementation.lower()
    interpreter.full_name = f"{implementation} {release}{'t' * (free_threaded == '1')}"
    interpreter.version = (int(major), int(minor))
    interpreter.free_threaded = free_threaded == "1"
    return interpreter


@functools.cache
def found() -> list[Interpreter]:
    """One interpreter for each implementation and version, with the GIL and without, oldest first."""
    chosen: dict[tuple[str, tuple[int, int], bool], Interpreter] = {}
    for path in dict.fromkeys(_candidates()):
        interpreter = _probe(path)
        if interpreter and interpreter.version >= (2, 7):
            chosen.setdefault((interpreter.implementation, interpreter.version, interpreter.free_threaded), interpreter)
    return [chosen[what] for what in sorted(chosen)]


@functools.cache
def this() -> Interpreter:
    """The one that runs this."""
    interpreter = _probe(sys.executable)
    assert interpreter is not None
    return interpreter


def named(command: str) -> Interpreter | None:
    """The newest interpreter found that is started by that name."""
    return next((interpreter for interpreter in reversed(found()) if interpreter.command == command), None)


@functools.cache
def jython() -> Interpreter | None:
    """The Jython on the PATH. Its start takes seconds, many on a busy machine, and it is not for every test."""
    path = shutil.which("jython")
    return _probe(path, 120) if path else None


def free_threaded() -> Interpreter | None:
    """The newest interpreter found that has no GIL."""
    return next((interpreter for interpreter in reversed(found()) if interpreter.free_threaded), None)


def lacking() -> list[str]:
    """The names of those that tests ask for and that are not here."""
    return [name for name in NAMES if named(name) is None]
