"""Processes killed at random moments: the others end or go on, and nothing is left behind."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from chaos.activities import ACTIVITIES, SECONDS, TRANSPORTS, Program, Size
from support import leaks
from support.blocked import Call
from support.initiator import Initiator
from support.sshd import SshServer

import execnet

AT_ONCE = 4
# An orphan over ssh has the default of EXECNET_LOST_TIMES.
ORPHAN_SECONDS = 3.5
# Told to end, it has the times of that: ssh notices the initiator's death only when there is something to write.
TOLD_SECONDS = 6.5
VICTIM = re.compile(r"^\S*(python|ssh )")
# Long enough for a start over each transport to be over, most often.
LATEST = {"popen": 0.15, "via": 0.3, "socket": 0.3, "ssh": 0.6}
SOURCE = """
sys.path.insert(0, {folder!r})
from chaos.activities import Program
program = Program({transport!r}, {ssh!r}, {seed!r}, lambda: say("begun"))
say("started")
program.{activity}()
"""

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture
def ssh(request: pytest.FixtureRequest, transport: str) -> str:
    """The spec of a gateway over ssh, where that is the transport."""
    server: SshServer | None = request.getfixturevalue("ssh_server") if transport == "ssh" else None
    return server.spec() if server else ""


def moment(activity: str, transport: str, dice: random.Random) -> float:
    """How long after its beginning an activity goes on; a start is over sooner."""
    return dice.uniform(0, LATEST[transport] if activity in ("starting", "terminating") else 0.1)


def kill_initiator(initiator: Initiator, activity: str, after: float) -> None:
    """Let the program come into the middle of its activity, and kill it."""
    initiator.hear()
    if activity != "starting":
        initiator.hear()
    time.sleep(after)
    assert initiator.process.poll() is None, f"it ended before: {initiator.end()}"
    initiator.kill()
    initiator.await_reaped()


def processes_since(before: leaks.Snapshot) -> dict[int, str]:
    return {pid: command for pid, command in leaks.processes().items() if pid not in before.processes}


@pytest.mark.timing
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_initiator_killed(
    transport: str, ssh: str, size: Size, dice: random.Random, report: Callable[[str], None]
) -> None:
    rounds, done, slowest = size.rounds, 0, 0.0
    while done < rounds:
        before = leaks.Snapshot.take()
        doing = [dice.choice(ACTIVITIES) for _ in range(min(AT_ONCE, rounds - done))]
        with ExitStack() as stack:
            calls = []
            for activity in doing:
                source = SOURCE.format(
                    folder=str(Path(__file__).parents[1]),
                    transport=transport, ssh=ssh, seed=dice.random(), activity=activity,
                )  # fmt: skip
                initiator = stack.enter_context(Initiator(source))
                calls.append(Call(kill_initiator, initiator, activity, moment(activity, transport, dice)))
            for call in calls:
                call.result()
        killed = max(call.ended_at for call in calls)
        patience = TOLD_SECONDS if transport == "ssh" and "terminating" in doing else ORPHAN_SECONDS
        while processes_since(before) and time.monotonic() - killed < patience:
            time.sleep(0.01)
        slowest = max(slowest, time.monotonic() - killed)
        assert processes_since(before) == {}, f"orphans after {doing}"
        done += len(doing)
    report(f"initiator killed over {transport}: {done} rounds, 0 orphans, the last gone after {slowest:.2f} s")


def kill_one_of(before: leaks.Snapshot, dice: random.Random, deadline: float) -> None:
    """Kill one of the processes started since, as soon as there is one."""
    while time.monotonic() < deadline:
        # Not what a login shell runs: that may keep locks in the user's files.
        pids = sorted(pid for pid, command in processes_since(before).items() if VICTIM.search(command))
        if pids:
            try:
                os.kill(dice.choice(pids), signal.SIGKILL)
            except ProcessLookupError:
                continue  # ended by itself in this moment
            return


def end_of(activity: Call, program: Program) -> BaseException | None:
    """How the activity ended, soon after the kill: as one should that has lost its worker."""
    program.stopped = True
    try:
        activity.result()
    except (EOFError, OSError, execnet.RemoteError) as error:
        assert not isinstance(error, (TimeoutError, execnet.TimeoutError)), error
        return error
    return None


@pytest.mark.timing
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_worker_killed(
    transport: str, ssh: str, size: Size, dice: random.Random, report: Callable[[str], None],
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    rounds, slowest = size.rounds, 0.0
    for _ in range(rounds):
        before = leaks.Snapshot.take()
        activity = dice.choice(ACTIVITIES)
        begun: list[float] = []
        program = Program(transport, ssh, dice.random(), lambda begun=begun: begun.append(time.monotonic()))  # type: ignore[misc]
        call = Call(getattr(program, activity))
        deadline = time.monotonic() + SECONDS
        while not begun and activity not in ("starting", "terminating") and call.thread.is_alive():
            time.sleep(0.001)
        time.sleep(moment(activity, transport, dice))
        kill_one_of(before, dice, deadline)
        end_of(call, program)
        started = time.monotonic()
        program.group.terminate(timeout=1.0)
        slowest = max(slowest, time.monotonic() - started)
        del program, call
        assert leaks.wait_for_none(before, ORPHAN_SECONDS) == [], activity
    assert slowest <= 3.5
    report(f"worker killed over {transport}: {rounds} rounds, nothing left, slowest terminate(1.0) {slowest:.2f} s")
    capfd.readouterr()
