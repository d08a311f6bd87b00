"""A captured standard error: whatever holds it open, gateways end without an error; no descriptor is closed twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.initiator import is_running

import execnet
from execnet._output.carrier import Carrier, Pipe
from execnet._output.sinks import Kept

SECONDS = 20.0
# What a worker leaves behind: a process that has its standard error.
LEAVES_CHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], stdin=-3, stdout=-3)
channel.send(child.pid)
"""


def in_threads(function: Callable[[], object], count: int) -> list[Exception]:
    """Run the function so many times at once; what it raised. AssertionError if it does not return."""
    failures: list[Exception] = []
    meet = threading.Barrier(count)

    def run() -> None:
        meet.wait(SECONDS)
        try:
            function()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    return failures


class TestChildHoldsIt:
    @pytest.fixture(params=["popen", "popen//warm"])
    def held(self, group: execnet.Group, request: pytest.FixtureRequest) -> Iterator[list[execnet.Gateway]]:
        """Two members with such a child each, and one that other members go through."""
        children = []
        for _ in range(2):
            gateway = group.makegateway(f"{request.param}//stderr=capture")
            children.append(gateway.remote_exec(LEAVES_CHILD).receive(SECONDS))
        group.makegateway("popen//id=first")
        group.makegateway("popen//via=first")
        yield list(group)
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    @pytest.mark.parametrize(("threads", "timeout"), [(1, 0.01), (1, SECONDS), (2, SECONDS), (4, 0.05)])
    def test_terminate_ends_all(
        self, group: execnet.Group, held: list[execnet.Gateway], threads: int, timeout: float
    ) -> None:
        popens = [gateway._io.popen for gateway in held if hasattr(gateway._io, "popen")]
        assert in_threads(lambda: group.terminate(timeout), threads) == []
        assert len(group) == 0
        for popen in popens:
            assert popen.wait(SECONDS) is not None and not is_running(popen.pid)

    @pytest.mark.parametrize(("threads", "wait"), [(1, 0.01), (2, SECONDS)])
    def test_exit_ends_it(self, held: list[execnet.Gateway], threads: int, wait: float) -> None:
        assert in_threads(lambda: held[0].exit(wait=wait), threads) == []
        assert held[0]._io.popen.wait(SECONDS) is not None

    def test_its_last_words_are_told_soon(self, held: list[execnet.Gateway]) -> None:
        channel = held[1].remote_exec("import os; os.write(2, b'the end'); os._exit(3)")
        began = time.monotonic()
        with pytest.raises(execnet.GatewayDied, match="the end"):
            channel.receive(SECONDS)
        assert time.monotonic() - began < 1.0


@pytest.mark.parametrize("spec", ["popen//stderr=capture", "popen//warm//stderr=capture"])
@pytest.mark.parametrize("closed", ["2>&-", "1>&- 2>&-", "0>&- 1>&- 2>&-"])
def test_where_standard_error_is_closed_nothing_is_written_to_a_file_that_has_its_number(
    tmp_path: Path, closed: str, spec: str
) -> None:
    source = f"""
import os
import execnet
group = execnet.Group(["{spec}"] * 3)
taken = [os.open({str(tmp_path / "file")!r}, os.O_RDWR | os.O_CREAT) for _ in range(3)]
for gateway in group:
    gateway.remote_exec("import os; os.write(2, b'said here')").waitclose({SECONDS})
for gateway in group:
    gateway.remote_exec("import os; os.write(2, b'last words'); os._exit(3)")
for gateway in group:
    gateway.join({SECONDS})
told = [gateway._io.outputs.last_words(1.0) for gateway in group]
group.terminate(5)
open({str(tmp_path / "told")!r}, "w").write(repr(told))
"""
    command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, source]
    subprocess.run(command, timeout=3 * SECONDS, check=False)
    assert (tmp_path / "told").read_text() == repr(["said herelast words"] * 3)
    assert (tmp_path / "file").read_bytes() == b""


class TestCarrier:
    @pytest.fixture
    def carrier(self) -> Iterator[Carrier]:
        carrier = Carrier()
        yield carrier
        carrier.join()

    @pytest.fixture
    def pipe(self, carrier: Carrier) -> Iterator[Pipe]:
        """The pipe of a process, which has written nothing."""
        read, self.write_end = os.pipe()
        pipe = Pipe(carrier, Kept(None), read)
        yield pipe
        os.close(self.write_end)
        assert pipe.ended.wait(SECONDS)

    def test_finished_by_many_threads_it_closes_its_own_descriptors_only(self, pipe: Pipe) -> None:
        opened: list[int] = []

        def finish() -> None:
            pipe.finish()
            assert pipe.ended.wait(SECONDS)
            opened.append(os.open(os.devnull, os.O_RDONLY))  # a number that was just let go of
            pipe.finish()

        assert in_threads(finish, 8) == []
        for descriptor in opened:
            os.close(descriptor)

    def test_what_came_before_is_there_once_it_has_settled(self, pipe: Pipe) -> None:
        for number in range(200):
            os.write(self.write_end, b"x" * 100)
            assert pipe.settle().wait(SECONDS)
            assert pipe.carried == 100 * (number + 1)

    def test_orders_of_many_threads_are_all_done_while_its_thread_comes_and_goes(self, carrier: Carrier) -> None:
        done: list[int] = []

        def order() -> None:
            for number in range(200):
                carrier.order(done.append, number)
                time.sleep(0.0001 * (number % 3))

        assert in_threads(order, 8) == []
        deadline = time.monotonic() + SECONDS
        while len(done) < 1600 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sorted(done) == sorted(list(range(200)) * 8)

    def test_a_thread_that_cannot_be_started_leaves_nothing_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(*args: object) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr("_thread.start_new_thread", refused)
        descriptors = os.listdir("/proc/self/fd")
        with pytest.raises(RuntimeError):
            Carrier().order(refused)
        assert len(os.listdir("/proc/self/fd")) == len(descriptors)
