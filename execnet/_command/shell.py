"""execnet shell: a Python prompt in another interpreter."""

from __future__ import annotations

import codecs
import os
import shlex
import signal
import sys
from contextlib import suppress

import execnet
from execnet import gateway_io
from execnet._command import common, far_side
from execnet.script import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType, TracebackType
    from typing import Any

    from execnet import Channel, Gateway

EXAMPLES = """\
examples:
  {program} ssh=build1//python=python3
  {program} popen//python=python2.7
  echo 'import os; print(os.uname())' | {program} ssh=build1

Ctrl-C interrupts what runs there, or gives up the line; Ctrl-D or exit() ends the session, and the
interpreter with it. What is run there and asks for input() gets lines from here. If standard input
is no terminal, its lines are run without prompts."""
ENDED = None
IGNORING_INTERRUPTS = 'trap "" INT; exec "$@"'
WELCOME = "Python %s, {place}. Ctrl-D ends it."


def main(program: str, arguments: Sequence[str]) -> int:
    """Give the prompt that `arguments` ask for; 1: it could not be had, was lost, or ended by exit() of an error."""
    parser = common.new_parser(program, "Give a Python prompt in an interpreter.", EXAMPLES.format(program=program))
    parser.add_argument("spec", metavar="SPEC", type=common.parsed, help=common.SPEC_HELP)
    common.add_timeout(parser)
    options = parser.parse_args(arguments)

    common.refuse_green([options.spec])
    try:
        shield(options.spec)
    except ValueError as error:
        raise common.WrongUse(str(error)) from None
    sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    group = execnet.Group()
    try:
        (gateway,) = common.start(program, group, [options.spec], options.timeout)
        if gateway is None:
            return common.FAILED
        with common.Inbox() as inbox, Session(gateway, inbox) as session:
            return common.FAILED if session.converse() else 0
    except (EOFError, OSError, execnet.RemoteError) as error:
        common.complain(program, f"{options.spec}: {common.reason(error)}")
        return common.FAILED
    finally:
        group.terminate(common.TERMINATE_SECONDS)


def shield(spec: execnet.XSpec) -> None:
    """Make it one of a process that a Ctrl-C in this terminal does not reach: it is told of it by the session."""
    if spec.popen:
        spec.newsession = True
    elif spec.ssh and os.name == "posix":
        # In a session of its own, ssh could not ask for a password.
        spec.ssh_command = shlex.join(["sh", "-c", IGNORING_INTERRUPTS, "sh", *gateway_io.ssh_command(spec)])


class Session:
    """A prompt there, shown here; as a context manager it takes Ctrl-C for what runs there."""

    def __init__(self, gateway: Gateway, inbox: common.Inbox) -> None:
        self.inbox = inbox
        self.interactive = sys.stdin.isatty()
        self.decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self.at_prompt = False
        self.interrupted = False  # not yet told
        self.told = 0  # interrupts
        if self.interactive:
            with suppress(ImportError):
                import readline  # noqa: F401 -- lines can be edited then
        self.channel: Channel = gateway.remote_exec(far_side)
        place = common.place(gateway).replace("%", "%%")
        self.channel.send(("shell", (WELCOME.format(place=place) if self.interactive else "",)))
        self.channel.setcallback(inbox.callback(self), endmarker=ENDED)

    def __enter__(self) -> Session:
        self._former = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._former)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.at_prompt:
            raise KeyboardInterrupt
        # Not sent by this handler: it may have interrupted a send.
        self.interrupted = True
        self.inbox.wake()

    def converse(self) -> int:
        """Show what is printed and answer what is asked until the end; the exit status."""
        while True:
            source, item = self.inbox.take()
            if self.interrupted:
                self.interrupted = False
                self.told += 1
                self.channel.send(("interrupt", None))
            if source is None:
                continue
            if item is ENDED:
                self.channel.waitclose()
                raise EOFError("the session ended without saying why")
            kind, what = item
            if kind == "end":
                return int(what)
            self._do(kind, what)

    def _do(self, kind: str, what: Any) -> None:
        if kind == "prompt":
            self.channel.send(self._answer(*what))
        else:
            command.write(self.decoder.decode(common.as_bytes(what)))

    def _answer(self, prompt: str, taken: int) -> tuple[str, str | None]:
        """What is typed at a prompt; there: how many of the interrupts it was told of have been taken for code."""
        try:
            self.at_prompt = True
            if self.interrupted or self.told > taken:
                raise KeyboardInterrupt
            return "line", read_line(prompt if self.interactive else "")
        except EOFError:
            return "end", None
        except KeyboardInterrupt:
            self.interrupted = False
            self.told = taken
            return "give up", None
        finally:
            self.at_prompt = False


def read_line(prompt: str) -> str:
    """The next line of stdin; what the locale doesn't know is taken for UTF-8."""
    try:
        line = input(prompt)
    except OSError as error:
        raise command.OutputFailed(error) from None  # of the prompt
    try:
        line.encode()
    except UnicodeEncodeError:  # bytes that are no characters to the locale
        return line.encode(sys.stdin.encoding, "surrogateescape").decode("utf-8", "replace")
    return line
