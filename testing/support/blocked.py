"""Threads that wait: starting them, seeing that they do, interrupting the main thread when it does."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .processes import wait_until

SECONDS = 20.0


class Call:
    """A call in a thread of its own; `result()` waits for what it returns, or raises."""

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._call = (function, args, kwargs)
        self._error: BaseException | None = None
        self._value: Any = None
        self.ended_at = 0.0
        self.thread = threading.Thread(target=self._run, name=f"call of {function!r}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        function, args, kwargs = self._call
        try:
            self._value = function(*args, **kwargs)
        except BaseException as error:
            self._error = error
        self.ended_at = time.monotonic()

    def result(self, timeout: float = SECONDS) -> Any:
        """What the call returned; raises what it raised, TimeoutError where it has not ended."""
        self.thread.join(timeout)
        if self.thread.is_alive():
            raise TimeoutError(f"{self._call[0]!r} is still running after {timeout} seconds")
        if self._error is not None:
            raise self._error
        return self._value

    def await_blocked(self) -> Call:
        """Wait until the thread waits for something."""
        wait_until(lambda: self.thread.native_id, SECONDS, "the thread's start")
        try:
            await_blocked(self.thread.native_id or 0)
        except FileNotFoundError:  # of the thread
            raise AssertionError(f"{self._call[0]!r} did not wait, but gave {self.result()!r}") from None
        return self


#: A main thread that waits looks for signals so often (seconds).
LOOKS_EVERY = 0.05


def _switches(tid: int, pid: int) -> tuple[bool, int]:
    lines = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/task/{tid}/status").read_text().splitlines())
    return lines["State"].startswith("S"), int(lines["voluntary_ctxt_switches"])


def await_blocked(tid: int, pid: int | None = None) -> None:
    """Wait until the thread of kernel id tid, of this or another process, sleeps and wakes only to look for signals."""
    pid = pid or os.getpid()
    (_, before), since = _switches(tid, pid), time.monotonic()

    def quiet() -> bool:
        nonlocal before, since
        (sleeps, now), elapsed = _switches(tid, pid), time.monotonic() - since
        if not sleeps or now - before > elapsed / LOOKS_EVERY:
            before, since = now, time.monotonic()
        # Longer than the interval at which a thread asks for the GIL.
        return time.monotonic() - since > 0.015

    wait_until(quiet, SECONDS, f"thread {tid} waiting")


def interrupted_after(function: Callable[..., Any], *args: Any) -> float:
    """Call function in the main thread and interrupt it when it waits; the seconds from SIGINT to KeyboardInterrupt."""
    assert threading.current_thread() is threading.main_thread()
    main = threading.get_native_id()
    returned = False
    at = [0.0]

    def interrupt() -> None:
        await_blocked(main)
        if not returned:
            at[0] = time.monotonic()
            os.kill(os.getpid(), signal.SIGINT)

    interrupter = Call(interrupt)
    try:
        result = function(*args)
    except KeyboardInterrupt:
        took = time.monotonic() - at[0]
        interrupter.result()
        return took
    returned = True
    interrupter.result()
    raise AssertionError(f"{function!r} was not interrupted, it returned {result!r}")
