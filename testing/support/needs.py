"""What tests need beyond what the README asks for: which of it this machine lacks, and what becomes of the tests then.

A test without what it needs is skipped with the reason, or fails where that part is required: in continuous
integration (CI=true) what `.ci/run` or pip bring, and whatever $EXECNET_TEST_REQUIRE names, all of it with "all".
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from support import interpreters, oracle, sshd

WHERE = "on the PATH, under ~/.pyenv or in EXECNET_TEST_PYTHONS"


class Part(NamedTuple):
    """Something that tests need: how to get it, whether it is here, whether continuous integration has it."""

    get: str
    is_here: Callable[[], object]
    in_ci: bool = False


@functools.cache
def _index_answers() -> bool:
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed", "--quiet"]
    command = [*pip, "--retries=0", "--timeout=5", oracle.REQUIREMENT]
    try:
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60, check=True)
    except subprocess.SubprocessError:
        return False
    return True


def _has_oracle() -> bool:
    return oracle.place().is_dir() or (_index_answers() and oracle.folder().is_dir())


def _python(name: str) -> Part:
    return Part(f"an interpreter {WHERE}", lambda: interpreters.named(name))


def _library(name: str) -> Part:
    return Part(f"pip install {name}", lambda: importlib.util.find_spec(name), in_ci=True)


def _green_library(name: str) -> Part:
    get = f"pip install {name}, which needs a GIL"
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return Part(get, lambda: has_gil and importlib.util.find_spec(name), in_ci=True)


LIBRARIES = ("gevent", "eventlet")
INSTALLED = ("mypy", "twine")
PARTS = {
    "ssh": Part(sshd.HOW_TO_GET, lambda: not sshd.lacking(), in_ci=True),
    "index": Part("pip gets nothing from its package index", _index_answers, in_ci=True),
    "oracle": Part(f"pip install {oracle.REQUIREMENT}, or name its folder in EXECNET_ORACLE", _has_oracle, in_ci=True),
    **{name: _green_library(name) for name in LIBRARIES},
    **{name: _library(name) for name in INSTALLED},
    **{name: _python(name) for name in interpreters.NAMES},
    "free-threaded": Part(f"a free-threaded build of Python {WHERE}", interpreters.free_threaded),
    "jython": Part("apt-get install jython", interpreters.jython),
    "mingw": Part("apt-get install gcc-mingw-w64-x86-64", lambda: shutil.which("x86_64-w64-mingw32-gcc")),
    "pypy3": Part("apt-get install pypy3", lambda: interpreters.named("pypy3"), in_ci=True),
}
LACKING = pytest.StashKey[list[str]]()


def required() -> dict[str, str]:
    """The parts that must be here, and who says so; pytest.UsageError where a name is not known."""
    names = {name: "CI=true" for name, part in PARTS.items() if part.in_ci and os.environ.get("CI") == "true"}
    wanted = os.environ.get("EXECNET_TEST_REQUIRE", "")
    for name in PARTS if wanted == "all" else filter(None, (word.strip() for word in wanted.split(","))):
        if name not in PARTS:
            raise pytest.UsageError(f"EXECNET_TEST_REQUIRE: {name!r} is none of all, {', '.join(PARTS)}")
        names[name] = f"EXECNET_TEST_REQUIRE={wanted}"
    return names


def look(config: pytest.Config) -> None:
    """Find out what is lacking; a worker of pytest-xdist is told by the process that started it."""
    required()
    told = getattr(config, "workerinput", {})
    lacking = told["lacking"] if told else [name for name, part in PARTS.items() if not part.is_here()]
    config.stash[LACKING] = lacking


def line(config: pytest.Config) -> str:
    """What is to be said of this machine in one line."""
    must = required()
    lacking = config.stash[LACKING]
    if not lacking:
        return "lacking here: nothing that tests need"
    named = (f"{name} (required by {must[name]})" if name in must else name for name in lacking)
    return f"lacking here: {', '.join(named)}"


def need(config: pytest.Config, name: str) -> None:
    """Skip the test where the part is lacking, or fail it where that is required."""
    get = PARTS[name].get
    if name not in config.stash[LACKING]:
        return
    by = required().get(name)
    if by:
        pytest.fail(f"{by} requires {name}, which this machine lacks: {get}", pytrace=False)
    pytest.skip(f"needs {name}: {get}")
