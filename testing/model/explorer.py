"""Compile the explorer together with the two state machines of csrc/, and run it: all worlds, or with --short the small
ones; with a part of a name those worlds alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
MACHINES = [HERE.parents[1] / "csrc" / name for name in ("reading.c", "writing.c")]
FLAGS = "-std=c11 -O2 -g -Wall -Wextra -Wno-missing-field-initializers -DEXECNET_MODEL".split()


def build(program: Path, machines: list[Path] = MACHINES, flags: list[str] | None = None) -> Path:
    """Compile `machines` and the explorer into `program`. CalledProcessError, with its words, if that fails."""
    sources = [*sorted(HERE.glob("*.c")), *machines]
    command = [*os.environ.get("CC", "cc").split(), *FLAGS, *(["-Werror"] if flags is None else flags)]
    command += [f"-I{HERE / 'include'}", f"-I{MACHINES[0].parent}", *map(str, sources), "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return program


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        try:
            program = build(Path(folder) / "explore")
        except subprocess.CalledProcessError as exc:
            print(exc.stderr, file=sys.stderr)
            return 1
        return subprocess.run([program, *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
