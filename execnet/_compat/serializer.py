"""The class that writes values by methods, as execnet 2.1 did: programs add methods for their own classes to it.

Where the class was changed, its methods write whole values; else they are asked for what nothing else can write.
"""

from __future__ import annotations

from operator import methodcaller
from sys import intern
from types import SimpleNamespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

#: The attributes of each class made here as they were at first.
_first: dict[type, dict[str, Any]] = {}


class Noticing(type):
    """Notes in its gateway_base's ``_changes`` whether an attribute of a class is the one that it had at first."""

    def __setattr__(cls, name: str, value: object) -> None:
        super().__setattr__(name, value)
        cls._notice(name)

    def __delattr__(cls, name: str) -> None:
        super().__delattr__(name)
        cls._notice(name)

    def _notice(cls, name: str) -> None:
        first = _first.get(cls)
        if first is None:
            return  # a subclass
        changes = vars(cls)["_base"]._changes
        if vars(cls).get(name) is first.get(name):
            changes.pop(name, None)
        else:
            changes[name] = True


class Methods:
    """Writes values piece by piece, by the method for their class: save_<its name>(obj).

    write, if given, is called with each piece. What _dispatch has for a class, a function(serializer, obj), is called
    instead of a method. What has neither is written as by dumps().
    """

    _base: Any  # the names of its gateway_base
    _dispatch: Any
    _gateway: Any = None

    def __init__(self, write: Callable[[bytes], object] | None = None) -> None:
        if write is None:
            self._streamlist: list[bytes] = []
            write = self._streamlist.append
        self._write = write

    def save(self, obj: object, versioned: bool = False) -> bytes | None:
        """Write obj, after the version byte if versioned; returns all bytes unless write was given.

        DumpError if it can't be written.
        """
        if versioned:
            self._write(self._base.DUMPFORMAT_VERSION)
        self._save(obj)
        self._write(self._base.opcode.STOP)
        return b"".join(self._streamlist) if hasattr(self, "_streamlist") else None

    def _save(self, obj: Any) -> None:
        method = self._method_of(type(obj))
        if method is not None:
            method(self, obj)
        else:
            self._save_by(lambda obj, write: self._base._save_other(obj, write, self._gateway, False), obj)

    @classmethod
    def _method_of(cls, kind: type) -> Callable[[Any, Any], object] | None:
        # interned: CPython's cache of attributes would keep each new string
        return cls._dispatch.get(kind) or getattr(cls, intern("save_" + kind.__name__), None)

    def _save_by(self, save: Callable[[Any, Any], Any], obj: object) -> None:
        try:
            for part in save(obj, self._put) or ():
                self._save(part)
        except self._base._Unwritable as exc:
            raise self._base.DumpError(f"can't serialize {type(obj)}{exc}") from None

    def _put(self, data: bytes) -> None:
        self._write(data)

    def save_long(self, obj: int) -> None:
        self._save_integral(obj, self._base.opcode.LONG, self._base.opcode.LONGLONG)

    def save_dict(self, obj: dict[Any, Any]) -> None:
        self._save_by(lambda mapping, write: self._base._save_dict(mapping, write, methodcaller("items")), obj)

    def save_Channel(self, channel: Any) -> None:
        self._save_by(lambda channel, write: self._base._save_channel(channel, write, self._gateway), channel)

    # For the methods of subclasses.

    def _write_int4(self, i: int, error: str | None = None) -> None:
        if i > self._base.FOUR_BYTE_INT_MAX:
            raise self._base.DumpError(error or f"int must be less than {self._base.FOUR_BYTE_INT_MAX}")
        self._write(self._base._int4.pack(i))

    def _write_byte_sequence(self, bytes_: bytes) -> None:
        self._write_int4(len(bytes_), "too many bytes")
        self._write(bytes_)

    def _write_unicode_string(self, s: str) -> None:
        try:
            data = s.encode("utf-8")
        except UnicodeEncodeError:
            raise self._base.DumpError("strings must be utf-8 encodable") from None
        self._write_byte_sequence(data)

    def _write_setitem(self, key: object, value: object) -> None:
        self._save(key)
        self._save(value)
        self._write(self._base.opcode.SETITEM)

    def _write_set(self, s: set[Any] | frozenset[Any], op: bytes) -> None:
        self._save_by(self._base._save_set(op), s)

    def _save_integral(self, i: int, short_op: bytes, long_op: bytes) -> None:
        self._save_by(self._base._save_integer(short_op, long_op), i)


def _method_by(save: Callable[[Any, Any], Any]) -> Callable[[Any, Any], None]:
    return lambda self, obj: self._save_by(save, obj)


def serializer_class(gateway_base: ModuleType) -> type:
    """The class of that module, which there is one of for each core that is in use."""
    base = SimpleNamespace(**vars(gateway_base))
    members: dict[str, Any] = {"save_" + kind.__name__: _method_by(save) for kind, save in base._SAVERS.items()}
    members.update((name, value) for name, value in vars(Methods).items() if name not in ("__dict__", "__weakref__"))
    members.update(_base=base, _dispatch=base._dispatch, __module__=gateway_base.__name__)
    made = Noticing("_Serializer", (object,), members)
    _first[made] = dict(vars(made))
    return made
