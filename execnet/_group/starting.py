"""Starting gateways: many side by side or one, each something that can be undone.

The caller's thread only waits. Other threads do all the work: Python runs signal handlers in the main thread alone, so
a Ctrl-C can't come between the start of a process and the note that there is one. What a start has is noted in its
`Start`, before anything else can fail, and `Start.undo` removes it.

    caller                         conductor                     a worker for each start under way
    makes Starts, which has
    nothing yet
    starts the conductor     →     reserves the ids
    waits                          begins processes        →     awaits an answer, sets up
                                   waits                   ←     over
                                   enters all gateways,
                                   or undoes all starts
    returns or raises        ←     over

An interrupted caller, like a failure, has the conductor stop: what is under way is killed, so that its worker comes
back, and undone. Whether the conductor or the caller's interrupt was first is decided by one `dict.setdefault`. What
came before an answer is shown by the caller's thread, as a warning for the line that asked for the gateway; where that
is raised, it is like a Ctrl-C.
"""

from __future__ import annotations

from execnet._group.calls import Call, Deadline
from execnet._group.ending import END_TIMEOUT
from execnet._group.membership import Place
from execnet._process.noise import warn_of_noise
from execnet._transport import registry
from execnet.gateway_base import OneShotEvent, RemoteError, get_execmodel, has_threads
from execnet.xspec import XSpec, warn_of_likely_mistakes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Protocol

    from execnet._group.ahead import Ahead
    from execnet._group.membership import Membership
    from execnet._output.streams import Outputs
    from execnet._timeline.recorder import Recorder, Track
    from execnet._transport.ssh_shared import SshConnection
    from execnet.gateway import Gateway
    from execnet.gateway_base import ExecModel

    class Home(Protocol):
        """What a start needs of the group that its gateway is for."""

        defaultspec: str
        _membership: Membership
        _ahead: Ahead

        @property
        def execmodel(self) -> ExecModel: ...

        @property
        def remote_execmodel(self) -> ExecModel: ...

        def __getitem__(self, key: str) -> Gateway: ...

        @property
        def _timeline(self) -> Recorder | None: ...

        def _outputs(self, spec: XSpec) -> Outputs | None: ...

        def _register(self, gateway: Gateway) -> None: ...

        def _terminate_only(self, gateways: list[Gateway], timeout: float) -> None: ...

        def _end_forkservers(self) -> None: ...


# Seconds in which other starts that fail as well are told with the first one.
FAILURE_GRACE = 1.0
# Seconds an interrupted caller waits until nothing is left. What can't be hurried (connecting, a name being looked up,
# a stopped gateway on the way) is undone in the background.
UNDO_PATIENCE = 5.0

# Keys that need a text. (`socket` alone goes with installvia.)
TEXTS = "chdir execmodel id installvia python ssh ssh_command ssh_config timeout vagrant_ssh via".split()
# Frames between who asks for gateways and what warns of their specs.
WARN_ABOVE = 4

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

# The end of a task is told a moment before the worker's main thread is free again, as the program's first task is to
# find it. So after the tasks of a start this one has a thread say when no task runs any more.
FREE_SOURCE = """
def tell(free, pool):
    pool.waitall()
    free.send(None)
    free.close()
channel.gateway.execmodel.start(tell, (channel.receive(), channel.gateway._execpool))
"""


class Start:
    """One gateway on its way from a spec to a member of the group. Raises ValueError for a spec that can't be right."""

    def __init__(self, group: Home, spec: XSpec | str | None) -> None:
        spec = spec or group.defaultspec
        self.group = group
        self.spec = spec if isinstance(spec, XSpec) else XSpec(spec)
        self.nice = _niceness(self.spec)
        _check_texts(self.spec)
        _check_ssh_command(self.spec)
        if self.spec.execmodel is not None:
            get_execmodel(self.spec.execmodel)
        self.timeout = _seconds(self.spec)
        # What there is to undo.
        self.automatic_id = False
        self.place = Place()
        self.io: Any = None
        self.outputs: Outputs | None = None
        self.track: Track | None = None  # of the timeline, if one is asked for
        self.gateway: Gateway | None = None
        # Whether its process is forked because EXECNET_WARM says so; and whether it is not to be.
        self.unasked_warm = self.cold = False
        # Among several starts: the one that this one goes through, and whether this one is over.
        self.needed: Start | None = None
        # And the ssh connection that it shares with others.
        self.connection: SshConnection | None = None
        self.ready = False
        self.over = OneShotEvent(group.execmodel)

    @property
    def id(self) -> str | None:
        """The gateway's id, None until it is reserved."""
        return self.place.id

    @property
    def needs(self) -> str | None:
        """The id of the gateway that this one goes through."""
        return self.spec.via or self.spec.installvia

    def reserve(self) -> None:
        """Claim the id; ValueError where it is not free."""
        spec = self.spec
        self.automatic_id = spec.id is None
        spec.id = self.group._membership.reserve(self.place, spec.id)
        if spec.execmodel is None:
            spec.execmodel = self.group.remote_execmodel.backend

    def begin(self) -> None:
        """Start the process or connect, and tell it what to run, without waiting for its answer."""
        from execnet import gateway_bootstrap  # lazy: start-up speed

        # What the environment says is for those who start processes, and a spec may say it now as it did not before.
        self.outputs = self.group._outputs(self.spec)
        self._note("process")
        try:
            self.io = self._create_io()
            if self.outputs is not None:
                self.io.outputs = self.outputs
        finally:
            if self.outputs is not None:
                self.outputs.close_far_ends()
        if not self.unasked_warm:  # then the request for it said what to run
            gateway_bootstrap.begin(self.io, self.spec)
        self._note("interpreter")

    def begins_cold(self) -> bool:
        """Wait until what EXECNET_WARM asked for is there; where it can't be, begin as if that were not set: true."""
        if not self.unasked_warm:
            return False
        from execnet import gateway_bootstrap  # lazy: start-up speed
        from execnet._transport import unasked  # lazy: start-up speed

        if not unasked.is_refused(self.spec, self.io):
            return False
        self.cold = True
        self.unasked_warm = False
        gateway_bootstrap.discard(self.io)
        self.begin()
        return True

    def can_begin_at_once(self) -> bool:
        """Whether begin() depends on no other start and does not block."""
        transport = registry.transport_of(self.spec)
        return self.needed is None and not (transport and transport.blocks) and self.connection is None

    def _create_io(self) -> Any:
        transport = registry.transport_of(self.spec)
        if transport is None:
            raise ValueError(f"no gateway type found for {self.spec._spec!r}{_hint(self.spec)}")
        return registry.function(transport.create)(self)

    @property
    def output_options(self) -> dict[str, Outputs]:
        """What functions that make an io are given besides; nothing unless asked for: replaced ones take nothing."""
        return {} if self.outputs is None else {"outputs": self.outputs}

    def way(self, gateway_id: str) -> Gateway:
        """The gateway to go through; it may be one that is not a member yet."""
        if self.needed is None:
            return self.group[gateway_id]
        assert self.needed.gateway is not None, "a start waits for the one it needs"
        return self.needed.gateway

    def finish(self) -> None:
        """Wait for the answer, make the gateway and set it up."""
        from execnet import gateway_bootstrap  # lazy: start-up speed

        self.gateway = gateway_bootstrap.finish(self.io, self.spec)
        if self.track is not None:
            self.track.connect(self.gateway)
        self._note("set-up")
        self._set_up(self.gateway)
        if self.track is not None:
            self.track.end_start()
        self.ready = True

    def _note(self, phase: str) -> None:
        """Have the timeline, if one is asked for, tell that the start has come to that phase."""
        timeline = self.group._timeline
        if timeline is not None:
            self.track = self.track or timeline.track(self.spec)
            self.track.begin(phase)

    def _set_up(self, gateway: Gateway) -> None:
        spec = self.spec
        ran = self.track is not None
        if self.outputs is not None:
            ran = self.outputs.set_up(gateway) or ran
        if spec.chdir is not None or spec.nice is not None or spec.env:
            self._apply_keys(gateway)
            ran = True
        if ran:
            _await_free(gateway)

    def _apply_keys(self, gateway: Gateway) -> None:
        spec = self.spec
        channel = gateway.remote_exec(SETUP_SOURCE)
        channel.send((spec.chdir, self.nice, spec.env))
        try:
            channel.waitclose()
        except RemoteError as exc:
            raise RemoteError(f"could not set up {spec._spec!r}:\n{exc.formatted}") from None

    def enter(self) -> None:
        """Add the gateway to the group."""
        assert self.gateway is not None, "only what has been started is a member"
        self.place.gateway = self.gateway
        self.group._register(self.gateway)

    def stop(self) -> None:
        """Have it fail soon, wherever it is; it has to be undone nevertheless."""
        io = self.io
        if io is not None and not self.ready:
            io.kill()

    def discard(self) -> None:
        """End what was begun, to begin anew or not at all."""
        from execnet import gateway_bootstrap  # lazy: start-up speed

        gateway, io = self.gateway, self.io
        try:
            if gateway is not None:
                self.group._terminate_only([gateway], END_TIMEOUT)
            elif io is not None:
                gateway_bootstrap.discard(io)
        finally:
            self.gateway = self.io = None

    def undo(self) -> None:
        """Remove all there is of it, member or not; may be called again."""
        if self.track is not None:
            self.track.end_start("failed")
        try:
            self.discard()
        finally:
            self.group._membership.forget(self.place)
            if self.automatic_id:  # the spec is as it came
                self.spec.id = None


def _await_free(gateway: Gateway) -> None:
    free = gateway.newchannel()
    channel = gateway.remote_exec(FREE_SOURCE)
    channel.send(free)
    channel.waitclose()
    free.receive()
    free.waitclose()


def _hint(spec: XSpec) -> str:
    """What may have been meant by a spec without a type."""
    count, times, _ = spec._spec.partition("*")
    if not times or "=" in count or "/" in count:
        return ""
    several = count.isascii() and count.isdigit()
    return ": several are for makegateways" if several else f": before * goes a whole number, not {count!r}"


def _niceness(spec: XSpec) -> int:
    try:
        return int(spec.nice or 0)
    except ValueError:
        raise ValueError(f"nice= needs a whole number: {spec._spec!r}") from None


def _seconds(spec: XSpec) -> float | None:
    if spec.timeout is None:
        return None
    try:
        return positive(float(spec.timeout))
    except ValueError:
        raise ValueError(f"timeout= needs a positive number of seconds: {spec._spec!r}") from None


def _shorter(one: float | None, other: float | None) -> float | None:
    given = [seconds for seconds in (one, other) if seconds is not None]
    return min(given, default=None)


def positive(seconds: float) -> float:
    """The seconds themselves; ValueError where they are no time that one can wait."""
    if not seconds > 0:
        raise ValueError(f"timeout must be positive, not {seconds}")
    return seconds


def _check_texts(spec: XSpec) -> None:
    for key in TEXTS:
        if getattr(spec, key) is True:
            raise ValueError(f"{key}= needs a value: {spec._spec!r}")


def _check_ssh_command(spec: XSpec) -> None:
    if spec.ssh:
        from execnet import gateway_io  # lazy: start-up speed

        gateway_io.ssh_command(spec)


# Seconds after which a conductor that has not begun never will: its thread had no memory to start with.
CONDUCTOR_PATIENCE = 30.0
# Who was first: the conductor, or the caller who gave up before it ran.
CONDUCTOR, CALLER = "conductor", "caller"


class Starts:
    """Several starts side by side, each after the one it goes through. Nothing exists before `run`.

    Each may take its own timeout, or that of all of them, counted in seconds from `run` on. With ``return_errors`` one
    that fails does not affect the others.
    """

    def __init__(
        self,
        group: Home,
        specs: Iterable[XSpec | str | None],
        max_parallel: int | None = None,
        timeout: float | None = None,
        return_errors: bool = False,
    ) -> None:
        self.group = group
        self.return_errors = return_errors
        self.execmodel = group.execmodel
        self.max_parallel = max_parallel
        self.starts = [Start(group, spec) for spec in specs]
        general = None if timeout is None else positive(timeout)
        self.limits = [_shorter(start.timeout, general) for start in self.starts]
        for start in self.starts:
            warn_of_likely_mistakes(start.spec, WARN_ABOVE)
        self.waiting: list[Start] = []
        self.failures: dict[Start, BaseException] = {}
        #: What becomes the failure of those that are not ready; noted before they are told to stop.
        self.late: dict[Start, OSError] = {}
        self.connections: set[SshConnection] = set()
        #: Nothing new is begun, and what is under way fails.
        self.stopped = False
        self._first: dict[str, str] = {}
        self._error: BaseException | None = None
        self._undoing: Call | None = None
        self._over = OneShotEvent(self.execmodel)
        # Where several are awaited: a queue that gets each that is over.
        self._overs: Any = None

    # -- the caller's thread

    def run(self) -> list[Any]:
        """Start all, wait for all; the gateways, or why there is none, in the order of the specs.

        Raises what the conductor raised; whatever is raised, nothing is left.
        """
        try:
            return self._conducted()
        except BaseException:  # perhaps of a Ctrl-C in the middle of giving up
            self._give_up()
            raise

    def _conducted(self) -> list[Any]:
        try:
            self.execmodel.start(self._conduct)
            self._wait()
            if self._error is not None:
                raise self._error
            for start in self.starts:
                warn_of_noise(start.io, start.spec, WARN_ABOVE + 1)
            return [self.failures.get(start, start.gateway) for start in self.starts]
        except BaseException:
            self._give_up()
            raise

    def _wait(self) -> None:
        """Wait until the conductor is done, or raise for those that take too long."""
        limits = sorted({limit for limit in self.limits if limit is not None})
        for limit, deadline in [(limit, Deadline(limit)) for limit in limits]:
            if self._over.wait(deadline.remaining()):
                return
            pairs = zip(self.starts, self.limits)
            late = [start for start, own in pairs if own == limit and self._is_under_way(start)]
            if late:
                from execnet import gateway_bootstrap  # lazy: start-up speed

                if not self.return_errors:
                    raise gateway_bootstrap.late_error([(start.spec, start.io) for start in late], limit)
                for start in late:
                    self.late[start] = gateway_bootstrap.late_error([(start.spec, start.io)], limit)
                self.execmodel.start(self._leave_behind, (late,))
        if not self._over.wait(CONDUCTOR_PATIENCE) and self._first.setdefault("first", CALLER) == CALLER:
            raise OSError("out of resources: the thread that starts gateways has not begun")
        self._over.wait()

    def _leave_behind(self, late: list[Start]) -> None:
        """Have starts fail that took too long, and the others not wait for those that can't be hurried.

        In a thread of its own: to stop one may block, too.
        """
        stops = [Call(self.execmodel, start.stop) for start in late]
        deadline = Deadline(UNDO_PATIENCE)
        for start, stop in zip(late, stops):
            stop.done_within(deadline)
            if not start.over.wait(deadline.remaining()):
                self.failures.setdefault(start, self.late[start])
                self._is_over(start)

    def _is_under_way(self, start: Start) -> bool:
        return not start.over.is_set() and start not in self.failures

    def _give_up(self) -> None:
        if self._over.is_set() and self._error is not None:
            return  # all is undone
        if self._first.setdefault("first", CALLER) == CONDUCTOR:
            self._undoing = self._undoing or Call(self.execmodel, self._take_back)
            self._undoing.done_within(Deadline(UNDO_PATIENCE))

    def _take_back(self) -> None:
        self._stop()
        self._over.wait()
        self._undo_all()
        self.group._end_forkservers()  # the group may have been ended meanwhile

    # -- the conductor

    def _conduct(self) -> None:
        if self._first.setdefault("first", CONDUCTOR) != CONDUCTOR:
            return
        failure = None
        try:
            self._start_all()
            for start in self.starts:
                if start not in self.failures:
                    start.enter()
        except BaseException as exc:  # raised by run(), in the caller's thread
            failure = exc
            try:
                self._undo_all()
            except BaseException as undoing:
                failure = undoing  # its context tells the first
        finally:
            self._error = failure
            self._over.set()

    def _start_all(self) -> None:
        # One that was begun ahead has all that a start has, its id too.
        self.starts = [self.group._ahead.taken(start.spec) or start for start in self.starts]
        for start in self.starts:
            if start.id is None:
                start.reserve()
        waiting = self._in_order_of_need()
        try:
            self._share_connections()
            self._begin_at_once()
            self._finish_all(waiting)
        finally:
            for connection in self.connections:
                connection.all_started()
        if self._must_stop():
            raise self._failure()

    def _must_stop(self) -> bool:
        """Whether nothing new is to be begun, because of a failure or because the caller gave up."""
        return self.stopped or (bool(self.failures) and not self.return_errors)

    def _in_order_of_need(self) -> list[Start]:
        """The starts as given, but each after the one whose gateway it goes through."""
        by_id: dict[str | None, Start] = {start.id: start for start in self.starts}
        ordered: dict[Start, None] = {}
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

    def _share_connections(self) -> None:
        """Have one ssh connect for several starts to the same host."""
        if not any(start.spec.ssh for start in self.starts) or not has_threads(self.execmodel):
            return
        from execnet import gateway_io  # lazy: start-up speed
        from execnet._transport import ssh_shared  # lazy: start-up speed

        if not gateway_io.starts_as_usual():
            return
        for index, connection in ssh_shared.shared([start.spec for start in self.starts]).items():
            self.connections.add(connection)
            self.starts[index].connection = connection

    def _begin_at_once(self) -> None:
        """Begin what can be begun, where nobody counts how many starts are under way."""
        if self.max_parallel is None and len(self.starts) > 1:
            for start in self.starts:
                # A gateway on the way may be stopped, and no start is to hold up the others.
                waits = self.return_errors and start.spec.via
                if start.io is None and start.can_begin_at_once() and not (waits or self.stopped):
                    self._attempt(start, Start.begin)

    def _finish_all(self, waiting: list[Start]) -> None:
        self.waiting, count, missing = waiting, len(waiting), set(waiting)
        if count == 1 and not self.return_errors:
            self._work()
            return
        self._overs = getattr(self.execmodel.queue, "SimpleQueue", self.execmodel.queue.Queue)()
        try:
            for _ in range(count if self.max_parallel is None else min(self.max_parallel, count)):
                self.execmodel.start(self._work)
            self._await_all(missing)
        except BaseException:
            self._stop()
            self._work()  # what nobody took
            for start in self.starts:
                start.over.wait()
            raise

    def _await_all(self, missing: set[Start]) -> None:
        """Wait for all starts; after a failure, not for long: those that have not failed with it are stopped."""
        deadline = Deadline(None)
        while missing:
            try:
                missing.discard(self._overs.get(timeout=deadline.remaining()))
            except self.execmodel.queue.Empty:
                self._stop()
                deadline = Deadline(None)
            else:
                if self._must_stop() and not self.stopped and deadline.timeout is None:
                    deadline = Deadline(FAILURE_GRACE)

    # -- the workers

    def _work(self) -> None:
        """Take starts that nobody works on, until none is left."""
        while True:
            try:
                start = self.waiting.pop(0)
            except IndexError:
                return
            try:
                self._attempt(start, self._complete)
            finally:
                self._is_over(start)

    def _is_over(self, start: Start) -> None:
        start.over.set()
        if self._overs is not None:
            self._overs.put(start)

    def _attempt(self, start: Start, step: Callable[[Start], None]) -> None:
        if start in self.failures:
            start.undo()  # again, or for the first time: of one that was left behind before it began
            return
        try:
            self._check_time(start)
            step(start)
            self._check_time(start)
        except BaseException as exc:  # raised by run(), in the caller's thread
            if not self.stopped:
                self.failures[start] = self.late.get(start, exc)
            start.undo()

    def _check_time(self, start: Start) -> None:
        if start in self.late:
            raise self.late[start]

    def _complete(self, start: Start) -> None:
        if start.needed is not None:
            start.needed.over.wait()
            if start.needed in self.failures:
                raise OSError(f"{start.spec._spec!r} was not started: {start.needs!r} failed")
        if start.connection is not None:
            start.connection.try_begin(start)
        if start.io is None:
            if self._must_stop():
                return
            start.begin()
        self.group._ahead.begin()
        self._stop_again(start)
        if start.begins_cold():
            self._stop_again(start)
        start.finish()

    def _stop_again(self, start: Start) -> None:
        """Stop a start that is to be stopped, perhaps since before there was something to stop."""
        if self.stopped or start in self.late:
            start.stop()

    # -- what did not work

    def _stop(self) -> None:
        self.stopped = True
        for connection in list(self.connections):
            connection.close()
        for start in self.starts:
            start.stop()

    def _undo_all(self) -> None:
        """End what was started, those that others go through after those."""
        gateways = [start.gateway for start in self.starts if start.gateway is not None]
        failures = []
        for step in (lambda: self.group._terminate_only(gateways, END_TIMEOUT), *(start.undo for start in self.starts)):
            try:
                step()
            except BaseException as exc:  # the others have to be undone as well
                failures.append(exc)
        if failures:
            raise failures[0]

    def _failure(self) -> BaseException:
        failed = [start for start in self.starts if start in self.failures]
        if not failed:
            return OSError("the starts were stopped")
        if len(failed) == 1:
            return self.failures[failed[0]]
        interrupts = [exc for exc in self.failures.values() if not isinstance(exc, Exception)]
        if interrupts:
            return interrupts[0]
        lines = [f"{len(failed)} of {len(self.starts)} gateways could not be started:"]
        for start in failed:
            exc = self.failures[start]
            lines.append(f"{start.spec._spec!r}: {type(exc).__name__}: {exc}")
        from execnet.gateway_bootstrap import GatewayStartError  # lazy: start-up speed

        error = GatewayStartError("\n".join(lines))
        error.__cause__ = self.failures[failed[0]]
        return error
