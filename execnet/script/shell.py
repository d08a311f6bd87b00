"""An interactive Python prompt on a socket server: ``python -m execnet.script.shell host:port``."""

from __future__ import annotations

import sys

from execnet.script import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from execnet.gateway_base import Channel

INTERRUPTED = 130
PROMPT = """
import code, sys

class Stream:
    # What the far side prints comes back as text.
    encoding = "utf-8"
    def write(self, text):
        if isinstance(text, bytes):  # as print of Python 2 does
            text = text.decode("utf-8", "replace")
        channel.send(text.encode("utf-8", "backslashreplace").decode("utf-8"))
    def flush(self):
        pass

console = code.InteractiveConsole({"__name__": "__console__"})
ours = sys.stdout, sys.stderr
for line in channel:
    sys.stdout = sys.stderr = Stream()
    try:
        more = console.push(line)
    except SystemExit:
        break
    finally:
        sys.stdout, sys.stderr = ours
    channel.send(bool(more))
"""


def run(channel: Channel) -> None:
    """Send the lines of stdin to a far console, and print what it writes."""
    more = False
    while True:
        try:
            channel.send(read_line("... " if more else ">>> "))
        except EOFError:
            return
        answer = channel.receive()
        while not isinstance(answer, bool):
            command.write(answer)
            answer = channel.receive()
        more = answer


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


def main() -> int:
    """Connect to the server whose address the command line gives."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m execnet.script.shell host:port")
    from execnet.multi import Group

    sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    group = Group()
    try:
        gateway = group.makegateway(f"socket={sys.argv[1]}")
        version = ".".join(map(str, gateway._rinfo().version_info[:3]))
        command.show(f"Python {version} on {sys.argv[1]}")
        run(gateway.remote_exec(PROMPT))
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    except EOFError:
        pass  # the far side ended the session
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        group.terminate(timeout=2.0)
    return 0


if __name__ == "__main__":
    sys.exit(command.run("python -m execnet.script.shell", main))
