"""The commands beside show: run, shell, rsync, serve; what they print, their exit statuses, and what they leave."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from support.initiator import FORKING_ENVIRON
from support.interpreters import Interpreter
from support.processes import end, wait_until
from support.sshd import SshServer
from support.terminal import CTRL_C, CTRL_D, Terminal

from execnet._command import common

SECONDS = 60.0
PROGRAM = [sys.executable, "-m", "execnet"]
COMMANDS = ("show", "run", "shell", "rsync", "serve", "timeline")
ASCII: dict[str, Any] = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
Result = subprocess.CompletedProcess[str]


def execnet(*arguments: object, given: str | None = None, cwd: Path | None = None, **environment: str) -> Result:
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        env={**os.environ, "PYTHONUTF8": "1", **environment},
        input=given or "",
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        cwd=cwd,
        timeout=SECONDS,
    )


def says(result: Result, status: int, *lines: str) -> bool:
    """Whether it ended so, and these patterns are all that stderr has, line by line."""
    said = result.stderr.splitlines()
    assert (result.returncode, len(said)) == (status, len(lines)), result
    for line, pattern in zip(said, lines):
        assert re.search(pattern, line), said
    return True


# all of them


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_the_exit_statuses(name: str) -> None:
    result = execnet(name, "--help")
    assert says(result, 0)
    assert f"\n  python -m execnet {name} " in result.stdout
    assert "0 all went well" in result.stdout
    assert all(len(line) <= 100 for line in result.stdout.splitlines())


def test_the_help_of_the_whole_names_each_command() -> None:
    assert all(f"\n  execnet {name} " in execnet("--help").stdout for name in COMMANDS)


def test_show_is_what_there_is_without_a_command() -> None:
    assert execnet("show", "popen//id=one").stdout.split()[:3] == execnet("popen//id=one").stdout.split()[:3]
    assert execnet("show", "popen//id=one").returncode == 0


@pytest.mark.parametrize("name", ["run", "shell", "rsync"])
@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nonsense", "no gateway type found for 'nonsense'"),
        ("popen//popen", "popen//popen: duplicate key"),
        ("popen//_x=1", "popen//_x=1: '_x' not a valid XSpec key"),
        ("popen//nice=x", "nice= needs a whole number"),
        ("popen//via=nobody", "no gateway has the id 'nobody'"),
        ("popen//execmodel=green", "green"),
    ],
)
def test_a_spec_that_cannot_be_right_is_wrong_use(name: str, spec: str, said: str, tmp_path: Path) -> None:
    arguments: dict[str, list[object]] = {"run": [spec, "--", "1"], "shell": [spec], "rsync": [tmp_path, f"{spec}:x"]}
    assert says(execnet(name, *arguments[name]), 2, f"^python -m execnet {name}: .*{re.escape(said)}")


@pytest.mark.parametrize("arguments", ["run popen//execmodel=gevent -- 1", "shell popen//execmodel=gevent"])
def test_a_green_model_is_refused_where_output_is_waited_for(arguments: str) -> None:
    assert says(execnet(*arguments.split()), 2, "execmodel=gevent can't be used here")


@pytest.mark.parametrize("name", ["run", "shell", "rsync"])
@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("popen//python=/no/such/python", "popen//python=/no/such/python"),
        ("socket=127.0.0.1:1", "127.0.0.1:1"),
        ("popen//chdir=/nowhere/x", "popen//chdir=/nowhere/x: FileNotFoundError: .*/nowhere/x"),
        ("popen//python=sh -c 'exec sleep 1000'//timeout=0.5", "sleep 1000.* did not start within 0.5 seconds"),
    ],
)
def test_a_gateway_that_does_not_start_is_named(name: str, spec: str, said: str, tmp_path: Path) -> None:
    target = f"{spec}:{tmp_path}/x"
    arguments: dict[str, list[object]] = {"run": [spec, "--", "1"], "shell": [spec], "rsync": [tmp_path, target]}
    assert says(execnet(name, *arguments[name]), 1, f"^python -m execnet {name}: .*{said}")


WRONG = """
run|run popen|run -- 1|run popen --|run --timeout=0 popen -- 1|run --what popen -- 1
shell|shell popen popen
rsync|rsync .|rsync . popen|rsync . popen:|rsync . :x|rsync /no/such/folder popen:x
serve a b|serve nonsense|serve localhost:70000
"""


@pytest.mark.parametrize("line", re.split(r"[|\n]", WRONG.strip()))
def test_wrong_use_has_status_2_and_names_the_command(line: str) -> None:
    arguments = line.split()
    result = execnet(*arguments)
    assert result.returncode == 2
    assert re.match(rf"python -m execnet {arguments[0]}: ", result.stderr.splitlines()[-1])
    assert "Traceback" not in result.stderr


BROKEN = {
    "run": "run popen -- 'print(1)'",
    "shell": "shell popen",
    "rsync": "rsync --verbose . popen:../copy",
    "help": "run --help",
}


@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [
        ("| true", 141, ""),
        (">/dev/full", 2, "cannot write the output: No space left on device"),
        (">&-", 2, "cannot write the output: Bad file descriptor"),
        ("2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
    ],
)
@pytest.mark.parametrize("name", BROKEN)
def test_broken_streams_give_one_line_at_most(
    name: str, redirection: str, status: int, said: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("1")
    line = f"{shlex.join(PROGRAM)} {BROKEN[name]} {redirection}; exit ${{PIPESTATUS[0]}}"
    run = subprocess.run(
        ["bash", "-c", line],
        input=b"print(1)\n",
        capture_output=True,
        timeout=SECONDS,
        cwd=source,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
    assert run.stderr.decode() == (f"python -m execnet: {said}\n" if said else "")
    assert run.returncode == status


# run


def test_what_each_prints_comes_in_whole_lines_behind_its_id() -> None:
    code = "import sys; [print('line', i, flush=True) for i in range(200)]; print('end', end='')"
    result = execnet("run", "popen//id=one", "popen", "--", code)
    assert says(result, 0)
    lines = [f"line {number}" for number in range(200)] + ["end"]
    for name in ("one", "gw0"):
        shown = [line.partition(": ")[2] for line in result.stdout.splitlines() if line.startswith(f"{name}: ")]
        assert shown == lines
    assert len(result.stdout.splitlines()) == 2 * len(lines)


def test_standard_error_comes_on_standard_error() -> None:
    result = execnet("run", "popen", "--", "import sys; print('fine'); print('bad', file=sys.stderr)")
    assert (result.returncode, result.stdout, result.stderr) == (0, "gw0: fine\n", "gw0: bad\n")


def test_what_programs_print_that_are_started_there_comes_too() -> None:
    code = "import os; os.system('echo out; echo err >&2')"
    result = execnet("run", "popen", "--", code)
    assert (result.returncode, result.stdout, result.stderr) == (0, "gw0: out\n", "gw0: err\n")


def test_a_program_that_runs_on_is_not_waited_for(tmp_path: Path) -> None:
    code = f"""import subprocess; print(subprocess.Popen(["sh", "-c", "echo begun; exec cat {tmp_path}/fifo"]).pid)"""
    os.mkfifo(tmp_path / "fifo")
    result = execnet("run", "popen", "--", code)
    with open(tmp_path / "fifo", "w"):  # it lives, and now ends
        pass
    assert says(result, 0)


def test_a_file_runs_as_the_main_program_with_its_arguments(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int'\n"
        "if __name__ == '__main__':\n    print(sys.argv, A(1))\n"
    )
    result = execnet("run", "popen", "--", program, "--fast", "grün")
    assert says(result, 0)
    assert result.stdout == f"gw0: {[str(program), '--fast', 'grün']} A(x=1)\n"


def test_a_file_knows_its_name(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("print(__file__)")
    assert execnet("run", "popen", "--", program).stdout == f"gw0: {program}\n"
    assert "NameError" in execnet("run", "popen", "--", "__file__").stderr


@pytest.mark.parametrize(
    "code",
    [
        "import sys; print('kept'); sys.stdout.close()",
        "import sys; print('kept'); sys.stderr.close()",
        "import sys; print('kept'); sys.stdout = None",
        "import sys, io; print('kept', end=''); sys.stdout = io.StringIO()",
        "import os; print('kept'); os.close(1); os.close(2)",
    ],
)
def test_a_program_may_do_as_it_likes_with_its_output(code: str) -> None:
    result = execnet("run", "popen", "popen", "--", code)
    assert (result.returncode, sorted(result.stdout.splitlines()), result.stderr) == (0, ["gw0: kept", "gw1: kept"], "")


def test_a_process_that_the_program_forks_ends_where_the_program_does() -> None:
    code = """import os, sys
child = os.fork()
print("child" if child == 0 else "parent", end="")
if child:
    print(os.WEXITSTATUS(os.waitpid(child, 0)[1]))
else:
    sys.exit(4)
"""
    result = execnet("run", "popen", "--", code, **FORKING_ENVIRON)
    assert (result.returncode, result.stdout, result.stderr) == (0, "gw0: childparent4\n", "")


def test_code_and_standard_input_have_arguments_too() -> None:
    code = "import sys; print(sys.argv)"
    assert execnet("run", "popen", "--", code, "x").stdout == "gw0: ['-c', 'x']\n"
    assert execnet("run", "popen", "--", "-", "x", given=code).stdout == "gw0: ['-', 'x']\n"


def test_an_exception_is_shown_as_python_shows_it_and_fails(tmp_path: Path) -> None:
    program = tmp_path / "failing.py"
    program.write_text("def function():\n    1 / 0  # here\n\nfunction()\n")
    result = execnet("run", "popen", "--", program)
    local = subprocess.run([sys.executable, program], capture_output=True, encoding="utf-8").stderr
    assert result.stderr.splitlines() == [f"gw0: {line}" for line in local.splitlines()] + [
        "python -m execnet run: gw0 (popen): exit status 1"
    ]
    assert (result.returncode, result.stdout) == (1, "")


@pytest.mark.parametrize(
    ("code", "status", "lines"),
    [
        ("raise SystemExit", 0, []),
        ("raise SystemExit(0)", 0, []),
        ("raise SystemExit(3)", 1, ["gw0 .popen.: exit status 3"]),
        ("raise SystemExit('no')", 1, ["^gw0: no$", "gw0 .popen.: exit status 1"]),
        ("import os; os._exit(3)", 1, ["gw0 .popen.: .* died: "]),
        ("import os; os.kill(os.getpid(), 9)", 1, ["gw0 .popen.: .* died: "]),
        ("if", 1, ["File .<string>., line 1", "^gw0:     if", r"^gw0: *\^", "SyntaxError", "exit status 1"]),
    ],
)
def test_how_it_ends_is_told(code: str, status: int, lines: list[str]) -> None:
    result = execnet("run", "popen", "--", code)
    assert result.returncode == status
    said = result.stderr.splitlines()
    assert [pattern for pattern in lines if not any(re.search(pattern, line) for line in said)] == []
    assert len([line for line in said if line.startswith("python -m execnet run: ")]) == (status and 1)


def test_several_of_one_spec() -> None:
    result = execnet("run", "2*popen", "--", "print(1)")
    assert sorted(result.stdout.splitlines()) == ["gw0: 1", "gw1: 1"]
    assert says(execnet("run", "0*popen", "--", "1"), 2, "at least 1")
    assert says(execnet("run", "x*popen", "--", "1"), 2, "whole number, not 'x'")
    lines = execnet("show", "2*popen", "0*popen").stdout.splitlines()
    assert [line.split()[1] for line in lines[3:]] == ["popen", "popen", "0*popen"]


def test_one_that_fails_does_not_keep_the_others_from_running() -> None:
    code = "import os; print('ran', flush=True); os._exit(7) if 'FAIL' in os.environ else 0"
    result = execnet("run", "popen//env:FAIL=1", "popen//python=/nowhere", "popen", "--", code)
    assert "gw2: ran\n" in result.stdout
    assert says(result, 1, "popen//python=/nowhere", "gw0 .popen//env:FAIL=1.: .* died: ")


def test_threads_of_the_program_are_waited_for() -> None:
    code = """
import threading
go = threading.Event()
threading.Thread(target=lambda: (go.wait(), print("last"))).start()
go.set()
"""
    assert execnet("run", "popen", "--", code).stdout == "gw0: last\n"


def test_run_on(other_python: Interpreter) -> None:
    code = "# -*- coding: utf-8 -*-\nimport os, sys\nprint(u'gr\\xfcn %s' % sys.argv[1:])\nos.system('echo too')\n"
    code += "sys.stderr.write('x' * 70000 + '\\n')\nsys.exit(4)\n"
    result = execnet("run", f"popen//python={other_python}", "--", code, "a", LC_ALL="C")
    assert result.stdout == "gw0: grün ['a']\ngw0: too\n"
    assert result.stderr.startswith("gw0: " + 70000 * "x" + "\n")
    assert (result.returncode, result.stderr.splitlines()[-1].endswith("exit status 4")) == (1, True)


def test_run_over_ssh(ssh_server: SshServer) -> None:
    result = execnet("run", ssh_server.spec(id="far"), "popen", "--", "import os; os.system('echo $$')")
    assert says(result, 0)
    assert sorted(line.split(":")[0] for line in result.stdout.splitlines()) == ["far", "gw0"]


def test_run_in_an_ascii_locale() -> None:
    result = execnet("run", "popen", "--", "print('gr\\xfcn \\udcff')", **ASCII)
    assert says(result, 0)
    assert result.stdout == "gw0: gr\\xfcn \\udcff\n"


def test_bytes_that_are_no_text_come_through() -> None:
    code = r"import os; os.write(1, bytes([255, 0, 10]) + bytes(3) + b'\0' * 40 + b'\n')"
    assert execnet("run", "popen", "--", code).stdout == "gw0: \\xff\0\ngw0: " + 43 * "\0" + "\n"


def test_more_than_a_reader_takes_waits_there_and_the_reader_may_leave() -> None:
    code = "while True: print('x' * 1000)"
    line = f"{shlex.join(PROGRAM)} run popen popen -- {shlex.quote(code)} | head -n 3; exit ${{PIPESTATUS[0]}}"
    run = subprocess.run(["bash", "-c", line], capture_output=True, timeout=SECONDS)
    assert (run.returncode, run.stdout.count(b"\n"), run.stderr) == (141, 3, b"")


def test_ctrl_c_ends_run_and_leaves_nothing(tmp_path: Path) -> None:
    code = f"import os, time; open(f{str(tmp_path / '{os.getpid()}')!r}, 'w'); print('on'); time.sleep(1000)"
    process = subprocess.Popen(
        [*PROGRAM, "run", "popen", "popen", "--", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    wait_until(lambda: len(os.listdir(tmp_path)) == 2, SECONDS, "the program in both")
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (130, b"")
    assert set(output.splitlines()) <= {b"gw0: on", b"gw1: on"}


class InterruptedAt:
    """A trace function that raises KeyboardInterrupt at that line, counted from 1."""

    def __init__(self, line: int) -> None:
        self.left = line

    def __call__(self, frame: FrameType, event: str, argument: object) -> InterruptedAt:
        self.left -= event == "line"
        if event == "line" and self.left == 0:
            raise KeyboardInterrupt
        return self


def test_a_ctrl_c_anywhere_in_taking_a_message_keeps_nobody_waiting() -> None:
    """Where a message is taken it frees room for others: a lock that is left held there would hold all."""
    for line in itertools.count(1):
        with common.Inbox() as inbox:
            put = inbox.callback("source")
            for item in range(common.MOST_WAITING):
                put(item)
            waiting = threading.Thread(target=put, args=["one more"], daemon=True)
            waiting.start()
            interrupt = InterruptedAt(line)
            sys.settrace(interrupt)
            try:
                inbox.take()
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(None)
        waiting.join(SECONDS)
        assert not waiting.is_alive(), line
        if interrupt.left > 0:
            break


# shell


@pytest.fixture
def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUTF8": "1", "TERM": "dumb"}


@pytest.fixture
def prompt(environment: dict[str, str]) -> Iterator[Terminal]:
    """A shell on a terminal, at its first prompt."""
    with Terminal(*PROGRAM, "shell", "popen", env=environment) as terminal:
        terminal.expect("Ctrl-D ends it.")
        terminal.expect_question(">>> ")
        yield terminal


def test_lines_run_as_at_a_prompt(prompt: Terminal) -> None:
    prompt.type("x = 20\nx + 1\n")
    assert "21" in prompt.expect("\r\n21\r\n>>> ")
    prompt.type("for i in range(2):\n    print('number', i)\n\n")
    prompt.expect("... ")
    prompt.expect("number 0\r\nnumber 1\r\n>>> ")
    prompt.type("1/0\n")
    prompt.expect("ZeroDivisionError")
    prompt.expect(">>> ")
    prompt.type("_ + 1\n")
    prompt.expect("22\r\n>>> ")


def test_a_process_that_is_forked_at_the_prompt_ends_there(prompt: Terminal) -> None:
    prompt.type("import os; child = os.fork(); child and os.waitpid(child, 0)[1]\n")
    prompt.expect("\r\n0\r\n")
    prompt.type("'still ' + 'here'\n")
    prompt.expect("'still here'")


def test_ctrl_d_ends_the_session_well(prompt: Terminal) -> None:
    prompt.type(CTRL_D)
    assert prompt.wait() == 0
    assert prompt.rest() == "\r\n"


@pytest.mark.parametrize(("line", "status"), [("exit()", 0), ("exit(3)", 1), ("raise SystemExit", 0)])
def test_exit_ends_the_session(prompt: Terminal, line: str, status: int) -> None:
    prompt.type(f"{line}\n")
    assert prompt.wait() == status
    assert prompt.rest() == f"{line}\r\n"


def test_ctrl_c_at_the_prompt_gives_up_the_line(prompt: Terminal) -> None:
    prompt.type("if True:\n")
    prompt.expect("... ")
    prompt.type("    y")
    prompt.expect_question("    y")
    prompt.type(CTRL_C)
    prompt.expect("KeyboardInterrupt\r\n>>> ")
    prompt.type("1 + 1\n")
    prompt.expect("\r\n2\r\n>>> ")


BUSY = {
    "sleeping": "import time; print('go'); time.sleep(1000)",
    "looping": r"exec('print(\"go\")\nwhile True: pass')",
    "printing": r"exec('while True: print(\"go\" * 1000)')",
    "reading": "print('go'); input('name? ')",
    "a program": "import os; print('go'); os.system('sleep 1000'); [][1]",
}


@pytest.mark.parametrize("what", BUSY)
def test_ctrl_c_interrupts_what_runs_there_once(prompt: Terminal, what: str) -> None:
    prompt.type(BUSY[what] + "\n")
    prompt.expect("\r\ngo")
    if what == "reading":
        prompt.expect_question("name? ")
    elif what == "a program":
        pid = prompt.process.pid
        wait_until(lambda: sleeping_below(pid), SECONDS, "the program")
    prompt.type(CTRL_C)
    if what == "a program":  # as at Python's own prompt, system() lets only the program know
        prompt.expect("IndexError")
        return
    prompt.expect("KeyboardInterrupt\r\n>>> ")
    prompt.type("1 + 1\n")
    prompt.expect("1 + 1\r\n2\r\n>>> ")
    assert prompt.seen.count("\nKeyboardInterrupt\r\n") == 1
    assert "far_side.py" not in prompt.seen or what == "reading"
    prompt.type(CTRL_D)
    assert prompt.wait() == 0


def test_ctrl_c_over_ssh_interrupts_what_runs_there_and_not_the_connection(
    ssh_server: SshServer, environment: dict[str, str]
) -> None:
    with Terminal(*PROGRAM, "shell", ssh_server.spec(), env=environment) as prompt:
        prompt.expect(">>> ")
        for _ in range(2):
            prompt.type("x")
            prompt.expect_question("x")
            prompt.type(CTRL_C)
            prompt.expect("KeyboardInterrupt\r\n>>> ")
            prompt.type("import time; print('go'); time.sleep(1000)\n")
            prompt.expect("\r\ngo")
            prompt.type(CTRL_C)
            prompt.expect("KeyboardInterrupt\r\n>>> ")
        prompt.type(CTRL_D)
        assert prompt.wait() == 0


def sleeping_below(pid: int) -> bool:
    """Whether there is a sleep among the descendants of a process."""
    for child in children(pid):
        name = Path(f"/proc/{child}/comm").read_text().strip()
        if name == "sleep" or sleeping_below(child):
            return True
    return False


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:  # ended meanwhile
        return []


def test_input_asks_here(prompt: Terminal) -> None:
    prompt.type("name = input('who? ')\n")
    prompt.expect_question("\r\nwho? ")
    prompt.type("grün\n")
    prompt.expect(">>> ")
    prompt.type("len(name)\n")
    prompt.expect("\r\n4\r\n>>> ")
    for line in ("import sys; sys.stdin.read()", "a", "b"):
        prompt.type(f"{line}\n")
        prompt.expect_question(f"{line}\r\n")
    prompt.type(CTRL_D)
    prompt.expect(r"'a\nb\n'")


def test_a_worker_that_dies_ends_the_session_with_one_line(prompt: Terminal) -> None:
    prompt.type("import os; os._exit(3)\n")
    assert prompt.wait() == 1
    assert re.search(r"python -m execnet shell: popen: .* died: .*\r\n$", prompt.rest())


def test_the_shell_reads_as_much_of_a_line_as_is_asked_for() -> None:
    lines = ["import sys", "sys.stdin.readline(3) + sys.stdin.read(4)", "abcdefgh", "print(sys.stdin.readline())"]
    assert execnet("shell", "popen", given="\n".join(lines) + "\n").stdout == "'abcdefg'\nh\n\n"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("change", ["sys.{}.close()", "sys.{} = None"])
def test_the_shell_goes_on_without_its_streams(stream: str, change: str) -> None:
    lines = ["import sys", change.format(stream), "x = 7", "sys.exit(x)"]
    assert execnet("shell", "popen", given="\n".join(lines) + "\n").returncode == 1
    assert says(execnet("shell", "popen", given="\n".join(lines[:3]) + "\n"), 0)


def test_the_shell_without_a_terminal_shows_no_prompts() -> None:
    result = execnet("shell", "popen", given="print(1)\nif 1:\n  2\n\nimport os; _ = os.system('echo 3; echo 4 >&2')")
    assert says(result, 0)
    assert result.stdout == "1\n2\n3\n4\n"


def test_the_shell_on(other_python: Interpreter) -> None:
    given = "x = 1\nx + 1\nprint(u'gr\\xfcn')\n1/0\nimport sys; n = sys.stdin.readline()\nhello\nn.strip() == 'hello'\n"
    result = execnet("shell", f"popen//python={other_python}", given=given + "exit(2)\n")
    assert says(result, 1)
    assert result.stdout.startswith("2\ngrün\nTraceback (most recent call last):\n")
    assert result.stdout.endswith("by zero\nTrue\n")


def test_ctrl_c_while_the_shell_starts(environment: dict[str, str], tmp_path: Path) -> None:
    silent = tmp_path / "silent"
    silent.write_text(f"#!/bin/sh\necho > {silent}.began; exec sleep 1000\n")
    silent.chmod(0o755)
    with Terminal(*PROGRAM, "shell", f"popen//python={silent}", env=environment) as terminal:
        wait_until(Path(f"{silent}.began").exists, SECONDS, "the start")
        terminal.type(CTRL_C)
        assert terminal.wait() == 130
        assert terminal.rest() in ("", "^C")


# rsync


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder to send."""
    files = {"main.py": "1", "main.pyc": "22", "parts/a.py": "333", "parts/a.pyc": "4444", "build/main.py": "55555"}
    for name, text in files.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "source"


def tree(folder: Path) -> list[str]:
    """The files below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def test_rsync_to_several_places(source: Path, tmp_path: Path) -> None:
    result = execnet("rsync", source, f"popen//id=one:{tmp_path}/one", "popen:new/two", cwd=tmp_path)
    assert says(result, 0)
    assert result.stdout == "one: 5 files, 15 bytes sent\ngw0: 5 files, 15 bytes sent\n"
    assert tree(tmp_path / "one") == tree(tmp_path / "new" / "two") == tree(source)


def test_rsync_sends_what_differs_and_lists_it_when_asked(source: Path, tmp_path: Path) -> None:
    execnet("rsync", source, "popen:copy", cwd=tmp_path)
    (source / "parts" / "a.py").write_text("changed")
    result = execnet("rsync", "-v", source, "popen:copy", cwd=tmp_path)
    assert says(result, 0)
    assert result.stdout == "gw0 <= parts/a.py\ngw0: 1 files, 7 bytes sent\n"


def test_rsync_removes_only_with_delete_and_a_dry_run_tells_before(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    (copy / "old").mkdir(parents=True)
    (copy / "old" / "file").touch()
    (copy / "main.py").write_text("1")
    (copy / "grün").touch()
    before = tree(copy)
    dry = execnet("rsync", "--delete", "--dry-run", source, f"popen:{copy}")
    assert says(dry, 0)
    *lines, last = dry.stdout.splitlines()
    sent = [f"gw0 <= {name}" for name in tree(source) if name != "main.py"]
    assert sorted(lines) == sorted([*sent, "gw0 -- grün", "gw0 -- old"])
    assert last == "gw0: 4 files, 14 bytes to send, 2 to remove"
    assert tree(copy) == before
    assert says(execnet("rsync", source, f"popen:{copy}"), 0)
    assert tree(copy) == sorted([*tree(source), "grün", "old/file"])
    assert says(execnet("rsync", "--delete", source, f"popen:{copy}"), 0)
    assert tree(copy) == tree(source)


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["*.pyc"], ["build/main.py", "main.py", "parts/a.py"]),
        (["/build/", "*.pyc"], ["main.py", "parts/a.py"]),
        (["main.py/"], ["build/main.py", "main.py", "main.pyc", "parts/a.py", "parts/a.pyc"]),
        (["main.py"], ["main.pyc", "parts/a.py", "parts/a.pyc"]),
        (["/main.py"], ["build/main.py", "main.pyc", "parts/a.py", "parts/a.pyc"]),
        (["parts/*.py"], ["build/main.py", "main.py", "main.pyc", "parts/a.pyc"]),
        (["build", "parts"], ["main.py", "main.pyc"]),
    ],
)
def test_rsync_leaves_out_what_is_excluded(source: Path, tmp_path: Path, patterns: list[str], left: list[str]) -> None:
    options = [word for pattern in patterns for word in ("--exclude", pattern)]
    assert says(execnet("rsync", *options, source, f"popen:{tmp_path}/copy"), 0)
    assert tree(tmp_path / "copy") == left


def test_rsync_of_a_single_file(source: Path, tmp_path: Path) -> None:
    result = execnet("rsync", "-v", source / "main.py", f"popen:{tmp_path}/copy.py")
    assert (result.returncode, result.stdout) == (0, "gw0 <= main.py\ngw0: 1 files, 1 bytes sent\n")
    assert (tmp_path / "copy.py").read_text() == "1"


def test_rsync_names_each_target_that_fails_and_completes_the_others(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    targets = [f"popen:{tmp_path}/file/x", "popen//python=/nowhere:x", f"popen:{tmp_path}/y", "popen:/proc/no"]
    result = execnet("rsync", source, *targets)
    assert says(
        result, 1, "popen//python=/nowhere", "gw0 .popen.: NotADirectoryError: ", "gw3 .popen.: .*Error: .*/proc"
    )
    assert result.stdout == "gw2: 5 files, 15 bytes sent\n"
    assert tree(tmp_path / "y") == tree(source)


def test_rsync_over_ssh_into_the_home(ssh_server: SshServer, source: Path) -> None:
    targets = [f"{ssh_server.spec()}:~/copy", f"{ssh_server.spec(id='b')}:{ssh_server.folder}/with a space"]
    assert says(execnet("rsync", source, *targets), 0)
    for name in ("copy", "with a space"):
        assert tree(ssh_server.folder / name) == tree(source)


def test_rsync_in_an_ascii_locale(source: Path, tmp_path: Path) -> None:
    (source / "gr\udcfcn").touch()
    (source / "grün").touch()
    result = execnet("rsync", "-v", source, f"popen:{tmp_path}/copy", **ASCII)
    assert says(result, 0)
    assert "gw0 <= gr\\xfcn\n" in result.stdout
    assert tree(tmp_path / "copy") == tree(source)


def test_a_folder_that_cannot_be_sent_is_named(source: Path, tmp_path: Path) -> None:
    os.mkfifo(source / "fifo")
    assert says(execnet("rsync", source, f"popen:{tmp_path}/copy"), 1, "cannot sync .*fifo")


@pytest.mark.parametrize("kind", ["rich", "tqdm", "plain"])
def test_rsync_shows_its_progress_on_a_terminal(
    kind: str, source: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    if kind != "plain":
        pytest.importorskip(kind)
    (source / "large").write_bytes(bytes(20 << 20))
    hidden = tmp_path / "hidden"
    for name in {"rich", "tqdm"} - {kind}:
        (hidden / name).mkdir(parents=True)
        (hidden / name / "__init__.py").write_text("raise ImportError\n")
    path = os.pathsep.join(filter(None, [str(hidden), environment.get("PYTHONPATH")]))
    environment |= {"PYTHONPATH": path, "TERM": "xterm"}
    with Terminal(*PROGRAM, "rsync", str(source), f"popen:{tmp_path}/copy", env=environment) as terminal:
        shown = terminal.expect("bytes sent\r\n")
        assert terminal.wait() == 0
    assert {"rich": "B/s\x1b", "tqdm": "B/s]", "plain": "% of 20.0 MiB"}[kind] in shown
    assert tree(tmp_path / "copy") == tree(source)


def test_ctrl_c_ends_rsync_and_leaves_no_half_file(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "large", "wb") as file:
        file.truncate(20 << 30)  # a hole: read fast, and longer than anybody waits
    process = subprocess.Popen(
        [*PROGRAM, "rsync", str(source), f"popen:{tmp_path}/copy"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    wait_until(lambda: list((tmp_path / "copy").glob("*")), SECONDS, "the first bytes")
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, output, errors) == (130, b"", b"")
    assert tree(tmp_path / "copy") == []


# serve


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server, and the spec of a gateway to it."""
    process = subprocess.Popen(
        [*PROGRAM, "serve", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        port = re.findall(r"\('127\.0\.0\.1', (\d+)\)", process.stdout.readline())
        yield process, f"socket=127.0.0.1:{port[0]}"
    finally:
        end(process)


def test_serve_gives_an_interpreter_to_whoever_connects_until_ctrl_c() -> None:
    with serving("localhost:0") as (server, spec):
        for _ in range(2):
            assert execnet("run", spec, "--", "print(1)").stdout == "gw0: 1\n"
        result = execnet("shell", spec, given="1 + 1\n")
        assert (result.returncode, result.stdout) == (0, "2\n")
        os.killpg(server.pid, signal.SIGINT)
        assert server.wait(SECONDS) == 130
        assert server.stderr is not None and server.stderr.read() == ""


def test_an_address_that_is_taken_is_named() -> None:
    with serving("127.0.0.1:0") as (_, spec):
        address = spec.partition("=")[2]
        assert says(execnet("serve", address), 1, f"execnet serve: cannot listen on {address}: .*in use")


def test_the_default_address_is_for_this_machine_only() -> None:
    assert "default: localhost:" in execnet("serve", "--help").stdout
