"""Processes the tests start: a free port for them, waiting until they listen, ending them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from execnet import Gateway

LISTEN = "0A"  # the state column of /proc/net/tcp


def wait_until(condition: Callable[[], object], timeout: float, what: str) -> None:
    """Return once `condition()` is true; TimeoutError naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = 0.001
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout} seconds")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def children_of(pid: int) -> list[int]:
    """The children of a process, zombies too."""
    children = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the thread has ended; its children are another's
            children += [int(child) for child in (task / "children").read_text().split()]
    return children


def pid_of(gateway: Gateway) -> int:
    """The id of the process of a gateway that has one."""
    assert gateway.pid is not None
    return gateway.pid


def stop(pid: int) -> None:
    """Stop a process, and return when it has: one of its threads must run for that, and others go on until then."""

    def has_stopped() -> bool:
        states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
        return bool(states) and set(states) <= {"T", "t"}

    os.kill(pid, signal.SIGSTOP)
    wait_until(has_stopped, 20, f"the stop of process {pid}")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def listening_ports() -> set[int]:
    """The TCP ports somebody on this machine listens on, learnt without connecting to any."""
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        path = Path(table)
        if not path.exists():
            continue
        for line in path.read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            if state == LISTEN:
                ports.add(int(local.rpartition(":")[2], 16))
    return ports


def wait_listening(process: subprocess.Popen[Any], port: int, timeout: float = 10.0) -> bool:
    """True once `port` listens, False when `process` ended before; TimeoutError otherwise."""
    wait_until(
        lambda: process.poll() is not None or port in listening_ports(),
        timeout,
        f"{process.args!r} listening on port {port}",
    )
    return process.poll() is None


def end(process: subprocess.Popen[Any], timeout: float = 5.0) -> None:
    """Terminate `process`, kill it where `timeout` seconds were not enough, and reap it."""
    process.terminate()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
