"""Where output ends up: printed as whole lines, given to the program, kept, in a file, in a descriptor of our own.

A sink has ``write`` for bytes and ``end``, called by the carrier's thread alone, and neither raises: what can't be
written is lost, and the worker goes on.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

from execnet.gateway_base import is_ready_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    class Sink(Protocol):
        def write(self, data: bytes) -> None: ...

        def end(self) -> None: ...


LONGEST_LINE = 1 << 20  # bytes; of a longer one, what came is a line
KEPT = 1 << 20  # bytes that capture keeps
PAUSE = 0.01  # seconds between two tries, where a descriptor that others use must not block
STDERR = 2


class Lines:
    """Cuts what comes into whole lines for ``deliver``, which gets one or more, each with a newline at its end.

    A carriage return in a line ends it, as a newline does: so each state of a progress bar is a line of its own. At
    the end of a line, and at its beginning, it means nothing. The last line needs no newline.
    """

    def __init__(self, deliver: Callable[[bytes], None]) -> None:
        self._deliver = deliver
        self._begun: list[bytes] = []  # a line without its end
        self._size = 0

    def write(self, data: bytes) -> None:
        """Deliver the lines that are whole now."""
        self._size += len(data)
        # What ends with a carriage return may go on with the newline that belongs to it.
        goes_on = not (self._begun and self._begun[-1].endswith(b"\r"))
        if goes_on and b"\n" not in data and data.find(b"\r", 0, -1) < 0 and self._size <= LONGEST_LINE:
            self._begun.append(data)
            return
        text = b"".join([*self._begun, data])
        if b"\r" in text:
            text = _without_returns(text)
        end = text.rfind(b"\n") + 1
        if end:
            self._deliver(text[:end])
        self._keep(text[end:])

    def end(self) -> None:
        """Deliver a last line without its end."""
        last = b"".join(self._begun).rstrip(b"\r")
        self._keep(b"")
        if last:
            self._deliver(last + b"\n")

    def _keep(self, begun: bytes) -> None:
        if len(begun) > LONGEST_LINE:
            self._deliver(begun + b"\n")
            begun = b""
        self._begun, self._size = [begun] if begun else [], len(begun)


def _without_returns(text: bytes) -> bytes:
    """``text`` with newlines only, but for a carriage return that comes last."""
    last = b"\r" if text.endswith(b"\r") else b""
    text = text.rstrip(b"\r") if last else text
    lines = text.replace(b"\r\r\n", b"\r\n").splitlines(True)
    whole = [line if line.endswith(b"\n") and not line.endswith(b"\r\n") else _ended(line) for line in lines]
    if lines and not lines[-1].endswith((b"\n", b"\r")):
        whole[-1] = lines[-1]
    return b"".join(whole) + last


def _ended(line: bytes) -> bytes:
    return b"" if line == b"\r" else line.rstrip(b"\r\n") + b"\n"


class Printer:
    """Prints lines to ``sys.stdout`` or ``sys.stderr``, whatever that is now, each after ``[ID]``."""

    def __init__(self, name: str, gateway_id: str) -> None:
        self._name = name
        self._prefix = f"[{gateway_id}] "
        self._failed = False

    def __call__(self, lines: bytes) -> None:
        text = lines[:-1].decode("utf-8", "backslashreplace").replace("\n", f"\n{self._prefix}")
        text = f"{self._prefix}{text}\n"
        stream = None
        try:
            while stream is not getattr(sys, self._name):  # which may have been put back, and closed, just now
                stream = getattr(sys, self._name)
                error = _failure(stream, text)
                if error is None:
                    return
        except AttributeError:
            return  # there is none
        if stream is not None and not self._failed:
            self._failed = True
            complain(f"what gateway {self._prefix.strip()} writes to {self._name} can't be printed: {error}")


def _failure(stream: Any, text: str) -> Exception | None:
    """Write; why that failed, if it did."""
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = getattr(stream, "encoding", None) or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except Exception as error:  # closed, broken, full, or of a class of the program's own
        return error
    return None


def complain(text: str) -> None:
    """Say on stderr what went wrong, if somebody can read it."""
    with suppress(Exception):  # there may be no stderr, or it is closed, or that is what is broken
        sys.stderr.write(f"execnet: {text}\n")
        sys.stderr.flush()


def somebody_does_not_read() -> bool:
    """Whether one who writes to our standard output or error has to wait for its reader, or may have to."""
    for stream in (1, STDERR, sys.stdout, sys.stderr):
        with suppress(
            AttributeError, OSError, ValueError
        ):  # there is none, or it is no file of the system's, or closed
            if not is_ready_for("POLLOUT", stream if isinstance(stream, int) else stream.fileno(), False):
                return True
    return False


class Caller:
    """Gives each line to the program's own ``function(gateway, name, text)``; those of no gateway yet are printed."""

    def __init__(self, function: Callable[[Any, str, str], object], name: str, owner: Any) -> None:
        self._function = function
        self._name = name
        self._owner = owner
        self._failed = False

    def __call__(self, lines: bytes) -> None:
        gateway = self._owner.gateway
        if gateway is None:
            Printer(self._name, self._owner.id)(lines)
            return
        for text in lines[:-1].decode("utf-8", "backslashreplace").split("\n"):
            try:
                self._function(gateway, self._name, text)
            except BaseException as error:  # whatever it is: without this thread all workers would wait
                if not self._failed:
                    self._failed = True
                    import traceback  # lazy: it is rare

                    shown = "".join(traceback.format_exception(type(error), error, error.__traceback__))
                    complain(f"what output= of the group was given raised, told once:\n{shown.rstrip()}")
            self._owner.carrier.get_on()


class Nowhere:
    """Loses what is written."""

    def write(self, data: bytes) -> None:
        """Lose it."""

    def end(self) -> None:
        """Nothing."""


class Descriptor:
    """Writes to a descriptor of this process as it comes, where that is one that a child process would have."""

    def __init__(self, number: int) -> None:
        self._number = number

    def write(self, data: bytes) -> None:
        """Write all of it."""
        view = memoryview(data)
        with suppress(OSError):  # closed: nobody reads there
            # It is closed as well where another file has got its number: one that a process of ours would not inherit.
            while view and os.get_inheritable(self._number):
                try:
                    view = view[os.write(self._number, view) :]
                except BlockingIOError:
                    time.sleep(PAUSE)

    def end(self) -> None:
        """Nothing: it is not ours alone."""


class Kept:
    """Keeps the last MiB, and passes all on to ``onward``, if given."""

    def __init__(self, onward: Descriptor | None) -> None:
        self._onward = onward
        self._kept = bytearray()

    def write(self, data: bytes) -> None:
        """Keep and pass on."""
        self._kept += data
        if len(self._kept) > 2 * KEPT:
            del self._kept[:-KEPT]
        if self._onward is not None:
            self._onward.write(data)

    def end(self) -> None:
        """Nothing: it stays to be asked for."""

    def last(self, size: int = KEPT) -> bytes:
        """The last bytes."""
        return bytes(self._kept[-size:])


class File:
    """Appends to a file."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._failed = False

    def write(self, data: bytes) -> None:
        """Write all of it."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            if not self._failed:
                self._failed = True
                complain(f"output can't be written to {self._file.name}: {error}")

    def end(self) -> None:
        """Close it."""
        self._file.close()
