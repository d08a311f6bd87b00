"""Why a gateway died: what its process, its standard error and the kernel's counters tell."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from execnet.gateway_base import INTERRUPTED, GatewayDied, is_ready_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from execnet._output.streams import Outputs
    from execnet.xspec import XSpec

# Seconds a process has for ending after its connection, and its last words for arriving. Whoever waits on a
# channel waits as long.
REAP_TIME = 0.1
# And before people are told how it ended, who don't wait.
TELL_TIME = 1.0
# Exit statuses of what people have ended from the terminal that they share with this program.
BY_CTRL_C = (INTERRUPTED, -2)
LAST_WORDS = "; its last words on stderr:\n"

# The kernel's counts of processes it killed for lack of memory: of the system, and of this process's control group.
_OOM_COUNTS = ("/proc/vmstat", "/sys/fs/cgroup/memory.events", "/sys/fs/cgroup{group}/memory.events")
_seen_oom_kills: list[int] = []


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9; ``signal 99`` where it has no name here."""
    import signal  # lazy: start-up speed

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def watch_memory() -> None:
    """Note how many processes the kernel has killed so far for lack of memory."""
    if not _seen_oom_kills:
        _seen_oom_kills.append(_oom_kills())


def died(io: Any, spec: XSpec, gateway_id: str, end: EOFError) -> GatewayDied:
    """The error for the waiters of a gateway whose input ended with ``end``; waits REAP_TIME for its process to end."""
    exit_status = getattr(io, "exit_status", None)
    returncode = exit_status(REAP_TIME) if exit_status else None
    pid = getattr(getattr(io, "popen", io), "pid", None)
    outputs = getattr(io, "outputs", None)
    if outputs is not None:
        outputs.settle_last()
    stderr = stderr_of(io, REAP_TIME)
    text = f"gateway {gateway_id!r} ({spec}) died: {_what_happened(io, spec, pid, returncode)}{cut_short(end)}"
    if stderr:
        text += f"{LAST_WORDS}{stderr}"
    error = GatewayDied(text)
    error.gateway_id, error.spec = gateway_id, str(spec)
    error.pid, error.returncode, error.stderr = pid, returncode, stderr
    return error


def stderr_takes_a_line() -> bool:
    """Whether whoever writes a line to stderr is sure not to wait for a reader of it."""
    try:
        return is_ready_for("POLLOUT", sys.stderr.fileno(), False)
    except (AttributeError, OSError, ValueError):  # there is none, or it is no file of the system's, or closed
        return False


def tell_people(error: GatewayDied, io: Any, spec: XSpec) -> None:
    """Write one line to stderr about a death; where its process had not ended, TELL_TIME is waited for that.

    Nothing of what the program, or people by Ctrl-C, have ended themselves, nor where that which a gateway goes through
    is gone, of which it is told; nothing at all with EXECNET_QUIET.
    """
    if spec.installvia or getattr(io, "via_error", None) or os.environ.get("EXECNET_QUIET"):
        return
    text, returncode = str(error).partition(LAST_WORDS)[0], error.returncode
    if returncode is None and hasattr(io, "exit_status"):
        returncode = io.exit_status(TELL_TIME)
        if returncode is not None:
            text = f"gateway {error.gateway_id!r} ({spec}) died: {_what_happened(io, spec, error.pid, returncode)}"
    signalled = any(getattr(process, "signalled", False) for process in (io, getattr(io, "popen", None)))
    if signalled or returncode in BY_CTRL_C:
        return
    outputs = getattr(io, "outputs", None)
    begin = "\n" if outputs is not None and outputs.is_mid_line() else ""
    with suppress(Exception):  # there may be no stderr, or it is closed: no reason for the receiver to end
        sys.stderr.write(f"{begin}execnet: {text}\n")
        sys.stderr.flush()


def cut_short(end: EOFError) -> str:
    """What ``end`` tells of a message that was cut off; nothing where the input ended between two."""
    text = str(end)
    cut = text.startswith("expected") or ("header, expected" in text and not text.endswith("got 0"))
    return f"; in the middle of a message: {text}" if cut else ""


def _what_happened(io: Any, spec: XSpec, pid: int | None, returncode: int | None) -> str:
    if spec.socket:
        return f"the connection to {io.remoteaddress} ended"
    program = "ssh" if spec.ssh else "its process"
    process = f"its process {pid}" if spec.popen and pid else f"{program} (pid {pid})"
    if returncode is None:
        via = getattr(io, "via_error", None)
        return f"what it goes through is gone: {via}" if via else f"{process} has closed the connection"
    if returncode < 0:
        return f"{process} was killed by {signal_name(-returncode)}{_out_of_memory(-returncode)}"
    if returncode == 255 and (spec.ssh or spec.vagrant_ssh):
        return f"{process} exited with status 255: the connection to {io.remoteaddress} was lost"
    return f"{process} exited with status {returncode}"


def stderr_of(io: Any, timeout: float) -> str:
    """The last lines of a captured stderr, waiting at most ``timeout`` seconds for what has come; else empty."""
    outputs: Outputs | None = getattr(io, "outputs", None)
    return "" if outputs is None else outputs.last_words(timeout)


def _out_of_memory(number: int) -> str:
    if number != 9 or not _seen_oom_kills:
        return ""
    before, now = _seen_oom_kills[0], _oom_kills()
    _seen_oom_kills[0] = now
    return " (out of memory?)" if now > before else ""


def _oom_kills() -> int:
    group = ""
    with suppress(OSError), open("/proc/self/cgroup") as lines:
        group = next((line.rstrip().partition("::")[2] for line in lines if line.startswith("0::")), "")
    total = 0
    for path in dict.fromkeys(template.format(group=group.rstrip("/")) for template in _OOM_COUNTS):
        with suppress(OSError), open(path) as lines:
            total += sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return total
