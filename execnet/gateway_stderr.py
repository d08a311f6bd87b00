"""A process's standard error, passed through to our own, with its last lines kept."""

from __future__ import annotations

import os
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO

TAIL_SIZE = 16 * 1024  # bytes kept
TAIL_LINES = 40
CHUNK = 64 * 1024
# Seconds in which the rest must arrive once the process has ended: a child of its may hold its stderr open for ever.
LINGER = 0.1
STDERR = 2


class StderrTail:
    """Reads ``stream`` in a thread of its own until it ends, or until :meth:`finish`."""

    def __init__(self, stream: IO[bytes]) -> None:
        # Both lazy: start-up speed. A real thread, whatever the execution model: it shares nothing but the tail.
        import threading
        from _thread import start_new_thread

        self._stream = stream
        self._tail = bytearray()
        self._stop_read, self._stop_write = os.pipe()
        self._ended = threading.Event()
        start_new_thread(self._run, ())

    def _run(self) -> None:
        import select  # lazy: start-up speed

        fd = self._stream.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(self._stop_read, select.POLLIN)
        try:
            while fd in [ready for ready, _ in poll.poll()]:
                chunk = os.read(fd, CHUNK)
                if not chunk:
                    break
                self._tail += chunk
                del self._tail[:-TAIL_SIZE]
                self._pass_on(chunk)
        finally:
            self._stream.close()
            os.close(self._stop_read)
            self._ended.set()

    def _pass_on(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        with suppress(OSError):  # our own stderr is closed: nobody reads there
            while view:
                view = view[os.write(STDERR, view) :]

    def text(self, timeout: float) -> str:
        """The last lines, after waiting at most ``timeout`` seconds for the end of the stream."""
        self._ended.wait(timeout)
        lines = bytes(self._tail).decode("utf-8", "backslashreplace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def finish(self) -> None:
        """End the thread: the process has ended, and what it left arrives at once."""
        if self._stop_write >= 0:
            self._ended.wait(LINGER)
            stop, self._stop_write = self._stop_write, -1
            os.close(stop)
            self._ended.wait(LINGER)
