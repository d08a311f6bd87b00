"""The package's own socket server in its own process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from support.processes import end, free_port, wait_listening

PORT_ATTEMPTS = 5  # another program can take the free port before the server does
START_SECONDS = 10.0
MODULE = ("-m", "execnet.script.socketserver")


class SocketServer:
    """A running `python -m execnet.script.socketserver`; `hostport` is where it listens.

    `program` is how else it is run.
    """

    def __init__(
        self,
        python: str = sys.executable,
        program: Sequence[str] = MODULE,
        seconds: float = START_SECONDS,
        host: str = "127.0.0.1",
    ) -> None:
        for _ in range(PORT_ATTEMPTS):
            port = free_port()
            self.hostport = f"{host}:{port}"
            self.process = subprocess.Popen(
                [python, *program, self.hostport],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            listens = False
            try:
                listens = wait_listening(self.process, port, seconds)
            finally:
                if not listens:
                    end(self.process)
            if listens:
                return
        raise RuntimeError(f"the socket server did not start: exit status {self.process.returncode}")

    def spec(self, **extra: object) -> str:
        """The spec of a gateway on this server; `extra` are further keys."""
        keys = {"socket": self.hostport, **extra}
        return "//".join(f"{key}={value}" for key, value in keys.items())

    def close(self) -> None:
        """End the server."""
        end(self.process)
