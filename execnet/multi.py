"""Groups: gateways that are named, started, addressed and ended together."""

from __future__ import annotations

import atexit
import os
import time

from execnet.gateway_base import NO_ENDMARKER_WANTED, BaseGateway, RemoteError, ThreadExecModel, get_execmodel
from execnet.xspec import XSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from queue import Queue
    from types import TracebackType
    from typing import Any

    from execnet.gateway import Gateway
    from execnet.gateway_base import Channel, ExecModel
    from execnet.gateway_ssh import SshConnection
    from execnet.gateway_warm import Template

    TermKill = tuple[Callable[[], object], Callable[[], object]]

# Seconds left to a process between SIGINT, SIGTERM and SIGKILL, once its time is over.
ESCALATION_STEP = 0.1
# Seconds the system is given to hand over a process that has been killed.
REAP_GRACE = 0.5
# Seconds that workers are given at interpreter exit, at the end of a with block, after a failed start.
END_TIMEOUT = 1.0

# Runs on the far side, on Python 2.7 and newer.
SETUP_SOURCE = """
import os
def native(text):
    return text.encode("utf-8") if str is bytes and not isinstance(text, str) else text
chdir, nice, env = channel.receive()
if chdir is not None:
    chdir = native(chdir)
    try:
        os.mkdir(chdir)
    except OSError:
        if not os.path.isdir(chdir):
            raise
    os.chdir(chdir)
if nice and hasattr(os, "nice"):
    level = os.nice(nice)
    # On Linux that was this thread only; the others, and those they will start, come now.
    if hasattr(os, "setpriority") and os.path.isdir("/proc/self/task"):
        for thread in os.listdir("/proc/self/task"):
            try:
                os.setpriority(os.PRIO_PROCESS, int(thread), level)
            except ProcessLookupError:
                pass  # ended meanwhile
for name, value in env.items():
    os.environ[native(name)] = native(value)
"""


class Group:
    """The gateways made through it, in order; it names them and ends them together.

    ``xspecs`` are started at once, side by side; ``execmodel`` names the execution model
    of this side and, for specs that name none, of the workers. The group is terminated,
    with a timeout of one second, at interpreter exit and at the end of a ``with`` block.
    """

    defaultspec = "popen"

    def __init__(self, xspecs: Iterable[XSpec | str | None] = (), execmodel: str | ExecModel = "thread") -> None:
        self._gateways: list[Gateway] = []
        self._gateways_to_join: list[Gateway] = []
        self._autoidcounter = 0
        # Auto ids of starts that failed: the next start takes them first.
        self._autoids_returned: list[str] = []
        self._ids_starting: set[str] = set()
        #: How many of the specs that `allocate_id` has named are started before `makegateway` is called for them.
        self.start_ahead = _start_ahead_wanted()
        self._announced: list[XSpec] = []
        self._ahead: list[_Start] = []
        self._owner_pid = os.getpid()
        # What warm workers are forked from, by what tells one from another.
        self._templates: dict[object, Template] = {}
        self.set_execmodel(execmodel)
        atexit.register(self._cleanup_atexit)
        specs = list(xspecs)
        if specs:
            self.makegateways(specs)

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
        self._lock = self._execmodel.Lock()

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
        with self._lock:
            self._allocate_id(spec)
            if self.start_ahead:
                self._announced.append(spec)

    def _allocate_id(self, spec: XSpec) -> str:
        """With the lock held."""
        if spec.id is not None:
            gateway_id = spec.id
        elif self._autoids_returned:
            gateway_id = self._autoids_returned.pop(0)
        else:
            gateway_id = f"gw{self._autoidcounter}"
            self._autoidcounter += 1
        if gateway_id in self or gateway_id in self._ids_starting:
            raise ValueError(f"already have gateway with id {gateway_id!r}")
        spec.id = gateway_id
        return gateway_id

    def _register(self, gateway: Gateway) -> None:
        if gateway.id in self:
            raise ValueError(f"already have gateway with id {gateway.id!r}")
        self._gateways.append(gateway)
        gateway._group = self

    def _unregister(self, gateway: Gateway) -> None:
        with self._lock:
            if gateway in self._gateways:
                self._gateways.remove(gateway)
                self._gateways_to_join.append(gateway)

    # -- starting

    def makegateway(self, spec: XSpec | str | None = None) -> Gateway:
        """Start what ``spec`` describes, add it to the group and return its Gateway.

        Without a spec, ``defaultspec`` is used. After a failure nothing is left behind,
        the group is unchanged and the id is free again. Raises ValueError for a spec
        that names no gateway type or whose id is taken, KeyError for an unknown ``via``
        or ``installvia``, HostNotFound or another OSError where the start failed, and
        RemoteError where ``chdir``, ``nice`` or ``env`` could not be applied.
        """
        start = self._taken_from_ahead(spec) or _Start(self, spec)
        try:
            if start.io is None:
                start.begin()
            if self.start_ahead:
                self._begin_ahead()
            return start.finish()
        finally:
            start.release_id()

    def _taken_from_ahead(self, spec: XSpec | str | None) -> _Start | None:
        with self._lock:
            self._announced = [announced for announced in self._announced if announced is not spec]
            for start in self._ahead:
                if start.spec is spec:
                    self._ahead.remove(start)
                    return start
        return None

    def _begin_ahead(self) -> None:
        """Start processes for announced specs, while that of another one comes up."""
        while len(self._ahead) < self.start_ahead:
            with self._lock:
                if not self._announced:
                    return
                spec = self._announced.pop(0)
            if spec.via or spec.socket or spec.warm or spec.preload:
                continue
            try:
                start = _Start(self, spec)
            except ValueError:
                continue  # as its own makegateway will tell
            try:
                start.begin()
            except (OSError, ValueError):
                start.release_id()
            else:
                self._ahead.append(start)

    def _discard_ahead(self) -> None:
        self._announced.clear()
        while self._ahead:
            start = self._ahead.pop()
            start.discard()
            start.release_id()

    def makegateways(self, specs: Iterable[XSpec | str | None], max_parallel: int | None = None) -> list[Gateway]:
        """Start all ``specs`` side by side and return their gateways in the order given.

        At most ``max_parallel`` starts are under way at a time (None: all of them). Ids
        are given in order; a spec with ``via`` or ``installvia`` waits for the gateway it
        needs, which may be another one of ``specs``. Where starts fail, the others are
        ended and the group is left as it was; a single failure is raised as
        `makegateway` would raise it, several as one OSError that names every failed spec.
        Raises ValueError for a ``max_parallel`` below 1 and for specs that go in a circle.
        """
        if max_parallel is not None and max_parallel < 1:
            raise ValueError(f"max_parallel must be at least 1, not {max_parallel}")
        return _Starts(self, specs).run(max_parallel)

    def remote_exec(self, source: Any, **kwargs: Any) -> MultiChannel:
        """Execute ``source`` on every member, in order; see `Gateway.remote_exec`."""
        return MultiChannel([gateway.remote_exec(source, **kwargs) for gateway in self])

    # -- ending

    def terminate(self, timeout: float | None = None) -> None:
        """End every gateway of the group, and wait until they are gone.

        Members that others go through (``via``) end after those. What has not ended
        ``timeout`` seconds after the call is interrupted, terminated and killed in quick
        succession; None waits without end. A process that survives that is named in a
        RuntimeWarning.
        """
        self._disown_in_forked_child()
        self._discard_ahead()
        deadline = _Deadline(timeout)
        failures: list[Exception] = []
        try:
            while self._gateways or self._gateways_to_join:
                exits = self._exit(_leaves(self._gateways), deadline)
                failures += self._await_end(list(self._gateways_to_join), deadline, exits)
        finally:
            if not self._gateways and not self._gateways_to_join:
                self._end_templates()
        if failures:
            raise failures[0]

    def _end_templates(self) -> None:
        if self._templates:
            from execnet import gateway_warm  # lazy: start-up speed

            gateway_warm.end_templates(self._templates)

    def _terminate_only(self, gateways: list[Gateway], timeout: float) -> None:
        """Like terminate, for some of the members."""
        deadline = _Deadline(timeout)
        failures: list[Exception] = []
        while gateways:
            leaves = _leaves(gateways)
            exits = self._exit(leaves, deadline)
            failures += self._await_end(leaves, deadline, exits)
            gateways = [gateway for gateway in gateways if gateway not in leaves]
        if failures:
            raise failures[0]

    def _exit(self, gateways: list[Gateway], deadline: _Deadline) -> list[_Call]:
        """Tell gateways to exit. One whose pipe is full, so that it can't be told, is left to be killed."""
        exits = [_Call(self._execmodel, gateway.exit) for gateway in gateways]
        for call in exits:
            call.done_within(deadline)
        for gateway in gateways:
            self._unregister(gateway)
        return exits

    def _await_end(self, gateways: list[Gateway], deadline: _Deadline, exits: list[_Call]) -> list[Exception]:
        """Wait for gateways that were told to exit, kill those that are late; what failed in that.

        That is for the caller to raise, when all others have ended as well.
        """
        members = [_Member(gateway, deadline) for gateway in gateways]
        pairs: list[TermKill] = [(member, member.kill) for member in members]
        failures = [call.failure for call in exits if call.failure is not None]
        try:
            safe_terminate(self._execmodel, deadline.for_next_wait(), pairs)
        except Exception as exc:  # Ctrl-C leaves the rest to the exit handler
            failures.append(exc)
        with self._lock:
            for gateway in gateways:
                if gateway in self._gateways_to_join:
                    self._gateways_to_join.remove(gateway)
        for member in members:
            try:
                member.warn_unless_reaped()
            except Exception as exc:
                failures.append(exc)
        return failures

    def _cleanup_atexit(self) -> None:
        self._disown_in_forked_child()
        if not (self._gateways or self._gateways_to_join or self._templates or self._ahead):
            return
        import warnings  # lazy: start-up speed

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.terminate(END_TIMEOUT)

    def _disown_in_forked_child(self) -> None:
        """In a forked child, forget the gateways: they belong to the parent process."""
        if self._owner_pid == os.getpid():
            return
        self._owner_pid = os.getpid()
        self._gateways.clear()
        self._gateways_to_join.clear()
        self._templates.clear()
        self._ids_starting.clear()
        self._announced.clear()
        self._ahead.clear()
        self._lock = self._execmodel.Lock()


class _Start:
    """One gateway on its way from a spec to a member of the group."""

    def __init__(self, group: Group, spec: XSpec | str | None) -> None:
        group._disown_in_forked_child()
        spec = spec or group.defaultspec
        self.group = group
        self.spec = spec if isinstance(spec, XSpec) else XSpec(spec)
        self.nice = _niceness(self.spec)
        self.automatic_id = self.spec.id is None
        with group._lock:
            self.id = group._allocate_id(self.spec)
            group._ids_starting.add(self.id)
        if self.spec.execmodel is None:
            self.spec.execmodel = group.remote_execmodel.backend
        self.io: Any = None
        # Among several starts: the one that this one goes through, and whether this one is over.
        self.needed: _Start | None = None
        # And the ssh connection that it shares with others.
        self.connection: SshConnection | None = None
        self.over = group.execmodel.Event()

    @property
    def needs(self) -> str | None:
        """The id of the gateway that this one goes through."""
        return self.spec.via or self.spec.installvia

    def begin(self) -> None:
        """Start the process or connect, and tell it what to run, without waiting for its answer."""
        from execnet import gateway_bootstrap  # lazy: start-up speed

        self.io = self._create_io()
        try:
            gateway_bootstrap.begin(self.io, self.spec)
        except BaseException:
            self.discard()
            raise

    def can_begin_at_once(self) -> bool:
        """Whether begin() depends on no other start and does not block."""
        return self.needed is None and not self.spec.socket and self.connection is None

    def _create_io(self) -> Any:
        from execnet import gateway_io, gateway_socket  # lazy: start-up speed

        spec, group = self.spec, self.group
        if spec.warm or spec.preload:
            from execnet import gateway_warm  # lazy: start-up speed

            return gateway_warm.create_io(spec, group)
        if spec.via:
            return gateway_io.create_proxy_io(spec, group[spec.via], group.execmodel)
        if spec.popen or spec.ssh or spec.vagrant_ssh:
            shared = () if self.connection is None else (self.connection,)
            return gateway_io.create_io(spec, group.execmodel, *shared)
        if spec.socket:
            return gateway_socket.create_io(spec, group, group.execmodel)
        raise ValueError(f"no gateway type found for {spec._spec!r}")

    def finish(self) -> Gateway:
        """Wait for the answer, add the gateway to the group and set it up."""
        from execnet import gateway_bootstrap  # lazy: start-up speed

        try:
            gateway = gateway_bootstrap.finish(self.io, self.spec)
        except BaseException:  # Ctrl-C at a password prompt as well
            self.discard()
            raise
        self.group._register(gateway)
        try:
            self._set_up(gateway)
        except BaseException:
            self.group._terminate_only([gateway], END_TIMEOUT)
            raise
        return gateway

    def discard(self) -> None:
        """End what was begun."""
        if self.io is not None:
            from execnet import gateway_bootstrap  # lazy: start-up speed

            gateway_bootstrap.discard(self.io)

    def _set_up(self, gateway: Gateway) -> None:
        spec = self.spec
        if spec.chdir is None and spec.nice is None and not spec.env:
            return
        channel = gateway.remote_exec(SETUP_SOURCE)
        channel.send((spec.chdir, self.nice, spec.env))
        try:
            channel.waitclose()
        except RemoteError as exc:
            raise RemoteError(f"could not set up {spec._spec!r}:\n{exc.formatted}") from None
        # The channel closes a moment before the worker's main thread is free for the first task.
        while gateway.remote_status().numexecuting:
            pass

    def release_id(self) -> None:
        """End the reservation of the id; after a failure the spec is as it came."""
        with self.group._lock:
            self.group._ids_starting.discard(self.id)
            if self.automatic_id and self.id not in self.group:
                self.group._autoids_returned.append(self.id)
                self.spec.id = None


def _niceness(spec: XSpec) -> int:
    try:
        return int(spec.nice or 0)
    except ValueError:
        raise ValueError(f"nice= needs a whole number: {spec._spec!r}") from None


class _Starts:
    """Several starts side by side, each behind the one it goes through."""

    def __init__(self, group: Group, specs: Iterable[XSpec | str | None]) -> None:
        self.group = group
        self.starts: list[_Start] = []
        self.failures: dict[_Start, Exception] = {}
        self.gateways: dict[_Start, Gateway] = {}
        self.cancelled = False
        self.connections: set[SshConnection] = set()
        try:
            for spec in specs:
                self.starts.append(_Start(group, spec))
            self.waiting = self._in_order_of_need()
        except BaseException:
            self._release_ids()
            raise

    def _in_order_of_need(self) -> list[_Start]:
        """The starts as given, but each behind the one whose gateway it goes through."""
        by_id: dict[str | None, _Start] = {start.id: start for start in self.starts}
        ordered: dict[_Start, None] = {}
        for start in self.starts:
            chain = [start]
            while start.needs in by_id and by_id[start.needs] not in ordered:
                start = by_id[start.needs]
                if start in chain:
                    raise ValueError(f"{start.spec._spec!r} goes through itself")
                chain.append(start)
            ordered.update(dict.fromkeys(reversed(chain)))
        for start in self.starts:
            start.needed = by_id.get(start.needs)
        return list(ordered)

    def run(self, max_parallel: int | None) -> list[Gateway]:
        """Start all, wait for all; the gateways in the order of the specs."""
        try:
            self._share_connections()
            if max_parallel is None:
                for start in self.starts:
                    if start.can_begin_at_once():
                        self._attempt(start, _Start.begin)
            self._work_in_parallel(max_parallel or len(self.starts))
            if self.failures:
                self.group._terminate_only(list(self.gateways.values()), END_TIMEOUT)
                raise self._failure()
        except BaseException:
            self._cancel()
            raise
        finally:
            self._release_ids()
            for connection in self.connections:
                connection.all_started()
        return self._sorted()

    def _share_connections(self) -> None:
        """Have one ssh connect for several starts to the same host."""
        if not any(start.spec.ssh for start in self.starts) or not isinstance(self.group.execmodel, ThreadExecModel):
            return
        from execnet import gateway_ssh  # lazy: start-up speed

        for index, connection in gateway_ssh.shared([start.spec for start in self.starts]).items():
            self.starts[index].connection = connection
            self.connections.add(connection)

    def _cancel(self) -> None:
        """End what was begun; a start that is being finished right now ends itself."""
        self.cancelled = True
        for connection in self.connections:
            connection.close()
        with self.group._lock:
            abandoned, self.waiting = self.waiting, []
        for start in abandoned:
            start.discard()

    def _work_in_parallel(self, workers: int) -> None:
        execmodel = self.group.execmodel
        for _ in self.starts[:workers]:
            execmodel.start(self._work)
        for start in self.starts:
            start.over.wait()

    def _work(self) -> None:
        """Take starts that nobody works on, until none is left."""
        while True:
            with self.group._lock:
                if not self.waiting:
                    return
                start = self.waiting.pop(0)
            try:
                self._attempt(start, self._complete)
            finally:
                start.over.set()

    def _attempt(self, start: _Start, step: Callable[[_Start], None]) -> None:
        if start in self.failures:
            return
        try:
            step(start)
        except Exception as exc:  # raised by run(), in the caller's thread
            self.failures[start] = exc

    def _complete(self, start: _Start) -> None:
        if start.needed is not None:
            start.needed.over.wait()
            if start.needed in self.failures:
                raise OSError(f"{start.spec._spec!r} was not started: {start.needs!r} failed")
        if start.connection is not None:
            start.connection.wait_until_open()
        if self.cancelled:
            return start.discard()
        if start.io is None:
            start.begin()
        gateway = self.gateways[start] = start.finish()
        if self.cancelled:
            self.group._terminate_only([gateway], END_TIMEOUT)

    def _failure(self) -> Exception:
        failed = [start for start in self.starts if start in self.failures]
        if len(failed) == 1:
            return self.failures[failed[0]]
        lines = [f"{len(failed)} of {len(self.starts)} gateways could not be started:"]
        for start in failed:
            exc = self.failures[start]
            lines.append(f"{start.spec._spec!r}: {type(exc).__name__}: {exc}")
        from execnet.gateway_bootstrap import GatewayStartError  # lazy: start-up speed

        error = GatewayStartError("\n".join(lines))
        error.__cause__ = self.failures[failed[0]]
        return error

    def _sorted(self) -> list[Gateway]:
        gateways = [self.gateways[start] for start in self.starts]
        with self.group._lock:
            others = [gateway for gateway in self.group if gateway not in gateways]
            self.group._gateways[:] = others + gateways
        return gateways

    def _release_ids(self) -> None:
        for start in self.starts:
            start.release_id()


def _start_ahead_wanted() -> int:
    wanted = os.environ.get("EXECNET_START_AHEAD") or "0"
    try:
        return int(wanted)
    except ValueError:
        raise ValueError(f"EXECNET_START_AHEAD needs a whole number, not {wanted!r}") from None


def _leaves(gateways: list[Gateway]) -> list[Gateway]:
    """Those that no other of ``gateways`` goes through."""
    needed = {gateway.spec.via for gateway in gateways}
    leaves = [gateway for gateway in gateways if gateway.id not in needed]
    return leaves or list(gateways)


class _Deadline:
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


class _Member:
    """How the end of one gateway is awaited and, where that takes too long, forced."""

    def __init__(self, gateway: Gateway, deadline: _Deadline) -> None:
        self.gateway = gateway
        self.io = gateway._io
        # Known for processes on this machine only.
        self.popen: Any = getattr(self.io, "popen", None)
        self.deadline = deadline

    def __call__(self) -> None:
        """Wait until the receiver has finished and the process is reaped."""
        self.gateway.join()
        self.io.wait()

    def within(self, timeout: float | None) -> bool:
        """Wait at most ``timeout`` seconds, for when no thread can be started."""
        if not isinstance(self.gateway, BaseGateway):
            self()  # of a stand-in nothing but its plain join() is known
            return True
        limit = _Deadline(timeout)
        self.gateway.join(limit.remaining())
        if self.popen is not None:
            return self._reaped(limit.remaining())
        return not self.gateway.hasreceiver()

    def kill(self) -> None:
        """Interrupt, terminate and kill the process, a step apart."""
        if self.popen is not None and os.name == "posix":
            import signal  # lazy: start-up speed

            for signum in (signal.SIGINT, signal.SIGTERM):
                self.popen.send_signal(signum)
                if self._reaped(self.deadline.step()):
                    return
        self.io.kill()

    def warn_unless_reaped(self) -> None:
        """Name a local process that even SIGKILL has not ended."""
        if self.popen is None:
            return
        if self._reaped(REAP_GRACE):
            self.io.wait()
            return
        import warnings  # lazy: start-up speed

        warnings.warn(
            f"gateway {self.gateway.id!r}: process {self.popen.pid} could not be ended", RuntimeWarning, stacklevel=4
        )

    def _reaped(self, timeout: float | None) -> bool:
        """Whether the process has ended, after at most ``timeout`` seconds of waiting."""
        if self.popen.poll() is not None:
            return True
        try:
            self.popen.wait(timeout)
        except self.io.execmodel.subprocess.TimeoutExpired:
            return False
        return True


class _Call:
    """A function called in a thread of its own, or in place where none can be started."""

    def __init__(self, execmodel: ExecModel, func: Callable[[], object]) -> None:
        self.func = func
        self.failure: Exception | None = None
        self._done = execmodel.Event()
        self._in_thread = True
        try:
            execmodel.start(self._run)
        except RuntimeError:
            self._in_thread = False

    def _run(self) -> None:
        try:
            self.func()
        except Exception as exc:  # raised by safe_terminate, in the caller's thread
            self.failure = exc
        finally:
            self._done.set()

    def done_within(self, deadline: _Deadline) -> bool:
        """Whether the function has returned, after waiting until the deadline."""
        if self._in_thread:
            return bool(self._done.wait(deadline.remaining()))
        if isinstance(self.func, _Member):
            return self.func.within(deadline.remaining())
        self._run()
        return True


def safe_terminate(execmodel: ExecModel, timeout: float | None, list_of_paired_functions: Sequence[TermKill]) -> None:
    """Call each ``termfunc``, and the ``killfunc`` of those not back after ``timeout`` seconds.

    The pairs run in parallel. A ``killfunc``, and its ``termfunc`` after it, is awaited for
    another ``timeout`` seconds and then left to itself. None waits for every ``termfunc``.
    Where no thread can be started, such as at interpreter exit, the pairs run one after
    another. The first exception of a function is raised once all of them were dealt with.
    """
    deadline = _Deadline(timeout)
    terms = [_Call(execmodel, term) for term, _ in list_of_paired_functions]
    kills: list[tuple[_Call, _Call]] = []
    for term, (_, killfunc) in zip(terms, list_of_paired_functions):
        if not term.done_within(deadline):
            kills.append((term, _Call(execmodel, killfunc)))
    deadline = _Deadline(timeout)
    for term, kill in kills:
        if kill.done_within(deadline):
            term.done_within(deadline)
    for call in [*terms, *(kill for _, kill in kills)]:
        if call.failure is not None:
            raise call.failure


class MultiChannel:
    """Several channels, addressed together."""

    def __init__(self, channels: Iterable[Channel]) -> None:
        self._channels = list(channels)
        self._queue: Queue[tuple[Channel, Any]] | None = None

    def __len__(self) -> int:
        return len(self._channels)

    def __iter__(self) -> Iterator[Channel]:
        return iter(self._channels)

    def __getitem__(self, key: int) -> Channel:
        return self._channels[key]

    def __contains__(self, channel: object) -> bool:
        return channel in self._channels

    def send_each(self, item: object) -> None:
        """Send ``item`` on every channel, in order."""
        for channel in self._channels:
            channel.send(item)

    def receive_each(self, withchannel: bool = False) -> list[Any]:
        """Receive one item from every channel, in order.

        Returns the items, or ``(channel, item)`` pairs if ``withchannel``. Raises what
        `Channel.receive` raises.
        """
        if withchannel:
            return [(channel, channel.receive()) for channel in self._channels]
        return [channel.receive() for channel in self._channels]

    def make_receive_queue(self, endmarker: object = NO_ENDMARKER_WANTED) -> Queue[tuple[Channel, Any]]:
        """Return the one queue that collects ``(channel, item)`` of every channel.

        With an ``endmarker``, the end of each channel puts ``(channel, endmarker)``.
        Later calls return the same queue.
        """
        if self._queue is None:
            self._queue = self._new_queue()
            for channel in self._channels:
                put = _putter(self._queue, channel)
                if endmarker is NO_ENDMARKER_WANTED:
                    channel.setcallback(put)
                else:
                    channel.setcallback(put, endmarker=endmarker)
        return self._queue

    def _new_queue(self) -> Queue[tuple[Channel, Any]]:
        if self._channels:
            queue = self._channels[0].gateway.execmodel.queue
        else:
            import queue  # lazy: start-up speed
        collected: Queue[tuple[Channel, Any]] = queue.Queue()
        return collected

    def waitclose(self) -> None:
        """Wait until every channel has closed.

        Raises the first RemoteError seen, else the first EOFError of a lost connection.
        """
        errors: list[Exception] = []
        for channel in self._channels:
            try:
                channel.waitclose()
            except (RemoteError, EOFError) as exc:
                errors.append(exc)
        if errors:
            raise next((exc for exc in errors if isinstance(exc, RemoteError)), errors[0])


def _putter(queue: Queue[Any], channel: Channel) -> Callable[[object], None]:
    return lambda item: queue.put((channel, item))


default_group = Group()
makegateway = default_group.makegateway
set_execmodel = default_group.set_execmodel
