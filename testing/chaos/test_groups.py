"""Eight threads that make, use and end gateways of one group, of all kinds, while it is terminated again and again."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import interpreters, leaks
from support.blocked import Call
from support.initiator import is_running
from support.socketserver import SocketServer
from support.sshd import SshServer

import execnet

SECONDS = float(os.environ.get("EXECNET_GROUP_SECONDS", 600 if os.environ.get("EXECNET_CHAOS") == "long" else 5))
PATIENCE = 60.0
MAKERS, ENDERS = 6, 2

pytestmark = pytest.mark.timeout(SECONDS + 2 * PATIENCE)


class Crowd:
    """The threads, and what they know of all gateways."""

    def __init__(self, specs: dict[str, str], seed: int) -> None:
        self.group = execnet.Group()
        self.specs, self.seed = specs, seed
        self.stop = time.monotonic() + SECONDS
        # With what tells the gateway's process from a later one of the same number.
        self.made: list[tuple[execnet.Gateway, str]] = []
        self.refused = 0
        self.ended = 0

    def going_on(self) -> bool:
        return time.monotonic() < self.stop

    def make(self, number: int) -> None:
        """Make gateways, and use and end some of them."""
        dice = random.Random(f"{self.seed} {number}")
        while self.going_on():
            kind = dice.choice([*self.specs, "via"])
            try:
                gateways = self.started(kind, dice)
            except (ValueError, KeyError, OSError) as error:
                self.expect(kind, error)
                self.refused += 1
                continue
            self.made += [(gateway, when_started(gateway)) for gateway in gateways]
            self.use(dice.choice(gateways), dice)

    def started(self, kind: str, dice: random.Random) -> list[execnet.Gateway]:
        name = f"//id={dice.choice('abc')}" if dice.random() < 0.3 else ""
        if kind == "via":
            master = dice.choice(list(self.group) or [None])
            way = master.id if master is not None and not master.spec.via else "nobody"
            if name == f"//id={way}":
                name = ""  # it would go through itself
            return [self.group.makegateway(f"popen//via={way}{name}")]
        if dice.random() < 0.3:
            return self.group.makegateways([self.specs[kind] + name, "popen"])
        return [self.group.makegateway(self.specs[kind] + name)]

    def expect(self, kind: str, error: Exception) -> None:
        """Only a name that somebody has, or a way that has ended, is a reason for a start to fail."""
        if isinstance(error, ValueError) and str(error).startswith("already have gateway with id"):
            return
        if kind == "via" and isinstance(error, (KeyError, OSError)):
            return
        raise error

    def use(self, gateway: execnet.Gateway, dice: random.Random) -> None:
        """It answers, unless it has been ended by somebody; then it may be ended."""
        try:
            assert gateway.remote_exec("channel.send(channel.gateway.id)").receive(PATIENCE) == f"{gateway.id}-worker"
        except (EOFError, OSError) as error:
            assert not isinstance(error, execnet.TimeoutError), error
            assert gateway not in self.group or gateway.spec.via, f"{gateway!r} is a member and does not answer"
        end: Callable[[], object] = dice.choice([lambda: None, gateway.exit, lambda: gateway.exit(wait=2.0)])
        end()

    def end(self, number: int) -> None:
        """Terminate the group, and see that no member is there twice."""
        dice = random.Random(f"{self.seed} {number}")
        while self.going_on():
            time.sleep(dice.uniform(0, 0.5))
            ids = [gateway.id for gateway in self.group]
            assert len(ids) == len(set(ids)), ids
            members = list(self.group)
            self.group.terminate(timeout=3.0)
            self.ended += len(members)
            assert not set(members) & set(self.group), "somebody came back"

    def check(self) -> None:
        """Whatever still runs is known to the group."""
        known = {*self.group._gateways, *self.group._gateways_to_join}
        lost = [gateway for gateway, started in self.made if gateway not in known and runs(gateway, started)]
        assert lost == []


def when_started(gateway: execnet.Gateway) -> str:
    """When the gateway's process started, if it is here and runs."""
    if gateway.pid is None or gateway.spec.socket or not is_running(gateway.pid):
        return ""
    try:
        return Path(f"/proc/{gateway.pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def runs(gateway: execnet.Gateway, started: str) -> bool:
    """Whether the gateway's process is there, as far as that can be told."""
    return gateway.hasreceiver() or (started != "" and when_started(gateway) == started)


def test_no_gateway_is_lost_revived_or_doubled_and_none_survives(
    ssh_server: SshServer, socket_server: SocketServer, seed: int, report: Callable[[str], None]
) -> None:
    others = [found for found in interpreters.found() if str(found) != sys.executable]
    specs = {
        "popen": "popen",
        "other": f"popen//python={others[0]}" if others else "popen",
        "socket": socket_server.spec(),
        "ssh": ssh_server.spec(),
        "warm": "popen//warm",
    }
    before = leaks.Snapshot.take()
    crowd = Crowd(specs, seed)
    calls = [Call(crowd.make, number) for number in range(MAKERS)]
    calls += [Call(crowd.end, MAKERS + number) for number in range(ENDERS)]
    try:
        for call in calls:
            call.result(SECONDS + PATIENCE)
        crowd.check()
    finally:
        crowd.stop = 0.0
        for call in calls:
            call.thread.join(PATIENCE)
        crowd.group.terminate(timeout=3.0)
    membership = crowd.group._membership
    assert (list(crowd.group), membership.ending(), membership.places, membership._claims) == ([], [], {}, {})
    assert leaks.wait_for_none(before, 10.0) == []
    report(
        f"{MAKERS + ENDERS} threads, {SECONDS:.0f} s: {len(crowd.made)} gateways made, {crowd.refused} refused, "
        f"{crowd.ended} ended by terminate; 0 lost, revived, doubled, surviving"
    )
