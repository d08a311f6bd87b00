"""Every Python found on this machine as the other side, and the shipped text alone on each of them."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from support import cell
from support.interpreters import Interpreter

import execnet
from execnet import gateway_base
from execnet._source import shipped

SECONDS = 30
PACKAGE = Path(gateway_base.__file__).parent
VALUES = [
    None,
    True,
    0,
    -(2**31),
    2**31 - 1,
    2**31,
    -(2**200),
    1.5,
    float("inf"),
    2 - 3j,
    "",
    "ascii",
    "\u20ac \U0001f40d",
    [],
    [1, [2, [3, []]]],
    (1, (2,), ()),
    {},
    {"key": [1], 2: (3,), (4, 5): None},
    {1, 2, 3},
    frozenset(["a"]),
    list(range(1000)),
]


@pytest.fixture
def other(other_python: Interpreter, makegateway: Callable[[str], execnet.Gateway]) -> execnet.Gateway:
    """A gateway to each interpreter."""
    return makegateway(f"popen//python={other_python}")


def test_it_is_the_interpreter_asked_for(other: execnet.Gateway, other_python: Interpreter) -> None:
    info = other._rinfo()
    assert tuple(info.version_info)[:2] == other_python.version
    source = "import platform; channel.send(platform.python_implementation().lower())"
    assert other.remote_exec(source).receive(SECONDS) == other_python.implementation


def test_values_come_back_as_they_went(other: execnet.Gateway) -> None:
    channel = other.remote_exec("for item in channel: channel.send(item)")
    for value in VALUES:
        channel.send(value)
        answer = channel.receive(SECONDS)
        assert (type(answer), answer) == (type(value), value)


DERIVED = """
import collections
def refuse(*args):
    raise AssertionError("asked")
names = ("__len__", "__iter__", "__getitem__", "__str__", "__int__", "__float__", "encode", "items")
methods = dict.fromkeys(names, refuse)
values = [u"text", 7, 2**70, 1.5, 2j, [1], (1, 2), {1: 2}, {3}, frozenset([4])]
for value in values:
    channel.send(type("Derived", (type(value),), methods)(value))
channel.send(collections.OrderedDict([(1, collections.namedtuple("Pair", "x y")(1, collections.defaultdict(list)))]))
channel.send(channel.receive())
"""


def test_objects_of_subclasses_come_and_go_as_their_bases(other: execnet.Gateway) -> None:
    channel = other.remote_exec(DERIVED)
    for value in ["text", 7, 2**70, 1.5, 2j, [1], (1, 2), {1: 2}, {3}, frozenset([4]), {1: (1, {})}]:
        answer = channel.receive(SECONDS)
        assert (type(answer), answer) == (type(value), value)
    channel.send(collections.OrderedDict(a=type("Text", (str,), {})("b")))
    answer = channel.receive(SECONDS)
    assert (type(answer), type(answer["a"]), answer) == (dict, str, {"a": "b"})


def test_bytes_stay_bytes_from_python_3_and_are_text_from_python_2(
    other: execnet.Gateway, other_python: Interpreter
) -> None:
    channel = other.remote_exec("channel.send(channel.receive())")
    channel.send(b"a\xff\0")
    expected = "a\xff\0" if other_python.version[0] == 2 else b"a\xff\0"
    assert channel.receive(SECONDS) == expected


def test_the_string_types_of_python_2_can_be_asked_for(other: execnet.Gateway, other_python: Interpreter) -> None:
    channel = other.remote_exec("channel.receive(); channel.send((b'bytes', 'native', u'text'))")
    channel.reconfigure(py2str_as_py3str=False)
    channel.send(None)
    native = b"native" if other_python.version[0] == 2 else "native"
    assert channel.receive(SECONDS) == (b"bytes", native, "text")


def test_text_arrives_as_unicode_or_native_string_as_configured(
    other: execnet.Gateway, other_python: Interpreter
) -> None:
    is_python_2 = other_python.version[0] == 2
    source = "channel.send(u'%s' % type(channel.receive()).__name__)"
    plain = other.remote_exec(source)
    plain.send("text")
    assert plain.receive(SECONDS) == ("unicode" if is_python_2 else "str")
    channel = other.remote_exec(source)
    channel.reconfigure(py3str_as_py2str=True)
    channel.send("text")
    # The answer of a Python 3 is read as a native string of Python 2 as well: bytes.
    assert channel.receive(SECONDS) == ("str" if is_python_2 else b"bytes")


def add(channel, first, second):
    channel.send(first + second)


def test_functions_run_there_with_arguments(other: execnet.Gateway) -> None:
    assert other.remote_exec(add, first=2, second=3).receive(SECONDS) == 5
    assert other.remote_exec(add, first="a", second="b").receive(SECONDS) == "ab"


def test_modules_run_there(other: execnet.Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sent_module.py"
    path.write_text("import sys\nif __name__ == '__channelexec__':\n    channel.send(sys.version_info[0])\n")
    module = ModuleType("sent_module")
    module.__file__ = str(path)
    monkeypatch.setitem(sys.modules, "sent_module", module)
    assert other.remote_exec(module).receive(SECONDS) in (2, 3)


def fail(channel):
    raise ValueError("from there")


def test_errors_name_file_and_line(other: execnet.Gateway) -> None:
    channel = other.remote_exec(fail)
    with pytest.raises(execnet.RemoteError) as caught:
        channel.waitclose(SECONDS)
    text = str(caught.value)
    assert text.strip().splitlines()[-1] == "ValueError: from there"
    line = fail.__code__.co_firstlineno + 1
    assert f'{os.path.basename(__file__)}", line {line}, in fail' in text


def test_channels_and_callbacks_work_there(other: execnet.Gateway) -> None:
    cell.callbacks(other)


def test_status_and_termination(other: execnet.Gateway, group: execnet.Group) -> None:
    assert other.remote_status().execmodel == "thread"
    group.terminate(5)
    assert other._io.popen.returncode is not None
    assert len(group) == 0


USE_OF_THE_TEXT = """
if __name__ == "__main__":
    import sys
    value = [None, True, 1, 2**40, 1.5, 1j, (2, u"text"), {3: set([4])}, frozenset([5])]
    assert loads_internal(dumps_internal(value)) == value
    execmodel = get_execmodel("thread")
    pool = WorkerPool(execmodel)
    assert pool.spawn(sum, [1, 2]).get(10) == 3
    pool.trigger_shutdown()
    assert pool.waitall(10)
    assert core == "portable", core
    print("works")
"""


@pytest.mark.parametrize("form", ["as written", "as sent"])
def test_the_shipped_text_with_lines_appended_runs_as_main(
    other_python: Interpreter, tmp_path: Path, form: str
) -> None:
    path = tmp_path / "text.py"
    text = Path(gateway_base.__file__).read_text("utf-8") if form == "as written" else shipped.shipped_text()
    path.write_text(text + USE_OF_THE_TEXT, "utf-8")
    assert run_elsewhere(other_python, [str(path)], tmp_path) == "works\n"


def run_elsewhere(python: str, arguments: list[str], cwd: Path) -> str:
    """What a program on `python` printed, with nothing of ours to import."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # The core in C belongs to the interpreter that runs the tests.
    environment["EXECNET_PURE"] = "1"
    done = subprocess.run(
        [python, *arguments],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().replace("\r\n", "\n")


def test_the_sent_text_is_small_enough_for_one_write_to_a_pipe() -> None:
    assert len(shipped.packed_text().encode()) < 65 * 1024 // 2
    assert shipped.shipped_text() is shipped.shipped_text()


BARE_IMPORT = """
import sys
sys.dont_write_bytecode = True
sys.path.insert(0, %r)
import gateway_base
assert gateway_base.loads_internal(gateway_base.dumps_internal([1, u"x"])) == [1, u"x"]
assert gateway_base.__name__ == "gateway_base" and "execnet" not in sys.modules
import os, socket, subprocess, threading, struct, traceback, tempfile, stat, select, signal, json
for module in list(sys.modules.values()):
    path = getattr(module, "__file__", None) or ""
    if path.startswith(%r):
        print(module.__name__)
"""


def test_it_imports_bare_with_the_package_folder_first_and_shadows_nothing(
    other_python: Interpreter, tmp_path: Path
) -> None:
    source = BARE_IMPORT % (str(PACKAGE), str(PACKAGE))
    assert run_elsewhere(other_python, ["-c", source], tmp_path) == "gateway_base\n"
