"""Warm starts that no spec asks for: EXECNET_WARM has each plain ``popen`` of this process forked from a fork server.

``EXECNET_WARM=name,name`` says what that imports; with ``EXECNET_WARM=auto`` it is what this process has imported from
site-packages when its first worker starts. Whatever can't be forked so starts as ever, and is told once why.
"""

from __future__ import annotations

import os
import sys

from execnet.gateway_base import threads_are_green

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    from execnet.xspec import XSpec

    if sys.platform == "win32":
        Preload = Any
    else:
        from execnet._transport.warm import Preload

VARIABLE = "EXECNET_WARM"
AUTO = "auto"

# What is known of this process: the modules that it had when its first worker started; the values of EXECNET_WARM that
# have failed, which are not tried again; the reasons that were told.
_imported: dict[str, Preload] = {}
_failed: set[str] = set()
_told: set[str] = set()


def preload_for(spec: XSpec) -> Preload | None:
    """What a fork server imports for a worker of this spec; None where it is to start cold."""
    wanted = os.environ.get(VARIABLE, "")
    if not wanted or wanted in _failed or not _is_plain(spec):
        return None
    lacks = lacking()
    reason = f"{sys.platform} has no {lacks}"
    if sys.platform != "win32" and not lacks:
        from execnet._transport.warm import START_VARIABLES, Preload  # lazy: start-up speed

        early = [name for name in spec.env if name.encode().startswith(START_VARIABLES)]
        reason = _reason_against(wanted, spec, early)
        if not reason and wanted != AUTO:
            return Preload(tuple(name for name in wanted.split(",") if name))
        if not reason:
            return _imported.get(AUTO) or _imported.setdefault(AUTO, Preload(*_what_is_imported()))
    _tell(spec, reason)
    return None


def lacking() -> str:
    """What fork servers need and this platform does not have; empty if there is nothing."""
    import _socket  # lazy: start-up speed

    if not hasattr(os, "fork"):
        return "fork"
    return "" if hasattr(_socket.socket, "sendmsg") else "sockets that pass descriptors"


def is_refused(spec: XSpec, io: Any) -> bool:
    """Wait until the worker has been forked or not; true where it can't be, which is told and not tried again."""
    reason = io.popen.reason_not_forked()
    if not reason:
        return False
    _failed.add(os.environ.get(VARIABLE, ""))
    _tell(spec, reason)
    return True


def _tell(spec: XSpec, reason: str) -> None:
    if reason not in _told and sys.stderr is not None:
        _told.add(reason)
        sys.stderr.write(f"execnet: {VARIABLE}: gateway {spec.id!r} ({spec}) starts cold: {reason}\n")


def _is_plain(spec: XSpec) -> bool:
    elsewhere = (spec.via, spec.ssh, spec.vagrant_ssh, spec.socket, spec.installvia)
    return bool(spec.popen) and not any(elsewhere)


def _reason_against(wanted: str, spec: XSpec, early: list[str]) -> str:
    if spec.python:
        return f"python={spec.python} is another interpreter"
    if early:
        return f"env:{early[0]} acts when an interpreter starts"
    if wanted == AUTO and _is_patched():
        return "this program's threads or sockets are patched, which a fork server can't be told"
    return ""


def _is_patched() -> bool:
    """Whether a library of green threads has put its own things in place of the standard library's."""
    socket = getattr(sys.modules.get("socket"), "socket", None)
    return threads_are_green() or (socket is not None and socket.__module__ != "socket")


def _what_is_imported() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The modules that this process has from site-packages, in the order in which it has imported them; its folders.

    Without those that a worker must import by itself: what an import hook has changed, as pytest does for its plugins'
    assertions, and what is measured there.
    """
    import site  # lazy: start-up speed

    folders = tuple(os.path.join(folder, "") for folder in [*site.getsitepackages(), site.getusersitepackages()])
    found = {name: _file_of(name, module) for name, module in list(sys.modules.items())}
    measured = _Measured(folders)
    names = (
        name
        for name, file in found.items()
        if file.startswith(folders) and name.partition(".")[0] != "execnet" and not measured.has(name, file)
    )
    return tuple(names), folders


def _file_of(name: str, module: ModuleType) -> str:
    """The file that the module was imported from by the usual means; empty if there is none."""
    from importlib.machinery import ExtensionFileLoader, SourceFileLoader  # lazy: start-up speed

    spec = getattr(module, "__spec__", None)
    usual = type(getattr(spec, "loader", None)) in (SourceFileLoader, ExtensionFileLoader)
    return spec.origin or "" if spec is not None and usual and spec.name == name else ""


class _Measured:
    """What coverage measures in this process, and so in its workers: there, it must have begun before the import."""

    def __init__(self, folders: tuple[str, ...]) -> None:
        self.packages: set[str] = set()
        self.folders: tuple[str, ...] = ()
        self.patterns: list[str] = []
        coverage = sys.modules.get("coverage")
        current = coverage.Coverage.current() if coverage is not None else None
        if coverage is None or current is None:
            return
        for option in ("run:source", "run:source_pkgs", "run:source_dirs"):
            try:
                sources = current.get_option(option) or []
            except coverage.CoverageException:  # a coverage that does not know it yet
                continue
            self.packages.update(sources)
            paths = [os.path.join(os.path.abspath(source), "") for source in sources]
            # It measures nothing in site-packages on account of a folder that these are in.
            self.folders += tuple(path for path in paths if path.startswith(folders))
        self.patterns = [os.path.abspath(pattern) for pattern in current.get_option("run:include") or []]

    def has(self, name: str, file: str) -> bool:
        """Whether a module, imported from that file, is measured."""
        from fnmatch import fnmatch  # lazy: start-up speed

        parts = name.split(".")
        return (
            any(".".join(parts[: count + 1]) in self.packages for count in range(len(parts)))
            or file.startswith(self.folders)
            or any(fnmatch(file, pattern) for pattern in self.patterns)
        )
