"""Gateways end to end, each core on each side: what is executed, what is told of it, and their ends."""

from __future__ import annotations

import gc
import importlib
import inspect
import math as mathematics
import os
import pickle
import signal
import sys
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.blocked import Call
from support.processes import wait_until

import execnet
from execnet.gateway import _find_non_builtin_globals, _source_of_function

SECONDS = 20.0
SOURCE = Path(__file__).resolve()
ECHO = "for item in channel: channel.send(item)"


# functions that are sent: each must stand alone


def multiply(channel, factor=2, **more):
    channel.send((factor * 21, more))


def fail_here(channel):
    import os

    os.stat("/no/such/file")  # the line that the traceback names


def no_channel(something):
    """Not for a channel."""


def nothing():
    """Not for a channel either."""


def uses_globals(channel):
    channel.send(SECONDS + len(sys.argv))


def annotated(channel: "execnet.Channel", item: "ModuleType | None" = None) -> "list[ModuleType]":  # noqa: UP037
    result: "list[ModuleType]" = []  # noqa: UP037
    channel.send(len(result))
    return result


# fmt: off
def annotated_with_what_is_here(channel: execnet.Channel, item: Path = 3, *rest: Any, key: Undefined = 4) -> (  # type: ignore[assignment, name-defined]  # noqa: F821
    Call | None
):
    result: Undefined[  # type: ignore[name-defined]  # noqa: F821
        Any] = item + key

    def inner(other: Path, plain: int) -> Call:
        return other  # type: ignore[return-value]

    channel.send((inner(result, 1), sorted(inner.__annotations__), inner.__annotations__["plain"] is int))
    raise IndexError("the line is told")


def annotated_ünicodely(channel: "Ωmega | execnet.Channel", ж: Path = "ж", ю: int = 1): channel.send(ж)  # type: ignore[assignment, name-defined, no-untyped-def]  # noqa: F821, UP037
# fmt: on


def uses_many_globals(channel, factor):
    import math

    channel.send((mathematics.pi, math.e, multiply, SECONDS, Path, nowhere, signal.SIGINT))  # type: ignore[name-defined]  # noqa: F821


async def asynchronous(channel):
    channel.send(1)


def generating(channel):
    yield channel.send(1)


async def generating_asynchronously(channel):
    yield channel.send(1)


def only_names_of_its_own(channel):
    import os.path as path
    from collections import OrderedDict as Ordered

    class Local:
        value = 1

    def inner(argument, *rest):
        return argument + Local.value + len(rest)

    items = [inner(number) for number in range(3)]
    try:
        raise ValueError(items)
    except ValueError as error:
        channel.send((str(error), Ordered(a=1)["a"], path.sep, (lambda x: x)(1)))


def line_of(text: str) -> int:
    return SOURCE.read_text().splitlines().index(text) + 1


# what a gateway is


def test_a_gateway_shows_its_state(pair: execnet.Gateway, pair_group: execnet.Group) -> None:
    assert repr(pair) == "<Gateway id='gw0' receive-live, thread model, 0 active channels>"
    channel = pair.newchannel()
    assert repr(pair) == "<Gateway id='gw0' receive-live, thread model, 1 active channels>"
    assert pair.hasreceiver()
    pair.exit()
    pair.join(SECONDS)
    assert not pair.hasreceiver()
    assert repr(pair) == "<Gateway id='gw0' not-receiving, thread model, 0 active channels>"
    assert repr(channel) == f"<Channel id={channel.id} open>"


def test_a_gateway_that_was_never_initialised_can_be_shown(local: ModuleType) -> None:
    shown = repr(local.Gateway.__new__(local.Gateway))
    assert "uninitialized" in shown
    assert "no active channels" in shown


def test_a_gateway_has_what_programs_use(pair: execnet.Gateway, pair_group: execnet.Group, local: ModuleType) -> None:
    assert (pair.id, str(pair.spec), pair.execmodel.backend) == ("gw0", "popen", "thread")
    assert isinstance(pair, local.Gateway)
    assert pair._group is pair_group
    assert pair._io.popen.pid == pair._rinfo().pid
    assert pair._io.popen.returncode is None
    assert pair._channelfactory.channels() == []
    pair._trace("some", "words")
    assert "ValueError: text" in pair._geterrortext(ValueError("text"))
    with pair._receivelock, pair._receivelock:
        pass
    changed: Any = pair
    changed.node = "set by a program"
    changed.remote_exec = lambda source: source
    assert changed.remote_exec("replaced") == "replaced"
    with pytest.raises(AttributeError):
        _ = pair.remoteaddress


def test_a_gateway_can_be_subclassed(local: ModuleType, remote_core: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(local.Gateway):  # type: ignore[misc,name-defined]
        def __init__(self, io: Any, spec: Any, more: str) -> None:
            self.more = more
            super().__init__(io, spec)

        def remote_exec(self, source: Any, **kwargs: Any) -> Any:
            return (self.more, super().remote_exec(source, **kwargs))

    spec = local.XSpec("popen//id=own//execmodel=thread")
    io = local.gateway_io.create_io(spec, local.gateway_base.get_execmodel("thread"))
    monkeypatch.setattr(local.gateway_bootstrap, "Gateway", lambda io, spec: Own(io, spec, "more"))
    own = local.gateway_bootstrap.bootstrap(io, spec)
    assert repr(own) == "<Own id='own' receive-live, thread model, 0 active channels>"
    more, channel = own.remote_exec("channel.send(1)")
    assert (more, channel.receive(SECONDS)) == ("more", 1)
    own.exit()
    own.join(SECONDS)
    assert io.wait() == 0


def test_messages_can_be_sent_by_hand(pair: execnet.Gateway, local: ModuleType) -> None:
    channel = pair.remote_exec("channel.send(channel.receive())")
    pair._send(local.gateway_base.Message.CHANNEL_DATA, channel.id, local.gateway_base.dumps_internal("by hand"))
    assert channel.receive(SECONDS) == "by hand"
    pair._send(local.gateway_base.Message.STATUS, 1001)


def test_remote_init_threads_says_that_it_does_nothing(
    pair: execnet.Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    pair.remote_init_threads(3)
    pair.remote_init_threads()
    assert capsys.readouterr().out.count("no-op") == 2


# status and information


def test_the_status_counts_channels_and_tasks_and_leaves_none(pair: execnet.Gateway) -> None:
    assert dict(pair.remote_status()) == {"numchannels": 0, "numexecuting": 0, "execmodel": "thread"}
    channels = [pair.remote_exec("channel.send(1); channel.receive()") for _ in range(3)]
    for channel in channels:
        channel.receive(SECONDS)
    status = pair.remote_status()
    assert (status.numchannels, status.numexecuting, status.execmodel) == (3, 3, "thread")
    assert repr(status) == "<RInfo 'execmodel=thread, numchannels=3, numexecuting=3'>"
    assert len(pair._channelfactory.channels()) == 3
    for channel in channels:
        channel.send(1)
        channel.waitclose(SECONDS)
    wait_until(lambda: pair.remote_status().numexecuting == 0, SECONDS, "idle")
    assert len(pair._channelfactory.channels()) == 0
    for _ in range(100):
        pair.remote_status()
    assert len(pair._channelfactory._channels) == 0


def test_rinfo_tells_of_the_other_interpreter_and_is_cached(pair: execnet.Gateway) -> None:
    info = pair._rinfo()
    assert (info.pid, info.executable, info.platform) == (pair._io.popen.pid, sys.executable, sys.platform)
    assert (info.version_info, info.cwd) == (tuple(sys.version_info), os.getcwd())
    assert pair._rinfo() is info
    assert pair._rinfo(update=True) is not info
    assert repr(info).index("cwd=") < repr(info).index("executable=") < repr(info).index("pid=")
    pair.exit()
    pair.join(SECONDS)
    assert pair._rinfo().pid == info.pid
    changed: Any = pair
    changed._cache_rinfo = "set"
    assert changed._rinfo() == "set"


def test_rinfo_source_stands_alone(pair: execnet.Gateway, local: ModuleType) -> None:
    source = inspect.getsource(local.gateway.rinfo_source)
    assert source.startswith("def rinfo_source(channel):")
    assert pair.remote_exec(source + "rinfo_source(channel)").receive(SECONDS)["pid"] == pair._io.popen.pid


# executing


def test_a_string_is_dedented_and_runs_as_channelexec(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec(
        """
        import sys
        if True:
            channel.send((__name__, sorted(globals()), sys.argv, sys.exc_info()))
        """
    )
    names = ["__builtins__", "__name__", "channel", "sys"]
    assert channel.receive(SECONDS) == ("__channelexec__", names, ["-c"], (None, None, None))
    assert not pair.remote_exec("import sys; channel.send('py' in sys.modules)").receive(SECONDS)


def test_tasks_have_globals_of_their_own(pair: execnet.Gateway) -> None:
    pair.remote_exec("own = 1").waitclose(SECONDS)
    assert pair.remote_exec("channel.send('own' in globals())").receive(SECONDS) is False


def test_exc_info_is_clear_when_a_task_follows_one_that_failed(pair: execnet.Gateway) -> None:
    with pytest.raises(Exception, match="ZeroDivisionError"):
        pair.remote_exec("1/0").waitclose(SECONDS)
    assert pair.remote_exec("import sys; channel.send(sys.exc_info())").receive(SECONDS) == (None, None, None)


def test_a_function_gets_its_arguments(pair: execnet.Gateway) -> None:
    assert pair.remote_exec(multiply).receive(SECONDS) == (42, {})
    assert pair.remote_exec(multiply, factor=3, key=[1, None]).receive(SECONDS) == (63, {"key": [1, None]})
    assert pair.remote_exec(annotated).receive(SECONDS) == 0
    assert pair.remote_exec(only_names_of_its_own).receive(SECONDS) == ("[1, 2, 3]", 1, os.sep, 1)


def test_what_a_function_may_not_be(pair: execnet.Gateway, local: ModuleType) -> None:
    outer = 1

    def closure(channel: Any) -> None:
        channel.send(outer)

    namespace: dict[str, Any] = {}
    exec("def without_source(channel): pass", namespace)
    refused = {
        "lambda": lambda channel: channel.send(1),
        "closures": closure,
        "source": namespace["without_source"],
        "expected first function argument to be `channel`": no_channel,
        "`channel`": nothing,
        "functions": len,
    }
    for text, function in refused.items():
        with pytest.raises(ValueError, match=text):
            pair.remote_exec(function)
    with pytest.raises(ValueError) as error:
        pair.remote_exec(uses_globals)
    assert error.value.args[-1] == ["SECONDS", "sys"]
    with pytest.raises(TypeError, match="kwargs"):
        pair.remote_exec("pass", key=1)
    with pytest.raises(TypeError, match="kwargs"):
        pair.remote_exec(importlib.import_module("textwrap"), key=1)
    with pytest.raises(local.DumpError, match="can't serialize"):
        pair.remote_exec(multiply, key=object())
    assert pair._channelfactory.channels() == []


def test_what_is_no_source_is_refused(pair: execnet.Gateway) -> None:
    for wrong in (5, None, 1.5, b"channel.send(1)", bytearray(b"1"), ["channel.send(1)"], object(), Path("script.py")):
        with pytest.raises(TypeError, match="source must be a string, a function or a module, not ") as error:
            pair.remote_exec(wrong)  # type: ignore[arg-type]
        assert repr(wrong) in str(error.value)
    assert pair._channelfactory.channels() == []


def test_a_function_typed_at_a_prompt_has_no_source(pair: execnet.Gateway) -> None:
    namespace: dict[str, Any] = {}
    exec(compile("def typed(channel): pass", "<stdin>", "exec"), namespace)
    with pytest.raises(ValueError, match="typed at a prompt has none"):
        pair.remote_exec(namespace["typed"])


def test_an_object_whose_text_is_source_is_executed(pair: execnet.Gateway) -> None:
    class Source:
        def __str__(self) -> str:
            return "channel.send(5)"

    class Text(str):
        pass

    for source in (Source(), Text("channel.send(5)")):
        assert pair.remote_exec(source).receive(SECONDS) == 5  # type: ignore[arg-type]


@pytest.mark.parametrize("function", [asynchronous, generating, generating_asynchronously])
def test_a_function_whose_call_would_not_run_it_is_refused(pair: execnet.Gateway, function: Any) -> None:
    with pytest.raises(ValueError, match=rf"{function.__name__}\(\) is an? .*calling it would not run it"):
        pair.remote_exec(function)
    assert pair._channelfactory.channels() == []


def test_annotations_may_name_what_the_other_side_lacks(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec(annotated_with_what_is_here)
    assert channel.receive(SECONDS) == (7, ["other", "plain", "return"], True)
    with pytest.raises(channel.RemoteError) as error:
        channel.waitclose(SECONDS)
    line = line_of('    raise IndexError("the line is told")')
    assert f'{SOURCE.name}", line {line}, in annotated_with_what_is_here' in str(error.value)
    assert pair.remote_exec(annotated_ünicodely).receive(SECONDS) == "ж"


def test_the_error_about_globals_says_what_to_do_with_each(pair: execnet.Gateway) -> None:
    with pytest.raises(ValueError) as error:
        pair.remote_exec(uses_many_globals)
    names = ["mathematics", "multiply", "SECONDS", "Path", "nowhere", "signal"]
    assert sorted(error.value.args[1]) == sorted(names)
    assert error.value.args[0] == "the use of non-builtin globals isn't supported"
    shown = str(error.value)
    start = "the use of non-builtin globals isn't supported (uses_many_globals() is sent without them): "
    assert shown.startswith(start)
    assert set(shown[len(start) :].split("; ")) == {
        "import math as mathematics inside the function",
        "define multiply inside the function",
        "pass SECONDS as an argument",
        "from pathlib import Path inside the function",
        "nowhere is not defined",
        "import signal inside the function",
    }
    copied = pickle.loads(pickle.dumps(error.value))
    assert (copied.args, str(copied)) == (error.value.args, str(error.value))


def test_a_call_with_wrong_arguments_is_the_remote_sides_error(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec(fail_here, surplus=1)
    with pytest.raises(channel.RemoteError, match=r"TypeError: .*unexpected keyword argument 'surplus'"):
        channel.waitclose(SECONDS)


def test_a_module_is_sent_as_its_file_is_now(
    pair: execnet.Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "sent_module.py"
    path.write_text("channel_is_here = 'channel' in globals()\nif channel_is_here:\n    channel.send(1)\n")
    module = importlib.import_module("sent_module")
    try:
        assert not module.channel_is_here
        assert pair.remote_exec(module).receive(SECONDS) == 1
        path.write_text("if __name__ == '__channelexec__':\n    channel.send((2, __name__))\n    1/0\n")
        channel = pair.remote_exec(module)
        assert channel.receive(SECONDS) == (2, "__channelexec__")
        with pytest.raises(channel.RemoteError) as error:
            channel.receive(SECONDS)
        assert f'File "{path}", line 3' in str(error.value)
    finally:
        del sys.modules["sent_module"]


# what is told of failures


def test_a_traceback_names_the_real_file_line_and_function(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec(fail_here)
    with pytest.raises(channel.RemoteError) as error:
        channel.waitclose(SECONDS)
    line = line_of('    os.stat("/no/such/file")  # the line that the traceback names')
    text = str(error.value)
    assert f'{SOURCE.name}", line {line}, in fail_here' in text
    assert text.strip().splitlines()[-1].startswith("FileNotFoundError: ")


def test_a_strings_traceback_names_remote_exec(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec("\n\ndef function():\n    1/0\nfunction()")
    with pytest.raises(channel.RemoteError) as error:
        channel.waitclose(SECONDS)
    assert 'File "<remote exec>", line 5, in <module>' in str(error.value)
    assert 'File "<remote exec>", line 4, in function' in str(error.value)


def test_a_syntax_error_mentions_gateway_base(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec("a = \n")
    with pytest.raises(channel.RemoteError) as error:
        channel.waitclose(SECONDS)
    assert "gateway_base" in str(error.value)
    assert str(error.value).strip().splitlines()[-1].startswith("SyntaxError")


def test_system_exit_is_an_exception_and_the_worker_goes_on(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec("raise SystemExit(3)")
    with pytest.raises(channel.RemoteError, match="SystemExit: 3"):
        channel.waitclose(SECONDS)
    assert pair.remote_exec("channel.send(1)").receive(SECONDS) == 1


def test_a_task_that_got_its_last_item_has_ended(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec("inner = channel.receive()\ninner.receive()")
    inner = pair.newchannel()
    channel.send(inner)
    inner.close()
    channel.waitclose(SECONDS)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("raise EOFError('of its own')", "EOFError: of its own"),
        ("import io, pickle; pickle.load(io.BytesIO())", "EOFError: Ran out of input"),
        ("import execnet; execnet.loads(b'')", "EOFError: "),
        ("input()", "EOFError: EOF when reading a line"),
    ],
)
def test_an_eoferror_of_a_task_itself_is_told(pair: execnet.Gateway, source: str, text: str) -> None:
    channel = pair.remote_exec(source)
    with pytest.raises(channel.RemoteError, match=text):
        channel.waitclose(SECONDS)


def test_the_end_of_a_gateway_that_a_task_made_is_told(pair: execnet.Gateway) -> None:
    source = """
        import execnet
        with execnet.Group(["popen"]) as group:
            group[0].remote_exec("pass").receive(20)
    """
    channel = pair.remote_exec(source)
    with pytest.raises(channel.RemoteError, match=r"EOFError: .*the other side sends nothing more"):
        channel.waitclose(SECONDS)


def test_an_error_that_says_a_channel_ended_names_its_gateway(pair: execnet.Gateway) -> None:
    with pytest.raises(EOFError) as error:
        pair.remote_exec("").receive(SECONDS)
    assert error.value.gateway_id == pair.id  # type: ignore[attr-defined]


def test_an_interrupted_task_is_told_as_such(capfd: pytest.CaptureFixture[str], pair_group: execnet.Group) -> None:
    pair = pair_group.makegateway("popen")
    channel = pair.remote_exec("channel.send(1)\nimport time\nwhile True: time.sleep(0.01)")
    channel.receive(SECONDS)
    os.kill(pair._io.popen.pid, signal.SIGINT)
    with pytest.raises(channel.RemoteError) as error:
        channel.waitclose(SECONDS)
    assert str(error.value) == "keyboard-interrupted"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("wait", ["channel.receive()", "channel.waitclose()", "channel.receive(60)"])
def test_an_interrupt_reaches_a_task_that_waits(pair: execnet.Gateway, wait: str) -> None:
    channel = pair.remote_exec(f"channel.send(1)\n{wait}")
    channel.receive(SECONDS)
    pid = pair._io.popen.pid
    wait_until(lambda: Path(f"/proc/{pid}/wchan").exists(), SECONDS, "the worker")
    os.kill(pid, signal.SIGINT)
    with pytest.raises(channel.RemoteError, match="keyboard-interrupted"):
        channel.waitclose(SECONDS)


# where tasks run


def test_the_first_task_runs_in_the_main_thread_and_others_beside_it(pair: execnet.Gateway) -> None:
    source = """
        import threading
        channel.send(threading.current_thread() is threading.main_thread())
        channel.receive()
    """
    channels = [pair.remote_exec(source) for _ in range(3)]
    assert [channel.receive(SECONDS) for channel in channels] == [True, False, False]
    for channel in channels:
        channel.send(1)
        channel.waitclose(SECONDS)
    wait_until(lambda: pair.remote_status().numexecuting == 0, SECONDS, "idle")
    again = pair.remote_exec(source)
    assert again.receive(SECONDS) is True
    again.send(1)
    again.waitclose(SECONDS)


def test_main_thread_only_runs_all_in_the_main_thread(pair_group: execnet.Group, local: ModuleType) -> None:
    gateway = pair_group.makegateway("popen//execmodel=main_thread_only")
    source = "import threading; channel.send(threading.current_thread() is threading.main_thread())"
    for _ in range(3):
        channel = gateway.remote_exec(source)
        assert channel.receive(SECONDS) is True
        channel.waitclose(SECONDS)
    assert gateway.remote_status().execmodel == "main_thread_only"


def test_main_thread_only_refuses_a_task_beside_another(pair_group: execnet.Group, local: ModuleType) -> None:
    gateway = pair_group.makegateway("popen//execmodel=main_thread_only")
    channel = gateway.remote_exec("channel.send(1)\nchannel.send(channel.receive())")
    channel.receive(SECONDS)
    second = gateway.remote_exec("channel.send(2)")
    with pytest.raises(second.RemoteError) as error:
        second.receive(SECONDS)
    assert str(error.value) == local.gateway_base.MAIN_THREAD_ONLY_DEADLOCK_TEXT
    channel.send("still here")
    assert channel.receive(SECONDS) == "still here"
    channel.waitclose(SECONDS)
    third = gateway.remote_exec("channel.send(3)")
    assert third.receive(SECONDS) == 3


def test_descriptors_0_and_1_of_a_worker_are_dev_null(
    capfd: pytest.CaptureFixture[str], pair_group: execnet.Group
) -> None:
    gateway = pair_group.makegateway("popen")  # here: between its phases, pytest changes what descriptor 2 is
    source = """
        import os, subprocess, sys
        os.write(1, b"lost" * 10000)
        print("lost")
        sys.stdout.flush()
        os.write(2, b"inherited stderr")
        subprocess.call([sys.executable, "-c", "print('lost too')"])
        channel.send((os.read(0, 1), sys.stdin.read(1)))
    """
    channel = gateway.remote_exec(source)
    assert channel.receive(SECONDS) == (b"", "")
    channel.waitclose(SECONDS)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "inherited stderr")


def test_a_task_may_start_gateways_of_its_own(pair: execnet.Gateway) -> None:
    source = """
        import execnet
        group = execnet.Group()
        inner = group.makegateway("popen")
        task = inner.remote_exec("channel.send(channel.receive() + 1)")
        task.send(41)
        channel.send(task.receive(20))
        group.terminate(5)
    """
    channel = pair.remote_exec(source)
    assert channel.receive(SECONDS) == 42
    channel.waitclose(SECONDS)


# ends


def test_exit_ends_the_worker_and_may_be_called_again(pair: execnet.Gateway, pair_group: execnet.Group) -> None:
    channel = pair.remote_exec("channel.receive()")
    waiting = Call(channel.receive)
    pair.exit()
    assert pair not in pair_group
    pair.exit()
    with pytest.raises(EOFError):
        waiting.result()
    pair.join(SECONDS)
    assert pair._io.wait() == 0
    pair.exit()
    for call in (lambda: pair.remote_exec("1"), pair.newchannel, pair.remote_status, pair.reconfigure):
        with pytest.raises(OSError):
            call()


def test_join_waits_for_the_receiver_for_a_time(pair: execnet.Gateway) -> None:
    pair.join(timeout=0.01)
    assert pair.hasreceiver()
    Call(pair.exit)
    pair.join(timeout=SECONDS)
    assert not pair.hasreceiver()


def test_exit_never_raises_for_a_dead_peer(pair: execnet.Gateway) -> None:
    os.kill(pair._io.popen.pid, signal.SIGKILL)
    pair.exit()
    pair.join(SECONDS)
    pair.exit()


def test_a_gateway_that_nobody_holds_goes_with_its_channels(pair: execnet.Gateway, pair_group: execnet.Group) -> None:
    gateway = pair_group.makegateway("popen")
    channel = gateway.remote_exec("channel.receive()")
    refs: list[weakref.ref[Any]] = [weakref.ref(gateway), weakref.ref(channel)]
    gateway.exit(wait=SECONDS)
    del gateway, channel
    gc.collect()
    wait_until(lambda: gc.collect() is not None and [ref() for ref in refs] == [None, None], SECONDS, "their end")


def test_a_worker_that_ends_tells_its_channels_in_order(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec("for number in range(1000): channel.send(number)\nimport os; os._exit(0)")
    received = []
    with pytest.raises(EOFError):
        while True:
            received.append(channel.receive(SECONDS))
    assert received == list(range(1000))


# the source of functions


def test_the_source_of_a_function_keeps_its_lines() -> None:
    source_of: Callable[[Any], str] = _source_of_function
    source = source_of(fail_here)
    assert source.splitlines().index("def fail_here(channel):") + 1 == line_of("def fail_here(channel):")
    assert source.lstrip("\n").startswith("def fail_here(")

    def nested(channel):
        channel.send(1)

    assert source_of(nested).lstrip("\n").startswith("def nested(channel):")


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f(channel): channel.send(len([int]))", []),
        ("def f(channel): os.getpid()", ["os"]),
        ("def f(channel):\n    import os\n    os.getpid()", []),
        ("def f(channel):\n    from os import path as p\n    p.join(sep)", ["sep"]),
        ("def f(channel, a=1, *b, c=2, **d): a, b, c, d, e", ["e"]),
        ("def f(channel):\n    x = [y for y in z]\n    def g(w): return w + x\n    g(1)", ["z"]),
        ("def f(channel):\n    with open('x') as file: file\n    for i in (): i", []),
        ("def f(channel: 'Undefined') -> 'Other': pass", []),
        ("def f(channel: Some, *a: List[b], **k: Other) -> Other: pass", []),
        ("def f(channel):\n    def g(x: Some = value): pass", ["value"]),
        ("def f(channel):\n    x: Some = 1\n    def g(y: Some): return y\n    g(x)", []),
        ("def f(channel):\n    class Point:\n        x: Some", ["Some"]),
    ],
)
def test_names_that_a_function_does_not_define_are_found(source: str, names: list[str]) -> None:
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    function = namespace["f"]
    assert isinstance(function, types.FunctionType)
    assert _find_non_builtin_globals(source, function.__code__) == names


# several threads


def test_tasks_from_many_threads(pair: execnet.Gateway) -> None:
    def run(number: int) -> list[int]:
        return [pair.remote_exec(f"channel.send({number} + {other})").receive(SECONDS) for other in range(10)]

    threads = [Call(run, number) for number in range(8)]
    assert [thread.result() for thread in threads] == [[n + other for other in range(10)] for n in range(8)]
