"""One tree to many targets, over channels: only what differs is sent."""

from __future__ import annotations

import os
import stat

from execnet import rsync_remote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from queue import Queue
    from typing import Any, BinaryIO, Union

    from execnet.gateway import Gateway
    from execnet.gateway_base import Channel

    SendCallback = Callable[[str, int, Channel], object]
    FinishedCallback = Callable[[], object]
    Entry = Union[
        tuple[str, int, bytes, int],
        tuple[str, int, bytes, int, int, int],
        tuple[str, int, bytes, bytes, bool],
    ]

CHUNK = 1 << 18  # bytes of a file in one message
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
    ) -> None:
        """Add ``destdir`` on the other side of ``gateway``; parents are created as needed.

        ``finishedcallback`` is called without arguments when the target is complete. With
        ``delete`` what is there and not in the source is removed.
        """
        if not self._channels:
            # A green model's queue must be its own; the stand-by of __init__ serves until a model is known.
            self._receivequeue = gateway.execmodel.queue.Queue()
        channel = gateway.remote_exec(rsync_remote)
        channel.setcallback(_putter(self._receivequeue, channel), endmarker=None)
        channel.send((os.fsencode(destdir), bool(delete)))
        self._channels[channel] = finishedcallback

    def send(self, raises: bool = True) -> None:
        """Bring all targets up to date; they are used up by it.

        Raises OSError when there is no target (with ``raises``) and where the source can't be
        read, ValueError for what is neither file, folder nor link, RemoteError or EOFError where
        a target failed: the other targets are completed first.
        """
        if not self._channels:
            if raises:
                raise OSError("no targets available, maybe you are trying call send() twice?")
            return
        targets = {channel: _Target(self, channel) for channel in self._channels}
        try:
            source = _Source(self._sourcedir, self.filter)
            for target in targets.values():
                target.send_entries(source)
            self._serve(targets)
        finally:
            for target in targets.values():
                target.close()
            self._channels.clear()
        for target in targets.values():
            target.raise_failure()

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
        if self._verbose:
            # A name that is no valid text must not break the output.
            print(f"{gateway} <= {os.fsencode(modified_rel_path).decode(errors='replace')}")


class _Source:
    """The entries of a tree, in the form that rsync_remote describes."""

    def __init__(self, top: str, wanted: Callable[[str], bool]) -> None:
        self.top = os.path.abspath(top)
        self.wanted = wanted
        self.entries: list[Entry] = []
        self.relpaths: list[str] = []
        self.sizes: dict[int, int] = {}
        self._checksums: dict[int, str | None] = {}
        facts = os.stat(top)
        if stat.S_ISDIR(facts.st_mode):
            self._add("", ("dir", -1, b"", facts.st_mode))
            self._walk(0, top)
        else:
            self._add_file(-1, "", "", facts, top)

    def _add(self, relpath: str, entry: Entry) -> None:
        self.relpaths.append(relpath)
        self.entries.append(entry)

    def _walk(self, index: int, folder: str) -> None:
        """Add what is in ``folder``: first all of it, then what is further inside."""
        folders = []
        for name in self._names(folder):
            path = os.path.join(folder, name)
            if not self.wanted(path):
                continue
            try:
                facts = os.lstat(path)
                target = os.readlink(path) if stat.S_ISLNK(facts.st_mode) else ""
            except FileNotFoundError:
                continue  # vanished
            relpath = f"{self.relpaths[index]}/{name}".lstrip("/")
            if target:
                self._add_link(index, relpath, name, target)
            elif stat.S_ISDIR(facts.st_mode):
                folders.append((len(self.entries), path))
                self._add(relpath, ("dir", index, os.fsencode(name), facts.st_mode))
            else:
                self._add_file(index, relpath, name, facts, path)
        for index, path in folders:
            self._walk(index, path)

    def _names(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(folder))
        except FileNotFoundError:
            return []  # vanished

    def _add_file(self, parent: int, relpath: str, name: str, facts: os.stat_result, path: str) -> None:
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError(f"cannot sync {path!r}: neither file, folder nor link")
        self.sizes[len(self.entries)] = facts.st_size
        entry = ("file", parent, os.fsencode(name), facts.st_mode, facts.st_size, facts.st_mtime_ns)
        self._add(relpath, entry)

    def _add_link(self, parent: int, relpath: str, name: str, target: str) -> None:
        """A link to somewhere below the top, told by an absolute path, follows the tree."""
        inside = self.top.rstrip(os.sep) + os.sep
        rebased = os.path.normpath(target).startswith(inside)
        if rebased:
            target = os.path.relpath(target, self.top).replace(os.sep, "/")
        self._add(relpath, ("link", parent, os.fsencode(name), os.fsencode(target), rebased))

    def path(self, index: int) -> str:
        """Where the file of an entry is."""
        return os.path.join(self.top, *self.relpaths[index].split("/")) if self.relpaths[index] else self.top

    def size(self, index: int) -> int:
        """The bytes of a file, as found at first."""
        return self.sizes[index]

    def checksum(self, index: int) -> str | None:
        """The sha256 of a file, computed once for all targets; None if it has vanished."""
        if index not in self._checksums:
            self._checksums[index] = self._compute_checksum(index)
        return self._checksums[index]

    def _compute_checksum(self, index: int) -> str | None:
        import hashlib  # lazy: start-up speed

        digest = hashlib.sha256()
        try:
            with open(self.path(index), "rb") as stream:
                for chunk in iter(lambda: stream.read(CHUNK), b""):
                    digest.update(chunk)
        except FileNotFoundError:
            return None
        return digest.hexdigest()


class _Target:
    """One target: what it wants, and what is on its way to it."""

    def __init__(self, rsync: RSync, channel: Channel) -> None:
        self.rsync = rsync
        self.channel = channel
        self.finishedcallback = rsync._channels[channel]
        self.source: _Source
        self.messages = self._messages()
        self.wanted: list[tuple[int, str | None]] = []
        self.unanswered: list[int] = []
        self.finished = False
        self.failure: Exception | None = None

    def send_entries(self, source: _Source) -> None:
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
        elif kind == "ack":
            self.unanswered.pop(0)
            self._call_back("ack", self.source.size(item[1]))
        elif kind == "more":
            self.unanswered.pop(0)
        elif kind == "done":
            self._finish()
            return
        self._fill_window()

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
            try:
                stream = open(self.source.path(index), "rb")  # noqa: SIM115 -- closed below
            except FileNotFoundError:
                yield ("gone",)
                continue
            with stream:
                yield from self._content(stream, index)
        yield ("end",)

    def _content(self, stream: BinaryIO, index: int) -> Iterator[tuple[str, bytes, bool]]:
        self.rsync._report_send_file(self.channel.gateway, self.source.relpaths[index])
        last = False
        while not last:
            chunk = stream.read(CHUNK)
            last = len(chunk) < CHUNK
            yield ("data", chunk, last)

    def close(self) -> None:
        """Let go of file and channel; a target that is not finished gives up."""
        self.messages.close()
        self.channel.close()

    def raise_failure(self) -> None:
        """Raise what kept the target from being finished, if anything did."""
        if self.finished:
            return
        self.channel.waitclose()
        raise self.failure or EOFError(f"{self.channel.gateway}: the target ended before it was complete")


def _putter(queue: Queue[Any], channel: Channel) -> Callable[[object], None]:
    return lambda item: queue.put((channel, item))
