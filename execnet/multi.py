"""Groups: gateways that are named, started, addressed and ended together."""

from __future__ import annotations

import _thread
import atexit
import os
import sys

from execnet._group.ahead import Ahead
from execnet._group.calls import run_apart
from execnet._group.calls import safe_terminate as safe_terminate
from execnet._group.ending import END_TIMEOUT, Ending
from execnet._group.membership import Membership
from execnet._group.multichannel import MultiChannel as MultiChannel
from execnet._group.starting import Starts
from execnet.gateway_base import NO_ENDMARKER_WANTED as NO_ENDMARKER_WANTED  # for programs
from execnet.gateway_base import get_execmodel
from execnet.xspec import XSpec, multiplied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Any, Literal, overload

    from execnet._output.carrier import Carrier
    from execnet._output.streams import Outputs
    from execnet._timeline.recorder import Recorder
    from execnet.gateway import Gateway
    from execnet.gateway_base import ExecModel

    if sys.platform == "win32":
        ForkServer = Any
    else:
        from execnet._transport.warm import ForkServer


def _is_beside_main() -> bool:
    """Whether this is not the main interpreter of its process; before CPython 3.12 that is not supported."""
    is_main = getattr(_thread, "_is_main_interpreter", None)
    return is_main is not None and not is_main()


class Group:
    """The gateways made through it, in order; it names them and ends them together.

    ``xspecs`` are started at once, side by side; ``execmodel`` names the execution model
    of this side and, for specs that name none, of the workers. ``output`` is called, by a
    thread of the group, for each line that a worker writes and that would be printed
    (``stdout=prefix``, ``stderr=prefix``), with the gateway, ``"stdout"`` or ``"stderr"``,
    and the line. The group is terminated, with a timeout of one second, at interpreter
    exit and at the end of a ``with`` block.
    """

    defaultspec = "popen"

    def __init__(
        self,
        xspecs: Iterable[XSpec | str | None] = (),
        execmodel: str | ExecModel = "thread",
        output: Callable[[Gateway, str, str], object] | None = None,
    ) -> None:
        self._membership = Membership()
        self._ahead = Ahead(self)
        self._owner_pid = os.getpid()
        # What warm workers are forked from, by what tells one from another; and those that get no more requests.
        self._forkservers: dict[object, ForkServer] = {}
        self._output = output
        self._recorder: Recorder | None = None  # of the timeline, once there is something to record
        self._carriers: dict[str, Carrier] = {}  # the one thread that carries what workers write, if one is asked for
        self.set_execmodel(execmodel)
        if _is_beside_main():
            from execnet._group.subinterpreter import call_at_exit  # lazy: start-up speed

            call_at_exit(self._cleanup_atexit)
        else:
            atexit.register(self._cleanup_atexit)
        specs = list(xspecs)
        if specs:
            self.makegateways(specs)

    @property
    def _gateways(self) -> list[Gateway]:
        """The members; a list that can be changed."""
        return self._membership.members

    @property
    def _gateways_to_join(self) -> list[Gateway]:
        """Those that have left and are not known to have ended."""
        return self._membership.ending()

    @property
    def start_ahead(self) -> int:
        """How many of the specs that `allocate_id` has named are started before `makegateway` is called for them."""
        return self._ahead.limit

    @start_ahead.setter
    def start_ahead(self, limit: int) -> None:
        self._ahead.limit = limit

    @property
    def execmodel(self) -> ExecModel:
        """The execution model of this side."""
        return self._execmodel

    @property
    def remote_execmodel(self) -> ExecModel:
        """The execution model of workers whose spec names none."""
        return self._remote_execmodel

    def set_execmodel(self, execmodel: str | ExecModel, remote_execmodel: str | ExecModel | None = None) -> None:
        """Choose the execution models of this side and of the workers.

        ``remote_execmodel`` defaults to ``execmodel``. Raises ValueError for an unknown
        model, and once the group has gateways.
        """
        if self._gateways:
            raise ValueError("can not set execution models while the group has gateways")
        self._execmodel = get_execmodel(execmodel)
        self._remote_execmodel = self._execmodel if remote_execmodel is None else get_execmodel(remote_execmodel)
        self._lock = self._execmodel.Lock()  # of the fork servers
        # For programs that number gateways themselves; nothing here needs it.
        self._autoidlock = self._execmodel.Lock()

    def __repr__(self) -> str:
        return f"<Group {[gateway.id for gateway in self]!r}>"

    def __enter__(self) -> Group:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.terminate(END_TIMEOUT)

    def __len__(self) -> int:
        return len(self._gateways)

    def __iter__(self) -> Iterator[Gateway]:
        return iter(list(self._gateways))

    def __getitem__(self, key: int | str | Gateway) -> Gateway:
        if isinstance(key, int):
            return self._gateways[key]
        for gateway in self:
            if gateway is key or gateway.id == key:
                return gateway
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        try:
            self[key]  # type: ignore[index]
        except LookupError:
            return False
        return True

    # -- names and membership

    def allocate_id(self, spec: XSpec) -> None:
        """Give ``gw0``, ``gw1``, … to a spec that has no id.

        Raises ValueError where the id is already taken in this group.
        """
        self._disown_in_forked_child()
        if spec.id is None:
            spec.id = self._membership.new_id()
        else:
            self._membership.check_free(spec.id)
        self._ahead.announce(spec)

    def _register(self, gateway: Gateway) -> None:
        """Make the gateway a member; ValueError where its id is taken, or being started by another one."""
        gateway._group = self
        try:
            self._membership.register(gateway)
        except BaseException:
            del gateway._group
            raise

    def _unregister(self, gateway: Gateway) -> None:
        """The gateway is not a member any more; what waits for the group's end waits for its end as well."""
        self._membership.leave(gateway)

    # -- starting

    def makegateway(self, spec: XSpec | str | None = None, timeout: float | None = None) -> Gateway:
        """Start what ``spec`` describes, add it to the group and return its Gateway.

        Without a spec, ``defaultspec`` is used. After a failure nothing is left,
        the group is unchanged and the id is free again. Raises ValueError for a spec
        that names no gateway type or whose id is taken, KeyError for an unknown ``via``
        or ``installvia``, HostNotFound or another OSError where the start failed, and
        RemoteError where ``chdir``, ``nice`` or ``env`` could not be applied. With a
        ``timeout`` (seconds, also as ``timeout=`` in the spec) a start that takes longer
        is given up: an OSError that is a TimeoutError, too. It is raised when nothing of
        the start is left, at most five seconds later.
        """
        # One statement, and so is that of _start(): between two a Ctrl-C would leave a member that nobody was told of.
        return self._start([spec], None, timeout)[0]  # type: ignore[no-any-return]

    if TYPE_CHECKING:

        @overload
        def makegateways(
            self,
            specs: Iterable[XSpec | str | None],
            max_parallel: int | None = None,
            timeout: float | None = None,
            return_errors: Literal[False] = False,
        ) -> list[Gateway]: ...

        @overload
        def makegateways(
            self,
            specs: Iterable[XSpec | str | None],
            max_parallel: int | None = None,
            timeout: float | None = None,
            *,
            return_errors: bool,
        ) -> list[Gateway | Exception]: ...

    def makegateways(
        self,
        specs: Iterable[XSpec | str | None],
        max_parallel: int | None = None,
        timeout: float | None = None,
        return_errors: bool = False,
    ) -> list[Any]:
        """Start all ``specs`` side by side and return their gateways in the order given.

        At most ``max_parallel`` starts are under way at a time (None: all of them). Ids
        are given in order; a spec with ``via`` or ``installvia`` waits for the gateway it
        needs, which may be another one of ``specs``. All become members together, at the
        end. When a start fails, no other one is begun, and those under way have another
        second before all are ended and the group is left as it was; a single failure is
        raised as `makegateway` would raise it, several as one OSError that names each
        spec that failed. After Ctrl-C, too, nothing is left. ``timeout`` is for all of
        them, as for `makegateway`; that of a spec counts from the call, too.

        With ``return_errors`` a start that fails, or takes longer than its timeout, does
        not concern the others: in the list its exception has the place of its gateway.
        A spec that can't be right is still an error, before anything is started.

        ``8*popen`` stands for eight specs. Raises ValueError for a ``max_parallel`` below 1,
        for specs that go in a circle, and for ``0*popen``.
        """
        if max_parallel is not None and max_parallel < 1:
            raise ValueError(f"max_parallel must be at least 1, not {max_parallel}")
        return self._start(multiplied(specs), max_parallel, timeout, return_errors)

    def _start(
        self,
        specs: Iterable[XSpec | str | None],
        max_parallel: int | None,
        timeout: float | None,
        return_errors: bool = False,
    ) -> list[Any]:
        self._disown_in_forked_child()
        if not os.environ.get("EXECNET_REPORT") or sys.platform == "win32":
            return Starts(self, specs, max_parallel, timeout, return_errors).run()
        from execnet._report import unasked  # lazy: start-up speed

        unasked.begin()
        started = Starts(self, specs, max_parallel, timeout, return_errors).run()
        unasked.prepare(started)
        return started

    def _outputs(self, spec: XSpec) -> Outputs | None:
        """What becomes of the output of a worker that is to be started, where that is asked for."""
        if not (spec.stdout or spec.stderr or "EXECNET_STDOUT" in os.environ or "EXECNET_STDERR" in os.environ):
            return None
        from execnet._output import outputs_of  # lazy: only whoever asks for it pays for it

        return outputs_of(spec, self._carriers, self._output)

    @property
    def _timeline(self) -> Recorder | None:
        """What records this process and its workers, where that is asked for."""
        if not os.environ.get("EXECNET_TIMELINE"):
            return None
        from execnet._timeline import recorder  # lazy: only whoever asks for it pays for it

        self._recorder = recorder.current()
        return self._recorder

    def remote_exec(self, source: Any, **kwargs: Any) -> MultiChannel:
        """Execute ``source`` on every member, in order; see `Gateway.remote_exec`."""
        return MultiChannel([gateway.remote_exec(source, **kwargs) for gateway in self])

    def remote_stacks(self, timeout: float | None = 5.0) -> str:
        """What each member is doing: all are asked at once; see `Gateway.remote_stacks`.

        Those that gave no answer within ``timeout`` seconds are named in the text.
        """
        from execnet._report import stacks  # lazy: start-up speed

        return stacks.of_group(self, timeout)

    # -- ending

    def terminate(self, timeout: float | None = None) -> None:
        """End every gateway of the group, and wait until they are gone.

        Members that others go through (``via``) end after those. What has not ended
        ``timeout`` seconds after the call is interrupted, terminated and killed in quick
        succession; None waits without end. A process that survives that is named in a
        RuntimeWarning. What another thread starts meanwhile lives on. What Ctrl-C leaves
        is ended by the next call, at the latest at interpreter exit.
        """
        self._disown_in_forked_child()
        if self._ahead:
            run_apart(self._execmodel, self._ahead.discard)
        try:
            # Members first: one that leaves meanwhile is found among those that have left.
            gateways = {id(gateway): gateway for gateway in [*list(self._gateways), *self._gateways_to_join]}
            self._end(list(gateways.values()), timeout)
        finally:
            self._end_forkservers()

    def _terminate_only(self, gateways: list[Gateway], timeout: float | None) -> None:
        """Like terminate, for some of the members."""
        self._end(gateways, timeout)

    def _end(self, gateways: list[Gateway], timeout: float | None) -> None:
        Ending(self._execmodel, self._membership, timeout, safe_terminate).end(gateways)

    def _end_forkservers(self) -> None:
        """End what warm workers are forked from, unless there are any: one that a start just claimed stays with it."""
        if sys.platform != "win32" and self._forkservers and not self._gateways and not self._gateways_to_join:
            from execnet._transport import warm  # lazy: start-up speed

            run_apart(self._execmodel, lambda: warm.end_forkservers(self._forkservers))

    def _cleanup_atexit(self) -> None:
        self._disown_in_forked_child()
        left = (self._gateways, self._gateways_to_join, self._forkservers, self._ahead)
        if any(left):
            import warnings  # lazy: start-up speed

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.terminate(END_TIMEOUT)
        for carrier in self._carriers.values():
            carrier.join()
        if self._recorder is not None:
            self._recorder.flush()

    def _disown_in_forked_child(self) -> None:
        """In a forked child, forget the gateways: they belong to the parent process."""
        if self._owner_pid == os.getpid():
            return
        self._owner_pid = os.getpid()
        self._membership.begin_anew()
        self._ahead.begin_anew()
        self._forkservers, self._carriers = {}, {}
        self._lock = self._execmodel.Lock()


default_group = Group()
makegateway = default_group.makegateway
set_execmodel = default_group.set_execmodel
