"""Asking workers for the stacks of their threads, all at once, with one time limit."""

from __future__ import annotations

from execnet._group.calls import Call, Deadline
from execnet._source.shipped import strip_source
from execnet.gateway_base import Message, TimeoutError, dumps_internal
from execnet.script import stacks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from execnet.gateway import Gateway
    from execnet.gateway_base import Channel

#: Each begins so: the C core of a worker whose threads are stuck finds it among what nobody has read.
QUESTION = "# execnet: where does this worker stand?\n"
# A message that can't be done would end the connection.
CALL = """\
try:
    answer = {0}(gateway)
except Exception as exc:
    answer = gateway._geterrortext(exc)
"""
_questions: dict[str, bytes] = {}


def _question(function: str) -> bytes:
    """The payload that has a worker call that function of `execnet.script.stacks`; made once."""
    if function not in _questions:
        loader: Any = stacks.__spec__.loader
        source = strip_source(loader.get_source(stacks.__name__))
        _questions[function] = dumps_internal(f"{QUESTION}{source}\n{CALL.format(function)}")
    return _questions[function]


def of(gateway: Gateway, timeout: float | None) -> str:
    """What the worker answers; TimeoutError, or why it can't."""
    (answer,) = of_all([gateway], timeout)
    if isinstance(answer, Exception):
        raise answer
    return answer


def of_all(gateways: Iterable[Gateway], timeout: float | None) -> list[str | Exception]:
    """For each gateway what its worker answers, or why there is no answer."""
    asked = [_Asked(gateway) for gateway in gateways]
    deadline = Deadline(timeout)
    return [one.answer(deadline) for one in asked]


def of_group(gateways: Iterable[Gateway], timeout: float | None) -> str:
    """The answers as one text, each under the name of its gateway."""
    members = list(gateways)
    answers = of_all(members, timeout)
    return "\n".join(section(gateway, answer) for gateway, answer in zip(members, answers))


def section(gateway: Gateway, answer: str | Exception) -> str:
    title = f"{gateway.id} ({gateway.spec})"
    if isinstance(answer, str):
        return f"{title}\n{'-' * len(title)}\n{answer}"
    return f"{title}: no answer: {answer}\n"


def prepare(gateway: Gateway) -> None:
    """Have the worker ready to answer also when it is stuck in C code."""
    channel = gateway.newchannel()
    gateway._send(Message.STATUS, channel.id, _question("prepare"))
    gateway._channelfactory._local_close(channel.id)


class _Asked:
    """A gateway whose worker is asked, in a thread of its own: already the question may have to wait."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._parts: list[str] = []
        self._channel: Channel | None = None
        self._call = Call(gateway.execmodel, self._ask)

    def _ask(self) -> None:
        gateway = self._gateway
        self._channel = channel = gateway.newchannel()
        try:
            gateway._send(Message.STATUS, channel.id, _question("tell"))
            for part in channel:
                if not isinstance(part, str):
                    raise OSError(f"the execnet of gateway {gateway.id!r} is too old to be asked for stacks")
                self._parts.append(part)
            if not self._parts:
                raise channel._getremoteerror() or EOFError(f"gateway {gateway.id!r} has ended")
        finally:
            self._close()

    def _close(self) -> None:
        # The other side never had a channel of this id.
        if self._channel is not None:
            self._gateway._channelfactory._local_close(self._channel.id)

    def answer(self, deadline: Deadline) -> str | Exception:
        if not self._call.done_within(deadline):
            self._close()  # which ends the thread
            seconds = deadline.timeout
            return TimeoutError(f"gateway {self._gateway.id!r} did not tell its stacks within {seconds} seconds")
        failure = self._call.failure
        if failure is None:
            return "".join(self._parts)
        return failure if isinstance(failure, Exception) else OSError(str(failure))
