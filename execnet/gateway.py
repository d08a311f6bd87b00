"""The initiating end of a connection: what the user holds."""

from __future__ import annotations

from ._source.functions import _find_non_builtin_globals as _find_non_builtin_globals  # for programs, as the next
from ._source.functions import _source_of_function as _source_of_function
from ._source.functions import task_of
from .gateway_base import BaseGateway, Message, WorkerPool, dumps_internal

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from typing import Any, Callable

    from .gateway_base import Channel, ExecModel, GatewayDied, IOLike, Reply
    from .multi import Group
    from .xspec import XSpec


# Seconds that a gateway used as a context manager has for its end.
EXIT_TIME = 1.0


class RInfo(dict):  # type: ignore[type-arg]
    """Facts of the other side, as attributes."""

    def __init__(self, kwargs: dict[str, Any]) -> None:
        super().__init__(kwargs)
        self.__dict__.update(kwargs)

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={value}" for name, value in sorted(self.items()))
        return f"<{type(self).__name__} {facts!r}>"

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


RemoteStatus = RInfo


class _ReceiverPool(WorkerPool):
    """Runs the receiver of a gateway; its thread does the rest when the receiver counts as ended."""

    def __init__(self, execmodel: ExecModel, rest: Callable[[], object]) -> None:
        super().__init__(execmodel)
        self._rest = rest

    def _run(self, reply: Reply) -> None:
        super()._run(reply)
        self._rest()


class Gateway(BaseGateway):
    """A connection to a Python interpreter that executes code for this process.

    Made by ``Group.makegateway``; io is the connection, spec the XSpec that it was made from.
    """

    _group: Group
    _cache_rinfo: RInfo
    _exiting = False
    #: Whether the other side knows; one that leaves the group is told by whoever ends it where a Ctrl-C came before.
    _was_told = False
    #: A death of which people have not been told.
    _untold: GatewayDied | None = None

    def __init__(self, io: IOLike, spec: XSpec) -> None:
        super().__init__(io=io, id=spec.id, _startcount=1)
        self.spec = spec
        self._receivepool = _ReceiverPool(self.execmodel, self._receiver_ended)
        self._initreceive()

    @property
    def remoteaddress(self) -> str:
        """Where the other side is: the target of ssh, host and port of a socket."""
        address: str = self._io.remoteaddress
        return address

    def __repr__(self) -> str:
        # An instance that was never initialised is shown in tracebacks, too.
        pool = getattr(self, "_receivepool", None)
        if pool is None:
            return f"<{type(self).__name__} id={getattr(self, 'id', None)!r} uninitialized, no active channels>"
        receiving = "receive-live" if self.hasreceiver() else "not-receiving"
        channels = len(self._channelfactory.channels())
        state = f"{receiving}, {self.execmodel.backend} model, {channels} active channels"
        return f"<{type(self).__name__} id={self.id!r} {state}>"

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.exit(wait=EXIT_TIME)

    @property
    def pid(self) -> int | None:
        """The process that was started for the gateway (of ssh: the ssh client), None where that is not known."""
        return getattr(getattr(self._io, "popen", self._io), "pid", None)

    @property
    def returncode(self) -> int | None:
        """Exit status of that process, negative for the signal that killed it.

        None while it runs or where it is not known.
        """
        exit_status = getattr(self._io, "exit_status", None)
        return exit_status(0) if exit_status else None

    def exit(self, wait: float | None = None) -> None:
        """Ask the other side to end, and send nothing more.

        Leaves the group; does not wait; never raises for a peer that is gone; may be called again.  With wait
        (seconds) it waits until the other side has ended and its process is reaped, and kills it
        when the time is over, as Group.terminate does.
        """
        group = getattr(self, "_group", None)
        if wait is not None and group is not None:
            group._terminate_only([self], wait)
            return
        self._trace("gateway.exit() called")
        if group is not None:
            if self._was_told and self not in group._gateways:
                return
            group._unregister(self)
        self._exiting = True
        for step in (self._say_goodbye, self._close_write):
            try:
                step()
            except (ValueError, EOFError, OSError) as exc:
                self._trace("exit:", exc)
        self._was_told = True

    def _say_goodbye(self) -> None:
        self._send_soon(Message.GATEWAY_TERMINATE)

    def _end_error(self, exc: EOFError) -> EOFError:
        from ._process import death  # lazy: start-up speed

        if self._exiting:
            return EOFError(f"gateway {self.id!r} was told to exit{death.cut_short(exc)}")
        self._untold = error = death.died(self._io, self.spec, self.id, exc)
        if (error.returncode is not None or self.spec.socket) and death.stderr_takes_a_line():
            self._tell_people()  # before those wake up who wait, and who may end the program
        return error

    def _tell_people(self) -> None:
        from ._process import death  # lazy: start-up speed

        error, self._untold = self._untold, None
        if error is not None and not self._exiting:
            death.tell_people(error, self._io, self.spec)

    def _receiver_ended(self) -> None:
        """What its thread does last: the process may end long after the connection."""
        if self._untold is not None:
            self._tell_people()
        reap = getattr(self._io, "reap", None)
        if reap is not None:
            reap()

    def output(self, name: str) -> str:
        """What the other side has written to ``"stdout"`` or ``"stderr"``: the last MiB.

        That is kept where the spec says so, ``stdout=capture``. ValueError for another name, and where nothing is kept.
        """
        outputs = getattr(self._io, "outputs", None)
        if outputs is None:
            from execnet._output.modes import none_kept  # lazy: start-up speed

            raise none_kept(name, self.id)
        text: str = outputs.text(name)
        return text

    def hasreceiver(self) -> bool:
        """Whether messages of the other side are still being received."""
        return self._receivepool.active_count() > 0

    def reconfigure(self, py2str_as_py3str: bool = True, py3str_as_py2str: bool = False) -> None:
        """Set how strings are read by the channels made from now on, on both sides."""
        self._strconfig = (py2str_as_py3str, py3str_as_py2str)
        self._send(Message.RECONFIGURE, 0, dumps_internal(self._strconfig))

    def _rinfo(self, update: bool = False) -> RInfo:
        """Facts of the other side's interpreter, asked for once unless update is true."""
        if update or not hasattr(self, "_cache_rinfo"):
            channel = self.remote_exec(rinfo_source)
            try:
                self._cache_rinfo = RInfo(channel.receive())
            finally:
                channel.waitclose()
        return self._cache_rinfo

    def remote_status(self) -> RInfo:
        """What the other side is doing: ``numchannels``, ``numexecuting``, ``execmodel``."""
        channel = self.newchannel()
        try:
            self._send(Message.STATUS, channel.id)
            return RemoteStatus(channel.receive())
        finally:
            # The other side never had a channel of this id.
            self._channelfactory._local_close(channel.id)

    def remote_stacks(self, timeout: float | None = 5.0) -> str:
        """What the other side is doing: its tasks, and the Python stack of each of its threads, as text.

        Where its Python code does not come to answer, because a thread stays in C code and keeps the GIL, the C core
        answers.  TimeoutError where nothing came within timeout seconds.
        """
        from ._report import stacks  # lazy: start-up speed

        return stacks.of(self, timeout)

    def remote_exec(
        self, source: str | types.FunctionType | Callable[..., object] | types.ModuleType, **kwargs: Any
    ) -> Channel:
        """Execute source on the other side and return the channel that its code sees as ``channel``.

        source is a string of Python code, a module (its current file is sent), or a function whose first
        parameter is ``channel``; it is called with kwargs.  TypeError for any other source and
        for kwargs without a function, ValueError for a function that can't stand alone, DumpError for kwargs
        that can't be serialized.
        """
        data = dumps_internal(task_of(source, kwargs))
        channel = self.newchannel()
        self._send(Message.CHANNEL_EXEC, channel.id, data)
        return channel

    def remote_init_threads(self, num: int | None = None) -> None:
        """Does nothing any more, and prints so: threads are started as they are needed."""
        print("WARNING: remote_init_threads() is a no-op in execnet >= 1.2")


def rinfo_source(channel):  # type: ignore[no-untyped-def]
    import os
    import sys

    channel.send(
        {
            "executable": sys.executable,
            "version_info": tuple(sys.version_info[:5]),
            "platform": sys.platform,
            "cwd": os.getcwd(),
            "pid": os.getpid(),
        }
    )
