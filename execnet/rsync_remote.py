"""The receiving side of RSync: makes one folder, or file, equal to what the channel describes.

The text is run through ``remote_exec`` on any Python from 2.7 on, with nothing installed.

The initiator sends, always as bytes where text is meant (file names need not be valid text):

1. ``(destdir, delete)``
2. lists of entries, closed by None; an entry's index is its position over all the lists:
   ``("dir", parent, name, mode)``, ``("file", parent, name, mode, size, mtime_ns)``,
   ``("link", parent, name, target, rebased)``. ``parent`` is the index of a "dir", the top has -1
   and no name. A rebased target is relative to the top. Each list is answered by
   ``("want", [(index, sha256 of what is there, or None), …])``, None by ``("listed",)``
3. for each wanted file in order ``("same",)``, ``("gone",)``, or its content in one or more
   ``("data", bytes, whether these are the last)``: answered by ``("ack", index)`` when the file is
   done, by ``("more",)`` before
4. ``("end",)``, answered by ``("done",)`` after the links were made.
"""

import errno
import hashlib
import os
import shutil
import stat
import tempfile

CHUNK = 1 << 18  # bytes read at a time to compute a checksum
INEXACT = 10000  # nanoseconds that a modification time is off after passing through a float


def serve_rsync(channel):
    """Receive one tree over ``channel``; raises OSError, and ValueError for a malformed description."""
    destdir, delete = channel.receive()
    tree = Tree(native(destdir), delete)
    try:
        receive_entries(channel, tree)
        tree.remove_others()
        channel.send(("listed",))
        for index in tree.wanted:
            receive_file(channel, tree, index)
        channel.receive()
        tree.make_links()
        channel.send(("done",))
    except EOFError:
        pass  # the initiator gave up


def receive_entries(channel, tree):
    while True:
        entries = channel.receive()
        if entries is None:
            return
        first = len(tree.wanted)
        for entry in entries:
            tree.add(*entry)
        channel.send(("want", [(index, tree.checksum(index)) for index in tree.wanted[first:]]))


def receive_file(channel, tree, index):
    message = channel.receive()
    if message[0] == "same":
        tree.set_times_and_mode(index)
    elif message[0] == "data":
        with Replacement(tree.paths[index]) as replacement:
            while True:
                replacement.stream.write(message[1])
                if message[2]:
                    break
                channel.send(("more",))
                message = channel.receive()
        tree.set_times_and_mode(index)
    channel.send(("ack", index))


class Replacement(object):
    """A file that takes its place when it is whole."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        folder = os.path.dirname(self.path) or os.curdir
        descriptor, self.temporary = tempfile.mkstemp(prefix=".execnet-", dir=folder)
        self.stream = os.fdopen(descriptor, "wb")
        return self

    def __exit__(self, exc_type, exc, traceback):
        try:
            self.stream.close()
            if exc_type is None:
                if os.name == "nt" and os.path.lexists(self.path):
                    os.remove(self.path)  # rename does not replace there
                os.rename(self.temporary, self.path)
        finally:
            if os.path.exists(self.temporary):
                os.remove(self.temporary)


class Tree(object):
    """What the initiator described, by index, and what is missing of it."""

    def __init__(self, top, delete):
        self.top = top
        self.delete = delete
        self.paths = []
        self.files = {}  # index -> (mode, size, mtime_ns)
        self.children = {}  # index of a folder -> names in it
        self.links = []
        self.wanted = []

    def add(self, kind, parent, name, *facts):
        """Note one entry; make it if it is a folder, want it if it is a file that differs."""
        index = len(self.paths)
        path = self.place(parent, name)
        self.paths.append(path)
        if kind == "dir":
            self.children[index] = set()
            make_folder(path, facts[0], follow=parent == -1)
        elif kind == "file":
            self.files[index] = facts
            if parent == -1:
                make_parents(path)
            self.clear_way(path, parent)
            if not self.is_unchanged(index):
                self.wanted.append(index)
        elif kind == "link":
            self.links.append((path, facts[0], facts[1]))
        else:
            raise ValueError("unknown kind of entry: %r" % (kind,))

    def place(self, parent, name):
        """The path of an entry, which is never outside of the top."""
        if parent == -1 and not name and not self.paths:
            return self.top
        name = native(name)
        if parent not in self.children or not is_plain_name(name):
            raise ValueError("refused to write %r, entry %d" % (name, len(self.paths)))
        self.children[parent].add(name)
        return os.path.join(self.paths[parent], name)

    def clear_way(self, path, parent):
        """Remove a folder that is where a file belongs."""
        found = lstat(path)
        if found is not None and stat.S_ISDIR(found.st_mode):
            if parent == -1 and not self.delete:
                os.rmdir(path)  # more likely a mistake, so not if there is something in it
            else:
                shutil.rmtree(path)

    def is_unchanged(self, index):
        """Whether size and modification time are right; the mode is put right on the way."""
        mode, size, mtime_ns = self.files[index]
        path = self.paths[index]
        found = lstat(path)
        if found is None or not stat.S_ISREG(found.st_mode) or found.st_size != size:
            return False
        if not same_time(found, mtime_ns):
            return False
        if stat.S_IMODE(found.st_mode) != stat.S_IMODE(mode):
            os.chmod(path, stat.S_IMODE(mode))
        return True

    def checksum(self, index):
        """The sha256 of the file that is there, None where its size rules out that it is the same."""
        found = lstat(self.paths[index])
        if found is None or not stat.S_ISREG(found.st_mode) or found.st_size != self.files[index][1]:
            return None
        digest = hashlib.sha256()
        try:
            with open(self.paths[index], "rb") as stream:
                for chunk in iter(lambda: stream.read(CHUNK), b""):
                    digest.update(chunk)
        except (IOError, OSError):
            return None  # unreadable: to be replaced
        return digest.hexdigest()

    def set_times_and_mode(self, index):
        mode, _, mtime_ns = self.files[index]
        set_time(self.paths[index], mtime_ns)
        os.chmod(self.paths[index], stat.S_IMODE(mode))

    def remove_others(self):
        """With ``delete``, remove what is in the folders but was not described."""
        if not self.delete:
            return
        for index, names in self.children.items():
            for name in os.listdir(self.paths[index]):
                if name not in names:
                    remove(os.path.join(self.paths[index], name))

    def make_links(self):
        for path, target, rebased in self.links:
            target = native(target)
            if rebased:
                target = os.path.join(os.path.abspath(self.top), target)
            if os.path.islink(path) and os.readlink(path) == target:
                continue
            remove(path)
            os.symlink(target, path)


def native(name):
    """Bytes as this interpreter's own kind of file name."""
    return os.fsdecode(name) if hasattr(os, "fsdecode") else name


def is_plain_name(name):
    """Whether ``name`` is that of something in a folder, and leads nowhere else."""
    if name in ("", os.curdir, os.pardir) or "\0" in name:
        return False
    return os.sep not in name and (not os.altsep or os.altsep not in name) and not os.path.splitdrive(name)[0]


def lstat(path):
    try:
        return os.lstat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise


def remove(path):
    """Remove whatever is at ``path``, if anything."""
    found = lstat(path)
    if found is None:
        return
    if stat.S_ISDIR(found.st_mode):
        shutil.rmtree(path)
    else:
        os.remove(path)


def make_parents(path):
    parents = os.path.dirname(path)
    if parents and not os.path.isdir(parents):
        os.makedirs(parents)


def make_folder(path, mode, follow):
    """Have a folder at ``path`` which its owner can write to; ``follow``: it may be behind a link."""
    is_folder = os.path.isdir(path) and (follow or not os.path.islink(path))
    if not is_folder:
        remove(path)
        os.makedirs(path)
    mode = stat.S_IMODE(mode) | stat.S_IWUSR
    if stat.S_IMODE(os.stat(path).st_mode) != mode:
        os.chmod(path, mode)


def same_time(found, mtime_ns):
    if hasattr(found, "st_mtime_ns"):
        return found.st_mtime_ns == mtime_ns
    return abs(found.st_mtime * 1e9 - mtime_ns) < INEXACT


def set_time(path, mtime_ns):
    if hasattr(os.stat_result, "st_mtime_ns"):
        os.utime(path, ns=(mtime_ns, mtime_ns))
    else:
        os.utime(path, (mtime_ns / 1e9, mtime_ns / 1e9))


if __name__ == "__channelexec__":
    serve_rsync(channel)  # noqa: F821
