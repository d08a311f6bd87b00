"""What a spec, or the environment, asks for: a mode for each of a worker's two outputs."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from execnet.xspec import XSpec

NULL, INHERIT, PREFIX, CAPTURE, FILE = "null", "inherit", "prefix", "capture", "file:"
VARIABLES = {"stdout": "EXECNET_STDOUT", "stderr": "EXECNET_STDERR"}
#: The numbers that the outputs have in every process.
DESCRIPTORS = {"stdout": 1, "stderr": 2}


def wanted(spec: XSpec) -> dict[str, str]:
    """The modes asked for, by the name of the output; without those that change nothing anywhere.

    Raises ValueError for what is no mode.
    """
    modes: dict[str, str] = {}
    for name in DESCRIPTORS:
        mode = getattr(spec, name) or os.environ.get(VARIABLES[name])
        if not mode:
            continue
        if not _is_known(mode):
            source = f"{name}={mode}" if getattr(spec, name) else f"{VARIABLES[name]}={mode}"
            raise ValueError(f"{source} is not known, only null, inherit, prefix, capture and file:PATH: {str(spec)!r}")
        if (name, mode) != ("stdout", NULL):
            modes[name] = mode
    return modes


def path_of(mode: str, gateway_id: str) -> str:
    """The PATH of ``file:PATH``, for that gateway."""
    return mode[len(FILE) :].replace("{id}", gateway_id)


def _is_known(mode: object) -> bool:
    is_file = isinstance(mode, str) and mode.startswith(FILE) and mode != FILE
    return is_file or mode in (NULL, INHERIT, PREFIX, CAPTURE)


def none_kept(name: str, gateway_id: str) -> ValueError:
    """The error for who asks for output that is not kept."""
    if name not in ("stdout", "stderr"):
        return ValueError(f"a worker has stdout and stderr, no {name!r}")
    return ValueError(f"{name} of gateway {gateway_id!r} is not kept: {name}=capture in its spec does that")
