"""Uses execnet in several interpreters of one process at once; prints which core it was where all of it holds.

    python testing/support/subinterpreters.py COUNT ROUNDS

COUNT interpreters, each with a GIL of its own and in a thread of its own, ROUNDS times. Afterwards the process must
have this thread and the descriptors that it had; by how many KiB each interpreter has made it larger is printed, too.
"""

from __future__ import annotations

import os
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

try:
    interpreters: Any = import_module("_interpreters")
except ImportError:
    interpreters = import_module("_xxsubinterpreters")

# Run as a program, it finds what is beside its folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support.processes import wait_until

TESTING = sys.path[0]
SECONDS = 60.0
# Each interpreter runs this: `place` is its number, `told` a descriptor.
USE = """
import os, select, signal, sys
import execnet, execnet.gateway_base
sys.path.insert(0, TESTING)
from support.processes import stop, wait_until
value = [None, 2**70, -1.5, "text", b"bytes", (1, {"key": {2, 3}}), "long" * 50000]
for number in range(20):
    assert execnet.loads(execnet.dumps([number, value])) == [number, value]
group = execnet.Group()
gateways = group.makegateways(["popen", "popen"])
gateways[0].remote_exec("channel.receive()")
echo = "for item in channel: channel.send(item)"
channels = [gateway.remote_exec(echo) for gateway in gateways]
arrived = []
done = gateways[0].execmodel.Event()
channels[0].setcallback(lambda item: arrived.append(item) or (len(arrived) == 50 and done.set()))
for number in range(50):
    channels[0].send(number)
    channels[1].send([number, value])
    assert channels[1].receive(SECONDS) == [number, value]
assert done.wait(SECONDS) and arrived == list(range(50))
try:
    gateways[1].remote_exec("1 / 0").waitclose(SECONDS)
except execnet.RemoteError as error:
    assert "ZeroDivisionError" in str(error)
else:
    raise AssertionError("no error arrived")
# What a finalizer leaves where the pipe is full is for a thread that C code starts.
left_open = gateways[1].remote_exec(echo)
stop(gateways[1].pid)
room = select.poll()
room.register(gateways[1]._io.outfile, select.POLLOUT)
while room.poll(0):
    channels[1].send("x" * 500)
del left_open
core = execnet.gateway_base._posix_core
assert core is None or core.helpers() == 1, core.helpers()
if place % 4 < 2:
    os.kill(gateways[1].pid, signal.SIGCONT)
    wait_until(lambda: core is None or not core.helpers(), SECONDS, "the end of the helper")
if place % 2:
    group.terminate(1)
os.write(told, execnet.gateway_base.core[:1].encode())
"""


def run_in(interpreter: Any, source: str) -> None:
    failure = interpreters.run_string(interpreter, source)  # 3.12 raises
    if failure is not None:
        raise AssertionError(failure.errdisplay)


class Room:
    """An interpreter, and the thread that it runs in until it is destroyed."""

    def __init__(self, place: int, told: int, barrier: threading.Barrier) -> None:
        self.source = f"SECONDS, TESTING, place, told = {SECONDS}, {TESTING!r}, {place}, {told}\n{USE}"
        self.barrier = barrier
        self.ended_well = False
        self.interpreter = interpreters.create()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        self.barrier.wait(SECONDS)
        run_in(self.interpreter, self.source)
        interpreters.destroy(self.interpreter)
        self.ended_well = True


def one_round(count: int) -> str:
    """Use that many interpreters at once; which core all of them had."""
    read, told = os.pipe()
    barrier = threading.Barrier(count)
    rooms = [Room(place, told, barrier) for place in range(count)]
    for room in rooms:
        room.thread.join(SECONDS)
    assert all(room.ended_well for room in rooms)
    os.close(told)
    with open(read, "rb") as file:
        cores = file.read()
    assert len(cores) == count and len(set(cores)) == 1, cores
    return {b"c": "c", b"p": "portable"}[cores[:1]]


def size_kib() -> int:
    """How much memory the process has for itself."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_"))


def main(count: str, rounds: str) -> None:
    """Raise, or print the core and by how many KiB an interpreter has made the process larger."""
    core = one_round(int(count))
    before, descriptors = size_kib(), sorted(os.listdir("/proc/self/fd"))
    for _ in range(int(rounds)):
        one_round(int(count))
    # Of a thread that was joined the system may have something for a moment.
    wait_until(lambda: len(os.listdir("/proc/self/task")) == 1, SECONDS, "the end of all threads but this")
    assert sorted(os.listdir("/proc/self/fd")) == descriptors
    print(core, (size_kib() - before) // max(1, int(count) * int(rounds)))


if __name__ == "__main__":
    main(*sys.argv[1:])
    if sys.version_info < (3, 13):
        # After that, CPython 3.12.1 frees what it does not own when it ends, be there C code of ours or not.
        sys.stdout.flush()
        os._exit(0)
