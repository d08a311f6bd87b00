"""Programs that may hang: each runs in a process group of its own, and is killed with it when its time is over."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

TESTING = Path(__file__).resolve().parents[1]
# Time for the threads to be shown, before the program is killed from outside.
AFTERWARDS = 5.0

# What every program has at hand; say() tells the test something, fail() ends the program with all its threads shown.
PREAMBLE = """\
import faulthandler, gc, json, os, random, signal, sys, threading, time
sys.path.append({testing!r})
faulthandler.dump_traceback_later({seconds!r}, exit=True)
import execnet
from support.blocked import Call, await_blocked
from support.processes import stop

ROUNDS = {rounds!r}
PATIENCE = 4.0


def say(item):
    os.write(1, (json.dumps(item) + "\\n").encode())


def fail(text):
    sys.stderr.write(text + "\\n")
    faulthandler.dump_traceback(all_threads=True)
    os._exit(1)


def kind(function, *args, **kwargs):
    "What a call gives, or the name of what it raises."
    try:
        return function(*args, **kwargs)
    except EOFError:
        return "EOFError"  # a subclass that says more is as good
    except execnet.RemoteError:
        return "RemoteError"
    except execnet.TimeoutError:
        return "TimeoutError"
    except OSError:
        return "OSError"


def ended(calls, text, patience=PATIENCE):
    "Wait for calls in threads; fail where one of them does not end."
    deadline = time.monotonic() + patience
    for call in calls:
        call.thread.join(max(deadline - time.monotonic(), 0))
        if call.thread.is_alive():
            fail(text)


def signalled(function, handler, meanwhile=lambda: None, afterwards=lambda: None):
    "function() in the main thread; when it waits, a signal runs handler in the middle of it. What both gave."
    # Another thread calls meanwhile() as the handler begins, and afterwards() when it has ended.
    begun, ended, given = threading.Event(), threading.Event(), []

    def run(number, frame):
        begun.set()
        try:
            given.append(handler())
        finally:
            ended.set()

    def interrupt():
        await_blocked(main)
        os.kill(os.getpid(), signal.SIGUSR1)
        begun.wait()
        meanwhile()
        ended.wait()
        afterwards()

    main = threading.get_native_id()
    signal.signal(signal.SIGUSR1, run)
    interrupter = Call(interrupt)
    result = function()
    interrupter.result()
    return [result, given[0] if given else "no return of the handler"]


"""


class Done(NamedTuple):
    """How a program ended: exit status (None where it had to be killed), what it said, its standard error."""

    status: int | None
    said: list[Any]
    errors: str

    def check(self) -> list[Any]:
        """What the program said, where it ended well."""
        assert self.status == 0, f"exit status {self.status}, after {self.said}\n{self.errors}"
        return self.said


def run(
    source: str,
    environ: dict[str, str] | None = None,
    seconds: float = 20.0,
    rounds: int = 1,
    cwd: Path | None = None,
) -> Done:
    """Run a program to its end, within ``seconds``."""
    preamble = PREAMBLE.format(testing=str(TESTING), seconds=seconds, rounds=rounds)
    process = subprocess.Popen(
        [sys.executable, "-c", preamble + source],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environ,
        cwd=cwd,
        start_new_session=True,
    )
    status: int | None
    try:
        output, errors = process.communicate(timeout=seconds + AFTERWARDS)
        status = process.returncode
    except subprocess.TimeoutExpired:
        status = None
    finally:
        end_group(process.pid)
    if status is None:
        output, errors = process.communicate(timeout=AFTERWARDS)
    return Done(status, [json.loads(line) for line in output.splitlines()], errors.decode(errors="replace"))


def end_group(group: int) -> None:
    """Kill a program and the workers it has left behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
