"""execnet show: which interpreters can be reached from here, and how fast each of them answers."""

from __future__ import annotations

import sys

import execnet
from execnet._command import common
from execnet.script import command
from execnet.xspec import multiplied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    Row = dict[str, Any]

DEFAULT_SPECS = ("popen", "popen")
START_AND_MEASURE_SECONDS = 30.0
MEASURE_SECONDS = 0.25
MOST_ROUND_TRIPS = 1000
MOST_LARGE_MESSAGES = 64
MIB = 1 << 20

FIGURES = ("python", "implementation", "platform", "pid", "core", "start_ms", "round_trip_us", "mib_per_s")
HEADINGS = ("id", "spec", "Python", "platform", "pid", "core", "start ms", "round trip µs", "MiB/s")
NUMERIC = frozenset(("pid", "start ms", "round trip µs", "MiB/s"))
CORE_NAMES = {"c": "C", "portable": "portable"}

COMMANDS = """\
commands:
  execnet show SPEC...                     the same as without a command
  execnet run SPEC... -- CODE or FILE      run a program in each, see what all of them print
  execnet shell SPEC                       a Python prompt there
  execnet rsync SOURCE SPEC:DEST...        make folders there equal to one here
  execnet serve [HOST:PORT]                wait for those who connect with socket=HOST:PORT
  execnet timeline FILE                    a page and a table of what EXECNET_TIMELINE=FILE has recorded

Each has a --help of its own.
"""
EXAMPLES = """\
examples of specs:
  popen  popen//python=python3.9  ssh=user@host//python=python3  socket=host:port  popen//via=gw0

example:
  {program} popen ssh=build1//python=python3"""


def far_side(channel):
    # type: (execnet.Channel) -> None
    """Say who we are, then answer each item with its length (runs remotely, on Python 2.7 too)."""
    import os
    import platform
    import sys

    machine = os.uname()[4] if hasattr(os, "uname") else ""
    channel.send(
        {
            "python": platform.python_version(),
            "implementation": platform.python_implementation(),
            "platform": " ".join([sys.platform, machine]).rstrip(),
            "pid": os.getpid(),
            "core": channel.gateway._core,
        }
    )
    for item in channel:
        channel.send(len(item))


class Deadline:
    """Limit what is done inside the with block to a number of seconds; then TimeoutError is raised in it.

    A start has no timeout of its own, so the limit is an alarm signal: it ends any wait, as Ctrl-C does.
    Platforms without alarms only have the timeouts of the single receives.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __enter__(self) -> None:
        import signal

        if sys.platform != "win32" and hasattr(signal, "setitimer"):
            self._previous = signal.signal(signal.SIGALRM, self._expired)
            signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *exc_info: object) -> None:
        import signal

        if sys.platform != "win32" and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._previous)

    def _expired(self, signum: int, frame: object) -> None:
        raise TimeoutError(f"no answer within {self.seconds:g} seconds")


def examine(group: execnet.Group, spec: str, seconds: float) -> Row:
    """Start the gateway that `spec` describes and measure it, in at most `seconds`.

    The result has an `error` of None, or the reason why there are no figures, which are None then.
    """
    from time import perf_counter

    row: Row = {"id": None, "spec": spec, **dict.fromkeys(FIGURES), "error": None}
    try:
        xspec = execnet.XSpec(spec)
        row["id"] = xspec.id
        with Deadline(seconds):
            began = perf_counter()
            gateway = group.makegateway(xspec)
            row["start_ms"] = round((perf_counter() - began) * 1e3, 2)
            row["id"] = gateway.id
            channel = gateway.remote_exec(far_side)
            row.update(channel.receive(seconds))
            row["round_trip_us"] = round(_median_round_trip(channel, seconds) * 1e6, 2)
            row["mib_per_s"] = round(_large_messages_per_second(channel, seconds), 1)
            channel.close()
    except KeyError as failure:
        row["error"] = f"KeyError: no gateway has the id {failure}"
    except Exception as failure:  # whatever a spec leads to is what there is to say of it
        row["error"] = _reason(failure)
    return row


def _reason(failure: Exception) -> str:
    return f"{type(failure).__name__}: {failure}".strip()


def _median_round_trip(channel: execnet.Channel, seconds: float) -> float:
    """Seconds between sending a small item and holding the answer."""
    from statistics import median

    def round_trip() -> None:
        channel.send(b"")
        channel.receive(seconds)

    round_trip()  # the first one pays for what is set up on first use
    return median(_repeat(round_trip, MOST_ROUND_TRIPS))


def _large_messages_per_second(channel: execnet.Channel, seconds: float) -> float:
    """1 MiB messages that reach the far side per second, sent without waiting for one before the next."""
    from time import perf_counter

    message = bytes(MIB)

    def deliver(count: int) -> float:
        began = perf_counter()
        for _ in range(count):
            channel.send(message)
        for _ in range(count):
            channel.receive(seconds)
        return perf_counter() - began

    slowest = max(_repeat(lambda: deliver(1), 3))
    count = min(MOST_LARGE_MESSAGES, max(1, int(MEASURE_SECONDS / slowest)))
    return count / deliver(count)


def _repeat(action: Callable[[], object], most: int) -> list[float]:
    """Durations of up to `most` runs of `action`, fewer where they take long."""
    from time import perf_counter

    durations: list[float] = []
    now = perf_counter()
    end = now + MEASURE_SECONDS
    while len(durations) < most and (now < end or not durations):
        action()
        before, now = now, perf_counter()
        durations.append(now - before)
    return durations


def table(rows: Sequence[Row]) -> str:
    """`rows` as aligned lines under headings; a failed one has its reason in place of the figures."""
    cells = [HEADINGS, *(_cells(row) for row in rows)]
    complete = [line for line in cells if len(line) == len(HEADINGS)]
    widths = [max(len(line[0]) for line in cells), max(len(line[1]) for line in cells)]
    widths += [max(len(line[column]) for line in complete) for column in range(2, len(HEADINGS))]
    return "\n".join(_aligned(line, widths) for line in cells)


def _cells(row: Row) -> tuple[str, ...]:
    place = (common.shown(row["id"] or "-"), common.shown(row["spec"]))
    if row["error"] is not None:
        return (*place, "failed: " + row["error"])
    return (
        *place,
        f"{row['implementation']} {row['python']}",
        row["platform"],
        str(row["pid"]),
        CORE_NAMES[row["core"]],
        f"{row['start_ms']:.1f}",
        f"{row['round_trip_us']:.1f}",
        f"{row['mib_per_s']:.0f}",
    )


def _aligned(line: tuple[str, ...], widths: Sequence[int]) -> str:
    if len(line) < len(HEADINGS):
        begin = f"{line[0]:<{widths[0]}}  {line[1]:<{widths[1]}}  "
        return begin + line[2].replace("\n", "\n" + " " * len(begin))
    padded = [
        cell.rjust(width) if heading in NUMERIC else cell.ljust(width)
        for heading, cell, width in zip(HEADINGS, line, widths)
    ]
    return "  ".join(padded).rstrip()


def show_progress(text: str) -> None:
    """Put `text` in the last line of the terminal, where stderr is one; an empty text clears the line."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K" + text)
        sys.stderr.flush()


def report(specs: Sequence[str], seconds: float) -> list[Row]:
    """One row for each spec; all gateways live until the last is measured, so `via` may name earlier ones."""
    group = execnet.Group()
    rows = []
    try:
        for spec in several(specs):
            show_progress(f"starting {common.shown(spec)} ...")
            rows.append(examine(group, spec, seconds))
    finally:
        show_progress("")
        group.terminate(common.TERMINATE_SECONDS)
    return rows


def several(specs: Sequence[str]) -> Iterator[str]:
    """The specs, with ``8*popen`` as eight; what can't be multiplied fails when it is started."""
    for spec in specs:
        try:
            yield from map(str, multiplied([spec]))
        except (AttributeError, ValueError):
            yield spec


def as_json(rows: Sequence[Row]) -> str:
    """`rows` as one JSON object, with the version and the core of this process beside them."""
    import json

    return json.dumps({**_here(), "gateways": rows}, indent=2)


def _here() -> Row:
    return {"execnet": execnet.__version__, "core": execnet.gateway_base.core}


def _headline() -> str:
    import platform

    here = _here()
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"execnet {here['execnet']} on {python}, {CORE_NAMES[here['core']]} core"


def main(program: str, arguments: Sequence[str]) -> int:
    """Show what `arguments` ask for; 1: a gateway failed."""
    parser = common.new_parser(
        program,
        "Start a gateway for each spec, say what is on the other side and how fast it answers.",
        ("" if program.endswith(" show") else COMMANDS + "\n") + EXAMPLES.format(program=program),
    )
    parser.add_argument("specs", nargs="*", metavar="SPEC", help="what to start; two times popen where none is given")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument(
        "--timeout",
        type=common.seconds,
        default=START_AND_MEASURE_SECONDS,
        metavar="SECONDS",
        help="give up on a gateway after this time (default: %(default)g)",
    )
    parser.add_argument("--version", action="version", version=f"execnet {execnet.__version__}")
    options = parser.parse_args(arguments)

    rows = report(options.specs or DEFAULT_SPECS, options.timeout)
    command.show(as_json(rows) if options.json else _headline() + "\n\n" + table(rows))
    return common.FAILED if any(row["error"] is not None for row in rows) else 0
