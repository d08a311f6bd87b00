"""The transports: for each key of a spec, how the other side is started or reached.

To add one: its key and the type of that in `execnet.xspec`, a row in TRANSPORTS, a file beside this one for what it
needs. Where a process is started, the row names a function that gives its command; `create` is PROCESS then, and it
works through ``via`` as well. One that starts no process has a `create` function of its own, as those in `creating`,
which returns an `execnet.gateway_base.IO`; if that also has the further methods of `execnet.gateway_io`, errors tell
more. What is sent first and the wait for the answer are the same for all: `execnet.gateway_bootstrap`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from execnet.xspec import XSpec


class Transport:
    """A row: what specs that have the ``key`` are started by.

    Functions are named ``module:function``: they are looked up at each call, for they can be replaced there, and
    nothing is imported before it is used. ``create`` takes an `execnet._group.starting.Start` and gives the io;
    ``command`` takes the spec and gives the command of the process, None where none is started. One that ``blocks``
    takes its time before there is an io, so that others are begun meanwhile.
    """

    def __init__(self, key: str, create: str, command: str | None = None, blocks: bool = False) -> None:
        self.key = key
        self.create = create
        self.command = command
        self.blocks = blocks

    def is_for(self, spec: XSpec) -> bool:
        """Whether the spec has the key."""
        return bool(getattr(spec, self.key))


PROCESS = "execnet._transport.creating:process"
POPEN_COMMAND = "execnet.gateway_io:popen_args"

# Of those that a spec has keys of, the first one counts.
TRANSPORTS = [
    Transport("warm", "execnet._transport.creating:warm"),
    Transport("preload", "execnet._transport.creating:warm"),
    Transport("via", "execnet._transport.creating:via"),
    Transport("ssh", PROCESS, "execnet.gateway_io:ssh_args"),
    Transport("vagrant_ssh", PROCESS, "execnet.gateway_io:vagrant_ssh_args"),
    Transport("popen", "execnet._transport.creating:popen", POPEN_COMMAND),
    Transport("socket", "execnet._transport.creating:socket", blocks=True),
]


def transport_of(spec: XSpec) -> Transport | None:
    """The row for the spec, if there is one."""
    return next((transport for transport in TRANSPORTS if transport.is_for(spec)), None)


def command_of(spec: XSpec) -> list[str]:
    """The command of the process of a spec: here, or on the gateway that it goes through."""
    commands = (transport.command for transport in TRANSPORTS if transport.command and transport.is_for(spec))
    command: list[str] = function(next(commands, POPEN_COMMAND))(spec)
    return command


def function(name: str) -> Any:
    """The function of a name ``module:function``."""
    module, _, attribute = name.partition(":")
    return getattr(__import__(module, fromlist=[attribute]), attribute)
