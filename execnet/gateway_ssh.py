"""One ssh connection for several gateways to the same host.

Finding the host, exchanging keys and logging in is most of what an ssh gateway costs, for both machines. Where several
start at once, one ssh does that, and the others hand their sessions to it (OpenSSH's ControlMaster). Each gateway still
has an ssh process and a far process of its own. What can't use the shared connection connects by itself.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from execnet.xspec import XSpec

# OpenSSH's server allows ten sessions for a connection unless it is told otherwise; the first ssh's own is one of them.
SESSIONS = 9
# Below so many, connecting side by side is as fast.
WORTH_SHARING = 3
# Seconds between two looks for the socket, and seconds that the connection has for its end.
POLL, END_TIME = 0.005, 0.3


def shared(specs: list[XSpec]) -> dict[int, SshConnection]:
    """Connections for those of ``specs`` that can share one, by their index; each connection is being opened."""
    targets: dict[tuple[object, ...], list[int]] = {}
    for index, spec in enumerate(specs):
        if spec.ssh and not (spec.via or spec.newsession) and os.name == "posix":
            targets.setdefault((spec.ssh, spec.ssh_config), []).append(index)
    connections: dict[int, SshConnection] = {}
    for indices in targets.values():
        for first in range(0, len(indices), SESSIONS):
            users = indices[first : first + SESSIONS]
            if len(users) >= WORTH_SHARING:
                with suppress(OSError):  # each of them will say what is wrong
                    connections.update(dict.fromkeys(users, SshConnection(specs[users[0]])))
    return connections


class SshConnection:
    """An ssh process whose connection others use; it ends when the last of them has ended."""

    def __init__(self, spec: XSpec) -> None:
        # lazy: start-up speed
        import subprocess
        import tempfile
        import threading

        from execnet import gateway_io

        args = gateway_io.ssh_args(spec)
        if args[0] != "ssh":
            raise OSError(f"{args[0]} is not known to share connections")
        self._folder = tempfile.mkdtemp(prefix="execnet-")
        self._path = os.path.join(self._folder, "ssh")
        self._lock = threading.Lock()
        self._users: set[Any] = set()
        self._starting = True
        # It lives until its standard input ends, be it because this process does.
        sharing = ["-M", "-S", self._path, "-o", "ControlPersist=no"]
        try:
            self._popen = subprocess.Popen(
                ["ssh", *sharing, *args[1:-1], "exec cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
            )
        except OSError:
            os.rmdir(self._folder)
            raise

    def wait_until_open(self) -> None:
        """Wait until the connection can be used or has failed; without a deadline: someone may be typing a password."""
        while self._popen.poll() is None and not os.path.exists(self._path):
            time.sleep(POLL)

    def options(self) -> list[str]:
        """What tells an ssh to use the connection; without it, it connects by itself."""
        return ["-S", self._path]

    def use(self, io: Any) -> None:
        """Stay open until ``io`` is released."""
        with self._lock:
            self._users.add(io)

    def release(self, io: Any) -> None:
        """``io`` has ended; may be said again."""
        with self._lock:
            self._users.discard(io)
            last = not self._starting and not self._users
        if last:
            self.close()

    def all_started(self) -> None:
        """No more users will come."""
        with self._lock:
            self._starting = False
            unused = not self._users
        if unused:
            self.close()

    def close(self) -> None:
        """End the connection, and with it the sessions of those that still use it; may be called again."""
        # lazy: start-up speed
        import shutil
        import subprocess

        with self._lock:
            assert self._popen.stdin is not None
            self._popen.stdin.close()
            try:
                self._popen.wait(END_TIME)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
            shutil.rmtree(self._folder, ignore_errors=True)
