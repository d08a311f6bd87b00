"""What a test may not leave behind: processes, threads, descriptors.

Processes are known by a mark in their environment, which their own children inherit, and by their
descent: a worker that was orphaned is still found by the mark, a zombie by its descent.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import NamedTuple

MARK = "EXECNET_TEST_SESSION"
SETTLE_SECONDS = 2.0
# A green event loop opens these once for a thread and keeps them for the life of the process.
EVENT_LOOP_DESCRIPTORS = ("anon_inode:[eventpoll]", "anon_inode:[eventfd]")

# Processes that fixtures of the session started: they stay until its end.
KEPT: set[int] = set()


class Origin(NamedTuple):
    """Where a process comes from: its parent, and when it began, in ticks of the machine's clock."""

    parent: int
    began: int


def mark_session() -> str:
    """Put a fresh mark into the environment of this process; return it."""
    mark = uuid.uuid4().hex
    os.environ[MARK] = mark
    return mark


def origins_of_all() -> dict[int, Origin]:
    """Each process of this machine; not by /proc's "children", which miss some when a thread ends."""
    origins = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = _read(f"/proc/{entry}/stat")
            except OSError:  # ended meanwhile
                continue
            words = stat.rpartition(b")")[2].split(None, 20)
            origins[int(entry)] = Origin(int(words[1]), int(words[19]))
    return origins


def parents_of_all() -> dict[int, int]:
    """Each process of this machine and its parent."""
    return {pid: origin.parent for pid, origin in origins_of_all().items()}


def _read(path: str) -> bytes:
    """What the file at path holds; without buffers, as this is done for all processes twice in each test."""
    with open(path, "rb", buffering=0) as file:
        return file.readall()


# When this process did: whatever is older was not started by it.
BEGAN = origins_of_all()[os.getpid()].began


def _is_marked(pid: int, mark: bytes) -> bool:
    try:
        return mark in _read(f"/proc/{pid}/environ").split(b"\0")
    except OSError:  # ended meanwhile, or of another user
        return False


def _command(pid: int) -> str:
    try:
        words = Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
        name = Path("/proc", str(pid), "comm").read_text().strip()
    except OSError:
        return "ended meanwhile"
    # A worker's last word can be a whole program text.
    return " ".join(os.fsdecode(word)[:60] for word in words).strip() or f"{name} (zombie)"


def processes() -> dict[int, str]:
    """The processes of this test session except this one: pid to command."""
    origins = origins_of_all()
    mark = f"{MARK}={os.environ[MARK]}".encode()
    own = {os.getpid()}
    grown = True
    while grown:
        children = {pid for pid, origin in origins.items() if origin.parent in own} - own
        own |= children
        grown = bool(children)
    young = {pid for pid, origin in origins.items() if origin.began >= BEGAN}
    own |= {pid for pid in young - own if _is_marked(pid, mark)}
    return {pid: _command(pid) for pid in own - KEPT - {os.getpid()}}


def threads() -> dict[int, str]:
    """The threads of this process, those started in C too: kernel id to name."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    return {int(tid): names.get(int(tid), "no Python thread") for tid in os.listdir("/proc/self/task")}


def descriptors() -> dict[int, str]:
    """The open descriptors of this process: number to what they are open on."""
    found = {}
    green = "gevent" in sys.modules or "eventlet" in sys.modules
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:  # the one listdir itself had open
            continue
        if not (green and target in EVENT_LOOP_DESCRIPTORS):
            found[int(entry)] = target
    return found


class Snapshot(NamedTuple):
    """What this session holds at one moment."""

    processes: dict[int, str]
    threads: dict[int, str]
    descriptors: dict[int, str]

    @classmethod
    def take(cls) -> Snapshot:
        return cls(processes(), threads(), descriptors())

    def new_since(self, before: Snapshot) -> list[str]:
        """One line for each thing that is here now and was not `before`."""
        return [
            f"{kind[:-1] if kind != 'processes' else 'process'} {key}: {value}"
            for kind, now, then in zip(self._fields, self, before)
            for key, value in now.items()
            if key not in then or (kind == "descriptors" and then[key] != value)
        ]


def wait_for_none(before: Snapshot, timeout: float = SETTLE_SECONDS) -> list[str]:
    """What is new since `before` and stays for `timeout` seconds; empty as soon as nothing is."""
    left = Snapshot.take().new_since(before)
    if not left:
        return left
    gc.collect()  # what only a reference cycle keeps is no leak
    deadline = time.monotonic() + timeout
    pause = 0.001
    while left and time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
        left = Snapshot.take().new_since(before)
    return left


def end_all_processes() -> list[str]:
    """Kill what the session left; one line for each process that had to be killed."""
    deadline = time.monotonic() + SETTLE_SECONDS
    left = processes()
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = processes()
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # ended meanwhile
            continue
    return [f"process {pid}: {command}" for pid, command in left.items()]
