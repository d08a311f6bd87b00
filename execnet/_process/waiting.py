"""Waiting for a process at the other end: for its bytes, and for its end where it has failed."""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from execnet.gateway_base import ExecModel

LAST_WORDS = 0.5  # seconds a process that failed to start has for ending and for its output
LAST_WORDS_SIZE = 8192  # bytes of that output worth keeping
KILL_TIME = 5.0  # seconds after which a killed process is given up on


def patience(output: bytes, deadline: float) -> float:
    """Seconds left for a process to end by itself; none for one that floods us."""
    return 0.0 if len(output) >= LAST_WORDS_SIZE else max(0.0, deadline - time.monotonic())


def wait_readable(execmodel: ExecModel, descriptor: int, timeout: float | None) -> bool:
    """Wait at most ``timeout`` seconds (None: no limit) until ``descriptor`` has input or its end; whether it has.

    Yes, where that can't be asked: then whoever reads waits.
    """
    import select  # lazy: start-up speed

    if sys.platform == "win32":
        return True
    if not hasattr(select, "poll"):  # which eventlet takes away, and only one green thread at a time may select()
        execmodel.sleep(0.005)
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if execmodel.backend in ("thread", "main_thread_only"):
        return bool(poll.poll(None if timeout is None else timeout * 1000))
    # A green thread must not block the others: it looks, and lets them run in between.
    deadline = None if timeout is None else time.monotonic() + timeout
    while not poll.poll(0):
        if deadline is not None and time.monotonic() > deadline:
            return False
        execmodel.sleep(0.005)
    return True
