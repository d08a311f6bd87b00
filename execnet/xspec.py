"""What to start and where, parsed from a ``key=value//key`` string."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# How alike (1.0: equal) an unknown key and a known one must be for the one to be a likely misspelling of the other.
LIKENESS = 0.82


class XSpec:
    """A gateway specification: ``key1=value1//key2=value2//key3``.

    A key without ``=`` has the value True; only the first ``=`` separates key and value. In a
    value ``////`` stands for ``//``. Keys nobody set read as None, unknown keys are kept as
    attributes. ``env:NAME=value`` adds to the dict :attr:`env`. Two specs are equal when their
    strings are, whatever was assigned later.

    Raises ValueError for a key that is empty or given twice, AttributeError for a key that
    begins with an underscore.
    """

    # Known keys; mypy reads the types here, callers find None for what the string left out.
    chdir: str | None = None
    dont_write_bytecode: str | bool | None = None
    execmodel: str | None = None
    faulthandler: str | bool | None = None
    id: str | None = None
    installvia: str | None = None
    newsession: str | bool | None = None
    nice: str | None = None
    popen: str | bool | None = None
    preload: str | bool | None = None
    python: str | None = None
    socket: str | bool | None = None
    ssh: str | None = None
    ssh_command: str | None = None
    ssh_config: str | None = None
    stderr: str | bool | None = None
    stdout: str | bool | None = None
    timeout: str | None = None
    vagrant_ssh: str | None = None
    via: str | None = None
    warm: str | bool | None = None

    def __init__(self, string: str) -> None:
        self._spec = string
        self.env: dict[str, str | bool] = {}
        seen = {"env"}
        for part in parts(string):
            key, given, text = part.partition("=")
            value: str | bool = text if given else True
            if key.startswith("_"):
                raise AttributeError(f"{key!r} not a valid XSpec key")
            if not key or "//" in key:
                raise ValueError(f"empty key in {string!r}")
            if key.startswith("env:"):
                self.env[key[4:]] = value
                continue
            if key in seen:
                raise ValueError(f"duplicate key: {key!r} in {string!r}")
            seen.add(key)
            setattr(self, key, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return None

    def __repr__(self) -> str:
        return f"<XSpec {self._spec!r}>"

    def __str__(self) -> str:
        return self._spec

    def __hash__(self) -> int:
        return hash(self._spec)

    def __eq__(self, other: object) -> bool:
        return self._spec == getattr(other, "_spec", None)

    def __ne__(self, other: object) -> bool:
        return self._spec != getattr(other, "_spec", None)

    def _samefilesystem(self) -> bool:
        return self.popen is not None and self.chdir is None


def parts(string: str) -> list[str]:
    """The texts between the ``//`` of a spec, read from left to right; ``////`` is one ``//`` in a text.

    Without this the latter would be an empty key, which there never was: so no spec has another meaning by it.
    """
    first, *pieces = string.split("//")
    found = [first]
    while pieces:
        piece = pieces.pop(0)
        if piece or not pieces:
            found.append(piece)
        else:
            found[-1] += "//" + pieces.pop(0)
    return found


def multiplied(specs: Iterable[XSpec | str | None]) -> list[XSpec | str | None]:
    """The specs, with ``8*popen`` as eight times ``popen``; raises ValueError for less than one, or one id for several.

    What is no whole number of ASCII digits before the ``*`` belongs to the key.
    """
    several: list[XSpec | str | None] = []
    for spec in specs:
        count, times, single = spec.partition("*") if isinstance(spec, str) else ("", "", "")
        if not (times and count.isascii() and count.isdigit()):
            several.append(spec)
            continue
        if not int(count):
            raise ValueError(f"the number before * must be at least 1: {spec!r}")
        if int(count) > 1 and XSpec(single).id is not None:
            raise ValueError(f"{count} gateways can't have the same id: {spec!r}")
        several += [single] * int(count)
    return several


KNOWN_KEYS = frozenset(XSpec.__annotations__)
_asked: set[str] = set()


def warn_of_likely_mistakes(spec: XSpec, stacklevel: int) -> None:
    """Warn of each unknown key that is nearly a known one, once in a process."""
    for part in parts(spec._spec):
        key = part.partition("=")[0]
        if key in KNOWN_KEYS or key in _asked or key.startswith("env:") or "*" in key:
            continue
        _asked.add(key)
        import difflib  # lazy: start-up speed
        import warnings

        nearest = difflib.get_close_matches(key, KNOWN_KEYS, 1, LIKENESS)
        if nearest:
            text = f"unknown key {key!r} in {spec._spec!r}: did you mean {nearest[0]!r}?"
            warnings.warn(text, stacklevel=stacklevel + 1)
