"""Channels end to end, each core on each side: items, ends, errors, callbacks, channels inside items, files."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Queue
from types import ModuleType
from typing import Any

import pytest
from support.blocked import Call
from support.opcodes import Interruption, at_every_opcode
from support.processes import wait_until

import execnet

SECONDS = 20.0
ECHO = "for item in channel: channel.send(item)"
VALUES = [
    None,
    True,
    False,
    0,
    -1,
    2**31,
    -(2**100),
    1.5,
    -0.0,
    1 + 2j,
    "",
    "text €",
    b"",
    b"\0\xff",
    (),
    (1, (2,)),
    [],
    [[], [None]],
    {},
    {"key": {1: (2,)}},
    {1, 2},
    frozenset({"a"}),
]


# items


def test_values_come_back_as_they_went(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec(ECHO)
    for value in VALUES:
        channel.send(value)
        answer = channel.receive(SECONDS)
        assert (type(answer), repr(answer)) == (type(value), repr(value))
    channel.close()
    channel.waitclose(SECONDS)


def test_items_come_in_order_and_iteration_ends_with_the_channel(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec("for number in range(1000): channel.send(number)")
    assert iter(channel) is channel
    assert next(channel) == 0
    assert channel.next() == 1
    assert list(channel) == list(range(2, 1000))
    with pytest.raises(StopIteration):
        next(channel)
    assert list(channel) == []


def test_iteration_raises_a_remote_error(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec("channel.send(1)\nraise ValueError('some text')")
    assert next(channel) == 1
    with pytest.raises(channel.RemoteError, match="ValueError: some text"):
        next(channel)
    assert list(channel) == []


def test_what_cant_be_sent_is_refused_and_nothing_is_sent(pair: execnet.Gateway, local: ModuleType) -> None:
    channel = pair.remote_exec(ECHO)

    class Own:
        """Of no plain type."""

    for value, name in ((object(), "object"), (Own(), "Own"), ([{"key": {object()}}], "object"), (len, "builtin")):
        with pytest.raises(local.DumpError, match=f"can't serialize <class '.*{name}"):
            channel.send(value)
    with pytest.raises(local.DumpError):
        channel.send((b"x" * 100000, object()))
    channel.send("after")
    assert channel.receive(SECONDS) == "after"


def test_sends_from_many_threads_interleave_whole_items(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec(ECHO)
    sizes = (10, 5000, 100000)

    def send(thread: int) -> None:
        for number in range(20):
            for size in sizes:
                channel.send((thread, number, bytes([thread]) * size))

    threads = [Call(send, thread) for thread in range(4)]
    last = dict.fromkeys(range(4), (0, 0))
    for _ in range(4 * 20 * len(sizes)):
        thread, number, data = channel.receive(SECONDS)
        assert data == bytes([thread]) * len(data)
        assert (number, len(data)) > last[thread]
        last[thread] = (number, len(data))
    for call in threads:
        call.result()


def test_send_returns_only_when_the_bytes_are_taken(pair: execnet.Gateway) -> None:
    go = pair.remote_exec("channel.receive()")
    channel = pair.remote_exec("channel.send(len(channel.receive()))")
    channel.send(b"x" * 300000)
    assert channel.receive(SECONDS) == 300000
    go.send(None)


# ends


def test_after_the_end_there_is_eof_again_and_again_for_every_thread(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec("channel.send('left')")
    channel.waitclose(SECONDS)
    assert channel.isclosed()
    assert repr(channel) == f"<Channel id={channel.id} closed>"
    assert channel.receive() == "left"
    for call in [channel.receive] * 2:
        with pytest.raises(EOFError):
            call(SECONDS)
        with pytest.raises(EOFError):
            Call(call).result()
    channel.waitclose()
    with pytest.raises(OSError, match=f"cannot send to <Channel id={channel.id} closed>"):
        channel.send(1)


def test_a_remote_error_is_told_once(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec("channel.send(1)\n1/0")
    assert channel.receive(SECONDS) == 1
    with pytest.raises(channel.RemoteError) as error:
        channel.receive(SECONDS)
    assert str(error.value).strip().splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert repr(error.value) == f"RemoteError: {error.value.formatted}"
    with pytest.raises(EOFError):
        channel.receive(SECONDS)
    channel.waitclose(SECONDS)


def test_waitclose_raises_a_remote_error(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec("1/0")
    with pytest.raises(channel.RemoteError):
        channel.waitclose(SECONDS)
    with pytest.raises(EOFError):
        channel.receive()


def test_waitclose_does_not_eat_items(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec("channel.send(1); channel.send(2)")
    channel.waitclose(SECONDS)
    assert list(channel) == [1, 2]


def test_waitclose_ends_in_time(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec("channel.receive()")
    with pytest.raises(channel.TimeoutError):
        channel.waitclose(timeout=0.02)
    channel.send(1)
    channel.waitclose(timeout=SECONDS)


def test_close_ends_the_other_sides_iteration(pair: execnet.Gateway) -> None:
    observer = pair.newchannel()
    channel = pair.remote_exec("observer = channel.receive()\nobserver.send(list(channel))")
    for item in (observer, 1, 2):
        channel.send(item)
    channel.close()
    channel.close()
    assert channel.isclosed()
    assert observer.receive(SECONDS) == [1, 2]


def test_close_with_an_error_is_a_remote_error_over_there(pair: execnet.Gateway) -> None:
    source = """
        inner = channel.receive()
        try:
            inner.receive()
        except channel.RemoteError as error:
            channel.send(str(error))
    """
    channel, inner = pair.remote_exec(source), pair.newchannel()
    channel.send(inner)
    inner.close("some error")
    assert channel.receive(SECONDS) == "some error"


def test_closing_ones_own_channel_in_a_task_is_an_error(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec("channel.close()")
    with pytest.raises(channel.RemoteError, match="explicit") as error:
        channel.waitclose(SECONDS)
    assert "OSError" in str(error.value)


def test_a_dead_connection_ends_everything(pair: execnet.Gateway) -> None:
    channel, other = pair.remote_exec("channel.receive()"), pair.newchannel()
    waiting = [Call(channel.receive), Call(channel.waitclose), Call(other.receive, SECONDS), Call(other.waitclose)]
    killer = pair.remote_exec("import os; os._exit(7)")
    for call in [*waiting, Call(killer.waitclose), Call(killer.receive)]:
        with pytest.raises(EOFError):
            call.result()
    pair.join(SECONDS)
    for target in (channel, other):
        with pytest.raises(OSError, match=r"^cannot send \(already closed\?\): ") as error:
            target.send(1)
        assert str(error.value).count("cannot send") == 1
    with pytest.raises(OSError) as error:
        pair.reconfigure()
    assert str(error.value).count("cannot send") == 1
    assert isinstance(channel._getremoteerror(), EOFError)
    assert isinstance(pair._error, EOFError)


def test_an_unread_remote_error_of_a_dropped_channel_is_printed(
    pair: execnet.Gateway, capfd: pytest.CaptureFixture[str]
) -> None:
    channel = pair.remote_exec("raise ValueError('nobody reads this')")
    wait_until(channel.isclosed, SECONDS, "the end")
    del channel
    gc.collect()
    err = capfd.readouterr().err
    assert "Warning: unhandled RemoteError: Traceback" in err
    assert "ValueError: nobody reads this" in err


# callbacks


class Sink:
    """A callback that keeps what it gets, with the thread it is called in."""

    def __init__(self) -> None:
        self.queue: Queue[object] = Queue()
        self.threads: set[int] = set()

    def __call__(self, item: object) -> None:
        self.threads.add(threading.get_ident())
        self.queue.put(item)

    def take(self, count: int) -> list[object]:
        return [self.queue.get(timeout=SECONDS) for _ in range(count)]


def test_a_callback_gets_all_items_in_order_then_the_same_end_marker(pair: execnet.Gateway) -> None:
    sink, end = Sink(), object()
    channel = pair.remote_exec("for number in range(1000): channel.send(number)")
    assert channel.receive(SECONDS) == 0
    channel.setcallback(sink, endmarker=end)
    assert sink.take(999) == list(range(1, 1000))
    assert sink.take(1)[0] is end
    channel.waitclose(SECONDS)
    assert sink.queue.empty()


def test_a_callback_is_called_in_the_receivers_thread(pair: execnet.Gateway) -> None:
    sink = Sink()
    channel = pair.remote_exec(ECHO)
    channel.setcallback(sink)
    for number in range(10):
        channel.send(number)
    assert sink.take(10) == list(range(10))
    assert len(sink.threads) == 1
    assert threading.get_ident() not in sink.threads


def test_with_a_callback_nothing_else_receives(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec("channel.receive()")
    channel.setcallback(print)
    assert channel._items is None
    with pytest.raises(OSError):
        channel.receive()
    with pytest.raises(OSError):
        channel.receive(0)
    with pytest.raises(OSError):
        next(channel)
    with pytest.raises(OSError, match="callback already registered"):
        channel.setcallback(print)
    channel.send(1)
    channel.waitclose(SECONDS)


@pytest.mark.parametrize("end", ["closed here", "closed there", "failed there", "connection"])
def test_the_end_marker_comes_once_for_each_end(pair: execnet.Gateway, end: str, local: ModuleType) -> None:
    sink = Sink()
    sources = {"failed there": "channel.receive(); 1/0", "connection": "channel.receive(); import os; os._exit(1)"}
    channel = pair.remote_exec(sources.get(end, "channel.receive()"))
    channel.setcallback(sink, endmarker=None)
    if end == "closed here":
        channel.close()
    else:
        channel.send(1)
    assert sink.take(1) == [None]
    errors = {"failed there": local.RemoteError, "connection": EOFError}
    if end in errors:
        with pytest.raises(errors[end]):
            channel.waitclose(SECONDS)
    else:
        channel.waitclose(SECONDS)
    pair.exit()
    pair.join(SECONDS)
    assert sink.queue.empty()


def test_a_callback_stays_when_its_channel_is_dropped(pair: execnet.Gateway) -> None:
    sink = Sink()
    go = pair.newchannel()
    channel = pair.remote_exec(
        "go = channel.receive()\nfor item in go: channel.send(item)\nchannel.send(list(channel))"
    )
    channel.send(go)
    channel.setcallback(sink, endmarker="end")
    del channel
    gc.collect()
    for number in range(3):
        go.send(number)
    go.close()
    # The dropped channel has only ended its own sending: the task's iteration over it ends.
    assert sink.take(5) == [0, 1, 2, [], "end"]
    assert not pair._channelfactory._callbacks


def test_a_callback_that_fails_closes_its_channel_and_the_receiver_goes_on(pair: execnet.Gateway) -> None:
    report = pair.newchannel()
    source = """
        report = channel.receive()
        channel.send(1)
        try:
            channel.receive()
        except channel.RemoteError as error:
            report.send(str(error))
    """
    channel = pair.remote_exec(source)

    def callback(item: object) -> None:
        raise ValueError(f"can't take {item}")

    channel.setcallback(callback)
    channel.send(report)
    text = report.receive(SECONDS)
    assert text.strip().endswith("ValueError: can't take 1")
    assert 'test_channel.py"' in text
    assert channel.isclosed()
    with pytest.raises(channel.RemoteError, match="can't take 1"):
        channel.waitclose(SECONDS)
    echo = pair.remote_exec(ECHO)
    echo.send(1)
    assert echo.receive(SECONDS) == 1


def test_a_remote_callback_that_fails_is_a_remote_error_here(pair: execnet.Gateway) -> None:
    source = """
        inner = channel.gateway.newchannel()
        inner.setcallback(lambda item: 1 / item)
        channel.send(inner)
        channel.receive()
    """
    channel = pair.remote_exec(source)
    inner = channel.receive(SECONDS)
    inner.send(1)
    inner.send(0)
    with pytest.raises(inner.RemoteError, match="ZeroDivisionError"):
        inner.receive(SECONDS)
    channel.send(1)
    channel.waitclose(SECONDS)


def test_a_callback_may_send_and_close_and_set_callbacks(pair: execnet.Gateway) -> None:
    sink, other_sink = Sink(), Sink()
    channel, other = pair.remote_exec(ECHO), pair.remote_exec(ECHO)

    def callback(number: Any) -> None:
        sink(number)
        if number < 10:
            channel.send(number + 1)
        else:
            other.setcallback(other_sink, endmarker="end")
            other.send("other")
            channel.close()

    channel.setcallback(callback)
    channel.send(0)
    assert sink.take(11) == list(range(11))
    assert other_sink.take(1) == ["other"]
    channel.waitclose(SECONDS)
    other.close()
    assert other_sink.take(1) == ["end"]


def test_setcallback_on_a_channel_that_has_ended(pair: execnet.Gateway) -> None:
    sink = Sink()
    channel = pair.remote_exec("channel.send(1); channel.send(2)")
    channel.waitclose(SECONDS)
    channel.setcallback(sink, endmarker="end")
    assert sink.take(3) == [1, 2, "end"]
    assert sink.queue.empty()


# channels inside items


def test_a_channel_sent_there_and_back_is_the_same(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec("item = channel.receive()\nitem['channel'].send(42)\nchannel.send([item])")
    inner = pair.newchannel()
    channel.send({"channel": inner})
    assert inner.receive(SECONDS) == 42
    [item] = channel.receive(SECONDS)
    assert item["channel"] == inner
    assert item["channel"] is inner


def test_channels_made_there_are_usable_at_once(pair: execnet.Gateway) -> None:
    source = """
        for number in range(50):
            inner = channel.gateway.newchannel()
            channel.send((number, inner))
            inner.send(number)
            inner.send("data")
            inner.close()
    """
    channel = pair.remote_exec(source)
    ids = set()
    for number in range(50):
        sent_number, inner = channel.receive(SECONDS)
        assert (sent_number, list(inner)) == (number, [number, "data"])
        assert inner.gateway is pair
        ids.add(inner.id)
    assert len(ids) == 50
    assert all(id % 2 == 0 for id in ids)


def test_ids_made_here_are_odd(pair: execnet.Gateway) -> None:
    ids = [pair.newchannel().id for _ in range(5)]
    assert all(id % 2 == 1 for id in ids)
    assert ids == sorted(set(ids))


def test_data_sent_behind_a_channel_reaches_a_callback_set_there(pair: execnet.Gateway) -> None:
    source = """
        done = []
        inner = channel.receive()
        inner.setcallback(done.append, endmarker="end")
        while done[-1:] != ["end"]:
            inner.waitclose(20)
        channel.send(done)
    """
    channel, inner = pair.remote_exec(source), pair.newchannel()
    channel.send(inner)
    for number in range(10):
        inner.send(number)
    inner.close()
    assert channel.receive(SECONDS) == [*range(10), "end"]


def test_a_channel_through_two_gateways_is_two_channels(pair_group: execnet.Group) -> None:
    first, second = pair_group.makegateway("popen"), pair_group.makegateway("popen")
    channels = [gateway.remote_exec("channel.send(channel.id)") for gateway in (first, second)]
    assert [channel.receive(SECONDS) for channel in channels] == [channel.id for channel in channels]
    assert channels[0].gateway is first
    assert channels[1].gateway is second


@pytest.mark.parametrize(
    ("wrap", "path"),
    [
        (lambda channel: channel, ""),
        (lambda channel: [1, channel], " at [1]"),
        (lambda channel: {"a": ({channel},)}, " at ['a'][0]<element>"),
        (lambda channel: ["B" * 70_000, {channel: 1}], " at [1]<key>"),
    ],
)
def test_a_channel_goes_over_no_gateway_but_its_own(
    pair_group: execnet.Group, local: ModuleType, wrap: Any, path: str
) -> None:
    first, second = pair_group.makegateway("popen//id=first"), pair_group.makegateway("popen//id=second")
    channel = second.remote_exec(ECHO)
    with pytest.raises(local.DumpError) as error:
        channel.send(wrap(first.newchannel()))
    assert str(error.value) == (
        f"can't serialize {local.Channel}{path}: it belongs to gateway 'first', not to 'second'"
    )
    own = second.newchannel()
    channel.send([own, "nothing else was sent"])
    assert channel.receive(SECONDS) == [own, "nothing else was sent"]


def test_a_task_sends_no_channel_of_a_gateway_that_it_made(pair: execnet.Gateway) -> None:
    source = """
        import execnet
        with execnet.Group(["popen//id=inner"]) as group:
            channel.send([group["inner"].newchannel()])
    """
    channel = pair.remote_exec(source)
    with pytest.raises(
        channel.RemoteError, match=r"DumpError: .* at \[0\]: it belongs to gateway 'inner', not to 'gw0-wor"
    ):
        channel.waitclose(SECONDS)


def test_dropped_channels_are_closed_over_there(pair: execnet.Gateway) -> None:
    source = "inner = channel.receive()\ninner.waitclose(20)\nchannel.send(inner.isclosed())"
    channel, inner = pair.remote_exec(source), pair.newchannel()
    channel.send(inner)
    del inner
    gc.collect()
    assert channel.receive(SECONDS) is True


def test_dropped_channels_are_forgotten(pair: execnet.Gateway) -> None:
    for _ in range(300):
        pair.remote_exec("channel.send(1)").receive(SECONDS)
    wait_until(lambda: not pair._channelfactory.channels(), SECONDS, "no channels")
    wait_until(lambda: pair.remote_status().numchannels == 0, SECONDS, "no far channels")
    pair.newchannel()
    assert len(pair._channelfactory._queues) <= 1


# half-closed


def test_close_write_ends_the_other_sides_items_and_not_its_answers(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec("items = list(channel)\nfor item in items + ['end']: channel.send(item)")
    items = ["small", b"x" * 3_000_000, [1], "y" * 100_000, 2]
    for item in items:
        channel.send(item)
    channel.close_write()
    assert list(channel) == [*items, "end"]
    channel.waitclose(SECONDS)


def test_after_close_write_nothing_is_sent_and_the_channel_is_open(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec("go = channel.receive()\nlist(channel)\ngo.receive()\nchannel.send(channel.isclosed())")
    assert repr(channel) == f"<Channel id={channel.id} open>"
    go = pair.newchannel()
    channel.send(go)
    channel.close_write()
    assert repr(channel) == f"<Channel id={channel.id} closed for sending>"
    assert not channel.isclosed()
    for send in (channel.send, channel.makefile("w").write):
        with pytest.raises(OSError, match=rf"^cannot send to <Channel id={channel.id} closed for sending>$"):
            send("late")
    channel.close_write()
    go.send(None)
    assert channel.receive(SECONDS) is False
    channel.waitclose(SECONDS)
    assert repr(channel) == f"<Channel id={channel.id} closed>"
    channel.close_write()


def test_no_timeout_is_over_too_early(pair: execnet.Gateway) -> None:
    channel = pair.newchannel()
    for number in range(200):
        timeout = 0.001 + number / 100_000
        for wait in (channel.receive, channel.waitclose):
            began = time.monotonic()
            with pytest.raises(channel.TimeoutError):
                wait(timeout)
            assert time.monotonic() - began >= timeout


def test_close_write_of_a_closed_channel_does_nothing(pair: execnet.Gateway) -> None:
    channel, ended = pair.remote_exec(ECHO), pair.remote_exec("pass")
    ended.waitclose(SECONDS)
    channel.close()
    for each in (channel, ended):
        each.close_write()
        each.close_write()
        assert repr(each) == f"<Channel id={each.id} closed>"


def test_close_write_where_the_connection_has_ended_is_an_error(pair: execnet.Gateway) -> None:
    channel = pair.newchannel()
    pair.exit()
    pair.join(SECONDS)
    with pytest.raises(OSError, match="cannot send"):
        channel.close_write()


@pytest.mark.parametrize("has_callback", [False, True])
def test_close_after_close_write_is_told(pair: execnet.Gateway, has_callback: bool) -> None:
    source = """
        inner, has_callback = channel.receive()
        ends = []
        if has_callback:
            inner.setcallback(ends.append, endmarker="end")
        inner.waitclose(20)
        channel.send((inner.isclosed(), ends))
        channel.receive()
        try:
            inner.send(1)
        except OSError as exc:
            channel.send(str(exc))
        channel.send((channel.gateway._channelfactory._queues.get(inner.id), ends))
    """
    channel, inner = pair.remote_exec(source), pair.newchannel()
    channel.send((inner, has_callback))
    inner.close_write()
    ends = ["end"] if has_callback else []
    assert channel.receive(SECONDS) == (False, ends)
    inner.close()
    channel.send("closed")
    assert channel.receive(SECONDS) == f"cannot send to <Channel id={inner.id} closed>"
    assert channel.receive(SECONDS) == (None, ends)


def test_the_error_of_a_close_after_close_write_is_told(pair: execnet.Gateway) -> None:
    source = "inner = channel.receive()\nlist(inner)\nchannel.send(0)\nchannel.receive()\ninner.receive(0)"
    channel, inner = pair.remote_exec(source), pair.newchannel()
    channel.send(inner)
    inner.close_write()
    assert channel.receive(SECONDS) == 0
    inner.close("no more of that")
    channel.send(1)
    with pytest.raises(channel.RemoteError, match="RemoteError: no more of that"):
        channel.waitclose(SECONDS)


def test_a_task_ends_its_items_before_it_ends(pair: execnet.Gateway) -> None:
    source = "channel.send(1)\nchannel.close_write()\nother = channel.receive()\nother.send(list(channel))"
    channel, other = pair.remote_exec(source), pair.newchannel()
    assert list(channel) == [1]
    assert not channel.isclosed()
    for item in (other, "still", "sent"):
        channel.send(item)
    channel.close_write()
    assert other.receive(SECONDS) == ["still", "sent"]
    wait_until(channel.isclosed, SECONDS, "the task's end")


def test_callbacks_go_on_after_close_write(pair: execnet.Gateway) -> None:
    source = """
        import threading
        ended = threading.Event()

        def back(item):
            channel.send(item)
            if item == "end":
                ended.set()

        channel.setcallback(back, endmarker="end")
        channel.send("after" if ended.wait(20) else "no end")
    """
    received: Queue[Any] = Queue()
    channel = pair.remote_exec(source)
    channel.setcallback(received.put, endmarker="over")
    for number in range(3):
        channel.send(number)
    channel.close_write()
    assert [received.get(timeout=SECONDS) for _ in range(6)] == [0, 1, 2, "end", "after", "over"]


def test_a_half_closed_channel_is_the_same_when_it_is_sent_again(pair: execnet.Gateway) -> None:
    source = "inner = channel.receive()\nlist(inner)\nchannel.send(0)\nchannel.send(channel.receive() is inner)"
    channel, inner = pair.remote_exec(source), pair.newchannel()
    channel.send(inner)
    inner.close_write()
    assert channel.receive(SECONDS) == 0
    channel.send(inner)
    assert channel.receive(SECONDS) is True


def test_half_closed_channels_are_forgotten_when_they_are_dropped(pair: execnet.Gateway) -> None:
    for _ in range(20):
        channel = pair.remote_exec("list(channel)\nchannel.setcallback(id, endmarker=0)\nchannel.close_write()")
        channel.setcallback(id, endmarker=0)
        channel.close_write()
        channel.waitclose(SECONDS)
    del channel
    gc.collect()
    wait_until(lambda: pair.remote_status().numchannels == 0, SECONDS, "no far channels")
    wait_until(lambda: not pair._channelfactory._queues, SECONDS, "no channels")
    told = pair.remote_exec("channel.send(len(channel.gateway._channelfactory._queues))")
    assert told.receive(SECONDS) == 1


def test_dropping_a_half_closed_channel_closes_it_over_there(pair: execnet.Gateway) -> None:
    source = """
        inner = channel.receive()
        list(inner)
        channel.send("its items have ended")
        channel.receive()
        channel.send(inner.isclosed())
    """
    channel, inner = pair.remote_exec(source), pair.newchannel()
    channel.send(inner)
    inner.close_write()
    assert channel.receive(SECONDS) == "its items have ended"
    del inner
    gc.collect()
    channel.send(1)
    assert channel.receive(SECONDS) is True


def test_a_half_closed_channel_ends_with_the_connection(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec("channel.close_write()\nchannel.receive()")
    assert list(channel) == []
    pair.exit()
    pair.join(SECONDS)
    assert not pair._channelfactory._queues
    channel.close()


# string types


def test_reconfigure_of_one_channel_reaches_both_sides(pair: execnet.Gateway) -> None:
    channel, plain = pair.remote_exec(ECHO), pair.remote_exec(ECHO)
    channel.reconfigure(py2str_as_py3str=False, py3str_as_py2str=True)
    assert channel._strconfig == (False, True)
    assert plain._strconfig == (True, False)
    for each, expected in ((channel, b"text"), (plain, "text")):
        each.send("text")
        assert each.receive(SECONDS) == expected


def test_reconfigure_of_the_gateway_is_for_later_channels(pair: execnet.Gateway) -> None:
    before = pair.remote_exec(ECHO)
    pair.reconfigure(py3str_as_py2str=True)
    after = pair.remote_exec("channel.send((channel._strconfig, channel.gateway._strconfig))")
    assert (before._strconfig, after._strconfig) == ((True, False), (True, True))
    assert after.receive(SECONDS) == ((True, True), (True, True))
    before.send("text")
    assert before.receive(SECONDS) == "text"
    pair.reconfigure()
    assert pair._strconfig == (True, False)


# files


def test_writing_to_a_file_sends(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec(ECHO)
    file = channel.makefile()
    assert (file.isatty(), repr(file)) == (False, f"<{type(file).__name__} {channel.id} open>")
    file.write("some ")
    file.write("text")
    file.flush()
    assert [channel.receive(SECONDS), channel.receive(SECONDS)] == ["some ", "text"]
    file.close()
    assert not channel.isclosed()
    channel.makefile("w", proxyclose=True).close()
    assert channel.isclosed()
    with pytest.raises(OSError):
        file.write("more")


def test_a_file_can_be_standard_output(pair: execnet.Gateway) -> None:
    source = """
        import sys
        sys.stdout = channel.makefile("w")
        print("printed over there")
        sys.stdout = sys.__stdout__
    """
    assert "".join(pair.remote_exec(source)) == "printed over there\n"
    channel = pair.remote_exec(ECHO)
    stdout, sys.stdout = sys.stdout, channel.makefile("w")
    try:
        print("printed here", 1)
    finally:
        sys.stdout = stdout
    assert "".join(channel.receive(SECONDS) for _ in range(4)) == "printed here 1\n"


@pytest.mark.parametrize(("newline", "empty"), [("\n", ""), (b"\n", b"")])
def test_reading_from_a_file_receives(pair: execnet.Gateway, newline: Any, empty: Any) -> None:
    def text(string: str) -> Any:
        return string if isinstance(newline, str) else string.encode()

    channel = pair.remote_exec("for item in channel.receive(): channel.send(item)")
    channel.send([text(part) for part in ("first", " line\nsec", "ond\n", "\n", "last")])
    file = channel.makefile("r", proxyclose=True)
    assert file.read(3) == text("fir")
    assert [file.readline() for _ in range(4)] == [text(line) for line in ("st line\n", "second\n", "\n", "last")]
    assert (file.readline(), file.read(1)) in ((empty, empty), ("", ""))
    file.close()
    assert channel.isclosed()


def test_reading_more_than_there_is_gives_what_is_there(pair: execnet.Gateway) -> None:
    file = pair.remote_exec("channel.send('ab'); channel.send('cd')").makefile("r")
    assert (file.read(3), file.read(10), file.read(10)) == ("abc", "d", "")


def test_other_modes_are_refused(pair: execnet.Gateway) -> None:
    channel: Any = pair.newchannel()
    for mode in ("rw", "a", "x", ""):
        with pytest.raises(ValueError, match="mode"):
            channel.makefile(mode)


# subclasses and names


def test_channels_have_the_class_and_names_that_programs_use(pair: execnet.Gateway, local: ModuleType) -> None:
    channel = pair.newchannel()
    assert isinstance(channel, local.Channel)
    assert (channel.RemoteError, channel.TimeoutError) == (local.RemoteError, local.TimeoutError)
    assert local.Channel._INTERNALWAKEUP == 1000
    assert repr(channel) == f"<Channel id={channel.id} open>"
    assert pair._channelfactory._channels[channel.id] is channel
    assert channel.id in pair._channelfactory._channels


def test_a_class_attribute_can_be_replaced_while_gateways_live(
    pair: execnet.Gateway, local: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local.Channel, "_INTERNALWAKEUP", 0.01)
    sent: list[object] = []
    original: Callable[..., None] = local.Channel.send

    def send(self: Any, item: object) -> None:
        sent.append(item)
        original(self, item)

    monkeypatch.setattr(local.Channel, "send", send)
    channel = pair.remote_exec(ECHO)
    channel.send(1)
    assert channel.receive() == 1
    channel.makefile().write("x")
    assert channel.receive() == "x"
    assert sent == [1, "x"]


# what interrupts


class Stop(Exception):
    """What a handler raises."""


def stop() -> None:
    raise Stop


def echo(channel: Any, item: object) -> None:
    channel.send(item)
    assert channel.receive(SECONDS) == item


def make_and_close(gateway: Any) -> None:
    channel = gateway.newchannel()
    channel.close()
    assert channel.isclosed()


def set_a_callback(gateway: Any) -> None:
    channel = gateway.remote_exec("channel.send(1); channel.send(2)")
    items: list[object] = []
    channel.waitclose(SECONDS)
    channel.setcallback(items.append, endmarker=None)
    assert items == [1, 2, None]


OPERATIONS = {
    "send and receive": lambda gateway, channel: echo(channel, 1),
    "send and receive what is large": lambda gateway, channel: echo(channel, b"x" * 300_000),
    "new and close": lambda gateway, channel: make_and_close(gateway),
    "drop": lambda gateway, channel: gateway.newchannel() and None,
    "status": lambda gateway, channel: gateway.remote_status(),
    "callback": lambda gateway, channel: set_a_callback(gateway),
    "execute": lambda gateway, channel: gateway.remote_exec("pass").waitclose(SECONDS),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_interrupts_anywhere_may_use_the_gateway(local_pair: execnet.Gateway, operation: str) -> None:
    channel, other = local_pair.remote_exec(ECHO), local_pair.remote_exec(ECHO)

    def handler() -> None:
        echo(other, b"x" * 70_000)
        make_and_close(local_pair)

    interrupted = at_every_opcode(lambda: OPERATIONS[operation](local_pair, channel), handler)
    assert interrupted > 10 or local_pair._connection is not None  # the C core may do all of it without Python


def test_an_exception_of_a_handler_out_of_receive_loses_no_item(local_pair: execnet.Gateway) -> None:
    channel = local_pair.remote_exec(ECHO)
    for number in range(2000):
        interruption = Interruption(number, stop)
        channel.send(number)
        if number % 2:
            assert local_pair.remote_status().numexecuting == 1  # the item is here when the answer is
        try:
            item = interruption.during(lambda: channel.receive(SECONDS))
        except Stop:
            item = channel.receive(SECONDS)
        assert item == number
        if not interruption.happened:
            break
    else:
        raise AssertionError("never received without being interrupted")


@pytest.mark.parametrize("size", [1, 200_000])
def test_an_exception_of_a_handler_out_of_send_leaves_no_half_message(local_pair: execnet.Gateway, size: int) -> None:
    channel, number = local_pair.remote_exec(ECHO), 0
    interruption = Interruption(0, stop)
    while interruption.happened or not number:
        interruption = Interruption(number, stop)
        with suppress(Stop):
            interruption.during(lambda: channel.send(b"x" * size))
        channel.send("end")
        received = [channel.receive(SECONDS)]
        while received[-1] != "end":
            received.append(channel.receive(SECONDS))
        assert received in ([b"x" * size, "end"], ["end"])
        number += 1


@pytest.mark.parametrize("operation", ["new and close", "drop", "status", "execute"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_exception_of_a_handler_leaves_a_gateway_that_works(local_pair: execnet.Gateway, operation: str) -> None:
    channel = local_pair.remote_exec(ECHO)
    interruption, number = Interruption(0, stop), 0
    while interruption.happened or not number:
        interruption = Interruption(number, stop)
        with suppress(Stop):
            interruption.during(lambda: OPERATIONS[operation](local_pair, channel))
        echo(channel, number)
        number += 1


def test_an_exception_of_a_handler_out_of_close_write_leaves_it_told_or_undone(local_pair: execnet.Gateway) -> None:
    interruption, number = Interruption(0, stop), 0
    while interruption.happened or not number:
        interruption = Interruption(number, stop)
        channel = local_pair.remote_exec("channel.send(list(channel))")
        channel.send(number)
        with suppress(Stop):
            interruption.during(channel.close_write)
        if channel._queue.write_closed:
            with pytest.raises(OSError, match=r"^cannot send to <Channel id=\d+ closed"):
                channel.send("late")
        channel.close_write()
        assert channel.receive(SECONDS) == [number]
        number += 1


def test_a_callback_that_raises_for_what_waits_is_not_set(pair: execnet.Gateway) -> None:
    source = """
        mark = channel.receive()
        for number in range(4):
            channel.send(number)
        mark.send(None)
        channel.receive()
    """
    channel, mark = pair.remote_exec(source), pair.newchannel()
    channel.send(mark)
    assert mark.receive(SECONDS) is None  # sent last: all others have come
    assert channel.receive(SECONDS) == 0
    with pytest.raises(ZeroDivisionError):
        channel.setcallback(lambda item: 1 // (item - 1))
    assert channel._items is not None
    channel.send(None)
    assert list(channel) == [2, 3]


def test_no_item_is_lost_between_the_queue_and_the_callback(pair: execnet.Gateway) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(40):
            sink = Sink()
            channel = pair.remote_exec("for number in range(200): channel.send(number)")
            assert channel.receive(SECONDS) == 0
            channel.setcallback(sink, endmarker="end")
            assert sink.take(200) == [*range(1, 200), "end"]
            assert sink.queue.empty()
    finally:
        sys.setswitchinterval(interval)


def test_callbacks_of_one_channel_are_called_one_after_the_other(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec("channel.receive(); channel.send(1); channel.send(2); channel.receive()")
    go, calls = threading.Event(), []

    def callback(item: object) -> None:
        calls.append(item)
        if item == 1:
            go.wait(SECONDS)
        calls.append(item)

    channel.setcallback(callback, endmarker="end")
    channel.send(None)
    wait_until(lambda: calls, SECONDS, "a call")
    channel.close()
    go.set()
    wait_until(lambda: calls[-2:] == ["end", "end"], SECONDS, "the end marker")
    assert calls in ([1, 1, "end", "end"], [1, 1, 2, 2, "end", "end"])


def test_the_end_marker_comes_though_the_callback_fails_after_the_close(pair: execnet.Gateway) -> None:
    channel = pair.remote_exec("channel.receive(); channel.send(1); channel.receive()")
    closed, calls = threading.Event(), []

    def callback(item: object) -> None:
        calls.append(item)
        if item == 1:
            closed.wait(SECONDS)
            raise ValueError("too late")

    channel.setcallback(callback, endmarker="end")
    channel.send(None)
    wait_until(lambda: calls, SECONDS, "a call")
    channel.close()
    closed.set()
    wait_until(lambda: calls == [1, "end"], SECONDS, "the end marker")


# settled, then told


def test_a_task_whose_channel_was_closed_does_not_count_any_more(pair: execnet.Gateway) -> None:
    for _ in range(200):
        pair.remote_exec("pass").waitclose(SECONDS)
        assert pair.remote_status().numexecuting == 0


def test_a_failed_callbacks_channel_is_closed_when_the_other_side_hears_of_it(pair: execnet.Gateway) -> None:
    source = """
        while True:
            inner = channel.gateway.newchannel()
            inner.setcallback(lambda item: 1 / item)
            channel.send(inner)
            channel.receive()
            channel.send(inner.isclosed())
    """
    channel = pair.remote_exec(source)
    for _ in range(50):
        inner = channel.receive(SECONDS)
        inner.send(0)
        with pytest.raises(inner.RemoteError):
            inner.receive(SECONDS)
        channel.send(None)
        assert channel.receive(SECONDS) is True


def test_a_request_that_cannot_be_executed_is_answered_and_the_worker_goes_on(
    pair: execnet.Gateway, local: ModuleType
) -> None:
    base = local.gateway_base
    tasks = [("pass",), ("pass", None, None, {}, None), (1, None, None, {}), ("pass", 1, None, {}), 5, None]
    requests = [b"", b"\xff", *map(base.dumps_internal, [*tasks, ("f = 1", None, "g", {}), ("f = 1", None, "f", 2)])]
    for request in requests:
        channel = pair.newchannel()
        pair._send(base.Message.CHANNEL_EXEC, channel.id, request)
        with pytest.raises(local.RemoteError):
            channel.receive(SECONDS)
    assert pair.remote_status().numexecuting == 0
    echo(pair.remote_exec(ECHO), 1)
