"""Ends an ``execnet.script.socketserver``: ``python -m execnet.script.quitserver host:port``."""

from __future__ import annotations

import sys


def quit_server(host: str, port: int, timeout: float = 10.0) -> None:
    """Tell the server to leave, and wait up to ``timeout`` seconds until it has closed this connection.

    Raises OSError where nobody listens or the time is over.
    """
    import socket  # lazy: start-up speed

    with socket.create_connection((host, port), timeout=timeout) as sock:
        sock.sendall(b"'raise KeyboardInterrupt'\n")
        while sock.recv(1024):
            pass


def main() -> None:
    """Quit the server whose address the command line gives."""
    host, colon, port = sys.argv[1].rpartition(":") if len(sys.argv) == 2 else ("", "", "")
    if not colon or not port.isdigit():
        sys.exit("usage: python -m execnet.script.quitserver host:port")
    try:
        quit_server(host or "localhost", int(port))
    except (OSError, OverflowError, ValueError) as error:  # the last two: no port, no host
        sys.exit(f"cannot quit the server on {sys.argv[1]}: {error}")


if __name__ == "__main__":
    main()
