"""What the other side writes before its answer: told from it, skipped, kept to be shown.

An answer has a no-op message after its one byte (`execnet.gateway_base.ANSWER`), so that it is known in the middle of
anything, in the text of a shell's profile that has the same byte as well. After it nothing comes until we say
something: so we never ask for more bytes than the answer still lacks, and where nothing came before it, one read gets
all of it.
"""

from __future__ import annotations

from execnet.gateway_base import ANSWER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from execnet.xspec import XSpec

    # (count, seconds): at most count bytes within the seconds (None: no limit): none at the end, None where none came.
    Receive = Callable[[int, "float | None"], "bytes | None"]

ACCEPTED = ANSWER[:1]
NOISE_SIZE = 64 * 1024  # bytes before the answer, of which more are no noise
NOISE_SHOWN = 2000
QUIET_TIME = 3.0  # seconds within which more must come after noise: what writes it may be no interpreter at all


def await_answer(io: Any, receive: Receive) -> bytes:
    """The byte that says that the other side is ready, empty where it does not come; ``io.noise`` is what came before.

    There is no limit for the first byte: someone may be typing a password.
    """
    came, lacking, seconds = bytearray(), len(ANSWER), None
    while lacking and len(came) + lacking <= NOISE_SIZE + len(ANSWER):
        chunk = receive(lacking, seconds)
        if chunk is None and came == ACCEPTED:
            return ACCEPTED  # of a far side with a text of its own, which knows of nothing but the one byte
        if not chunk:
            break
        came += chunk
        lacking, seconds = _lacking(came), io.quiet_time
    io.noise = bytes(came if lacking else came[: -len(ANSWER)])
    return b"" if lacking else ACCEPTED


def _lacking(came: bytearray) -> int:
    """How many bytes of the answer are still to come."""
    sizes = range(min(len(came), len(ANSWER)), 0, -1)
    return len(ANSWER) - next((size for size in sizes if came.endswith(ANSWER[:size])), 0)


def warn_of_noise(io: Any, spec: XSpec, stacklevel: int) -> None:
    """Show what came before the answer of a gateway that is up, if anything did, once."""
    noise = getattr(io, "noise", b"")
    if noise:
        io.noise = b""
        import warnings  # lazy: start-up speed

        shown = noise[:NOISE_SHOWN].decode("utf-8", "backslashreplace")
        more = f" and {len(noise) - NOISE_SHOWN} bytes more" if len(noise) > NOISE_SHOWN else ""
        text = f"gateway {str(spec)!r}: before it was ready, its standard output had {shown!r}{more}"
        warnings.warn(text, RuntimeWarning, stacklevel=stacklevel + 1)
