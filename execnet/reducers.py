"""What is written instead of objects that are no plain values: the functions that return it, by class."""

from __future__ import annotations

from . import gateway_base

TYPE_CHECKING = False
if TYPE_CHECKING:
    import enum
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")


def register_reducer(type: type[T], function: Callable[[T], object]) -> None:
    """Have objects of the class type, and of its subclasses, written as what function(object) gives.

    That is a plain value, or one that holds further objects with reducers; DumpError where it is neither, with the step
    ``<reduced>`` in the path. What function raises is raised as it is. NotImplemented passes the object on to its next
    class. The nearest class counts, by the object's ``__mro__``, of those with a reducer and the built-in types, as
    which their subclasses are written.

    It holds for this process and from now on; another function for the same class takes the place of the first.
    TypeError where type is no class or function can't be called, ValueError for a class that is always written as it
    is: a built-in type, or one of channels.
    """
    if issubclass(type, gateway_base.Channel) or type in gateway_base._SAVERS:
        raise ValueError(f"{type} is written as it is")
    if not callable(function):
        raise TypeError(f"a reducer that can't be called: {function!r}")
    gateway_base._reducers[type] = function


def reduce_common_types() -> None:
    """Register reducers for classes of the standard library, in the forms that their constructors read.

    ``pathlib`` paths: str. ``datetime.datetime``, ``date`` and ``time``: str in ISO 8601, for ``fromisoformat()``;
    ``timedelta``: float, its seconds. ``decimal.Decimal``, ``fractions.Fraction`` and ``uuid.UUID``: str.
    ``enum.Enum``: the member's value. Dataclasses: dict of their fields, by name; they are what is registered for
    ``object``. May be called again.
    """
    # lazy: for those who call it
    import datetime
    import decimal
    import enum
    import fractions
    import pathlib
    import uuid

    for kind in (pathlib.PurePath, decimal.Decimal, fractions.Fraction, uuid.UUID):
        register_reducer(kind, str)
    register_reducer(datetime.date, datetime.date.isoformat)
    register_reducer(datetime.datetime, datetime.datetime.isoformat)
    register_reducer(datetime.time, datetime.time.isoformat)
    register_reducer(datetime.timedelta, datetime.timedelta.total_seconds)
    register_reducer(enum.Enum, _value_of_member)
    register_reducer(object, _fields_by_name)


def _value_of_member(member: enum.Enum) -> Any:
    return member.value


def _fields_by_name(obj: object) -> Any:
    # lazy: for those who call it
    import dataclasses

    if not dataclasses.is_dataclass(type(obj)):
        return NotImplemented
    return {field.name: getattr(obj, field.name) for field in dataclasses.fields(obj)}  # type: ignore[arg-type]
