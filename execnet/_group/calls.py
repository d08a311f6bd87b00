"""Calls in threads of their own, which no Ctrl-C interrupts, and waits that share one deadline."""

from __future__ import annotations

import time

from execnet.gateway_base import OneShotEvent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from execnet.gateway_base import ExecModel

    TermKill = tuple[Callable[[], object], Callable[[], object]]

# Seconds between SIGINT, SIGTERM and SIGKILL, once a process's time is over.
ESCALATION_STEP = 0.1


class Deadline:
    """A point in time that several waits share."""

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self.at = None if timeout is None else time.monotonic() + timeout

    def remaining(self) -> float | None:
        """Seconds left, never negative; None for no end."""
        return None if self.at is None else max(0.0, self.at - time.monotonic())

    def for_next_wait(self) -> float | None:
        """Seconds left, but at least enough for a healthy process to end in."""
        remaining = self.remaining()
        return None if remaining is None else max(remaining, 4 * self.step())

    def step(self) -> float:
        """Seconds between two steps of the escalation, short where the timeout is."""
        return min(ESCALATION_STEP, (self.timeout or 0.0) / 10)


class Call:
    """A function called in a thread of its own, or in place where none can be started.

    A function with a method ``within`` is asked for that, with the seconds left, where it runs in place.
    """

    def __init__(self, execmodel: ExecModel, func: Callable[[], object]) -> None:
        self.func = func
        self.failure: BaseException | None = None
        self._done = OneShotEvent(execmodel)
        self._in_thread = True
        try:
            execmodel.start(self._run)
        except RuntimeError:
            self._in_thread = False

    def _run(self) -> None:
        try:
            self.func()
        except BaseException as exc:  # raised in the caller's thread
            self.failure = exc
        finally:
            self._done.set()

    def done_within(self, deadline: Deadline) -> bool:
        """Whether the function has returned, after waiting until the deadline."""
        if self._in_thread:
            return bool(self._done.wait(deadline.remaining()))
        within: Callable[[float | None], bool] | None = getattr(self.func, "within", None)
        if within is not None:
            return within(deadline.remaining())
        if not self._done.is_set():
            self._run()
        return True


def run_apart(execmodel: ExecModel, func: Callable[[], object]) -> None:
    """Call ``func`` where a Ctrl-C that comes meanwhile does not interrupt it, and wait for it."""
    call = Call(execmodel, func)
    call.done_within(Deadline(None))
    if call.failure is not None:
        raise call.failure


def safe_terminate(execmodel: ExecModel, timeout: float | None, list_of_paired_functions: Sequence[TermKill]) -> None:
    """Call each ``termfunc``, and the ``killfunc`` of those not back after ``timeout`` seconds.

    The pairs run in parallel. A ``killfunc``, and its ``termfunc`` after it, is awaited for
    another ``timeout`` seconds and then left to itself. None waits for every ``termfunc``.
    Where no thread can be started, such as at interpreter exit, the pairs run one after
    another. The first exception of a function is raised once all of them were dealt with.
    """
    deadline = Deadline(timeout)
    terms = [Call(execmodel, term) for term, _ in list_of_paired_functions]
    kills: list[tuple[Call, Call]] = []
    for term, (_, killfunc) in zip(terms, list_of_paired_functions):
        if not term.done_within(deadline):
            kills.append((term, Call(execmodel, killfunc)))
    deadline = Deadline(timeout)
    for term, kill in kills:
        if kill.done_within(deadline):
            term.done_within(deadline)
    for call in [*terms, *(kill for _, kill in kills)]:
        if call.failure is not None:
            raise call.failure
