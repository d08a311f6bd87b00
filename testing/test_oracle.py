"""Ours beside execnet 2.1.2: the same bytes, the same values, the same behaviour where the contract is silent."""

from __future__ import annotations

import io
import marshal
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import valueserver
from support.interpreters import HAS_GIL
from support.oracle import Oracle
from support.processes import end

import execnet

SECONDS = 20.0

HASH_SEED = "1"  # the same for all: sets are written in iteration order

SIMPLE = st.one_of(
    st.booleans(),
    # The oracle fails below this (struct.error); a test of its own shows that it reads what ours writes there.
    st.integers(min_value=-(2**31)),
    st.integers(-(2**31), -(2**31) + 2),
    st.integers(2**31 - 2, 2**31 + 2),
    st.integers(min_value=2**63, max_value=2**700),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.binary(max_size=80),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)
# The hash of None and of NaN is an address: sets of them have another order in each process.
SCALARS = SIMPLE | st.none() | st.floats() | st.complex_numbers()
HASHABLES = st.recursive(SIMPLE, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=4), max_leaves=6)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.lists(inner, max_size=6).map(tuple),
        st.dictionaries(SCALARS | HASHABLES, inner, max_size=5),
        st.sets(HASHABLES, max_size=5),
        st.frozensets(HASHABLES, max_size=5),
    ),
    max_leaves=40,
)


class ValueServer:
    """A process that dumps and loads with one execnet."""

    def __init__(self, environment: dict[str, str], cwd: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, valueserver.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment, "PYTHONHASHSEED": HASH_SEED},
            cwd=cwd,
        )

    def ask(self, operation: str, argument: Any) -> tuple[str, Any]:
        """The outcome: ("value", the value) or ("error", (type name, text))."""
        assert self.process.stdin is not None and self.process.stdout is not None
        # Version 2 has no references, which would depend on what else the process holds.
        self.process.stdin.write(marshal.dumps((operation, argument), 2))
        self.process.stdin.flush()
        reply: tuple[str, Any] = marshal.load(self.process.stdout)
        return reply


@pytest.fixture(scope="module")
def theirs(oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValueServer]:
    server = ValueServer(oracle.environment(), tmp_path_factory.mktemp("theirs"))
    yield server
    end(server.process)


@pytest.fixture(scope="module", params=["default core", "portable core"])
def ours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValueServer]:
    environment = dict(os.environ)
    if request.param == "portable core":
        environment["EXECNET_PURE"] = "1"
    server = ValueServer(environment, tmp_path_factory.mktemp("ours"))
    yield server
    end(server.process)


def exact(value: object) -> object:
    """A form of `value` that is equal only where types, signs of zero and NaNs are the same."""
    if isinstance(value, (list, tuple)):
        return type(value), [exact(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(repr(exact(item)) for item in value)
    if isinstance(value, dict):
        return dict, [(exact(key), exact(item)) for key, item in value.items()]
    return type(value), repr(value)


def test_the_servers_run_what_they_should(ours: ValueServer, theirs: ValueServer) -> None:
    version = "execnet.__version__"
    assert execnet.loads(ours.ask("dumps expression", version)[1]) == execnet.__version__
    assert execnet.loads(theirs.ask("dumps expression", version)[1]) == "2.1.2"


@given(value=VALUES)
@settings(max_examples=400, deadline=None)
def test_dumps_gives_the_bytes_of_the_oracle(ours: ValueServer, theirs: ValueServer, value: object) -> None:
    assert ours.ask("dumps", value) == theirs.ask("dumps", value)


@given(value=VALUES, py2str_as_py3str=st.booleans(), py3str_as_py2str=st.booleans())
@settings(max_examples=300, deadline=None)
def test_each_loads_what_the_other_dumped(
    ours: ValueServer, theirs: ValueServer, value: object, py2str_as_py3str: bool, py3str_as_py2str: bool
) -> None:
    options = {"py2str_as_py3str": py2str_as_py3str, "py3str_as_py2str": py3str_as_py2str}
    data = theirs.ask("dumps", value)[1]
    outcome, loaded = ours.ask("loads", (data, options))
    expected = theirs.ask("loads", (ours.ask("dumps", value)[1], options))
    assert (outcome, exact(loaded)) == (expected[0], exact(expected[1]))
    if not py3str_as_py2str:
        assert exact(loaded) == exact(value)


@given(value=st.integers(max_value=-(2**31) - 1))
def test_the_oracle_loads_the_large_negative_integers_it_cannot_dump(
    ours: ValueServer, theirs: ValueServer, value: int
) -> None:
    assert theirs.ask("dumps", value)[1][0] == "error"
    assert theirs.ask("loads", (ours.ask("dumps", value)[1], {})) == ("value", value)


@given(value=VALUES, data=st.data())
@settings(max_examples=300, deadline=None)
def test_changed_bytes_that_the_oracle_reads_are_read_the_same(
    ours: ValueServer, theirs: ValueServer, value: object, data: st.DataObject
) -> None:
    written = bytearray(theirs.ask("dumps", value)[1])
    for _ in range(data.draw(st.integers(1, 3))):
        written[data.draw(st.integers(0, len(written) - 1))] = data.draw(st.integers(0, 255))
    outcome, loaded = ours.ask("loads", (bytes(written), {}))
    expected, theirs_loaded = theirs.ask("loads", (bytes(written), {}))
    if outcome == "error":
        assert loaded[0] in ("LoadError", "EOFError")
    else:
        assert (outcome, exact(loaded)) == (expected, exact(theirs_loaded))


@pytest.mark.parametrize(
    "expression",
    ["Odd()", "Odd", "[1, Odd()]", "{Odd: 1}", "bytearray(b'x')", "range(3)", "...", "print", "memoryview(b'x')"],
)  # fmt: skip
def test_what_the_oracle_refuses_to_dump_is_refused(ours: ValueServer, theirs: ValueServer, expression: str) -> None:
    outcome, (name, text) = ours.ask("dumps expression", expression)
    expected, (oracle_name, oracle_text) = theirs.ask("dumps expression", expression)
    assert (outcome, name) == (expected, oracle_name) == ("error", "DumpError")
    assert text.partition(" at ")[0].startswith(oracle_text.partition(" at 0x")[0])


@pytest.mark.parametrize(
    "expression, plain",
    [
        ("__import__('collections').OrderedDict({'a': 1})", {"a": 1}),
        ("__import__('enum').IntEnum('E', 'a').a", 1),
        ("type('S', (str,), {})('text')", "text"),
    ],
)
def test_what_the_oracle_refuses_of_subclasses_is_written_as_their_base(
    ours: ValueServer, theirs: ValueServer, expression: str, plain: object
) -> None:
    assert theirs.ask("dumps expression", expression)[1][0] == "DumpError"
    assert ours.ask("dumps expression", expression) == theirs.ask("dumps", plain)


WRITE_FILE = """
import execnet, sys
values = [None, 1, 2**40, "text \\u20ac", b"\\0\\xff", [1, [2, (3, {4: 5.5})]], {"set": {1}}, 1j, True]
for value in values:
    execnet.dump(sys.stdout.buffer, value)
"""


def test_an_initiator_loads_a_file_that_the_oracle_wrote_value_by_value(oracle: Oracle, tmp_path: Path) -> None:
    path = tmp_path / "values"
    path.write_bytes(oracle.run(WRITE_FILE))
    with path.open("rb") as stream:
        loaded = [execnet.load(stream) for _ in range(9)]
        assert stream.read() == b""
    expected = [None, 1, 2**40, "text \u20ac", b"\0\xff", [1, [2, (3, {4: 5.5})]], {"set": {1}}, 1j, True]
    assert exact(loaded) == exact(expected)


def test_a_gateway_carries_what_was_read_from_a_file_of_the_oracle(oracle: Oracle, gw: execnet.Gateway) -> None:
    stream = io.BytesIO(oracle.run(WRITE_FILE))
    channel = gw.remote_exec("for item in channel: channel.send(item)")
    for _ in range(9):
        value = execnet.load(stream)
        channel.send(value)
        assert exact(channel.receive(10)) == exact(value)


def test_the_oracle_loads_a_file_that_ours_wrote(oracle: Oracle) -> None:
    stream = io.BytesIO()
    for value in (1, "two", [3.0], {"four": None}):
        execnet.dump(stream, value)
    source = "import execnet, sys\nfor _ in range(4): print(execnet.load(sys.stdin.buffer))"
    assert oracle.run(source, input=stream.getvalue()).decode().splitlines() == ["1", "two", "[3.0]", "{'four': None}"]


# Each of these programs prints what a user of execnet can observe. `outcome(f, ...)` gives a result or an error.
PRELUDE = """
import execnet, sys
def outcome(function, *args, **kwargs):
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return "%s: %s" % (type(error).__name__, (str(error).strip().splitlines() or [""])[-1])
def kind(function, *args, **kwargs):
    try:
        return str(function(*args, **kwargs))
    except EOFError:
        return "EOFError"  # a subclass that says more is as good
    except Exception as error:
        return type(error).__name__
group = execnet.Group()
gw = group.makegateway("popen")
"""
EPILOGUE = """
group.terminate(1)
sys.stdout.flush()
"""

PROGRAMS = {
    "reprs": """
        print(gw, group, gw.spec, repr(gw.spec), gw.id, group["gw0"] is gw)
        channel = gw.newchannel()
        print(channel, gw)
        channel.close()
        print(channel, gw)
        print(execnet.MultiChannel([]).receive_each())
        """,
    "receiving after the end": """
        channel = gw.remote_exec("channel.send(1)")
        print(channel.receive(10))
        print([kind(channel.receive, 10) for _ in range(3)], channel.isclosed())
        channel.waitclose(10)
        print(kind(channel.send, 1), list(channel))
        """,
    "receiving after an error": """
        channel = gw.remote_exec("channel.send(1); raise ValueError(42)")
        print(channel.receive(10))
        print([kind(channel.receive, 10) for _ in range(3)])
        channel = gw.remote_exec("raise ValueError(43)")
        print([outcome(channel.waitclose, 10) for _ in range(3)])
        print([kind(channel.receive, 10) for _ in range(2)])
        """,
    "an error while iterating": """
        channel = gw.remote_exec("channel.send(1); raise KeyError('x')")
        seen = []
        def run():
            for item in channel:
                seen.append(item)
        print(outcome(run), seen)
        """,
    "timeouts": """
        channel = gw.remote_exec("channel.receive()")
        print(outcome(channel.receive, 0.01), kind(channel.waitclose, 0.01))
        print(outcome(channel.receive, timeout=0))
        channel.send(1)
        channel.waitclose(10)
        """,
    "callbacks": """
        seen = []
        end = object()
        channel = gw.remote_exec("for i in range(3): channel.send(i)")
        channel.waitclose(10)
        channel.setcallback(seen.append, endmarker=end)
        print([item if item is not end else "end" for item in seen])
        print(kind(channel.setcallback, seen.append), kind(channel.receive))
        other = gw.remote_exec("channel.receive()")
        other.setcallback(seen.append)
        print(kind(other.setcallback, seen.append), kind(other.receive), kind(next, other))
        other.send(1)
        other.waitclose(10)
        """,
    "a failing callback": """
        def fail(item):
            raise RuntimeError("from the callback")
        channel = gw.remote_exec("channel.receive(10); channel.send(1); channel.receive(10)")
        channel.setcallback(fail)
        channel.send("now")
        print(gw.hasreceiver(), gw.remote_exec("channel.send(7)").receive(10))
        """,
    "closing": """
        channel = gw.remote_exec("channel.receive(10)")
        channel.close("my reason")
        channel.close()
        print(channel.isclosed(), kind(channel.send, 1), kind(channel.receive, 10), kind(channel.waitclose, 10))
        """,
    "the remote end sees our error": """
        channel = gw.remote_exec('''
            inner = channel.receive(10)
            try:
                inner.receive(10)
            except inner.RemoteError as error:
                channel.send([type(error).__name__, str(error)])
            try:
                inner.receive(10)
            except EOFError as error:
                channel.send("EOFError")
            ''')
        inner = gw.newchannel()
        channel.send(inner)
        inner.close("because")
        print(channel.receive(10), channel.receive(10))
        """,
    "closing inside remote_exec": """
        channel = gw.remote_exec("channel.close()")
        print("explicit" in outcome(channel.waitclose, 10))
        """,
    "files": """
        channel = gw.remote_exec('''
            import sys
            out = channel.makefile("w")
            sys.stdout = out
            print("one")
            print("two three")
            out.write("rest")
            out.flush()
            print(out.isatty())
            ''')
        reader = channel.makefile("r")
        print([reader.read(2), reader.readline(), reader.readline(), reader.read(100), reader.readline()])
        print(kind(channel.makefile, "x"), kind(channel.makefile, "rb"))
        closing = gw.remote_exec("channel.send(channel.receive())")
        with_proxy = closing.makefile("w", proxyclose=True)
        with_proxy.write("x")
        print(closing.receive(10))
        with_proxy.close()
        print(closing.isclosed())
        """,
    "sources": """
        def function(channel, a, b=2):
            channel.send((a, b))
        print(kind(gw.remote_exec, "pass", a=1), kind(gw.remote_exec, sys, a=1))
        print(kind(gw.remote_exec, lambda channel: None))
        print(gw.remote_exec('''
              if 1:
                  channel.send((__name__, "__file__" in globals()))
        ''').receive(10))
        """,
    "the worker's surroundings": """
        print(gw.remote_exec('''
            import sys, os
            channel.send((sys.argv, sys.stdin.read(), os.isatty(0), sorted(n for n in globals() if n != "__builtins__"),
                sys.exc_info()))''').receive(10))
        print(gw.remote_exec("print('to nowhere'); channel.send(1)").receive(10))
        """,
    "status": """
        busy = gw.remote_exec("channel.receive()")
        status = gw.remote_status()
        print(status.numchannels, status.numexecuting, status.execmodel, repr(status))
        busy.send(1)
        busy.waitclose(10)
        print(sorted(gw._rinfo().__dict__), gw._rinfo().cwd == __import__("os").getcwd())
        """,
    "exceptions of remote code": """
        for source in ["1/0", "raise SystemExit(3)", "raise KeyboardInterrupt", "import nosuchmodule", "x = = 1",
                       "class E(Exception): pass\\nraise E('mine')"]:
            channel = gw.remote_exec(source)
            print(outcome(channel.waitclose, 10))
        """,
    "unserializable": """
        channel = gw.newchannel()
        print(kind(channel.send, object()), channel.isclosed())
        channel.close()
        print(kind(gw.remote_exec("channel.send(object())").receive, 10))
        def with_bad_argument(channel, x):
            pass
        print(kind(gw.remote_exec, with_bad_argument, x=object()))
        """,
    "groups": """
        print(len(group), list(group), "gw0" in group, gw in group, "other" in group, 0 in group)
        print(kind(lambda: group["nope"]), kind(lambda: group[5]), group[0] is gw, group[gw] is gw)
        print(kind(group.makegateway, "id=x"), kind(group.set_execmodel, "thread"), len(group))
        second = group.makegateway("popen//id=named//chdir=/tmp//env:EXECNET_X=y")
        print(second.id, [g.id for g in group])
        print(second.remote_exec("import os; channel.send((os.getcwd(), os.environ['EXECNET_X']))").receive(10))
        second.exit()
        print([g.id for g in group], kind(second.remote_exec, "pass"), kind(gw.exit), kind(gw.exit))
        """,
    "multichannels": """
        group.makegateway("popen")
        multi = group.remote_exec("channel.send(channel.receive() + 1)")
        multi.send_each(1)
        print(len(multi), multi.receive_each(), multi[0] in multi, multi[0] in list(multi))
        multi.waitclose()
        multi = group.remote_exec("channel.send(5)")
        queue = multi.make_receive_queue(endmarker=-1)
        print(sorted(queue.get(timeout=10)[1] for _ in range(4)), multi.make_receive_queue() is queue)
        multi = group.remote_exec("1/0")
        print(kind(multi.waitclose))
        print(kind(multi.receive_each))
        """,
    "xspecs": """
        for text in ["popen", "popen//python=a b", "ssh=user@host -p 22//id=x", "socket=a:1//foo=bar=baz",
                     "popen//env:A=1//env:B=x=y", "a//a", "_x=1", "nice=5//popen"]:
            def look():
                spec = execnet.XSpec(text)
                names = ["popen", "python", "ssh", "socket", "id", "foo", "a", "nice", "env", "chdir", "nosuch"]
                return [(name, getattr(spec, name)) for name in names if getattr(spec, name)]
            print(repr(text), kind(look))
        spec = execnet.XSpec("popen")
        print(spec == execnet.XSpec("popen"), hash(spec) == hash(execnet.XSpec("popen")))
        print(spec == "popen", spec != execnet.XSpec("a"))
        print(spec._samefilesystem(), execnet.XSpec("popen//chdir=x")._samefilesystem(), str(spec))
        """,
    "channels in items": """
        channel = gw.remote_exec('''
            first, (second,) = channel.receive(10), channel.receive(10)["deep"]
            first.send(1)
            second.send(2)
            mine = channel.gateway.newchannel()
            channel.send(mine)
            mine.send("behind it")
            channel.send(first == first and first != second)
            ''')
        first, second = gw.newchannel(), gw.newchannel()
        channel.send(first)
        channel.send({"deep": (second,)})
        print(first.receive(10), second.receive(10), channel.receive(10).receive(10), channel.receive(10))
        """,
    "own ways to write values": """
        from execnet import gateway_base
        Serializer, added = gateway_base._Serializer, set()
        class Own:
            def __init__(self, name="own"):
                self.name = name
        class Mapping:
            def items(self):
                return [("key", Own())]
        channel = gw.remote_exec("for item in channel: channel.send(item)")
        def echoed(value):
            channel.send(value)
            return channel.receive(10)
        def ways(value):
            for cached in [kind for kind in Serializer._dispatch if kind not in added]:
                del Serializer._dispatch[cached]  # by 2.1, for its subclasses, too
            print(kind(execnet.dumps, value), kind(gateway_base.dumps_internal, value), kind(echoed, value))
        ways(Own())

        class Sub(Serializer):
            def save_Own(self, own):
                self._write(gateway_base.opcode.NEWDICT)
                self._write_setitem("name", own.name)
                self._write_setitem("more", (own.name, {1}, 2**40))
            def save_Mapping(self, mapping):
                self.save_dict(mapping)
            def save_Text(self, text):
                self._write(gateway_base.opcode.PY3STRING)
                self._write_unicode_string(text.name)
        Text = type("Text", (Own,), {})
        pieces = []
        print(Sub(pieces.append).save([Own(), Mapping(), Text()]))
        print(execnet.loads(gateway_base.DUMPFORMAT_VERSION + b"".join(pieces)))
        print(execnet.loads(Sub().save({1: Own()}, versioned=True)))

        class Overridden(Serializer):
            def _save(self, obj):
                super()._save(obj.name if isinstance(obj, Own) else obj)
        print(Overridden().save([Own(), {Own("key"): (Own("inner"),)}, {Own("element")}]))

        Serializer.save_Own = lambda self, own: self.save_str(own.name)
        ways([Own(), {Own("key"): (Own("inner"),)}])
        del Serializer.save_Own
        ways(Own())
        added.update([Text, str])
        Serializer._dispatch[Text] = lambda self, text: self._save([text.name])
        ways([Text(), 1])
        Serializer._dispatch[str] = lambda self, text: self._write(gateway_base.opcode.NONE)
        ways(["x", "y" * 100000, 1])
        added.clear()
        ways("x")

        before = Serializer._save
        Serializer._save = lambda self, obj: before(self, obj.name if isinstance(obj, Own) else obj)
        ways(["x", {Own("key"): (Own("inner"), 3)}])
        Serializer._save = before
        save_str = Serializer.save_str
        Serializer.save_str = lambda self, text: save_str(self, text + "!")
        ways(["x", 1])
        Serializer.save_str = save_str
        ways("x")
        gateway_base._Serializer = Overridden
        ways([Own(), {Own("key"): (Own("inner"),)}, 1])
        gateway_base._Serializer = Serializer

        # As numpy calls its own bool.
        ways([type("bool", (), {})(), type("bool", (), {"__bool__": lambda self: False})()])
        ways(type("str", (), {"encode": lambda self, encoding: b"bytes"})())
        print(kind(Serializer()._write_int4, 2**31), kind(Serializer()._write_unicode_string, chr(0xD800)))
        """,
    "the calls of a start": """
        import functools
        from execnet import gateway_bootstrap, gateway_io, gateway_socket
        gateway_io.ssh_args = lambda spec: [sys.executable, "-u", "-c", gateway_io.popen_bootstrapline]
        def told(module, name):
            called = getattr(module, name)
            @functools.wraps(called)
            def tell(*args, **kwargs):
                shown = args[:1] if name == "sendexec" else args
                named = {key: type(value).__name__ for key, value in kwargs.items()}
                print(name, [type(arg).__name__ for arg in shown], named)
                return called(*args, **kwargs)
            setattr(module, name, tell)
        for name in ("create_io", "popen_args", "ssh_args", "Popen2IOMaster"):
            told(gateway_io, name)
        for name in ("create_io", "start_via", "SocketIO"):
            told(gateway_socket, name)
        for name in ("bootstrap", "bootstrap_import", "bootstrap_exec", "bootstrap_socket", "sendexec"):
            told(gateway_bootstrap, name)
        for spec in ("popen//id=a", "popen//python=" + sys.executable, "ssh=nowhere", "socket//installvia=a"):
            print(spec.partition("=")[0])
            started = group.makegateway(spec)
            print(started.remote_exec("channel.send(7)").receive(10))
        """,
    "the calls of a start behind another gateway": """
        from execnet import gateway_bootstrap
        def tell(io, spec, called=gateway_bootstrap.bootstrap_exec):
            print(type(io).__name__, str(spec).replace(sys.executable, "python"))
            return called(io, spec)
        gateway_bootstrap.bootstrap_exec = tell
        for spec in ("popen//via=gw0", "popen//via=gw0//python=" + sys.executable):
            print(group.makegateway(spec).remote_exec("channel.send(7)").receive(10))
        """,
    "own reading and writing": """
        from execnet import gateway_base, gateway_io
        class Master(gateway_io.Popen2IOMaster):
            def __init__(self, args, execmodel):
                self.popen = execmodel.subprocess.Popen(args, stdin=-1, stdout=-1)
                gateway_base.Popen2IO.__init__(self, self.popen.stdin, self.popen.stdout, execmodel)
                self.did = []
            def read(self, numbytes):
                data = super().read(numbytes)
                self.did.append(("read", data[:1]))
                return data
            def write(self, data):
                self.did.append(("write", data[:1]))
                super().write(data)
        gateway_io.Popen2IOMaster = Master
        gw = group.makegateway("popen")
        print(gw._io.did[:2])
        channel = gw.remote_exec("channel.send(channel.receive())")
        channel.send(7)
        print(channel.receive(10))
        channel.waitclose(10)
        print([code for way, code in gw._io.did[2:] if way == "write"])
        print(("read", bytes([4])) in gw._io.did)
        """,
    "an own time limit": """
        import select, time
        from execnet import gateway_base, gateway_io
        def start(self, args, execmodel):
            self.popen = popen = execmodel.subprocess.Popen(args, stdin=-1, stdout=-1)
            gateway_base.Popen2IO.__init__(self, popen.stdin, popen.stdout, execmodel=execmodel)
        class TooLate(Exception):
            pass
        def read(self, numbytes):
            if not select.select([self.infile], [], [], 0.5)[0]:
                raise TooLate("nothing came")
            return gateway_base.Popen2IO.read(self, numbytes)
        read_before = gateway_io.Popen2IOMaster.read
        gateway_io.Popen2IOMaster.__init__ = start
        gateway_io.Popen2IOMaster.read = read
        print(outcome(group.makegateway, "popen//python=sh -c 'read line; read more'"))
        gateway_io.Popen2IOMaster.read = read_before
        print(group.makegateway("popen").remote_exec("channel.send(7)").receive(10))
        """,
    "reconfigure": """
        channel = gw.remote_exec("channel.reconfigure(py3str_as_py2str=True); channel.send(channel.receive())")
        channel.send("x")
        print(channel.receive(10))
        channel = gw.remote_exec("channel.send(channel.receive())")
        channel.reconfigure(py3str_as_py2str=True)
        channel.send("x")
        print(channel.receive(10))
        gw.reconfigure(py3str_as_py2str=True)
        channel = gw.remote_exec("channel.send(channel.receive())")
        channel.send("y")
        print(channel.receive(10))
        """,
    "after the worker died": """
        channel = gw.remote_exec("import os; os._exit(1)")
        print(kind(channel.receive, 10), kind(channel.waitclose, 10), kind(gw.remote_exec, "pass"))
        gw.join(10)
        print(gw.hasreceiver(), gw in group, kind(gw.exit), gw in group)
        """,
    "rsync": """
        import contextlib, io, os, tempfile
        with tempfile.TemporaryDirectory() as top:
            os.makedirs(top + "/from/sub")
            for name in ["a", "sub/b"]:
                with open(top + "/from/" + name, "w") as stream:
                    stream.write("content of " + name)
            os.symlink("a", top + "/from/link")
            class Sync(execnet.RSync):
                def filter(self, path):
                    asked.append(os.path.relpath(path, top))
                    return True
            asked = []
            calls = []
            done = []
            sync = Sync(top + "/from", callback=lambda *args: calls.append(args[:2]), verbose=True)
            print(kind(sync.send))
            sync.add_target(gw, top + "/to", finishedcallback=lambda: done.append(1))
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                sync.send()
            print(sorted(line.partition(" <= ")[2] for line in printed.getvalue().splitlines()))
            print(sorted(asked), sorted(calls), done)
            print(sorted((os.path.relpath(folder, top), sorted(names)) for folder, _, names in os.walk(top + "/to")))
            print(os.readlink(top + "/to/link").replace(top, ""))
            print(kind(sync.send), sync.send(raises=False))
        """,
    "parameter names": """
        import inspect
        from execnet import gateway, gateway_base, gateway_io, multi, rsync
        for function in [
            execnet.Group.set_execmodel, execnet.Group.terminate, execnet.Group.allocate_id, execnet.Group.remote_exec,
            execnet.MultiChannel, execnet.MultiChannel.make_receive_queue,
            execnet.Gateway, execnet.Gateway.remote_exec, execnet.Gateway.reconfigure, execnet.Gateway.join,
            execnet.Gateway.remote_init_threads, execnet.Channel, execnet.Channel.receive, execnet.Channel.close,
            execnet.Channel.setcallback, execnet.Channel.waitclose, execnet.Channel.makefile,
            execnet.Channel.reconfigure, execnet.RSync, execnet.RSync.send, execnet.XSpec, multi.safe_terminate,
            gateway_base.ThreadExecModel.start, gateway_base.WorkerPool, gateway_base.Reply.get, gateway_base.Message,
            gateway_base.serve, gateway_base.init_popen_io, gateway_base.get_execmodel,
            gateway_io.popen_args, gateway_io.ssh_args,
        ]:
            print(function.__name__, list(inspect.signature(function).parameters))
        for function in [execnet.loads, execnet.load, gateway_base.loads_internal]:
            print(function.__name__, list(inspect.signature(function).parameters)[1:])
        # What is new comes after.
        for function in [execnet.Group, execnet.Group.makegateway, execnet.MultiChannel.receive_each]:
            print(function.__name__, list(inspect.signature(function).parameters)[:2])
        print(list(inspect.signature(execnet.RSync.add_target).parameters)[:4])
        """,
}


def program(name: str) -> str:
    return PRELUDE + dedent(PROGRAMS[name]) + EPILOGUE


@pytest.fixture(params=["default core", "portable core"])
def run_ours(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], list[str]]:
    """Runs a program over our execnet in its own process; the lines it printed."""
    environment = dict(os.environ)
    if request.param == "portable core":
        environment["EXECNET_PURE"] = "1"

    def run(source: str) -> list[str]:
        path = tmp_path / "program.py"
        path.write_text(source)
        done = subprocess.run(
            [sys.executable, path], stdout=subprocess.PIPE, env=environment, cwd=tmp_path, timeout=60, check=True
        )
        return done.stdout.decode().splitlines()

    return run


@pytest.fixture
def run_theirs(oracle: Oracle, tmp_path: Path) -> Callable[[str], list[str]]:
    """Runs a program over execnet 2.1.2 in its own process; the lines it printed."""

    def run(source: str) -> list[str]:
        path = tmp_path / "program.py"
        path.write_text(source)
        return oracle.run(f"import runpy; runpy.run_path({str(path)!r}, run_name='__main__')").decode().splitlines()

    return run


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_a_program_prints_the_same(
    name: str, run_ours: Callable[[str], list[str]], run_theirs: Callable[[str], list[str]]
) -> None:
    assert run_ours(program(name)) == run_theirs(program(name))


@pytest.fixture
def their_worker(oracle: Oracle, local: ModuleType, tmp_path: Path) -> Iterator[execnet.Gateway]:
    """A gateway of ours, over each core, to a worker over execnet 2.1.2."""
    group: execnet.Group = local.Group()
    gateway = group.makegateway(oracle.worker_spec(tmp_path))
    version = gateway.remote_exec("import execnet; channel.send(execnet.__version__)")
    assert version.receive(SECONDS) == "2.1.2"
    yield gateway
    group.terminate(timeout=10)


def test_close_write_ends_the_items_of_2_1_which_can_still_answer(their_worker: execnet.Gateway) -> None:
    channel = their_worker.remote_exec("channel.send(sum(map(len, channel))); channel.send(channel.isclosed())")
    channel.send("abc")
    channel.send(b"x" * 300_000)
    channel.close_write()
    assert (channel.receive(SECONDS), channel.receive(SECONDS)) == (300_003, False)
    channel.close()
    assert their_worker.remote_exec("channel.send(1)").receive(SECONDS) == 1


def test_close_write_gives_a_callback_of_2_1_its_end_marker_once(their_worker: execnet.Gateway) -> None:
    source = """
        inner, received = channel.receive(), []
        inner.setcallback(received.append, endmarker="end")
        inner.waitclose(20)
        inner.send("answer")
        channel.receive()
        channel.send(received)
    """
    channel, inner = their_worker.remote_exec(source), their_worker.newchannel()
    channel.send(inner)
    inner.send("item")
    inner.close_write()
    inner.close_write()
    assert inner.receive(SECONDS) == "answer"
    inner.close()
    channel.send("closed")
    assert channel.receive(SECONDS) == ["item", "end"]


@pytest.mark.skipif(not HAS_GIL, reason="2.1 tells it when its channel goes: without a GIL, that may be never")
def test_the_last_message_of_2_1_ends_the_items_here(their_worker: execnet.Gateway) -> None:
    source = """
        received, inner = [], channel.receive()
        inner.send("item")
        inner.setcallback(received.append)
        inner = None
        channel.receive()
        channel.send(received)
    """
    channel, inner = their_worker.remote_exec(source), their_worker.newchannel()
    channel.send(inner)
    assert list(inner) == ["item"]
    assert not inner.isclosed()
    inner.send("answer")
    channel.send("sent")
    assert channel.receive(SECONDS) == ["answer"]


SPECS = """
import itertools
import execnet
for alphabet, longest in (("a=/8*_", 5), ("a=/", 9)):
    for length in range(1, longest + 1):
        for letters in itertools.product(alphabet, repeat=length):
            text = "".join(letters)
            try:
                spec = execnet.XSpec(text)
            except (AttributeError, IndexError, ValueError):
                continue
            found = {key: value for key, value in vars(spec).items() if key != "_spec"}
            print(text, str(spec), sorted(found.items()))
"""


def test_each_spec_that_2_1_takes_means_the_same(oracle: Oracle) -> None:
    theirs = oracle.run(SPECS).decode().splitlines()
    ours = subprocess.run([sys.executable, "-c", SPECS], capture_output=True, check=True, text=True, timeout=60).stdout
    assert len(theirs) > 1000
    assert not {*theirs} - {*ours.splitlines()}
    assert {line.count("////") > 0 for line in {*ours.splitlines()} - {*theirs}} == {True}
