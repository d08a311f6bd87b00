"""Windows, as far as it can be held elsewhere: the build, and the package without what only POSIX has."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from support import corebuild, interpreters, packages, wheels

import execnet

EVERYDAY = packages.CHECKOUT / "testing" / "support" / "everyday.py"
STAND_IN = packages.CHECKOUT / "testing" / "windows" / "pyconfig.h"
KINDS = ["popen", "popen//via=first", "socket//installvia=first"]
# In each process, before anything else is imported.
TAKE_AWAY = """
import os, sys
for name in os.environ.get("TAKEN_AWAY", "").split():
    module, _, attribute = name.partition(".")
    if attribute:
        found = __import__(module)
        assert hasattr(found, attribute), name
        delattr(found, attribute)
    else:
        assert module not in sys.modules, name
        sys.modules[module] = None
"""
ONLY_ON_POSIX = [
    "fcntl",
    "os.fork os.register_at_fork",  # the standard library expects both or none
    "os.geteuid",
    "os.getpgid",
    "os.killpg",
    "os.set_blocking",
    "os.setsid",
    "resource",
    "select.poll",
    "signal.pthread_kill",
    "signal.pthread_sigmask",
    "signal.setitimer",
    "socket.AF_UNIX",
    "socket.socketpair",
    "termios",
]
WITH_A_CORE = [python for python in interpreters.found() if python.version >= (3, 9) and wheels.has_own_wheel(python)]
CROSS_COMPILER = "x86_64-w64-mingw32-gcc"


def use_without(names: list[str], packages_folder: Path | None, tmp_path: Path, *kinds: str, **extra: str) -> str:
    """What a program says that uses gateways, in all processes of which the names are missing."""
    (tmp_path / "customized").mkdir()
    (tmp_path / "customized" / "sitecustomize.py").write_text(TAKE_AWAY)
    path = [str(tmp_path / "customized"), *([str(packages_folder)] if packages_folder else [])]
    extra = {"EXECNET_TEST_CORE": execnet.gateway_base.core, **extra, "TAKEN_AWAY": " ".join(names)}
    if execnet.gateway_base.core == "portable":
        extra["EXECNET_PURE"] = "1"
    return packages.run([sys.executable, EVERYDAY, *kinds], cwd=tmp_path, PYTHONPATH=":".join(path), **extra)


@pytest.mark.parametrize("names", ONLY_ON_POSIX)
def test_gateways_do_without(names: str, tmp_path: Path) -> None:
    assert use_without([names], None, tmp_path) == ""


def test_gateways_of_all_kinds_do_without_all_of_it(tmp_path: Path) -> None:
    assert use_without(ONLY_ON_POSIX, None, tmp_path, *KINDS) == ""


def test_the_package_imports_nothing_else_of_posix_when_it_is_imported(tmp_path: Path) -> None:
    modules = ["fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"]
    program = f"import sys, execnet\nprint(*[name for name in {modules} if name in sys.modules])"
    # -S: pwd may be imported by site.
    folder = corebuild.portable_package(tmp_path)
    assert packages.run([sys.executable, "-S", "-c", program], cwd=tmp_path, PYTHONPATH=str(folder)).split() == []


def test_without_posix_only_the_values_are_built() -> None:
    names = corebuild.values_only()
    assert "csrc/module.c" in names and "csrc/values/dump.c" in names
    assert {name.partition("/")[2].rpartition("/")[0] for name in names if name.endswith(".c")} == {"", "values"}
    assert names[-1] == "-DCORE_HAS_VALUES_ONLY"


@pytest.mark.skipif(execnet.gateway_base.core != "c", reason="compiles the C core")
def test_a_core_with_the_values_only_serves_the_portable_connections(tmp_path: Path) -> None:
    folder = corebuild.package(tmp_path / "package", only_values=True)
    assert use_without(ONLY_ON_POSIX, folder, tmp_path, *KINDS) == ""
    ask = "from execnet.gateway_base import _core, _posix_core; print(_core.ABI, dir(_core)[:2], _posix_core)"
    said = packages.run([sys.executable, "-c", ask], cwd=tmp_path, PYTHONPATH=str(folder))
    assert said.strip() == f"{execnet.gateway_base.CORE_ABI} ['ABI', 'Codec'] None"


@pytest.mark.needs("mingw")
@pytest.mark.parametrize("python", WITH_A_CORE, ids=lambda python: python.name)
def test_the_values_compile_for_windows(python: interpreters.Interpreter, tmp_path: Path) -> None:
    include = corebuild.headers(python)
    if include is None:
        pytest.skip(f"{python.name} has no headers here")
    # A copy: Python.h takes the pyconfig.h that is beside it.
    headers = Path(shutil.copytree(include, tmp_path / "include"))
    (headers / "pyconfig.h").unlink()
    shutil.copy(STAND_IN, headers)
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-UNDEBUG", "-isystem", headers, "-Icsrc"]
    for name in corebuild.values_only():
        if name.endswith(".c"):
            command = [CROSS_COMPILER, *flags, "-DCORE_HAS_VALUES_ONLY", "-c", name, "-o", tmp_path / "object"]
            assert packages.run(command, cwd=packages.CHECKOUT) == ""
