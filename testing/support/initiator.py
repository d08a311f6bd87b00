"""A program that starts gateways, in a process of its own, so that it can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import execnet

from .processes import wait_until

SECONDS = 30.0
# For a program that forks: CPython 3.12 and newer tell of every fork of a process with threads.
FORKING_ENVIRON: dict[str, Any] = {"PYTHONWARNINGS": "ignore:This process:DeprecationWarning"}
# What every program has at hand; say() tells the test something.
PREAMBLE = """\
import json, os, signal, sys, threading, time
import execnet
def say(item):
    os.write(1, (json.dumps(item) + "\\n").encode())
"""


def is_running(pid: int) -> bool:
    """Whether the process is there and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def wait_for_end(pids: Iterable[int], timeout: float) -> list[int]:
    """Those of the processes that still run after timeout seconds."""
    pids = list(pids)
    deadline = time.monotonic() + timeout
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.005)
    return [pid for pid in pids if is_running(pid)]


class Initiator:
    """A running program; what it says is one JSON value a line."""

    def __init__(self, source: str, python: str = sys.executable, session: bool = False, **environ: str) -> None:
        paths = [str(Path(execnet.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
        self.process = subprocess.Popen(
            [python, "-c", PREAMBLE + source],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environ},
            start_new_session=session,
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.stdin, self.stdout, self.stderr = self.process.stdin, self.process.stdout, self.process.stderr

    @property
    def pid(self) -> int:
        """The program's process."""
        return self.process.pid

    def __enter__(self) -> Initiator:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.wait(SECONDS)
        for pipe in (self.stdin, self.stdout, self.stderr):
            pipe.close()

    def hear(self) -> Any:
        """The next thing the program says; AssertionError with its stderr where it says no more."""
        line = self.stdout.readline()
        if not line:
            raise AssertionError(f"the program ended: {self.stderr.read().decode()}")
        return json.loads(line)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send the program a signal."""
        os.kill(self.pid, number)

    def tell(self, text: str = "") -> None:
        """Give the program a line of input."""
        self.stdin.write(f"{text}\n".encode())
        self.stdin.flush()

    def end(self) -> tuple[int, list[Any], str]:
        """Wait for the program's end: its exit status, what else it said, its stderr."""
        out, err = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, [json.loads(line) for line in out.splitlines()], err.decode()

    def await_reaped(self, timeout: float = SECONDS) -> int:
        """Wait for the program's end; its exit status."""
        wait_until(lambda: self.process.poll() is not None, timeout, f"the end of process {self.pid}")
        return self.process.returncode
