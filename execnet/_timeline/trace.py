"""The file: an array of events in JSON, an event a line, as Chrome's trace viewer and Perfetto read it.

Whenever it is written to, its end is written anew, in the same write: so it is whole at any time, also after a kill.
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

    def write(self, lines: Iterable[str]) -> None:
        """Append events."""
        data = ",\n".join(lines).encode()
        if data:
            self._file.seek(-len(END), os.SEEK_END)
            self._file.write(self._separator + data + END)
            self._separator = b",\n"

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


def line(**event: object) -> str:
    """An event."""
    return json.dumps(event, separators=(",", ":"))


def read(path: str) -> list[Event]:
    """The events of a file; what is cut off in the middle of one is left out. ValueError where it is no such file."""
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read()
    if not text.startswith("["):
        raise ValueError(f"{path}: not a timeline of execnet")
    events = []
    for number, part in enumerate(text.splitlines()[1:]):
        try:
            event = json.loads(part.rstrip(","))
        except ValueError:
            continue
        if not isinstance(event, dict) or "ph" not in event:
            raise ValueError(f"{path}: line {number + 2} is no event")
        events.append(event)
    return events
