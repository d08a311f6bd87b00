"""A fuzzer of the value writer and reader against code that runs meanwhile.

Finalizers, other threads, reducers, properties of channels, the repr of a class and the read of a stream change the
containers that are written, use the same codec or let go of what is in use. Whatever they do: bytes that are loaded, or
one of the refusals. ``python testing/fuzz/fuzz_meanwhile.py --seconds 60`` runs it; with a core built under
``-fsanitize=address,undefined`` it finds what does no harm at once. ``--seed`` repeats a run, as far as threads allow.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from types import ModuleType
from typing import Any

# What may come of dumps and loads whose containers change; MemoryError and the like are nobody's refusal.
REFUSALS = (RuntimeError, EOFError, TypeError, KeyError)


class Meddler:
    """Changes the containers it knows, at random, whenever it is called."""

    def __init__(self, rng: random.Random, base: ModuleType) -> None:
        self.rng, self.base = rng, base
        self.containers: list[Any] = []
        self.changes = 0
        self.busy = False

    def __call__(self) -> None:
        if self.busy or not self.containers:
            return
        self.busy = True
        try:
            self.changes += 1
            for _ in range(self.rng.randint(1, 3)):
                self.change(self.rng.choice(self.containers))
            if self.rng.random() < 0.2:
                self.use_the_codec()
        except (IndexError, KeyError, RuntimeError):
            pass  # another thread was faster
        finally:
            self.busy = False

    def change(self, container: Any) -> None:
        how, fresh = self.rng.randrange(6), scalar(self.rng)
        if how == 0:
            container.clear()
        elif isinstance(container, list):
            if how == 1:
                container.append(fresh)
            elif how == 2:
                container[:] = [scalar(self.rng) for _ in container]
            elif container:
                container[self.rng.randrange(len(container))] = fresh
        elif isinstance(container, dict):
            if how == 1:
                container[fresh] = fresh
            elif how == 2:
                # Of the same size, and all others.
                size = len(container)
                container.clear()
                container.update((f"new {number}", number) for number in range(size))
            elif container:
                container[self.rng.choice(list(container))] = fresh
        elif how < 3:
            container.add(fresh)
        elif container:
            container.pop()
            container.add(fresh)

    def use_the_codec(self) -> None:
        value = {"key": [1, "é" * self.rng.randint(0, 2000)], "another": {2.5}}
        assert self.base.loads(self.base.dumps(value)) == value


def scalar(rng: random.Random) -> Any:
    kind = rng.randrange(8)
    if kind == 0:
        return f"text {rng.randrange(10**9)}"
    if kind == 1:
        return "é" * rng.randint(1, 9) + str(rng.random())
    if kind == 2:
        return rng.randrange(10**9)
    if kind == 3:
        return rng.randrange(10**30)
    if kind == 4:
        return rng.random()
    if kind == 5:
        return rng.randbytes(rng.randint(0, 40)) if hasattr(rng, "randbytes") else b"bytes"
    if kind == 6:
        return (rng.random(), f"in a tuple {rng.randrange(10**9)}")
    return complex(rng.random(), 1)


class List(list):  # type: ignore[type-arg]
    """Written as a list."""


class Dict(dict):  # type: ignore[type-arg]
    """Written as a dict."""


# Without a GIL, threads that change an OrderedDict of CPython 3.13 break it, whoever reads it.
DICTS = (Dict, OrderedDict) if getattr(sys, "_is_gil_enabled", lambda: True)() else (Dict,)


class Values:
    """Makes values in which something meddles wherever Python code can run."""

    def __init__(self, meddler: Meddler) -> None:
        rng, base = meddler.rng, meddler.base
        self.meddler, self.rng = meddler, rng

        class Channel(base.Channel):  # type: ignore[misc, name-defined]
            def __init__(self, number: int) -> None:
                self.number = number

            @property
            def id(self) -> Any:
                meddler()
                return self.number if rng.random() < 0.9 else rng.choice(("x", None, 2**40))

            def __del__(self) -> None:
                meddler()

            def __hash__(self) -> int:
                meddler()
                return self.number

            def __eq__(self, other: object) -> bool:
                meddler()
                return self is other

        class Loud(type):
            def __repr__(self) -> str:
                meddler()
                return "<loud>"

        class Unwritable(metaclass=Loud):
            pass

        class Trap:
            """Garbage that only the collector ends."""

            def __init__(self) -> None:
                self.itself = self

            def __del__(self) -> None:
                meddler()

        class Reduced:
            """What a reducer gives in its place may be in use elsewhere."""

            def __init__(self, inside: Any) -> None:
                self.inside = inside

            def reduce(self) -> Any:
                meddler()
                trap = Trap()
                del trap
                return self.inside if rng.random() < 0.9 else rng.choice((self, NotImplemented, object()))

        base._reducers.clear()
        base._reducers[Reduced] = Reduced.reduce
        self.channel, self.unwritable, self.trap, self.reduced = Channel, Unwritable, Trap, Reduced

    def new(self, number: int) -> Any:
        """As a channel factory does."""
        self.meddler()
        self.trap()
        return self.channel(number)

    def leaf(self) -> Any:
        kind = self.rng.random()
        if kind < 0.12:
            return self.channel(self.rng.randrange(100))
        if kind < 0.15:
            return self.unwritable()
        if kind < 0.2:
            return f"lone \ud800 {self.rng.randrange(10**9)}"
        if kind < 0.22:
            return 10 ** self.rng.randint(600, 1500) + self.rng.randrange(10**9)
        return scalar(self.rng)

    def value(self, levels: int) -> Any:
        kind = self.rng.randrange(8)
        if levels == 0 or kind == 0:
            return self.leaf()
        if kind == 6:
            return self.reduced(self.value(levels - 1))
        inside = [self.value(levels - 1) for _ in range(self.rng.randint(0, 6))]
        if kind == 1:
            return tuple(inside)
        if kind == 2:
            made: Any = {self.leaf(): item for item in inside}
        elif kind == 3:
            made = {self.leaf() for _ in inside}
        else:
            made = inside
        if kind == 7:
            items = [(self.leaf(), item) for item in inside]
            made = self.rng.choice((List(inside), self.rng.choice(DICTS)(items)))
        self.meddler.containers.append(made)
        return made


class Stream:
    """Gives what it likes, as what it likes."""

    def __init__(self, data: bytes, meddler: Meddler) -> None:
        self.data, self.meddler = data, meddler
        self.shared = bytearray(64)

    def read(self, count: int) -> Any:
        self.meddler()
        size = min(count, self.meddler.rng.choice((1, 1, 1, 2, 5, 60)))
        piece, self.data = self.data[:size], self.data[size:]
        how = self.meddler.rng.randrange(4)
        if how == 0:
            return bytearray(piece)
        if how == 1:
            self.shared[: len(piece)] = piece
            return memoryview(self.shared)[: len(piece)]
        return piece


def one_round(values: Values) -> None:
    """Write and read one value while it is meddled with."""
    meddler, base = values.meddler, values.meddler.base
    meddler.containers = []
    value = values.value(4)
    for _ in range(values.rng.randint(0, 10)):
        values.trap()
    data = outcome(base, lambda: base.dumps_internal(value))
    if data is None:
        return
    for load in (
        lambda: base.loads_internal(data, values),
        lambda: base.loads_internal(bytearray(data), values),
        lambda: load_stream(base, Stream(data, meddler), values),
    ):
        outcome(base, load)


def load_stream(base: ModuleType, stream: Stream, values: Values) -> Any:
    if base.core == "c":
        return base._codec.load_stream(stream, values)
    return base.Unserializer(stream, values).load()


def outcome(base: ModuleType, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (base.DumpError, base.LoadError, *REFUSALS):
        return None


def meddle(meddler: Meddler, ended: threading.Event) -> None:
    while not ended.is_set():
        meddler()


def run(base: ModuleType, seed: int, seconds: float = float("inf"), rounds: float = float("inf")) -> int:
    """So many rounds or seconds over the module; gives the number of rounds."""
    end = time.monotonic() + seconds
    done = 0
    before = gc.get_threshold(), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(1)
    try:
        while done < rounds and time.monotonic() < end:
            rng = random.Random(f"{seed} {done}")
            meddler = Meddler(rng, base)
            values = Values(meddler)
            ended = threading.Event()
            threads = [threading.Thread(target=meddle, args=(meddler, ended)) for _ in range(rng.choice((0, 0, 1, 2)))]
            for thread in threads:
                thread.start()
            try:
                for _ in range(20):
                    one_round(values)
                    done += 1
            finally:
                ended.set()
                for thread in threads:
                    thread.join()
    finally:
        gc.set_threshold(*before[0])
        sys.setswitchinterval(before[1])
    return done


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long (default: 10)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeat the run of this seed")
    options = parser.parse_args()
    from execnet import gateway_base

    print(f"seed {options.seed}, {gateway_base.core} core", flush=True)
    print(f"{run(gateway_base, options.seed, options.seconds)} rounds, nothing but values and refusals")


if __name__ == "__main__":
    main()
