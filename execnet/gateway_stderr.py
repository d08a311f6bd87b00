"""A process's standard error, passed through to our own, with its last lines kept."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from execnet.gateway_base import OneShotEvent, ThreadExecModel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

TAIL_SIZE = 16 * 1024  # bytes kept
TAIL_LINES = 40
CRASH = "Fatal Python error"  # the first line of what faulthandler tells of a crash, one for each frame of its stacks
CHUNK = 64 * 1024
# Seconds in which the rest must arrive once the process has ended: a child of its may hold its stderr open for ever.
LINGER = 0.1
STDERR = 2


class StderrTail:
    """Reads ``stream`` in a thread of its own until it ends, or until :meth:`finish`.

    Each descriptor has one owner, which alone closes it: that thread has the stream and what tells it to stop, and
    whoever is the first to take it from ``_stop_write`` has the other end of the latter. No wait here has a lock that
    a signal handler in the middle of it could not pass.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._tail = b""
        self._ended = OneShotEvent(ThreadExecModel())
        self._stop_read, stop_write = os.pipe()
        self._stop_write = [stop_write]
        try:
            # A real thread, whatever the execution model: it shares nothing but the tail.
            ThreadExecModel().start(self._run)
        except BaseException:
            self._close()
            self._stop()
            raise

    def _run(self) -> None:
        fd = self._stream.fileno()
        ready = self._readiness(fd)
        try:
            while fd in ready():
                chunk = os.read(fd, CHUNK)
                if not chunk:
                    break
                self._tail = (self._tail + chunk)[-TAIL_SIZE:]
                self._pass_on(chunk)
        finally:
            self._close()

    def _readiness(self, fd: int) -> Callable[[], list[int]]:
        import select  # lazy: start-up speed

        if sys.platform == "win32" or not hasattr(select, "poll"):
            return lambda: [fd]  # whoever holds the stream open then holds the thread, too
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(self._stop_read, select.POLLIN)
        return lambda: [ready for ready, _ in poll.poll()]

    def _close(self) -> None:
        try:
            self._stream.close()
        finally:
            os.close(self._stop_read)
            self._ended.set()

    def _stop(self) -> None:
        with suppress(IndexError):  # another thread has done it
            os.close(self._stop_write.pop())

    def _pass_on(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        with suppress(OSError):  # our own stderr is closed: nobody reads there
            # It is closed as well where another file has got its number: one that a process of ours would not inherit.
            while view and os.get_inheritable(STDERR):
                view = view[os.write(STDERR, view) :]

    def text(self, timeout: float) -> str:
        """The last lines, those of a crash from its first on, after at most ``timeout`` seconds for all to arrive."""
        self._ended.wait(timeout)
        lines = self._tail.decode("utf-8", "backslashreplace").splitlines()
        crash = next((at for at, line in enumerate(lines) if line.startswith(CRASH)), len(lines))
        return "\n".join(lines[min(crash, max(len(lines) - TAIL_LINES, 0)) :])

    def is_mid_line(self) -> bool:
        """Whether what has come does not end a line."""
        return self._tail[-1:] not in (b"", b"\n")

    def finish(self) -> None:
        """End the thread: the process has ended, and what it left arrives at once."""
        if not self._ended.wait(LINGER):
            self._stop()
            self._ended.wait(LINGER)
        self._stop()
