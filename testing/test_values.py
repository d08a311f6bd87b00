"""Values: what dumps writes, what loads reads and refuses, over the C core and its portable twin."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import gc
import http
import importlib
import io
import itertools
import marshal
import math
import mmap
import os
import random
import socket
import struct
import subprocess
import sys
import time
import tracemalloc
import uuid
import weakref
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from textwrap import dedent
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.interpreters import HAS_GIL
from support.oracle import Oracle
from support.twin import load_portable_twin

import execnet

# The fixture `base` is a module, the same for all examples of a test.
examples = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

WIRE = Path(__file__).with_name("wire")
FUZZ = Path(__file__).with_name("fuzz")


def int4(number: int) -> bytes:
    return struct.pack("!i", number)


def nested(levels: int) -> list[Any]:
    """A list inside levels others."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


class Factory:
    """Makes channels without a connection, the same for the same id."""

    def __init__(self, base: ModuleType) -> None:
        class Channel(base.Channel):  # type: ignore[misc, name-defined]
            def __init__(self, id: Any) -> None:
                self.id = id

            def __del__(self) -> None:
                """Nobody is told."""

            def __repr__(self) -> str:
                return f"channel({self.id})"

            def __eq__(self, other: object) -> bool:
                return type(other) is type(self) and bool(other.id == self.id)

            __hash__ = object.__hash__

        self.new = Channel


# golden bytes


class Case:
    """One case of a golden file."""

    def __init__(self, where: str, data: bytes) -> None:
        self.where = where
        self.data = data
        self.says: dict[str, str] = {}


def golden_cases() -> Iterator[Case]:
    for path in sorted(WIRE.glob("*.txt")):
        case = None
        for number, line in enumerate(path.read_text().splitlines(), 1):
            word, _, rest = line.partition(" ")
            if word in ("=", "writes", "py2text", "py2bytes", "refused", "ends"):
                assert case is not None
                case.says[word] = rest
            elif word != "#":
                if case is not None:
                    yield case
                case = Case(f"{path.stem}:{number}", bytes.fromhex(line))
        assert case is not None
        yield case


GOLDEN = list(golden_cases())


def test_there_is_a_golden_file_for_each_opcode(base: ModuleType) -> None:
    names = {name.lower() for name in vars(base.opcode) if not name.startswith("_")}
    assert names == {path.stem for path in WIRE.glob("*.txt")}


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case.where)
def test_golden_bytes(base: ModuleType, case: Case) -> None:
    factory = Factory(base)

    def value_of(expression: str) -> Any:
        return eval(expression, {"channel": factory.new})

    def load(py2text: bool = False, py2bytes: bool = False) -> Any:
        assert case.data[:1] == b"\x02"
        return base.loads_internal(case.data[1:], factory, (py2text, py2bytes))

    if "refused" in case.says or "ends" in case.says:
        error = base.LoadError if "refused" in case.says else EOFError
        with pytest.raises(error):
            base.loads(case.data)
        with pytest.raises(error):
            base.load(io.BytesIO(case.data))
        return
    value = value_of(case.says["="])
    loaded = load()
    assert loaded == value and type(loaded) is type(value) and repr(loaded) == repr(value)
    if "writes" in case.says:
        assert base.dumps(value) == case.data
    if "py2text" in case.says:
        assert load(py2text=True) == value_of(case.says["py2text"])
    if "py2bytes" in case.says:
        assert load(py2bytes=True) == value_of(case.says["py2bytes"])


# round trips

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**31) - 2, -(2**31) + 2),
    st.integers(2**31 - 2, 2**31 + 2),
    st.integers(min_value=-(2**3000), max_value=2**3000),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.binary(max_size=50),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
)
HASHABLES = st.recursive(SCALARS, lambda inner: st.tuples(inner) | st.frozensets(inner, max_size=3), max_leaves=4)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(HASHABLES, inner, max_size=5),
        st.sets(HASHABLES, max_size=5),
    ),
    max_leaves=30,
)


def shape(value: Any) -> Any:
    """The value with the types of everything in it, so that True differs from 1."""
    if isinstance(value, dict):
        return dict, [(shape(key), shape(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [shape(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(repr(shape(item)) for item in value)
    return type(value), repr(value)


@given(VALUES)
@settings(examples, max_examples=150)
def test_what_is_dumped_is_loaded(base: ModuleType, value: Any) -> None:
    data = base.dumps(value)
    assert data[:1] == b"\x02"
    assert data[1:] == base.dumps_internal(value)
    assert shape(base.loads(data)) == shape(value)
    assert shape(base.load(io.BytesIO(data))) == shape(value)
    assert shape(base.loads_internal(data[1:])) == shape(value)


@given(VALUES)
@settings(examples, max_examples=80)
def test_every_truncation_ends_early(base: ModuleType, value: Any) -> None:
    data = base.dumps(value)
    for size in range(max(0, len(data) - 60), len(data)):
        with pytest.raises(EOFError):
            base.loads(data[:size])
        with pytest.raises(EOFError):
            base.load(io.BytesIO(data[:size]))


def outcome(call: Any, *args: Any) -> tuple[str, Any]:
    try:
        return "value", call(*args)
    except execnet.gateway_base.DataFormatError as error:
        return type(error).__name__, str(error)
    except Exception as error:
        return type(error).__name__, None


@pytest.fixture(scope="module")
def twin() -> ModuleType:
    """The same file over the portable core."""
    return load_portable_twin()


UNWRITABLE: list[Any] = [
    object(),
    bytearray(b"x"),
    type("Text", (str,), {})("\ud800"),
    [{type("Text", (str,), {})("key"): object()}],
    collections.OrderedDict(a=collections.OrderedDict({(1, 2): object()})),
    "\ud800",
    ["ok", {"report": [object()]}],
    {object(): 1},
    {(1, object()): 1},
    {(1, 2): object()},
    [{"x" * 100: object()}],
    [{10**5000: object()}],
    [{1.5: [{None: [{True: object()}]}]}],
    {frozenset([(1, object())])},
    [None, {"a": "\udc80"}],
    nested(400),
    [nested(399)],
]


@pytest.mark.parametrize("value", UNWRITABLE, ids=range(len(UNWRITABLE)))
def test_both_cores_refuse_with_the_same_text(base: ModuleType, twin: ModuleType, value: Any) -> None:
    with pytest.raises(base.DumpError) as caught:
        base.dumps(value)
    with pytest.raises(twin.DumpError) as expected:
        twin.dumps(value)
    assert str(caught.value) == str(expected.value)
    assert str(caught.value).startswith("can't serialize <class '")


def test_an_error_names_the_path(base: ModuleType) -> None:
    class Foo:
        pass

    with pytest.raises(base.DumpError) as caught:
        base.dumps([0, 1, 2, {"report": (Foo(),)}])
    assert str(caught.value) == f"can't serialize {Foo!r} at [3]['report'][0]"
    with pytest.raises(base.DumpError) as caught:
        base.dumps(Foo())
    assert str(caught.value) == f"can't serialize {Foo!r}"
    with pytest.raises(base.DumpError, match=r"at \[0\]<key>$"):
        base.dumps([{Foo(): 1}])
    with pytest.raises(base.DumpError, match=r"at <element>\[1\]$"):
        base.dumps({(1, Foo())})
    with pytest.raises(base.DumpError, match=r"<class 'str'> at \['a'\]: strings must be utf-8 encodable$"):
        base.dumps({"a": "\ud800"})


# depth


def test_nesting_is_written_to_max_depth(base: ModuleType) -> None:
    assert base.loads(base.dumps(nested(base.MAX_DEPTH - 1))) == nested(base.MAX_DEPTH - 1)
    with pytest.raises(base.DumpError, match=f"can't serialize <class 'list'>: nested deeper than {base.MAX_DEPTH}$"):
        base.dumps(nested(base.MAX_DEPTH))


def test_a_value_inside_itself_is_refused(base: ModuleType) -> None:
    itself: list[Any] = [1]
    itself.append({"again": itself})
    with pytest.raises(base.DumpError, match="nested deeper"):
        base.dumps(itself)


@pytest.mark.parametrize("wrap", [(b"", b"@" + int4(1)), (b"K" + int4(1) + b"F" + int4(0), b"P"), (b"JL", b"P")])
def test_depth_costs_memory_when_reading_not_stack(base: ModuleType, wrap: tuple[bytes, bytes]) -> None:
    before, after = wrap
    levels = 200_000
    value = base.loads(b"\x02" + before * levels + b"L" + after * levels + b"Q")
    for _ in range(levels):
        (value,) = value.values() if isinstance(value, dict) else value
    assert value is None


@pytest.mark.parametrize("end", [b"LP", b"O" + int4(1), b"E" + int4(1)])
def test_a_key_of_deep_tuples_is_refused_before_it_is_hashed(base: ModuleType, end: bytes) -> None:
    start = b"\x02" + (b"J" if end == b"LP" else b"")
    with pytest.raises(base.LoadError):
        base.loads(start + b"@" + int4(0) + (b"@" + int4(1)) * 500_000 + end + b"Q")
    levels = b"@" + int4(0) + (b"@" + int4(1)) * (base.MAX_DEPTH - 1)
    assert len(base.loads(start + levels + end + b"Q")) == 1
    with pytest.raises(base.LoadError):
        base.loads(start + levels + b"@" + int4(1) + end + b"Q")


# numbers


@pytest.mark.parametrize("digits", [1, 9, 10, 18, 19, 27, 28, 36, 37, 499, 501, 575, 576, 577, 640, 5000, 20_000])
def test_integers_of_any_size_go_both_ways(base: ModuleType, digits: int) -> None:
    limit = getattr(sys, "get_int_max_str_digits", lambda: None)()
    for value in (10**digits, 10**digits - 1, 1 - 10**digits, -(10**digits), 7 * 10 ** (digits - 1) + 1):
        data = base.dumps(value)
        assert base.loads(data) == value
        if limit is not None:
            sys.set_int_max_str_digits(0)
        try:
            text = str(value).encode()
        finally:
            if limit is not None:
                sys.set_int_max_str_digits(limit)
        if abs(value) > 2**32:
            assert data == b"\x02H" + int4(len(text)) + text + b"Q"


@given(st.integers(min_value=2**31, max_value=2**2000), st.booleans())
@example(2**63, False)
@example(2**60, True)
@example(2**90 - 1, False)
@example(10**18, False)
@example(2**120, True)
@settings(examples)
def test_large_integers_are_written_in_decimal(base: ModuleType, value: int, negative: bool) -> None:
    value = -value if negative else value
    if value < -(2**31):
        text = str(value).encode()
        assert base.dumps_internal(value) == b"H" + int4(len(text)) + text + b"Q"
    assert base.loads_internal(b"I" + int4(len(str(value))) + str(value).encode() + b"Q") == value


def test_integers_about_powers_and_their_multiples(base: ModuleType) -> None:
    powers = [2**bits for bits in range(31, 160)] + [10**digits for digits in range(10, 48)]
    multiples = [10**18 * (2**bits // 3) for bits in range(60)]
    for middle in powers + multiples:
        for value in (middle - 1, middle, middle + 1, -middle - 1):
            if value < -(2**31) or value >= 2**31:
                text = str(value).encode()
                assert base.dumps_internal(value) == b"H" + int4(len(text)) + text + b"Q"
                assert base.loads_internal(b"H" + int4(len(text)) + text + b"Q") == value


def test_leading_zeros_are_digits(base: ModuleType) -> None:
    for text in (b"0", b"-0", b"-000", b"007", b"-" + b"0" * 2000 + b"7"):
        assert base.loads(b"\x02H" + int4(len(text)) + text + b"Q") == (
            0 if b"7" not in text else -7 if text[:1] == b"-" else 7
        )


def test_a_million_digits_take_seconds_at_most(base: ModuleType) -> None:
    value = 7**1_183_295  # a million digits; done by the square of their number, this took a minute
    assert base.loads(base.dumps(value)) == value


def test_floats_keep_every_bit(base: ModuleType) -> None:
    assert math.isnan(base.loads(base.dumps(float("nan"))))
    for bits in (0x7FF8000000000001, 0x8000000000000000, 0x0000000000000001, 0x7FEFFFFFFFFFFFFF):
        (number,) = struct.unpack("!d", struct.pack("!Q", bits))
        assert base.dumps_internal(base.loads(base.dumps(number))) == b"D" + struct.pack("!Q", bits) + b"Q"


# texts


@pytest.mark.parametrize("size", [0, 1, 7, 8, 31, 32, 33, 63, 1000, 70_000])
@pytest.mark.parametrize(
    "char", ["a", "\x00", "\x7f", "\x80", "\xff", "\u0100", "\u20ac", "\uffff", "\U0001f600", "\U0010ffff"]
)
def test_texts_of_every_width(base: ModuleType, char: str, size: int) -> None:
    for text in (char * size, "x" * size + char, char + "x" * size, "x" * 40 + char * size):
        data = base.dumps(text)
        assert data[6:-1] == text.encode()
        assert base.loads(data) == text
        assert base.loads(base.dumps({text: text})) == {text: text}


@pytest.mark.parametrize("size", [2047, 2048, 2049, 4095])
def test_one_character_wherever_it_is_in_a_long_text(base: ModuleType, size: int) -> None:
    letters = "".join(chr(0x20 + number % 0x5F) for number in range(size))
    for at in [*range(70), *range(size - 70, size + 1)]:
        for char in ("\x7f", "\x80", "\u20ac"):
            text = letters[:at] + char + letters[at:]
            assert base.loads(base.dumps(text)) == text


def test_every_character_goes_both_ways(base: ModuleType) -> None:
    for step in (1, 7, 64, 4096):
        for start, end in ((0, 0x100), (0x80, 0x900), (0, 0xD800), (0xE000, 0x10000), (0xF000, 0x110000)):
            text = "".join(map(chr, range(start, end, step)))
            assert base.loads(base.dumps(text)) == text


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def assert_read_as_utf8_or_refused(base: ModuleType, data: bytes) -> None:
    """As Python decodes it, so the text is read; LoadError for what it does not decode."""
    written = b"\x02N" + int4(len(data)) + data + b"Q"
    if _is_utf8(data):
        assert base.loads(written) == data.decode()
    else:
        with pytest.raises(base.LoadError):
            base.loads(written)


@pytest.mark.parametrize(
    "before, after",
    [
        (b"", b""),
        (b"abc", b"def"),
        (b"\xc3\xa9", b"12345678"),
        (b"\xf0\x9f\x98\x80", b""),
        pytest.param(b"x" * 44, b"", id="at the end of a short text"),
        pytest.param(b"x" * 46, b"", id="at the end of a long text"),
        pytest.param(b"\xe2\x82\xac" * 14, b"\xe2\x82\xac" * 90, id="in a long text"),
    ],
)
def test_text_that_is_not_utf8_is_refused(base: ModuleType, before: bytes, after: bytes) -> None:
    edges = (0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF)
    middles = [b"", *(bytes([one]) for one in edges), *(bytes(pair) for pair in itertools.product(edges, edges))]
    for first in range(0x7F, 0x100):
        for middle in middles:
            data = before + bytes([first]) + middle + (b"\x80" if len(middle) == 2 else b"") + after
            assert_read_as_utf8_or_refused(base, data)


def test_text_with_a_byte_out_of_place_is_refused_wherever_it_stands(base: ModuleType) -> None:
    text = ("Größe: 5 µm ≤ 7 €; " * 8 + "plain " * 20 + "中文字符" * 15 + "😀é" * 9 + "end " * 30).encode()
    for place in range(len(text)):
        for data in (text[:place] + text[place + 1 :], text[:place] + b"\x80" + text[place:]):
            assert_read_as_utf8_or_refused(base, data)


def test_keys_that_look_alike_stay_apart(base: ModuleType) -> None:
    keys = [f"{first}-{middle}-same end of the key" for first in "ab" for middle in range(2000)]
    for _ in range(3):
        value = {key: index for index, key in enumerate(keys)}
        assert base.loads(base.dumps(value)) == value


# lists that others may write


def test_unassigned_elements_are_none_up_to_a_limit_for_the_whole_value(base: ModuleType) -> None:
    limit = base.MAX_UNASSIGNED
    assert base.loads(b"\x02K" + int4(limit) + b"Q") == [None] * limit
    with pytest.raises(base.LoadError):
        base.loads(b"\x02K" + int4(limit + 1) + b"Q")
    half = b"K" + int4(limit // 2)
    assert len(base.loads(b"\x02" + half * 2 + b"@" + int4(2) + b"Q")) == 2
    with pytest.raises(base.LoadError):
        base.loads(b"\x02" + half * 3 + b"@" + int4(3) + b"Q")


def test_a_long_list_may_be_assigned_backwards_within_the_limit(base: ModuleType) -> None:
    count = 1000
    data = b"".join(b"F" + int4(index) + b"F" + int4(-index) + b"P" for index in reversed(range(count)))
    assert base.loads(b"\x02K" + int4(count) + data + b"Q") == [-index for index in range(count)]


def test_an_index_that_is_not_used_as_one_is_an_int(base: ModuleType) -> None:
    start = b"\x02K" + int4(2) + b"F" + int4(0)
    assert base.loads(start + b"@" + int4(2) + b"Q") == ([None, None], 0)
    assert base.loads(start + b"F" + int4(1) + b"PQ") == [1, None]
    assert base.loads(start + b"O" + int4(1) + b"@" + int4(2) + b"Q") == ([None, None], {0})
    with pytest.raises(base.LoadError):
        base.loads(start + b"F" + int4(1) + b"LPQ")


@pytest.mark.parametrize(
    "claim",
    [
        b"K" + int4(2**31 - 1),
        b"K" + int4(2**31 - 1) + b"F" + int4(0) + b"LP",
        (b"K" + int4(60_000)) * 2000,
        b"A" + int4(2**31 - 1),
        b"N" + int4(2**31 - 1) + b"abc",
        b"H" + int4(2**31 - 1) + b"123",
        b"@" + int4(2**31 - 1),
        b"O" + int4(2**31 - 1),
        b"K" + int4(2**31 - 1) + b"F" + int4(2**31 - 2) + b"LP",
    ],
)
def test_memory_follows_the_input_and_not_its_claims(base: ModuleType, claim: bytes) -> None:
    data = b"\x02" + claim + b"Q"
    for load in (base.loads, lambda data: base.load(io.BytesIO(data))):
        tracemalloc.start()
        try:
            with pytest.raises((base.LoadError, EOFError)):
                load(data)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 4_000_000 + 200 * len(data)


# channels


def test_channels_are_written_by_id_whatever_their_class(base: ModuleType) -> None:
    factory = Factory(base)
    data = base.dumps_internal((factory.new(7), [factory.new(-1)]))
    assert data == b"B" + int4(7) + b"K" + int4(1) + b"F" + int4(0) + b"B" + int4(-1) + b"P@" + int4(2) + b"Q"
    assert base.loads_internal(data, factory) == (factory.new(7), [factory.new(-1)])
    for bad in ("x", 2**31, None):
        channel = type("Odd", (factory.new,), {"id": bad, "__init__": lambda self: None})()
        with pytest.raises(base.DumpError, match=r"at \[0\]: its id is not an int of 32 bits"):
            base.dumps([channel])


def test_channels_of_another_gateway_are_refused_where_one_is_named(base: ModuleType) -> None:
    class Side:
        def __init__(self, id: str) -> None:
            self.id = id

    ours, others = Side("ours"), Side("it's theirs, \udc80")
    channel = Factory(base).new(7)
    channel.gateway = ours
    assert (
        base.dumps_internal([channel], ours) == base.dumps_internal([channel]) == base.dumps_internal([channel], None)
    )
    with pytest.raises(base.DumpError) as error:
        base.dumps_internal([channel], others)
    shown = f"{type(channel)} at [0]: it belongs to gateway 'ours', not to {others.id!r}"
    assert str(error.value) == f"can't serialize {shown}"


def test_a_channel_where_nobody_holds_channels_is_refused(base: ModuleType) -> None:
    with pytest.raises(base.LoadError):
        base.loads(b"\x02B" + int4(1) + b"Q")
    with pytest.raises(base.LoadError):
        base.loads_internal(b"B" + int4(1) + b"Q")


# streams


class Dribble:
    """A stream that never gives more than a few bytes at once, and tells how much was asked for."""

    def __init__(self, data: bytes, most: int = 3) -> None:
        self.data = data
        self.given = 0
        self.most = most
        self.most_asked = 0

    @property
    def rest(self) -> bytes:
        return self.data[self.given :]

    def read(self, count: int) -> Any:
        self.most_asked = max(self.most_asked, count)
        data = self.data[self.given : self.given + min(self.most, count)]
        self.given += len(data)
        return data


SAMPLES: list[Any] = [1, "text", [1, [2.5, {"a": (None, b"b")}], {3}], 2**70, "x" * 100_000, b"", []]


def test_values_stand_one_behind_another_in_a_stream(base: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "values"
    with open(path, "wb") as written:
        for value in SAMPLES:
            base.dump(written, value)
    with open(path, "rb") as file:
        assert [base.load(file) for _ in SAMPLES] == SAMPLES
        with pytest.raises(EOFError):
            base.load(file)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert [base.load(mapped) for _ in SAMPLES] == SAMPLES
    dribble = Dribble(path.read_bytes())
    assert [base.load(dribble) for _ in SAMPLES] == SAMPLES
    assert dribble.rest == b""


@pytest.mark.parametrize("most", [1, 2, 7, 65_536])
def test_a_stream_may_give_its_bytes_in_any_pieces(base: ModuleType, most: int) -> None:
    values = [*SAMPLES, b"\0" * 300, "\xe9" * 70_000, {"key": b"x"}, 10**5000, 1.5, {b"1", b"22"}]
    stream = Dribble(b"".join(map(base.dumps, values)), most)
    assert [base.load(stream) for _ in values] == values
    assert stream.rest == b""


class Reused(Dribble):
    """A stream that gives views of one buffer, whose bytes it overwrites when it is asked for more."""

    buffer = bytearray(100)

    def read(self, count: int) -> Any:
        data = super().read(min(count, len(self.buffer)))
        self.buffer[:] = b"!" * len(self.buffer)
        self.buffer[: len(data)] = data
        return memoryview(self.buffer)[: len(data)]


class Converting(Dribble):
    """A stream that gives its bytes as another type."""

    def __init__(self, data: bytes, most: int, convert: Any) -> None:
        super().__init__(data, most)
        self.convert = convert

    def read(self, count: int) -> Any:
        return self.convert(super().read(count))


@pytest.mark.parametrize("most", [1, 65_536])
@pytest.mark.parametrize("convert", [bytearray, memoryview, type("Bytes", (bytes,), {"__eq__": None})])
def test_a_stream_may_give_whatever_holds_bytes(base: ModuleType, convert: Any, most: int) -> None:
    for value in SAMPLES:
        assert base.load(Converting(base.dumps(value), most, convert)) == value
        assert base.load(Reused(base.dumps(value), most)) == value


@pytest.mark.parametrize(
    "convert, error",
    [
        (bytes.hex, TypeError),
        (lambda data: None, TypeError),
        (list, TypeError),
        (len, TypeError),
        (lambda data: data + bytes(70_000), ValueError),
        (lambda data: b"", EOFError),
    ],
    ids=["text", "None", "list", "int", "more", "nothing"],
)
@pytest.mark.parametrize("value", [b"x" * 10, "x", [1, {2.5: None}], 10**30])
def test_a_stream_that_breaks_its_promise_is_refused_wherever_it_does(
    base: ModuleType, value: Any, convert: Any, error: type[Exception]
) -> None:
    data = base.dumps(value)

    class Breaking(Dribble):
        """Converts what it gives when it is asked for the `turn`th time."""

        turn = -1

        def read(self, count: int) -> Any:
            self.turn -= 1
            piece = super().read(count)
            return convert(piece) if self.turn == 0 else piece

    for most in (1, 3, 100):
        whole = Breaking(data, most)
        assert base.load(whole) == value
        for turn in range(1, -whole.turn):
            stream = Breaking(data, most)
            stream.turn = turn
            with pytest.raises(error):
                base.load(stream)


@pytest.mark.parametrize("kind", [TypeError, UnicodeError, struct.error, IndexError, RecursionError, MemoryError])
def test_what_a_stream_raises_is_raised_wherever_it_does(base: ModuleType, kind: type[Exception]) -> None:
    data = base.dumps([b"x" * 10, {"a": 1.5}])
    error = UnicodeDecodeError("ascii", b"\xff", 0, 1, "of the stream") if kind is UnicodeError else kind("own")

    class Failing(Dribble):
        def read(self, count: int) -> Any:
            if self.given == len(self.data):
                raise error
            return super().read(count)

    for size in range(len(data)):
        with pytest.raises(kind) as caught:
            base.load(Failing(data[:size], 1))
        assert caught.value is error


def test_a_stream_may_use_the_codec_while_it_is_read(base: ModuleType) -> None:
    inner = {"key": [1, "\xe9" * 2000, 2**70], "other": (b"", {2.5})}

    class Busy(Dribble):
        def read(self, count: int) -> Any:
            assert base.loads(base.dumps(inner)) == inner
            assert base.load(Dribble(base.dumps(inner), 5)) == inner
            return super().read(count)

    value = [{"key": "value", "another": [{"key": None}] * 3}, b"bytes" * 10]
    assert base.load(Busy(base.dumps(value), 1)) == value


def test_a_stream_may_be_taken_apart_while_it_is_read(base: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    value = ["x" * 10, {"key": 10**700}]

    class Fading(Dribble):
        def __init__(self, data: bytes) -> None:
            super().__init__(data, 1)
            self.__dict__["read"] = self.read_once

        def read_once(self, count: int) -> Any:
            monkeypatch.setattr(base, "DUMPFORMAT_VERSION", b"\x02")
            self.__dict__.pop("read", None)
            return super().read(count)

    assert base.load(Fading(base.dumps(value))) == value


def test_what_is_loaded_is_what_was_there_at_the_call(base: ModuleType) -> None:
    factory = Factory(base)
    data = bytearray(base.dumps_internal([factory.new(1), "text", b"bytes", factory.new(2)]))

    class Overwriting:
        @staticmethod
        def new(id: int) -> Any:
            data[:] = b"\xff" * len(data)
            return factory.new(id)

    assert base.loads_internal(memoryview(data), Overwriting) == [factory.new(1), "text", b"bytes", factory.new(2)]


def test_a_stream_is_read_to_stop_and_no_further(base: ModuleType) -> None:
    stream = io.BytesIO(base.dumps([1, "a"]) + b"rest")
    assert base.load(stream) == [1, "a"]
    assert stream.read() == b"rest"


def test_a_socket_is_a_stream(base: ModuleType) -> None:
    left, right = socket.socketpair()
    with left, right, left.makefile("wb") as writer, right.makefile("rb") as reader:
        for value in SAMPLES:
            base.dump(writer, value)
            writer.flush()
            assert base.load(reader) == value


def test_a_stream_is_not_asked_for_much_more_than_it_gave(base: ModuleType) -> None:
    stream = Dribble(b"\x02A" + int4(2**31 - 1) + b"x" * 1000)
    with pytest.raises(EOFError):
        base.load(stream)
    assert stream.most_asked <= 65536


def test_dump_writes_once(base: ModuleType) -> None:
    writes: list[bytes] = []

    class Stream:
        write = staticmethod(writes.append)

    base.dump(Stream, ["x" * 100_000, 1])
    assert writes == [base.dumps(["x" * 100_000, 1])]


def test_loads_takes_what_holds_bytes(base: ModuleType) -> None:
    data = base.dumps([1])
    assert base.loads(bytearray(data)) == base.loads(memoryview(data)) == [1]
    with pytest.raises(TypeError):
        base.loads("text")


def test_arguments_have_the_names_of_execnet_2(base: ModuleType) -> None:
    stream = io.BytesIO()
    base.dump(byteio=stream, obj=[1])
    assert stream.getvalue() == base.dumps(obj=[1]) == b"\x02" + base.dumps_internal(obj=[1])
    assert base.loads(bytestring=stream.getvalue(), py2str_as_py3str=True, py3str_as_py2str=False) == [1]
    assert base.load(io=io.BytesIO(stream.getvalue())) == [1]
    assert base.loads_internal(bytestring=base.dumps_internal(1), channelfactory=None, strconfig=(False, False)) == 1
    for wrong in ((), (1, 2, 3, 4, 5)):
        for function in (base.dumps, base.loads, base.load, base.dump, base.loads_internal):
            with pytest.raises(TypeError):
                function(*wrong)
    with pytest.raises(TypeError):
        base.loads(b"", unknown=1)


@pytest.mark.skipif(execnet.gateway_base.core != "c", reason="Python itself says so of the portable core")
def test_wrong_arguments_of_the_c_core_are_told_in_the_words_of_cpython() -> None:
    base: Any = execnet.gateway_base
    with pytest.raises(TypeError, match=r"^dumps\(\) takes at most 1 argument \(2 given\)$"):
        base.dumps(1, 2)
    with pytest.raises(TypeError, match=r"^dumps\(\) missing required argument 'obj' \(pos 1\)$"):
        base.dumps()
    with pytest.raises(TypeError, match=r"^dumps\(\) got an unexpected keyword argument 'unknown'$"):
        base.dumps(1, unknown=2)
    with pytest.raises(TypeError, match=r"^dumps\(\) got multiple values for argument 'obj'$"):
        base.dumps(1, obj=2)


def test_a_failing_stream_keeps_its_error(base: ModuleType) -> None:
    class Broken:
        def read(self, count: int) -> bytes:
            raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        base.load(Broken())


# options and version


def test_strings_of_the_other_python(base: ModuleType) -> None:
    py2, py3 = b"\x02M" + int4(1) + b"\xe9Q", b"\x02N" + int4(2) + b"\xc3\xa9Q"
    assert base.loads(py2) == b"\xe9"
    assert base.loads(py2, True) == base.loads(py2, py2str_as_py3str=True) == "\xe9"
    assert base.loads(py3) == "\xe9"
    assert base.loads(py3, py3str_as_py2str=True) == b"\xc3\xa9"
    assert base.load(io.BytesIO(py2), py2str_as_py3str=True) == "\xe9"
    assert base.loads_internal(py2[1:]) == "\xe9"
    assert base.loads_internal(py3[1:]) == "\xe9"


def test_the_version_is_looked_up_at_each_call(base: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    old = base.dumps(1)
    monkeypatch.setattr(base, "DUMPFORMAT_VERSION", b"\x03")
    assert base.dumps(1) == b"\x03" + old[1:]
    assert base.loads(base.dumps(1)) == 1
    with pytest.raises(base.LoadError, match=r"wrong dumpformat version b'\\x02'"):
        base.loads(old)


def test_a_version_replaced_by_what_runs_meanwhile_is_for_the_next_call(
    base: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Replacing(Factory(base).new):  # type: ignore[misc]
        @property
        def id(self) -> int:
            vars(base)["DUMPFORMAT_VERSION"] = b"a longer version" * 100
            return 1

        def __init__(self) -> None:
            pass

    monkeypatch.setattr(base, "DUMPFORMAT_VERSION", b"\x02")
    assert base.dumps(Replacing()) == b"\x02B" + int4(1) + b"Q"
    assert base.dumps(None) == b"a longer version" * 100 + b"LQ"
    with pytest.raises(base.LoadError):
        base.loads(b"a")


# what runs meanwhile


class Meddling:
    """Values whose writing calls a function."""

    def __init__(self, base: ModuleType) -> None:
        self.made = Factory(base).new
        self.calls: Any = lambda: None

    def channel(self) -> Any:
        meddling = self

        class Channel(self.made):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                pass

            @property
            def id(self) -> int:
                meddling.calls()
                return 7

        return Channel()


CHANGES: dict[str, Any] = {
    "cleared": lambda container: container.clear(),
    "longer": lambda container: (
        container.extend([1, 2]) if isinstance(container, list) else container.update({"new": 1, "newer": 2})
    ),
    "shorter": lambda container: (
        container.pop() if not isinstance(container, dict) else container.pop(list(container)[-1])
    ),
}


def container_with(kind: str, inside: Any) -> Any:
    """Of three elements, `inside` somewhere among them."""
    if kind == "dict":
        return {"first": "value", "second": inside, "third": None}
    elements = ["first", inside, "third"]
    return elements if kind == "list" else set(elements)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["list", "dict", "set"])
def test_a_container_that_changes_its_size_while_it_is_written_is_an_error(
    base: ModuleType, kind: str, change: str
) -> None:
    meddling = Meddling(base)
    value = container_with(kind, meddling.channel())
    meddling.calls = lambda: CHANGES[change](value)
    if kind == "set" and list(value)[-1] not in ("first", "third"):
        return  # the set's order put the channel last: who ends there does not look again
    with pytest.raises(RuntimeError, match="chang"):
        base.dumps([value])


@pytest.mark.parametrize("kind", ["list", "dict", "set"])
def test_elements_replaced_while_they_are_written_give_a_whole_value(base: ModuleType, kind: str) -> None:
    meddling = Meddling(base)
    value = container_with(kind, meddling.channel())

    def replace() -> None:
        if kind == "list":
            value[:] = [f"new {index}" for index in range(3)]
        elif kind == "dict":
            value.update((key, f"new {key}") for key in list(value))
        else:
            value.remove("third")
            value.add("fourth")

    meddling.calls = replace
    loaded = base.loads_internal(base.dumps_internal((value, "behind")), Factory(base))
    assert len(loaded) == 2 and loaded[1] == "behind" and type(loaded[0]) is type(value)


def test_other_keys_of_the_same_number_are_an_error_or_a_whole_value(base: ModuleType) -> None:
    meddling = Meddling(base)
    value = {number: meddling.channel() if number == 2 else None for number in range(5)}

    def replace() -> None:
        for number in range(5):
            del value[number]
            value[number + 100] = None

    meddling.calls = replace
    try:
        data = base.dumps_internal([value])
    except RuntimeError:
        return
    assert type(base.loads_internal(data, Factory(base))[0]) is dict


MEDDLED = r"""
    import gc

    class Last:
        # The only one of its kind that has the text, so that to replace it is to free it.
        def __init__(self):
            self.itself = self
        def __del__(self):
            value[:] = [None] * len(value)
            [b"other" * 20 for _ in range(200)]

    refused = 0
    gc.set_threshold(1)
    for number in range(200):
        value = ["\ud800" + str(number), "\ud800 more " + str(number)] * 2
        last = Last()
        del last
        try:
            base.dumps(value)
        except base.DumpError as error:
            refused += "<class 'str'>" in str(error) and "utf-8" in str(error)
        value = [{frozenset([number]), "text"}, "\ud800" + str(number), {"a": ["\ud800" + str(number)]}]
        last = Last()
        del last
        try:
            base.dumps(value)
        except (base.DumpError, RuntimeError):
            pass
    print("survived", refused)
    """


def test_a_text_freed_while_its_refusal_is_made_does_no_harm(base: ModuleType) -> None:
    assert run_alone(MEDDLED, base.core, PYTHONMALLOC="debug").startswith("survived ")


@pytest.mark.parametrize("digits", [5000, 10**5])
def test_an_integer_freed_while_its_digits_are_made_does_no_harm(
    base: ModuleType, monkeypatch: pytest.MonkeyPatch, digits: int
) -> None:
    value: list[Any] = [10**digits, "behind"]
    original = base._digits_from_int

    def meddled(number: int) -> Any:
        value[0] = None
        monkeypatch.delattr(base, "_digits_from_int")
        del number
        return original(10**digits)

    monkeypatch.setattr(base, "_digits_from_int", meddled)
    del meddled
    assert base.loads(base.dumps(value)) == [10**digits, "behind"]


def fuzz_module(name: str) -> ModuleType:
    sys.path.insert(0, str(FUZZ))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FUZZ))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whatever_runs_meanwhile_values_are_whole_or_refused(base: ModuleType, seed: int) -> None:
    program = f"""
        import sys
        sys.path.insert(0, {str(FUZZ)!r})
        import fuzz_meanwhile
        print(fuzz_meanwhile.run(base, {seed}, rounds=300))
        """
    assert run_alone(program, base.core, PYTHONMALLOC="debug") == "300\n"


# subclasses of plain types


class Asked(AssertionError):
    """A method of a subclass was called."""


def obstinate(kind: type, hashes: bool = False) -> Any:
    """A subclass of kind all of whose methods raise; hashes: but those by which it is a key."""

    def refuse(*args: object, **kwargs: object) -> Any:
        raise Asked

    needed = {
        "__new__",
        "__init__",
        "__class__",
        "__dict__",
        "__init_subclass__",
        "__subclasshook__",
        "__setattr__",
        "__del__",
    }
    if hashes:
        needed |= {"__hash__", "__eq__"}
    names = {*dir(kind), "__bool__", "__index__", "__buffer__", "__missing__"} - needed
    return type("Obstinate", (kind,), dict.fromkeys(names, refuse))


PLAIN: list[Any] = [
    "",
    "text",
    "größer €",
    "x" * 100_000,
    "€" * 5_000_000,
    0,
    -7,
    2**31,
    -(2**64),
    10**700,
    -(10**5000),
    -0.0,
    float("inf"),
    1 - 2j,
    b"",
    b"bytes",
    b"b" * 100_000,
    [],
    [1, [2, "three"]],
    (),
    (1, (2.5, None)),
    {},
    {"a": 1, 2: [b"c"]},
    set(),
    {7, "a", (1, 2)},
    frozenset(),
    frozenset([7, b"a"]),
]


@pytest.mark.parametrize("plain", PLAIN, ids=lambda plain: type(plain).__name__)
def test_a_subclass_is_written_as_its_base_and_no_method_of_it_is_called(base: ModuleType, plain: Any) -> None:
    kind = type(plain)
    dressed = obstinate(kind)(plain)
    assert base.dumps(dressed) == base.dumps(plain)
    stream = io.BytesIO()
    base.dump(stream, dressed)
    assert stream.getvalue() == base.dumps(plain)
    assert base.dumps_internal([(dressed, {1: dressed})]) == base.dumps_internal([(plain, {1: plain})])
    if kind not in (list, dict, set):
        key = obstinate(kind, hashes=True)(plain)
        assert base.dumps({key: key}) == base.dumps({plain: plain})
        assert base.dumps(({key}, frozenset([key]))) == base.dumps(({plain}, frozenset([plain])))


def test_what_the_standard_library_derives_from_plain_types_is_written(base: ModuleType) -> None:
    class Level(enum.IntEnum):
        LOW = 1

    class Colour(str, enum.Enum):
        RED = "red"

    class Mode(enum.IntFlag):
        READ = 1
        WRITE = 2

    class Point(NamedTuple):
        x: int
        y: Any

    moment = time.gmtime(0)
    value = [Level.LOW, Colour.RED, Mode.READ | Mode.WRITE, Point(1, Point(2, Level.LOW)), moment, http.HTTPStatus.OK]
    plain = [1, "red", 3, (1, (2, 1)), tuple(moment), 200]
    assert shape(base.loads(base.dumps(value))) == shape(plain)
    counted = collections.Counter("aab")
    grouped = collections.defaultdict(list, {Colour.RED: [counted]})
    assert shape(base.loads(base.dumps(grouped))) == shape({"red": [{"a": 2, "b": 1}]})
    if sys.version_info >= (3, 11):
        assert base.loads(base.dumps(enum.StrEnum("Word", "A").A)) == "a"


def test_an_ordered_dict_is_written_in_its_own_order(base: ModuleType) -> None:
    for kind in (collections.OrderedDict, obstinate(collections.OrderedDict)):
        ordered = kind.__new__(kind)
        for key in "abc":
            collections.OrderedDict.__setitem__(ordered, key, [key])
        collections.OrderedDict.move_to_end(ordered, "a")
        assert base.dumps(ordered) == base.dumps({"b": ["b"], "c": ["c"], "a": ["a"]})


def dressed(value: Any, choose: Any) -> Any:
    """The value with some of what is in it, by choose(), of subclasses."""
    if isinstance(value, dict):
        made: Any = {dressed(key, choose): dressed(item, choose) for key, item in value.items()}
    elif isinstance(value, (list, tuple, set, frozenset)):
        made = type(value)([dressed(item, choose) for item in value])
    else:
        made = value
    return SUBCLASSES[type(made)](made) if type(made) in SUBCLASSES and choose() else made


SUBCLASSES: dict[type, Any] = {
    kind: type(f"Sub{kind.__name__}", (kind,), {})
    for kind in (str, int, float, complex, bytes, list, tuple, dict, set, frozenset)
}


@given(VALUES, st.randoms())
@settings(examples, max_examples=150)
def test_values_dressed_as_subclasses_arrive_plain(base: ModuleType, value: Any, rng: random.Random) -> None:
    data = base.dumps(dressed(value, lambda: rng.random() < 0.5))
    assert shape(base.loads(data)) == shape(value)


def at_depth(levels: int, innermost: Any) -> Any:
    """The value inside so many lists of a subclass."""
    for _ in range(levels):
        innermost = SUBCLASSES[list]([innermost])
    return innermost


def test_subclasses_are_nested_as_deep_as_their_bases(base: ModuleType) -> None:
    assert base.dumps(at_depth(base.MAX_DEPTH - 1, [])) == base.dumps(nested(base.MAX_DEPTH - 1))
    kind = SUBCLASSES[tuple]
    with pytest.raises(base.DumpError, match=f"can't serialize {kind!r}: nested or reduced deeper than"):
        base.dumps(at_depth(base.MAX_DEPTH, kind()))


def test_an_error_inside_a_subclass_names_class_and_path(base: ModuleType) -> None:
    text = SUBCLASSES[str]
    with pytest.raises(base.DumpError, match=rf"{text!r} at \[0\]\['a'\]: strings must be utf-8 encodable$"):
        base.dumps(SUBCLASSES[list]([SUBCLASSES[dict](a=text("\ud800"))]))
    with pytest.raises(base.DumpError, match=rf"<class 'object'> at \[{text!r}\]\[1\]$"):
        base.dumps({text("key"): (1, object())})


def test_a_channel_stays_a_channel_whatever_else_it_is(base: ModuleType, reduce: Any) -> None:
    class Mixin:
        pass

    class Channel(Mixin, Factory(base).new):  # type: ignore[misc]
        pass

    reduce(Mixin, lambda channel: 1 / 0)
    reduce(object, lambda channel: 1 / 0)
    assert base.dumps_internal(Channel(7)) == b"B" + int4(7) + b"Q"


# reducers


@pytest.fixture
def reduce(base: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Registers a reducer for the test, with the core."""
    monkeypatch.setattr(base, "_reducers", {})
    return lambda kind, function: base._reducers.__setitem__(kind, function)


class Box:
    def __init__(self, inside: Any) -> None:
        self.inside = inside


def inside(box: Box) -> Any:
    return box.inside


def test_the_reducer_of_the_nearest_class_counts(base: ModuleType, reduce: Any) -> None:
    class Inner(Box):
        pass

    class Innermost(Inner):
        pass

    def load(value: Any) -> Any:
        return base.loads(base.dumps(value))

    reduce(Box, lambda box: "box")
    assert load([Box(1), Inner(1), Innermost(1)]) == ["box", "box", "box"]
    reduce(Inner, lambda box: "inner")
    assert load([Box(1), Inner(1), Innermost(1)]) == ["box", "inner", "inner"]
    reduce(Innermost, lambda box: NotImplemented)
    assert load([Innermost(1)]) == ["inner"]
    reduce(Inner, lambda box: NotImplemented)
    reduce(Box, lambda box: NotImplemented)
    reduce(object, lambda box: "object")
    assert load([Innermost(1), Ellipsis]) == ["object", "object"]


def test_a_reducer_wins_over_the_plain_base_that_is_further_up_and_over_no_other(base: ModuleType, reduce: Any) -> None:
    class Text(str):
        pass

    class Longer(Text):
        pass

    class Mixin:
        pass

    class Before(Mixin, str):
        pass

    class Behind(str, Mixin):
        pass

    reduce(Text, lambda text: ["text", str(text)])
    reduce(Mixin, lambda text: "mixin")
    reduce(object, lambda text: 1 / 0)
    reduce(collections.OrderedDict, lambda ordered: list(ordered))
    value = ["a", Text("b"), Longer("c"), Before("d"), Behind("e"), {"f": 1}, collections.OrderedDict(g=2)]
    assert base.loads(base.dumps(value)) == ["a", ["text", "b"], ["text", "c"], "mixin", "e", {"f": 1}, ["g"]]


@given(VALUES, st.randoms())
@settings(examples, max_examples=100)
def test_what_is_reduced_arrives_as_its_reducers_give_it(base: ModuleType, value: Any, rng: random.Random) -> None:
    def boxed(value: Any) -> Any:
        if isinstance(value, dict):
            value = {boxed(key): boxed(item) for key, item in value.items()}
        elif isinstance(value, (list, tuple, set, frozenset)):
            value = type(value)([boxed(item) for item in value])
        return Box(value) if rng.random() < 0.3 else value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "_reducers", {Box: inside})
        assert shape(base.loads(base.dumps(boxed(value)))) == shape(value)


def test_no_reducer_is_called_for_what_it_is_not_registered_for(base: ModuleType, reduce: Any) -> None:
    reduce(Box, lambda box: 1 / 0)
    for value in SAMPLES + [SUBCLASSES[type(value)](value) for value in SAMPLES]:
        assert base.loads(base.dumps(value)) == value
    with pytest.raises(base.DumpError, match=r"<class 'object'> at \[0\]$"):
        base.dumps([object()])


def test_an_error_in_what_a_reducer_gave_names_the_path_there(base: ModuleType, reduce: Any) -> None:
    reduce(Box, inside)
    for value, path in (
        (Box(object()), " at <reduced>"),
        ([0, Box(object())], r" at \[1\]<reduced>"),
        ({"a": Box([{"b": object()}])}, r" at \['a'\]<reduced>\[0\]\['b'\]"),
        ({Box(Box((1, object()))): 2}, r" at <key><reduced><reduced>\[1\]"),
        ({Box(1): object()}, rf" at \[{Box!r}\]"),
    ):
        with pytest.raises(base.DumpError, match=f"^can't serialize <class 'object'>{path}$"):
            base.dumps(value)


def test_reducers_without_end_are_an_error(base: ModuleType, reduce: Any) -> None:
    reduce(Box, lambda box: box)
    with pytest.raises(base.DumpError, match=rf"^can't serialize {Box!r} at \[0\]: its reducer gives it back$"):
        base.dumps([Box(1)])
    refusal = f"^can't serialize {Box!r}: nested or reduced deeper than {base.MAX_DEPTH}$"
    for endless in (lambda box: Box(box), lambda box: [box], lambda box: {"a": (1, Box(1))}):
        reduce(Box, endless)
        with pytest.raises(base.DumpError, match="deeper than"):
            base.dumps([Box(1)])
    reduce(Box, lambda box: Box(1))
    with pytest.raises(base.DumpError, match=refusal):
        base.dumps([Box(1)])


def test_a_reducer_is_a_level_of_nesting(base: ModuleType, reduce: Any) -> None:
    reduce(Box, inside)
    chain: Any = None
    for _ in range(base.MAX_DEPTH):
        chain = Box(chain)
    assert base.loads(base.dumps(chain)) is None
    with pytest.raises(base.DumpError, match="nested or reduced deeper than"):
        base.dumps(Box(chain))
    with pytest.raises(base.DumpError, match="<class 'list'>: nested deeper than"):
        base.dumps(Box(nested(base.MAX_DEPTH - 1)))


def test_what_a_reducer_raises_is_raised(base: ModuleType, reduce: Any) -> None:
    error = KeyError("own")

    def fail(box: Box) -> None:
        raise error

    reduce(Box, fail)
    for value in (Box(1), [{"a": Box(1)}], {Box(1)}):
        with pytest.raises(KeyError) as caught:
            base.dumps(value)
        assert caught.value is error
    with pytest.raises(TypeError):
        base.dumps([type("Unhashable", (type,), {"__eq__": lambda cls, other: True})("Kind", (), {})()])


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["list", "dict", "ordered", "set"])
def test_a_reducer_that_changes_the_size_of_a_container_is_an_error(
    base: ModuleType, reduce: Any, kind: str, change: str
) -> None:
    value: Any = container_with("dict" if kind == "ordered" else kind, Box(1))
    if kind == "ordered":
        value = collections.OrderedDict(value)

    def meddle(box: Box) -> int:
        CHANGES[change](value)
        return 1

    reduce(Box, meddle)
    if kind == "set" and list(value)[-1] not in ("first", "third"):
        return  # the set's order put the box last: who ends there does not look again
    with pytest.raises(RuntimeError):
        base.dumps([value])


def test_a_reducer_may_use_the_codec_replace_reducers_and_let_go_of_what_it_was_given(
    base: ModuleType, reduce: Any
) -> None:
    value: list[Any] = [Box("first"), Box("second"), "behind"]

    def meddle(box: Box) -> Any:
        value[0] = None
        reduce(Box, lambda box: f"then {box.inside}")
        box.__class__ = type("Other", (Box,), {})
        assert base.loads(base.dumps([{"key": [1] * 9000}, Box(2)])) == [{"key": [1] * 9000}, "then 2"]
        vars(base)["_reducers"] = dict(base._reducers)
        return f"now {box.inside}"

    reduce(Box, meddle)
    assert base.loads(base.dumps(value)) == ["now first", "then second", "behind"]


def test_without_reducers_other_classes_are_refused(base: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_reducers", {})
    Letter = enum.Enum("Letter", "a")
    for value in (
        Box(1),
        Path("a"),
        datetime.date(2020, 1, 1),
        decimal.Decimal(1),
        uuid.uuid4(),
        Letter.a,
    ):
        with pytest.raises(base.DumpError, match="can't serialize"):
            base.dumps(value)


@pytest.fixture
def fresh(local: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package, without the reducers that others registered, for the time of the test."""
    monkeypatch.setattr(local.gateway_base, "_reducers", {})
    return local


def test_register_reducer_refuses_what_it_would_never_be_asked_for(fresh: ModuleType) -> None:
    for kind in (int, str, type(None), bool, dict, frozenset, fresh.Channel, type("Mine", (fresh.Channel,), {})):
        with pytest.raises(ValueError, match="written as it is"):
            fresh.register_reducer(kind, str)
    with pytest.raises(TypeError):
        fresh.register_reducer("Box", str)
    with pytest.raises(TypeError, match="can't be called: 'text'"):
        fresh.register_reducer(Box, "text")
    fresh.register_reducer(type=Box, function=inside)
    assert fresh.loads(fresh.dumps(Box([1]))) == [1]


@dataclasses.dataclass
class Job:
    name: str
    at: Any
    rest: list[Any] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Counted(dict):  # type: ignore[type-arg]
    number: int = 0


class Size(enum.Enum):
    SMALL = (1, 2)
    PLACE = Path("a")


COMMON: list[tuple[Any, Any]] = [
    (Path("a/b"), str(Path("a/b"))),
    (PurePosixPath("/a/ü"), "/a/ü"),
    (PureWindowsPath("c:/a"), "c:\\a"),
    (datetime.date(2020, 1, 2), "2020-01-02"),
    (datetime.datetime(2020, 1, 2, 3, 4, 5, 6), "2020-01-02T03:04:05.000006"),
    (datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc), "2020-01-02T00:00:00+00:00"),
    (datetime.time(1, 2, 3), "01:02:03"),
    (datetime.timedelta(days=1, microseconds=5), 86400.000005),
    (decimal.Decimal("1.10"), "1.10"),
    (fractions.Fraction(1, 3), "1/3"),
    (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    (Size.SMALL, (1, 2)),
    (Size.PLACE, "a"),
    (http.HTTPStatus.OK, 200),
    (
        Job("one", Path("x"), [Job("two", Size.SMALL)]),
        {"name": "one", "at": "x", "rest": [{"name": "two", "at": (1, 2), "rest": []}]},
    ),
    (Counted(3), {}),  # the dict that it is
]


def test_the_common_types_are_reduced_once_that_is_asked_for(fresh: ModuleType) -> None:
    assert not fresh.gateway_base._reducers
    for _ in range(2):
        fresh.reduce_common_types()
        for value, plain in COMMON:
            assert shape(fresh.loads(fresh.dumps([value]))) == shape([plain]), value
    with pytest.raises(fresh.DumpError, match=r"^can't serialize <class 'object'> at \['job'\]<reduced>\['at'\]$"):
        fresh.dumps({"job": Job("", object())})
    with pytest.raises(fresh.DumpError, match=rf"^can't serialize {type!r} at \[0\]$"):
        fresh.dumps([Job])


@given(
    st.one_of(
        st.dates(),
        st.datetimes(),
        st.times(),
        st.timedeltas(datetime.timedelta(days=-36500), datetime.timedelta(days=36500)),
        st.decimals(allow_nan=False),
        st.fractions(),
        st.uuids(),
    )
)
@settings(examples)
def test_what_common_types_are_written_as_is_read_by_their_constructors(value: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execnet.gateway_base, "_reducers", {})
        execnet.reduce_common_types()
        plain = execnet.loads(execnet.dumps(value))
    if isinstance(value, datetime.timedelta):
        assert datetime.timedelta(seconds=plain) == value
    else:
        assert getattr(type(value), "fromisoformat", type(value))(plain) == value


def test_subclasses_and_reduced_objects_travel(pair: execnet.Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    base = sys.modules["execnet"].gateway_base
    monkeypatch.setattr(base, "_reducers", {Path: str})

    def work(channel, path, level):
        import collections

        class Text(str):
            def __str__(self):
                raise AssertionError

        channel.send([path, level])
        channel.send(Text("x"))
        Pair = collections.namedtuple("Pair", "x y")
        channel.send(collections.OrderedDict([(Text("a"), Pair(1, Text("b")))]))
        channel.send(channel.receive())

    channel = pair.remote_exec(work, path=Path("a"), level=http.HTTPStatus.OK)
    assert channel.receive(10) == ["a", 200]
    assert [type(item) for item in (channel.receive(10), "x")] == [str, str]
    assert shape(channel.receive(10)) == shape({"a": (1, "b")})
    channel.send(collections.OrderedDict({1: Path("b"), "channel": [SUBCLASSES[bytes](b"x" * 100_000)]}))
    assert shape(channel.receive(10)) == shape({1: "b", "channel": [b"x" * 100_000]})


# the C core's Codec


def codec_class() -> Any:
    if execnet.gateway_base.core != "c":
        pytest.skip("the portable core has no Codec")
    return importlib.import_module("execnet._core").Codec


def codec_names(**other: Any) -> dict[str, Any]:
    error = type("OwnError", (Exception,), {})
    names = {"DumpError": error, "LoadError": error, "Channel": int, "DUMPFORMAT_VERSION": b"\x02"}
    return {**names, "_changes": {}, "_dispatch": {}, **other}


def test_a_codec_is_made_whole_or_not_at_all() -> None:
    codec = codec_class()
    wrongs: list[dict[str, Any]] = [
        {"DumpError": 1}, {"LoadError": int}, {"Channel": 3}, {"_changes": None}, {"_dispatch": []}
    ]  # fmt: skip
    for wrong in wrongs:
        with pytest.raises(TypeError):
            codec(codec_names(**wrong))
    for missing in ("DumpError", "LoadError", "Channel", "_changes", "_dispatch"):
        names = codec_names()
        del names[missing]
        with pytest.raises(KeyError, match=missing):
            codec(names)
    several: list[tuple[Any, ...]] = [(), (1,), ([],), ({}, {})]
    for arguments in several:
        with pytest.raises((TypeError, KeyError)):
            codec.__new__(codec, *arguments)
    with pytest.raises(TypeError):
        object.__new__(codec)


def test_a_codec_whose_names_are_gone_says_so() -> None:
    names = codec_names()
    codec = codec_class()(names)
    error = names["DumpError"]
    names.clear()
    assert codec.loads_internal(codec.dumps_internal([1, "a"])) == [1, "a"]
    with pytest.raises(error, match="can't serialize"):
        codec.dumps_internal(object())
    for call in (lambda: codec.dumps(1), lambda: codec.loads(b"\x02LQ"), lambda: codec.load(io.BytesIO(b"\x02LQ"))):
        with pytest.raises(TypeError, match="DUMPFORMAT_VERSION"):
            call()
    with pytest.raises(KeyError, match="_digits_from_int"):
        codec.dumps_internal(10**5000)
    with pytest.raises(KeyError, match="_int_from_digits"):
        codec.loads_internal(b"H" + int4(5000) + b"7" * 5000 + b"Q")


@pytest.mark.skipif(not HAS_GIL, reason="without a GIL, CPython 3.13 keeps classes for ever")
def test_a_codec_in_a_cycle_is_collected() -> None:
    names = codec_names()
    names["codec"] = codec_class()(names)
    names["DumpError"].codec = names["codec"]
    known = weakref.ref(names["DumpError"])
    del names
    gc.collect()
    assert known() is None


# hostile bytes

MALFORMED_LOADS = """
import io, itertools, marshal, sys
from execnet import gateway_base
from execnet.gateway_base import Unserializer

def outcome(data):
    try:
        Unserializer(io.BytesIO(data)).load()
    except Exception as error:
        return type(error).__name__, str(error)
    return "value", ""

opcodes = [value for name, value in sorted(vars(gateway_base.opcode).items()) if not name.startswith("_")]
assert sorted(Unserializer.num2func) == sorted(opcodes) and len(opcodes) == 21
letters = opcodes + [bytes([number]) for number in (0, 1, 2, 127, 128, 255)]
firsts = [bytes([number]) for number in range(256)]
words = [b"".join(word) for size in (1, 2, 3) for word in itertools.product(letters, repeat=size)]
ends = [b"Q", b"P", b"L", b"\\x01"]
words += [b"".join(word) for word in itertools.product(opcodes, letters, letters, ends)]
words += [first + last for first in firsts for last in [b"", *letters]]
marshal.dump({data: outcome(data) for data in words}, sys.stdout.buffer, 2)
"""
# What 2.1.2 raises where it does not say LoadError or EOFError.
UNDOCUMENTED = {"error": "EOFError", "TypeError": "LoadError", "AssertionError": "LoadError"}


@pytest.fixture(scope="module")
def malformed(oracle: Oracle) -> dict[bytes, tuple[str, str]]:
    """What the oracle makes of up to four bytes: the name of the error, or "value", and its text."""
    found: dict[bytes, tuple[str, str]] = marshal.loads(oracle.run(MALFORMED_LOADS))
    return found


def test_malformed_bytes_are_told_as_by_the_oracle(base: ModuleType, malformed: dict[bytes, tuple[str, str]]) -> None:
    for load in (base.loads_internal, lambda data: base.Unserializer(io.BytesIO(data)).load()):
        for data, (kind, text) in malformed.items():
            try:
                load(data)
                ours, said = "value", ""
            except Exception as error:
                ours, said = type(error).__name__, str(error)
            assert ours == UNDOCUMENTED.get(kind, kind), data
            assert kind != "LoadError" or said == text, data


@pytest.mark.parametrize(
    ("data", "position"),
    [
        (b"P", 1),
        (b"LLQ", 3),
        (b"LZ", 2),
        (b"LLPQ", 3),
        (b"K" + int4(-1), 5),
        (b"N" + int4(1) + b"\xffQ", 6),
        (b"J" * 40 + b"@" + int4(41) + b"Q" * 9, 45),
        (b"J" * 40 + b"H" + int4(1) + b"x" + b"Q" * 9, 46),
        (b"J" * 40 + b"E" + int4(1) + b"Q" * 9, 45),
        (b"J" * 40 + b"Z" + b"Q" * 9, 41),
        (b"J" * 40 + b"Q" + b"L" * 9, 41),
    ],
)
def test_a_load_error_says_how_far_the_value_was_read(base: ModuleType, data: bytes, position: int) -> None:
    before = b"rest of what stood before"

    def from_stream(data: bytes) -> None:
        stream = io.BytesIO(before + data)
        stream.seek(len(before))
        base.Unserializer(stream).load()

    class Bytewise(io.BytesIO):
        def read(self, count: int | None = -1, /) -> bytes:
            return super().read(1)

    loads = [base.loads_internal, lambda data: base.loads(b"\x02" + data), from_stream]
    loads += [lambda data: base.load(Bytewise(b"\x02" + data)), lambda data: base.Unserializer(Bytewise(data)).load()]
    for load in loads:
        with pytest.raises(base.LoadError) as caught:
            load(data)
        assert caught.value.position == position
        if sys.version_info >= (3, 11):
            assert caught.value.__notes__ == [f"in the value's first {position} bytes"]


def test_what_the_stream_or_the_factory_raises_has_no_position(base: ModuleType) -> None:
    class Failing:
        def read(self, count: int) -> bytes:
            raise base.LoadError("from the stream")

        def new(self, id: int) -> None:
            raise base.LoadError("from the factory")

    for load in (
        lambda: base.load(Failing()),
        lambda: base.Unserializer(Failing()).load(),
        lambda: base.loads_internal(b"B" + int4(1) + b"Q", Failing()),
    ):
        with pytest.raises(base.LoadError, match=r"^from the") as caught:
            load()
        assert caught.value.position is None


def mutations(seed: int, count: int) -> Iterator[bytes]:
    made: Iterator[bytes] = fuzz_module("fuzz_values").mutations(random.Random(seed), count)
    return made


def test_mutated_bytes_give_the_same_over_both_cores(base: ModuleType, twin: ModuleType) -> None:
    for data in mutations(1, 8_000):
        ours, theirs = outcome(base.loads, data), outcome(twin.loads, data)
        assert ours[0] == theirs[0] and ours[0] in ("value", "LoadError", "EOFError"), data
        if ours[0] == "value":
            assert shape(ours[1]) == shape(theirs[1]), data
        assert outcome(base.load, io.BytesIO(data))[0] == ours[0], data


@given(st.binary(max_size=60))
@settings(examples, max_examples=300)
def test_any_bytes_are_a_value_or_refused(base: ModuleType, data: bytes) -> None:
    assert outcome(base.loads, data)[0] in ("value", "LoadError", "EOFError")
    assert outcome(base.loads, b"\x02" + data)[0] in ("value", "LoadError", "EOFError")


# memory, in processes of their own


def run_alone(program: str, core: str, **otherwise: str) -> str:
    """What the program prints; otherwise are variables for where the environment has none of the name."""
    environment = {**otherwise, **os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("EXECNET_PURE", None)
    if core == "portable":
        environment["EXECNET_PURE"] = "1"
    prelude = "import execnet.gateway_base as base\n"
    return subprocess.run(
        [sys.executable, "-c", prelude + dedent(program)],
        env=environment,
        stdout=subprocess.PIPE,
        timeout=100,
        check=True,
        text=True,
    ).stdout


SAMPLE = (
    '[1, 2**80, 10**5000, 1.5, 2j, "a", "\\xe9" * 50, b"b", None, True, [[]], {"a": {1: (2,)}}, {3}, frozenset([4])]'
)


def test_nothing_leaks(base: ModuleType) -> None:
    grown = run_alone(
        f"""
        import gc, io, sys
        class Dribble:
            def __init__(self, data, most, convert=bytes):
                self.rest, self.most, self.convert = data, most, convert
            def read(self, count):
                piece, self.rest = self.rest[: min(self.most, count)], self.rest[min(self.most, count) :]
                return self.convert(piece) if len(self.rest) < 10 else piece
        class Meddling(base.Channel):
            __init__ = __del__ = lambda self: None
            @property
            def id(self):
                Meddling.calls()
                return 1
        import collections
        class Text(str):
            pass
        class Box:
            def __init__(self, inside):
                self.inside = inside
        base._reducers[Box] = lambda box: box.inside
        value = {SAMPLE}
        good = base.dumps(value)
        short = base.dumps(["text", {{"key": b"bytes"}}, 10**30])
        bad = [good[:-3], good[:40], good[:-1] + b"ZQ", b"\\x02JJLPQ", b"\\x02H\\0\\0\\0\\1xQ"]
        def work():
            base.loads(base.dumps(value))
            base.load(io.BytesIO(good))
            base.load(Dribble(short, 1))
            base.loads(bytearray(good))
            for data in bad:
                for load in (base.loads, lambda data: base.load(io.BytesIO(data))):
                    try:
                        load(data)
                    except (base.LoadError, EOFError):
                        pass
            base.dumps([Text("\\xe9"), collections.OrderedDict({{1: Box([Box((1, 2))])}}), collections.Counter("aab")])
            for wrong in ([object()], {{"a": [object()]}}, {{object(): 1}}, {{(1, object())}}, ["\\ud800"],
                          Text("\\ud800"), collections.OrderedDict(a=[Text("\\ud800")]), Box({{"a": object()}})):
                try:
                    base.dumps(wrong)
                except base.DumpError:
                    pass
            for most in (100, 1):
                for read in (str, lambda piece: piece + b"more", lambda piece: b""):
                    try:
                        base.load(Dribble(short, most, read))
                    except (TypeError, ValueError, EOFError):
                        pass
            for change in (list.clear, lambda value: value.append(1), lambda value: value.insert(0, 2)):
                wrong = [1, [], Meddling(), "text"]
                Meddling.calls = lambda: change(wrong)
                try:
                    base.dumps([{{"a": wrong}}])
                except RuntimeError:
                    pass
            if base.core == "c":
                needed = ("DumpError", "LoadError", "Channel", "_changes", "_dispatch")
                names = {{name: getattr(base, name) for name in needed}}
                names["codec"] = type(base._codec)(names)
                for missing in list(names):
                    try:
                        type(base._codec)({{**names, missing: 1}})
                    except TypeError:
                        pass
        def blocks():
            for _ in range(200):
                work()
            gc.collect()
            return sys.getallocatedblocks()
        blocks()
        counts = [blocks() for _ in range(5)]
        print(counts[-1] - counts[0])
        """,
        base.core,
    )
    # One that is left each time makes 800; without a GIL, the count is of what threads have in stock, too.
    assert int(grown) < (20 if HAS_GIL else 200)


def test_no_memory_is_a_memory_error_at_every_allocation() -> None:
    if execnet.gateway_base.core != "c":
        return  # only C allocates by hand
    pytest.importorskip("_testcapi")
    program = f"""
        import _testcapi, collections, io
        class Text(str):
            pass
        class Number(int):
            pass
        class Box:
            def __init__(self, inside):
                self.inside = inside
        base._reducers[Box] = lambda box: box.inside
        other = [Text("\\xe9" * 300), Number(10**700), collections.OrderedDict(a=Box([Box(Text("a"))]))]
        value = {SAMPLE} + ["x" * 3000] + [[[[[(1, 2)] * 30]]]] + list(range(300))
        value[2] = 10**500
        deep = b"\\x02" + b"J" * 200 + b"Q"
        data = base.dumps(value)
        class Bytewise(io.BytesIO):
            def read(self, count):
                return super().read(1)
        short = base.dumps(["text", {{"key": b"bytes"}}, 10**30])
        needed = ("DumpError", "LoadError", "Channel", "_changes", "_dispatch")
        names = {{name: getattr(base, name) for name in needed}}
        Codec = type(base._codec)
        calls = [lambda: base.dumps(value), lambda: base.dumps(other), lambda: base.dumps([Box([object()])]),
                 lambda: base.loads(data), lambda: base.load(io.BytesIO(data)),
                 lambda: base.load(Bytewise(short)), lambda: base.loads(bytearray(data)), lambda: Codec(names),
                 lambda: base.dumps([{{"a": {{1.5: ["\\ud800"]}}}}]), lambda: base.dumps(["\\xe9" * 5_000_000]),
                 lambda: base.dumps([{{"a": object()}}]), lambda: base.loads(deep),
                 lambda: base.loads(data[:-1] + b"ZQ")]
        errors = (base.DumpError, base.LoadError, EOFError)
        for call in calls:
            for start in range(1, 20000):
                failed = None
                _testcapi.set_nomemory(start, start + 1)
                try:
                    call()
                except MemoryError:
                    failed = True
                except errors:
                    failed = False
                finally:
                    _testcapi.remove_mem_hooks()
                if not failed and start > 50 and _no_allocation_left(call, start):
                    break
            else:
                raise AssertionError("still failing")
        print("survived")
        """
    helper = """
        def _no_allocation_left(call, start):
            # Allocations are counted from 1: the call makes fewer than start when a wide hole behind is not noticed.
            import _testcapi
            _testcapi.set_nomemory(start, 0)
            try:
                call()
            except MemoryError:
                return False
            except (base.DumpError, base.LoadError, EOFError):
                return True
            finally:
                _testcapi.remove_mem_hooks()
            return True
        """
    assert run_alone(dedent(helper) + dedent(program), "c") == "survived\n"
