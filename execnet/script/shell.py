"""An interactive Python prompt on a socket server: ``python -m execnet.script.shell host:port``."""

from __future__ import annotations

import sys

from execnet.script import command

PROGRAM = "python -m execnet.script.shell"


def main() -> int:
    """Connect to the server whose address the command line gives."""
    if len(sys.argv) != 2:
        sys.exit(f"usage: {PROGRAM} host:port")
    from execnet import __main__

    return __main__.main(["shell", f"socket={sys.argv[1]}"])


if __name__ == "__main__":
    sys.exit(command.run(PROGRAM, main))
