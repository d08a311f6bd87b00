"""The rooms of the package: imports run downwards, and each transport has what its row says."""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import execnet
from execnet._transport import registry
from execnet.xspec import KNOWN_KEYS, XSpec

MakeGateway = Callable[..., execnet.Gateway]
PACKAGE = Path(execnet.__file__).resolve().parent
# From the bottom up: a file imports, at its top or later, what is in its own room or on a line above its own. A file
# that is named here is in no other room.
ROOMS = """
    _version _core xspec _compat
    gateway_base
    reducers rsync_remote script
    _source _output _group/calls
    _process _report/stacks _timeline
    gateway _transport/registry
    gateway_io
    gateway_bootstrap
    gateway_socket
    _transport
    _report
    _group
    multi rsync
    __init__
    _command
    __main__
    script/shell
"""
HEIGHTS = {room: height for height, line in enumerate(ROOMS.strip().splitlines()) for room in line.split()}


def room(name: str) -> str:
    return name if name in HEIGHTS else name.partition("/")[0]


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All below the node but what is for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield child
            yield from statements(child)


def meant(node: ast.AST, name: str) -> Iterator[list[str]]:
    """For each name of an import statement in the file, the dotted names that it may mean, the likeliest first."""
    if isinstance(node, ast.Import):
        yield from ([alias.name] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        home = ["execnet", *name.split("/")]
        base = ".".join([*(home[: -node.level] if node.level else []), *filter(None, [node.module])])
        yield from ([f"{base}.{alias.name}", base] for alias in node.names)


def file_of(dotted: str) -> str | None:
    """The file of a module of the package, without its ending."""
    first, *rest = dotted.split(".")
    path = PACKAGE.joinpath(*rest)
    if path.is_dir():
        path /= "__init__"
    is_ours = first == "execnet" and any(path.with_suffix(ending).exists() for ending in (".py", ".pyi"))
    return str(path.relative_to(PACKAGE)) if is_ours else None


def imports(name: str) -> set[str]:
    """The files of the package that this one imports."""
    if name == "__init__":
        return {home.replace(".", "/") for home in (*execnet._HOME.values(), *execnet._MODULES)}
    if name == "_core":
        return set()  # in C
    tree = ast.parse((PACKAGE / f"{name}.py").read_text("utf-8"))
    files = (map(file_of, dotted) for node in statements(tree) for dotted in meant(node, name))
    return {file for file in (next(filter(None, found), None) for found in files) if file is not None}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    names = ["_core", *(str(path.relative_to(PACKAGE).with_suffix("")) for path in PACKAGE.rglob("*.py"))]
    return {name: imports(name) for name in names}


def test_files_import_only_what_is_below_them(graph: dict[str, set[str]]) -> None:
    order = list(graphlib.TopologicalSorter(graph).static_order())  # CycleError where that is not so
    assert order.index("gateway_base") < order.index("gateway_io") < order.index("multi") < order.index("__init__")


def test_rooms_know_only_those_below_them(graph: dict[str, set[str]]) -> None:
    pairs = [(name, other) for name, others in graph.items() for other in others]
    wrong = [(name, other) for name, other in pairs if HEIGHTS[room(other)] > HEIGHTS[room(name)]]
    aside = [(name, other) for name, other in pairs if HEIGHTS[room(other)] == HEIGHTS[room(name)]]
    assert wrong == []
    assert [(name, other) for name, other in aside if room(name) != room(other)] == []


def test_every_import_statement_is_seen(graph: dict[str, set[str]]) -> None:
    below = {"gateway_base", "_process/death", "_output/modes", "_report/stacks", "_source/functions"}
    assert graph["gateway"] == below
    assert {"_transport/warm", "_transport/unasked", "gateway_io", "gateway_socket"} <= graph["_transport/creating"]
    assert graph["gateway_base"] == {"_core", "_compat/__init__"}
    assert "__init__" in graph["_command/run"] and "__init__" not in graph["multi"]


def test_the_rooms_are_those_that_the_list_names(graph: dict[str, set[str]]) -> None:
    assert {room(name) for name in graph} == set(HEIGHTS)


# transports


def test_each_row_of_the_registry_names_functions_and_a_key_that_specs_know() -> None:
    for transport in registry.TRANSPORTS:
        assert transport.key in KNOWN_KEYS
        for name in filter(None, (transport.create, transport.command)):
            assert callable(registry.function(name))


def shell_args(spec: XSpec) -> list[str]:
    """The command of a transport that a shell starts."""
    popen_args = registry.function(registry.POPEN_COMMAND)
    return [spec.shell, "-c", 'WAY=shell exec "$0" "$@"', *popen_args(spec)]


@pytest.mark.skipif(sys.platform == "win32", reason="no /bin/sh there")
@pytest.mark.parametrize("via", ["", "//via=way"])
def test_a_transport_is_added_by_a_row(makegateway: MakeGateway, monkeypatch: pytest.MonkeyPatch, via: str) -> None:
    row = registry.Transport("shell", registry.PROCESS, f"{__name__}:shell_args")
    monkeypatch.setattr(registry, "TRANSPORTS", [*registry.TRANSPORTS, row])
    if via:
        makegateway("popen//id=way")
    gateway = makegateway(f"shell=/bin/sh{via}")
    assert gateway.remote_exec("import os; channel.send(os.environ['WAY'])").receive(30) == "shell"
    assert gateway.spec.shell == "/bin/sh"
