"""The receiving side of RSync: makes one folder, or file, equal to what the channel describes.

The text is run through ``remote_exec`` on any Python from 2.7 on, with nothing installed.

The initiator sends, always as bytes where text is meant (file names need not be valid text):

1. ``(destdir, delete)``, or ``(destdir, delete, True)`` for a dry run: nothing is changed then, and before
   ``("listed",)`` comes ``("others", [path that would be removed, ...])``
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
import time

TEMPORARY = ".execnet-"  # how the names of unfinished files begin
WRITING_SECONDS = 3600.0  # one not changed for longer was left by a process that died
CHUNK = 1 << 18  # bytes read at a time to compute a checksum
# No link is followed to it, and none waits at a fifo.
READ = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_BINARY", "O_NOFOLLOW", "O_NONBLOCK"))
INEXACT = 10000  # nanoseconds that a modification time is off after passing through a float


def serve_rsync(channel):
    """Receive one tree over ``channel``; raises OSError, and ValueError for a malformed description."""
    destination = channel.receive()
    dry_run = len(destination) > 2 and destination[2]
    tree = (UnchangedTree if dry_run else Tree)(native(destination[0]), destination[1])
    try:
        receive_entries(channel, tree)
        tree.remove_others()
        if dry_run:
            channel.send(("others", tree.others))
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
        tree.set_times_and_mode(index, tree.paths[index])
    elif message[0] == "data":
        with Replacement(tree.paths[index]) as replacement:
            while True:
                replacement.stream.write(message[1])
                if message[2]:
                    break
                channel.send(("more",))
                message = channel.receive()
            replacement.stream.close()
            tree.set_times_and_mode(index, replacement.temporary)
    channel.send(("ack", index))


class Replacement(object):
    """A file that takes its place when it is whole."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        folder = os.path.dirname(self.path) or os.curdir
        descriptor, self.temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=folder)
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
            remove(self.temporary)


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
            self.make_folder(index, facts[0], top=parent == -1)
        elif kind == "file":
            self.files[index] = facts
            self.clear_way(path, top=parent == -1)
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

    def make_folder(self, index, mode, top):
        """Have the folder of an entry."""
        make_folder(self.paths[index], mode, follow=top)

    def clear_way(self, path, top):
        """Remove a folder that is where a file belongs; have the folder that the top one is to be in."""
        if top:
            make_parents(path)
        found = lstat(path)
        if found is not None and stat.S_ISDIR(found.st_mode):
            if top and not self.delete:
                os.rmdir(path)  # more likely a mistake, so not if there is something in it
            else:
                remove(path, keep=is_no_folder)

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
            self.set_mode(path, mode)
        return True

    def set_mode(self, path, mode):
        set_mode(path, mode)

    def checksum(self, index):
        """The sha256 of the file that is there, None where its size rules out that it is the same."""
        found = lstat(self.paths[index])
        if found is None or not stat.S_ISREG(found.st_mode) or found.st_size != self.files[index][1]:
            return None
        try:
            return sha256(self.paths[index], found.st_size)
        except (IOError, OSError):
            return None  # unreadable: to be replaced

    def set_times_and_mode(self, index, path):
        mode, _, mtime_ns = self.files[index]
        set_time(path, mtime_ns)
        set_mode(path, mode)

    def remove_others(self):
        """With ``delete``, remove what is in the folders but was not described."""
        if not self.delete:
            return
        for index, names in self.children.items():
            for name in os.listdir(self.paths[index]):
                path = os.path.join(self.paths[index], name)
                if name not in names and not is_being_written(name, path):
                    self.remove(path)

    def remove(self, path):
        remove(path)

    def make_links(self):
        for path, target, rebased in self.links:
            target = native(target)
            if rebased:
                target = os.path.join(os.path.abspath(self.top), target)
            make_link(path, target)


class UnchangedTree(Tree):
    """A Tree for a dry run: it notes what is missing and what would be removed, and does nothing."""

    def __init__(self, top, delete):
        Tree.__init__(self, top, delete)
        self.others = []

    def make_folder(self, index, mode, top):
        path = self.paths[index]
        if not os.path.isdir(path) or (os.path.islink(path) and not top):
            # What belongs into it is looked for where nothing is, not where the link leads.
            self.paths[index] = os.path.join(path, TEMPORARY)

    def clear_way(self, path, top):
        pass

    def set_mode(self, path, mode):
        pass

    def set_times_and_mode(self, index, path):
        pass

    def remove_others(self):
        there = [item for item in self.children.items() if os.path.isdir(self.paths[item[0]])]
        self.children = dict(there)
        Tree.remove_others(self)

    def remove(self, path):
        name = os.path.relpath(path, self.top)
        self.others.append(os.fsencode(name) if hasattr(os, "fsencode") else name)

    def make_links(self):
        pass


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


def remove(path, keep=None):
    """Remove whatever is at ``path``, if anything; folders that may not be written to as well.

    ``keep`` tells of an lstat whether it may stay. Another process may be at the same work: it is asked again then.
    """
    found = lstat(path)
    while found is not None and not (keep and keep(found)):
        try:
            if stat.S_ISDIR(found.st_mode):
                open_up(path)
                shutil.rmtree(path)  # which follows no link, whatever is put in its way
            else:
                os.remove(path)
        except OSError as error:
            if error.errno != errno.ENOENT and is_same(found, lstat(path)):
                raise
        found = lstat(path)


def is_folder(found):
    return stat.S_ISDIR(found.st_mode)


def is_no_folder(found):
    return not stat.S_ISDIR(found.st_mode)


def is_same(found, later):
    """Whether two lstats are of the same thing."""
    return later is not None and (found.st_ino, is_folder(found)) == (later.st_ino, is_folder(later))


def open_up(path):
    """Let the owner remove what is in the folder and in all folders inside."""
    folders = [path]
    for folder in folders:
        found = lstat(folder)
        if found is None or not stat.S_ISDIR(found.st_mode):
            continue
        try:
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                set_mode(folder, found.st_mode | stat.S_IRWXU)
            folders += [os.path.join(folder, name) for name in os.listdir(folder)]
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise


def is_being_written(name, path):
    """Whether this may be the temporary file of another RSync, which comes to the same folder now."""
    found = lstat(path) if name.startswith(TEMPORARY) else None
    return found is not None and abs(time.time() - found.st_ctime) < WRITING_SECONDS


def sha256(path, size):
    """The checksum of the file at ``path``; None where it is no file, or not one of ``size`` bytes."""
    digest = hashlib.sha256()
    with os.fdopen(os.open(path, READ), "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            return None
        while size > 0:
            chunk = stream.read(min(CHUNK, size))
            if not chunk:
                return None
            size -= len(chunk)
            digest.update(chunk)
        return None if stream.read(1) else digest.hexdigest()


def make_link(path, target):
    """Have a link to ``target`` at ``path``, which another process may be making too."""
    while link_target(path) != target:
        remove(path)
        try:
            os.symlink(target, path)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise


def link_target(path):
    try:
        return os.readlink(path)
    except OSError:
        return None  # something else, or nothing


def make_folders(path):
    try:
        os.makedirs(path)
    except OSError:
        if not os.path.isdir(path):  # which another process may have made
            raise


def make_parents(path):
    parents = os.path.dirname(path)
    if parents and not os.path.isdir(parents):
        make_folders(parents)


def make_folder(path, mode, follow):
    """Have a folder at ``path`` which its owner can use; ``follow``: a link may lead to it."""
    while not os.path.isdir(path) or (os.path.islink(path) and not follow):
        remove(path, keep=is_folder)
        make_folders(path)
    mode = stat.S_IMODE(mode) | stat.S_IRWXU
    if stat.S_IMODE(os.stat(path).st_mode) != mode:
        if follow:
            os.chmod(path, mode)
        else:
            set_mode(path, mode)


def set_mode(path, mode):
    """chmod that follows no link, which another process may put there meanwhile."""
    mode = stat.S_IMODE(mode)
    if hasattr(os, "O_PATH") and os.path.isdir("/proc/self/fd"):
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not stat.S_ISLNK(os.fstat(descriptor).st_mode):
                os.chmod("/proc/self/fd/%d" % descriptor, mode)
        finally:
            os.close(descriptor)
    elif os.chmod in getattr(os, "supports_follow_symlinks", ()):
        os.chmod(path, mode, follow_symlinks=False)
    elif not os.path.islink(path):
        os.chmod(path, mode)


def same_time(found, mtime_ns):
    if hasattr(found, "st_mtime_ns"):
        return found.st_mtime_ns == mtime_ns
    return abs(found.st_mtime * 1e9 - mtime_ns) < INEXACT


def set_time(path, mtime_ns):
    if os.utime in getattr(os, "supports_follow_symlinks", ()):
        os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
    elif hasattr(os.stat_result, "st_mtime_ns"):
        os.utime(path, ns=(mtime_ns, mtime_ns))
    elif not os.path.islink(path):
        os.utime(path, (mtime_ns / 1e9, mtime_ns / 1e9))


if __name__ == "__channelexec__":
    serve_rsync(channel)  # noqa: F821
