"""Groups, for the stress program: threads that make, end, kill and look for the gateways of one group, and Ctrl-C.

Each gateway that was made is noted, with what was done to it. So it is known at any moment which ones have to be
members, and which ones must not be any more; and which exceptions there was a reason for.
"""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import os
import random
import signal
import sys
import threading
import time
import traceback
import types
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from chaos import stress
from chaos.stress import World, Wrong, await_child, expect
from support import interpreters, leaks, sshd
from support.socketserver import SocketServer

import execnet
from execnet._group import starting

THREADS = 8
# Seconds in which threads begin something new; gateways that are there at a time.
PLAY, MOST = (0.5, 4.0), 12
# Seconds until Ctrl-C: from before there is a process to after its first answer.
CTRL_C = [0.0005, 0.005, 0.02, 0.1, 0.4]
TIMEOUTS = [None, 0, 0.05, 1.0, 10.0]
# Ids that several threads want, of the kind that is given out as well.
CONTESTED = ["one", "another", "gw2", *(f"gw{number}" for number in range(0, 40, 7))]
KINDS = ["popen", "warm", "preload", "python", "via", "installvia", "socket", "ssh", "capture"]

FIRST_TASK = """
import os
try:
    import faulthandler, signal
    faulthandler.register(signal.SIGUSR2, all_threads=True)
except ImportError:
    pass
channel.send(os.getpid())
"""
# A child that has the worker's stderr, and lives a moment longer.
HOLDING = """
import subprocess
holding = subprocess.Popen(["sh", "-c", "read line; sleep 0.3"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
channel.send(holding.pid)
"""
BAD: dict[str, tuple[type[BaseException], ...]] = {
    "popen//python=/no/such/interpreter": (OSError,),
    "popen//python=false": (OSError,),
    "popen//warm//python=false": (OSError,),
    "popen//warm//preload=no_such_module": (OSError,),
    "popen//nice=very": (ValueError,),
    "popen//python": (ValueError,),
    "popen//chdir=/proc/no/such/folder": (execnet.RemoteError,),
    "popen//via=nobody": (KeyError,),
    "socket=127.0.0.1:1": (OSError,),
}


class Places:
    """Where gateways are, besides processes of this interpreter; the servers stay until the program ends."""

    def __init__(self, world: World) -> None:
        self.kinds = list(KINDS)
        self.pythons = [str(found) for found in interpreters.found() if str(found) != sys.executable]
        self.socket = SocketServer()
        world.keep(self.socket.process.pid, self.socket.close)
        self.ssh: sshd.SshServer | None = None
        if not self.pythons:
            self.kinds.remove("python")
        if sshd.lacking():
            self.kinds.remove("ssh")
            return
        folder = world.folder / "sshd"
        folder.mkdir()
        self.ssh = sshd.SshServer(folder)
        world.keep(self.ssh.process.pid, self.ssh.close)

    def spec(self, kind: str, dice: random.Random, through: str) -> str:
        """A spec of that kind."""
        if kind == "ssh":
            assert self.ssh is not None
            return self.ssh.spec()
        return {
            "popen": "popen",
            "warm": "popen//warm",
            "preload": f"popen//warm//preload={dice.choice(['json', 'random'])}",
            "python": f"popen//python={dice.choice(self.pythons or [sys.executable])}",
            "via": f"popen//via={through}",
            "installvia": f"socket//installvia={through}",
            "socket": self.socket.spec(),
            "capture": "popen//stderr=capture",
        }[kind]


class Made:
    """A gateway that was made, and what was done to it since."""

    def __init__(self, gateway: Any, epoch: int | None, through: Made | None = None) -> None:
        self.gateway, self.epoch, self.through = gateway, epoch, through
        #: It may have left, it has left; its process was killed.
        self.ending = self.gone = self.killed = False
        self.far_pid: int | None = None

    def __repr__(self) -> str:
        gateway = self.gateway
        flags = [name for name in ("ending", "gone", "killed") if getattr(self, name)]
        return (
            f"{gateway.id} ({gateway.spec}) pid {gateway.pid} far {self.far_pid} epoch {self.epoch} {' '.join(flags)}"
        )

    def is_cut(self) -> bool:
        """Whether it need not answer any more, member or not."""
        return self.killed or self.ending or (self.through is not None and self.through.is_cut())


class Wanted(NamedTuple):
    """A spec, what its start may raise, whether it has to, and whether its id may be somebody else's."""

    spec: str
    through: Made | None = None
    raises: tuple[type[BaseException], ...] = ()
    is_bad: bool = False
    contested: bool = False


class Crowd:
    """A group that many use at once."""

    def __init__(self, world: World, dice: random.Random) -> None:
        self.world, self.dice = world, dice
        self.places: Places = world.places
        self.group = execnet.Group()
        self.group.start_ahead = dice.choice([0, 0, 0, 1, 3])
        #: None of the ids that are given out is asked for by name.
        self.orderly = dice.random() < 0.3
        self.kinds = ["popen", *(dice.choice(self.places.kinds) for _ in range(dice.randint(1, 3)))]
        self.until = time.monotonic() + dice.uniform(*PLAY)
        self.made: list[Made] = []
        self.numbers = itertools.count()
        # How many ends of the whole group have begun, and how many of them go on.
        self.epochs = self.running = 0
        self._lock = threading.Lock()

    def is_over(self) -> bool:
        """Whether nothing new is to begin."""
        return time.monotonic() > self.until

    # -- what has to hold

    def epoch(self) -> int | None:
        """What tells whether the whole group is ended from now on; None where it is being ended."""
        with self._lock:
            return None if self.running else self.epochs

    def must_be_member(self, made: Made) -> bool:
        """Whether nobody can have ended it."""
        return not made.ending and made.epoch is not None and made.epoch == self.epochs

    def must_answer(self, made: Made) -> bool:
        """Whether nobody can have ended it, or cut its connection."""
        through = made.through
        return self.must_be_member(made) and not made.is_cut() and (through is None or self.must_be_member(through))

    def note(self, gateway: Any, epoch: int | None, through: Made | None = None) -> Made:
        """The gateway was made, by a call that began in that epoch."""
        made = Made(gateway, epoch, through)
        self.world.did(f"made {made}")
        with self._lock:
            others = [other for other in self.made if other.gateway.id == gateway.id]
            self.made.append(made)
        for other in others:
            if self.must_be_member(other) and self.must_be_member(made):
                raise Wrong(f"two members have the id {gateway.id!r}")
        return made

    def check(self) -> None:
        """Look at all members."""
        with self._lock:
            known = list(self.made)
        gone = [made for made in known if made.gone]
        members = list(self.group)
        ids = sorted(member.id for member in members)
        if len(set(ids)) < len(ids):
            raise Wrong(f"ids collide: {ids}")
        there = set(map(id, members))
        for made in gone:
            if id(made.gateway) in there:
                raise Wrong(f"{made.gateway!r} has left and is back")
        for made in known:
            if id(made.gateway) not in there and self.must_be_member(made):
                raise Wrong(f"{made.gateway!r} is lost: {ids}")

    def pick(self, dice: random.Random) -> Made | None:
        """One that was made and is not known to have left."""
        with self._lock:
            there = [made for made in self.made if not made.gone]
        return dice.choice(there) if there else None

    # -- starting

    def wanted(self, dice: random.Random) -> Wanted:
        """Something to start."""
        if dice.random() < 0.05:
            spec = dice.choice(sorted(BAD))
            return Wanted(spec, raises=BAD[spec], is_bad=True, contested=True)
        kind = dice.choice(self.kinds)
        through = None
        if kind in ("via", "installvia"):
            through = self.pick(dice)
            if through is None or "//via=" in str(through.gateway.spec) or "python=" in str(through.gateway.spec):
                kind, through = "popen", None
        spec = self.places.spec(kind, dice, through.gateway.id if through else "")
        way = dice.random()
        if way < 0.4:
            contested = not self.orderly
        elif way < 0.7 or self.orderly:
            spec, contested = f"{spec}//id=own{next(self.numbers)}", False
        else:
            spec, contested = f"{spec}//id={dice.choice(CONTESTED)}", True
        return Wanted(spec, through, (KeyError, OSError) if through else (), contested=contested)

    def make(self, dice: random.Random, run: Callable[[Callable[[], Any]], Any] = lambda call: call()) -> None:
        """Start some gateways, in one of the ways there are."""
        many = dice.random() < 0.4
        wanted = [self.wanted(dice) for _ in range(dice.randint(1, 5) if many else 1)]
        if "ssh" in self.kinds and many and dice.random() < 0.3:
            wanted += [Wanted(self.places.spec("ssh", dice, ""), contested=not self.orderly)] * 3
        specs: list[Any] = [one.spec for one in wanted]
        if not many and dice.random() < 0.3:
            specs = self.allocated(wanted[0])
        epoch = self.epoch()
        self.world.did(f"starting {specs}")
        try:
            with self.world.watch(f"starting {specs}"):
                if many:
                    most = dice.choice([None, None, 1, 2])
                    gateways = run(lambda: self.group.makegateways(specs, max_parallel=most))
                else:
                    gateways = [run(lambda: self.group.makegateway(specs[0])) for _ in specs]
        except KeyboardInterrupt as error:
            self.world.did(f"Ctrl-C while starting {specs}")
            self.take_over(specs, epoch, error)
        except Exception as error:
            if not self.was_to_be_expected(error, wanted, epoch):
                raise
        else:
            if specs and any(one.is_bad for one in wanted):
                raise Wrong(f"all of {specs} were started")
            made = [self.note(gateway, epoch, one.through) for gateway, one in zip(gateways, wanted)]
            self.check_order(made)
            for one in made:
                self.use(one, dice)

    def allocated(self, wanted: Wanted) -> list[Any]:
        """The spec with an id given to it beforehand; none where that is taken, or it is no spec."""
        spec = execnet.XSpec(wanted.spec)
        try:
            self.group.allocate_id(spec)
        except ValueError as error:
            if not self.was_to_be_expected(error, [wanted], None):
                raise
            return []
        return [spec]

    def was_to_be_expected(self, error: Exception, wanted: list[Wanted], epoch: int | None) -> bool:
        """Whether there was a reason for the error of a start."""
        if isinstance(error, ValueError) and "already have gateway" in str(error):
            return any(one.contested for one in wanted)
        if isinstance(error, ValueError) and "goes through itself" in str(error):
            return any(one.through is not None and one.contested for one in wanted)
        reasons = [one.raises for one in wanted if one.raises]
        if any("warm" in one.spec for one in wanted) and epoch != self.epoch():
            reasons.append((OSError,))
        return isinstance(error, sum(reasons, ())) or (len(reasons) > 1 and isinstance(error, OSError))

    def check_order(self, made: list[Made]) -> None:
        """Those of one call are members in its order."""
        members = list(map(id, self.group))
        found = [members.index(id(one.gateway)) for one in made if id(one.gateway) in members]
        if found != sorted(found):
            raise Wrong(f"{[one.gateway.id for one in made]} are in another order: {self.group!r}")

    def take_over(self, specs: list[Any], epoch: int | None, error: BaseException) -> None:
        """After Ctrl-C: nothing was started, unless the start was over already."""
        own = [word[3:] for spec in specs for word in str(spec).split("//") if word.startswith("id=own")]
        for name in own:
            if was_inside(error, starting.Starts.run):
                self.world.until(lambda: name not in self.group, f"the end of {name!r}, whose start was interrupted")  # noqa: B023
            else:
                with contextlib.suppress(KeyError):
                    self.note(self.group[name], epoch)

    # -- using

    def use(self, made: Made, dice: random.Random) -> None:
        """A task, and perhaps a child that holds the worker's stderr."""
        holds = "capture" in str(made.gateway.spec) and dice.random() < 0.7
        try:
            with self.world.watch(f"a task of {made.gateway!r}"):
                made.far_pid = made.gateway.remote_exec(FIRST_TASK).receive(self.world.patience)
                if holds:
                    made.gateway.remote_exec(HOLDING).receive(self.world.patience)
        except execnet.TimeoutError:
            raise Wrong(f"no answer of {made}") from None
        except (EOFError, OSError, execnet.RemoteError) as error:
            if self.must_answer(made):
                raise Wrong(f"{made} does not answer, and nobody has ended it") from error

    def use_any(self, dice: random.Random) -> None:
        """Use one of the gateways, or all of them together."""
        made = self.pick(dice)
        if made is not None and dice.random() < 0.8:
            self.use(made, dice)
            return
        ends = contextlib.suppress(EOFError, OSError, execnet.RemoteError)
        with self.world.watch("a task of all members"), ends:
            self.group.remote_exec("channel.send(42)").receive_each()

    def look(self, dice: random.Random) -> None:
        """All ways to look for a gateway."""
        self.check()
        repr(self.group), len(self.group)
        with contextlib.suppress(IndexError):
            expect(self.group[dice.randrange(-3, 5)].__class__, execnet.Gateway)
        made = self.pick(dice)
        if made is None:
            return
        for key in (made.gateway, made.gateway.id):
            try:
                found = self.group[key]
            except KeyError:
                found = None
            inside = key in self.group
            if self.must_be_member(made):
                expect((found is made.gateway, inside), (True, True))

    # -- ending

    def exit(self, dice: random.Random) -> None:
        """End one gateway."""
        made = self.pick(dice)
        if made is None:
            return
        made.ending = True
        wait = dice.choice([None, None, 0.05, 5.0])
        self.world.did(f"exit(wait={wait}) {made}")
        with self.world.watch(f"exit(wait={wait}) of {made.gateway!r}"):
            made.gateway.exit() if wait is None else made.gateway.exit(wait=wait)
        made.gone = True

    def terminate(self, dice: random.Random, run: Callable[[Callable[[], Any]], Any] = lambda call: call()) -> None:
        """End all gateways."""
        with self._lock:
            self.epochs += 1
            self.running += 1
            known = list(self.made)
        timeout = dice.choice(TIMEOUTS)
        self.world.did(f"terminate({timeout}), epoch {self.epochs}")
        try:
            with self.world.watch(f"terminate({timeout})"):
                run(lambda: self.group.terminate(timeout))
            self.world.did("terminated")
            for made in known:
                made.gone = True
        finally:
            with self._lock:
                self.running -= 1

    def kill(self, dice: random.Random) -> None:
        """Kill the process of one gateway, here or there."""
        made = self.pick(dice)
        if made is None:
            return
        ours = leaks.processes()
        with self.world.watch(f"the pid of {made.gateway!r}"):
            pids = [made.gateway.pid, made.far_pid]
        pid = dice.choice(pids)
        made.killed, inside = True, made
        while inside.through is not None and inside.gateway.spec.installvia and pid == inside.far_pid:
            inside = inside.through  # in its process lives the worker of an installvia
            inside.killed, inside.far_pid = True, pid
        if pid in ours:
            self.world.did(f"kill {pid} of {made}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))

    # -- in the main thread

    def interrupted(self, dice: random.Random) -> None:
        """Ctrl-C while something starts or ends."""
        way = dice.choice(["make", "make", "terminate", "group"])
        with contextlib.suppress(KeyboardInterrupt):
            if way == "make":
                self.make(dice, lambda call: with_ctrl_c(call, dice))
            elif way == "terminate":
                self.terminate(dice, lambda call: with_ctrl_c(call, dice))
            else:
                self.interrupted_group(dice)

    def interrupted_group(self, dice: random.Random) -> None:
        """Ctrl-C while a group of its own is made: it keeps nothing."""
        specs = [self.places.spec(dice.choice(self.kinds), dice, "first") for _ in range(dice.randint(1, 4))]
        group: Any = execnet.Group.__new__(execnet.Group)
        try:
            with self.world.watch(f"Group({specs})"):
                with_ctrl_c(lambda: group.__init__(["popen//id=first", *specs]), dice)
        except KeyboardInterrupt as error:
            if was_inside(error, starting.Starts.run):
                self.await_empty(group)
        if hasattr(group, "_lock"):
            with self.world.watch("the end of a group of its own"):
                group.terminate(self.world.patience)
            self.await_empty(group)

    def await_empty(self, group: Any) -> None:
        """The group has no gateway, nor one that starts or ends."""
        own = group._membership
        self.world.until(
            lambda: not (own.members or own.places or own._claims),
            f"a group without {own.members}, {[(place.id, place.gateway) for place in own.places]}, {own._claims}",
        )

    def fork(self, dice: random.Random) -> None:
        """A child that leaves the group alone, ends it for itself, or uses it for its own gateways."""
        does = dice.choice(["nothing", "exits", "ends the group", "starts a gateway"])
        self.world.did(f"fork: {does}")
        faulthandler.cancel_dump_traceback_later()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self.be_child(does)
        status = await_child(self.world, pid, f"{does} of the group")
        if status:
            raise Wrong(f"a child that {does} ended with {status}")
        self.check()

    def be_child(self, does: str) -> None:
        """What a forked child does; the end of it."""
        if does == "exits":
            sys.exit(0)
        try:
            if does == "starts a gateway":
                expect(self.group.makegateway().remote_exec("channel.send(42)").receive(10), 42)
            if does != "nothing":
                self.group.terminate(10)
                expect(list(self.group), [])
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(72)
        os._exit(0)

    # -- all of it

    def take_part(self, dice: random.Random, actions: list[Callable[[random.Random], None]]) -> None:
        """Do one thing after another, as long as the play lasts."""
        while not self.is_over():
            crowded = len(self.group) > MOST
            action = self.exit if crowded else dice.choice(actions)
            action(dice)
            self.check()

    def left(self) -> list[Made]:
        """Those whose processes are there."""
        there = leaks.processes().keys()
        return [made for made in self.made if made.gateway.pid in there]

    def end(self) -> None:
        """After the end of the group nothing of it is left."""
        with self.world.watch("the last terminate"):
            self.group.terminate(self.world.patience / 2)
        left = self.left()
        if any(made.through is None for made in left):
            raise Wrong(f"processes after terminate: {left}")
        # One that was being started through a gateway that ended has lost its connection, and ends by itself.
        self.world.until(lambda: not self.left(), f"the end of {left}")
        self.await_empty(self.group)
        expect(list(self.group._forkservers.values()), [])
        expect(bool(self.group._ahead), False)


def with_ctrl_c(call: Callable[[], Any], dice: random.Random) -> Any:
    """What the call gives, unless Ctrl-C comes before."""

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGALRM, previous)
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, dice.choice(CTRL_C) * (0.1 + dice.random()))
        return call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def was_inside(error: BaseException, function: types.FunctionType | Any) -> bool:
    """Whether the error came out of that function."""
    return any(frame.f_code is function.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))


def prepare(world: World) -> None:
    """What the rounds need that stays."""
    world.places = Places(world)
    warnings.filterwarnings("error", "gateway .* could not be ended", RuntimeWarning)


@stress.in_main
def groups(world: World, gateway: Any, dice: random.Random) -> None:
    """Many threads on one group."""
    crowd = Crowd(world, dice)
    common = [crowd.make] * 4 + [crowd.look] * 2 + [crowd.use_any, crowd.exit, crowd.kill]
    threads = []
    for number in range(dice.randint(1, THREADS)):
        own = random.Random(dice.random())
        ending = [crowd.terminate] * own.choice([0, 0, 1, 2])
        threads.append(world.thread(crowd.take_part, own, common + ending, name=f"crowd-{number}"))
    crowd.take_part(dice, [*common, crowd.terminate, *[crowd.interrupted] * 5, crowd.fork])
    world.join(threads)
    crowd.end()


stress.PREPARATIONS["groups"] = prepare
