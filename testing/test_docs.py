"""The documentation: each example in it gives what it shows, and Sphinx builds it without a warning."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support import interpreters, needs
from support.initiator import FORKING_ENVIRON
from support.shown import Checker
from support.sshd import SshServer

import execnet

CHECKOUT = Path(__file__).resolve().parents[1]
DOC = CHECKOUT / "doc"
EXAMPLES = DOC / "example"
RUN_DOCTEST = CHECKOUT / "testing" / "support" / "run_doctest.py"
PAGES = [CHECKOUT / "README.rst", *sorted(DOC.rglob("*.rst"))]
PAGES_WITH_EXAMPLES = [page for page in PAGES if ">>> " in page.read_text("utf-8")]
SCRIPTS = sorted(path.with_suffix(".py") for path in EXAMPLES.glob("*.out"))
SSH_HOST_IN_DOCS = "build1"
# A further host of the examples, which is down.
LOST_HOST_CONFIG = """\
Host build2
    HostName 127.0.0.1
    Port 1
    LogLevel QUIET
"""
# Pages show deaths, of which people are told.
SAID_OF_A_DEATH = re.compile(r"execnet: gateway '.*' \(.*\) died: ")
# The page about ssh shows two starts that fail; ssh and the far shell say so on standard error.
SAID_BY_SSH = re.compile(r"nowhere\.invalid|python9\.9")
SSH_PAGES = [page for page in PAGES_WITH_EXAMPLES if f'("ssh={SSH_HOST_IN_DOCS}' in page.read_text("utf-8")]
SECONDS = 60.0
BUILD_SECONDS = 120.0
# An installed execnet is found without help; that of the checkout is not, from another folder.
IMPORT_FROM = str(CHECKOUT) if Path(execnet.__file__).resolve().parents[1] == CHECKOUT else ""
# What pip makes a program of.
CONSOLE_SCRIPT = "import sys; from execnet.__main__ import script; sys.exit(script())"
# Interpreters that examples start by name.
NAMED_PYTHONS = ("python2.7", "pypy3")

pytestmark = pytest.mark.timeout(BUILD_SECONDS + 30)


def name_of(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def imported(text: str) -> list[str]:
    """The libraries of green threads that examples import."""
    return [name for name in needs.LIBRARIES if re.search(rf"^\W*import {name}", text, re.MULTILINE)]


def with_imported(page: Path) -> object:
    return pytest.param(page, marks=pytest.mark.needs(*imported(page.read_text("utf-8"))))


def with_needs(script: Path) -> object:
    """The script as a parameter, marked with the interpreters that it starts by name, what it imports, and ssh."""
    text = script.read_text("utf-8")
    parts = [name for name in NAMED_PYTHONS if f"python={name}" in text]
    parts += imported(text)
    if SSH_HOST_IN_DOCS in text:
        parts.append("ssh")
    return pytest.param(script, marks=pytest.mark.needs(*parts))


class Place:
    """A folder with the example files, in which commands find what the documentation takes for granted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(EXAMPLES, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        self._commands = folder.parent / "bin"
        self._commands.mkdir()
        self._temporary = folder.parent / "tmp"
        self._temporary.mkdir()
        self.add_command("python", sys.executable)
        self.add_command("python3", sys.executable)
        self.add_command("execnet", sys.executable, "-c", CONSOLE_SCRIPT)
        self.add_interpreters()

    def add_command(self, name: str, *command: str) -> None:
        """Let `name` on the PATH start `command`."""
        wrapper = self._commands / name
        wrapper.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        wrapper.chmod(0o755)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run `command` here, with the commands that were added first on its PATH."""
        environment = {
            **os.environ,
            "PATH": f"{self._commands}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, [IMPORT_FROM, os.environ.get("PYTHONPATH")])),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUTF8": "1",
            **FORKING_ENVIRON,
            "TMPDIR": str(self._temporary),
        }
        return subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS,
        )

    def add_interpreters(self) -> None:
        """Put the interpreters that examples name on the PATH."""
        for name in NAMED_PYTHONS:
            interpreter = interpreters.named(name)
            if interpreter:
                self.add_command(name, interpreter)

    def add_ssh_host(self, server: SshServer) -> None:
        """Let the host of the examples be `server`."""
        config = server.config.read_text().replace(f"Host {server.host}\n", f"Host {SSH_HOST_IN_DOCS}\n")
        self.folder.joinpath("hosts.conf").write_text(config + LOST_HOST_CONFIG)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Where the examples of one page, or one script, run."""
    return Place(tmp_path / "example")


def assert_output(expected: str, got: str, where: str) -> None:
    """Compare but for what differs from run to run."""
    checker = Checker()
    if not checker.check_output(expected, got, 0):
        difference = checker.output_difference(doctest.Example("", expected), got, 0)
        pytest.fail(f"{where}\n{difference}", pytrace=False)


def run_examples(page: Path, place: Place) -> str:
    """Run the doctests of `page` and return what came on standard error, but for the deaths that it shows."""
    result = place.run(sys.executable, str(RUN_DOCTEST), str(page))
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stderr.splitlines()
    shows_deaths = "GatewayDied" in page.read_text("utf-8")
    return "\n".join(line for line in lines if not (shows_deaths and SAID_OF_A_DEATH.match(line)))


@pytest.mark.parametrize(
    "page", [with_imported(page) for page in PAGES_WITH_EXAMPLES if page not in SSH_PAGES], ids=name_of
)
def test_examples_of_a_page_give_what_it_shows_and_leave_nothing(page: Path, place: Place) -> None:
    assert not run_examples(page, place)


@pytest.mark.parametrize("page", SSH_PAGES, ids=name_of)
def test_examples_with_ssh_give_what_the_page_shows_and_leave_nothing(
    page: Path, place: Place, ssh_server: SshServer
) -> None:
    place.add_ssh_host(ssh_server)
    assert [line for line in run_examples(page, place).splitlines() if not SAID_BY_SSH.search(line)] == []


@pytest.mark.parametrize("script", [with_needs(script) for script in SCRIPTS], ids=name_of)
def test_script_prints_what_the_page_shows(script: Path, place: Place, request: pytest.FixtureRequest) -> None:
    arguments = []
    text = script.read_text("utf-8")
    if "sys.argv[1]" in text:
        arguments.append(request.getfixturevalue("socket_server").hostport)
    if SSH_HOST_IN_DOCS in text:
        place.add_ssh_host(request.getfixturevalue("ssh_server"))
    result = place.run(sys.executable, script.name, *arguments)
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    assert_output(script.with_suffix(".out").read_text("utf-8"), result.stdout, script.name)


class Console(NamedTuple):
    """One `console` block of a page."""

    page: Path
    line: int
    text: str

    def commands(self) -> Iterator[tuple[str, str]]:
        """Each command after a `$`, its further lines after a `>`, with the output shown under it."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command = re.match(r".*\n(?:> .*\n)*", part)
            assert command
            yield command[0].replace("\n> ", "\n"), part[command.end() :]

    @property
    def name(self) -> str:
        return f"{name_of(self.page)}:{self.line}"


def consoles() -> Iterator[Console]:
    block = re.compile(r"^\.\. code-block:: console\n\n((?:    .*\n|\n)+)", re.MULTILINE)
    for page in PAGES:
        text = page.read_text("utf-8")
        for match in block.finditer(text):
            lines = match.group(1).rstrip().splitlines()
            line = text.count("\n", 0, match.start()) + 1
            yield Console(page, line, "\n".join(line[4:] for line in lines) + "\n")


@pytest.mark.parametrize("console", list(consoles()), ids=lambda console: console.name)
def test_commands_print_what_the_page_shows(console: Console, place: Place) -> None:
    for command, shown in console.commands():
        result = place.run("/bin/sh", "-c", command)
        assert result.returncode == 0, f"{console.name}: {command}\n{result.stderr}"
        assert not result.stderr
        assert_output(shown, result.stdout, f"{console.name}: {command}")


def shown_outputs() -> Iterator[tuple[str, str]]:
    """Each output on a page, or in a file that one includes, with where it is."""
    for page in PAGES_WITH_EXAMPLES:
        for example in doctest.DocTestParser().get_examples(page.read_text("utf-8")):
            yield f"{name_of(page)}:{example.lineno + 1}", example.want
    for console in consoles():
        for command, shown in console.commands():
            yield f"{console.name}: {command}", shown
    for path in EXAMPLES.glob("*.out"):
        yield name_of(path), path.read_text("utf-8")


def test_pages_show_real_output_without_gaps() -> None:
    assert [where for where, output in shown_outputs() if "..." in output or "<BLANKLINE>" in output] == []


def test_each_example_file_is_shown_on_a_page() -> None:
    included = ((page, re.findall(r"literalinclude:: (\S+)", page.read_text("utf-8"))) for page in PAGES)
    shown = {(page.parent / name).resolve() for page, names in included for name in names}
    assert {path for path in EXAMPLES.rglob("*") if path.suffix in (".py", ".out")} <= shown


def test_each_example_script_has_its_output_or_is_used_by_a_page() -> None:
    used = {name for page in PAGES for name in re.findall(r">>> import (\w+)$", page.read_text("utf-8"), re.MULTILINE)}
    assert {path for path in EXAMPLES.glob("*.py") if path.stem not in used} == set(SCRIPTS)


def test_tables_and_plots_show_the_results_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(CHECKOUT / "testing" / "bench")
    plots, tables = importlib.import_module("plots"), importlib.import_module("tables")
    found = tables.results()
    for name, text in {**tables.texts(found), **plots.texts(found)}.items():
        assert (tables.DOC / name).read_text("utf-8") == text, f"{name}: run `make plots`"


def test_sphinx_builds_without_a_warning_with_links_to_edit_where_the_clone_is_known(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    result = subprocess.run(
        [*command, "-d", str(tmp_path / "doctrees"), str(DOC), str(tmp_path / "html")],
        capture_output=True,
        encoding="utf-8",
        timeout=BUILD_SECONDS,
        env={**os.environ, "READTHEDOCS_GIT_CLONE_URL": "https://github.com/some/clone.git"},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    basics = (tmp_path / "html" / "basics.html").read_text("utf-8")
    assert "https://github.com/some/clone/edit/main/doc/basics.rst" in basics
