"""Variables of a spec are there before the interpreter starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.interpreters import Interpreter

import execnet
from execnet import gateway_io

SECONDS = 20.0
ASK = "import os, sys; channel.send(({expression}, {{name: os.environ.get(name) for name in {names!r}}}))"
PRELOADED = """
#include <stdlib.h>
__attribute__((constructor)) static void note(void) { setenv("PRELOADED", "yes", 1); }
"""
AWKWARD = {
    "QUOTES": 'it\'s "quoted"',
    "SIGNS": "$HOME `id` !! !x \\ \\\\ \\n ~ * ? [a] {b,c} # %d ; & | < > ( ) ^ = ,",
    "EMPTY": "",
    "SPACES": "  two  words ",
    "UMLAUT": "grün €",
    "TWO_LINES": "one\ntwo",
}


@pytest.fixture(params=["popen", "other python", "via", "via other python", "warm", "ssh", "vagrant_ssh", "via ssh"])
def start(request: pytest.FixtureRequest, group: execnet.Group) -> Callable[..., execnet.Gateway]:
    """Starts a gateway of each kind with variables in its spec."""
    kind = request.param
    python = f"python={sys.executable}"
    if "via" in kind:
        group.makegateway("popen//id=master")
    if "vagrant" in kind:
        config = request.getfixturevalue("ssh_server").config
        spec = f"vagrant_ssh={request.getfixturevalue('vagrant')}//ssh_config={config}//{python}"
    elif "ssh" in kind:
        spec = request.getfixturevalue("ssh_server").spec()
    else:
        spec = {"other python": f"popen//{python}", "via other python": f"popen//{python}", "warm": "popen//warm"}.get(
            kind, "popen"
        )
    via = "//via=master" if "via" in kind else ""
    return lambda **env: group.makegateway("//".join([spec + via, *(f"env:{name}={env[name]}" for name in env)]))


def ask(gateway: execnet.Gateway, expression: str, *names: str) -> Any:
    """What an expression gives there, and some of its environment."""
    return gateway.remote_exec(ASK.format(expression=expression, names=names)).receive(SECONDS)


def test_the_seed_of_hashes(start: Callable[..., execnet.Gateway]) -> None:
    with_seed = {ask(start(PYTHONHASHSEED="7"), "hash('x')", "PYTHONHASHSEED")[0] for _ in range(2)}
    command = [sys.executable, "-c", "print(hash('x'))"]
    assert with_seed == {int(subprocess.check_output(command, env={**os.environ, "PYTHONHASHSEED": "7"}))}
    assert ask(start(PYTHONHASHSEED="8"), "os.environ['PYTHONHASHSEED']")[0] == "8"


def test_warnings(start: Callable[..., execnet.Gateway]) -> None:
    options, environ = ask(start(PYTHONWARNINGS="error::BytesWarning"), "sys.warnoptions", "PYTHONWARNINGS")
    assert options == ["error::BytesWarning"] and environ == {"PYTHONWARNINGS": "error::BytesWarning"}


def test_a_preloaded_library(start: Callable[..., execnet.Gateway], tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler here, or no LD_PRELOAD")
    (tmp_path / "library.c").write_text(PRELOADED)
    library = tmp_path / "library.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "library.c"], check=True, timeout=60)
    _, environ = ask(start(LD_PRELOAD=str(library)), "None", "PRELOADED", "LD_PRELOAD")
    assert environ == {"PRELOADED": "yes", "LD_PRELOAD": str(library)}


def test_values_arrive_as_they_are(start: Callable[..., execnet.Gateway]) -> None:
    assert ask(start(**AWKWARD), "None", *AWKWARD)[1] == AWKWARD


def test_the_others_are_inherited_and_nothing_stays_here(
    start: Callable[..., execnet.Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = start(EXECNET_TEST_OWN="own")
    assert ask(gateway, "os.environ['PATH'] != ''", "EXECNET_TEST_OWN") == (True, {"EXECNET_TEST_OWN": "own"})
    assert "EXECNET_TEST_OWN" not in os.environ
    assert ask(start(), "None", "EXECNET_TEST_OWN")[1] == {"EXECNET_TEST_OWN": None}


def test_on_a_socket_they_are_set_when_it_is_there(group: execnet.Group) -> None:
    group.makegateway("popen//id=master")
    gateway = group.makegateway("socket//installvia=master//env:PYTHONHASHSEED=7")
    assert ask(gateway, "None", "PYTHONHASHSEED")[1] == {"PYTHONHASHSEED": "7"}


def test_other_interpreters(group: execnet.Group, other_python: Interpreter) -> None:
    gateway = group.makegateway(f"popen//python={other_python}//env:PYTHONWARNINGS=error//env:UMLAUT=grün")
    ask_it = "import os, sys; channel.send((sys.warnoptions, os.environ['UMLAUT']))"
    options, umlaut = gateway.remote_exec(ask_it).receive(SECONDS)
    assert options == ["error"]
    assert umlaut in ("grün", "grün".encode().decode("latin-1"))


def test_a_proxy_of_another_interpreter(group: execnet.Group, other_python: Interpreter) -> None:
    group.makegateway(f"popen//id=master//python={other_python}")
    gateway = group.makegateway("popen//via=master//env:PYTHONWARNINGS=error//env:UMLAUT=gr\u00fcn")
    options = gateway.remote_exec("import sys; channel.send(sys.warnoptions)").receive(SECONDS)
    assert options == ["error"]


def test_the_core_of_a_worker_can_be_chosen(group: execnet.Group) -> None:
    source = "import execnet.gateway_base; channel.send(execnet.gateway_base.core)"
    assert group.makegateway("popen//env:EXECNET_PURE=1").remote_exec(source).receive(SECONDS) == "portable"


def test_a_master_that_was_replaced_gets_two_arguments(group: execnet.Group, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Master(gateway_io.Popen2IOMaster):
        def __init__(self, args: Any, execmodel: Any) -> None:
            calls.append(args)
            super().__init__(args, execmodel)

    monkeypatch.setattr(gateway_io, "Popen2IOMaster", Master)
    assert ask(group.makegateway("popen//env:X=1"), "None", "X")[1] == {"X": "1"}
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["", "A\0B"])
def test_what_is_no_variable_is_told_as_before(group: execnet.Group, name: str) -> None:
    with pytest.raises(execnet.RemoteError, match="could not set up"):
        group.makegateway(f"popen//env:{name}=x")
    with pytest.raises(execnet.RemoteError, match="could not set up"):
        group.makegateway("popen//env:FLAG")


@pytest.mark.parametrize("shell", ["sh", "dash", "bash", "zsh", "csh", "tcsh", "fish"])
def test_every_shell_reads_the_words_alike(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    spec = execnet.XSpec("//".join(["ssh=host", *(f"env:{name}={AWKWARD[name]}" for name in AWKWARD)]))
    words = gateway_io.environment_words(spec)
    assert len(words) == len(AWKWARD) - 1  # a value of two lines can't be said in csh
    command = f'env {" ".join(words)} {sys.executable} -c "import os; print(dict(os.environ))"'
    run = subprocess.run([shell, "-c", command], capture_output=True, text=True, timeout=60, check=True)
    environ = eval(run.stdout)
    assert {name: environ.get(name) for name in AWKWARD} == {**AWKWARD, "TWO_LINES": None}


@pytest.mark.parametrize(
    ("spec", "command"),
    [
        ("ssh=host", "python -c"),
        ("ssh=host//env:A=b c", "env A='b c' python -c"),
        ("ssh=host//env:A=b//env:B=//python=~/bin/python3 -E", "env A='b' B='' ~/bin/python3 -E -c"),
        ("ssh=host//env:A B=c//env:C\n=d", "python -c"),
        ("ssh=host//env:A=b//python=cd /x; python3", "cd /x; python3 -c"),
        ("ssh=host//env:A=b//python=. venv/activate && python3", ". venv/activate && python3 -c"),
        ("ssh=host//env:A=b//python=exec python3", "exec python3 -c"),
    ],
)
def test_the_command_of_ssh(spec: str, command: str) -> None:
    assert gateway_io.ssh_args(execnet.XSpec(spec))[-1] == f'{command} "{gateway_io.popen_bootstrapline}"'
