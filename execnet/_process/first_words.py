"""What a local process writes to its standard error while it starts: shown as it comes, and kept in case it fails.

The process begins with a pipe in the place of its standard error, and with ours under another number. Just before it
answers it puts ours back (`take_back`), so a worker's life is as if there had been no pipe. Whoever waits for the
answer passes on what comes, never more than our standard error takes at once: a slow reader holds up the process, not
us. After the answer nobody else has the pipe, and it is closed. If somebody has (a wrapper around the worker, a child
of it, Jython, which can't put ours back), the carrier of `execnet._output` passes on what comes until they end.

There is none of this where it would be noticed. Python 2 asks only once, when it starts, whether its standard error is
a terminal; green threads would wait in another way. And none with ssh: its client writes to the descriptor that it was
started with until it ends, and nobody can change that, so all that the worker writes would go through our process.
"""

from __future__ import annotations

import os
import select
import sys
import time
from io import FileIO

from execnet.gateway_base import is_ready_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from execnet._output.carrier import Pipe

STDERR = 2
CHUNK = 512  # bytes: what a pipe or terminal that takes any takes at once
KEPT = 16 * 1024  # bytes, at least
SHOWN = 40  # lines of an error
PATIENCE = 1.0  # seconds a process's end waits for what it left to be written

# Runs on the far side, on Python 2.7 and newer (of which Jython has no dup2), just before it answers.
TAKE_BACK = """\
import os
try:
    if hasattr(os, "dup2") and os.fstat({number})[1:3] == {identity}:
        os.dup2({number}, 2)
        os.close({number})
except OSError:
    pass  # a wrapper has closed it
"""


class FirstWords:
    """Those of one process; raises OSError where there is no standard error, or no pipe."""

    def __init__(self) -> None:
        self._kept = b""
        self._unwritten = b""
        self._stream: Pipe | None = None
        # Files, not numbers, and no step in between: an exception anywhere leaves nothing open that nobody refers to.
        original = FileIO(os.dup(STDERR), "wb")
        pipe, self._far_end = map(FileIO, os.pipe(), ("rb", "wb"))
        self._ends: tuple[FileIO, FileIO] | None = (original, pipe)
        status = os.fstat(STDERR)
        self.take_back = TAKE_BACK.format(number=original.fileno(), identity=(status.st_ino, status.st_dev))

    def popen_options(self, passed: tuple[int, ...]) -> dict[str, Any]:
        """What `subprocess.Popen` is to be given, with the descriptors that it is to pass anyway."""
        assert self._ends is not None
        return {"stderr": self._far_end.fileno(), "pass_fds": (*passed, self._ends[0].fileno())}

    def started(self) -> None:
        """The process has what was made for it, or never will."""
        self._far_end.close()

    def wait_readable(self, descriptor: int, timeout: float | None) -> bool:
        """Wait at most ``timeout`` seconds (None: no limit) until ``descriptor`` has input or its end; whether it has.

        What the process writes meanwhile is passed on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._pass_on()
            events = {descriptor: "POLLIN"}
            if self._ends is not None:
                original, pipe = self._ends
                events.update({original.fileno(): "POLLOUT"} if self._unwritten else {pipe.fileno(): "POLLIN"})
            ready = _ready(events, None if deadline is None else max(0.0, deadline - time.monotonic()))
            if not ready or descriptor in ready:
                return bool(ready)

    def over(self) -> None:
        """The start is over: pass on what is left, and what may still come."""
        self._pass_on()
        if self._ends is not None:
            self._carry_on(*self._ends)

    def finish(self) -> None:
        """The process has ended: wait until what it left is written, as long as somebody reads it.

        Several threads may see the end, and each of them waits.
        """
        if self._stream is not None and not self._stream.ended.is_set():
            self._stream.settle().wait(PATIENCE)

    def text(self) -> str:
        """The last lines that came during the start."""
        return "\n".join(self._kept.decode("utf-8", "backslashreplace").splitlines()[-SHOWN:])

    def _pass_on(self) -> None:
        """Write what has come, as far as it is taken; close all at its end."""
        while self._ends is not None:
            original, pipe = self._ends
            if not (self._unwritten or self._read(pipe)) or not is_ready_for("POLLOUT", original.fileno()):
                return
            try:
                self._unwritten = self._unwritten[os.write(original.fileno(), self._unwritten) :]
            except BlockingIOError:
                return
            except OSError:  # nobody reads it any more
                self._unwritten = b""

    def _read(self, pipe: FileIO) -> bool:
        if not is_ready_for("POLLIN", pipe.fileno()):
            return False
        self._unwritten = os.read(pipe.fileno(), CHUNK)
        self._kept = self._kept[-KEPT:] + self._unwritten
        if not self._unwritten:
            self.close()
        return bool(self._unwritten)

    def _carry_on(self, original: FileIO, pipe: FileIO) -> None:
        from execnet._output.carrier import Carrier, Pipe  # lazy: only where somebody else has the pipe
        from execnet._output.sinks import Descriptor

        carrier, sink = Carrier(), Descriptor(STDERR)
        carrier.order(sink.write, self._unwritten)
        self._stream = Pipe(carrier, sink, os.dup(pipe.fileno()))
        self.close()

    def close(self) -> None:
        """Let go of what there is; may be called again."""
        ends, self._ends = self._ends, None
        for file in (self._far_end, *(ends or ())):
            file.close()


def _ready(events: dict[int, str], timeout: float | None) -> list[int]:
    """The descriptors for which their event has come, or that are broken, after a wait; none on Windows."""
    if sys.platform == "win32":
        return []
    poll = select.poll()
    for descriptor, event in events.items():
        poll.register(descriptor, getattr(select, event))
    return [descriptor for descriptor, _ in poll.poll(None if timeout is None else timeout * 1000)]
