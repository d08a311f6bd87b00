"""The figures of ends, measured for this execnet and for execnet 2.1.2: python figures.py [--cycles N].

Each program below uses what both have, runs in a process of its own, and prints one JSON value a line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import oracle
from support.stuck import C_LOOPING, IDLE, LOOPING, SLEEPING, SWALLOWING

import execnet

CHECKOUT = Path(__file__).resolve().parents[2]
EACH = 20
ORPHAN_SECONDS = 3.5
SECONDS = 60
HANGS = "hangs"

WORK = [IDLE, SLEEPING, LOOPING, SWALLOWING, C_LOOPING]
PREAMBLE = f"""
import json, os, signal, sys, threading, time
import execnet
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may have it ignored
def say(item):
    os.write(1, (json.dumps(item) + "\\n").encode())
WORK = {WORK!r}
"""
ORPHANS = """
say([execnet.makegateway("popen").remote_exec(source).receive() for source in WORK])
time.sleep(1000)
"""
WAKE = """
gateway = execnet.makegateway("popen")
pid = gateway.remote_exec("import os; channel.send(os.getpid())").receive()
channels = [gateway.remote_exec("channel.receive()") for _ in range(40)]
woken, texts = [], []
def wait(channel, call):
    try:
        call(channel)
    except EOFError as error:
        texts.append(str(error))
    woken.append(time.monotonic())
calls = [lambda c: c.receive(), lambda c: c.receive(60), lambda c: c.waitclose(), lambda c: list(c)]
threads = [threading.Thread(target=wait, args=(c, calls[n % 4]), daemon=True) for n, c in enumerate(channels)]
for thread in threads:
    thread.start()
time.sleep(0.5)
killed = time.monotonic()
os.kill(pid, signal.SIGKILL)
for thread in threads:
    thread.join(20)
text = "%d" % pid in texts[0] and "SIGKILL" in texts[0]
say([len(woken), 1000 * (max(woken) - killed), text])
"""
INTERRUPT = """
def interrupted(call):
    at = []
    def interrupt():
        time.sleep(0.3)
        at.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)
    try:
        threading.Thread(target=interrupt).start()
        call()
    except KeyboardInterrupt:
        return 1000 * (time.monotonic() - at[0])
gateway = execnet.makegateway("popen")
pid = gateway.remote_exec("import os; channel.send(os.getpid())").receive()
took = []
channels = [gateway.remote_exec("channel.receive()") for _ in range(3)]
for call, channel in zip((lambda c: c.receive(), lambda c: c.receive(60), lambda c: c.waitclose()), channels):
    took.append(interrupted(lambda: call(channel)))
channel = gateway.remote_exec("channel.receive(); channel.receive()")
os.kill(pid, signal.SIGSTOP)
took.append(interrupted(lambda: channel.send(b"x" * (64 << 20))))
say(took)
os.kill(pid, signal.SIGKILL)
os._exit(0)
"""
TERMINATE = """
group = execnet.Group(["popen"] * 3)
pids = [gateway.remote_exec(source).receive() for gateway, source in zip(group, (WORK[1], WORK[3], WORK[4]))]
os.kill(pids[0], signal.SIGSTOP)
started = time.monotonic()
group.terminate(1.0)
say([time.monotonic() - started, sum(os.path.exists("/proc/%d" % pid) for pid in pids)])
for pid in pids:
    if os.path.exists("/proc/%d" % pid):
        os.kill(pid, signal.SIGKILL)
os._exit(0)
"""
CYCLES = """
def cycle():
    group = execnet.Group()
    assert group.makegateway("popen").remote_exec("channel.send(1)").receive() == 1
    group.terminate(5)
def state():
    time.sleep(0.2)
    children = open("/proc/self/task/%d/children" % os.getpid()).read().split()
    memory = int(open("/proc/self/statm").read().split()[1]) * 4
    return [len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), len(children), memory]
for _ in range(int(sys.argv[1]) // 4):
    cycle()
before = state()
for _ in range(int(sys.argv[1])):
    cycle()
say([now - then for now, then in zip(state(), before)])
os._exit(0)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Contender:
    """One of the two versions."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self._environment = {**os.environ, "PYTHONPATH": path}
        self._environment.pop("EXECNET_LOST_TIMES", None)

    def start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """The program, running."""
        return subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + program, *arguments],
            stdout=subprocess.PIPE,
            env=self._environment,
            cwd=tempfile.gettempdir(),  # "-c" looks for modules in the working directory first
        )

    def run(self, program: str, *arguments: str) -> list[float] | None:
        """What the program says, None if it hangs."""
        process = self.start(program, *arguments)
        try:
            output, _ = process.communicate(timeout=SECONDS + 0.5 * float(arguments[0] if arguments else 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate(timeout=SECONDS)
            return None
        said: list[float] = json.loads(output.splitlines()[0])
        return said

    def orphans(self) -> str:
        """Of five kinds of workers, how many live on after their initiator's SIGKILL."""
        alive, batch = [0] * len(WORK), 4
        for _ in range(EACH // batch):
            initiators = [self.start(ORPHANS) for _ in range(batch)]
            pids = [json.loads(initiator.stdout.readline()) for initiator in initiators if initiator.stdout]
            for initiator in initiators:
                initiator.kill()
                initiator.communicate(timeout=SECONDS)
            time.sleep(ORPHAN_SECONDS)
            for kinds in pids:
                for kind, pid in enumerate(kinds):
                    if is_running(pid):
                        alive[kind] += 1
                        os.kill(pid, signal.SIGKILL)
        return f"{sum(alive)} of {len(WORK) * EACH} ({', '.join(map(str, alive))})"

    def wake(self) -> str:
        """How long after the worker's death the last of 40 waiting threads wakes."""
        said = self.run(WAKE)
        if said is None:
            return HANGS
        woken, slowest, told = said
        return f"{slowest:.0f} ms, {woken} of 40, pid and signal {'told' if told else 'not told'}"

    def interrupt(self) -> str:
        """From SIGINT to KeyboardInterrupt."""
        said = self.run(INTERRUPT)
        return HANGS if said is None else ", ".join(f"{took:.0f}" for took in said) + " ms"

    def terminate(self) -> str:
        """terminate(1.0) of a stopped, a swallowing and a looping worker."""
        said = self.run(TERMINATE)
        return HANGS if said is None else f"{said[0]:.2f} s, {said[1]:.0f} left"

    def cycles(self, count: int) -> str:
        """What is left of opening and closing."""
        said = self.run(CYCLES, str(count))
        if said is None:
            return HANGS
        fds, threads, children, memory = said
        return f"{fds:.0f}, {threads:.0f}, {children:.0f}, {memory:+.0f} KiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=1000)
    cycles = parser.parse_args().cycles
    package = Path(execnet.__file__).resolve().parents[1]
    contenders = [Contender("execnet 2.1.2", str(oracle.folder())), Contender("this one", str(package))]
    figures = [
        ("orphans 3.5 s after SIGKILL of the initiator: idle, sleep, loop, swallow, C loop", Contender.orphans),
        ("worker SIGKILLed: slowest waiter wakes after", Contender.wake),
        ("SIGINT in receive / receive(timeout) / waitclose / send of 64 MiB", Contender.interrupt),
        ("terminate(1.0): stopped, swallowing, C-looping worker", Contender.terminate),
        (f"{cycles} open/close cycles leave descriptors, threads, children, memory", lambda c: c.cycles(cycles)),
    ]
    print("fault", *(contender.name for contender in contenders), sep=" | ")
    for fault, measure in figures:
        print(fault, *(measure(contender) for contender in contenders), sep=" | ", flush=True)


if __name__ == "__main__":
    main()
