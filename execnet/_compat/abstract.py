"""Names of `execnet.gateway_base` that execnet 2.1 has for annotations, of what its functions take and give."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from execnet.gateway_base import ExecModel


class Event:
    """What an ExecModel's Event() gives."""

    def is_set(self) -> bool:
        raise NotImplementedError

    def set(self) -> None:
        raise NotImplementedError

    def clear(self) -> None:
        raise NotImplementedError

    def wait(self, timeout: float | None = None) -> bool:
        raise NotImplementedError


class ReadIO:
    """What messages and values are read from."""

    def read(self, numbytes: int, /) -> bytes:
        raise NotImplementedError


class WriteIO:
    """What they are written to."""

    def write(self, data: bytes, /) -> None:
        raise NotImplementedError


class IO(ReadIO, WriteIO):
    """What a gateway goes over, with a process or a socket at its other end."""

    execmodel: ExecModel | None = None

    def close_read(self) -> None:
        raise NotImplementedError

    def close_write(self) -> None:
        raise NotImplementedError

    def wait(self) -> int | None:
        raise NotImplementedError

    def kill(self) -> None:
        raise NotImplementedError


NAMES = (Event, IO, ReadIO, WriteIO)
for _class in NAMES:
    _class.__module__ = "execnet.gateway_base"
