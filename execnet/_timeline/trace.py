"""The file: an array of events in JSON, an event a line, as Chrome's trace viewer and Perfetto read it.

Whenever it is written to, its end is written anew, in the same write: so it is whole at any time, also after a kill. A
kill may break off a write where a page of the file ends: so none goes beyond that, and no event but a longer one does.
What a full disk has broken off is taken back.
"""

from __future__ import annotations

import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from io import FileIO
    from typing import Any

    Event = dict[str, Any]

END = b"\n]\n"
NEXT = b",\n"
# Those of which there are most, in a third of the time: what was sent or received, and both ends of an arrow.
ITEMS = '{"pid":%d,"tid":%d,"ts":%.3f,"ph":"X","dur":%.3f,"cat":"%s","name":"%s","args":{"gateway":%s,"channel":%d%s}}'
ARROW_BEGINS = '{"pid":%d,"tid":%d,"ts":%.3f,"ph":"s","cat":"item","name":"item","id":"%d.%d"}'
ARROW_ENDS = '{"pid":%d,"tid":%d,"ts":%.3f,"ph":"f","bp":"e","cat":"item","name":"item","id":"%d.%d"}'
PAGE = 4096  # bytes, of which the system takes all or none
# What is read of an event, each of one kind, and what each phase has at least.
TEXTS, NUMBERS, WHOLE = ("ph", "name", "cat", "id"), ("ts", "dur"), ("pid", "tid")
TEXTS_OF_ARGS, NUMBERS_OF_ARGS = ("name", "gateway", "text", "error"), ("channel", "items", "bytes", "waited")
NEEDED = {"M": (), "X": ("ts", "dur", "args"), "s": ("ts", "id"), "f": ("ts", "id")}
MOST = 1e18  # microseconds, or whatever: more is no number to count with


class Trace:
    """The file that is written; another process that writes to it already keeps it, and ours has our number added."""

    def __init__(self, path: str) -> None:
        self.path, self._file = path, _opened(path)
        if not _is_ours(self._file.fileno()):
            self._file.close()
            self.path = f"{path}.{os.getpid()}"
            self._file = _opened(self.path)
        self._file.truncate(0)
        self._file.write(b"[" + END)
        self._separator = b"\n"
        self._whole = 1  # where its end is, or was before a write that is under way

    def write(self, lines: Iterable[str]) -> None:
        """Append events."""
        self._whole = at = self._file.seek(-len(END), os.SEEK_END)
        piece = b""
        for line in lines:
            event = self._separator + line.encode()
            room = PAGE - (at + len(piece)) % PAGE
            if room < len(event) + len(END):
                room += PAGE if room < len(NEXT) else 0
                self._put(at, piece + self._separator[:-1].ljust(room - 1) + b"\n")
                self._whole = at + len(piece)
                at, piece, event = self._whole + room, b"", line.encode()
            piece += event
            self._separator = NEXT
        if piece:
            self._put(at, piece + END)

    def _put(self, at: int, data: bytes) -> None:
        self._file.seek(at)
        is_put = False
        try:
            while data:  # with a full disk the second write tells why
                data = data[self._file.write(data) :]
            is_put = True
        finally:
            if not is_put:
                self._file.seek(self._whole)
                self._file.write(END)
                self._file.truncate()

    def close(self) -> None:
        """Close it; from then on it is not ours."""
        self._file.close()


def _opened(path: str) -> FileIO:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)


def _is_ours(descriptor: int) -> bool:
    """Whether no other process writes to the file; from then on none of those that ask."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, BlockingIOError)  # not every file system can tell
    return True


_encode = json.JSONEncoder(separators=(",", ":")).encode


def line(**event: object) -> str:
    """An event."""
    return _encode(event)


def read(path: str) -> list[Event]:
    """The events of a file; what is cut off in the middle of one is left out. ValueError where it is no such file."""
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read()
    if not text.startswith("["):
        raise ValueError(f"{path}: not a timeline of execnet")
    events = []
    for number, part in enumerate(text.splitlines()[1:]):
        try:
            event = json.loads(part.rstrip(", "))
        except ValueError:
            continue
        except RecursionError:
            event = None
        if not _is_event(event):
            raise ValueError(f"{path}: line {number + 2} is no event")
        events.append(event)
    return events


def _is_event(event: Any) -> bool:
    """Whether it has all that is read of such an event, as it is read."""
    if not isinstance(event, dict) or not isinstance(event.get("args", {}), dict):
        return False
    args = event.get("args", {})
    texts = [event.get(key, "") for key in TEXTS] + [args.get(key, "") for key in TEXTS_OF_ARGS]
    whole = [event.get(key, 0) for key in WHOLE]
    numbers = [event.get(key, 0) for key in NUMBERS] + [args.get(key, 0) for key in NUMBERS_OF_ARGS] + whole
    if not (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(number, int) for number in whole)
        and all(isinstance(number, (int, float)) and abs(number) < MOST for number in numbers)
    ):
        return False
    needed = (*WHOLE, "ph", "name", *NEEDED.get(event.get("ph", ""), ("ts",)))
    counts = event.get("cat") == "send" or "bytes" in args
    return all(key in event for key in needed) and (not counts or "items" in args)
