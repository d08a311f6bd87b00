"""What the commands have in common: output that may be closed, full, or unable to show every character."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CANNOT_WRITE = 2
BROKEN_PIPE = 141  # what a shell tells of a program that was ended by SIGPIPE
READ_ONLY, WRITABLE = os.O_RDONLY, os.O_WRONLY


class OutputFailed(Exception):
    """Standard output takes nothing; its argument is the OSError."""


def show(text: str) -> None:
    """Print ``text``, at once; raises OutputFailed."""
    write(text + "\n")


def write(text: str) -> None:
    """Write ``text`` to standard output, at once; raises OutputFailed."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        raise OutputFailed(error) from None


def run(program: str, main: Callable[[], int]) -> int:
    """Run ``main`` and return the exit status of the process.

    As with other tools, a reader of the output that has gone away (``| head -1``) is no error to speak of;
    any other failure to write is one line on stderr.
    """
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a name may hold any bytes
    try:
        try:
            return main()
        finally:
            write("")  # what argparse has printed
    except OutputFailed as failure:
        (error,) = failure.args
        # The interpreter flushes again when it ends.
        os.dup2(os.open(os.devnull, WRITABLE), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return BROKEN_PIPE
        with suppress(OSError):
            print(f"{program}: cannot write the output: {error.strerror}", file=sys.stderr, flush=True)
        return CANNOT_WRITE


def _open_closed_streams() -> None:
    """Let nothing else get the numbers of closed standard streams.

    Reading then finds the end, writing to stdout fails as it would have, what is told to stderr is lost.
    """
    for number, (name, flags) in enumerate([("stdin", READ_ONLY), ("stdout", READ_ONLY), ("stderr", WRITABLE)]):
        if getattr(sys, name) is None and os.open(os.devnull, flags) == number:
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115 -- for good
