"""make matrix: every Python found here as the initiator, with every one found as the far side, over each transport.

Each cell is a program of its own, cell.py, run by the initiator's interpreter over the package under test: over the C
core where that interpreter's headers are here, else over the portable one. Prints what fails, and a table, which is
also written as a page of the documentation.

    python testing/support/matrix.py [--jobs N] [--page FILE] [--held FILE] [--initiators NAME ...] [--far NAME ...]
        [--over NAME ...]

With --held a run can be taken up again, or be made in parts: the cells that hold are noted in that file, and those
that are in it already are not run; the page says how many these are.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

# Run as a program, it finds what is beside its folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support import corebuild, interpreters, leaks, packages
from support.interpreters import Interpreter
from support.socketserver import SocketServer
from support.sshd import SshServer

CELL = Path(__file__).with_name("cell.py")
SERVER = packages.CHECKOUT / "execnet" / "script" / "socketserver.py"
SECONDS = 240.0
SERVER_SECONDS = 120.0
KINDS = ("popen", "ssh", "socket", "via")
PAGE = """\
Which Python with which
=======================

.. This page is written by ``make matrix``.

Which Pythons start gateways, and on which: what ``make matrix`` printed last, on one machine. Each column is a Python
that starts them, each row one that is started; a version alone is that of a CPython, with a "t" where it has no GIL.

Each pair is tried over {kinds}: values of every type both ways, large ones too;
errors of either side; callbacks on both; status; RSync; and an end after which no process, thread or descriptor is
left, though a task never ends. "all" says that all of it holds over each of these.

{table}

{summary}
"""


class Cell(NamedTuple):
    """What is tried, where it failed (empty if it did not), and whether that is known from a run before this one."""

    initiator: Interpreter
    far: Interpreter
    kind: str
    failed_in: str = ""
    tried_before: bool = False


class Initiator:
    """An interpreter with the package for it."""

    def __init__(self, python: Interpreter, folder: Path) -> None:
        self.python = python
        with_core = python.implementation == "cpython" and corebuild.compiler() and corebuild.headers(python)
        self.core = "c" if with_core else "portable"
        self.folder = folder / python.name
        self.made: Path | None = None
        self.lock = threading.Lock()

    def package(self) -> Path:
        """Where its package is, made by the first who asks."""
        with self.lock:
            if self.made is None:
                portable = self.core == "portable"
                self.made = (
                    corebuild.portable_package(self.folder) if portable else corebuild.package(self.folder, self.python)
                )
            return self.made

    def run(self, arguments: Iterable[str]) -> tuple[str, str]:
        """Run the cell's program: which part of it failed, and what it wrote; both are empty where all went well."""
        environment = packages.environment(PYTHONPATH=str(self.package()), EXECNET_TEST_CORE=self.core)
        program = subprocess.Popen(
            [self.python, CELL, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            said, errors = program.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            program.kill()
            said, errors = program.communicate()
            errors += f"not done in {SECONDS} seconds\n"
        words = said.splitlines() or ["start"]
        return ("", "") if program.returncode == 0 and words[-1] == "all" else (words[-1], errors)


class Held:
    """The cells known to hold, a line each in a file if one is given."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.lines = set(path.read_text("utf-8").splitlines()) if path and path.exists() else set()
        self.lock = threading.Lock()

    @staticmethod
    def line(cell: Cell) -> str:
        return f"{cell.initiator.full_name} to {cell.far.full_name} over {cell.kind}"

    def __contains__(self, cell: Cell) -> bool:
        return self.line(cell) in self.lines

    def add(self, cell: Cell) -> None:
        if self.path:
            with self.lock, self.path.open("a", encoding="utf-8") as file:
                file.write(f"{self.line(cell)}\n")


class FarSides:
    """What the far sides need to be reached: a server for ssh, and one for each that is reached by a socket."""

    def __init__(self, folder: Path) -> None:
        self.ssh = SshServer(folder)
        self.server = folder / "alone.py"
        self.server.write_bytes(SERVER.read_bytes())

    def over(self, kind: str, far: Interpreter, use: Callable[..., tuple[str, str]]) -> tuple[str, str]:
        """What `use` gives, called with the arguments for the cell's program."""
        if kind == "popen":
            return use(["far", f"popen//id=far//python={far}"])
        if kind == "ssh":
            return use(["far", self.ssh.spec(id="far", python=far)])
        if kind == "via":
            return use(["far", f"popen//id=first//python={far}", f"popen//id=far//via=first//python={far}"])
        try:
            server = SocketServer(far, [str(self.server)], seconds=SERVER_SECONDS)
        except (RuntimeError, TimeoutError) as error:
            return "the socket server's start", f"{error}\n"
        try:
            return use(["far", server.spec(id="far")])
        finally:
            server.close()


def short(python: Interpreter) -> str:
    """Its name in the table, which has little room."""
    return python.full_name.replace("CPython ", "")


def table(cells: list[Cell]) -> str:
    """The cells as reStructuredText: what fails where, "all" where nothing does."""
    initiators = list(dict.fromkeys(cell.initiator for cell in cells))
    rows = [["", *(short(initiator) for initiator in initiators)]]
    for far in dict.fromkeys(cell.far for cell in cells):
        row = [short(far)]
        for initiator in initiators:
            here = [cell for cell in cells if (cell.initiator, cell.far) == (initiator, far)]
            row.append(", ".join(f"not {cell.kind}" for cell in here if cell.failed_in) or "all")
        rows.append(row)
    lines = [".. list-table::", "   :header-rows: 1", "   :stub-columns: 1", ""]
    for row in rows:
        lines += [f"   {'* -' if place == 0 else '  -'} {word}".rstrip() for place, word in enumerate(row)]
    return "\n".join(lines)


def summary(cells: list[Cell], portable: list[str]) -> str:
    """How many cells hold, which do not, what could not be tried."""
    failed = [cell for cell in cells if cell.failed_in]
    lines = [f"{len(cells) - len(failed)} of {len(cells)} cells hold."]
    before = sum(cell.tried_before for cell in cells)
    if before:
        lines[0] += f" {before} of them were tried in runs before the last one."
    if portable:
        lines[0] += f" The portable core was that of {', '.join(portable)}; the others have their C core."
    if failed:
        lines += ["", "Those that do not:", ""]
        lines += [f"* {c.initiator.full_name} to {c.far.full_name} over {c.kind}: {c.failed_in}" for c in failed]
    lacking = [*interpreters.lacking(), *([] if interpreters.jython() else ["jython"])]
    lines += [""] + ([f"Not on that machine: {', '.join(lacking)}."] if lacking else [])
    return "\n".join(lines).rstrip()


def chosen(pythons: list[Interpreter], names: list[str]) -> list[Interpreter]:
    return [python for python in pythons if not names or python.name in names]


def main(arguments: list[str]) -> int:
    """Run all cells, print and write what came of them; 1 where one fails or anything is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many cells at a time")
    parser.add_argument("--page", type=Path, help="where to write the page, of these cells")
    parser.add_argument("--held", type=Path, help="a file of the cells that hold, which are not run again")
    parser.add_argument("--initiators", nargs="*", default=[], metavar="NAME", help="only these, as cpython3.13t")
    parser.add_argument("--far", nargs="*", default=[], metavar="NAME", help="only these, as cpython2.7")
    parser.add_argument("--over", nargs="*", default=KINDS, choices=KINDS, help="only these transports")
    options = parser.parse_args(arguments)
    leaks.mark_session()
    held = Held(options.held)
    jython = interpreters.jython()
    far_sides = [*interpreters.found(), *([jython] if jython else [])]
    pythons = [python for python in interpreters.found() if python.version >= (3, 9)]
    with tempfile.TemporaryDirectory(prefix="execnet-matrix-") as name:
        initiators = [Initiator(python, Path(name)) for python in chosen(pythons, options.initiators)]
        reach = FarSides(Path(name))

        def try_one(what: tuple[Initiator, Interpreter, str]) -> Cell:
            initiator, far, kind = what
            holds = Cell(initiator.python, far, kind)
            if holds in held:
                return holds._replace(tried_before=True)
            failed_in, errors = reach.over(kind, far, initiator.run)
            if failed_in:
                print(f"{initiator.python.name} to {far.name} over {kind}: {failed_in}\n{errors}", flush=True)
                return holds._replace(failed_in=failed_in)
            held.add(holds)
            return holds

        chosen_far = chosen(far_sides, options.far)
        every = [(initiator, far, kind) for initiator in initiators for far in chosen_far for kind in options.over]
        try:
            with ThreadPoolExecutor(options.jobs) as pool:
                cells = list(pool.map(try_one, every))
        finally:
            reach.ssh.close()
    left = leaks.end_all_processes()
    portable = [initiator.python.full_name for initiator in initiators if initiator.core == "portable"]
    page = PAGE.format(kinds=", ".join(options.over), table=table(cells), summary=summary(cells, portable))
    print(page, *(f"left behind, killed now: {line}" for line in left), sep="\n")
    if options.page:
        options.page.write_text(page, "utf-8")
    return 1 if left or any(cell.failed_in for cell in cells) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
