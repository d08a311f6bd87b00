"""Test the explorer: break the machines in one place at a time, and see what finds it.

A mutant leaves out one statement or one part of a condition, or takes a condition as true or as false, or always one
side of a choice. The explorer runs over it with the machines' own assertions off, the small worlds first, then all; if
it finds nothing, again with them on. What survives that is a hole in the model, or code that does nothing. Writes
doc/model_mutants.txt.
"""

from __future__ import annotations

import argparse
import functools
import re
import resource
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import explorer

TABLE = explorer.HERE.parents[1] / "doc" / "model_mutants.txt"
# Of the processor. The unbroken machines need less than a third of that.
SHORT_SECONDS, SECONDS = 30, 600
MEMORY = 6 << 30

# The assertions themselves, and what only they use.
NOT_BROKEN = {"reading_check", "writing_check", "waits"}
TYPES = r"bool|size_t|unsigned|Reading\w*|Writing\w*|Take|Arrival|Leave|Turn|Help|Hand|Behind"
DECLARATION = re.compile(rf"^(const |struct )*({TYPES})\b[ *]")
SKIPPED = re.compile(r"^(assert\(|\(void\)|reading_check|writing_check|return\b|break;|case |default:)")

# What begins or ends what is asked.
MARK = re.compile(r"&&|\|\||[();?:,]|(?<![=!<>])=(?!=)|\breturn\b")
STATEMENT_END = re.compile(r"[;{}]|\*/")


@dataclass
class Mutant:
    path: Path
    text: str = field(repr=False)
    function: str
    what: str
    start: int
    end: int
    new: str
    found_by: str = ""
    world: str = ""
    check: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.path.name, self.function, self.what)


def matching(text: str, start: int) -> int:
    """The index behind the parenthesis that closes the one at `start`."""
    depth = 0
    for at in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return at + 1
    raise ValueError(text[start : start + 40])


def one_line(text: str) -> str:
    return " ".join(text.split())


def functions(text: str) -> list[tuple[str, str, int, int]]:
    """(type, name, start, end) of the bodies: a type's line, the name at the line's start, and a brace at its own."""
    found = []
    for match in re.finditer(r"^([\w *]+)\n(\w+)\([^{;]*?\)\n\{\n(.*?)^\}$", text, re.M | re.S):
        found.append((match[1], match[2], match.start(3), match.end(3)))
    return found


def conditions(path: Path, text: str, name: str, start: int, end: int) -> list[Mutant]:
    mutants = []
    for match in re.finditer(r"\b(if|while) \(", text[start:end]):
        opening = start + match.end() - 1
        closing = matching(text, opening)
        told = one_line(text[start + match.start() : closing])
        values = ("1", "0") if match[1] == "if" else ("0",)
        for value in values:
            truth = "true" if value == "1" else "false"
            mutants.append(Mutant(path, text, name, f"{told} is {truth}", opening, closing, f"({value})"))
    return mutants


def statements(path: Path, text: str, kind: str, name: str, start: int, end: int) -> list[Mutant]:
    mutants = []
    for match in re.finditer(r"^ +([^\s/*{}#][^;{}]*;)$", text[start:end], re.M):
        told = one_line(match[1])
        at, behind = start + match.start(1), start + match.end(1)
        if re.match(r"(if|while|for|switch|case|else)\b", told):
            continue
        value = re.match(r"(?:return|bool \w+ =) (?!true;|false;)([^?]+);$", told)
        if value and (told.startswith("bool") or kind.split()[-1] == "bool"):
            for truth in ("true", "false"):
                new = re.sub(r"(return |= ).*", rf"\g<1>{truth};", told)
                mutants.append(Mutant(path, text, name, f"{told} with {truth}", at, behind, new))
        choice = re.match(r"(.*?(?:return|[^=!<>]=) )([^?]+) \? ([^?:]+) : ([^?:]+);$", told)
        if choice:
            for new in (choice[3], choice[4]):
                mutants.append(Mutant(path, text, name, f"{told} always {new}", at, behind, f"{choice[1]}{new};"))
        if not SKIPPED.match(told) and not DECLARATION.match(told):
            mutants.append(Mutant(path, text, name, f"without {told}", at, behind, ";"))
    return mutants


class Mark(NamedTuple):
    sign: str
    start: int
    end: int
    depth: int  # parentheses are as deep as what is in them


def marks_in(text: str, start: int, end: int) -> list[Mark]:
    marks, depth = [], 0
    for match in MARK.finditer(text, start, end):
        depth += match[0] == "("
        marks.append(Mark(match[0], *match.span(), depth))
        depth -= match[0] == ")"
    return marks


def operands(path: Path, text: str, name: str, start: int, end: int) -> list[Mutant]:
    """Where several things are asked together, one of them is not asked."""
    mutants = []
    marks = marks_in(text, start, end)
    for sign in marks:
        if sign.sign not in ("&&", "||"):
            continue
        near = [mark for mark in marks if mark.depth == sign.depth and (mark.sign != "&&" or sign.sign == "&&")]
        before = [mark for mark in near if mark.start < sign.start][-1]
        after = next(mark for mark in near if mark.start > sign.start)
        begin = [match.end() for match in STATEMENT_END.finditer(text, 0, sign.start)][-1]
        end_of_it = next(STATEMENT_END.finditer(text, sign.end)).start()
        parts = [(sign.end, after.start, sign.start, after.start)]
        if before.sign != sign.sign:
            parts.insert(0, (before.end, sign.start, before.end, sign.end))
        if text[begin:].lstrip().startswith("assert("):
            continue
        for first, last, cut_from, cut_to in parts:
            told = f"{one_line(text[begin:end_of_it])} without {one_line(text[first:last])}"
            mutants.append(Mutant(path, text, name, told, cut_from, cut_to, " "))
    return mutants


def mutants_of(path: Path) -> list[Mutant]:
    text = path.read_text()
    mutants = []
    for kind, name, start, end in functions(text):
        if name not in NOT_BROKEN:
            mutants += statements(path, text, kind, name, start, end)
            mutants += conditions(path, text, name, start, end)
            mutants += operands(path, text, name, start, end)
    return sorted(mutants, key=lambda mutant: mutant.start)


def limit(seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(program: Path, arguments: list[str], seconds: int) -> tuple[str, str] | None:
    """(world, what was violated), None if nothing was."""
    command = [str(program), *arguments]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, preexec_fn=functools.partial(limit, seconds)
    )
    if ended.returncode == 0:
        return None
    lines = [line for line in ended.stdout.splitlines() if "VIOLATION: " in line]
    if lines:
        world, _, check = lines[0].partition(": VIOLATION: ")
        return world, check
    last = (ended.stdout.splitlines() or ["none"])[-1][:60].strip()
    return f"(the one after: {last})", "crashes or does not end"


def try_out(mutant: Mutant, folder: Path, number: int, is_short: bool) -> Mutant:
    machine = folder / f"{number}-{mutant.path.name}"
    text = mutant.text
    machine.write_text(text[: mutant.start] + mutant.new + text[mutant.end :])
    others = [folder / f"{path.stem}.o" for path in [*explorer.WORLDS, *explorer.MACHINES] if path != mutant.path]
    part = mutant.path.stem + ":"
    for found_by, flags in (("explorer", ["-w", "-O1", "-g0", "-DNDEBUG"]), ("assertion", ["-w", "-O1", "-g0"])):
        program = folder / f"{number}-{found_by}"
        try:
            explorer.build(program, [machine, *others], flags)
        except subprocess.CalledProcessError:
            mutant.found_by = "compiler"
            return mutant
        seen = run(program, [part, "--short"], SHORT_SECONDS)
        if seen is None and not is_short:
            seen = run(program, [part], SECONDS)
        program.unlink()
        if seen is not None:
            mutant.found_by = found_by
            mutant.world, mutant.check = seen
            return mutant
    mutant.found_by = "SURVIVED"
    return mutant


def cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("`", "\\`")


def write_table(mutants: list[Mutant]) -> None:
    def count(found_by: str) -> int:
        return sum(mutant.found_by == found_by for mutant in mutants)

    lines = [
        ".. Written by testing/model/mutants.py",
        "",
        f"Of {len(mutants)} mutants, the explorer itself finds {count('explorer')}, "
        f"the machines' own assertions {count('assertion')} more; {count('SURVIVED')} survive.",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "   :widths: 15 40 15 30",
        "",
        "   * - function",
        "     - mutant",
        "     - found by",
        "     - world and violation",
    ]
    for mutant in mutants:
        seen = f"{mutant.world}: {mutant.check}" if mutant.world else mutant.check
        lines += [
            f"   * - {mutant.function}",
            f"     - ``{mutant.what}``",
            f"     - {mutant.found_by}",
            f"     - {cell(seen)}",
        ]
    TABLE.write_text("\n".join(lines) + "\n")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="mutants whose file, function or text holds this")
    parser.add_argument("--list", action="store_true", help="name the mutants and try none")
    parser.add_argument("--short", action="store_true", help="only in the worlds of the short form; write no table")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    mutants = [mutant for path in explorer.MACHINES for mutant in mutants_of(path)]
    mutants = [mutant for mutant in mutants if options.only in " ".join(mutant.key)]
    if options.list:
        print(*(" ".join(mutant.key) for mutant in mutants), sep="\n")
        return 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        for path in [*explorer.WORLDS, *explorer.MACHINES]:
            explorer.build(Path(folder) / f"{path.stem}.o", [path], ["-c"])
        tried = [
            pool.submit(try_out, mutant, Path(folder), number, options.short) for number, mutant in enumerate(mutants)
        ]
        for mutant in (future.result() for future in as_completed(tried)):
            print(mutant.found_by, *mutant.key, "--", mutant.world, mutant.check, flush=True)
    mutants = [mutant for mutant in mutants if mutant.found_by != "compiler"]
    if not options.only and not options.short:
        write_table(mutants)
    survivors = sum(mutant.found_by == "SURVIVED" for mutant in mutants)
    print(f"{len(mutants)} mutants, {survivors} survive")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
