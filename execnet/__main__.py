"""The command ``execnet``, and ``python -m execnet``: interpreters, here and elsewhere, from a shell."""

from __future__ import annotations

import os
import sys

from execnet.script import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# What is named by the first argument; anything else is for `show`.
COMMANDS = ("show", "run", "shell", "rsync", "serve", "timeline")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with `arguments` (default: those of the process) and return its exit status.

    0: all went well; 1: it failed somewhere; 2: it was not asked rightly; 130: interrupted by Ctrl-C. Raises SystemExit
    where the arguments are none, execnet.script.command.OutputFailed where the result can't be written.
    """
    import importlib

    from execnet._command import common

    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words.pop(0) if words and words[0] in COMMANDS else ""
    program = f"{program_name()} {name}".rstrip()
    try:
        status: int = importlib.import_module(f"execnet._command.{name or 'show'}").main(program, words)
        return status
    except common.WrongUse as error:
        common.complain(program, str(error))
        return common.WRONG_USE
    except KeyboardInterrupt:
        return common.INTERRUPTED


def program_name() -> str:
    """How this program was called."""
    return "python -m execnet" if os.path.basename(sys.argv[0]) == "__main__.py" else "execnet"


def script() -> int:
    """The console script."""
    return command.run(program_name(), main)


if __name__ == "__main__":
    sys.exit(script())
