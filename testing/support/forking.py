"""Run with a number of seconds: a process forks again and again while its threads start, use and end gateways.

Each child ends one way or another, and none takes longer than the patience: without a GIL, what another thread had
locked when it forked stays so in the child.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import threading
import time
import warnings

import execnet

THREADS = 4
PATIENCE = 30.0
ENDS = ["at once", "the group", "a gateway of its own"]


def use_two(group: execnet.Group) -> None:
    """Start two gateways, use and end them."""
    gateways = [group.makegateway("popen") for _ in range(2)]
    for gateway in gateways:
        assert gateway.remote_exec("channel.send(1)").receive(PATIENCE) == 1
    for gateway in gateways:
        gateway.exit(wait=PATIENCE)


def crowd(group: execnet.Group, over: threading.Event) -> None:
    """One of the threads."""
    while not over.is_set():
        use_two(group)


def talk(gateway: execnet.Gateway, over: threading.Event) -> None:
    """One of the threads: opens and drops channels, and collects garbage."""
    while not over.is_set():
        channels = [gateway.newchannel() for _ in range(100)]
        assert gateway.remote_exec("channel.send(1)").receive(PATIENCE) == 1
        del channels
        gc.collect()


def be_child(end: str, group: execnet.Group) -> None:
    """The rest of a forked child's life."""
    status = 1
    try:
        if end == "the group":
            group.terminate(PATIENCE)
        elif end == "a gateway of its own":
            assert execnet.makegateway("popen").remote_exec("channel.send(1)").receive(PATIENCE) == 1
            execnet.default_group.terminate(PATIENCE)
        status = 0
    finally:
        os._exit(status)


def await_end(pid: int, end: str) -> None:
    """Wait for a child; one that takes too long tells where it is."""
    deadline = time.monotonic() + 2 * PATIENCE
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            assert status == 0, f"a child that ends {end}: {status}"
            return
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGUSR1)
            time.sleep(1)
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def main(seconds: float) -> None:
    """Prints the class of the gateways' connection and whether there is a GIL."""
    faulthandler.register(signal.SIGUSR1)
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    over, deadline = threading.Event(), time.monotonic() + seconds
    with execnet.Group() as group:
        gateway = group.makegateway("popen")
        kind = type(gateway._connection).__name__
        use_two(group)  # a child waits for ever for what another thread was importing, with a GIL as well
        threads = [threading.Thread(target=crowd, args=(group, over)) for _ in range(THREADS)]
        threads += [threading.Thread(target=talk, args=(gateway, over)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            while time.monotonic() < deadline:
                for end in ENDS:
                    pid = os.fork()
                    if pid == 0:
                        be_child(end, group)
                    await_end(pid, end)
        finally:
            over.set()
            for thread in threads:
                thread.join()
    print(kind, getattr(sys, "_is_gil_enabled", lambda: True)())


if __name__ == "__main__":
    main(float(sys.argv[1]))
