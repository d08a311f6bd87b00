"""One tree to many targets, over channels: only what differs is sent."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from execnet import rsync_remote
from execnet._group.multichannel import putter
from execnet._source.tree import Source, chunks
from execnet.gateway_base import RemoteError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from queue import Queue
    from typing import Any

    from execnet.gateway import Gateway
    from execnet.gateway_base import Channel

    SendCallback = Callable[[str, int, Channel], object]
    FinishedCallback = Callable[[], object]

ENTRIES_PER_MESSAGE = 500
# What may be on its way to one target without an answer: bounds the memory of the other side.
WINDOW_BYTES = 4 << 20
WINDOW_MESSAGES = 256


class RSync:
    """Sends one folder (or file) to any number of targets, in one pass over the source.

    ``callback`` is called with ``("list", total_bytes, channel)`` when a target has told which
    files it may need, and ``("ack", bytes_of_file, channel)`` after each of them. With ``verbose``
    every file that is sent is printed.
    """

    def __init__(
        self, sourcedir: str | os.PathLike[str], callback: SendCallback | None = None, verbose: bool = True
    ) -> None:
        import queue  # lazy: start-up speed

        self._sourcedir = os.fspath(sourcedir)
        self._callback = callback
        self._verbose = verbose
        self._channels: dict[Channel, FinishedCallback | None] = {}
        self._dry: set[Channel] = set()
        # Of the last send: why targets were not completed.
        self._failures: dict[Channel, Exception] = {}
        self._receivequeue: Queue[tuple[Channel, Any]] = queue.Queue()

    def filter(self, path: str) -> bool:
        """Whether ``path``, a file, link or folder below the source folder, takes part; to be overridden."""
        return True

    def add_target(
        self,
        gateway: Gateway,
        destdir: str | os.PathLike[str],
        finishedcallback: FinishedCallback | None = None,
        *,
        delete: bool = False,
        dry_run: bool = False,
    ) -> None:
        """Add ``destdir`` on the other side of ``gateway``; parents are created as needed.

        ``finishedcallback`` is called without arguments when the target is complete. With
        ``delete`` what is there and not in the source is removed. With ``dry_run`` nothing is
        changed there: what would be sent and what would be removed is reported as it is else.
        """
        if not self._channels:
            # A green model's queue must be its own; the stand-by of __init__ serves until a model is known.
            self._receivequeue = gateway.execmodel.queue.Queue()
        channel = gateway.remote_exec(rsync_remote)
        channel.setcallback(putter(self._receivequeue, channel), endmarker=None)
        destination = (os.fsencode(destdir), bool(delete))
        channel.send((*destination, True) if dry_run else destination)
        if dry_run:
            self._dry.add(channel)
        self._channels[channel] = finishedcallback

    def send(self, raises: bool = True) -> None:
        """Bring all targets up to date; they are used up by it.

        Each file is sent as it is at that moment, up to the size it then has. One that is gone, was
        replaced by something else or may not be read is left out.

        Raises OSError when there is no target (with ``raises``) and where a folder of the source
        can't be read, ValueError for what is neither file, folder nor link when it is listed,
        RemoteError or EOFError where a target failed: the other targets are completed first.
        """
        if not self._channels:
            if raises:
                raise OSError("no targets available: add_target() has to be called before each send()")
            return
        targets = {channel: _Target(self, channel) for channel in self._channels}
        self._failures = {}
        try:
            source = Source(self._sourcedir, self.filter)
            for target in targets.values():
                target.send_entries(source)
            self._serve(targets)
        finally:
            for target in targets.values():
                target.close()
            self._channels.clear()
            self._dry.clear()
        self._failures = {
            channel: target.why_unfinished() for channel, target in targets.items() if not target.finished
        }
        if self._failures:
            raise next(iter(self._failures.values()))

    def _serve(self, targets: dict[Channel, _Target]) -> None:
        """Answer the targets until each has ended."""
        active = set(targets)
        while active:
            channel, item = self._receivequeue.get()
            if channel not in active:
                continue  # from a target of an earlier, interrupted send
            if item is None:
                active.remove(channel)
            else:
                targets[channel].answer(item)

    def _report_send_file(self, gateway: Gateway, modified_rel_path: str) -> None:
        self._report(f"{gateway.id} <= ", modified_rel_path)

    def _report_removal(self, gateway: Gateway, relpath: str) -> None:
        """Of a dry run."""
        self._report(f"{gateway.id} -- ", relpath)

    def _report(self, begin: str, relpath: str) -> None:
        if self._verbose:
            # A name that is no valid text, or none that stdout can show, must not break the output.
            line = begin + os.fsencode(relpath).decode(errors="replace")
            encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
            print(line.encode(encoding, "backslashreplace").decode(encoding))

    def _report_arrival(self, gateway: Gateway, size: int) -> None:
        """``size`` further bytes of files have arrived; for a subclass that shows the progress."""


class _Target:
    """One target: what it wants, and what is on its way to it."""

    def __init__(self, rsync: RSync, channel: Channel) -> None:
        self.rsync = rsync
        self.channel = channel
        self.finishedcallback = rsync._channels[channel]
        self.dry_run = channel in rsync._dry
        self.source: Source
        self.messages = self._messages()
        self.wanted: list[tuple[int, str | None]] = []
        self.unanswered: list[int] = []
        self.finished = False
        self.failure: Exception | None = None

    def send_entries(self, source: Source) -> None:
        """Describe the source."""
        self.source = source
        entries = source.entries
        for first in range(0, len(entries), ENTRIES_PER_MESSAGE):
            self._send(entries[first : first + ENTRIES_PER_MESSAGE])
        self._send(None)

    def _send(self, message: object) -> None:
        """Send, unless the target has failed: the end of its channel tells why."""
        try:
            self.channel.send(message)
        except OSError as exc:
            self.failure = exc

    def answer(self, item: tuple[Any, ...]) -> None:
        """React to one message of the target."""
        kind = item[0]
        if kind == "want":
            self.wanted += item[1]
            return
        if kind == "listed":
            self._call_back("list", sum(self.source.size(index) for index, _ in self.wanted))
        elif kind == "others":
            for name in item[1]:
                # A Python 2 sends its str, which reads as latin-1 text.
                name = name.encode("latin-1") if isinstance(name, str) else name
                self.rsync._report_removal(self.channel.gateway, os.fsdecode(name))
        elif kind == "ack":
            self._note_arrival()
            self._call_back("ack", self.source.size(item[1]))
        elif kind == "more":
            self._note_arrival()
        elif kind == "done":
            self._finish()
            return
        self._fill_window()

    def _note_arrival(self) -> None:
        self.rsync._report_arrival(self.channel.gateway, self.unanswered.pop(0))

    def _call_back(self, what: str, size: int) -> None:
        if self.rsync._callback is not None:
            self.rsync._callback(what, size, self.channel)

    def _finish(self) -> None:
        self.finished = True
        if self.finishedcallback is not None:
            self.finishedcallback()

    def _fill_window(self) -> None:
        """Send as much as the target may have unanswered."""
        while self.failure is None:
            if sum(self.unanswered) >= WINDOW_BYTES or len(self.unanswered) >= WINDOW_MESSAGES:
                return
            message = next(self.messages, None)
            if message is None:
                return
            self._send(message)
            self.unanswered.append(len(message[1]) if message[0] == "data" else 0)

    def _messages(self) -> Generator[tuple[Any, ...], None, None]:
        """What is to be sent for the wanted files, one after the other, and the end."""
        for index, checksum in self.wanted:
            if checksum is not None and checksum == self.source.checksum(index):
                yield ("same",)
                continue
            opened = self.source.open(index)
            if opened is None:
                yield ("gone",)
                continue
            with opened[0]:
                self.rsync._report_send_file(self.channel.gateway, self.source.relpaths[index])
                if self.dry_run:
                    yield ("gone",)
                    continue
                for chunk, last in chunks(*opened):
                    yield ("data", chunk, last)
        yield ("end",)

    def close(self) -> None:
        """Let go of file and channel; a target that is not finished gives up."""
        self.messages.close()
        with suppress(OSError):  # the connection is gone, and the channel with it
            self.channel.close()

    def why_unfinished(self) -> Exception:
        """What kept the target from being finished."""
        try:
            self.channel.waitclose()
        except RemoteError as error:
            return RemoteError(f"{self.channel.gateway}: {error.formatted}")
        except EOFError as error:
            return error
        return self.failure or EOFError(f"{self.channel.gateway}: the target ended before it was complete")
