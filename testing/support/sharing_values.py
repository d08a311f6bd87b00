"""Run with a number of seconds: threads dump and load at once, by one codec, what other threads change meanwhile.

What comes out is right or a clear error, whatever the other threads do; the first thing that is wrong ends the process.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import execnet
import execnet.gateway_base

CHANGED = (RuntimeError,)  # "changed while it was serialized"
SHAPES: list[Any] = [
    [{"name": f"row {i}", "index": i, f"key {i % 300}": [i, None, 1.5]} for i in range(60)],
    {f"key {i}": {"same": i, "other": str(i)} for i in range(400)},
    [[[[i], (i, str(i))], {i, -i}, frozenset((i,))] for i in range(100)],
    ["häßlich " * (i % 9) for i in range(200)],
    [10**i for i in range(100)],
    b"x" * 200_000,
]


class Point:
    """An object that only a reducer can write."""

    def __init__(self, x: int) -> None:
        self.x = x


def there_and_back(number: int) -> None:
    """Each thread has values of its own; the codec, its scratch memory and its keys are everybody's."""
    for shape in SHAPES:
        assert execnet.loads(execnet.dumps([number, shape])) == [number, shape]


def lists(shared: list[Any], number: int) -> None:
    """A list whose elements change all at once, in one step of its own lock, is never seen half changed."""
    if number % 2:
        for value in (0, "text", 1.5, None, 10**30):
            shared[:] = [value] * (100 + number)
        return
    try:
        seen = execnet.loads(execnet.dumps(shared))
    except CHANGED:
        return
    assert len(set(seen)) <= 1, seen


def nested_lists(shared: list[Any], number: int) -> None:
    """Lists that are replaced, emptied and filled while who writes the list around them is in them."""
    if number % 2:
        shared[number % len(shared)] = [number] * 50
        inner = shared[(number + 1) % len(shared)]
        inner.clear()
        inner.extend([number] * 20)
        return
    try:
        seen = execnet.loads(execnet.dumps(shared))
    except CHANGED:
        return
    assert len(seen) == len(shared) and all(len(set(inner)) <= 1 for inner in seen), seen


def dicts(shared: dict[Any, Any], number: int) -> None:
    """Each value belongs to its key, also while keys come and go."""
    if number % 2:
        for i in range(number, number + 40):
            shared[f"key {i}"] = [f"key {i}"]
            shared.pop(f"key {i - 20}", None)
        if number % 5 == 0:
            shared.clear()
        return
    try:
        seen = execnet.loads(execnet.dumps(shared))
    except CHANGED:
        return
    assert all(value == [key] for key, value in seen.items()), seen


def sets(shared: set[Any], number: int) -> None:
    """A set contains nothing that nobody put there."""
    if number % 2:
        for i in range(40):
            shared.add((number, i))
            shared.discard((number, i - 5))
        return
    try:
        seen = execnet.loads(execnet.dumps(shared))
    except CHANGED:
        return
    assert all(type(member) is tuple and len(member) == 2 for member in seen), seen


def reducers(number: int) -> None:
    """A reducer that comes and goes is asked or not."""
    names = execnet.gateway_base._reducers
    if number % 2:
        names[Point] = lambda point: ["point", point.x]
        names.pop(Point, None)
        return
    with contextlib.suppress(execnet.DumpError):
        assert execnet.loads(execnet.dumps([Point(number)] * 5)) == [["point", number]] * 5


class Number(int):
    """An int of a class with many subclasses."""

    changed = 0


SUBCLASSES: list[Any] = [type(f"Number{i}", (Number,), {}) for i in range(1000)]


def instances(shared: list[Any], number: int) -> None:
    """A list is emptied while who writes it waits for the lock of the types, to ask for the class of an element."""
    if number % 3 == 0:
        shared.clear()
        shared.extend([Number(10**9 + i) for i in range(5)])
        return
    if number % 3 == 1:
        Number.changed += 1
        assert all(subclass.changed for subclass in SUBCLASSES)
        return
    try:
        seen = execnet.loads(execnet.dumps(shared))
    except CHANGED:
        return
    assert all(10**9 <= one < 10**9 + 5 for one in seen), seen


def collector(number: int) -> None:
    """What the collector knows of lists in the making is changed by nobody."""
    if number % 2:
        for thing in gc.get_objects()[-2000:]:
            if type(thing) is list and len(thing) > 1 and thing[:1] == ["made by a load"]:
                thing.append("by another")
        return
    seen = execnet.loads(execnet.dumps(["made by a load", *range(3000)]))
    assert seen[1:3001] == list(range(3000))


class Crowd:
    """Threads that do one thing until the time is over."""

    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        self.calls = 0

    def run(self, count: int, do: Callable[..., None], *shared: Any) -> None:
        """`do` in `count` threads, each with its own number."""
        threads = [threading.Thread(target=self._go_on, args=(do, *shared, number)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _go_on(self, do: Callable[..., None], *args: Any) -> None:
        try:
            while time.monotonic() < self.deadline:
                do(*args)
                self.calls += 1
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)


def main(seconds: float) -> None:
    """Each of them for its part of the time; prints the core and whether there is a GIL."""
    crowds: list[tuple[int, Callable[..., None], list[Any]]] = [
        (20, there_and_back, []),  # more threads than the codec has places for
        (4, lists, [[1]]),
        (4, nested_lists, [[[1] for _ in range(10)]]),
        (4, dicts, [{}]),
        (4, dicts, [OrderedDict()]),
        (4, sets, [set()]),
        (4, reducers, []),
        (6, instances, [[]]),
        (4, collector, []),
    ]
    if sys.version_info < (3, 14):
        del crowds[4]  # CPython 3.13 does not guard the order of an OrderedDict
    for count, do, shared in crowds:
        crowd = Crowd(seconds / len(crowds))
        crowd.run(count, do, *shared)
        assert crowd.calls, do
    print(execnet.gateway_base.core, getattr(sys, "_is_gil_enabled", lambda: True)())


if __name__ == "__main__":
    main(float(sys.argv[1]))
