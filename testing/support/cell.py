"""One cell of the matrix: what a gateway is for, over one spec, from the interpreter that runs this.

    python testing/support/cell.py ID SPEC [SPEC ...]

The gateway called ID is used; further specs are what it goes through. Prints a line as each part begins, so that the
last one says what failed, then "all".
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# Run as a program, it finds what is beside its folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import execnet
from support import leaks
from support.initiator import wait_for_end

SECONDS = 60.0
GONE_SECONDS = 10.0
VALUES = [
    None,
    True,
    0,
    -(2**31),
    2**31,
    -(2**200),
    1.5,
    float("-inf"),
    2 - 3j,
    "",
    "\u20ac \U0001f40d",
    [1, [2, (3, [])]],
    {"key": [1], 2: (3,), (4, 5): None},
    {1, 2, 3},
    frozenset(["a"]),
    list(range(1000)),
    "long " * 100_000,
]
BYTES = [b"", b"a\xff\0\n", bytes(range(256)) * 2000]
ECHO = "for item in channel: channel.send(item)"


def values(gateway: execnet.Gateway) -> None:
    channel = gateway.remote_exec(ECHO)
    # A string of Python 2 that is no unicode is read as text unless something else is asked for.
    of_bytes = bytes if gateway._rinfo().version_info[0] > 2 else lambda item: item.decode("latin-1")
    for value, expected in [*((value, value) for value in VALUES), *((item, of_bytes(item)) for item in BYTES)]:
        channel.send(value)
        answer = channel.receive(SECONDS)
        assert (type(answer), answer) == (type(expected), expected), (value, answer)
    for number in range(500):
        channel.send(number)
    assert [channel.receive(SECONDS) for _ in range(500)] == list(range(500))
    channel.close()


TELL_ERROR = """
answer = channel.receive()
try:
    channel.receive()
except channel.RemoteError as error:
    answer.send(str(error))
"""


def fail(channel):
    raise ValueError("from there")


def errors(gateway: execnet.Gateway) -> None:
    channel = gateway.remote_exec(fail)
    text = raised(execnet.RemoteError, lambda: channel.receive(SECONDS))
    assert text.strip().endswith("ValueError: from there") and f'{os.path.basename(__file__)}", line' in text, text
    raised(EOFError, lambda: channel.receive(SECONDS))
    text = raised(execnet.RemoteError, lambda: gateway.remote_exec("this is no Python").waitclose(SECONDS))
    assert "SyntaxError" in text, text
    text = raised(execnet.RemoteError, lambda: gateway.remote_exec("channel.send(object())").waitclose(SECONDS))
    assert "DumpError" in text, text
    inner = gateway.newchannel()
    gateway.remote_exec("channel.receive().close(u'said there')").send(inner)
    assert raised(execnet.RemoteError, lambda: inner.receive(SECONDS)) == "said there"
    told, answer = gateway.remote_exec(TELL_ERROR), gateway.newchannel()
    raised(execnet.TimeoutError, lambda: told.receive(0.01))
    told.send(answer)
    told.close("said here")
    assert answer.receive(SECONDS) == "said here"


def raised(kind: type[Exception], call: Callable[[], object]) -> str:
    """The text of the exception that the call raises."""
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__} was raised")


def callbacks(gateway: execnet.Gateway) -> None:
    arrived: queue.Queue[object] = queue.Queue()
    channel = gateway.remote_exec("for number in range(50): channel.send(number)")
    channel.setcallback(arrived.put, endmarker="end")
    assert [arrived.get(timeout=SECONDS) for _ in range(51)] == [*range(50), "end"]
    channel = gateway.remote_exec("""
        inner = channel.receive()
        inner.setcallback(lambda item: inner.send(item * 2))
        channel.send(None)
        channel.receive()
        """)
    inner = gateway.newchannel()
    channel.send(inner)
    channel.receive(SECONDS)
    for number in range(5):
        inner.send(number)
    assert [inner.receive(SECONDS) for _ in range(5)] == [0, 2, 4, 6, 8]
    channel.send(None)
    channel.waitclose(SECONDS)


def status(gateway: execnet.Gateway) -> None:
    await_idle(gateway)
    tasks = [gateway.remote_exec("channel.send(None); channel.receive()") for _ in range(3)]
    for task in tasks:
        task.receive(SECONDS)
    told = gateway.remote_status()
    assert (told.execmodel, told.numexecuting) == ("thread", 3), told
    for task in tasks:
        task.send(None)
        task.waitclose(SECONDS)
    await_idle(gateway)
    info = gateway._rinfo()
    assert info.pid and info.version_info >= (2, 7), info


def await_idle(gateway: execnet.Gateway) -> None:
    """Wait until no task goes on: the ends of some have not been waited for."""
    deadline = time.monotonic() + SECONDS
    while gateway.remote_status().numexecuting:
        assert time.monotonic() < deadline, gateway.remote_status()


def rsync(gateway: execnet.Gateway) -> None:
    is_java = "java" in gateway._rinfo().platform  # which names files as the locale says, and ssh brings none
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source"), Path(folder, "target")
        (source / "deep" / "er").mkdir(parents=True)
        (source / "deep" / "er" / ("bear.txt" if is_java else "b\u00e4r.txt")).write_bytes(b"contents\n" * 10_000)
        (source / "program").write_bytes(b"#!/bin/sh\n")
        (source / "program").chmod(0o755)
        (source / "link").symlink_to("program")
        synchronize(gateway, source, target)
        assert tree(target) == tree(source)
        (source / "program").unlink()
        (source / "link").unlink()
        (source / "deep" / "new").write_bytes(b"new")
        synchronize(gateway, source, target)
        assert tree(target) == tree(source)


def synchronize(gateway: execnet.Gateway, source: Path, target: Path) -> None:
    sync = execnet.RSync(source, verbose=False)
    sync.add_target(gateway, target, delete=True)
    sync.send()


def tree(folder: Path) -> dict[str, tuple[object, ...]]:
    """What is in there: links, or the contents, mode and time of files."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = (os.readlink(path),)
        elif path.is_file():
            found[name] = (path.read_bytes(), path.stat().st_mode & 0o777, int(path.stat().st_mtime))
        else:
            found[name] = ()
    return found


@contextlib.contextmanager
def nothing_left() -> Iterator[list[int]]:
    """Fail where processes, threads or descriptors stay, or a process of those that are put into the list."""
    leaks.mark_session()
    before = leaks.Snapshot.take()
    pids: list[int] = []
    yield pids
    print("termination: what is left", flush=True)
    # A far side that is out of reach notices by itself that its connection is lost, within seconds.
    left = [*leaks.wait_for_none(before, GONE_SECONDS), *wait_for_end(pids, GONE_SECONDS)]
    assert not left, left


PARTS = [values, errors, callbacks, status, rsync]


def main(name: str, *specs: str) -> None:
    """Raise, or print that all of it holds."""
    print("start", flush=True)
    with nothing_left() as pids:
        group = execnet.Group()
        for spec in specs:
            group.makegateway(spec)
        gateway = group[name]
        if not gateway.spec.socket:  # there, it is the server's own affair how long its processes live
            pids.append(gateway._rinfo().pid)
        for part in PARTS:
            print(part.__name__, flush=True)
            part(gateway)
        print("termination", flush=True)
        waits, busy = (gateway.remote_exec(source) for source in ("channel.receive()", "while True: pass"))
        assert not waits.isclosed() and not busy.isclosed()
        group.terminate(1)
        gateway.join(GONE_SECONDS)  # of what has no process here, terminate may be done a moment before the receiver
        assert len(group) == 0 and not gateway.hasreceiver()
    print("all")


if __name__ == "__main__":
    main(*sys.argv[1:])
