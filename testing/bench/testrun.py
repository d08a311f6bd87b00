"""CPU time of a test run.

User and system time of all processes of ``pytest -n2`` (pytest-xdist) over 4000 empty tests, in two virtual
environments that differ only in their execnet.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import harness
from harness import NO_SLOWER, Goal, Options, Row
from support.oracle import CHECKOUT, REQUIREMENT

TESTS = 4000
FILES = 8
RUN_SECONDS = 120


def write_suite(folder: Path, tests: int) -> None:
    """Write so many empty tests."""
    for number in range(FILES):
        text = "\n\n".join(f"def test_{index}():\n    pass" for index in range(tests // FILES))
        (folder / f"test_{number}.py").write_text(text + "\n")


def environment_with(name: str, title: str = "", packages: Iterable[str] = ()) -> Path:
    """The Python of a virtual environment with pytest-xdist, made on first use; with ``packages``, it has a ``title``.

    Ours gets the execnet that this process would import.
    """
    folder = CHECKOUT / ".cache" / "bench" / (title or name).replace(" ", "-")
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "pytest", "pytest-xdist", *packages, REQUIREMENT], check=True, timeout=300)
        (folder / "installed").touch()
    if name == harness.OURS:
        ours = importlib.util.find_spec("execnet")
        assert ours is not None and ours.origin is not None
        (target,) = folder.glob("lib/python*/site-packages")
        shutil.rmtree(target / "execnet")
        shutil.copytree(Path(ours.origin).parent, target / "execnet")
    return python


def cpu_seconds(python: Path, suite: Path, environment: dict[str, str]) -> float:
    """User and system time of one run and its workers."""
    inherited = {name: value for name, value in harness.inherited().items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        [str(python), "-m", "pytest", "-q", "-n2", "-p", "no:cacheprovider", str(suite)],
        stdout=subprocess.PIPE,
        cwd=suite,
        env={**inherited, **environment},
    )
    assert process.stdout is not None
    output = process.stdout.read()
    # Of the process and of the children it has waited for.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(output.decode())
    return usage.ru_utime + usage.ru_stime


def measure(options: Options) -> list[Row]:
    """The one row."""
    tests = TESTS // 8 if options.quick else TESTS
    names = [harness.OURS, harness.PORTABLE, harness.BEFORE]
    pythons = {name: environment_with(name) for name in (harness.OURS, harness.BEFORE)}
    with tempfile.TemporaryDirectory() as folder:
        suite = Path(folder)
        write_suite(suite, tests)
        row = Row(f"pytest -n2, {tests} empty tests", "s of CPU", [Goal(0.88, harness.BEFORE), NO_SLOWER])
        samplers = {
            name: lambda name=name: cpu_seconds(
                pythons.get(name, pythons[harness.OURS]),
                suite,
                {"EXECNET_PURE": "1"} if name == harness.PORTABLE else {},
            )
            for name in names
        }
        for sampler in samplers.values():
            sampler()  # compiles what is to be compiled
        return [harness.take_turns(row, samplers, options.rounds)]


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure, rounds=5)
