"""Ending many gateways: told to exit, awaited until one deadline, killed where they are late."""

from __future__ import annotations

import os
from functools import partial

from execnet._group.calls import Call, Deadline, run_apart
from execnet.gateway_base import BaseGateway

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from execnet._group.calls import TermKill
    from execnet._group.membership import Membership
    from execnet.gateway_base import ExecModel

    SafeTerminate = Callable[[ExecModel, "float | None", Sequence[TermKill]], None]

# Seconds the system is given to hand over what has been killed: the memory of a large process takes long to free.
REAP_GRACE = 5.0
# And those that a receiver is given to see the end of the process: where another one holds its pipe, it never does.
RECEIVER_GRACE = 1.0
# Seconds that workers are given at interpreter exit, at the end of a with block, after a failed start.
END_TIMEOUT = 1.0


class Ending:
    """Ends gateways of a group, members or not.

    An exception of one of them ends neither the wait for the others nor what comes after them; the first is raised when
    all are done with. After Ctrl-C each that has not ended is still a member, or among those that are ending.
    """

    def __init__(
        self, execmodel: ExecModel, membership: Membership, timeout: float | None, safe_terminate: SafeTerminate
    ) -> None:
        self.execmodel = execmodel
        self.membership = membership
        self.deadline = Deadline(timeout)
        self.safe_terminate = safe_terminate
        self.failure: BaseException | None = None

    def end(self, gateways: Iterable[Any]) -> None:
        """End ``gateways``, those that others of them go through after those."""
        gateways = list(gateways)
        while gateways:
            leaves = leaves_of(gateways)
            self._exit(leaves)
            self._await_end(leaves)
            gateways = [gateway for gateway in gateways if gateway not in leaves]
        if self.failure is not None:
            raise self.failure

    def _exit(self, gateways: list[Any]) -> None:
        """Tell gateways to exit. One whose pipe is full, so that it can't be told, is left to be killed."""
        # One that left when a Ctrl-C came may not have been told.
        gone = [gateway for gateway in self.membership.ending() if getattr(gateway, "_was_told", True)]
        calls = [Call(self.execmodel, gateway.exit) for gateway in gateways if gateway not in gone]
        for call in calls:
            call.done_within(self.deadline)
            self.failure = self.failure or call.failure
        for gateway in gateways:
            self.membership.leave(gateway)

    def _await_end(self, gateways: list[Any]) -> None:
        """Wait for gateways that were told to exit, kill those that are late."""
        waits = [End(gateway, self.deadline) for gateway in gateways]
        pairs: list[TermKill] = [(wait, wait.kill) for wait in waits]
        try:
            self.safe_terminate(self.execmodel, self.deadline.for_next_wait(), pairs)
        except Exception as exc:  # raised by end(); Ctrl-C leaves the rest to the next call
            self.failure = self.failure or exc
        grace = Deadline(REAP_GRACE)
        for wait in waits:
            try:
                if not wait.ended:
                    run_apart(self.execmodel, partial(wait.reap, grace))
                wait.warn_unless_ended()
            except Exception as exc:  # raised by end(), as above
                self.failure = self.failure or exc
            self.membership.ended(wait.gateway)


def leaves_of(gateways: list[Any]) -> list[Any]:
    """Those that no other of ``gateways`` goes through, or runs in a task of."""
    # Of a stand-in's spec nothing but ``via`` is known.
    needed = {gateway.spec.via or getattr(gateway.spec, "installvia", None) for gateway in gateways}
    leaves = [gateway for gateway in gateways if gateway.id not in needed]
    return leaves or list(gateways)


class End:
    """How the end of one gateway is awaited and, where that takes too long, forced."""

    def __init__(self, gateway: Any, deadline: Deadline) -> None:
        self.gateway = gateway
        self.io = gateway._io
        # Known for processes on this machine only.
        self.popen: Any = getattr(self.io, "popen", None)
        self.deadline = deadline
        self.ended = False

    def __call__(self) -> None:
        """Wait until the receiver has finished and the process is reaped."""
        self.gateway.join()
        self.io.wait()
        self.ended = True

    def within(self, timeout: float | None) -> bool:
        """Wait at most ``timeout`` seconds, for when no thread can be started."""
        if not isinstance(self.gateway, BaseGateway):
            self()  # of a stand-in nothing but its plain join() is known
            return True
        limit = Deadline(timeout)
        self.gateway.join(limit.remaining())
        if self.popen is not None:
            return self._reaped(limit.remaining())
        return not self.gateway.hasreceiver()  # type: ignore[attr-defined]

    def kill(self) -> None:
        """Interrupt, terminate and kill the process, a step apart.

        Without time between them it is killed only: an interrupt would have it begin to say where it was. What it wrote
        is not waited for much longer.
        """
        outputs = getattr(self.io, "outputs", None)
        if outputs is not None:
            outputs.hurry()
        step = self.deadline.step()
        if step and self.popen is not None and os.name == "posix":
            import signal  # lazy: start-up speed

            for signum in (signal.SIGINT, signal.SIGTERM):
                self.popen.send_signal(signum)
                if self._reaped(step):
                    return
        self.io.kill()

    def reap(self, grace: Deadline) -> None:
        """Wait for a process that has been killed, and for the receiver to see that."""
        if self.popen is not None and self._reaped(grace.remaining()):
            if isinstance(self.gateway, BaseGateway):
                self.gateway.join(RECEIVER_GRACE)
            self.io.wait()
            self.ended = True

    def warn_unless_ended(self) -> None:
        """Name a local process that even SIGKILL has not ended."""
        if self.ended or self.popen is None:
            return
        import warnings  # lazy: start-up speed

        warnings.warn(
            f"gateway {self.gateway.id!r}: process {self.popen.pid} could not be ended", RuntimeWarning, stacklevel=5
        )

    def _reaped(self, timeout: float | None) -> bool:
        """Whether the process has ended, after at most ``timeout`` seconds of waiting."""
        if self.popen.poll() is not None:
            return True
        try:
            self.popen.wait(timeout)
        except self.io.execmodel.subprocess.TimeoutExpired:
            return False
        return True
