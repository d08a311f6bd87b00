"""execnet rsync: folders elsewhere made equal to one here."""

from __future__ import annotations

import fnmatch
import os
import re
from contextlib import suppress

import execnet
from execnet._command import common, progress
from execnet.script import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from execnet import Gateway
    from execnet._command.progress import Bar

EXAMPLES = """\
examples:
  {program} project ssh=build1:/srv/project ssh=build2:/srv/project
  {program} --delete --dry-run project ssh=build1//python=python3:~/project
  {program} --exclude '*.pyc' --exclude /build/ . popen:../copy

DEST becomes what SOURCE is: of a folder the content is sent, not a folder of its name. It begins
after the last colon (C:\\folder has its own); one that is relative counts from the working
directory there, over ssh the home. Only what differs is sent; neither side needs an rsync program.

A PATTERN without / is for the names of files and folders at any depth, one with / for their path
below SOURCE; with / at its end it is for folders only. * stands for anything, / too. What is
excluded is not sent, and with --delete it is removed where it is.

A target that fails does not keep the others from being completed. On a terminal a progress bar is
shown, by rich or tqdm where they are installed."""
# The last colon, or the one before a drive of Windows.
TARGET = re.compile(r"(?s)(?P<spec>.*?):(?P<dest>[A-Za-z]:[\\/].*|[^:]*)")
EXPAND_HOME = "import os; channel.send(os.path.expanduser(channel.receive()))"


def main(program: str, arguments: Sequence[str]) -> int:
    """Send what `arguments` ask for; 1: a target was not completed."""
    parser = common.new_parser(
        program, "Make folders (or files) elsewhere equal to one here.", EXAMPLES.format(program=program)
    )
    parser.add_argument("source", metavar="SOURCE", help="the folder, or file, to send")
    parser.add_argument("targets", nargs="+", metavar="SPEC:DEST", type=parsed_target, help="where to, several at once")
    parser.add_argument("--delete", action="store_true", help="remove at the targets what SOURCE does not have")
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="only list the files that would be sent (<=) and removed (--)"
    )
    parser.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="leave out; may be repeated")
    parser.add_argument("-v", "--verbose", action="store_true", help="list the files that are sent")
    common.add_timeout(parser)
    options = parser.parse_args(arguments)
    if not os.path.exists(options.source):
        raise common.WrongUse(f"no such file or folder: {options.source}")

    group = execnet.Group()
    try:
        gateways = common.start(program, group, [spec for spec, _ in options.targets], options.timeout)
        listing = options.verbose or options.dry_run
        with progress.bar(wanted=not listing) as bar:
            sync = Sync(options.source, options.exclude, listing, bar)
            for (_, dest), gateway in zip(options.targets, gateways):
                if gateway is not None:
                    sync.add_target(gateway, there(gateway, dest), delete=options.delete, dry_run=options.dry_run)
            failures = sync.send_all()
        for gateway in gateways:
            if gateway in failures:
                common.complain(program, f"{common.place(gateway)}: {failures[gateway]}")
            elif gateway is not None:
                command.show(sync.summary(gateway, options.dry_run))
        return common.FAILED if failures or None in gateways else 0
    except (EOFError, OSError, ValueError, execnet.RemoteError) as error:  # of the source, or before anything is sent
        common.complain(program, common.reason(error))
        return common.FAILED
    finally:
        group.terminate(common.TERMINATE_SECONDS)


def parsed_target(text: str) -> tuple[execnet.XSpec, str]:
    """The spec and the destination of an argument; raises WrongUse."""
    found = TARGET.fullmatch(text)
    if not found or not found["spec"] or not found["dest"]:
        raise common.WrongUse(f"not SPEC:DEST: {text}")
    return common.parsed(found["spec"]), found["dest"]


def there(gateway: Gateway, dest: str) -> str:
    """The destination, with the home of the far side put in for ~."""
    if not dest.startswith("~"):
        return dest
    channel = gateway.remote_exec(EXPAND_HOME)
    channel.send(dest)
    home: str = channel.receive()
    return home


class Sync(execnet.RSync):
    """An RSync that leaves out what patterns match, counts, and shows its progress."""

    def __init__(self, source: str, patterns: Sequence[str], listing: bool, bar: Bar) -> None:
        super().__init__(source, callback=self._count, verbose=listing)
        self.patterns = patterns
        self.bar = bar
        self.files: dict[Gateway, int] = {}
        self.bytes: dict[Gateway, int] = {}
        self.removals: dict[Gateway, int] = {}
        self.arrived: dict[Gateway, int] = {}

    def filter(self, path: str) -> bool:
        """Whether no pattern matches."""
        if not self.patterns:
            return True
        relpath = os.path.relpath(path, self._sourcedir).replace(os.sep, "/")
        is_folder = os.path.isdir(path) and not os.path.islink(path)
        return not any(matches(relpath, is_folder, pattern) for pattern in self.patterns)

    def send_all(self) -> dict[Gateway, str]:
        """Send, and return why targets were not completed."""
        try:
            self.send(raises=False)
        except (EOFError, OSError, execnet.RemoteError):
            if not self._failures:
                raise
        return {channel.gateway: common.reason(error) for channel, error in self._failures.items()}

    def summary(self, gateway: Gateway, dry_run: bool) -> str:
        """What was done at a target."""
        files, size = self.files.get(gateway, 0), self.bytes.get(gateway, 0)
        if dry_run:
            return f"{gateway.id}: {files} files, {size} bytes to send, {self.removals.get(gateway, 0)} to remove"
        return f"{gateway.id}: {files} files, {size} bytes sent"

    def _count(self, event: str, size: int, channel: execnet.Channel) -> None:
        if event == "list":
            self.bar.expect(size)
        else:  # what did not have to be sent, or was not there to be sent, is done as well
            self.bar.advance(max(0, size - self.arrived.pop(channel.gateway, 0)))

    def _report_arrival(self, gateway: Gateway, size: int) -> None:
        self.arrived[gateway] = self.arrived.get(gateway, 0) + size
        self.bar.advance(size)

    def _report_send_file(self, gateway: Gateway, modified_rel_path: str) -> None:
        self.files[gateway] = self.files.get(gateway, 0) + 1
        path = os.path.join(self._sourcedir, modified_rel_path) if modified_rel_path else self._sourcedir
        with suppress(OSError):  # gone by now
            self.bytes[gateway] = self.bytes.get(gateway, 0) + os.path.getsize(path)
        super()._report_send_file(gateway, modified_rel_path)

    def _report_removal(self, gateway: Gateway, relpath: str) -> None:
        self.removals[gateway] = self.removals.get(gateway, 0) + 1
        super()._report_removal(gateway, relpath)

    def _report(self, begin: str, relpath: str) -> None:
        if self._verbose:
            name = relpath or os.path.basename(os.path.abspath(self._sourcedir))
            command.show(begin + os.fsencode(name).decode("utf-8", "backslashreplace"))


def matches(relpath: str, is_folder: bool, pattern: str) -> bool:
    """Whether a pattern is for what has this path below the source."""
    if pattern.endswith("/") and not is_folder:
        return False
    plain = pattern.rstrip("/")
    subject = relpath if "/" in plain else relpath.rpartition("/")[2]
    return fnmatch.fnmatchcase(subject, plain.lstrip("/"))
