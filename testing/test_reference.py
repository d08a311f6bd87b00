"""The reference pages: every public name, with its parameters, and every environment variable has its place there."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import execnet
from execnet.gateway_bootstrap import GatewayStartError, GatewayStartTimeout

CHECKOUT = Path(__file__).resolve().parents[1]
REFERENCE = CHECKOUT / "doc" / "reference.rst"
ENVIRONMENT = CHECKOUT / "doc" / "environment.rst"

LAZY = ("GatewayDied", "reduce_common_types", "register_reducer", "report")
PUBLIC = {name: getattr(execnet, name) for name in (*execnet.__all__, *LAZY)}
PUBLIC |= {error.__name__: error for error in (GatewayStartError, GatewayStartTimeout)}
CLASSES = {name: value for name, value in PUBLIC.items() if isinstance(value, type)}
# Set when an instance is made.
ON_INSTANCES = {
    "Gateway": {"spec", "execmodel"},
    "Channel": {"id", "gateway"},
    "XSpec": {"env"},
    "RemoteError": {"formatted"},
}
# These have the attributes of what they are subclasses of, and are described there.
DESCRIBED_BY_THEIR_BASE = {"HostNotFound": GatewayStartError, "GatewayStartTimeout": GatewayStartError}
# Made by functions, not by their class.
NOT_CALLED = {"Gateway", "Channel"}


class Entry(NamedTuple):
    """What a page says of one name."""

    name: str
    parameters: dict[str, str]


def entries() -> Iterator[Entry]:
    """Each directive of the reference that describes names; members are named after their class."""
    text = re.sub(r" \\\n *", " ", REFERENCE.read_text("utf-8"))
    directive = r"^( *)\.\. (?:function|method|class|exception|attribute|data|property):: (.+(?:\n {16,}\w+)*)$"
    owner = ""
    for indent, names in re.findall(directive, text, re.MULTILINE):
        for name in names.split("\n"):
            signature = name.strip()
            name = re.split(r"\W", signature)[0]
            owner = owner if indent else name
            yield Entry(f"{owner}.{name}" if indent else name, parameters_said(signature))


def parameters_said(signature: str) -> dict[str, str]:
    """The parameters of a signature as it is written, with their defaults."""
    if "(" not in signature:
        return {}
    (function,) = ast.parse(f"def {signature}: ...").body
    assert isinstance(function, ast.FunctionDef)
    arguments = function.args
    defaults = [None] * (len(arguments.args) - len(arguments.defaults)) + arguments.defaults
    said = {arg.arg: shown(default) for arg, default in zip(arguments.args, defaults)}
    said |= {arg.arg: shown(default) for arg, default in zip(arguments.kwonlyargs, arguments.kw_defaults)}
    return said | ({arguments.kwarg.arg: ""} if arguments.kwarg else {})


def shown(default: ast.expr | None) -> str:
    return "" if default is None else repr(ast.literal_eval(default))


def parameters_of(function: object) -> dict[str, str]:
    """The parameters that a function has, with their defaults; an object without a text of its own reads as `...`."""
    found = {}
    for parameter in inspect.signature(function).parameters.values():  # type: ignore[arg-type]
        default = parameter.default
        plain = default is None or isinstance(default, (bool, float, str, tuple))
        text = "" if default is inspect.Parameter.empty else repr(default if plain else ...)
        found[parameter.name] = text
    return {name: text for name, text in found.items() if name != "self"}


def public_attributes(cls: type) -> set[str]:
    """The names that the class and its bases define, but for the bases that Python has itself."""
    names = set()
    for base in cls.__mro__:
        if base.__module__ != "builtins":
            names |= {*vars(base), *vars(base).get("__annotations__", {})}
    return {name for name in names if not name.startswith("_")}


ENTRIES = {entry.name: entry for entry in entries()}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_public_name_is_on_the_page(name: str) -> None:
    assert name in ENTRIES


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_each_public_attribute_of_a_class_is_on_the_page(name: str) -> None:
    attributes = public_attributes(CLASSES[name]) | ON_INSTANCES.get(name, set())
    if name in DESCRIBED_BY_THEIR_BASE:
        attributes -= public_attributes(DESCRIBED_BY_THEIR_BASE[name])
    missing = {attribute for attribute in attributes if f"{name}.{attribute}" not in ENTRIES}
    assert not missing


def test_the_page_has_no_name_that_is_not_there() -> None:
    known = {*PUBLIC}
    for name, cls in CLASSES.items():
        known |= {f"{name}.{attribute}" for attribute in public_attributes(cls) | ON_INSTANCES.get(name, set())}
    assert not {*ENTRIES} - known


def described_callables() -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in PUBLIC.items():
        if isinstance(value, type):
            members = {entry.partition(".")[2] for entry in ENTRIES if entry.startswith(f"{name}.")}
            found |= {f"{name}.{member}": getattr(value, member, None) for member in members}
        if not isinstance(value, type) or not (issubclass(value, Exception) or name in NOT_CALLED):
            found[name] = value
    return {name: value for name, value in found.items() if callable(value) and not is_exception(value)}


def is_exception(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


@pytest.mark.parametrize("name, function", sorted(described_callables().items()))
def test_the_parameters_on_the_page_are_those_of_the_function(name: str, function: object) -> None:
    assert ENTRIES[name].parameters == parameters_of(function)


def names_in(files: Iterable[Path], pattern: str) -> set[str]:
    return {name for path in files for name in re.findall(pattern, path.read_text("utf-8"))}


def variables_of_the_project() -> set[str]:
    """Those that the package, its build and the tests look at."""
    tests = CHECKOUT / "testing"
    files = [CHECKOUT / name for name in ("setup.py", "Makefile", "tox.ini")]
    named = names_in([*files, *CHECKOUT.glob("execnet/**/*.py"), *tests.glob("support/*.py")], r"\bEXECNET_[A-Z_]+\b")
    named |= names_in(CHECKOUT.glob("csrc/**/*.c"), r'\bgetenv\("(EXECNET_\w+)"')
    return named | names_in(tests.rglob("*.py"), r'\benviron\.get\("(EXECNET_\w+)"')


def test_each_environment_variable_is_in_the_table_once() -> None:
    rows = re.findall(r"^    \* - ``(EXECNET_\w+)``$", ENVIRONMENT.read_text("utf-8"), re.MULTILINE)
    assert len(rows) == len({*rows})
    assert {*rows} == variables_of_the_project()
