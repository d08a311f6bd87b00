"""The initiating end of a connection: what the user holds, and what source it sends."""

from __future__ import annotations

import itertools
import sys
import types

from .gateway_base import BaseGateway, Message, WorkerPool, dumps_internal

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ast
    from typing import Any, Callable

    from .gateway_base import Channel, ExecModel, GatewayDied, IOLike, Reply
    from .multi import Group
    from .xspec import XSpec


TYPED_HINT = ": what is typed at a prompt has none before Python 3.13"
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
        (seconds) it waits until the other side has ended and its process is reaped, and ends it the hard way
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
        from . import gateway_died  # lazy: start-up speed

        if self._exiting:
            return EOFError(f"gateway {self.id!r} was told to exit{gateway_died.cut_short(exc)}")
        self._untold = error = gateway_died.died(self._io, self.spec, self.id, exc)
        if (error.returncode is not None or self.spec.socket) and gateway_died.stderr_takes_a_line():
            self._tell_people()  # before those wake up who wait, and who may end the program
        return error

    def _tell_people(self) -> None:
        from . import gateway_died  # lazy: start-up speed

        error, self._untold = self._untold, None
        if error is not None and not self._exiting:
            gateway_died.tell_people(error, self._io, self.spec)

    def _receiver_ended(self) -> None:
        """What its thread does last: the process may end long after the connection."""
        if self._untold is not None:
            self._tell_people()
        reap = getattr(self._io, "reap", None)
        if reap is not None:
            reap()

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
        """Where the other side stands: its tasks, and the Python stack of each of its threads, as text.

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
        task = _task_of(source, kwargs)
        data = dumps_internal(task)
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


class GlobalsUsed(ValueError):
    """A function uses names that the other side does not have: ``args[1]`` lists them.

    Its text says what to do with each.
    """

    advice = ""

    def __str__(self) -> str:
        return f"{self.args[0]}{self.advice}"


def _task_of(source: object, kwargs: dict[str, Any]) -> tuple[str, str | None, str | None, dict[str, Any]]:
    """What CHANNEL_EXEC carries: source text, file name, function name, kwargs."""
    if isinstance(source, types.FunctionType):
        text = _without_foreign_annotations(_source_of_function(source), source.__code__)
        return (text, source.__code__.co_filename, source.__name__, kwargs)
    if kwargs:
        raise TypeError("can't pass kwargs to non-function remote_exec")
    if isinstance(source, types.ModuleType):
        return (*_source_of_module(source), None, {})
    if callable(source):
        raise ValueError(f"only functions written in Python can be executed remotely, not {source!r}")
    if not _is_text(source):
        raise TypeError(f"source must be a string, a function or a module, not {source!r}")
    # lazy: start-up speed
    import textwrap

    return (textwrap.dedent(str(source)), None, None, {})


def _is_text(source: object) -> bool:
    """Whether source is a string, or an object that has been made to read as one; what names a file is not."""
    own = isinstance(type(source).__str__, types.FunctionType)
    return isinstance(source, str) or (own and not hasattr(source, "__fspath__"))


def _source_of_module(module: types.ModuleType) -> tuple[str, str | None]:
    # lazy: start-up speed
    import inspect
    import linecache

    # The file may have changed since it was read for a traceback.
    linecache.checkcache()
    return inspect.getsource(module), inspect.getsourcefile(module)


def _source_of_function(function: types.FunctionType) -> str:
    """The source of function, dedented, below as many newlines as keep the line numbers of its file."""
    # lazy: start-up speed
    import inspect
    import textwrap

    if function.__name__ == "<lambda>":
        raise ValueError("can't evaluate lambda functions")
    code = function.__code__
    parameters = code.co_varnames[: code.co_posonlyargcount + code.co_argcount]
    if not parameters or parameters[0] != "channel":
        raise ValueError("expected first function argument to be `channel`")
    if function.__closure__ is not None:
        used = ", ".join(code.co_freevars)
        raise ValueError(f"functions with closures can't be passed: {function.__name__} uses {used}")
    for kind, is_one in (
        ("an asynchronous function", inspect.iscoroutinefunction),
        ("an asynchronous generator", inspect.isasyncgenfunction),
        ("a generator", inspect.isgeneratorfunction),
    ):
        if is_one(function):
            raise ValueError(f"{function.__name__}() is {kind}: calling it would not run it")
    try:
        lines, lineno = inspect.getsourcelines(function)
    except (OSError, TypeError) as exc:
        hint = TYPED_HINT if code.co_filename == "<stdin>" else ""
        raise ValueError(f"can't find source file for {function}{hint}") from exc
    source = textwrap.dedent("".join(lines))
    used_globals = _find_non_builtin_globals(source, code)
    if used_globals:
        error = GlobalsUsed("the use of non-builtin globals isn't supported", used_globals)
        advice = "; ".join(_advice(name, function) for name in dict.fromkeys(used_globals))
        error.advice = f" ({function.__name__}() is sent without them): {advice}"
        raise error
    return "\n" * (lineno - 1) + source


def _advice(name: str, function: types.FunctionType) -> str:
    """What to do about the global of that name, which function uses."""
    if name not in function.__globals__:
        return f"{name} is not defined"
    value = function.__globals__[name]
    if isinstance(value, types.ModuleType):
        return f"import {value.__name__}{'' if name == value.__name__ else f' as {name}'} inside the function"
    origin = getattr(value, "__module__", None)
    if origin == function.__module__ and hasattr(value, "__qualname__"):
        return f"define {name} inside the function"
    if isinstance(origin, str) and getattr(sys.modules.get(origin), name, None) is value:
        return f"from {origin} import {name} inside the function"
    return f"pass {name} as an argument"


def _find_non_builtin_globals(source: str, codeobj: types.CodeType) -> list[str]:
    """The names that source uses and neither it nor the builtins define; names in annotations do not count."""
    # lazy: start-up speed
    import ast

    tree = ast.parse(source)
    known = _known_names(tree, codeobj)
    left_out = {node for annotation in _annotations(tree) for node in ast.walk(annotation)}
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and node not in left_out)
    return [node.id for node in nodes if node.id not in known]


def _without_foreign_annotations(source: str, codeobj: types.CodeType) -> str:
    """The source with a 0 for each annotation that uses a name which the other side may lack; its lines are kept."""
    # lazy: start-up speed
    import ast

    tree = ast.parse(source)
    known = _known_names(tree, codeobj)
    text = source.encode()  # the offsets of a tree are those of bytes
    starts = [0, *itertools.accumulate(map(len, text.splitlines(keepends=True)))]
    for node in sorted(_annotations(tree), key=lambda node: (node.lineno, node.col_offset), reverse=True):
        if any(isinstance(inner, ast.Name) and inner.id not in known for inner in ast.walk(node)):
            assert node.end_lineno is not None and node.end_col_offset is not None, "parsed trees have ends"
            start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
            text = text[:start] + b"0" + b"\\\n" * (node.end_lineno - node.lineno) + text[end:]
    return text.decode()


def _annotations(tree: ast.Module) -> list[ast.expr]:
    """Those of parameters, results and local variables; those in the body of a class are part of what it does."""
    # lazy: start-up speed
    import ast

    nodes = list(ast.walk(tree))
    in_classes = {inner for node in nodes if isinstance(node, ast.ClassDef) for inner in node.body}
    found: list[ast.expr | None] = []
    for node in nodes:
        if isinstance(node, ast.arg) or (isinstance(node, ast.AnnAssign) and node not in in_classes):
            found.append(node.annotation)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.append(node.returns)
    return [annotation for annotation in found if annotation is not None]


def _known_names(tree: ast.Module, codeobj: types.CodeType) -> set[str]:
    # lazy: start-up speed
    import ast
    import builtins

    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name))
    assigned = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    return assigned | set(vars(builtins)) | _local_names(codeobj)


def _local_names(codeobj: types.CodeType) -> set[str]:
    inner = (const for const in codeobj.co_consts if isinstance(const, types.CodeType))
    return {codeobj.co_name, *codeobj.co_varnames, *codeobj.co_cellvars}.union(*map(_local_names, inner))
