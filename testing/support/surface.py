"""The surface of an execnet: its names, their signatures and class bases, found by introspection alone.

As a program it prints the surface of the execnet that it imports, as JSON; `beside` compares two of them.
"""

from __future__ import annotations

import importlib
import inspect
import io
import json
import socket
import sys
from collections.abc import Iterator
from typing import Any

#: Those that can be imported; the scripts without functions run when they are.
MODULES = [
    "execnet",
    "execnet._version",
    "execnet.gateway",
    "execnet.gateway_base",
    "execnet.gateway_bootstrap",
    "execnet.gateway_io",
    "execnet.gateway_socket",
    "execnet.multi",
    "execnet.rsync",
    "execnet.rsync_remote",
    "execnet.script.socketserver",
    "execnet.xspec",
]
PLAIN = (bool, int, float, str, bytes, type(None))
#: Special attributes that every class has, or that say how it is written.
WRITTEN = {"__annotations__", "__firstlineno__", "__static_attributes__"}
OF_ANY_CLASS = {*dir(type), *dir(object), *WRITTEN, "__init__", "__weakref__"} - {
    "__repr__",
    "__eq__",
    "__ne__",
    "__hash__",
    "__str__",
    "__call__",
} | {"__annotate_func__", "__annotations_cache__"}
OF_PROTOCOLS = {"_abc_impl", "_is_protocol", "__parameters__", "__orig_bases__", "__protocol_attrs__"}
OF_PROTOCOLS |= {"__callable_proto_members_only__", "__non_callable_proto_members__"}

Description = dict[str, Any]


def parameters(function: Any) -> list[tuple[str, str, bool]] | None:
    """Name, kind, and whether it has a default, of each but `self`; None where Python does not know them."""
    try:
        every = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    return [(each.name, each.kind.name, each.default is not each.empty) for each in every if each.name != "self"]


def described(value: object, static: object) -> Description:
    """What a name stands for that gives value; static is what is stored under it."""
    if isinstance(value, type):
        # All that an `except` clause or isinstance() goes by.
        return {"what": "class", "bases": [base.__name__ for base in value.__mro__[1:-1]]}
    if callable(value) and not isinstance(static, property):
        bound = isinstance(static, (staticmethod, classmethod))
        return {"what": type(static).__name__ if bound else "function", "parameters": parameters(value)}
    return {"what": "attribute", "value": repr(value) if isinstance(value, PLAIN) else None}


def is_imported(value: object, path: str) -> bool:
    """Whether the module of that path has value from somewhere else."""
    home = getattr(value, "__module__", None) if callable(value) else type(value).__module__
    return inspect.ismodule(value) or (isinstance(home, str) and home not in (path, "builtins"))


def of_module(path: str) -> Iterator[tuple[str, Description]]:
    module = importlib.import_module(path)
    for name in dir(module):
        if name.startswith("__") and name.endswith("__"):
            continue
        value = getattr(module, name)
        if path != "execnet" and is_imported(value, path):
            # It is there; where it comes from is what counts.
            yield f"{path}.{name}", {"what": "imported"}
            continue
        yield f"{path}.{name}", described(value, value)
        if isinstance(value, type) and not is_imported(value, path):
            yield from of_class(f"{path}.{name}", value)


def of_class(path: str, cls: type) -> Iterator[tuple[str, Description]]:
    """How it is made, and what the package's classes in it give to its instances."""
    yield f"{path}()", {"what": "function", "parameters": parameters(cls)}
    own = [base for base in cls.__mro__ if base.__module__.partition(".")[0] == "execnet"]
    for name in {name for base in own for name in vars(base)} - OF_ANY_CLASS - OF_PROTOCOLS:
        yield f"{path}.{name}", described(getattr(cls, name, None), inspect.getattr_static(cls, name))


def instances() -> Iterator[object]:
    """One live object of each class that has attributes of its own."""
    import execnet
    from execnet import gateway_base, gateway_socket, multi

    group = execnet.Group()
    gateway = group.makegateway("popen")
    master: Any = gateway._io
    proxied = group.makegateway(f"popen//via={gateway.id}")
    channel = gateway.remote_exec("channel.send(1)")
    channel.waitclose(60)
    with socket.create_server(("127.0.0.1", 0)) as server:
        one, other = socket.create_connection(server.getsockname()), server.accept()[0]
    pool = gateway_base.WorkerPool(group.execmodel)
    reply = pool.spawn(int)
    reply.get(60)
    yield from (group, gateway, gateway._rinfo(), gateway.remote_status(), master, proxied._io)
    yield from (channel, gateway._channelfactory, gateway_base.ChannelFileRead(channel), channel.makefile("w"))
    yield from (pool, reply, gateway.spec, execnet.RSync("."), multi.MultiChannel([channel]))
    yield from (gateway_base.Message(0), gateway_base.RemoteError("text"), group.execmodel)
    yield from (gateway_base.Unserializer(io.BytesIO()), gateway_base._Serializer())
    files = gateway_base.Popen2IO(one.makefile("wb"), one.makefile("rb"), group.execmodel)
    yield from (gateway_socket.SocketIO(one, group.execmodel), files, gateway_base.WorkerGateway(files, "worker"))
    group.terminate(5)
    one.close()
    other.close()


def of_instances() -> Iterator[tuple[str, Description]]:
    for instance in instances():
        cls = type(instance)
        if cls.__module__.startswith("execnet."):
            for name in vars(instance):
                yield f"{cls.__module__}.{cls.__name__}.{name}", {"what": "attribute", "value": None}


def surface() -> dict[str, Description]:
    """All names of the package's modules, of the classes in them and of objects of these, and what each is."""
    found: dict[str, Description] = {}
    for name, description in of_instances():
        found[name] = description
    for path in MODULES:
        found.update(of_module(path))
    return found


def shown(description: Description | None) -> str:
    """A description in words."""
    if description is None:
        return "missing"
    what = description["what"]
    if what == "class":
        return f"class({', '.join(description['bases'])})"
    if what == "attribute":
        return what if description["value"] is None else str(description["value"])
    if "parameters" in description:
        known = description["parameters"]
        marks = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**", "KEYWORD_ONLY": "kw:", "POSITIONAL_ONLY": "pos:"}
        named = [f"{marks.get(kind, '')}{name}{'=...' * default}" for name, kind, default in known or ()]
        return f"{what}({', '.join(named) if known is not None else '?'})"
    return str(what)


def takes_all(ours: list[list[Any]] | None, theirs: list[list[Any]] | None) -> bool:
    """Whether every call that fits their parameters fits ours."""
    if ours is None or theirs is None:
        return ours == theirs
    if len(ours) < len(theirs):
        return False
    for (name, kind, default), (their_name, their_kind, their_default) in zip(ours, theirs):
        by_position = their_kind == "POSITIONAL_ONLY" and not kind.startswith("KEYWORD")
        if (not by_position and (name, kind) != (their_name, their_kind)) or (their_default and not default):
            return False
    return all(default or kind.startswith("VAR") for _, kind, default in ours[len(theirs) :])


def fits(theirs: Description, ours: Description | None) -> bool:
    """Whether a program that uses what theirs describes can use ours instead."""
    if theirs["what"] == "imported":
        return True  # it can be had from where it is defined
    if ours is None or ours["what"] == "imported":
        return ours is not None
    if theirs["what"] == "class":
        return ours["what"] == "class" and set(theirs["bases"]) <= set(ours["bases"])
    if theirs["what"] == "attribute":
        return theirs["value"] in (None, ours.get("value"))
    return theirs["what"] == ours["what"] and takes_all(ours["parameters"], theirs["parameters"])


def beside(theirs: dict[str, Description], ours: dict[str, Description]) -> dict[str, str]:
    """What of theirs is missing in ours, or other than a program needs it: by name, "theirs | ours"."""
    pairs = {name: (theirs[name], ours.get(name)) for name in sorted(theirs)}
    return {name: f"{shown(one)} | {shown(other)}" for name, (one, other) in pairs.items() if not fits(one, other)}


if __name__ == "__main__":
    json.dump(surface(), sys.stdout)
