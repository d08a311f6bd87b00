"""The page for users of pytest-xdist: its suite, run by its commands over the released one, prints what it shows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support import packages
from support.once import Once
from test_xdist import RUN_SECONDS, Client, made_once

pytestmark = [pytest.mark.timeout(300), pytest.mark.needs("index")]

PAGE = Path(__file__).resolve().parents[1] / "doc" / "xdist.rst"
TEXT = PAGE.read_text("utf-8")
BLOCK = r"((?:    .*\n|\n)+)"
# A minute is too long for a test; the run that hangs is ended when it has shown what it is to show.
SILENCE = {"EXECNET_REPORT=60": "EXECNET_REPORT=3"}


class Run(NamedTuple):
    """A command of the page, and the lines that it shows."""

    command: str
    shown: list[str]


def unindented(block: str) -> str:
    return re.sub(r"^    ", "", block, flags=re.MULTILINE).strip("\n") + "\n"


def suite() -> dict[str, str]:
    """The files of the page, by their names."""
    found = re.findall(rf"^\.\. code-block:: python\n    :caption: (\S+)\n\n{BLOCK}", TEXT, re.MULTILINE)
    return {name: unindented(block) for name, block in found}


def runs() -> Iterator[Run]:
    for block in re.findall(rf"^\.\. code-block:: text\n\n{BLOCK}", TEXT, re.MULTILINE):
        command, *shown = unindented(block).splitlines()
        if "pytest -n" in command:
            yield Run(command[len("$ ") :], [line for line in shown if line != "..."])


def pattern(line: str) -> str:
    """What the line looks like in any run: another worker, process, time and folder; behind pytest's own progress."""
    text = re.sub(r"\d+", r"\\d+", re.escape(line))
    text = re.sub(r"/home/me/", r".*/", text)
    return rf"(?:[.F]+|=+ )?{text}(?: =+)?"


def missing(run: Run, printed: list[str]) -> list[str]:
    """The shown lines that were not printed, each once."""
    left, lacking = list(printed), []
    for line in run.shown:
        found = next((other for other in left if re.fullmatch(pattern(line), other)), None)
        if found is None:
            lacking.append(line)
        else:
            left.remove(found)
    return lacking


def printed_by(run: Run, client: Client, folder: Path) -> list[str]:
    """What the command prints until it ends, or has shown all that it is to show and is ended."""
    command = run.command
    for long, short in SILENCE.items():
        command = command.replace(long, short)
    environment = packages.environment()
    environment["PATH"] = f"{Path(client.venv.python).parent}{os.pathsep}{environment['PATH']}"
    with subprocess.Popen(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        alarm = threading.Timer(RUN_SECONDS, os.killpg, (process.pid, signal.SIGKILL))
        alarm.start()
        printed = []
        for line in process.stdout:
            printed.append(line.rstrip("\n"))
            if command != run.command and not missing(run, printed):
                os.killpg(process.pid, signal.SIGKILL)
        alarm.cancel()
    return printed


@pytest.fixture(scope="module")
def client(once: Once, wheel: Path) -> Client:
    """The released clients over our wheel."""
    return made_once(once, "xdist", [wheel, "pytest", "pytest-xdist", "pytest-cov"], {})


@pytest.mark.parametrize("run", list(runs()), ids=lambda run: run.command)
def test_each_run_prints_what_the_page_shows(client: Client, tmp_path: Path, run: Run) -> None:
    for name, text in suite().items():
        (tmp_path / name).write_text(text)
    printed = printed_by(run, client, tmp_path)
    assert missing(run, printed) == [], "\n".join(printed)


def test_the_page_shows_each_file_in_some_run() -> None:
    assert all(any(name in run.command for run in runs()) for name in suite())
