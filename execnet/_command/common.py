"""What the commands have in common: starting gateways, what is said of a failure, and what far sides send meanwhile."""

from __future__ import annotations

import sys
from contextlib import suppress

from execnet import Group, RemoteError, XSpec
from execnet.xspec import multiplied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable, Sequence
    from typing import Any

    from execnet import Gateway

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130
STATUSES = "Exit status: 0 all went well, 1 it failed somewhere, 2 wrong use, 130 Ctrl-C."
SPEC_HELP = "what to start: popen, popen//python=python3.9, ssh=user@host//python=python3, socket=host:port, ..."
SEVERAL_HELP = f"{SPEC_HELP}; 8*popen is eight of them"
TERMINATE_SECONDS = 5.0
MOST_SECONDS = 86400.0
# Messages of far sides that may wait here; whoever has more to send waits.
MOST_WAITING = 16


class WrongUse(Exception):
    """An argument can't be right; its text is for the user."""


def complain(program: str, text: str) -> None:
    """Say on stderr, in one line, what went wrong, unless nobody can read it."""
    with suppress(OSError):
        print(f"{program}: {shown(text)}", file=sys.stderr, flush=True)


def shown(text: str) -> str:
    """`text` on one line, whatever it holds."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def reason(error: BaseException) -> str:
    """What there is to say of an error; of one from a far side, what its traceback ends with."""
    if isinstance(error, RemoteError):
        lines = [line for line in str(error).splitlines() if line.strip()]
        return lines[-1] if lines else "RemoteError"
    if isinstance(error, KeyError):
        return f"no gateway has the id {error}"
    return str(error) or type(error).__name__


def seconds(text: str) -> float:
    """The number of seconds that an argument gives; raises ValueError where it is none to wait for."""
    from argparse import ArgumentTypeError

    number = float(text)
    if not 0 < number <= MOST_SECONDS:  # nan is no time either
        raise ArgumentTypeError(f"must be more than 0 and at most {MOST_SECONDS:.0f} seconds: {text}")
    return number


seconds.__name__ = "number of seconds"  # as argparse calls it where float() fails


def new_parser(program: str, description: str, epilog: str, usage: str | None = None) -> ArgumentParser:
    """A parser whose help shows the texts as they are written."""
    import argparse

    return argparse.ArgumentParser(
        prog=program,
        usage=usage,
        description=description,
        epilog=f"{epilog}\n\n{STATUSES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_timeout(parser: ArgumentParser) -> None:
    """The option that limits starts."""
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="give up a gateway that takes longer to start (default: wait; somebody may be typing a password)",
    )


def parsed(text: str) -> XSpec:
    """The spec that `text` is; raises WrongUse."""
    try:
        return XSpec(text)
    except (AttributeError, ValueError) as error:
        raise WrongUse(f"{text}: {error}") from None


def parsed_several(text: str) -> list[XSpec]:
    """The specs that ``8*popen`` and the like are; raises WrongUse."""
    try:
        texts = multiplied([text])
    except (AttributeError, ValueError) as error:
        raise WrongUse(str(error)) from None
    return [parsed(str(single)) for single in texts]


def refuse_green(specs: Sequence[XSpec]) -> None:
    """Raise WrongUse for a model in which threads that wait keep all else from running."""
    for spec in specs:
        if spec.execmodel not in (None, "thread", "main_thread_only"):
            raise WrongUse(f"execmodel={spec.execmodel} can't be used here, only thread and main_thread_only: {spec}")


def place(gateway: Gateway) -> str:
    """How a gateway is named in what is said of it."""
    return f"{gateway.id} ({gateway.spec})"


def start(program: str, group: Group, specs: Sequence[XSpec], timeout: float | None) -> list[Gateway | None]:
    """Start `specs` side by side; None in the place of each that failed, of which the reason is said.

    Raises WrongUse for specs that can't be right, before anything is done on any.
    """
    try:
        results = group.makegateways(specs, timeout=timeout, return_errors=True)
    except ValueError as error:
        raise WrongUse(str(error)) from None
    for result in results:
        if isinstance(result, (ValueError, KeyError)):
            raise WrongUse(reason(result))
    gateways: list[Gateway | None] = []
    for spec, result in zip(specs, results):
        if isinstance(result, Exception):
            complain(program, reason(result) if str(spec) in reason(result) else f"{spec}: {reason(result)}")
            gateways.append(None)
        else:
            gateways.append(result)
    return gateways


class Inbox:
    """What channels receive, for the main thread to take: it alone writes to the terminal, and can be interrupted.

    Only so much waits here; then whoever sends more waits, too. As a context manager: at the end nobody waits any more.
    """

    def __init__(self) -> None:
        import queue

        # The one kind of queue that a signal handler may use: no Ctrl-C leaves a lock of it held.
        self._items: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(MOST_WAITING):
            self._room.put(None)
        self._closed = False
        self._sources = 0

    def callback(self, source: object) -> Callable[[object], None]:
        """A callback for a channel: what it is called with is taken as (source, item)."""
        self._sources += 1

        def put(item: object) -> None:
            if not self._closed:
                self._room.get()
                self._items.put((source, item))

        return put

    def take(self) -> tuple[Any, Any]:
        """The next (source, item), waited for; (None, None) after a `wake`."""
        source, item = self._items.get()
        if source is not None:
            self._room.put(None)
        return source, item

    def wake(self) -> None:
        """Have the next `take` return, at the latest after what waits already; for signal handlers, too."""
        self._items.put((None, None))

    def __enter__(self) -> Inbox:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closed = True
        for _ in range(self._sources):  # each of them may be waiting for room, once
            self._room.put(None)


def as_bytes(received: bytes | str) -> bytes:
    """Bytes of a far side; those of Python 2 are its str, which reads as latin-1 text."""
    return received.encode("latin-1") if isinstance(received, str) else received
