"""Starting and ending.

From asking for a worker until a function called there has returned the worker's pid, for every peer alike; beside
what a bare interpreter takes for nothing (``python -c pass``), and what its processes need while they are idle.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import harness
import serving
from harness import BEFORE, NO_SLOWER, OURS, PORTABLE, Goal, Options, Player, Row
from support.sshd import SshServer, executable

WARM, AHEAD, SSH = "execnet warm", "execnet ahead", "ssh HOST true"
BARE, SPAWN, FORKSERVER, MITOGEN = "python -c", "multiprocessing spawn", "multiprocessing forkserver", "mitogen"
EXECNETS = [OURS, PORTABLE, BEFORE]
QUIET_SECONDS = 0.1  # for what the peer before leaves to be ended
MANY, MANY_SSH = 8, 4
IMPORTS = {
    **dict.fromkeys(EXECNETS, "execnet"),
    SPAWN: "multiprocessing.context, multiprocessing.connection",
    MITOGEN: "mitogen.master",
}


# ---- the peers ----


class Starter:
    """Starts workers; the first one is started, and ended, to begin with."""

    def __init__(self) -> None:
        self.start("popen")

    def begin(self, spec: str) -> Any:
        """A worker of which this peer says that it has started."""
        raise NotImplementedError

    def pid(self, worker: Any) -> int:
        """What a function called there returns: its process."""
        raise NotImplementedError

    def end(self, worker: Any) -> None:
        """End it."""
        raise NotImplementedError

    def usable(self, spec: str) -> Any:
        """A worker that was started and has answered a call."""
        worker = self.begin(spec)
        self.pid(worker)
        return worker

    def start(self, spec: str) -> float:
        """Seconds until a worker is usable."""
        begin = time.perf_counter()
        worker = self.usable(spec)
        seconds = time.perf_counter() - begin
        self.end(worker)
        return seconds

    def start_many(self, spec: str, count: int) -> tuple[float, float]:
        """Seconds until so many workers are usable, all begun before the first is asked, and for their end."""
        begin = time.perf_counter()
        workers = [self.begin(spec) for _ in range(count)]
        for worker in workers:
            self.pid(worker)
        usable = time.perf_counter()
        for worker in workers:
            self.end(worker)
        return usable - begin, time.perf_counter() - usable

    def private(self) -> int:
        """KiB of memory that an idle worker shares with nobody."""
        worker = self.usable("popen")
        pid = self.pid(worker)
        time.sleep(0.05)  # until its threads have come to rest
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        self.end(worker)
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


class Execnet(Starter):
    """Gateways."""

    def __init__(self) -> None:
        import execnet

        self.execnet = execnet
        self.group = execnet.Group()
        super().__init__()

    def begin(self, spec: str) -> Any:
        return self.group.makegateway(spec)

    def pid(self, worker: Any) -> int:
        return int(worker.remote_exec("import os; channel.send(os.getpid())").receive())

    def end(self, worker: Any) -> None:
        worker.exit()
        worker.join()
        worker._io.wait()

    def ask_all(self, group: Any) -> None:
        """Have all workers of a group answer, each while the others do."""
        for channel in [gateway.remote_exec("import os; channel.send(os.getpid())") for gateway in group]:
            channel.receive()

    def start_many(self, spec: str, count: int) -> tuple[float, float]:
        begin = time.perf_counter()
        group = self.execnet.Group([spec] * count)
        self.ask_all(group)
        usable = time.perf_counter()
        group.terminate(10)
        return usable - begin, time.perf_counter() - usable

    def start_loop(self, count: int, ahead: int) -> float:
        """Seconds until so many gateways are usable that are started as pytest-xdist does, with EXECNET_START_AHEAD."""
        os.environ["EXECNET_START_AHEAD"] = str(ahead)
        group = self.execnet.Group()
        specs = [self.execnet.XSpec("popen") for _ in range(count)]
        begin = time.perf_counter()
        for spec in specs:
            group.allocate_id(spec)
        self.ask_all([group.makegateway(spec) for spec in specs])
        seconds = time.perf_counter() - begin
        group.terminate(10)
        return seconds


class Warm(Execnet):
    """Gateways forked from a fork server."""

    def begin(self, spec: str) -> Any:
        return super().begin("popen//warm")

    start_many = Starter.start_many


class Bare(Starter):
    """Interpreters that do nothing."""

    def begin(self, spec: str) -> Any:
        subprocess.run([sys.executable, "-c", "pass"], check=True)

    def pid(self, worker: Any) -> int:
        return 0

    def end(self, worker: Any) -> None:
        pass

    def private(self) -> int:
        waiting = Waiting()
        return waiting.private()


class Waiting(Starter):
    """Interpreters that wait for input."""

    def __init__(self) -> None:
        pass

    def begin(self, spec: str) -> Any:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        time.sleep(0.2)
        return process

    def pid(self, worker: Any) -> int:
        return int(worker.pid)

    def end(self, worker: Any) -> None:
        worker.communicate(b"\n", timeout=10)


class Multiprocessing(Starter):
    """multiprocessing's processes, which call the functions that come over a Pipe."""

    def __init__(self, method: str) -> None:
        import multiprocessing

        # Otherwise the new process would import this benchmark to have its main module.
        del sys.modules["__main__"].__file__
        self.context = multiprocessing.get_context(method)
        super().__init__()

    def begin(self, spec: str) -> Any:
        connection, far = self.context.Pipe()
        process = self.context.Process(target=serving.answer, args=(far,))  # type: ignore[attr-defined]
        process.start()
        far.close()
        return process, connection

    def pid(self, worker: Any) -> int:
        _, connection = worker
        connection.send(os.getpid)
        return int(connection.recv())

    def end(self, worker: Any) -> None:
        process, connection = worker
        connection.send(None)
        process.join(10)
        connection.close()


class Mitogen(Starter):
    """mitogen's contexts."""

    def __init__(self) -> None:
        import mitogen.master

        self.broker = mitogen.master.Broker()
        self.router = mitogen.master.Router(self.broker)
        super().__init__()

    def begin(self, spec: str) -> Any:
        return self.router.local(python_path=sys.executable)

    def pid(self, worker: Any) -> int:
        return int(worker.call(os.getpid))

    def end(self, worker: Any) -> None:
        worker.shutdown(wait=True)


STARTERS = {
    **dict.fromkeys(EXECNETS, Execnet),
    WARM: Warm,
    BARE: Bare,
    SPAWN: lambda: Multiprocessing("spawn"),
    FORKSERVER: lambda: Multiprocessing("forkserver"),
    MITOGEN: Mitogen,
}


def import_seconds(modules: str) -> float:
    """Seconds that a fresh interpreter takes to import them."""
    program = f"import time; begin = time.perf_counter(); import {modules}; print(time.perf_counter() - begin)"
    return float(subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE).stdout)


def play(name: str) -> None:
    """Be a peer."""
    starter = STARTERS[name]()
    methods: dict[str, Any] = {
        "start": starter.start,
        "start_many": starter.start_many,
        "start_loop": getattr(starter, "start_loop", None),
        "private": starter.private,
        "import": import_seconds,
    }
    harness.play(methods)
    if isinstance(starter, Mitogen):
        starter.broker.shutdown()
        starter.broker.join()


# ---- the rows ----


def ask(player: Player, method: str, *arguments: Any) -> Any:
    """player.ask() when the machine has become quiet."""
    time.sleep(QUIET_SECONDS)
    return player.ask(method, *arguments)


def milliseconds(player: Player, method: str, *arguments: Any) -> float:
    seconds: float = ask(player, method, *arguments)
    return seconds * 1e3


def mebibytes(player: Player) -> float:
    kibibytes: float = player.ask("private")
    return kibibytes / 1024


def many_seconds(player: Player, server: SshServer, count: int) -> float:
    seconds: float = player.ask("start_many", server.spec(), count)[0]
    return seconds


def measure_one(players: dict[str, Player], rounds: int) -> list[Row]:
    """One worker, the import, idle memory."""
    warm_goals = [Goal(5, of=WARM), Goal(0.5, FORKSERVER, of=WARM)]
    starts = Row("a worker, after the first", "ms", [Goal(1.25, BARE), *warm_goals, NO_SLOWER])
    harness.take_turns(
        starts,
        {name: partial(milliseconds, player, "start", "popen") for name, player in players.items()},
        rounds,
    )
    imports = Row("import", "ms", [Goal(2), NO_SLOWER])
    samplers = {name: partial(milliseconds, players[name], "import", IMPORTS[name]) for name in IMPORTS}
    harness.take_turns(imports, samplers, rounds)
    memory = Row("private memory of an idle worker", "MiB", [Goal(1.2, BARE), Goal(1.0, BARE, of=WARM), NO_SLOWER])
    sizes = {name: partial(mebibytes, player) for name, player in players.items()}
    harness.take_turns(memory, sizes, min(rounds, 5))
    return [starts, imports, memory]


def measure_many(players: dict[str, Player], rounds: int) -> list[Row]:
    """Eight workers, all at once and one after another, and their end."""
    starts = Row(f"{MANY} workers", "ms", [Goal(0.6, BARE), NO_SLOWER])
    ends = Row(f"end of the {MANY} workers", "ms", [Goal(15), NO_SLOWER])
    for _ in range(rounds):
        for name, player in players.items():
            start, end = ask(player, "start_many", "popen", MANY)
            starts.samples.setdefault(name, []).append(start * 1e3)
            if name != BARE:
                ends.samples.setdefault(name, []).append(end * 1e3)
    loops = Row(f"{MANY} workers, makegateway in a loop", "ms", [Goal(1.0, OURS, of=AHEAD), NO_SLOWER])
    samplers = {name: partial(milliseconds, players[name], "start_loop", MANY, 0) for name in EXECNETS}
    samplers[AHEAD] = partial(milliseconds, players[OURS], "start_loop", MANY, MANY)
    harness.take_turns(loops, samplers, rounds)
    return [starts, ends, loops]


def ssh_seconds(server: SshServer, count: int) -> float:
    """Seconds until so many connections by ssh, begun at once, have run a command that does nothing."""
    command = [executable("ssh"), "-C", "-F", str(server.config), server.host, "true"]
    begin = time.perf_counter()
    for process in [subprocess.Popen(command, stdin=subprocess.DEVNULL) for _ in range(count)]:
        process.wait(60)
    return time.perf_counter() - begin


def measure_ssh(players: dict[str, Player], rounds: int) -> list[Row]:
    """Gateways over ssh to a server on this machine."""
    one = Row("a worker over ssh", "ms", [NO_SLOWER])
    many = Row(f"{MANY_SSH} workers over ssh", "ms", [NO_SLOWER])
    ratio = Row("the latter by the former", "ratio", [Goal(1.5)])
    with tempfile.TemporaryDirectory() as folder:
        server = SshServer(Path(folder))
        try:
            samplers: dict[str, Callable[[int], float]] = {
                name: partial(many_seconds, players[name], server) for name in EXECNETS
            }
            samplers[SSH] = partial(ssh_seconds, server)
            for _ in range(rounds):
                for name, sampler in samplers.items():
                    seconds = [sampler(count) for count in (1, MANY_SSH)]
                    for row, figure in zip((one, many, ratio), (*(1e3 * s for s in seconds), seconds[1] / seconds[0])):
                        row.samples.setdefault(name, []).append(figure)
        finally:
            server.close()
    return [one, many, ratio]


def measure(options: Options) -> list[Row]:
    """All rows; those over ssh where there is an sshd."""
    players = {name: options.player(name) for name in STARTERS}
    rows = measure_one(players, options.rounds) + measure_many(players, options.rounds)
    try:
        executable("sshd")
    except FileNotFoundError as missing:
        print(f"ssh is left out: {missing}")
    else:
        rows += measure_ssh(players, min(options.rounds, 5))
    for player in players.values():
        player.close()
    return rows


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure, play)
