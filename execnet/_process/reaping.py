"""Processes that one thread may signal while another one reaps them."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# What processes are started with, by the Popen that each is made of.
_made: dict[Any, Any] = {}


def popen_class(popen: Any) -> Any:
    """The Popen of the standard library, made for several threads; what is another one's is given back as it is."""
    if not isinstance(popen, type) or popen.__module__ != "subprocess":
        return popen
    return _made.get(popen) or _made.setdefault(popen, _for_threads(popen))


def _for_threads(popen: Any) -> Any:
    class Popen(popen):  # type: ignore[misc, unused-ignore]
        """A process which another thread, such as the receiver of its gateway, may reap at any time.

        It knows whether this program has ``signalled`` it.
        """

        signalled = False

        def send_signal(self, number: int) -> None:
            """Send the signal, unless the process has ended; never to another one that has got its number since."""
            self.signalled = self.signalled or bool(number)
            if self.poll() is None and not send_signal(self.pid, number, self._is_unreaped):
                super().send_signal(number)

        def wait(self, timeout: float | None = None) -> Any:
            """As in the standard library, even where eventlet took away select.poll, by which CPython 3.15 waits."""
            import select  # lazy: start-up speed

            if timeout is None or sys.platform == "win32" or hasattr(select, "poll"):
                return super().wait(timeout)
            import subprocess  # lazy: start-up speed
            import time  # lazy: start-up speed

            deadline = time.monotonic() + timeout
            while self.poll() is None:
                if time.monotonic() > deadline:
                    raise subprocess.TimeoutExpired(self.args, timeout)
                time.sleep(0.005)
            return self.returncode

        def _is_unreaped(self, descriptor: int) -> bool:
            # What is no child of ours has got the number after the process was reaped.
            if sys.platform == "linux":
                with suppress(ChildProcessError):
                    os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                    return self.returncode is None
            return False

        def await_end(self) -> None:
            """Wait until the process has ended, without reaping it, where that can be had.

            So whoever asks meanwhile, in whichever thread, does not wait for the one that waits.
            """
            if sys.platform != "win32" and hasattr(os, "waitid"):
                with suppress(ChildProcessError):  # another thread has reaped it
                    os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    return Popen


def send_signal(pid: int, number: int, is_it: Callable[[int], bool]) -> bool:
    """Send a signal to a process by a descriptor for it; false where the system has none, and nothing was done.

    The descriptor stands for whichever process has the number when it is opened, and for no other one ever: ``is_it``
    is asked then whether that is the right one.
    """
    import signal  # lazy: start-up speed

    if sys.platform != "linux" or not (hasattr(os, "P_PIDFD") and hasattr(signal, "pidfd_send_signal")):
        return False
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except OSError:  # not of this kernel, forbidden, or too many files are open
        return False
    try:
        if is_it(descriptor):
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        pass  # it has been reaped
    except OSError:  # not of this kernel, or forbidden: the usual way tells
        return False
    finally:
        os.close(descriptor)
    return True
