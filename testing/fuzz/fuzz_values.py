"""A fuzzer of the value reader: both cores load mutated values and must give the same value or refusal.

``python testing/fuzz/fuzz_values.py --seconds 60`` runs it; with a core built under ``-fsanitize=address,undefined``
it finds what a comparison can't see. ``--seed`` repeats a run. It stops at the first difference and prints the bytes.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import random
import struct
import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

MAGIC = (0, 1, 0x7F, 0x80, 0xFF, *b"@ABCDEFGHIJKLMNOPQRST")


def _int4(number: int) -> bytes:
    return struct.pack("!i", number)


SEEDS = [
    # What Python 3 writes: a list of all kinds, nested.
    b"\x02K" + _int4(2) + b"F" + _int4(0) + b"F" + _int4(7) + b"PF" + _int4(1) + b"N" + _int4(2) + b"\xc3\xa9PQ",
    b"\x02K" + _int4(1) + b"F" + _int4(0) + b"K" + _int4(1) + b"F" + _int4(0) + b"LPPQ",
    b"\x02JN" + _int4(1) + b"aF" + _int4(1) + b"PN" + _int4(1) + b"bJLRPPQ",
    b"\x02F" + _int4(1) + b"N" + _int4(1) + b"xC@" + _int4(2) + b"@" + _int4(2) + b"Q",
    b"\x02D" + struct.pack("!d", 1.5) + b"T" + struct.pack("!dd", 1, 2) + b"O" + _int4(2) + b"Q",
    b"\x02LE" + _int4(1) + b"A" + _int4(3) + b"abcE" + _int4(2) + b"Q",
    b"\x02H" + _int4(30) + b"123456789012345678901234567890Q",
    b"\x02H" + _int4(700) + b"-" + b"7" * 699 + b"Q",
    # What others may: lists out of order or unassigned, the strings of Python 2.
    b"\x02K" + _int4(3) + b"F" + _int4(1) + b"LPQ",
    b"\x02K" + _int4(2) + b"RLPF" + _int4(0) + b"CPQ",
    b"\x02M" + _int4(2) + b"\xe9aS" + _int4(1) + b"a@" + _int4(2) + b"Q",
    b"\x02G" + _int4(1) + b"I" + _int4(2) + b"-5@" + _int4(2) + b"Q",
]


def _mutate(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(1, len(data) + 1)
    kind = rng.random()
    if kind < 0.5:
        data[at : at + 1] = bytes([rng.choice(MAGIC) if rng.random() < 0.8 else rng.randrange(256)])
    elif kind < 0.7:
        del data[at : at + rng.randint(1, 6)]
    elif kind < 0.9:
        source = rng.choice(SEEDS)
        start = rng.randrange(len(source))
        data[at:at] = source[start : start + rng.randint(1, 12)]
    else:
        data[at : at + 4] = _int4(rng.choice((0, 1, 2, 3, -1, 65535, 65536, 65537, 2**31 - 1)))


def mutations(rng: random.Random, count: int) -> Iterator[bytes]:
    """So many mutated values, the same for the same generator's seed."""
    for _ in range(count):
        data = bytearray(rng.choice(SEEDS))
        if rng.random() < 0.3:
            data[-1:] = rng.choice(SEEDS)[1:]
        for _ in range(rng.randint(1, 5)):
            _mutate(rng, data)
        yield bytes(data)


def _outcome(load: Callable[[Any], Any], argument: Any) -> tuple[str, str]:
    try:
        return "value", repr(load(argument))
    except Exception as error:
        return type(error).__name__, ""


def check(data: bytes, ours: ModuleType, twin: ModuleType) -> None:
    """Raise AssertionError unless both cores agree on the bytes, from memory and from a stream."""
    expected = _outcome(twin.loads, data)
    assert expected[0] in ("value", "LoadError", "EOFError"), (data, expected)
    assert _outcome(ours.loads, data) == expected, (data, _outcome(ours.loads, data), expected)
    assert _outcome(ours.load, io.BytesIO(data)) == expected, (data, "stream", expected)


def portable_twin(path: str) -> ModuleType:
    """The same file over the portable core."""
    os.environ["EXECNET_PURE"] = "1"
    try:
        spec = importlib.util.spec_from_file_location("portable_gateway_base", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        del os.environ["EXECNET_PURE"]
    return module


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long (default: 10)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeat the run of this seed")
    options = parser.parse_args()
    from execnet import gateway_base

    if gateway_base.core != "c":
        sys.exit("execnet runs on its portable core: nothing to compare")
    twin = portable_twin(gateway_base.__file__)
    print(f"seed {options.seed}")
    rng = random.Random(options.seed)
    end = time.monotonic() + options.seconds
    count = 0
    while time.monotonic() < end:
        for data in mutations(rng, 1000):
            check(data, gateway_base, twin)
        count += 1000
    print(f"{count} values, no difference")


if __name__ == "__main__":
    main()
