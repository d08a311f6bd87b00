"""execnet serve: the socket server."""

from __future__ import annotations

import os

from execnet._command import common
from execnet.script import socketserver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT = "localhost:8888"
EXAMPLES = """\
examples:
  {program}
  {program} localhost:0
  {program} 10.0.0.7:8888

The address is printed. Elsewhere, or in another terminal, socket=HOST:PORT is a spec of it:
  execnet run socket=localhost:8888 -- "print('hello')"

WARNING: whoever can connect runs code as you. There is no password and no encryption: listen on
localhost, or where you trust everyone. :PORT is for all interfaces; port 0 is one that is free."""


def main(program: str, arguments: Sequence[str]) -> int:
    """Serve until Ctrl-C; 1: the address could not be had."""
    parser = common.new_parser(
        program, "Give an interpreter to whoever connects, until Ctrl-C.", EXAMPLES.format(program=program)
    )
    parser.add_argument("address", nargs="?", default=DEFAULT, metavar="HOST:PORT", help="default: %(default)s")
    options = parser.parse_args(arguments)

    socketserver.hold_standard_streams()
    try:
        listening = socketserver.bind_and_listen(options.address)
    except (OverflowError, ValueError) as error:
        raise common.WrongUse(f"cannot listen on {options.address}: {error}") from None
    except OSError as error:
        common.complain(program, f"cannot listen on {options.address}: {error}")
        return common.FAILED
    socketserver.startserver(listening, loop=True, fork=hasattr(os, "fork"))
    return 0  # in a process that has served its connection
