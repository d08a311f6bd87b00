"""What workers write to their standard output and error, and where it goes.

    a worker's descriptor 1 or 2        here
    a pipe, for processes we start   →  ┐
    a pipe, read there, and sent     →  ┴ the group's carrier, one thread  →  a sink: prefix, capture, file:, inherit

A local process (popen, warm, ssh's own standard error) has the writing end of a pipe, whose other end is here.
Whatever else is far (ssh's standard output, socket, via) has a pipe of its own, which a thread of the worker reads
(`execnet.script.output`); it sends what it gets as messages of a channel, and no more than a window ahead of what the
carrier has written: so both ways hold a worker back as a pipe does. Neither holds back what goes over channels, for no
receiver waits for a sink. What a worker over ssh had not sent at its death comes in the standard error of ssh.

`modes` reads what is asked for, `carrier` is the thread, `sinks` what it writes to, `far` the initiator's end of what
is sent, `last_words` what is found in a standard error, `streams` what one worker has of all this. Nothing here is
imported unless a spec or the environment asks for it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from execnet._output.carrier import Carrier
    from execnet._output.streams import Outputs
    from execnet.xspec import XSpec


def outputs_of(
    spec: XSpec, carriers: dict[str, Carrier], function: Callable[[Any, str, str], object] | None
) -> Outputs | None:
    """What a worker of the spec has, its thread the one of ``carriers``; None where nothing is asked for."""
    from execnet._output import modes

    wanted = modes.wanted(spec)
    if not wanted:
        return None
    from execnet._output.carrier import Carrier  # lazy: only where something is asked for
    from execnet._output.streams import Outputs

    carrier = carriers.get("carrier") or carriers.setdefault("carrier", Carrier())
    return Outputs(spec, wanted, carrier, function)
