"""make demo: `python -m execnet` over every kind of gateway this machine can reach."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support.sshd import SshServer, executable

SPECS = ["popen//id=first", "popen//via=first", "socket//installvia=first"]
TIMEOUT_SECONDS = 120


def show(specs: list[str]) -> int:
    """Run `python -m execnet` over `specs`; its exit status."""
    command = [sys.executable, "-m", "execnet", *specs]
    print("$ python -m execnet", *specs, flush=True)
    # Not from the checkout: the installed package is what is shown.
    with tempfile.TemporaryDirectory() as elsewhere:
        return subprocess.run(command, cwd=elsewhere, timeout=TIMEOUT_SECONDS).returncode


def main() -> int:
    try:
        executable("sshd")
    except FileNotFoundError as missing:
        print(f"ssh is left out: {missing}")
        return show(SPECS)
    with tempfile.TemporaryDirectory() as folder:
        server = SshServer(Path(folder))
        try:
            return show([*SPECS, server.spec()])
        finally:
            server.close()


if __name__ == "__main__":
    sys.exit(main())
