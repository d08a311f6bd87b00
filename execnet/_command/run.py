"""execnet run: a program in several interpreters at once, and what each of them prints."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import execnet
from execnet._command import common, far_side
from execnet.script import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from execnet import Channel, Gateway

USAGE = "{program} [-h] [--timeout SECONDS] SPEC [SPEC ...] -- CODE|FILE|- [ARGUMENT ...]"
EXAMPLES = """\
examples:
  {program} popen popen//python=python3.9 -- "import sys; print(sys.version)"
  {program} ssh=build1 ssh=build2 -- check.py --fast
  {program} '4*popen' -- "import os; print(os.getpid())"

What is printed comes line by line with the gateway's id before it, to where it was printed:
standard output or standard error. That includes what programs print that are started there. What
still runs when the program ends is neither waited for nor listened to. There is no input.
A worker's exit status that is not 0 is named at the end."""
ENDED = None
# A line that is longer than this many bytes is shown in parts.
LONGEST_LINE = 1 << 20


def main(program: str, arguments: Sequence[str]) -> int:
    """Run what `arguments` ask for; 1: a gateway could not be started, or the program failed in one."""
    parser = common.new_parser(
        program,
        "Run a program in an interpreter for each SPEC, side by side.",
        EXAMPLES.format(program=program),
        USAGE.format(program=program),
    )
    parser.add_argument("specs", nargs="+", metavar="SPEC", type=common.parsed_several, help=common.SEVERAL_HELP)
    common.add_timeout(parser)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options, words = parser.parse_args(arguments[:end]), arguments[end + 1 :]
    if not words:
        parser.error("what to run is missing: SPEC ... -- CODE, or SPEC ... -- FILE")
    specs = [spec for several in options.specs for spec in several]
    common.refuse_green(specs)
    argv = [os.fsencode(word) for word in words]
    source = read_source(argv)

    group = execnet.Group()
    try:
        with common.Inbox() as inbox:
            gateways = common.start(program, group, specs, options.timeout)
            # A death is told here, with what else is to be told of that worker; workers do not inherit this.
            os.environ["EXECNET_QUIET"] = "1"
            runs = [Run(program, gateway, inbox) for gateway in gateways if gateway is not None]
            for run in runs:
                run.begin(source, argv)
            show_all(runs, inbox)
            failed = [run for run in runs if run.is_failure()]
            return common.FAILED if failed or None in gateways else 0
    finally:
        group.terminate(common.TERMINATE_SECONDS)


def read_source(argv: list[bytes]) -> bytes:
    """The program that the first argument is, or names; that is put right to be what ``sys.argv[0]`` is."""
    name = argv[0]
    if name == b"-":
        return sys.stdin.buffer.read()
    if not os.path.isfile(name):
        argv[0] = b"-c"
        return name
    try:
        with open(name, "rb") as file:
            return file.read()
    except OSError as error:
        raise common.WrongUse(f"cannot read {os.fsdecode(name)}: {error.strerror}") from None


def show_all(runs: Sequence[Run], inbox: common.Inbox) -> None:
    """Show what is printed until all have ended."""
    under_way = {run for run in runs if not run.ended}
    while under_way:
        run, item = inbox.take()
        if item is ENDED:
            run.end()
            under_way.remove(run)
        else:
            run.show(*item)


class Run:
    """The program in one interpreter."""

    def __init__(self, program: str, gateway: Gateway, inbox: common.Inbox) -> None:
        self.program = program
        self.gateway = gateway
        self.inbox = inbox
        self.channel: Channel
        self.ended = False
        self.status: int | None = None
        self.unfinished = {"out": b"", "err": b""}

    def begin(self, source: bytes, argv: list[bytes]) -> None:
        """Start it; its end comes to the inbox."""
        try:
            self.channel = self.gateway.remote_exec(far_side)
            self.channel.send(("run", (source, argv)))
        except OSError as error:
            self.ended = True
            self.complain(common.reason(error))
        else:
            self.channel.setcallback(self.inbox.callback(self), endmarker=ENDED)

    def show(self, kind: str, what: Any) -> None:
        """Show the lines that `what` completes, or note the exit status that it is."""
        if kind == "end":
            self.status = what
            return
        *lines, rest = (self.unfinished[kind] + common.as_bytes(what)).split(b"\n")
        if len(rest) > LONGEST_LINE:
            lines.append(rest)
            rest = b""
        self.unfinished[kind] = rest
        self._print(kind, lines)

    def _print(self, kind: str, lines: Sequence[bytes]) -> None:
        text = "".join(f"{self.gateway.id}: {line.decode('utf-8', 'backslashreplace')}\n" for line in lines)
        if kind == "out":
            command.write(text)
            return
        with suppress(OSError):  # nobody can read it
            sys.stderr.write(text)
            sys.stderr.flush()

    def end(self) -> None:
        """Show what is left, and what became of it."""
        self.ended = True
        for kind, rest in self.unfinished.items():
            if rest:
                self._print(kind, [rest])
        if self.status:
            self.complain(f"exit status {self.status}")
        elif self.status is None:
            self.complain(self._why())

    def _why(self) -> str:
        """Why there is no exit status."""
        try:
            self.channel.waitclose()
        except (EOFError, OSError, execnet.RemoteError) as error:
            return common.reason(error)
        return "it ended without saying why"

    def complain(self, text: str) -> None:
        common.complain(self.program, f"{common.place(self.gateway)}: {text}")

    def is_failure(self) -> bool:
        """Whether it did not end with an exit status of 0."""
        return self.status != 0
