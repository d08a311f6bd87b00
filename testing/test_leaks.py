"""The check after each test sees what a test leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from support.leaks import Snapshot, wait_for_none
from support.processes import wait_until

SHORT = 0.05


@pytest.fixture
def before() -> Snapshot:
    return Snapshot.take()


def test_nothing_new_is_nothing_left(before: Snapshot) -> None:
    assert wait_for_none(before) == []


def test_a_zombie_is_seen(before: Snapshot) -> None:
    process = subprocess.Popen(["true"])
    wait_until(lambda: "(zombie)" in str(wait_for_none(before, 0)), 5, "a zombie")
    assert f"process {process.pid}: " in str(wait_for_none(before, SHORT))
    process.wait()
    assert wait_for_none(before) == []


@pytest.fixture
def orphan() -> Iterator[int]:
    """A process whose parent has ended; it ends with its standard input."""
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'input()'], stdout=2).pid)"
    read_end, write_end = os.pipe()
    parent = subprocess.run([sys.executable, "-c", code], stdin=read_end, stdout=subprocess.PIPE, timeout=20)
    os.close(read_end)
    yield int(parent.stdout)
    os.close(write_end)


def test_an_orphan_is_seen(orphan: int, before: Snapshot) -> None:
    without = Snapshot({}, before.threads, before.descriptors)
    assert f"process {orphan}: " in str(wait_for_none(without, SHORT))


def test_a_thread_is_seen_and_named(before: Snapshot) -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="left alone", daemon=True)
    thread.start()
    assert str(wait_for_none(before, SHORT)) == f"['thread {thread.native_id}: left alone']"
    end.set()
    assert wait_for_none(before) == []


def test_a_descriptor_is_seen_and_what_it_is_open_on(before: Snapshot) -> None:
    left = os.open(os.devnull, os.O_RDONLY)
    assert wait_for_none(before, SHORT) == [f"descriptor {left}: {os.devnull}"]
    os.close(left)
    assert wait_for_none(before) == []
