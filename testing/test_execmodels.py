"""The four execution models on both sides: exchange, callbacks, concurrency, termination."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import execnet
from execnet.gateway_base import MAIN_THREAD_ONLY_DEADLOCK_TEXT

MODELS = ["thread", "main_thread_only", "gevent", "eventlet"]
SECONDS = 20
TERMINATE_SECONDS = 5.0


@pytest.fixture(params=MODELS)
def local_model(request: pytest.FixtureRequest) -> str:
    model: str = request.param
    return model


@pytest.fixture(params=MODELS)
def remote_model(request: pytest.FixtureRequest) -> str:
    model: str = request.param
    return model


@pytest.fixture
def model_group(local_model: str, remote_model: str) -> Iterator[execnet.Group]:
    """A group with each local model, whose gateways have each remote model."""
    group = execnet.Group()
    group.set_execmodel(local_model, remote_model)
    yield group
    group.terminate(TERMINATE_SECONDS)


@pytest.fixture
def gateway(model_group: execnet.Group) -> execnet.Gateway:
    return model_group.makegateway("popen")


def test_both_sides_have_the_model_asked_for(gateway: execnet.Gateway, local_model: str, remote_model: str) -> None:
    assert gateway.execmodel.backend == local_model
    assert gateway.remote_status().execmodel == remote_model
    source = "channel.send(channel.gateway.execmodel.backend)"
    assert gateway.remote_exec(source).receive(SECONDS) == remote_model


def test_items_go_back_and_forth(gateway: execnet.Gateway) -> None:
    channel = gateway.remote_exec("for item in channel: channel.send(item + 1)")
    for number in range(20):
        channel.send(number)
        assert channel.receive(SECONDS) == number + 1


def test_large_items_go_back_and_forth(gateway: execnet.Gateway) -> None:
    channel = gateway.remote_exec("channel.send(channel.receive())")
    item = bytes(range(256)) * (1 << 12)
    channel.send(item)
    assert channel.receive(SECONDS) == item
    channel.waitclose(SECONDS)


def test_a_receive_with_timeout_ends_in_time(gateway: execnet.Gateway) -> None:
    channel = gateway.remote_exec("channel.receive()")
    with pytest.raises(channel.TimeoutError):
        channel.receive(timeout=0.05)
    channel.send(1)
    channel.waitclose(SECONDS)


def test_callbacks_get_all_items_and_the_endmarker(gateway: execnet.Gateway) -> None:
    items = gateway.execmodel.queue.Queue()
    end = object()
    channel = gateway.remote_exec("for number in range(10): channel.send(number)")
    channel.setcallback(items.put, endmarker=end)
    assert [items.get(timeout=SECONDS) for _ in range(10)] == list(range(10))
    assert items.get(timeout=SECONDS) is end
    channel.waitclose(SECONDS)


def test_remote_callbacks_run_while_a_task_waits(gateway: execnet.Gateway) -> None:
    source = """
        done = channel.gateway.execmodel.Event()
        def seen(item):
            channel.send(item * 2)
            if item == 3:
                done.set()
        channel.setcallback(seen)
        done.wait(20)
        """
    channel = gateway.remote_exec(source)
    for item in (1, 2, 3):
        channel.send(item)
    assert [channel.receive(SECONDS) for _ in range(3)] == [2, 4, 6]
    channel.waitclose(SECONDS)


def test_errors_arrive(gateway: execnet.Gateway) -> None:
    channel = gateway.remote_exec("raise LookupError('there')")
    with pytest.raises(execnet.RemoteError, match="LookupError: there"):
        channel.waitclose(SECONDS)


def test_tasks_run_side_by_side_where_the_model_allows_it(gateway: execnet.Gateway, remote_model: str) -> None:
    first = gateway.remote_exec("channel.send(channel.receive())")
    second = gateway.remote_exec("channel.send(2)")
    if remote_model == "main_thread_only":
        with pytest.raises(execnet.RemoteError) as caught:
            second.receive(SECONDS)
        assert str(caught.value) == MAIN_THREAD_ONLY_DEADLOCK_TEXT
    else:
        assert second.receive(SECONDS) == 2
    first.send(1)
    assert first.receive(SECONDS) == 1
    first.waitclose(SECONDS)


def test_terminate_ends_idle_and_waiting_workers(model_group: execnet.Group) -> None:
    gateways = [model_group.makegateway("popen") for _ in range(2)]
    gateways[0].remote_exec("channel.receive()")
    model_group.terminate(TERMINATE_SECONDS)
    assert len(model_group) == 0
    assert all(gateway._io.popen.returncode is not None for gateway in gateways)
    assert not any(gateway.hasreceiver() for gateway in gateways)


def test_a_gateway_can_be_reached_through_another(model_group: execnet.Group) -> None:
    model_group.makegateway("popen//id=master")
    sub = model_group.makegateway("popen//via=master")
    assert sub.remote_exec("channel.send(7)").receive(SECONDS) == 7
