"""The C core for any CPython, compiled straight into a copy of the package: quickly, for tests that only run it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import execnet
from support import packages
from support.interpreters import Interpreter
from support.once import Once

CSRC = packages.CHECKOUT / "csrc"
FLAGS = ["-std=c11", "-O0", "-fPIC", "-shared", "-pthread", "-Wall", "-Wextra", "-Werror"]
ASK = """import sysconfig
print(sysconfig.get_path("include"))
print(*sysconfig.get_config_vars("EXT_SUFFIX", "Py_GIL_DISABLED"))
"""


def compiler() -> str | None:
    """The C compiler, if there is one."""
    return shutil.which(os.environ.get("CC", "cc").split()[0])


def headers(python: str) -> str | None:
    """The folder of that Python's headers, if they are there."""
    include = packages.run([python, "-c", ASK], cwd=packages.CHECKOUT).splitlines()[0]
    return include if os.path.exists(os.path.join(include, "Python.h")) else None


def portable_package(folder: Path) -> Path:
    """A copy of the package under test without its C core, in ``folder``; returns that, for PYTHONPATH."""
    ignore = shutil.ignore_patterns("_core.*.so", "_core.*.pyd", "__pycache__")
    shutil.copytree(execnet.__path__[0], folder / "execnet", ignore=ignore)
    return folder


def values_only() -> list[str]:
    """The sources that setup.py takes where there is no POSIX, or no GIL, and how it compiles them."""
    program = (
        "import runpy, setuptools, setuptools.command.build_ext, sys, sysconfig\n"
        "seen = {}\n"
        "setuptools.setup = lambda **options: seen.update(options)\n"
        "sysconfig.get_config_vars()  # while it knows where it is\n"
        "sys.platform = 'win32'\n"
        "runpy.run_path('setup.py')\n"
        "(core,) = seen['ext_modules']\n"
        "print(*core.sources, *('-D' + name for name, value in core.define_macros))\n"
    )
    return packages.run([sys.executable, "-c", program], cwd=packages.CHECKOUT).split()


def package(folder: Path, python: str = sys.executable, *, only_values: bool = False, all_of_it: bool = False) -> Path:
    """A copy of the package with a C core for ``python``, in ``folder``; returns that, for PYTHONPATH.

    With ``all_of_it`` it has connections also where setup.py builds none.
    """
    include, suffix, free_threaded = packages.run([python, "-c", ASK], cwd=packages.CHECKOUT).split()
    without_connections = only_values or (free_threaded == "1" and not all_of_it)
    sources = values_only() if without_connections else [str(path) for path in sorted(CSRC.rglob("*.c"))]
    target = portable_package(folder) / "execnet" / f"_core{suffix}"
    flags = [*FLAGS, *os.environ.get("CFLAGS", "").split()]
    command = [compiler() or "cc", *flags, f"-I{include}", f"-I{CSRC}", *sources, "-o", str(target)]
    done = subprocess.run(command, cwd=packages.CHECKOUT, capture_output=True, timeout=packages.SECONDS)
    assert done.returncode == 0, done.stderr.decode()
    return folder


def shared(once: Once, core: str, python: Interpreter) -> Path:
    """The package with that core for ``python``, made once in a test run; skips the test where it can not."""
    if core == "portable":
        return once("portable core", portable_package)
    if headers(python) is None or compiler() is None:
        pytest.skip(f"no C core can be built for {python.name}: no compiler, or no headers of it")
    return once(f"core for {python.name}", lambda folder: package(folder, python))
