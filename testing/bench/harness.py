"""What all benchmarks share: peers in processes of their own, asked in turn; medians, goals, tables, JSON.

A benchmark is a program. Run by a person it is the umpire: it starts itself once more for each peer
(``--play NAME``), with the environment that peer needs, and asks all of them for one sample after another, round
by round, so that whatever else the machine does meanwhile meets them all. The figure of a peer is the median of
its samples.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import select
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support import oracle

OURS, PORTABLE, BEFORE = "execnet", "execnet portable", "execnet 2.1"
SPINLESS, COPYING = "execnet without spinning", "execnet without zero copy"
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
ANSWER_SECONDS = 180  # a peer that takes longer for a sample hangs


class Goal(NamedTuple):
    """A bound on `of`'s figure: absolute, or so many times `against`'s."""

    limit: float
    against: str = ""
    at_least: bool = False
    of: str = OURS

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        whose = "" if self.of == OURS else f"{self.of} "
        return f"{whose}{sign} {self.limit:g}" + (f" × {self.against}" if self.against else "")


NO_SLOWER = Goal(1.0, BEFORE, of=PORTABLE)


@dataclass
class Row:
    """The samples of one kind of work: peer to figures in `unit`, in the order they were taken."""

    name: str
    unit: str
    goals: list[Goal] = field(default_factory=list)
    samples: dict[str, list[float]] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """The figure of a peer."""
        return statistics.median(self.samples[name])

    def ratio(self, name: str, against: str) -> float:
        """How many times another's figure a peer's is; nothing is as much as nothing."""
        mine, other = self.median(name), self.median(against)
        return mine / other if other else math.inf if mine else 1.0

    def verdicts(self) -> list[tuple[Goal, float, bool]]:
        """For each goal whose peers took part: the figure or ratio reached, and whether that is enough."""
        found = []
        for goal in self.goals:
            if goal.of in self.samples and (not goal.against or goal.against in self.samples):
                reached = self.ratio(goal.of, goal.against) if goal.against else self.median(goal.of)
                shown = round(reached, 2)  # less is no difference
                found.append((goal, reached, shown >= goal.limit if goal.at_least else shown <= goal.limit))
        return found


# ---- peers ----


class Player:
    """A peer in its own process: the program `file`, run with ``--play NAME``."""

    def __init__(self, file: str, name: str, environment: Mapping[str, str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, file, "--play", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**inherited(), **environment},
            cwd=os.sep,  # a worker looks for execnet in its working directory first
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call the method over there; RuntimeError if the process ends or does not answer in time."""
        self._input.write(json.dumps([method, *arguments]).encode() + b"\n")
        self._input.flush()
        readable, _, _ = select.select([self._output], [], [], ANSWER_SECONDS)
        answer = self._output.readline() if readable else b""
        if not answer:
            self._process.kill()
            raise RuntimeError(f"{self.name} did not answer {method}{tuple(arguments)}")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        self._input.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()


def play(methods: Mapping[str, Callable[..., Any]]) -> None:
    """Be the other end of a Player: answer what stdin asks, until it ends."""
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        print(json.dumps(methods[method](*arguments)), flush=True)


def inherited() -> dict[str, str]:
    """This process's environment, but what is compiled once is kept, as it is for a user."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def environment_of(name: str, oracle_folder: str) -> dict[str, str]:
    """What a peer's environment has beside ours."""
    if name == BEFORE:
        return {"PYTHONPATH": oracle_folder}
    return {PORTABLE: {"EXECNET_PURE": "1"}, SPINLESS: {"EXECNET_SPIN": "0"}}.get(name, {})


def time_of(function: Callable[[int], object], count: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that function(count) takes by that clock."""
    start = clock()
    function(count)
    return clock() - start


def count_for(sample: Callable[[int], float], seconds: float, most: int) -> int:
    """How much of the work takes about so many seconds; sample(count) gives the seconds for that much."""
    count = 1
    while count < most:
        took = sample(count)
        if took > seconds / 4:
            return min(most, max(1, round(count * seconds / took)))
        count *= 4
    return most


def take_turns(row: Row, samplers: Mapping[str, Callable[[], float]], rounds: int) -> Row:
    """Add to the row: one sample of each peer in turn, `rounds` times."""
    for _ in range(rounds):
        for name, sampler in samplers.items():
            row.samples.setdefault(name, []).append(sampler())
    return row


# ---- tables ----


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.0f}" if abs(value) >= 99.5 else f"{value:.3g}"


def columns_of(rows: Iterable[Row]) -> list[str]:
    """All peers, in the order in which they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row.samples))


def cells_of(row: Row, names: Iterable[str]) -> list[str]:
    """The row as text: its name and unit, the figures, what is to be reached, and what is."""
    figures = [number(row.median(name)) if name in row.samples else "" for name in names]
    reached = "; ".join(f"{goal}: {number(value)}{'' if met else ' MISSED'}" for goal, value, met in row.verdicts())
    return [f"{row.name}, {row.unit}", *figures, reached]


def table(rows: list[Row]) -> str:
    """The rows as aligned text."""
    names = columns_of(rows)
    lines = [["", *names, "to reach: reached"], *(cells_of(row, names) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names) + 1)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:-1], widths[1:])), line[-1]]
        ).rstrip()
        for line in lines
    )


# ---- JSON ----


def machine() -> dict[str, str]:
    """What the figures were measured on, and of what."""
    import execnet
    from execnet import gateway_base

    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    return {
        "processor": model or platform.machine(),
        "cpus": str(len(os.sched_getaffinity(0))),
        "memory": f"{int(memory) / 2**20:.1f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}" + FREE_THREADED * "t",
        "execnet": f"{execnet.__version__}, core: {gateway_base.core}",
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:  # not Linux
        return []


def as_json(title: str, rows: list[Row], command: str, about: dict[str, str]) -> dict[str, Any]:
    """The result of a benchmark as it is written to its file."""
    plain = [{**asdict(row), "goals": [goal._asdict() for goal in row.goals]} for row in rows]
    return {"title": title, "command": command, "machine": about, "rows": plain}


def from_json(result: dict[str, Any]) -> list[Row]:
    """The rows of a file written from as_json()."""
    return [Row(**{**row, "goals": [Goal(**goal) for goal in row["goals"]]}) for row in result["rows"]]


# ---- the command line ----


@dataclass
class Options:
    """How a benchmark is run."""

    rounds: int
    seconds: float
    quick: bool
    oracle: str
    file: str

    def environment(self, name: str) -> dict[str, str]:
        """What the peer `name` needs in its environment."""
        return environment_of(name, self.oracle)

    def player(self, name: str) -> Player:
        """Start a peer."""
        return Player(self.file, name, self.environment(name))


def run(
    file: str,
    doc: str,
    measure: Callable[[Options], list[Row]],
    player: Callable[[str], None] | None = None,
    rounds: int = 11,
    seconds: float = 0.1,
) -> None:
    """The main function of the benchmark `file`: measures, prints, writes JSON; or plays, where it is told to."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few and short samples, to see that it works")
    parser.add_argument("--rounds", type=int, help=f"samples of each figure (default: {rounds})")
    parser.add_argument("--seconds", type=float, help=f"about how long a sample takes (default: {seconds})")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, unless --quick")
    parser.add_argument("--oracle", metavar="FOLDER", help="where execnet 2.1.2 is (default: installed as needed)")
    parser.add_argument("--play", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.play:
        assert player is not None
        player(options.play)
        return
    chosen = Options(
        rounds=options.rounds or (3 if options.quick else rounds),
        seconds=options.seconds or (seconds / 4 if options.quick else seconds),
        quick=options.quick,
        oracle=os.path.abspath(options.oracle or oracle.folder()),
        file=os.path.abspath(file),
    )
    about = machine()
    title = doc.splitlines()[0].rstrip(".")
    print(f"{title} (execnet {about['execnet']}; {about['python']})", flush=True)
    rows = measure(chosen)
    print(table(rows), end="\n\n", flush=True)
    if options.json and not options.quick:
        command = f"python testing/bench/{Path(file).name} --rounds {chosen.rounds}"
        Path(options.json).parent.mkdir(parents=True, exist_ok=True)
        Path(options.json).write_text(json.dumps(as_json(title, rows, command, about), indent=1) + "\n")
