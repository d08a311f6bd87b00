"""A machine that fails: stopped processes, a full disk, closed descriptors."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos.activities import Size
from support import leaks
from support.processes import pid_of
from support.stuck import C_LOOPING, DEAF, IDLE, LOOPING, SENDING, SLEEPING, SWALLOWING

import execnet

SECONDS = 20.0
WORK = [IDLE, SLEEPING, SWALLOWING, LOOPING, C_LOOPING, DEAF, SENDING]

pytestmark = pytest.mark.timeout(3600)


@pytest.mark.timing
def test_stopped_and_busy_workers_are_terminated_in_time(
    size: Size, dice: random.Random, report: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    rounds, latest = max(2, size.rounds // 4), 0.0
    for _ in range(rounds):
        before = leaks.Snapshot.take()
        group = execnet.Group()
        work = [dice.choice(WORK) for _ in range(6)]
        for gateway, source in zip(group.makegateways(["popen"] * len(work)), work):
            gateway.remote_exec(source).receive(SECONDS)
        for gateway in group:
            if dice.random() < 0.4:
                os.kill(pid_of(gateway), signal.SIGSTOP)
        timeout = dice.choice([0.1, 0.5, 1.0])
        started = time.monotonic()
        group.terminate(timeout)
        latest = max(latest, time.monotonic() - started - timeout)
        del group, gateway
        assert leaks.wait_for_none(before) == [], work
    assert latest <= 0.5
    report(f"terminate() of 6 stopped and busy workers, {rounds} times: nothing left, at most {latest:.2f} s over time")
    capfd.readouterr()


def test_rsync_to_a_full_disk(group: execnet.Group, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a", "b"):
        (source / name).write_bytes(os.urandom(3 << 20))
    full, other = group.makegateways(["popen"] * 2)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    full.remote_exec(limit).waitclose(SECONDS)
    rsync = execnet.RSync(source, verbose=False)
    for name, gateway in (("full", full), ("other", other)):
        rsync.add_target(gateway, tmp_path / name)
    with pytest.raises((OSError, execnet.RemoteError), match=r"File too large|EFBIG"):
        rsync.send()
    for gateway in (full, other):
        assert gateway.remote_exec("channel.send(1)").receive(SECONDS) == 1
        assert gateway.remote_status().numexecuting <= 1
    rsync = execnet.RSync(source, verbose=False)
    rsync.add_target(other, tmp_path / "other")
    rsync.send()
    assert all((tmp_path / "other" / name).read_bytes() == (source / name).read_bytes() for name in ("a", "b"))


@pytest.mark.timing
@pytest.mark.parametrize("which", ["3, 256", "0, 256"])
def test_a_worker_that_closes_its_descriptors(pair: execnet.Gateway, which: str) -> None:
    channel = pair.remote_exec(f"import os, time; channel.receive(); os.closerange({which}); time.sleep(1000)")
    channel.send(1)
    with pytest.raises(EOFError, match=r"has closed the connection|exited|killed"):
        channel.receive(SECONDS)
    started = time.monotonic()
    pair.exit(wait=1.0)
    assert time.monotonic() - started < 1.5
    assert pair.returncode is not None


@pytest.mark.parametrize("end", ["infile", "outfile"])
def test_an_initiator_whose_descriptor_was_closed(pair: execnet.Gateway, end: str) -> None:
    channel = pair.remote_exec("for item in channel: channel.send(item)")
    channel.send(1)
    assert channel.receive(SECONDS) == 1
    nowhere = os.open(os.devnull, os.O_RDWR)
    # Its number stays taken: else the next descriptor of this process would be taken for the connection.
    os.dup2(nowhere, getattr(pair._io, end).fileno())
    os.close(nowhere)
    with pytest.raises((EOFError, OSError)):
        while True:
            channel.send(b"x" * 100000)
            channel.receive(1.0)
    pair.exit(wait=1.0)
    assert pair.returncode is not None
