"""gateway_base by itself, over both cores: models, pools, messages, channels on a fake gateway, tracing."""

from __future__ import annotations

import gc
import io
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest
from support import pipes
from support.blocked import Call, interrupted_after
from support.opcodes import at_every_opcode
from support.peer import frame
from support.processes import wait_until
from support.twin import load_portable_twin

import execnet

SECONDS = 20.0
PACKAGE = Path(execnet.__file__).resolve().parent
MODELS = ["thread", "main_thread_only", "gevent", "eventlet"]
THREAD_MODELS = ["thread", "main_thread_only"]


def run_python(source: str, *, path: Path = PACKAGE.parent, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program that finds execnet; it must not fail."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("EXECNET_DEBUG")}
    return subprocess.run(
        [sys.executable, "-c", dedent(source)],
        env={**inherited, "PYTHONPATH": str(path), **environment},
        capture_output=True,
        timeout=60,
        text=True,
        check=True,
    )


# the face of the package

FACE = """
Channel DataFormatError DumpError Gateway Group HostNotFound LoadError MultiChannel RSync RemoteError
TimeoutError XSpec __version__ default_group dump dumps load loads makegateway set_execmodel
""".split()
MODULES = "gateway gateway_base gateway_bootstrap gateway_io multi rsync rsync_remote xspec _version".split()


def test_the_package_has_the_names_of_execnet_2(local: ModuleType) -> None:
    assert set(FACE) <= set(local.__all__)
    for name in FACE:
        assert getattr(local, name) is not None
    assert set(FACE) <= set(dir(local))
    assert local.__version__ == local._version.version
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = local.no_such_name


@pytest.mark.parametrize("name", MODULES)
def test_each_module_is_there_after_a_plain_import(name: str) -> None:
    run_python(f"import execnet\nassert execnet.{name}.__name__ == 'execnet.{name}'")


def test_a_star_import_gives_all_names() -> None:
    run_python(f"from execnet import *\nfor name in {FACE!r}: assert name in globals(), name")


def test_the_face_is_made_of_one_group() -> None:
    assert isinstance(execnet.default_group, execnet.Group)
    assert execnet.makegateway == execnet.default_group.makegateway
    assert execnet.set_execmodel == execnet.default_group.set_execmodel
    assert (PACKAGE / "py.typed").exists()


@pytest.mark.parametrize(
    "name", ["RemoteError", "TimeoutError", "DataFormatError", "DumpError", "LoadError", "Channel"]
)
def test_names_are_printed_with_their_home(local: ModuleType, name: str) -> None:
    assert getattr(local, name).__module__ == "execnet.gateway_base"
    assert getattr(local, name) is getattr(local.gateway_base, name)
    assert local.HostNotFound.__module__ == "execnet.gateway_bootstrap"


def test_the_exceptions_have_the_bases_that_clients_catch(base: ModuleType) -> None:
    assert issubclass(base.TimeoutError, OSError)
    assert issubclass(base.DumpError, base.DataFormatError)
    assert issubclass(base.LoadError, base.DataFormatError)
    assert base.RemoteError.__bases__ == (Exception,)
    assert (base.Channel.RemoteError, base.Channel.TimeoutError) == (base.RemoteError, base.TimeoutError)
    assert base.sysex == (KeyboardInterrupt, SystemExit)


def test_a_remote_error_is_its_text(base: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    error = base.RemoteError("the text")
    assert (error.formatted, str(error), repr(error)) == ("the text", "the text", "RemoteError: the text")
    error.warn()
    base.RemoteError(base.INTERRUPT_TEXT).warn()
    assert capfd.readouterr().err == f"[{os.getpid()}] Warning: unhandled RemoteError: the text\n"


def test_error_texts_hold_the_traceback(base: ModuleType) -> None:
    try:
        raise ValueError("some value")
    except ValueError as error:
        text = base.geterrortext(error)
    assert text.startswith("Traceback (most recent call last):\n")
    assert 'test_base.py"' in text
    assert text.endswith("ValueError: some value\n")
    assert base.geterrortext(ValueError("never raised")) == "ValueError: never raised\n"


def test_error_texts_are_made_by_the_function_that_is_given(base: ModuleType) -> None:
    def format_exception(*args: object) -> list[str]:
        if args[1] is interrupt:
            raise interrupt
        return [repr(arg) for arg in args]

    error, interrupt = ValueError("some value"), KeyboardInterrupt()
    assert base.geterrortext(error, format_exception) == f"{ValueError!r}{error!r}None"
    with pytest.raises(KeyboardInterrupt):
        base.geterrortext(interrupt, format_exception=format_exception)
    assert "KeyboardInterrupt" in base.geterrortext(interrupt, format_exception=format_exception, sysex=())


def test_an_error_that_has_no_text_is_named_all_the_same(base: ModuleType) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    assert "Odd" in base.geterrortext(Odd())


NAMES = """
BaseGateway Channel ChannelFactory ChannelFileRead ChannelFileWrite DUMPFORMAT_VERSION DataFormatError
DumpError ENDMARKER EventletExecModel ExecModel GatewayReceivedTerminate GeventExecModel INTERRUPT_TEXT
LoadError MAIN_THREAD_ONLY_DEADLOCK_TEXT MainThreadOnlyExecModel Message NO_ENDMARKER_WANTED Popen2IO
RemoteError Reply ThreadExecModel TimeoutError Unserializer WorkerGateway WorkerPool _Serializer bchr dump
dumps dumps_internal get_execmodel geterrortext init_popen_io load loads loads_internal notrace opcode serve
sysex trace
""".split()


def test_gateway_base_has_its_names(base: ModuleType) -> None:
    assert [name for name in NAMES if not hasattr(base, name)] == []
    assert base.INTERRUPT_TEXT == "keyboard-interrupted"
    assert base.MAIN_THREAD_ONLY_DEADLOCK_TEXT == (
        "concurrent remote_exec would cause deadlock for main_thread_only execmodel"
    )
    assert base.trace is base.notrace
    assert (base.bchr(0), base.bchr(65), base.bchr(255)) == (b"\0", b"A", b"\xff")


def test_gateway_base_imports_bare_and_its_gateways_work() -> None:
    source = f"""
        import sys
        sys.path.insert(0, {str(PACKAGE)!r})
        import gateway_base, queue, select, io
        assert gateway_base.__name__ == "gateway_base"
        assert gateway_base.loads(gateway_base.dumps([1, "a"])) == [1, "a"]
        print(gateway_base.RemoteError.__module__, "execnet" in sys.modules)
    """
    assert run_python(source, EXECNET_PURE="1").stdout == "gateway_base False\n"


# execution models


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, base: ModuleType) -> Iterator[Any]:
    model = base.get_execmodel(request.param)
    yield model
    if request.param == "gevent":
        import gevent

        gevent.get_hub().threadpool.kill()


@pytest.fixture(params=THREAD_MODELS)
def thread_model(request: pytest.FixtureRequest, base: ModuleType) -> Any:
    return base.get_execmodel(request.param)


@pytest.fixture
def execmodel(base: ModuleType) -> Any:
    return base.get_execmodel("thread")


def test_a_model_is_known_by_its_name(base: ModuleType, model: Any) -> None:
    assert isinstance(model, base.ExecModel)
    assert repr(model) == f"<ExecModel {model.backend!r}>"
    assert base.get_execmodel(model) is model
    classes = (base.ThreadExecModel, base.MainThreadOnlyExecModel, base.EventletExecModel, base.GeventExecModel)
    assert {made().backend for made in classes} == set(MODELS)


def test_an_unknown_model_is_refused_by_name(base: ModuleType) -> None:
    with pytest.raises(ValueError, match="unknown execmodel 'threads'"):
        base.get_execmodel("threads")


def test_a_model_has_what_programs_use(model: Any) -> None:
    assert hasattr(model.queue.Queue(), "get_nowait")
    assert issubclass(model.queue.Empty, Exception)
    assert callable(model.subprocess.Popen)
    assert callable(model.socket.socket)
    with model.Lock() as held:
        assert held is not False
    lock = model.RLock()
    with lock, lock:
        pass
    model.sleep(0)
    assert model.get_ident() == model.get_ident()


def test_a_model_starts_functions_and_waits_for_events(model: Any) -> None:
    event, seen = model.Event(), []
    assert not event.is_set()
    assert not event.wait(0.001)

    def function(*args: object) -> None:
        seen.append((args, model.get_ident()))
        event.set()

    model.start(function, (1, "two"))
    assert event.wait(SECONDS)
    assert event.is_set()
    assert seen[0][0] == (1, "two")
    assert seen[0][1] != model.get_ident()


def test_a_model_opens_descriptors(model: Any) -> None:
    read_end, write_end = os.pipe()
    infile, outfile = model.fdopen(read_end, "rb", 1), model.fdopen(write_end, "wb", 1)
    outfile.write(b"some bytes")
    outfile.flush()
    assert infile.read(10) == b"some bytes"
    outfile.close()
    assert infile.read(1) == b""
    infile.close()
    with pytest.raises(OSError):
        os.fstat(read_end)


def test_a_descriptor_may_stay_open(thread_model: Any) -> None:
    read_end, write_end = os.pipe()
    thread_model.fdopen(read_end, "rb", closefd=False).close()
    os.fstat(read_end)
    os.close(read_end)
    os.close(write_end)


# pools and replies


def test_a_reply_has_the_result_each_time(base: ModuleType, model: Any) -> None:
    pool = base.WorkerPool(model)
    reply = pool.spawn(lambda *args, **kwargs: (args, kwargs), 1, 2, key=3)
    assert reply.get(timeout=SECONDS) == ((1, 2), {"key": 3})
    assert reply.get() == ((1, 2), {"key": 3})
    assert not reply.running
    reply.waitfinish(0)
    assert pool.waitall(SECONDS)


def test_a_reply_raises_what_was_raised_each_time(base: ModuleType, model: Any) -> None:
    pool = base.WorkerPool(model)
    for error in (ZeroDivisionError, SystemExit, KeyboardInterrupt):

        def fail(error: type[BaseException] = error) -> None:
            raise error("text")

        reply = pool.spawn(fail)
        for _ in range(2):
            with pytest.raises(error, match="text"):
                reply.get(timeout=SECONDS)
    assert pool.waitall(SECONDS)


def test_a_call_that_runs_too_long_is_an_os_error_for_who_waits(base: ModuleType, model: Any) -> None:
    pool, go = base.WorkerPool(model), model.Event()
    reply = pool.spawn(go.wait)
    for wait in (reply.get, reply.waitfinish):
        with pytest.raises(OSError, match="timeout waiting for"):
            wait(timeout=0.005)
    assert reply.running
    assert pool.active_count() == 1
    assert not pool.waitall(0.005)
    assert reply in pool._running
    go.set()
    reply.waitfinish(SECONDS)
    assert pool.waitall(SECONDS)
    assert pool.active_count() == 0
    assert not pool._running


def test_waitall_wakes_when_the_last_call_ends_and_running_is_empty_then(base: ModuleType, thread_model: Any) -> None:
    pool = base.WorkerPool(thread_model)
    for _ in range(50):
        go = thread_model.Event()
        replies = [pool.spawn(go.wait) for _ in range(3)]
        waiters = [Call(lambda: (pool.waitall(SECONDS), len(pool._running))) for _ in range(3)]
        go.set()
        assert [waiter.result() for waiter in waiters] == [(True, 0)] * 3
        assert [reply.get(0) for reply in replies] == [True] * 3


def test_calls_run_concurrently(base: ModuleType, thread_model: Any) -> None:
    pool = base.WorkerPool(thread_model)
    barrier = threading.Barrier(8)
    replies = [pool.spawn(barrier.wait, SECONDS) for _ in range(8)]
    assert sorted(reply.get(SECONDS) for reply in replies) == list(range(8))
    assert pool.waitall(SECONDS)


def test_a_pool_that_shuts_down_takes_no_more_calls(base: ModuleType, model: Any) -> None:
    pool, go = base.WorkerPool(model), model.Event()
    reply = pool.spawn(go.wait)
    assert pool.terminate(0.005) is False
    with pytest.raises(ValueError, match="pool is shutting down"):
        pool.spawn(go.wait)
    go.set()
    assert pool.terminate(SECONDS) is True
    assert reply.get(SECONDS)
    pool.trigger_shutdown()
    assert pool.waitall() is True


@pytest.mark.needs("gevent", "eventlet")
def test_a_primary_thread_needs_threads(base: ModuleType) -> None:
    for name in ("gevent", "eventlet"):
        with pytest.raises(ValueError, match="thread model"):
            base.WorkerPool(base.get_execmodel(name), hasprimary=True)


def test_the_primary_thread_runs_one_call_at_a_time_and_others_get_threads(base: ModuleType, thread_model: Any) -> None:
    pool = base.WorkerPool(thread_model, hasprimary=True)
    go = threading.Event()
    idents: dict[str, int] = {}

    def first() -> None:
        idents["first"] = threading.get_ident()
        idents["second"] = pool.spawn(threading.get_ident).get(SECONDS)
        go.wait(SECONDS)

    def control() -> None:
        reply = pool.spawn(first)
        wait_until(lambda: "second" in idents, SECONDS, "both calls")
        go.set()
        reply.get(SECONDS)
        assert pool.waitall(SECONDS)
        idents["third"] = pool.spawn(threading.get_ident).get(SECONDS)
        pool.trigger_shutdown()

    controller = Call(control)
    pool.integrate_as_primary_thread()
    controller.result()
    assert idents["first"] == idents["third"] == threading.get_ident() != idents["second"]
    with pytest.raises(ValueError):
        pool.spawn(first)


def test_a_shutdown_during_the_primary_threads_call_ends_it_afterwards(base: ModuleType, execmodel: Any) -> None:
    pool = base.WorkerPool(execmodel, hasprimary=True)
    replies = []

    def shut() -> int:
        pool.trigger_shutdown()
        return 5

    starter = Call(lambda: replies.append(pool.spawn(shut)))
    pool.integrate_as_primary_thread()
    starter.result()
    assert replies[0].get(0) == 5
    assert pool.waitall(0)


def test_a_call_spawned_before_the_primary_thread_integrates_itself_waits_for_it(
    base: ModuleType, execmodel: Any
) -> None:
    pool = base.WorkerPool(execmodel, hasprimary=True)
    reply = pool.spawn(threading.get_ident)
    pool.trigger_shutdown()
    pool.integrate_as_primary_thread()
    assert reply.get(0) == threading.get_ident()


def test_an_interrupt_that_a_call_lets_through_ends_the_primary_thread(base: ModuleType, execmodel: Any) -> None:
    pool = base.WorkerPool(execmodel, hasprimary=True)

    def interrupted() -> None:
        raise KeyboardInterrupt

    reply = pool.spawn(interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.integrate_as_primary_thread()
    assert (pool.waitall(0), reply.running) == (True, False)


def test_a_wait_that_is_interrupted_takes_no_wake_up_from_another(base: ModuleType, execmodel: Any) -> None:
    flag = base.OneShotEvent(execmodel)
    others = [Call(flag.wait, SECONDS).await_blocked() for _ in range(2)]
    interrupted_after(flag.wait)
    flag.set()
    assert [other.result() for other in others] == [True, True]
    assert flag.wait(0) is True


def test_a_pool_may_be_used_by_what_interrupts_it(base: ModuleType, execmodel: Any) -> None:
    pool = base.WorkerPool(execmodel)

    def spawn() -> None:
        assert pool.spawn(abs, -1).get(SECONDS) == 1

    def spawn_and_wait() -> None:
        spawn()
        assert pool.waitall(SECONDS)

    assert at_every_opcode(spawn_and_wait, spawn) > 10
    assert not pool._running


def test_calls_of_many_threads_all_run_beside_a_primary_thread(base: ModuleType, execmodel: Any) -> None:
    pool = base.WorkerPool(execmodel, hasprimary=True)
    done: list[object] = []

    def spawn() -> None:
        for _ in range(200):
            pool.spawn(done.append, 1).waitfinish(SECONDS)

    def control() -> None:
        for call in [Call(spawn) for _ in range(4)]:
            call.result()
        pool.trigger_shutdown()

    controller = Call(control)
    pool.integrate_as_primary_thread()
    controller.result()
    assert pool.waitall(SECONDS)
    assert (len(done), pool._running) == (800, set())


# input and output


class Dribble:
    """A file that gives a few bytes a call, as paramiko's may."""

    def __init__(self, data: bytes, step: int) -> None:
        self.stream, self.step = io.BytesIO(data), step
        self.asked: list[int] = []

    def read(self, count: int) -> bytes:
        self.asked.append(count)
        return self.stream.read(min(count, self.step))


class Recorder:
    """A file that keeps what happens to it."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def write(self, data: bytes) -> None:
        self.calls.append(bytes(data))

    def flush(self) -> None:
        self.calls.append("flush")

    def close(self) -> None:
        self.calls.append("close")


@pytest.mark.parametrize("step", [1, 2, 3, 100])
def test_read_goes_on_until_all_is_there(base: ModuleType, execmodel: Any, step: int) -> None:
    made = base.Popen2IO(Recorder(), Dribble(b"0123456789", step), execmodel)
    assert (made.read(4), made.read(0), made.read(5)) == (b"0123", b"", b"45678")
    with pytest.raises(EOFError, match="expected 3 bytes, got 1"):
        made.read(3)
    with pytest.raises(EOFError, match="expected 1 bytes, got 0"):
        made.read(1)


def test_what_is_written_is_flushed_and_the_files_are_the_ones_given(base: ModuleType, execmodel: Any) -> None:
    outfile, infile = Recorder(), Recorder()
    infile.read = lambda count: b"x" * count  # type: ignore[attr-defined]
    made = base.Popen2IO(outfile, infile, execmodel)
    assert (made.outfile, made.infile, made.execmodel) == (outfile, infile, execmodel)
    made.write(b"data")
    made.close_write()
    made.close_read()
    assert outfile.calls == [b"data", "flush", "close"]
    assert infile.calls == ["close"]


def test_read_and_write_can_be_replaced_on_the_instance(base: ModuleType, execmodel: Any) -> None:
    made = base.Popen2IO(Recorder(), Dribble(b"", 1), execmodel)
    written: list[bytes] = []
    made._read, made._write = lambda count: b"r" * count, written.append
    made.write(b"w")
    assert (made.read(3), written) == (b"rrr", [b"w"])


def test_a_pipe_that_carries_huge_messages_is_enlarged(base: ModuleType) -> None:
    model = base.get_execmodel("thread")
    reading, writing = os.pipe()
    with open(reading, "rb") as infile, open(writing, "wb") as outfile:
        made = base.Popen2IO(outfile, infile, model)
        default = pipes.capacity(reading)
        for size, pipe_size in [(base.HUGE_READ - 1, default), (base.HUGE_READ, base.ENLARGED_PIPE)]:
            data = b"x" * size
            writer = Call(lambda data=data: made.write(data))
            assert made.read(size) == data
            writer.result()
            assert pipes.capacity(reading) == pipe_size


@pytest.mark.parametrize("model", MODELS)
def test_what_is_no_pipe_carries_huge_messages(base: ModuleType, model: str, tmp_path: Path) -> None:
    data = b"x" * base.HUGE_READ
    path = tmp_path / "file"
    path.write_bytes(data)
    with open(path, "rb") as infile, open(os.devnull, "wb") as outfile:
        assert base.Popen2IO(outfile, infile, base.get_execmodel(model)).read(len(data)) == data
    made = base.Popen2IO(Recorder(), Dribble(data, 1 << 16), base.get_execmodel(model))
    assert made.read(len(data)) == data


# messages


CODES = """STATUS RECONFIGURE GATEWAY_TERMINATE CHANNEL_EXEC CHANNEL_DATA CHANNEL_CLOSE CHANNEL_CLOSE_ERROR
CHANNEL_LAST_MESSAGE""".split()


class MessageIO:
    """An io that has only what a message may use."""

    def __init__(self, data: bytes = b"") -> None:
        self.stream = io.BytesIO(data)
        self.written: list[bytes] = []
        self.write = self.written.append

    def read(self, count: int) -> bytes:
        data = self.stream.read(count)
        if len(data) < count:
            raise EOFError(f"expected {count} bytes, got {len(data)}")
        return data


@pytest.mark.parametrize("code", range(8))
def test_a_message_is_written_at_once_and_read_again(base: ModuleType, code: int) -> None:
    Message = base.Message
    message = Message(code, 42, b"payload")
    assert (message.msgcode, message.channelid, message.data) == (code, 42, b"payload")
    assert repr(message) == f"<Message {CODES[code]} channel=42 lendata=7>"
    assert getattr(Message, CODES[code]) == code
    out = MessageIO()
    message.to_io(out)
    assert out.written == [frame(code, 42, b"payload")]
    again = Message.from_io(MessageIO(out.written[0] * 2))
    assert (again.msgcode, again.channelid, again.data) == (code, 42, b"payload")


def test_messages_have_defaults_and_types(base: ModuleType) -> None:
    message = base.Message(base.Message.GATEWAY_TERMINATE)
    assert (message.channelid, message.data) == (0, b"")
    assert sorted(base.Message._types) == list(range(8))
    out = MessageIO()
    message.to_io(out)
    assert base.Message.from_io(MessageIO(out.written[0])).msgcode == 2


def test_the_end_of_input_in_a_message_says_where(base: ModuleType) -> None:
    with pytest.raises(EOFError, match="couldn't load message header, expected 9 bytes, got 0"):
        base.Message.from_io(MessageIO(b""))
    with pytest.raises(EOFError, match="couldn't load message header, expected 9 bytes, got 8"):
        base.Message.from_io(MessageIO(frame(4, 1)[:-1]))
    with pytest.raises(EOFError, match="expected 5 bytes, got 2"):
        base.Message.from_io(MessageIO(frame(4, 1, b"12345")[:-3]))


@pytest.mark.parametrize("header", [b"\x08" + bytes(8), b"\xff" + bytes(8), b"\4\0\0\0\1\xff\xff\xff\xff"])
def test_what_is_no_message_is_refused(base: ModuleType, header: bytes) -> None:
    with pytest.raises(base.LoadError, match="not a message header"):
        base.Message.from_io(MessageIO(header))


# channels on a fake gateway


class FakeGateway:
    """All that a ChannelFactory may use, and what a callback needs besides."""

    _channelfactory: Any

    def __init__(self, execmodel: Any) -> None:
        self.execmodel = execmodel
        self._receivelock = execmodel.RLock()
        self.sent: list[tuple[object, ...]] = []

    def _trace(self, *msg: object) -> None:
        """Nobody looks."""

    def _send(self, *message: object) -> None:
        self.sent.append(message)


@pytest.fixture
def fake(execmodel: Any) -> FakeGateway:
    return FakeGateway(execmodel)


@pytest.fixture
def factory(base: ModuleType, fake: FakeGateway) -> Any:
    factory = base.ChannelFactory(fake)
    fake._channelfactory = factory
    return factory


def test_ids_are_odd_from_1_or_even_from_2_and_given_ones_are_taken(base: ModuleType, fake: FakeGateway) -> None:
    factory = base.ChannelFactory(fake)
    channels = [factory.new(), factory.new(), factory.new(1000), factory.new()]
    assert [channel.id for channel in channels] == [1, 3, 1000, 5]
    assert factory.new(1000) is channels[2]
    assert sorted(factory._channels) == [1, 3, 5, 1000]
    assert set(factory.channels()) == set(channels)
    assert factory._channels[1000] is channels[2]
    assert (1 in factory._channels, 7 in factory._channels, len(factory._channels)) == (True, False, 4)
    assert base.ChannelFactory(fake, startcount=2).new().id == 2
    assert not factory._callbacks


def test_a_channel_can_be_made_directly(base: ModuleType, fake: FakeGateway) -> None:
    channel = base.Channel(fake, 5)
    assert (channel.id, channel.gateway, repr(channel)) == (5, fake, "<Channel id=5 open>")
    assert not channel.isclosed()
    assert (channel._closed, channel._executing, channel._strconfig) == (False, False, (True, False))
    assert not channel._receiveclosed.is_set()
    assert channel._items is not None
    assert channel._getremoteerror() is None
    with pytest.raises(channel.TimeoutError):
        channel.receive(0.001)
    channel.send([1])
    assert fake.sent == [(base.Message.CHANNEL_DATA, 5, base.dumps_internal([1]))]


def test_class_attributes_of_channel_can_be_replaced(base: ModuleType, factory: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(base.Channel, "_INTERNALWAKEUP", 0.001)
    channel = factory.new()
    waiting = Call(channel.receive)
    factory._local_receive(1, base.dumps_internal("item"))
    assert waiting.result() == "item"

    monkeypatch.setattr(base.Channel, "receive", lambda self, timeout=None: "replaced")
    assert channel.receive() == "replaced"
    assert next(channel) == "replaced"


def test_a_wait_takes_one_item_although_more_arrive_at_once(base: ModuleType, factory: Any) -> None:
    channel = factory.new()

    def arrive() -> None:
        for number in range(3000):
            factory._local_receive(channel.id, base.dumps_internal(number))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        arriving = Call(arrive)
        assert [channel.receive(SECONDS) for _ in range(3000)] == list(range(3000))
        arriving.result()
    finally:
        sys.setswitchinterval(interval)


def test_received_items_wait_in_order(base: ModuleType, factory: Any) -> None:
    channel = factory.new()
    for item in (1, "two", [3]):
        factory._local_receive(channel.id, base.dumps_internal(item))
    assert [channel.receive(0), channel.receive(), channel.receive(1)] == [1, "two", [3]]


def test_data_for_nobody_is_dropped(base: ModuleType, factory: Any) -> None:
    factory._local_receive(77, base.dumps_internal(1))
    factory._local_close(77)
    assert 77 not in factory._channels


def test_an_end_with_an_error_is_told_once(base: ModuleType, factory: Any, fake: FakeGateway) -> None:
    channel = factory.new()
    factory._local_receive(channel.id, base.dumps_internal("left"))
    factory._local_close(channel.id, base.RemoteError("failed"))
    assert channel.isclosed()
    assert channel._receiveclosed.is_set()
    assert repr(channel) == "<Channel id=1 closed>"
    assert channel.id not in factory._channels
    assert channel.receive() == "left"
    with pytest.raises(base.RemoteError, match="failed"):
        channel.receive()
    for _ in range(2):
        with pytest.raises(EOFError):
            channel.receive()
    channel.waitclose(0)
    channel.close()
    assert fake.sent == []
    with pytest.raises(OSError, match="cannot send to <Channel id=1 closed>"):
        channel.send(1)


def test_an_error_text_is_an_error_too(base: ModuleType, factory: Any) -> None:
    channel = factory.new()
    factory._local_close(channel.id, "failed")
    error = channel._getremoteerror()
    assert (type(error), str(error)) == (base.RemoteError, "failed")
    assert channel._getremoteerror() is None


def test_sendonly_leaves_the_channel_open_to_send(base: ModuleType, factory: Any, fake: FakeGateway) -> None:
    channel = factory.new()
    factory._local_close(channel.id, sendonly=True)
    assert not channel.isclosed()
    with pytest.raises(EOFError):
        channel.receive()
    channel.waitclose(0)
    channel.send(1)
    assert fake.sent[-1][0] == base.Message.CHANNEL_DATA


def test_the_gateways_error_comes_after_the_channels_own(base: ModuleType, factory: Any, fake: FakeGateway) -> None:
    channel = factory.new()
    fake._error = EOFError("gone")  # type: ignore[attr-defined]
    factory._local_close(channel.id, base.RemoteError("failed"))
    assert isinstance(channel._getremoteerror(), base.RemoteError)
    for _ in range(2):
        with pytest.raises(EOFError, match="gone"):
            channel.receive()
    with pytest.raises(EOFError, match="gone"):
        channel.waitclose()


def test_close_tells_the_other_side_once(base: ModuleType, factory: Any, fake: FakeGateway) -> None:
    Message = base.Message
    plain, failed = factory.new(), factory.new()
    plain.close()
    plain.close()
    failed.close("an error")
    assert fake.sent == [
        (Message.CHANNEL_CLOSE, plain.id),
        (Message.CHANNEL_CLOSE_ERROR, failed.id, base.dumps_internal("an error")),
    ]
    for channel in (plain, failed):
        assert channel.isclosed()
        channel.waitclose(0)
        with pytest.raises(EOFError):
            channel.receive()
    assert not factory._channels


def test_a_dropped_channel_tells_the_other_side(base: ModuleType, factory: Any, fake: FakeGateway) -> None:
    Message = base.Message
    plain, called, closed = factory.new(), factory.new(), factory.new()
    called.setcallback(lambda item: None)
    closed.close()
    ids = plain.id, called.id
    fake.sent.clear()
    del plain, called, closed
    gc.collect()
    assert fake.sent == [(Message.CHANNEL_CLOSE, ids[0]), (Message.CHANNEL_LAST_MESSAGE, ids[1])]
    assert not factory._channels
    assert set(factory._callbacks) == {ids[1]}


def test_close_write_tells_the_other_side_once(base: ModuleType, factory: Any, fake: FakeGateway) -> None:
    Message = base.Message
    plain, called = factory.new(), factory.new()
    called.setcallback(lambda item: None)
    ids = plain.id, called.id
    for channel in (plain, called):
        channel.close_write()
        channel.close_write()
        with pytest.raises(OSError, match=r"cannot send to <Channel id=\d closed for sending>"):
            channel.send(1)
    assert fake.sent == [(Message.CHANNEL_LAST_MESSAGE, id) for id in ids]
    fake.sent.clear()
    del plain, called, channel
    gc.collect()
    assert fake.sent == [(Message.CHANNEL_CLOSE, ids[0])]  # the callback still receives
    assert set(factory._callbacks) == {ids[1]}


@pytest.mark.parametrize("has_callback", [False, True])
def test_the_other_sides_close_after_its_last_message_is_heard(
    base: ModuleType, factory: Any, has_callback: bool
) -> None:
    channel = factory.new()
    received: list[str] = []
    if has_callback:
        channel.setcallback(received.append, endmarker="end")
    for _ in range(2):
        factory._local_close(channel.id, sendonly=True)
        factory._local_receive(channel.id, base.dumps_internal("late"))
    assert received == (["end"] if has_callback else [])
    assert factory.channels() == [channel]
    assert not channel.isclosed()
    factory._local_close(channel.id)
    assert channel.isclosed()
    assert received == (["end"] if has_callback else [])
    assert not factory._queues


@pytest.mark.parametrize("has_callback", [False, True])
def test_a_channel_that_ended_is_forgotten_when_it_is_dropped(
    base: ModuleType, factory: Any, fake: FakeGateway, has_callback: bool
) -> None:
    channel = factory.new()
    id = channel.id
    if has_callback:
        channel.setcallback(lambda item: None)
    factory._local_close(id, sendonly=True)
    del channel
    gc.collect()
    assert fake.sent == [(base.Message.CHANNEL_CLOSE, id)]
    assert not factory._queues


def test_an_error_that_nobody_received_is_printed(
    base: ModuleType, factory: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    channel = factory.new()
    factory._local_close(channel.id, base.RemoteError("unread"))
    del channel
    gc.collect()
    assert "Warning: unhandled RemoteError: unread" in capfd.readouterr().err
    factory._local_close(99, base.RemoteError("for nobody"))
    assert "Warning: unhandled RemoteError: for nobody" in capfd.readouterr().err


def test_a_callback_gets_what_waits_and_what_comes_and_its_end_marker(base: ModuleType, factory: Any) -> None:
    channel, end = factory.new(), object()
    items: list[object] = []
    factory._local_receive(channel.id, base.dumps_internal(1))
    factory._local_receive(channel.id, base.dumps_internal(2))
    channel.setcallback(items.append, endmarker=end)
    assert items == [1, 2]
    factory._local_receive(channel.id, base.dumps_internal(3))
    assert items == [1, 2, 3]
    assert channel._items is None
    assert set(factory._callbacks) == {channel.id}
    with pytest.raises(OSError, match="cannot receive"):
        channel.receive()
    with pytest.raises(OSError, match="callback already registered"):
        channel.setcallback(items.append)
    factory._local_close(channel.id)
    factory._finished_receiving()
    assert items[:3] == [1, 2, 3]
    assert items[3] is end
    assert len(items) == 4
    assert not factory._callbacks


@pytest.mark.parametrize("end", ["remote", "own", "connection", "before"])
@pytest.mark.parametrize("marker", [None, 0, "x", NotImplemented])
def test_an_end_marker_comes_once_however_the_channel_ends(
    base: ModuleType, factory: Any, end: str, marker: object
) -> None:
    channel = factory.new()
    items: list[object] = []
    if end == "before":
        factory._local_close(channel.id)
    channel.setcallback(items.append, endmarker=marker)
    if end == "remote":
        factory._local_close(channel.id)
    elif end == "own":
        channel.close()
    factory._finished_receiving()
    factory._local_close(channel.id)
    assert len(items) == 1
    assert items[0] is marker


def test_without_end_marker_the_callback_gets_only_items(base: ModuleType, factory: Any) -> None:
    channel = factory.new()
    items: list[object] = []
    channel.setcallback(items.append)
    factory._local_receive(channel.id, base.dumps_internal(1))
    factory._local_close(channel.id)
    assert items == [1]


def test_after_the_end_no_channel_is_made_and_all_waits_end(base: ModuleType, factory: Any, fake: FakeGateway) -> None:
    channel = factory.new()
    waiting = [Call(channel.receive).await_blocked(), Call(channel.waitclose).await_blocked()]
    assert not factory.finished
    factory._finished_receiving()
    assert factory.finished
    with pytest.raises(EOFError):
        waiting[0].result()
    waiting[1].result()
    with pytest.raises(OSError, match="connection already closed"):
        factory.new()


def test_no_longer_opened_forgets_a_channel(base: ModuleType, factory: Any) -> None:
    channel = factory.new()
    factory._no_longer_opened(channel.id)
    factory._no_longer_opened(12345)
    assert channel.id not in factory._channels


def test_channels_of_several_threads_have_different_ids(base: ModuleType, factory: Any) -> None:
    threads = [Call(lambda: [factory.new() for _ in range(200)]) for _ in range(4)]
    channels = [channel for thread in threads for channel in thread.result()]
    assert sorted(channel.id for channel in channels) == list(range(1, 1601, 2))


def test_threads_that_make_a_channel_of_one_id_get_the_same(base: ModuleType, factory: Any, fake: FakeGateway) -> None:
    made = []
    for id in range(1000, 1400, 2):
        barrier = threading.Barrier(3)

        def make(barrier: threading.Barrier = barrier, id: int = id) -> Any:
            barrier.wait(SECONDS)
            return factory.new(id)

        channels = [thread.result() for thread in [Call(make) for _ in range(3)]]
        assert channels[0] is channels[1] is channels[2] is factory._channels[id]
        assert not channels[0].isclosed()
        made += channels
    assert fake.sent == []


def test_the_id_of_a_dropped_channel_can_be_made_again(base: ModuleType, factory: Any) -> None:
    first = factory.new(1000)
    first.setcallback(print)
    del first
    gc.collect()
    again = factory.new(1000)
    assert factory._channels[1000] is again


def test_what_a_callback_does_to_its_own_channel_comes_before_the_end_marker(base: ModuleType, factory: Any) -> None:
    channel = factory.new()
    items: list[object] = []

    def callback(item: object) -> None:
        if item == 1:
            channel.close()
        items.append(item)

    channel.setcallback(callback, endmarker="end")
    factory._local_receive(channel.id, base.dumps_internal(1))
    assert items == [1, "end"]


def test_malformed_tasks_close_their_channel(base: ModuleType, execmodel: Any) -> None:
    gateway = base.WorkerGateway(base.Popen2IO(Recorder(), Dribble(b"", 1), execmodel), "worker")
    tasks: list[Any] = [(), None, ("source",), (None, None, None, {}), ("1/0", None, None, {})]
    for task in tasks:
        channel = gateway.newchannel()
        gateway.executetask((channel, task))
        assert channel.isclosed()


# values by their classes


def test_the_serializer_returns_or_writes(base: ModuleType) -> None:
    value = [1, {"key": (None, b"x")}]
    assert base._Serializer().save(value) == base.dumps_internal(value)
    assert base._Serializer().save(value, versioned=True) == base.dumps(value)
    written: list[bytes] = []
    base._Serializer(write=written.append).save(value, versioned=True)
    assert b"".join(written) == base.dumps(value)
    with pytest.raises(base.DumpError, match="can't serialize <class 'object'>"):
        base._Serializer().save(object())


def test_nobody_is_asked_how_values_are_written_unless_the_serializer_is_changed(
    base: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Own:
        pass

    called: list[object] = []
    value = ["text", b"bytes" * 20000, {1: (2.0, None)}, {True}]
    expected = base.dumps(value)

    def noted(obj: object, gateway: object) -> bytes:
        called.append(obj)
        return b"L"

    monkeypatch.setattr(base, "_saved_by_methods", noted)
    assert base.dumps(value) == expected
    with pytest.raises(base.DumpError, match=r"at \[0\]"):
        base.dumps([Own()])
    subclass = type("Sub", (base._Serializer,), {})
    subclass.save_str = lambda self, text: None  # type: ignore[attr-defined]
    assert base.dumps(value) == expected
    assert called == []
    for change in (
        lambda patch: patch.setattr(base._Serializer, "save_str", print),
        lambda patch: patch.setattr(base._Serializer, "save_Own", print, raising=False),
        lambda patch: patch.setitem(base._Serializer._dispatch, Own, print),
    ):
        with pytest.MonkeyPatch.context() as patch:
            change(patch)
            subclass.save_str = None  # type: ignore[attr-defined]
            assert base.dumps_internal(value) == b"LQ"
        assert base.dumps(value) == expected
        assert called == [value]
        called.clear()


def test_a_channel_that_an_own_method_writes_belongs_to_the_gateway(
    gw: execnet.Gateway, group: execnet.Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Own:
        channel = gw.newchannel()

    serializer = execnet.gateway_base._Serializer
    monkeypatch.setattr(serializer, "save_Own", lambda self, own: self._save([own.channel]), raising=False)
    gw.remote_exec("channel.receive()[0].send(1)").send(Own())
    assert Own.channel.receive(10) == 1
    with pytest.raises(execnet.DumpError, match="it belongs to gateway 'gw0', not to 'gw1'"):
        group.makegateway().newchannel().send(Own())


def test_the_unserializer_reads_a_stream(base: ModuleType) -> None:
    stream = io.BytesIO(base.dumps([1, "a"]) + base.dumps_internal((2,)))
    assert base.Unserializer(stream).load(versioned=True) == [1, "a"]
    assert base.Unserializer(stream, strconfig=(False, False)).load() == (2,)
    with pytest.raises(EOFError):
        base.Unserializer(stream).load()


def test_the_unserializers_functions_can_be_replaced(base: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = {value for name, value in vars(base.opcode).items() if not name.startswith("_")}
    assert set(base.Unserializer.num2func) == codes
    changed = dict(base.Unserializer.num2func)
    changed[base.opcode.NONE] = lambda self: self.stack.append("replaced")
    monkeypatch.setattr(base.Unserializer, "num2func", changed)
    assert base.Unserializer(io.BytesIO(base.dumps_internal([None]))).load() == ["replaced"]


def test_replaced_functions_are_called_for_values_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    twin = load_portable_twin()
    data = twin.dumps([None] * 100)
    monkeypatch.setitem(twin.Unserializer.num2func, b"L", lambda self: self.stack.append(self.stream.tell()))
    assert twin.loads(data) == list(range(12, 12 + 100 * 7, 7))


def test_a_list_that_takes_a_dead_lists_place_in_memory_has_its_own_size(base: ModuleType) -> None:
    def int4(number: int) -> bytes:
        return struct.pack("!i", number)

    list_of_two = b"K" + int4(2) + b"F" + int4(0) + b"LPF" + int4(1) + b"LP"
    # A dict whose one key gets a list again and again; then empty lists and a dict come.
    data = b"J" + (b"L" + list_of_two + b"P") * 20
    data += b"LK" + int4(0) + b"PRK" + int4(0) + b"PCJF" + int4(0) + b"LPPQ"
    assert base.loads(b"\x02" + data) == {None: [], True: [], False: {0: None}}


def test_channels_inside_values_are_made_by_the_factory(base: ModuleType, factory: Any, fake: FakeGateway) -> None:
    channel = factory.new()
    data = base.dumps_internal({"channel": channel})
    assert base.loads_internal(data, factory)["channel"] is channel
    assert base.Unserializer(io.BytesIO(data), channel).load()["channel"] is channel
    assert base.Unserializer(io.BytesIO(data), fake).load()["channel"] is channel
    with pytest.raises(base.LoadError):
        base.loads_internal(data)


# the worker without serve


class Pair:
    """An io with nobody at the other end: it keeps what is written."""

    def __init__(self, base: ModuleType) -> None:
        self.execmodel = base.get_execmodel("thread")
        self.written: list[bytes] = []
        self.write = self.written.append

    def read(self, count: int) -> bytes:
        raise EOFError(f"expected {count} bytes, got 0")

    def close_read(self) -> None:
        """Nothing to close."""

    def close_write(self) -> None:
        """Nothing to close."""


@pytest.fixture
def worker(base: ModuleType) -> Any:
    return base.WorkerGateway(io=Pair(base), id="worker", _startcount=2)


def execute(worker: Any, source: str, file: str | None = None, name: str | None = None, **kwargs: object) -> Any:
    channel = worker.newchannel()
    worker.executetask((channel, (source, file, name, kwargs)))
    return channel


def sent(base: ModuleType, worker: Any) -> list[tuple[str, object]]:
    messages = [base.Message.from_io(MessageIO(data)) for data in worker._io.written]
    return [
        (CODES[message.msgcode], base.loads_internal(message.data) if message.data else None) for message in messages
    ]


def test_a_worker_executes_a_task_without_serving(base: ModuleType, worker: Any) -> None:
    channel = execute(worker, "channel.send((__name__, channel._executing, sorted(globals())))")
    assert channel.id == 2
    assert channel.isclosed()
    assert not channel._executing
    names = ["__builtins__", "__name__", "channel"]
    assert sent(base, worker) == [("CHANNEL_DATA", ("__channelexec__", True, names)), ("CHANNEL_CLOSE", None)]


def test_a_worker_calls_a_function_with_its_arguments(base: ModuleType, worker: Any) -> None:
    source = "\n\ndef function(channel, a, b=2, **more):\n    channel.send((a, b, more))"
    execute(worker, source, "some_file.py", "function", a=1, c=3)
    assert sent(base, worker) == [("CHANNEL_DATA", (1, 2, {"c": 3})), ("CHANNEL_CLOSE", None)]


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        (
            "1/0",
            ["Traceback (most recent call last):", '"<remote exec>", line 1', "ZeroDivisionError: division by zero"],
        ),
        ("a b", ["SyntaxError", "gateway_base", '"<remote exec>", line 1']),
        ("raise SystemExit(3)", ["SystemExit: 3"]),
        ("raise EOFError('of its own')", ['"<remote exec>", line 1', "EOFError: of its own"]),
        ("channel.close()", ["explicit", "OSError"]),
    ],
)
def test_a_worker_tells_what_a_task_raised(base: ModuleType, worker: Any, source: str, texts: list[str]) -> None:
    channel = execute(worker, source)
    [(code, text)] = sent(base, worker)
    assert code == "CHANNEL_CLOSE_ERROR"
    for part in texts:
        assert part in str(text)
    assert channel.isclosed()


def test_a_task_that_received_its_last_item_has_ended(base: ModuleType, worker: Any) -> None:
    execute(worker, "inner = channel.gateway.newchannel()\ninner.close()\ninner.receive()")
    assert sent(base, worker) == [("CHANNEL_CLOSE", None)] * 2


def test_an_interrupted_task_says_so(base: ModuleType, worker: Any) -> None:
    execute(worker, "raise KeyboardInterrupt()")
    assert sent(base, worker) == [("CHANNEL_CLOSE_ERROR", base.INTERRUPT_TEXT)]


def test_a_worker_serves_over_a_socket_until_it_is_told_to_end(base: ModuleType) -> None:
    near, far = socket.socketpair()
    with near, far:
        worker_io = base.Popen2IO(far.makefile("wb"), far.makefile("rb"), base.get_execmodel("thread"))
        far.close()
        near.settimeout(SECONDS)
        Message, dumps = base.Message, base.dumps_internal
        task = dumps(("channel.send(channel.receive() + 1)", None, None, {}))
        near.sendall(frame(Message.CHANNEL_EXEC, 1, task) + frame(Message.CHANNEL_DATA, 1, dumps(41)))
        server = Call(base.serve, worker_io, "worker")
        with near.makefile("rb") as infile:
            assert Message.from_io(infile).data == dumps(42)
            assert Message.from_io(infile).msgcode == Message.CHANNEL_CLOSE

            def status() -> Any:
                near.sendall(frame(Message.STATUS, 3))
                answer = Message.from_io(infile)
                assert Message.from_io(infile).msgcode == Message.CHANNEL_CLOSE
                return base.loads_internal(answer.data)

            # The task tells its end a little before it has ended.
            idle = {"numchannels": 0, "numexecuting": 0, "execmodel": "thread"}
            wait_until(lambda: status() == idle, SECONDS, "an idle worker")
            near.sendall(frame(Message.GATEWAY_TERMINATE))
            server.result()
            assert infile.read() == b""


def test_a_side_that_only_initiates_executes_nothing(base: ModuleType) -> None:
    gateway = base.BaseGateway(Pair(base), id="base", _startcount=1)
    channel = gateway.newchannel()
    gateway._local_schedulexec(channel, b"")
    assert channel.isclosed()
    assert "disallowed" in str(sent(base, gateway))


def test_init_popen_io_gives_standard_input_and_output_away() -> None:
    source = """
        import os, sys
        from execnet import gateway_base
        io = gateway_base.init_popen_io(gateway_base.get_execmodel("thread"))
        os.write(1, b"lost")
        print("lost", flush=True)
        assert os.read(0, 1) == b"" == sys.stdin.buffer.read(1)
        assert not os.get_inheritable(io.infile.fileno())
        assert not os.get_inheritable(io.outfile.fileno())
        io.write(b"kept")
    """
    assert run_python(source).stdout == "kept"


# tracing


TRACED = """
    import execnet, os, sys, tempfile
    assert execnet.gateway_base.trace is not execnet.gateway_base.notrace
    group = execnet.Group()
    gateway = group.makegateway("popen")
    channel = gateway.remote_exec("channel.send(channel.receive())")
    channel.send("\\u20ac")
    assert channel.receive(20) == "\\u20ac"
    pid = gateway._rinfo().pid
    group.terminate(10)
    print(os.getpid(), pid, getattr(execnet.gateway_base, "fn", None), sep="|")
"""


@pytest.mark.parametrize("pure", ["", "1"], ids=["c", "portable"])
def test_debug_1_writes_a_file_of_each_process(tmp_path: Path, pure: str) -> None:
    run = run_python(TRACED, EXECNET_DEBUG="1", EXECNET_PURE=pure, TMPDIR=str(tmp_path))
    own, far, name = run.stdout.strip().split("|")
    assert name == str(tmp_path / f"execnet-debug-{own}")
    assert "Message CHANNEL_DATA channel=1" in Path(name).read_text("utf-8")
    log = (tmp_path / f"execnet-debug-{far}").read_text("utf-8")
    assert "creating workergateway" in log
    assert "Message CHANNEL_EXEC channel=1" in log
    assert run.stderr == ""


@pytest.mark.parametrize("pure", ["", "1"], ids=["c", "portable"])
def test_debug_2_writes_to_stderr(tmp_path: Path, pure: str) -> None:
    run = run_python(TRACED, EXECNET_DEBUG="2", EXECNET_PURE=pure, TMPDIR=str(tmp_path))
    own, far, name = run.stdout.strip().split("|")
    assert name == "None"
    lines = run.stderr.splitlines()
    assert any(line.startswith(f"[{own}] ") and "CHANNEL_DATA" in line for line in lines)
    assert any(line.startswith(f"[{far}] ") and "creating workergateway" in line for line in lines)
    assert not list(tmp_path.iterdir())


def test_what_cant_be_formatted_or_written_does_not_disturb() -> None:
    source = """
        import execnet, sys
        class Odd:
            def __str__(self): raise ValueError()
        execnet.gateway_base.trace(Odd())
        sys.stderr = None
        execnet.gateway_base.trace("nowhere")
        print("fine")
    """
    assert run_python(source, EXECNET_DEBUG="2").stdout == "fine\n"


def test_without_debug_nothing_is_written(tmp_path: Path) -> None:
    source = TRACED.replace("is not execnet", "is execnet")
    assert run_python(source, TMPDIR=str(tmp_path)).stderr == ""
    assert not list(tmp_path.iterdir())
