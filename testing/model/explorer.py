"""Compile the explorer together with the two state machines of csrc/, and run it: all worlds, or with --short the small
ones; with a part of a name those worlds alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
MACHINES = [CSRC / "connection" / name for name in ("reading.c", "writing.c")]
WORLDS = sorted(HERE.glob("*.c"))
FLAGS = "-std=c11 -O2 -g -Wall -Wextra -Wno-missing-field-initializers -DEXECNET_MODEL".split()


def compiler(flags: list[str] | None = None) -> list[str]:
    """The command that compiles, with -Werror unless other `flags` are given."""
    includes = [f"-I{folder}" for folder in (HERE / "include", CSRC)]
    return [*os.environ.get("CC", "cc").split(), *FLAGS, *(["-Werror"] if flags is None else flags), *includes]


def build(program: Path, files: list[Path], flags: list[str] | None = None) -> None:
    """Compile sources, and link them with objects. CalledProcessError, with the compiler's words, if that fails."""
    subprocess.run([*compiler(flags), *files, "-o", program], check=True, capture_output=True, text=True)


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        try:
            program = Path(folder) / "explore"
            build(program, [*WORLDS, *MACHINES])
        except subprocess.CalledProcessError as exc:
            print(exc.stderr, file=sys.stderr)
            return 1
        return subprocess.run([program, *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
