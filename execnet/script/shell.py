"""An interactive Python prompt on a socket server: ``python -m execnet.script.shell host:port``."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from execnet.gateway_base import Channel

PROMPT = """
import code, sys

class Stream:
    # What the far side prints comes back as text.
    encoding = "utf-8"
    def write(self, text):
        channel.send(text)
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
            channel.send(input("... " if more else ">>> "))
        except EOFError:
            return
        answer = channel.receive()
        while not isinstance(answer, bool):
            sys.stdout.write(answer)
            answer = channel.receive()
        more = answer


def main() -> None:
    """Connect to the server whose address the command line gives."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m execnet.script.shell host:port")
    from execnet.multi import Group

    group = Group()
    try:
        gateway = group.makegateway(f"socket={sys.argv[1]}")
        print("Python", *gateway._rinfo().version_info[:3], "on", sys.argv[1])
        run(gateway.remote_exec(PROMPT))
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    except EOFError:
        pass  # the far side ended the session
    finally:
        group.terminate(timeout=2.0)


if __name__ == "__main__":
    main()
