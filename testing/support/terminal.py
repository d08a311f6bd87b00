"""A program on a terminal of its own, for tests of what people type and see."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path

from support.processes import end, wait_until

try:
    import readline
except ImportError:
    readline = None  # type: ignore[assignment]

# The first terminal that the leader of a session opens is the one whose keys send its signals.
LAUNCH = """
import os, sys
terminal = os.open(sys.argv[1], os.O_RDWR)
for descriptor in range(3):
    os.dup2(terminal, descriptor)
os.execvp(sys.argv[2], sys.argv[2:])
"""
SIZE = (24, 80)
CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """Runs `command`; `seen` is all that it has shown. As a context manager it ends the program."""

    def __init__(self, *command: str, env: Mapping[str, str]) -> None:
        self.seen = ""
        self._unread = ""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", *SIZE, 0, 0))
        name = os.ttyname(slave)
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, name, *command],
            env={**env, "COLUMNS": "80"},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._slave = slave  # what has been shown stays to be read after the program's end

    def type(self, text: str) -> None:
        """Press the keys of `text`."""
        os.write(self._master, text.encode())

    def expect(self, text: str, seconds: float = 30.0) -> str:
        """Wait until `text` is shown, after what was waited for before; what was shown up to its end."""
        deadline = time.monotonic() + seconds
        while text not in self._unread:
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"not shown within {seconds} s: {text!r}, but {self._unread!r} after {self.seen!r}")
            self._unread += os.read(self._master, 1 << 16).decode("utf-8", "replace")
        shown, _, self._unread = self._unread.partition(text)
        shown += text
        self.seen += shown
        return shown

    def expect_question(self, text: str, seconds: float = 30.0) -> str:
        """As `expect`, and then wait until the program waits for keys.

        Between two lines readline gives the terminal its own mode back, in which a Ctrl-D ends no later line; and a
        Ctrl-C that comes while Python is about to wait is taken with the next key. So it is at any Python prompt.
        """
        shown = self.expect(text, seconds)
        wait_until(self._is_read, seconds, f"somebody who reads keys after {text!r}")
        return shown

    def _is_read(self) -> bool:
        """Whether the program waits, in the mode in which its lines are edited where it has readline."""
        is_cooked = termios.tcgetattr(self._slave)[3] & termios.ICANON
        state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "S" and not (readline and is_cooked)

    def wait(self, seconds: float = 30.0) -> int:
        """The program's exit status."""
        return self.process.wait(seconds)

    def rest(self) -> str:
        """What it has shown since, once it has ended."""
        os.write(self._slave, b"\0")
        return self.expect("\0")[:-1]

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        end(self.process)
        os.close(self._master)
        os.close(self._slave)
