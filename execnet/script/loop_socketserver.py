"""Keeps a socketserver running: starts another one each time it ends, until interrupted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress

PAUSE = 1.0  # seconds between two servers, so that one which can't start is no busy loop


def main() -> None:
    """Run ``socketserver.py`` with the arguments of this command, over and over."""
    server = os.path.join(os.path.dirname(os.path.abspath(__file__)), "socketserver.py")
    command = [sys.executable, server, *sys.argv[1:]]
    try:
        while True:
            say("starting subcommand:", " ".join(command))
            try:
                subprocess.call(command)
            except OSError as error:  # out of processes, for one
                say("cannot start it:", str(error))
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        say("leaving")


def say(*what: str) -> None:
    """Print, unless nobody can read it: that is no reason to end."""
    with suppress(OSError):
        print(*what, flush=True)


if __name__ == "__main__":
    main()
