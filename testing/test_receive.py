"""Receiving over both cores: who reads, what arrives whatever way the bytes come, and signals meanwhile."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest
from support.blocked import Call, await_blocked, interrupted_after
from support.peer import Peer, frame
from support.processes import stop, wait_until

import execnet

SECONDS = 20.0
CHECKOUT = Path(execnet.__file__).resolve().parents[1]
KIB, MIB = 1 << 10, 1 << 20
# A signal reaches a thread that waits within this; the rest of the slack is for a busy machine.
INTERRUPT_SECONDS = 0.02
ROUNDS = 5

both_transports = pytest.mark.parametrize("transport", ["socket", "pipe"], indirect=True)
one_transport = pytest.mark.parametrize("transport", ["pipe"], indirect=True)


# bytes in pieces


@both_transports
def test_messages_may_come_byte_by_byte(peer: Peer) -> None:
    channel = peer.gateway.newchannel()
    items = [None, 1, "text", b"bytes", [1, [2]], {"a": (1, 2)}] * 5

    def write() -> None:
        for item in items:
            for byte in peer.item(channel, item):
                peer.write(bytes([byte]))

    writer = Call(write)
    assert [channel.receive(SECONDS) for _ in items] == items
    writer.result()


@both_transports
def test_a_message_may_be_cut_at_any_byte(peer: Peer) -> None:
    channel = peer.gateway.newchannel()
    message = peer.item(channel, {"key": [1, b"bytes"]})
    for at in range(1, len(message)):
        peer.write(message[:at])
        peer.await_read()
        peer.write(message[at:] + message[: at // 2])
        assert channel.receive(SECONDS) == {"key": [1, b"bytes"]}
        peer.write(message[at // 2 :])
        assert channel.receive(SECONDS) == {"key": [1, b"bytes"]}


LARGE = {
    "bytes": b"\0\1Q@\xff" * (50 * KIB),
    "str": "aé€\U0001f40d" * (30 * KIB),
    "nested": [b"x" * 100 * KIB, {"key": "y" * 100 * KIB}, [b"", (b"z" * 70 * KIB,)]],
    "almost bytes": (b"x" * 100 * KIB,),
}


@pytest.mark.parametrize("kind", LARGE)
@one_transport
def test_a_large_message_may_be_cut_in_its_header_and_at_its_end(peer: Peer, kind: str) -> None:
    channel = peer.gateway.newchannel()
    item = LARGE[kind]
    message = peer.item(channel, item)
    for at in [*range(1, 20), 64 * KIB + 9, *range(len(message) - 8, len(message))]:
        peer.write(message[:at])
        peer.await_read()
        # What follows at once must not be taken for a part of it.
        writer = Call(peer.write, message[at:] + peer.item(channel, at))
        assert channel.receive(SECONDS) == item
        assert channel.receive(SECONDS) == at
        writer.result()


@both_transports
def test_messages_of_any_size_cut_anywhere_come_whole_and_in_order(peer: Peer) -> None:
    chance = random.Random(20)
    channels = [peer.gateway.newchannel() for _ in range(3)]
    sizes = [0, 1, 100, 4096, 65535, 65536, 65537, 128 * KIB, 300 * KIB]
    sent = [(chance.randrange(3), chance.choice([bytes, str])(b"") * 0, chance.choice(sizes)) for _ in range(60)]
    items = [(number, b"b" * size if isinstance(empty, bytes) else "s" * size) for number, empty, size in sent]
    stream = b"".join(peer.item(channels[number], item) for number, item in items)
    cuts = sorted(chance.randrange(len(stream)) for _ in range(200))

    def write() -> None:
        for begin, end in zip([0, *cuts], [*cuts, None]):
            peer.write(stream[begin:end])

    writer = Call(write)
    for number, item in items:
        assert channels[number].receive(SECONDS) == item
    writer.result()


@one_transport
def test_bytes_that_only_look_like_one_value_are_an_error_for_who_receives_them(peer: Peer) -> None:
    channel = peer.gateway.newchannel()
    # As large as what is read straight into its final object, but without the STOP at the end.
    payload = peer.base.dumps_internal(b"x" * 100 * KIB)[:-1] + b"x"
    peer.write(frame(peer.DATA, channel.id, payload))
    peer.send(channel, "next")
    with pytest.raises((peer.base.LoadError, EOFError)) as error:
        channel.receive(SECONDS)
    assert "unknown opcode" in str(error.value)
    assert channel.receive(SECONDS) == "next"


# input that ends or is none


INVALID = [b"\x08\0\0\0\1\0\0\0\0", b"\xff\0\0\0\1\0\0\0\0", b"\x04\0\0\0\1\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n"]


@pytest.mark.parametrize("header", INVALID)
@one_transport
def test_an_invalid_header_ends_the_connection(peer: Peer, header: bytes) -> None:
    channel, other = peer.gateway.newchannel(), peer.gateway.newchannel()
    waiting = Call(channel.receive)
    peer.send(channel, 1)
    assert waiting.result() == 1
    peer.write(header)
    for call in (channel.receive, channel.waitclose, other.receive):
        with pytest.raises(EOFError, match="not a message header") as error:
            Call(call, SECONDS).result()
        assert "LoadError" in str(error.value)
    peer.gateway.join(SECONDS)
    assert not peer.gateway.hasreceiver()
    with pytest.raises(OSError, match="connection already closed"):
        peer.gateway.newchannel()


ENDS = {
    "between messages": (b"", "has closed the connection"),
    "in a header": (frame(4, 1, b"12345")[:4], "couldn't load message header, expected 9 bytes, got 4"),
    "in a payload": (frame(4, 1, b"12345")[:-2], "expected 5 bytes, got 3"),
    "in a large payload": (frame(4, 1, b"L" * MIB)[: -MIB // 2], "expected 1048576 bytes, got 524288"),
    "in a large bytes value": (
        frame(4, 1, b"A\0\x10\0\0" + b"x" * MIB + b"Q")[:-1],
        "expected 1048582 bytes, got 1048581",
    ),
}


@pytest.mark.parametrize("where", ENDS)
@pytest.mark.parametrize("waiting", [True, False], ids=["received", "idle"])
@both_transports
def test_the_end_of_input_ends_every_wait_and_says_what_was_missing(peer: Peer, where: str, waiting: bool) -> None:
    data, text = ENDS[where]
    channels = [peer.gateway.newchannel() for _ in range(3)]
    calls = [channels[0].receive, channels[0].receive, channels[1].waitclose, channels[2].receive]
    threads = [Call(call).await_blocked() for call in calls] if waiting else []
    with_timeout = [Call(call, SECONDS) for call in calls] if waiting else []
    peer.write(data)
    peer.hang_up()
    for thread in threads + with_timeout + [Call(call) for call in calls]:
        with pytest.raises(EOFError) as error:
            thread.result()
        assert text in str(error.value)
    peer.gateway.join(SECONDS)
    assert not peer.gateway.hasreceiver()
    assert peer.gateway._error is not None


# several threads


@both_transports
def test_threads_that_receive_on_one_channel_share_its_items(peer: Peer) -> None:
    channel = peer.gateway.newchannel()
    threads = [Call(list, channel) for _ in range(4)]
    for thread in threads:
        thread.await_blocked()
    for number in range(2000):
        peer.send(channel, number)
    peer.end(channel)
    received = [thread.result() for thread in threads]
    assert sorted(itertools.chain(*received)) == list(range(2000))
    assert all(part == sorted(part) for part in received)


@both_transports
def test_threads_that_receive_on_many_channels_get_their_own_items(peer: Peer) -> None:
    channels = [peer.gateway.newchannel() for _ in range(8)]
    threads = [Call(list, channel).await_blocked() for channel in channels]
    for number in range(500):
        for channel in channels:
            peer.send(channel, (channel.id, number))
    for channel in channels:
        peer.end(channel)
    for channel, thread in zip(channels, threads):
        assert thread.result() == [(channel.id, number) for number in range(500)]


@both_transports
def test_a_round_trip_at_a_time_in_several_threads(peer: Peer) -> None:
    channels = [peer.gateway.newchannel() for _ in range(4)]

    def ask(channel: Any) -> None:
        for number in range(300):
            channel.send(number)
            assert channel.receive(SECONDS) == number

    threads = [Call(ask, channel) for channel in channels]
    for _ in range(4 * 300):
        code, channelid, payload = peer.message()
        assert code == peer.DATA
        peer.write(frame(peer.DATA, channelid, payload))
    for thread in threads:
        thread.result()


@pytest.mark.timing
@both_transports
def test_a_timeout_ends_in_time_and_loses_nothing(peer: Peer) -> None:
    channel, other = peer.gateway.newchannel(), peer.gateway.newchannel()
    for timeout in (0, 0.02, 0.1):
        for wait, text in ((channel.receive, "no item"), (channel.waitclose, "channel not closed")):
            before = time.monotonic()
            with pytest.raises(channel.TimeoutError, match=f"{text} after {timeout!r} seconds") as error:
                wait(timeout)
            assert isinstance(error.value, OSError)
            assert timeout <= time.monotonic() - before + 0.002 < timeout + 1.0
    waiting = Call(other.receive).await_blocked()  # it holds the reader role from now on
    with pytest.raises(channel.TimeoutError):
        channel.receive(timeout=0.05)
    peer.send(channel, 1)
    peer.send(other, 2)
    assert (channel.receive(SECONDS), waiting.result()) == (1, 2)


@pytest.mark.timing
@both_transports
def test_timeouts_of_several_threads_do_not_hold_up_each_other(peer: Peer) -> None:
    channels = [peer.gateway.newchannel() for _ in range(6)]

    def wait(channel: Any, timeout: float) -> float:
        before = time.monotonic()
        with pytest.raises(channel.TimeoutError):
            channel.receive(timeout)
        return time.monotonic() - before

    threads = [(timeout, Call(wait, channel, timeout)) for channel, timeout in zip(channels, [0.3, 0.02, 0.1] * 2)]
    forever = Call(channels[0].waitclose)
    for timeout, thread in threads:
        assert timeout <= thread.result() + 0.002 < timeout + 1.0
    peer.end(channels[0])
    forever.result()


@pytest.mark.timing
@pytest.mark.parametrize("ends", ["timeout", "signal"])
@one_transport
def test_input_that_never_pauses_holds_up_neither_timeouts_nor_signals(peer: Peer, tmp_path: Path, ends: str) -> None:
    channel = peer.gateway.newchannel()
    flood, is_over = tmp_path / "flood", threading.Event()
    half = 32 * MIB // 9 * 9
    flood.write_bytes(frame(peer.DATA, channel.id + 2) * (2 * half // 9))

    def begin() -> None:
        # A file can always be read: it takes the pipe's place while the main thread polls that.
        await_blocked(threading.main_thread().native_id or 0)
        with flood.open("rb") as file:
            os.dup2(file.fileno(), peer.gateway._io.infile.fileno())
            peer.write(frame(peer.DATA, channel.id + 2))
            wait_until(lambda: os.lseek(file.fileno(), 0, os.SEEK_CUR), SECONDS, "the first bytes of the file")
            if ends == "signal":
                os.kill(os.getpid(), signal.SIGINT)
            while not is_over.wait(0.01):  # it never ends
                if os.lseek(file.fileno(), 0, os.SEEK_CUR) > half:
                    os.lseek(file.fileno(), -half, os.SEEK_CUR)
            os.truncate(flood, 0)

    beginner = Call(begin)
    with pytest.raises(KeyboardInterrupt if ends == "signal" else channel.TimeoutError):
        channel.receive(SECONDS if ends == "signal" else 0.4)
    with pytest.raises(channel.TimeoutError):  # the input has not ended
        channel.receive(0)
    is_over.set()
    beginner.result()


@pytest.mark.parametrize("timeout", [None, 0, -1, 0.001, 1e-9, 5, 10**6, 1e300, float("inf")])
@one_transport
def test_any_number_of_seconds_is_a_timeout(peer: Peer, timeout: float | None) -> None:
    channel = peer.gateway.newchannel()
    peer.send(channel, 1)
    peer.end(channel)
    wait_until(channel.isclosed, SECONDS, "the channel's end")
    assert channel.receive(timeout) == 1
    channel.waitclose(timeout)


@pytest.mark.parametrize("timeout", ["5", [], object()])
@one_transport
def test_what_is_no_number_is_no_timeout(peer: Peer, timeout: Any) -> None:
    channel = peer.gateway.newchannel()
    with pytest.raises(TypeError):
        channel.receive(timeout)
    with pytest.raises(TypeError):
        channel.waitclose(timeout)


@both_transports
def test_a_close_ends_the_wait_of_other_threads(peer: Peer) -> None:
    channel, other = peer.gateway.newchannel(), peer.gateway.newchannel()
    threads = [Call(channel.receive).await_blocked(), Call(channel.receive, SECONDS).await_blocked()]
    waitclose = Call(channel.waitclose).await_blocked()
    elsewhere = Call(other.receive).await_blocked()
    channel.close()
    for thread in threads:
        with pytest.raises(EOFError):
            thread.result()
    waitclose.result()
    assert elsewhere.thread.is_alive()
    peer.send(other, 1)
    assert elsewhere.result() == 1


@both_transports
def test_a_remote_error_reaches_one_of_those_who_wait_and_all_others_get_eof(peer: Peer) -> None:
    channel = peer.gateway.newchannel()
    threads = [Call(channel.receive).await_blocked() for _ in range(4)]
    peer.end(channel, "failed")
    errors = []
    for thread in threads:
        with pytest.raises((EOFError, channel.RemoteError)) as error:
            thread.result()
        errors.append(error.value)
    assert sorted(str(error) for error in errors if isinstance(error, channel.RemoteError)) == ["failed"]
    assert sum(isinstance(error, EOFError) for error in errors) == 3


# callbacks


@both_transports
def test_a_callback_is_called_while_another_thread_waits_on_another_channel(peer: Peer) -> None:
    channel, other = peer.gateway.newchannel(), peer.gateway.newchannel()
    waiting = Call(other.receive).await_blocked()
    items: list[object] = []
    channel.setcallback(items.append)
    for number in range(10):
        peer.send(channel, number)
        wait_until(lambda: items == list(range(number + 1)), SECONDS, "the callback")  # noqa: B023 -- called at once
    assert waiting.thread.is_alive()
    peer.send(other, "other")
    assert waiting.result() == "other"


@both_transports
def test_a_callback_set_while_another_thread_waits_on_the_same_channel_takes_over(peer: Peer) -> None:
    channel = peer.gateway.newchannel()
    waiting = Call(channel.receive).await_blocked()
    items: list[object] = []
    end = object()
    channel.setcallback(items.append, endmarker=end)
    peer.send(channel, 1)
    peer.send(channel, 2)
    wait_until(lambda: items == [1, 2], SECONDS, "the callback")
    peer.end(channel)
    with pytest.raises(EOFError):
        waiting.result()
    wait_until(lambda: items == [1, 2, end], SECONDS, "the end marker")


def send_numbers(peer: Peer, channel: execnet.Channel) -> None:
    for number in range(300):
        peer.send(channel, number)


@both_transports
def test_items_around_the_moment_of_setcallback_come_once_and_in_order(peer: Peer) -> None:
    for _ in range(10):
        channel = peer.gateway.newchannel()
        writer = Call(send_numbers, peer, channel)
        items: list[object] = []
        wait_until(lambda: peer.unread() or True, SECONDS, "some bytes")
        channel.setcallback(items.append, endmarker="end")
        writer.result()
        peer.end(channel)
        wait_until(lambda: items[-1:] == ["end"], SECONDS, "the end")  # noqa: B023 -- called at once
        assert items == [*range(300), "end"]


@both_transports
def test_a_callback_may_receive_what_is_there_and_wait_with_a_timeout(peer: Peer) -> None:
    channel, other = peer.gateway.newchannel(), peer.gateway.newchannel()
    seen: list[object] = []

    def callback(item: object) -> None:
        seen.append((item, other.receive(SECONDS)))
        with pytest.raises(other.TimeoutError):
            other.receive(0.01)
        channel.send("answer")

    channel.setcallback(callback)
    for number in range(3):
        peer.send(other, -number)
        peer.send(channel, number)
        assert peer.message()[:2] == (peer.DATA, channel.id)
    assert seen == [(0, 0), (1, -1), (2, -2)]


# The portable core has one thread that reads, and that one is in the callback.
@pytest.mark.parametrize("local", ["c"], indirect=True)
@both_transports
def test_a_callback_may_wait_for_items_of_other_channels(peer: Peer) -> None:
    channel, other = peer.gateway.newchannel(), peer.gateway.newchannel()
    seen: list[object] = []

    def callback(item: object) -> None:
        channel.send("asked")
        seen.append((item, other.receive(SECONDS)))
        channel.send("done")

    channel.setcallback(callback)
    for number in range(20):
        peer.send(channel, number)
        peer.message()
        peer.send(other, -number)
        peer.message()
    assert seen == [(number, -number) for number in range(20)]


@both_transports
def test_large_items_reach_a_callback(peer: Peer) -> None:
    channel = peer.gateway.newchannel()
    items: list[object] = []
    channel.setcallback(items.append)
    for item in LARGE.values():
        peer.send(channel, item)
    wait_until(lambda: len(items) == len(LARGE), SECONDS, "all items")
    assert items == list(LARGE.values())


# channels inside items


@both_transports
def test_data_right_behind_the_item_with_its_channel_is_not_lost(peer: Peer) -> None:
    channel = peer.gateway.newchannel()
    opcode, dumps = peer.base.opcode, peer.base.dumps_internal
    waiting = Call(channel.receive).await_blocked()
    stream = b""
    for id in range(1000, 1100):
        carried = b"K\0\0\0\1F\0\0\0\0" + opcode.CHANNEL + id.to_bytes(4, "big") + b"PQ"  # [channel]
        stream += frame(peer.DATA, channel.id, carried)
        stream += frame(peer.DATA, id, dumps(id)) + frame(peer.DATA, id, dumps("B")) + frame(peer.CLOSE, id)
    peer.write(stream)
    for id in range(1000, 1100):
        [inner] = waiting.result() if id == 1000 else channel.receive(SECONDS)
        assert inner.id == id
        assert list(inner) == [id, "B"]


@one_transport
def test_a_channel_arrives_as_the_same_object(peer: Peer) -> None:
    channel = peer.gateway.newchannel()
    peer.send(channel, {"channel": channel, 1: [channel]})
    item = channel.receive(SECONDS)
    assert item["channel"] is channel
    assert item[1][0] is channel
    item = None


# end to end, each core on each side


ECHO = "for item in channel: channel.send(item)"


def test_each_side_has_the_core_asked_for(pair: execnet.Gateway, local: ModuleType, remote_core: str) -> None:
    has = pair.remote_exec("channel.send((channel.gateway._core, channel.gateway._connection is not None))")
    assert has.receive(SECONDS) == (remote_core, remote_core == "c")
    assert (pair._connection is not None) == (local.gateway_base.core == "c")


@pytest.mark.parametrize("wanted", ["0", "1"])
def test_items_go_and_come_whether_threads_spin_or_not(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    monkeypatch.setenv("EXECNET_SPIN", wanted)
    group = execnet.Group()
    try:
        channel = group.makegateway().remote_exec(ECHO)
        for item in [*range(300), b"b" * MIB]:
            channel.send(item)
            assert channel.receive(SECONDS) == item
    finally:
        group.terminate(5)


def values_of(size: int) -> list[object]:
    return [b"b" * size, "s" * size, "é" * (size // 2), [b"b" * (size // 2), {"key": "s" * (size // 2)}]]


@pytest.mark.parametrize("size", [64 * KIB - 6, 64 * KIB, MIB])
def test_large_items_go_and_come(pair: execnet.Gateway, size: int) -> None:
    channel = pair.remote_exec(ECHO)
    for item in values_of(size):
        channel.send(item)
        assert channel.receive(SECONDS) == item


def test_huge_items_go_and_come(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec(ECHO)
    for item in (os.urandom(20 * MIB), "é" * (10 * MIB)):
        channel.send(item)
        assert channel.receive(SECONDS) == item


EXCHANGE = """
    import threading
    channels = [channel.gateway.newchannel() for _ in range(64)]
    channel.send(channels)

    def serve(own):
        for round in range(%d):
            for each in own:
                each.send((each.id, each.receive(60)))

    threads = [threading.Thread(target=serve, args=(channels[first::8],)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_8_threads_exchange_100000_messages_over_64_channels_in_order(pair: execnet.Gateway) -> None:
    rounds = 50000 // 64 + 1
    task = pair.remote_exec(EXCHANGE % rounds)
    channels = task.receive(SECONDS)

    def exchange(own: list[Any]) -> None:
        for number in range(rounds):
            for channel in own:
                channel.send(number)
            if number >= 10:
                for channel in own:
                    assert channel.receive(60) == (channel.id, number - 10)
        for channel in own:
            for number in range(rounds - 10, rounds):
                assert channel.receive(60) == (channel.id, number)

    threads = [Call(exchange, channels[first::8]) for first in range(8)]
    for thread in threads:
        thread.result(60)
    task.waitclose(SECONDS)


def test_a_dropped_channel_ends_on_the_other_side(pair: execnet.Gateway) -> None:
    task = pair.remote_exec("inner = channel.receive()\nfor item in inner: pass\nchannel.send('ended')")
    inner = pair.newchannel()
    task.send(inner)
    inner.send(1)
    id = inner.id
    assert id in pair._channelfactory._channels
    del inner
    assert task.receive(SECONDS) == "ended"
    assert id not in pair._channelfactory._channels
    task.waitclose(SECONDS)


def test_10000_channels(pair: execnet.Gateway) -> None:
    task = pair.remote_exec("channels = channel.receive()\nfor each in channels: each.send(each.id)\nchannel.receive()")
    channels = [pair.newchannel() for _ in range(10000)]
    before = len(pair._channelfactory.channels())
    task.send(channels)
    assert [channel.receive(SECONDS) for channel in channels] == [channel.id for channel in channels]
    assert pair.remote_status().numchannels == 10001
    del channels
    wait_until(lambda: len(pair._channelfactory.channels()) == before - 10000, SECONDS, "the channels' end")
    task.send(None)
    task.waitclose(SECONDS)
    wait_until(lambda: pair.remote_status().numchannels == 0, SECONDS, "the far channels' end")


# signals


def shortest_interrupt(function: Any, *args: Any) -> float:
    """The shortest time of some rounds: what the machine was busy with otherwise does not count."""
    took = [interrupted_after(function, *args) for _ in range(ROUNDS)]
    assert max(took) < 2.0
    return min(took)


@pytest.mark.timing
@pytest.mark.parametrize("wait", ["receive", "waitclose"])
@pytest.mark.parametrize("timeout", [None, 60])
@pytest.mark.parametrize("role", ["reader", "other"])
def test_an_interrupt_ends_a_wait_at_once_and_loses_nothing(
    pair: execnet.Gateway, wait: str, timeout: float | None, role: str
) -> None:
    channel, other = pair.remote_exec(ECHO), pair.remote_exec(ECHO)
    waiting = Call(other.receive).await_blocked() if role == "other" else None
    assert shortest_interrupt(getattr(channel, wait), timeout) <= INTERRUPT_SECONDS
    for number in range(10):
        channel.send(number)
        assert channel.receive(SECONDS) == number
    other.send("other")
    assert (waiting.result() if waiting else other.receive(SECONDS)) == "other"


def test_a_signal_that_another_thread_takes_interrupts_the_wait(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec(ECHO)
    with pytest.raises(channel.TimeoutError):
        channel.receive(0.01)

    about_to_wait = threading.Event()

    def interrupt_from_here() -> None:
        about_to_wait.wait(SECONDS)
        time.sleep(0.1)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    interrupter = Call(interrupt_from_here)
    about_to_wait.set()
    with pytest.raises(KeyboardInterrupt):
        channel.receive(SECONDS)
    interrupter.result()


@pytest.mark.timing
def test_an_interrupt_at_the_begin_of_a_wait_ends_it(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec(ECHO)
    main = threading.main_thread().ident
    assert main is not None
    for round in range(80):
        for number in range(3):  # short waits, as those are in which a reader spins
            channel.send(number)
            assert channel.receive(SECONDS) == number
        begin = threading.Event()

        def interrupt(begin: threading.Event = begin, delay: float = round % 40 * 5e-6) -> float:
            begin.wait()
            until = time.perf_counter() + delay
            while time.perf_counter() < until:
                pass
            at = time.monotonic()
            signal.pthread_kill(main, signal.SIGINT)
            return at

        interrupter = Call(interrupt)
        with pytest.raises(KeyboardInterrupt):
            begin.set()
            channel.receive(SECONDS)
        assert time.monotonic() - interrupter.result() < 1.0


def test_a_signal_handler_that_returns_does_not_end_a_wait(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = peer.gateway.newchannel()
    handled: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: handled.append(number))
    main = threading.main_thread().ident
    assert main is not None

    def disturb() -> None:
        for count in range(5):
            signal.pthread_kill(main, signal.SIGUSR1)
            wait_until(lambda: len(handled) > count, SECONDS, "the handler")  # noqa: B023 -- called at once
        peer.send(channel, "item")

    try:
        disturber = Call(disturb)
        assert channel.receive(SECONDS) == "item"
        disturber.result()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(handled) == 5


@pytest.mark.timing
def test_an_interrupted_send_of_64_mib_leaves_the_stream_whole(pair: execnet.Gateway) -> None:
    pid = pair._rinfo().pid
    channel = pair.remote_exec("for item in channel: channel.send((len(item), item[:3], item[-3:]))")
    item = b"abc" + bytes(64 * MIB - 6) + b"xyz"
    for _ in range(2):
        stop(pid)
        try:
            took = interrupted_after(channel.send, item)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert took < 0.5
        channel.send(b"after")
        answers = [channel.receive(SECONDS), channel.receive(SECONDS)]
        assert answers == [(64 * MIB, b"abc", b"xyz"), (5, b"aft", b"ter")]
    assert shortest_interrupt(channel.receive) <= INTERRUPT_SECONDS


def test_an_interrupted_small_send_leaves_the_stream_whole(peer: Peer) -> None:
    channel = peer.gateway.newchannel()

    def fill() -> None:
        while True:
            channel.send(sent[-1])
            sent.append(sent[-1] + 1)

    sent = [0]
    interrupted_after(fill)
    reader = Call(lambda: [peer.message() for _ in range(sent[-1] + 1)])
    channel.send("after")
    numbers = [peer.base.loads_internal(payload) for _, _, payload in reader.result()]
    # The interrupted item was sent, or was not.
    assert numbers in ([*range(sent[-1]), "after"], [*range(sent[-1] + 1)])


SIGPIPE = """
    import os, signal, sys
    import execnet
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    group = execnet.Group()
    gateway = group.makegateway("popen")
    assert gateway._connection is not None
    channel = gateway.remote_exec("channel.receive()")
    large = gateway.remote_exec("channel.receive()")
    os.kill(gateway._rinfo().pid, signal.SIGKILL)
    refused = 0
    for item in (1, b"x" * (8 << 20)):
        try:
            while True:
                large.send(item)
        except OSError as error:
            refused += "cannot send" in str(error)
    del channel
    group.terminate(5)
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_DFL
    assert not signal.sigpending() and not signal.pthread_sigmask(signal.SIG_BLOCK, ())
    print("alive", refused)
"""


@pytest.mark.parametrize("local", ["c"], indirect=True)
def test_sigpipe_with_its_default_action_does_not_kill(local: ModuleType) -> None:
    run = subprocess.run(
        [sys.executable, "-c", dedent(SIGPIPE)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "EXECNET_QUIET": "1"},
        capture_output=True,
        timeout=60,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "alive 2\n", "")
