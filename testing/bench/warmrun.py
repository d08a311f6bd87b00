"""Short test runs.

Wall and CPU time (user and system, of all processes) of ``pytest -n8`` (pytest-xdist) over 40 empty tests, in two
virtual environments with the same plugins that differ only in their execnet: 2.1.2, this one, and this one with
EXECNET_WARM=auto. The suite as such, one whose conftest.py imports numpy, and one that sets up Django.
"""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
import time
from pathlib import Path

import harness
import testrun
from harness import BEFORE, OURS, Goal, Options, Row

WARM = "execnet warm"
TESTS, WORKERS = 40, 8
PLUGINS = ["pytest-cov"]
MOST_WALL, MOST_CPU = 0.6, 0.5

# Each suite: what its environment has besides, and its files.
SUITES: dict[str, tuple[list[str], dict[str, str]]] = {
    "bare": ([], {}),
    "numpy": (["numpy"], {"conftest.py": "import numpy\n"}),
    "django": (
        ["django", "pytest-django"],
        {
            "pytest.ini": "[pytest]\nDJANGO_SETTINGS_MODULE = settings\n",
            "settings.py": "SECRET_KEY = 'x'\n"
            "INSTALLED_APPS = ['django.contrib.auth', 'django.contrib.contenttypes']\n",
        },
    ),
}


def seconds(python: Path, suite: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU time of one run and its workers."""
    inherited = {name: value for name, value in harness.inherited().items() if name != "PYTHONPATH"}
    command = [str(python), "-m", "pytest", "-q", f"-n{WORKERS}", "-p", "no:cacheprovider", str(suite)]
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=suite, env={**inherited, **environment}
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)  # of the process and of the children it has waited for
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or f"{TESTS} passed".encode() not in output or b"execnet" in output:
        raise RuntimeError(output.decode())
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime


def measure_suite(kind: str, folder: Path, options: Options) -> list[Row]:
    """A row of wall time, and one of CPU time."""
    packages, files = SUITES[kind]
    testrun.write_suite(folder, TESTS)
    for name, text in files.items():
        (folder / name).write_text(text)
    pythons = {name: testrun.environment_with(name, f"{name} {kind}", [*PLUGINS, *packages]) for name in (OURS, BEFORE)}
    title = f"pytest -n{WORKERS}, {TESTS} empty tests, {kind}"
    rows = [
        Row(title, "s", [Goal(MOST_WALL, BEFORE, of=WARM)]),
        Row(title, "s of CPU", [Goal(MOST_CPU, BEFORE, of=WARM)]),
    ]
    samplers = {
        WARM: functools.partial(seconds, pythons[OURS], folder, {"EXECNET_WARM": "auto"}),
        OURS: functools.partial(seconds, pythons[OURS], folder, {}),
        BEFORE: functools.partial(seconds, pythons[BEFORE], folder, {}),
    }
    for sampler in samplers.values():
        sampler()  # compiles what is to be compiled
    for _ in range(options.rounds):
        for name, sampler in samplers.items():
            for row, figure in zip(rows, sampler()):
                row.samples.setdefault(name, []).append(figure)
    return rows


def measure(options: Options) -> list[Row]:
    """Two rows for each suite."""
    rows = []
    for kind in SUITES:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure_suite(kind, Path(folder), options)
    return rows


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure, rounds=7)
