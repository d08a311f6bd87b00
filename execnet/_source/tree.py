"""What an RSync sends: the entries of a tree, and the content of its files.

Between the moment a name is listed and the one its file is sent anything may take its place, or that of a
folder above it. Nothing outside of the tree is ever read for it, and nothing that could block: each step
down goes from a folder held open to a name in it, never through a link, and what was opened is asked what
it is. Platforms that can't do so (Windows) go by paths.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Any, BinaryIO, Union

    Entry = Union[
        tuple[str, int, bytes, int],
        tuple[str, int, bytes, int, int, int],
        tuple[str, int, bytes, bytes, bool],
    ]

CHUNK = 1 << 18  # bytes of a file in one message
BY_DESCRIPTOR = {os.open, os.stat, os.readlink} <= os.supports_dir_fd and os.listdir in os.supports_fd
# Not waiting for somebody at the other end of a fifo or line, nor taking a terminal.
READ = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_BINARY", "O_NONBLOCK", "O_NOCTTY"))
FOLDER = getattr(os, "O_DIRECTORY", 0)
NO_LINK = getattr(os, "O_NOFOLLOW", 0)
# How opening tells that a name is gone, or that something is there now which can't be sent: a link (ELOOP, EMLINK),
# a folder, a socket, a device. EINVAL is the word of readlink.
_NAMES = "ENOENT ENOTDIR EISDIR ELOOP EMLINK ENXIO ENODEV EINVAL ESTALE"
REPLACED = frozenset(getattr(errno, name, errno.ENOENT) for name in _NAMES.split())


class Replaced(Exception):
    """What was listed is not there any more."""


class Folder:
    """A folder that is held open, for what is in it; raises Replaced for what is not as expected.

    It is the one at ``path``, which may lead through links, or the one of that ``name`` in ``parent``.
    """

    # Filled and emptied in one step each: wherever an interrupt comes, it is closed, and once.
    _descriptors: list[int] | None = None

    def __init__(self, path: str, parent: Folder | None = None, name: str = "") -> None:
        self.path = path
        if not BY_DESCRIPTOR:
            if parent is not None and not stat.S_ISDIR(parent.facts(name).st_mode):
                raise Replaced(path)
        elif parent is None:
            self._descriptors = [_do(path, os.open, path, READ | FOLDER)]
        else:
            self._descriptors = [parent._at(os.open, name, READ | FOLDER | NO_LINK)]

    @property
    def descriptor(self) -> int:
        assert self._descriptors, "whoever uses a folder has it open"
        return self._descriptors[0]

    def close(self) -> None:
        """Let go of it; may be called again."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    __del__ = close

    def __enter__(self) -> Folder:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def names(self) -> list[str]:
        """The names in it, in order."""
        return sorted(_do(self.path, os.listdir, self.descriptor if BY_DESCRIPTOR else self.path))

    def facts(self, name: str) -> os.stat_result:
        """What ``name`` is, links not followed."""
        facts: os.stat_result = self._at(os.stat, name, follow_symlinks=False)
        return facts

    def link(self, name: str) -> str:
        """Where the link ``name`` leads."""
        target: str = self._at(os.readlink, name)
        return target

    def folder(self, name: str) -> Folder:
        """The folder ``name`` in it."""
        return Folder(os.path.join(self.path, name), self, name)

    def file(self, name: str) -> BinaryIO:
        """The file ``name`` in it, opened; it may be something else than a file by now."""
        if not BY_DESCRIPTOR and not stat.S_ISREG(self.facts(name).st_mode):
            raise Replaced(os.path.join(self.path, name))
        file: BinaryIO = _do(
            os.path.join(self.path, name), open, name, "rb", opener=lambda *_: self._at(os.open, name, READ | NO_LINK)
        )
        return file

    def _at(self, call: Callable[..., Any], name: str, *args: object, **options: Any) -> Any:
        path = os.path.join(self.path, name)
        if BY_DESCRIPTOR:
            return _do(path, call, name, *args, dir_fd=self.descriptor, **options)
        return _do(path, call, path, *args, **options)


def _do(path: str, call: Callable[..., Any], *args: object, **options: Any) -> Any:
    """Ask the system something about ``path``, which an error names."""
    try:
        return call(*args, **options)
    except OSError as error:
        if error.errno in REPLACED:
            raise Replaced(path) from None
        error.filename = path
        raise


class Source:
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
            self._walk(top)
        else:
            self._add_file(-1, "", facts, top)

    def _add(self, relpath: str, entry: Entry) -> None:
        self.relpaths.append(relpath)
        self.entries.append(entry)

    def _walk(self, top: str) -> None:
        """Add what is in each folder: first all of it, then what is further inside."""
        waiting = [(0, top)]
        while waiting:
            index, path = waiting.pop()
            try:
                with self._open_folder(self.relpaths[index]) as folder:
                    waiting += reversed(self._list(index, folder, path))
            except Replaced:
                continue  # it is sent as if it were empty

    def _list(self, index: int, folder: Folder, path: str) -> list[tuple[int, str]]:
        """Add what is in the ``folder`` at ``path``; returns (index, path) of the folders among it."""
        folders = []
        for name in folder.names():
            inside = os.path.join(path, name)
            if not self.wanted(inside):
                continue
            relpath = f"{self.relpaths[index]}/{name}".lstrip("/")
            try:
                facts = folder.facts(name)
                if stat.S_ISLNK(facts.st_mode):
                    self._add_link(index, relpath, folder.link(name))
                elif stat.S_ISDIR(facts.st_mode):
                    folders.append((len(self.entries), inside))
                    self._add(relpath, ("dir", index, os.fsencode(name), facts.st_mode))
                else:
                    self._add_file(index, relpath, facts, inside)
            except Replaced:
                continue
        return folders

    def _add_file(self, parent: int, relpath: str, facts: os.stat_result, path: str) -> None:
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError(f"cannot sync {path!r}: neither file, folder nor link")
        self.sizes[len(self.entries)] = facts.st_size
        entry = ("file", parent, _name(relpath), facts.st_mode, facts.st_size, facts.st_mtime_ns)
        self._add(relpath, entry)

    def _add_link(self, parent: int, relpath: str, target: str) -> None:
        """A link to somewhere below the top, told by an absolute path, follows the tree."""
        inside = self.top.rstrip(os.sep) + os.sep
        rebased = os.path.normpath(target).startswith(inside)
        if rebased:
            target = os.path.relpath(target, self.top).replace(os.sep, "/")
        self._add(relpath, ("link", parent, _name(relpath), os.fsencode(target), rebased))

    def _open_folder(self, relpath: str) -> Folder:
        """The folder of an entry; the caller closes it."""
        folder = Folder(self.top)
        for name in filter(None, relpath.split("/")):
            with folder:
                folder = folder.folder(name)
        return folder

    def size(self, index: int) -> int:
        """The bytes of a file, as found at first."""
        return self.sizes[index]

    def open(self, index: int) -> tuple[BinaryIO, int] | None:
        """A file and its size, from this moment; None if it is not there any more, or may not be read."""
        try:
            file = self._open_file(self.relpaths[index])
        except (Replaced, PermissionError):
            return None
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            file.close()
            return None
        return file, facts.st_size

    def _open_file(self, relpath: str) -> BinaryIO:
        if not relpath:
            file: BinaryIO = _do(self.top, open, self.top, "rb", opener=lambda *_: os.open(self.top, READ))
            return file
        parent, _, name = relpath.rpartition("/")
        with self._open_folder(parent) as folder:
            return folder.file(name)

    def checksum(self, index: int) -> str | None:
        """The sha256 of a file, computed once for all targets; None if it can't be had any more."""
        if index not in self._checksums:
            self._checksums[index] = self._compute_checksum(index)
        return self._checksums[index]

    def _compute_checksum(self, index: int) -> str | None:
        import hashlib  # lazy: start-up speed

        opened = self.open(index)
        if opened is None:
            return None
        digest = hashlib.sha256()
        with opened[0]:
            for chunk, _ in chunks(*opened):
                digest.update(chunk)
        return digest.hexdigest()


def chunks(stream: BinaryIO, size: int) -> Iterator[tuple[bytes, bool]]:
    """``size`` bytes of a file, or as many as there are now, as (chunk, whether it is the last)."""
    last = False
    while not last:
        chunk = stream.read(min(size, CHUNK))
        size -= len(chunk)
        last = not size or len(chunk) < CHUNK
        yield chunk, last


def _name(relpath: str) -> bytes:
    return os.fsencode(relpath.rpartition("/")[2])
