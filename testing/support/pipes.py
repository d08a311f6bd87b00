"""What a pipe holds."""

from __future__ import annotations

import fcntl

F_GETPIPE_SZ = 1032  # Python names it from 3.10 on


def capacity(descriptor: int) -> int:
    """How many bytes fit in the pipe."""
    return fcntl.fcntl(descriptor, F_GETPIPE_SZ)
