"""Keeps a socketserver running: starts another one each time it ends, until interrupted."""

from __future__ import annotations

import os
import subprocess
import sys
import time

PAUSE = 1.0  # seconds between two servers, so that one which can't start is no busy loop


def main() -> None:
    """Run ``socketserver.py`` with the arguments of this command, over and over."""
    server = os.path.join(os.path.dirname(os.path.abspath(__file__)), "socketserver.py")
    try:
        while True:
            command = [sys.executable, server, *sys.argv[1:]]
            print("starting subcommand:", " ".join(command), flush=True)
            subprocess.call(command)
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        print("leaving", flush=True)


if __name__ == "__main__":
    main()
