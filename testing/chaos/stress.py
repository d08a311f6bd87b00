"""Everything at once, by a seed: python stress.py [--seed N] [--seconds N] [--core c|portable] [--only NAMES]

A round starts some gateways and plays scenarios on them, each in a thread, and one in the main thread, which signal
handlers interrupt that use the very gateway that is waited for. Every item has to arrive once and in order, every wait
to end within --patience seconds, and nothing to be left over. What does not hold ends the program with status 1, the
threads of all processes shown and the seed named; a seed gives the same scenarios, not the same order of threads.

A scenario is a function below, or in stress_groups; --list names them. More can be added by any module that imports
`scenario`.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import importlib
import itertools
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import leaks
from support.peer import Peer
from support.processes import pid_of

import execnet

PATIENCE = 30.0
AT_ONCE = 5
# How long a round may take, beside the patience with what hangs.
ROUND_SECONDS = 60.0
# Long enough for a thread of this process to show its stack before it is killed.
SHOWING = 1.0
INTERVALS = [0.005, 0.005, 1e-4, 1e-6]

SETTLE = """
import faulthandler, gc, signal, sys
faulthandler.register(signal.SIGUSR2, all_threads=True)
gc.set_threshold({threshold})
sys.setswitchinterval({interval})
"""
ECHOES = [
    "for item in channel: channel.send(item)",
    "channel.setcallback(channel.send)\nchannel.waitclose()",
    "while True: channel.send(channel.receive(1000))",
]
COUNTING = """
count, sizes = channel.receive()
for number in range(count):
    channel.send((number, b"x" * sizes[number % len(sizes)]))
"""
CHECKING = """
expected = 0
for number, data in iter(channel.receive, None):
    if number < expected:
        break  # doubled or out of order
    expected = number + 1
    seen.append(number) if expected > 1 else globals().update(seen=[number])
channel.send(globals().get("seen", []))
"""
SERVING = """
import time
for pause, answers in channel:
    for one, item in answers:
        time.sleep(pause)
        one.send(item)
    one = answers = None
"""
UNWRAPPING = """
for item in channel:
    while isinstance(item, list):
        item = item[0]
    item.send("unwrapped")
    item = None
"""
ENDLESS = """
import itertools
try:
    for number in itertools.count(): channel.send((number, b"x" * (number % 7 * 1000)))
except OSError:
    pass
"""


class Wrong(Exception):
    """Something does not hold."""


class Interrupt(Exception):
    """What a signal handler raises out of a wait."""


class Watch:
    """Knows what every thread is doing, and ends the program when something takes too long."""

    def __init__(self, world: World, patience: float) -> None:
        self.world, self.patience = world, patience
        self._doing: dict[object, tuple[str, float]] = {}
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    @contextlib.contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Around what must end within the patience."""
        key = object()
        self._doing[key] = f"{what} in {threading.current_thread().name}", time.monotonic()
        try:
            yield
        finally:
            self._doing.pop(key, None)

    def _run(self) -> None:
        while True:
            now = time.monotonic()
            for what, since in list(self._doing.values()):
                if now - since > self.patience:
                    self.world.fail(f"{what}: not within {self.patience} seconds")
            time.sleep(0.1)


class World:
    """What the scenarios of a round share."""

    def __init__(self, seed: int, core: str, patience: float) -> None:
        self.seed, self.core, self.patience = seed, core, patience
        self.pid = os.getpid()
        # Of this program alone, so that what is left in them is ours. The path of a socket has to fit.
        self.folder = Path(tempfile.mkdtemp(prefix="stress-"))
        self.temporary = [self.folder / "run", self.folder / "tmp"]
        for name, folder in zip(("XDG_RUNTIME_DIR", "TMPDIR"), self.temporary):
            folder.mkdir(mode=0o700)
            os.environ[name] = str(folder)
        self.closing: list[Callable[[], object]] = []
        #: What was done last, told when something does not hold.
        self.done: deque[str] = deque(maxlen=100)
        self.places: Any = None
        self.round = 0
        self.played: Counter[str] = Counter()
        self.playing: list[str] = []
        self.watch = Watch(self, patience)
        self.handling = Handling(self)
        self._calls: list[threading.Thread] = []
        self._failing = threading.Lock()

    def keep(self, pid: int, close: Callable[[], object]) -> None:
        """A server that stays until the end of the program."""
        leaks.KEPT.add(pid)
        self.closing.append(close)

    def close(self) -> None:
        """The end of the program."""
        for close in self.closing:
            close()
        shutil.rmtree(self.folder)

    def dice(self, *of_what: object) -> random.Random:
        """Random numbers of a part of this round."""
        return random.Random(" ".join(map(str, (self.seed, self.round, *of_what))))

    def begin(self, number: int) -> None:
        """Let a round begin: settings and gateways."""
        self.round = number
        self.began = time.monotonic()
        self.done.clear()
        dice = self.dice("settings")
        self.threshold = dice.choice([1, 50, 700, 700])
        self.interval = dice.choice(INTERVALS)
        self.arm()
        self.before = leaks.Snapshot.take()
        self.group = execnet.Group()
        self.gateways = [self.open(self.group) for _ in range(dice.randint(1, 3))]
        gc.set_threshold(self.threshold)
        sys.setswitchinterval(self.interval)

    def arm(self) -> None:
        """Have the program ended where not even the watch gets on."""
        faulthandler.dump_traceback_later(4 * self.patience + ROUND_SECONDS, exit=True)

    def open(self, group: execnet.Group, spec: str = "popen") -> execnet.Gateway:
        """A gateway whose worker has the settings of the round and shows its threads when asked."""
        with self.watch(f"makegateway({spec!r})"):
            gateway = group.makegateway(spec)
            source = SETTLE.format(threshold=self.threshold, interval=self.interval)
            gateway.remote_exec(source).waitclose(self.patience)
        return gateway

    def did(self, what: str) -> None:
        """Something was done, or is to be."""
        self.done.append(f"{time.monotonic() - self.began:7.3f} {self.name()}: {what}")

    def thread(self, function: Callable[..., Any], *args: Any, name: str | None = None) -> threading.Thread:
        """Run function in a thread; what it raises ends the program."""
        thread = threading.Thread(target=self._guarded, args=(function, args), name=name or self.name(), daemon=True)
        thread.start()
        self._calls.append(thread)
        return thread

    def name(self) -> str:
        """The current scenario."""
        return threading.current_thread().name

    def _guarded(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            function(*args)
        except BaseException as error:
            self.fail(f"{threading.current_thread().name}: {type(error).__name__}: {error}", error)

    def join(self, threads: list[threading.Thread]) -> None:
        """Wait for threads that should end now."""
        with self.watch(f"the end of {[thread.name for thread in threads]}"):
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.2)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition."""
        with self.watch(what):
            while not condition():
                time.sleep(0.001)

    def end(self, dice: random.Random) -> None:
        """Let a round end: nothing may be left."""
        self.join(self._calls)
        self._calls.clear()
        gc.set_threshold(700)
        sys.setswitchinterval(0.005)
        gc.collect()
        for gateway in self.gateways:
            self.await_idle(gateway)
        how = dice.choice(["terminate", "exit", "exit and wait"])
        with self.watch(how):
            for gateway in self.gateways if how != "terminate" else []:
                gateway.exit() if how == "exit" else gateway.exit(wait=self.patience)
            self.group.terminate(self.patience)
        del self.gateways, self.group
        left = leaks.wait_for_none(self.before, 5.0)
        left += [f"file {path}" for folder in self.temporary for path in folder.iterdir()]
        if left:
            self.fail("left behind: " + "; ".join(left))

    def await_idle(self, gateway: execnet.Gateway) -> None:
        """Neither side may still hold a channel or run a task."""

        def idle() -> bool:
            status = gateway.remote_status()
            here = gateway._channelfactory.channels()
            self.held = f"here {here}, there {status}"
            return not here and not status.numchannels and not status.numexecuting

        deadline = time.monotonic() + self.patience / 2
        while not idle():
            if time.monotonic() > deadline:
                self.fail(f"channels or tasks are left: {self.held}")
            time.sleep(0.01)

    def fail(self, text: str, error: BaseException | None = None) -> None:
        """Say what does not hold, show all threads of all processes, and end everything."""
        if os.getpid() != self.pid:
            os._exit(70)
        if not self._failing.acquire(False):
            time.sleep(self.patience)
        out = sys.stderr
        print(f"\nFAILED: {text}", file=out)
        if error is not None:
            traceback.print_exception(type(error), error, error.__traceback__, file=out)
        for line in list(self.done):
            print(line, file=out)
        print(f"round {self.round} of {self.playing}, gc {self.threshold}, switching {self.interval}", file=out)
        print(f"repeat with: --seed {self.seed} --core {self.core} --first-round {self.round}", file=out, flush=True)
        faulthandler.dump_traceback(all_threads=True)
        for pid in leaks.processes():
            self._show(pid)
        time.sleep(SHOWING)
        for pid in [*leaks.processes(), *leaks.KEPT]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)
        os._exit(1)

    @staticmethod
    def _show(pid: int) -> None:
        # Who has not set a handler for it would be killed by it.
        try:
            caught = Path(f"/proc/{pid}/status").read_text().partition("SigCgt:")[2].split()[0]
            if int(caught, 16) >> (signal.SIGUSR2 - 1) & 1:
                print(f"\nprocess {pid}:", file=sys.stderr, flush=True)
                os.kill(pid, signal.SIGUSR2)
                time.sleep(0.1)
        except (OSError, IndexError):
            pass  # ended meanwhile


# what signal handlers do


class Handling:
    """Signals at random moments of the main thread, whose handlers use the gateway that they interrupt."""

    DEEPEST = 2
    # After so many exceptions a call is left in peace: if each were ended by one, no wait would reach its timeout.
    RAISED_AT_MOST = 10

    def __init__(self, world: World) -> None:
        self.world = world
        self.gateway: execnet.Gateway | None = None
        self.only: Callable[[execnet.Gateway], object] | None = None
        self.may_raise = False
        self.depth = self.count = self.raised = 0
        for number in (signal.SIGALRM, signal.SIGUSR1):
            signal.signal(number, self._handle)

    @contextlib.contextmanager
    def interrupting(
        self,
        gateway: execnet.Gateway,
        dice: random.Random,
        only: Callable[[execnet.Gateway], object] | None = None,
    ) -> Iterator[None]:
        """While in use, the main thread is interrupted now and then, with actions on that gateway."""
        self.gateway, self.dice, self.only = gateway, dice, only
        self._arm()
        try:
            yield
        finally:
            self.gateway = None
            signal.setitimer(signal.ITIMER_REAL, 0)

    def call(self, what: str, function: Callable[..., Any], *args: Any) -> Any:
        """A call that a handler may end by Interrupt."""
        with self.world.watch(what):
            self.may_raise = self.raised < self.RAISED_AT_MOST
            if not self.may_raise:
                self.raised = 0
            try:
                return function(*args)
            finally:
                self.may_raise = False

    def _arm(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self.dice.choice([0.0005, 0.002, 0.01]) * (0.5 + self.dice.random()))

    def _handle(self, number: int, frame: object) -> None:
        gateway = self.gateway
        if gateway is None or self.depth >= self.DEEPEST or os.getpid() != self.world.pid:
            return
        self.depth += 1
        self.count += 1
        try:
            action = self.only or self.dice.choice(ACTIONS)
            with self.world.watch(f"{getattr(action, '__name__', action)} in a signal handler"):
                if self.may_raise and self.only is None and self.dice.random() < 0.2:
                    self.may_raise = False
                    self.raised += 1
                    raise Interrupt
                if self.depth == 1 and self.dice.random() < 0.2:
                    os.kill(os.getpid(), signal.SIGUSR1)
                action(gateway)
        finally:
            self.depth -= 1
            if self.gateway is not None:
                self._arm()


def ask_status(gateway: execnet.Gateway) -> None:
    if gateway.remote_status().execmodel != "thread":
        raise Wrong("a status of something else")


def run_a_task(gateway: execnet.Gateway) -> None:
    if gateway.remote_exec("channel.send(42)").receive() != 42:
        raise Wrong("not what the task sent")


def make_and_close(gateway: execnet.Gateway) -> None:
    channel = gateway.newchannel()
    channel.close()
    if not channel.isclosed():
        raise Wrong("a closed channel that is open")


def make_and_drop(gateway: execnet.Gateway) -> None:
    gateway.newchannel()


def send_from_a_handler(gateway: execnet.Gateway) -> None:
    channel = gateway.remote_exec("channel.send(len(channel.receive()))")
    channel.send(b"x" * 100_000)
    if channel.receive() != 100_000:
        raise Wrong("another length than was sent")


def collect(gateway: execnet.Gateway) -> None:
    repr(gateway)
    gc.collect(0)


ACTIONS = [ask_status, run_a_task, make_and_close, make_and_drop, send_from_a_handler, collect]


# scenarios


Scenario = Callable[[World, Any, random.Random], None]
SCENARIOS: dict[str, Scenario] = {}
IN_MAIN: dict[str, Scenario] = {}
# What scenarios need that stays from the beginning of the program to its end.
PREPARATIONS: dict[str, Callable[[World], None]] = {}


def scenario(function: Scenario) -> Scenario:
    """Something to do with a gateway of the round, in a thread."""
    SCENARIOS[function.__name__] = function
    return function


def in_main(function: Scenario) -> Scenario:
    """Something to do in the main thread."""
    IN_MAIN[function.__name__] = function
    return function


def receive(world: World, channel: Any, dice: random.Random) -> Any:
    """The next item, in one of the ways there are."""
    way = dice.randrange(4)
    with world.watch(f"receive() number {way} of {channel!r}"):
        if way == 0:
            return channel.receive()
        if way == 1:
            return channel.receive(10 * world.patience)
        if way == 2:
            for item in channel:
                return item
            raise EOFError
        while True:
            try:
                return channel.receive(dice.choice([0, 0.0001, 0.001, 0.02]))
            except channel.TimeoutError:
                continue


def wait_for_end(world: World, channel: Any, dice: random.Random) -> None:
    """The end of a channel that gets no item, in one of the ways there are."""
    way = dice.randrange(3)
    with world.watch(f"waiting, number {way}, for the end of {channel!r}"):
        try:
            if way == 0:
                channel.waitclose()
            elif way == 1:
                channel.waitclose(10 * world.patience)
            else:
                raise Wrong(f"{channel!r} gave {channel.receive()!r}")
        except EOFError:
            pass


def expect(given: object, wanted: object) -> None:
    if given != wanted:
        raise Wrong(f"{given!r:.100} for {wanted!r:.100}")


@scenario
def echo(world: World, gateway: Any, dice: random.Random) -> None:
    """Items there and back."""
    channel = gateway.remote_exec(dice.choice(ECHOES))
    sent, count = 0, dice.choice([10, 100, 300])
    for number in range(count):
        while sent <= min(number + dice.randrange(5), count - 1):
            with world.watch("send"):
                channel.send((sent, b"x" * (sent % 3 * 100)))
            sent += 1
        expect(receive(world, channel, dice)[0], number)
    if dice.random() < 0.5:
        channel.close()


@scenario
def stream_in(world: World, gateway: Any, dice: random.Random) -> None:
    """Many items, and their end."""
    count, sizes = dice.choice([0, 5, 500]), [dice.choice([0, 10, 4000, 70_000]) for _ in range(dice.randint(1, 5))]
    channel = gateway.remote_exec(COUNTING)
    channel.send((count, sizes))
    for number in range(count):
        given, data = receive(world, channel, dice)
        expect((given, len(data)), (number, sizes[number % len(sizes)]))
    for _ in range(2):
        try:
            raise Wrong(f"{receive(world, channel, dice)!r:.50} after the end")
        except EOFError:
            continue


@scenario
def stream_out(world: World, gateway: Any, dice: random.Random) -> None:
    """Many items from several threads' channels to the other side."""
    channel = gateway.remote_exec(CHECKING)
    count = dice.choice([1, 50, 300])
    for number in range(count):
        with world.watch("send"):
            channel.send((number, b"x" * dice.choice([0, 10, 4000, 70_000])))
    channel.send(None)
    expect(receive(world, channel, dice), list(range(count)))


@scenario
def closes(world: World, gateway: Any, dice: random.Random) -> None:
    """Threads that wait on channels, some of which others close, in the moment they are served too."""
    server = gateway.remote_exec(SERVING)
    for _ in range(dice.randint(1, 8)):
        served = [gateway.newchannel() for _ in range(dice.randint(1, 3))]
        closed = [gateway.newchannel() for _ in range(dice.randint(1, 3))]
        mine = [closed[number :: len(served)] for number in range(len(served))]

        def get(channel: Any, others: list[Any], seed: float) -> None:
            own = random.Random(seed)
            expect(receive(world, channel, own), channel.id)
            for other in others:
                other.close()
            channel.close()

        threads = [world.thread(wait_for_end, world, channel, random.Random(dice.random())) for channel in closed]
        threads += [world.thread(get, one, others, dice.random()) for one, others in zip(served, mine)]
        dice.shuffle(served)
        server.send((dice.choice([0, 0, 0.001, 0.01]), [(one, one.id) for one in served]))
        world.join(threads)


@scenario
def callbacks(world: World, gateway: Any, dice: random.Random) -> None:
    """setcallback() while items arrive."""
    for _ in range(dice.randint(1, 10)):
        count, end = dice.choice([0, 3, 30]), object()
        seen: list[Any] = []
        channel = gateway.remote_exec(COUNTING)
        channel.send((count, [0, 10]))
        first = dice.randrange(count) if count and dice.random() < 0.5 else 0
        for number in range(first):
            expect(receive(world, channel, dice)[0], number)
        for _ in range(dice.choice([0, 100, 5000])):
            pass
        with world.watch("setcallback"):
            if dice.random() < 0.7:
                channel.setcallback(seen.append, endmarker=end)
                if dice.random() < 0.3:
                    del channel
                world.until(lambda: end in seen, f"the end marker, {count} items")  # noqa: B023
                expect(seen.pop() is end and seen.count(end), 0)
            else:
                channel.setcallback(seen.append)
                channel.waitclose()
        expect([item[0] for item in seen], list(range(first, count)))


@scenario
def drops(world: World, gateway: Any, dice: random.Random) -> None:
    """Channels that are let go of, alone or in cycles, while items arrive for them."""
    for _ in range(dice.randint(1, 20)):
        channel = gateway.remote_exec(ENDLESS) if dice.random() < 0.5 else gateway.newchannel()
        if dice.random() < 0.5 and channel.id and dice.random() < 0.5:
            cycle = [channel]
            cycle.append(cycle)
            del cycle
        with world.watch("dropping a channel"):
            del channel
    gc.collect()


@scenario
def nested(world: World, gateway: Any, dice: random.Random) -> None:
    """Channels in lists in lists, there and here, while others ask for all channels."""
    server = gateway.remote_exec(UNWRAPPING)
    for _ in range(dice.randint(1, 10)):
        inner = gateway.newchannel()
        item: Any = inner
        for _ in range(50):
            item = [item]
        with world.watch("send"):
            server.send(item)
        del item
        repr(gateway), gateway._channelfactory.channels()
        expect(receive(world, inner, dice), "unwrapped")
    carrier = gateway.remote_exec("""
for _ in range(channel.receive()):
    inner = item = channel.gateway.newchannel()
    for _ in range(50):
        item = [item]
    channel.send(item)
    inner.send(inner.id)
""")
    count = dice.randint(1, 10)
    carrier.send(count)
    for _ in range(count):
        item = receive(world, carrier, dice)
        while isinstance(item, list):
            (item,) = item
        expect(receive(world, item, dice), item.id)


@scenario
def large(world: World, gateway: Any, dice: random.Random) -> None:
    """Items that are larger than the pipe, in both directions at once."""
    channel = gateway.remote_exec(ECHOES[0])
    sizes = [dice.choice([60_000, 300_000, 2_000_000]) for _ in range(dice.randint(1, 6))]

    def send() -> None:
        for number, size in enumerate(sizes):
            with world.watch("send of a large item"):
                channel.send(bytes([number]) * size)

    sender = world.thread(send)
    for number, size in enumerate(sizes):
        item = receive(world, channel, dice)
        expect((len(item), item[:1], item[-1:]), (size, bytes([number]), bytes([number])))
    world.join([sender])


@scenario
def statuses(world: World, gateway: Any, dice: random.Random) -> None:
    """Questions for the status, beside all the rest."""
    for _ in range(dice.randint(1, 50)):
        with world.watch("remote_status"):
            ask_status(gateway)


@scenario
def errors(world: World, gateway: Any, dice: random.Random) -> None:
    """Errors of tasks and of callbacks on both sides: told once, then the end."""
    for _ in range(dice.randint(1, 6)):
        channel = gateway.remote_exec(dice.choice(["1/0", "channel.setcallback(lambda x: 1/0)\nchannel.waitclose()"]))
        with contextlib.suppress(OSError):
            channel.send(1)  # it may be over by now
        try:
            raise Wrong(f"{receive(world, channel, dice)!r} of a task that failed")
        except channel.RemoteError as error:
            if "ZeroDivisionError" not in str(error):
                raise Wrong(f"another error: {error}") from None
        wait_for_end(world, channel, dice)
        told = gateway.remote_exec("channel.send(1)\ntry: channel.waitclose()\nexcept channel.RemoteError: pass")
        try:
            told.setcallback(fail_in_callback)
        except ValueError:  # the item was there already
            told.close()
            continue
        with world.watch("waitclose after a failed callback"):
            try:
                told.waitclose()
            except told.RemoteError:
                pass
            else:
                raise Wrong("the error of a callback was not told")


def fail_in_callback(item: object) -> None:
    raise ValueError("from a callback")


class Finalized:
    """In a cycle with itself; when collected, wherever that is, it uses its gateway."""

    def __init__(self, gateway: Any, dice: random.Random) -> None:
        self.channel, self.itself = gateway.newchannel(), self
        self.action = dice.choice(["close", "send", "make", "drop", "call back"])

    def __del__(self) -> None:
        channel = self.channel
        with contextlib.suppress(OSError):  # the connection may have ended
            if self.action == "close":
                channel.close()
            elif self.action == "send":
                channel.send(b"x" * 100)
            elif self.action == "make":
                channel.gateway.newchannel().close()
            elif self.action == "call back":
                channel.setcallback(id, endmarker=None)


@scenario
def finalizers(world: World, gateway: Any, dice: random.Random) -> None:
    """Finalizers that the garbage collector runs in the middle of other calls."""
    channel = gateway.remote_exec(ECHOES[0])
    for number in range(dice.randint(1, 100)):
        with world.watch("making what is finalized, and a round trip"):
            Finalized(gateway, dice)
            channel.send([number, [number]])
            expect(channel.receive(), [number, [number]])
    with world.watch("collecting"):
        gc.collect()


@scenario
def timeouts(world: World, gateway: Any, dice: random.Random) -> None:
    """Waits that end because their time is over, in which nothing may be lost."""
    channel = gateway.remote_exec(SERVING)
    for number in range(dice.randint(1, 20)):
        mine = gateway.newchannel()
        channel.send((dice.choice([0, 0.001, 0.003]), [(mine, number)]))
        deadline = time.monotonic() + world.patience
        while True:
            try:
                expect(mine.receive(dice.choice([0, 0.0005, 0.001, 0.002])), number)
                break
            except mine.TimeoutError:
                if time.monotonic() > deadline:
                    raise Wrong("an item did not come") from None
        try:
            channel.waitclose(0.001)
            raise Wrong("an open channel had ended")
        except mine.TimeoutError:
            continue


@scenario
def files(world: World, gateway: Any, dice: random.Random) -> None:
    """A channel as a file."""
    lines = [f"line {number} {'x' * dice.choice([0, 1000])}\n" for number in range(dice.randint(1, 100))]
    channel = gateway.remote_exec("file = channel.makefile('w')\nfor line in channel.receive(): file.write(line)")
    channel.send(lines)
    with world.watch("reading lines"):
        expect(list(iter(channel.makefile("r").readline, "")), lines)


@scenario
def one_byte(world: World, gateway: Any, dice: random.Random) -> None:
    """A connection that gives its bytes one by one."""
    peer = Peer(execnet, dice.choice(["socket", "pipe", "zero-copy pipe"]))
    items = [dice.choice([1, "text", [1, [2.5]], b"x" * 300, 2**100]) for _ in range(20)]
    first, second = peer.gateway.newchannel(), peer.gateway.newchannel()
    seen: list[object] = []
    second.setcallback(seen.append, endmarker=peer)
    data = b"".join(peer.item(first, item) + peer.item(second, item) for item in items)
    pieces = dice.choice([[1], [1, 2, 3, 500], [1, 8, 9, 10]])

    def write() -> None:
        position = 0
        own = random.Random(len(data))
        while position < len(data):
            size = own.choice(pieces)
            peer.write(data[position : position + size])
            position += size
        peer.end(first)
        peer.end(second)

    writer = world.thread(write)
    for item in items:
        expect(receive(world, first, dice), item)
    wait_for_end(world, first, dice)
    world.until(lambda: len(seen) == len(items) + 1, "the end marker")
    expect(seen[:-1], items)
    world.join([writer])
    with world.watch("the end of a connection"):
        peer.close()


def ended(world: World, gateway: Any, dice: random.Random, end: Callable[[], object]) -> None:
    """Threads wait and send in all ways on a gateway of their own, which ends meanwhile: they end, too."""

    def use(way: int) -> None:
        try:
            channel = gateway.remote_exec(ECHOES[0])
            with world.watch(f"use number {way} of a gateway that ends"):
                if way == 0:
                    channel.receive()
                elif way == 1:
                    channel.waitclose()
                elif way == 2:
                    for number in itertools.count():
                        channel.send(number)
                        expect(channel.receive(), number)
                elif way == 3:
                    while True:
                        channel.send(b"x" * 200_000)
                elif way == 4:
                    over = threading.Event()
                    channel.setcallback(lambda item: over.set(), endmarker=None)
                    over.wait()
                else:
                    while True:
                        gateway.remote_status()
        except (EOFError, OSError):
            pass
        else:
            if way not in (1, 4):
                raise Wrong(f"use number {way} of a gateway that ended went well")

    threads = [world.thread(use, dice.randrange(6)) for _ in range(dice.randint(1, 5))]
    time.sleep(dice.choice([0, 0.005, 0.05]))
    with world.watch("ending a gateway"):
        end()
    world.join(threads)


@scenario
def killed(world: World, gateway: Any, dice: random.Random) -> None:
    """The sudden death of a worker."""
    with execnet.Group() as group:
        own = world.open(group)
        ended(world, own, dice, lambda: os.kill(pid_of(own), signal.SIGKILL))


@scenario
def exited(world: World, gateway: Any, dice: random.Random) -> None:
    """The end of a gateway that is in use."""
    with execnet.Group() as group:
        own = world.open(group)

        def exit_and_join() -> None:
            own.exit()
            own.join(5)

        ways: list[Callable[[], object]] = [
            own.exit, lambda: own.exit(wait=5), lambda: group.terminate(5), exit_and_join
        ]  # fmt: skip
        ended(world, own, dice, dice.choice(ways))


# scenarios of the main thread


@in_main
def interrupted_echo(world: World, gateway: Any, dice: random.Random) -> None:
    """Round trips that handlers interrupt; one that ends by an exception may have sent or not."""
    channel = gateway.remote_exec(ECHOES[0])
    expected = 0
    with world.handling.interrupting(gateway, dice):
        for number in range(dice.choice([20, 100])):
            with contextlib.suppress(Interrupt):
                world.handling.call("send", channel.send, (number, b"x" * dice.choice([0, 1000, 200_000])))
            while expected <= number:
                # The moment between the return of receive() and ours is CPython's: what is lost there is no fault.
                try:
                    given = world.handling.call("receive", channel.receive, 0.5)
                except Interrupt:
                    continue
                except channel.TimeoutError:
                    break
                if given[0] < expected or given[0] > number:
                    raise Wrong(f"item {given[0]} where {expected} to {number} could come")
                expected = given[0] + 1


@in_main
def interrupted_silence(world: World, gateway: Any, dice: random.Random) -> None:
    """Waits for what does not come yet: no exception out of them loses what comes after."""
    channel = gateway.remote_exec(ECHOES[0])
    with world.handling.interrupting(gateway, dice):
        for number in range(dice.choice([5, 20])):
            way = dice.choice([channel.receive, channel.waitclose])
            try:
                world.handling.call("a wait for nothing", way, 0.05)
                raise Wrong(f"{way} got something")
            except (Interrupt, channel.TimeoutError):
                pass
            with world.watch("a round trip in which no handler raises"):
                channel.send(number)
                expect(channel.receive(), number)


@in_main
def interrupted_large(world: World, gateway: Any, dice: random.Random) -> None:
    """Large items whose sending handlers interrupt: whole or not at all."""
    channel = gateway.remote_exec("for item in channel: channel.send((item[0], len(item[1])))")
    size = 3_000_000
    with world.handling.interrupting(gateway, dice):
        for number in range(dice.randint(1, 8)):
            try:
                world.handling.call("send of a large item", channel.send, (number, b"x" * size))
            except Interrupt:
                continue
    with world.watch("what came of large items"):
        channel.send(("end", b""))
        told = list(iter(channel.receive, ("end", 0)))
    numbers = [number for number, _ in told]
    if sorted(set(numbers)) != numbers or any(length != size for _, length in told):
        raise Wrong(f"of large items {told} came")


@in_main
def interrupted_joins(world: World, gateway: Any, dice: random.Random) -> None:
    """Handlers use a gateway while its other threads do all the waiting."""
    with world.handling.interrupting(gateway, dice):
        time.sleep(dice.choice([0.05, 0.3]))


@in_main
def ended_by_a_handler(world: World, gateway: Any, dice: random.Random) -> None:
    """A handler ends the gateway that the main thread waits for."""
    with execnet.Group() as group:
        own = world.open(group)
        done: list[float] = []

        def end(own: Any) -> None:
            if not done:
                done.append(time.monotonic())
                dice.choice([lambda: group.terminate(5), lambda: (own.exit(), own.join(5)), lambda: own.exit(wait=5)])()

        channel = own.remote_exec("channel.receive()")
        wait = dice.choice([channel.receive, channel.waitclose, lambda: channel.send(b"x" * (32 << 20))])
        with world.handling.interrupting(own, dice, only=end), contextlib.suppress(EOFError, OSError):
            with world.watch("a wait whose gateway a handler ends"):
                wait()
            world.until(lambda: done, "the handler")


@in_main
def forks(world: World, gateway: Any, dice: random.Random) -> None:
    """Children that do not use what they inherit, and some that try."""
    channel = gateway.remote_exec(ECHOES[0])
    # A child would wait for its thread, which is not there, when it exits.
    faulthandler.cancel_dump_traceback_later()
    for number in range(dice.randint(1, 4)):
        does = dice.choice(["nothing", "sys.exit", "touches"])
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            if does == "nothing":
                os._exit(0)
            if does == "touches":
                os._exit(0 if touch(gateway, channel) else 71)
            sys.exit(0)
        status = await_child(world, pid, does)
        if status:
            raise Wrong(f"a child that {does} ended with {status}")
        with world.watch("a round trip after a fork"):
            channel.send(number)
            expect(channel.receive(), number)


def await_child(world: World, pid: int, does: str) -> int:
    """The exit status of a forked child."""
    with world.watch(f"the end of a child that {does}"):
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.001)


def touch(gateway: Any, channel: Any) -> bool:
    """Whether everything that a forked child tries is refused."""
    tries: list[Callable[[], object]] = [
        lambda: channel.send(1),
        lambda: channel.receive(5),
        lambda: channel.waitclose(5),
        gateway.remote_status,
        lambda: gateway.remote_exec("pass"),
        gateway.newchannel,
    ]
    for attempt in tries:
        try:
            attempt()
        except channel.TimeoutError:
            return False
        except OSError:
            continue
        except EOFError:
            print("EOFError instead of OSError in a forked child", file=sys.stderr)
            return False
        return False
    return True


def play(world: World, number: int, only: set[str]) -> None:
    """A round."""
    world.begin(number)
    dice = world.dice("scenarios")
    chosen = sorted(only & set(SCENARIOS)) if only else sorted(SCENARIOS)
    chosen = [dice.choice(chosen) for _ in range(dice.randint(1, AT_ONCE))] if chosen else []
    in_main = sorted(only & set(IN_MAIN)) if only else sorted(IN_MAIN)
    main = dice.choice(in_main) if in_main else ""
    world.playing = [*chosen, main]
    world.played.update(world.playing)
    for index, name in enumerate(chosen):
        own = world.dice(index, name)
        world.thread(SCENARIOS[name], world, own.choice(world.gateways), own, name=f"{name}-{index}")
    if main:
        own = world.dice("main")
        try:
            IN_MAIN[main](world, own.choice(world.gateways), own)
        except Exception as error:
            world.fail(f"{main}: {type(error).__name__}: {error}", error)
    world.end(dice)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=sys.maxsize, help="at most so many")
    parser.add_argument("--first-round", type=int, default=0)
    parser.add_argument("--core", choices=["c", "portable"], default=execnet.gateway_base.core)
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds that anything may take")
    parser.add_argument("--only", default="", help="names of scenarios, with commas")
    parser.add_argument("--without", default="", help="names of scenarios to leave out")
    parser.add_argument("--list", action="store_true", help="name the scenarios")
    options = parser.parse_args()
    if options.list:
        for name, function in {**SCENARIOS, **IN_MAIN}.items():
            print(f"{name}: {(function.__doc__ or '').splitlines()[0]}")
        return
    if options.core != execnet.gateway_base.core:
        change_core(options.core)
    print(f"seed {options.seed}, {options.core} core, {options.seconds:.0f} seconds", flush=True)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR2, all_threads=True)  # for forked children
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    leaks.mark_session()
    import_what_is_lazy()
    world = World(options.seed, options.core, options.patience)
    only, without = (set(filter(None, names.split(","))) for names in (options.only, options.without))
    if without:
        only = (only or {*SCENARIOS, *IN_MAIN}) - without
    for name, prepare in PREPARATIONS.items():
        if not only or name in only:
            prepare(world)
    started, number = time.monotonic(), options.first_round
    while time.monotonic() - started < options.seconds and number - options.first_round < options.rounds:
        play(world, number, only)
        number += 1
    faulthandler.cancel_dump_traceback_later()
    world.close()
    played, handled = sum(world.played.values()), world.handling.count
    print(f"{number - options.first_round} rounds, {played} scenarios, {handled} signals handled: 0 hangs, 0 lost, "
          f"doubled or out of order, nothing left (seed {options.seed})")  # fmt: skip


def import_what_is_lazy() -> None:
    """Import what execnet imports only when it is needed.

    An exception of a signal handler in the middle of an import may leave CPython's import lock taken: on 3.11, nine of
    them during ``import colorsys`` were enough. Threads that import then wait for ever, whoever they are.
    """
    lazy = re.compile(r"^ +(?:from ([\w.]+) )?import ([\w., ]+?) +# lazy", re.MULTILINE)
    for path in Path(execnet.__file__).parent.rglob("*.py"):
        for package, names in lazy.findall(path.read_text("utf-8")):
            for name in names.split(", "):
                if "subinterpreter" not in package:  # that changes how threads start
                    with contextlib.suppress(ImportError):  # of another system, or no module
                        importlib.import_module(f"{package}.{name}" if package else name, "execnet")


def change_core(core: str) -> None:
    """Begin again over the other core, which the workers inherit."""
    if core == "c" and "EXECNET_PURE" not in os.environ:
        sys.exit("the C core is not built")
    environ = {name: value for name, value in os.environ.items() if name != "EXECNET_PURE"}
    if core == "portable":
        environ["EXECNET_PURE"] = "1"
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.argv], environ)


if __name__ == "__main__":
    sys.modules["chaos.stress"] = sys.modules["__main__"]  # what stress_groups imports, and adds to
    from chaos import stress_groups  # noqa: F401

    main()
