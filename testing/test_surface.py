"""The surface of ours beside that of execnet 2.1.2, by introspection: what a program of 2.1 uses is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from support import surface
from support.oracle import Oracle

# What is in 2.1.2 and not in ours, or not so, and why that stays.
STAYS = {
    # Names of tools that 2.1.2 was made with.
    "execnet._version.COMMIT_ID*": "what setuptools-scm writes for type checkers",
    "execnet._version.VERSION_TUPLE*": "what setuptools-scm writes for type checkers",
    "execnet._version.commit_id": "always None in a release",
    "execnet._version.version": "ours is another one",
    "*.TYPE_CHECKING": "a name of typing",
    "execnet.gateway_bootstrap.importdir": "where the package is",
    # Interfaces.
    "execnet.gateway_base.*IO": "typing.Protocol is for type checkers, who find one in gateway_base.pyi",
    "execnet.gateway_base.Event": "typing.Protocol is for type checkers, who find one in gateway_base.pyi",
    "execnet.gateway_base.*IO()": "an interface; nobody makes one",
    "execnet.gateway_base.Event()": "an interface; nobody makes one",
    # Names of parameters.
    "execnet.gateway_base.Message._channel_*": "entries of Message._types, called by position",
    "execnet.gateway_base.Message._gateway_terminate": "an entry of Message._types, called by position",
    "execnet.gateway_base.Message._reconfigure": "an entry of Message._types, called by position",
    "execnet.gateway_base.Message._status": "an entry of Message._types, called by position",
    "execnet.gateway_base._Serializer.save_*": "called with the object by position",
    "execnet.multi.MultiChannel.__contains__": "called by `in`",
    "execnet.rsync.RSync.add_target": "delete is the only option that 2.1 takes",
    # How 2.1 works inside: of what no program can call or read without being part of it.
    "execnet.*._BaseGateway__trace": "a flag that trace() is asked by",
    "execnet.*._terminate_execution": "called by the receiver alone, which now says whether the connection was lost",
    "execnet.gateway_base.Channel._remoteerrors": "_getremoteerror() gives them",
    "execnet.gateway_base.ChannelFactory._list": "the builtin list, for interpreters that end",
    "execnet.gateway_base.ChannelFactory._writelock": "there is no such lock",
    "execnet.gateway_base.ChannelFactory.count": "the next id; new() gives it, in one step",
    "execnet.gateway_base.Reply._result_ready": "waitfinish() waits for it",
    "execnet.gateway_base.Unserializer._load_collection": "a helper of the load functions",
    "execnet.gateway_base.Unserializer._read_byte_string": "a helper of the load functions",
    "execnet.gateway_base.WorkerPool._perform_spawn": "a step of spawn()",
    "execnet.gateway_base.WorkerPool._*primary_thread*": "ours has another way to its primary thread",
    "execnet.gateway_base.WorkerPool._running_lock": "ours has no lock",
    "execnet.gateway_base.WorkerPool._shuttingdown": "spawn() says so by its ValueError",
    "execnet.gateway_base.WorkerPool._waitall_events": "waitall() waits for them",
    "execnet.gateway_base._Stop*": "raised and caught inside load()",
    "execnet.gateway_base.pid": "os.getpid() at the import, wrong after a fork",
    "execnet.gateway_io.ProxyIO._controll": "kill(), wait() and close_write() do what it did",
    "execnet.gateway_io.ProxyIO.*chan*": "the bytes of a process behind via= go over other channels",
    "execnet.gateway_io.ProxyIO.remoteaddress": "there where the spec has one",
    "execnet.gateway_io.PseudoSpec*": "what the far end of via= was made of",
    "execnet.gateway_io.RIO_*": "what it was told",
    "execnet.gateway_io.serve_proxy_io": "the far end of via= is execnet.script.proxy",
    "execnet.multi.Group._autoidcounter": "the next automatic id; allocate_id() gives it, in one step",
    "execnet.rsync.RSync._broadcast": "a step of send(), which nobody can take alone",
    "execnet.rsync.RSync._done": "a step of send(), which nobody can take alone",
    "execnet.rsync.RSync._end_of_channel": "a step of send(), which nobody can take alone",
    "execnet.rsync.RSync._links": "symlinks that were found, between two steps of send()",
    "execnet.rsync.RSync._list_done": "a step of send(), which nobody can take alone",
    "execnet.rsync.RSync._process_link": "a step of send(), which nobody can take alone",
    "execnet.rsync.RSync._send_directory*": "a step of send(), which nobody can take alone",
    "execnet.rsync.RSync._send_item": "a step of send(), which nobody can take alone",
    "execnet.rsync.RSync._send_link*": "a step of send(), which nobody can take alone",
    "execnet.script.socketserver.debug": "a switch in its source",
    "execnet.script.socketserver.exec_": "exec(), for Python 2 and 3",
    "execnet.script.socketserver.print_": "print(), for Python 2 and 3",
    "execnet.script.socketserver.progname": "what it was called",
}


def reason_for(name: str) -> str | None:
    return next((STAYS[pattern] for pattern in STAYS if fnmatchcase(name, pattern)), None)


@pytest.fixture(scope="module")
def theirs(oracle: Oracle) -> dict[str, surface.Description]:
    found: dict[str, surface.Description] = json.loads(oracle.run(Path(surface.__file__).read_text("utf-8")))
    return found


@pytest.fixture(scope="module", params=["default core", "portable core"])
def differences(
    request: pytest.FixtureRequest, theirs: dict[str, surface.Description], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """By name, what of theirs is another thing in ours, "theirs | ours"."""
    environment = {**os.environ, "EXECNET_PURE": "1"} if request.param == "portable core" else dict(os.environ)
    command = [sys.executable, surface.__file__]
    cwd = tmp_path_factory.mktemp("surface")
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, cwd=cwd, timeout=60, check=True)
    return surface.beside(theirs, json.loads(done.stdout))


def test_every_difference_from_the_surface_of_the_oracle_is_a_known_one(differences: dict[str, str]) -> None:
    unknown = [f"{name}: {what}" for name, what in differences.items() if reason_for(name) is None]
    assert unknown == [], "new differences: make them go away, or say in STAYS why they are there"


def test_every_known_difference_is_still_there(differences: dict[str, str]) -> None:
    gone = [pattern for pattern in STAYS if not any(fnmatchcase(name, pattern) for name in differences)]
    assert gone == [], "to be removed from STAYS"


def test_what_is_missing_or_narrower_is_a_difference() -> None:
    theirs: dict[str, surface.Description] = {
        "missing": {"what": "attribute", "value": None},
        "constant": {"what": "attribute", "value": "4"},
        "class": {"what": "class", "bases": ["OSError"]},
        "renamed": {"what": "function", "parameters": [["a", "POSITIONAL_OR_KEYWORD", False]]},
        "needs more": {"what": "function", "parameters": []},
        "no default": {"what": "function", "parameters": [["a", "POSITIONAL_OR_KEYWORD", True]]},
        "by position": {"what": "function", "parameters": [["a", "POSITIONAL_OR_KEYWORD", False]]},
    }
    ours: dict[str, surface.Description] = {
        "constant": {"what": "attribute", "value": "5"},
        "class": {"what": "class", "bases": ["ValueError"]},
        "renamed": {"what": "function", "parameters": [["b", "POSITIONAL_OR_KEYWORD", False]]},
        "needs more": {"what": "function", "parameters": [["a", "POSITIONAL_OR_KEYWORD", False]]},
        "no default": {"what": "function", "parameters": [["a", "POSITIONAL_OR_KEYWORD", False]]},
        "by position": {"what": "function", "parameters": [["a", "POSITIONAL_ONLY", False]]},
    }
    assert set(surface.beside(theirs, ours)) == set(theirs)
    assert surface.beside(theirs, theirs) == {}


def test_what_is_wider_is_none() -> None:
    theirs: dict[str, surface.Description] = {
        "class": {"what": "class", "bases": ["Exception"]},
        "more": {"what": "function", "parameters": [["a", "POSITIONAL_OR_KEYWORD", False]]},
        "by name": {"what": "function", "parameters": [["a", "POSITIONAL_ONLY", False]]},
        "import": {"what": "imported"},
    }
    ours: dict[str, surface.Description] = {
        "class": {"what": "class", "bases": ["OSError", "Exception"]},
        "more": {
            "what": "function",
            "parameters": [["a", "POSITIONAL_OR_KEYWORD", True], ["b", "POSITIONAL_OR_KEYWORD", True]],
        },
        "by name": {"what": "function", "parameters": [["b", "POSITIONAL_OR_KEYWORD", False]]},
        "added": {"what": "imported"},
    }
    assert surface.beside(theirs, ours) == {}
