"""Gateways over sockets, against the real socket server in its own process."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from support.interpreters import Interpreter
from support.socketserver import SocketServer

import execnet
from execnet import gateway_base, gateway_socket
from execnet.gateway_bootstrap import GatewayStartError
from execnet.gateway_socket import SocketIO

MakeGateway = Callable[..., execnet.Gateway]
SECONDS = 10.0


@pytest.fixture
def pair() -> Iterator[tuple[SocketIO, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(SECONDS)
        yield SocketIO(ours, gateway_base.get_execmodel("thread")), theirs


# SocketIO


def test_read_waits_for_all_bytes_and_says_how_many_are_missing(pair: tuple[SocketIO, socket.socket]) -> None:
    io, theirs = pair
    theirs.sendall(b"abc")
    assert io.read(2) == b"ab"
    theirs.close()
    with pytest.raises(EOFError, match="expected 4 bytes, got 1"):
        io.read(4)


def test_write_writes_all(pair: tuple[SocketIO, socket.socket]) -> None:
    io, theirs = pair
    data = bytes(range(256)) * 20000
    thread = threading.Thread(target=io.write, args=(data,))
    thread.start()
    received = bytearray()
    while len(received) < len(data):
        received += theirs.recv(1 << 20)
    thread.join(SECONDS)
    assert received == data


def test_each_direction_closes_by_itself_and_both_close_the_socket(pair: tuple[SocketIO, socket.socket]) -> None:
    io, theirs = pair
    io.close_write()
    assert theirs.recv(1) == b""
    theirs.sendall(b"x")
    assert io.read(1) == b"x"
    io.close_read()
    assert io.sock.fileno() == -1
    assert io.descriptors() is None
    io.close_read()
    io.kill()


def test_a_tcp_connection_does_not_delay_small_messages() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as sock:
        SocketIO(sock, gateway_base.get_execmodel("thread"))
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# gateways


def test_a_socket_gateway(makegateway: MakeGateway, socket_server: SocketServer) -> None:
    gateway = makegateway(f"socket={socket_server.hostport}//id=far")
    assert gateway.remoteaddress == socket_server.hostport
    channel = gateway.remote_exec("channel.send((channel.receive(), channel.gateway.id))")
    channel.send(b"x" * 1000000)
    assert channel.receive(SECONDS) == (b"x" * 1000000, "far-worker")
    with pytest.raises(execnet.RemoteError, match=r"gateway_base.*\n(.*\n)*.*ZeroDivisionError"):
        gateway.remote_exec("1/0").waitclose(SECONDS)


def test_each_gateway_of_a_server_has_a_process_of_its_own(
    makegateway: MakeGateway, socket_server: SocketServer
) -> None:
    gateways = [makegateway(f"socket={socket_server.hostport}") for _ in range(3)]
    pids = {gateway._rinfo().pid for gateway in gateways}
    assert len(pids) == 3
    assert socket_server.process.pid not in pids


MODELS = pytest.mark.parametrize("model", ["thread", "main_thread_only", "gevent", "eventlet"])


@MODELS
def test_the_far_side_runs_the_model_it_is_asked_for(
    makegateway: MakeGateway, socket_server: SocketServer, model: str
) -> None:
    gateway = makegateway(f"socket={socket_server.hostport}//execmodel={model}")
    assert gateway.remote_status().execmodel == model
    channel = gateway.remote_exec("for item in channel: channel.send(item + 1)")
    for number in range(3):
        channel.send(number)
        assert channel.receive(SECONDS) == number + 1


def test_a_proxy_goes_through_a_socket_gateway(makegateway: MakeGateway, socket_server: SocketServer) -> None:
    makegateway(f"socket={socket_server.hostport}//id=far")
    gateway = makegateway("popen//via=far")
    assert gateway.remote_exec("channel.send(1)").receive(SECONDS) == 1


def test_the_end_of_the_far_process_ends_the_gateway(makegateway: MakeGateway, socket_server: SocketServer) -> None:
    gateway = makegateway(f"socket={socket_server.hostport}")
    with pytest.raises(EOFError):
        gateway.remote_exec("import os; os._exit(3)").receive(SECONDS)
    gateway.join(SECONDS)
    assert not gateway.hasreceiver()


# installvia


@MODELS
def test_one_within_another_gateway_ends_when_told(makegateway: MakeGateway, model: str) -> None:
    makegateway("popen//id=master")
    gateway = makegateway(f"socket//installvia=master//execmodel={model}")
    assert gateway.remote_exec("channel.send(1)").receive(SECONDS) == 1
    begin = time.monotonic()
    gateway.exit(wait=SECONDS)
    assert time.monotonic() - begin < SECONDS / 2


def test_installvia_serves_from_within_the_other_gateway(makegateway: MakeGateway) -> None:
    master = makegateway("popen//id=master")
    gateway = makegateway("socket//installvia=master")
    assert gateway._rinfo().pid == master._rinfo().pid
    assert gateway.remoteaddress.rpartition(":")[2].isdigit()
    assert gateway.remote_exec("channel.send(1)").receive(SECONDS) == 1
    assert master.remote_exec("channel.send(2)").receive(SECONDS) == 2


def test_installvia_any_interpreter(makegateway: MakeGateway, other_python: Interpreter) -> None:
    makegateway(f"popen//id=master//python={other_python}")
    gateway = makegateway("socket//installvia=master")
    assert gateway._rinfo().version_info[:2] == other_python.version
    channel = gateway.remote_exec("channel.send(channel.receive() + 1)")
    channel.send(1)
    assert channel.receive(SECONDS) == 2


def test_start_via_listens_where_it_is_told(gw: execnet.Gateway) -> None:
    host, port = gateway_socket.start_via(gw, ("127.0.0.1", 0))
    assert host == "127.0.0.1"
    with socket.create_connection((host, port), timeout=SECONDS) as sock:
        sock.sendall(b"'clientsock.sendall(b\"done\")'\n")
        assert sock.makefile("rb").read() == b"done"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="has one address of its own")
def test_installvia_listens_where_the_machine_was_reached(makegateway: MakeGateway) -> None:
    with closing(SocketServer(host="127.0.0.2")) as server:
        makegateway(server.spec(id="far"))
        makegateway("popen//via=far//id=behind")
        for master in ("far", "behind"):
            gateway = makegateway(f"socket//installvia={master}")
            assert gateway.remoteaddress.startswith("127.0.0.2:")
            assert gateway.remote_exec("channel.send(1)").receive(SECONDS) == 1


def test_installvia_an_unknown_gateway(makegateway: MakeGateway) -> None:
    with pytest.raises(KeyError, match="nobody"):
        makegateway("socket//installvia=nobody")


# start errors


def test_an_unknown_host_is_not_found(group: execnet.Group) -> None:
    with pytest.raises(execnet.HostNotFound, match=r"host\.invalid.*socket=host\.invalid:1"):
        group.makegateway("socket=host.invalid:1")
    assert len(group) == 0


@pytest.mark.parametrize("spec", ["socket=localhost", "socket=localhost:", "socket", "socket=localhost:port"])
def test_an_address_without_port_is_refused(group: execnet.Group, spec: str) -> None:
    with pytest.raises(ValueError, match=spec):
        group.makegateway(spec)


def test_a_port_that_nobody_listens_on(group: execnet.Group) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    spec = f"socket=127.0.0.1:{port}//id=x"
    with pytest.raises(ConnectionRefusedError, match=spec):
        group.makegateway(spec)
    assert len(group) == 0


@pytest.mark.parametrize(
    ("answer", "said"), [(b"", "no answer"), (b"HTTP/1.1 400 Bad Request\r\n", "HTTP/1.1 400 Bad Request")]
)
def test_a_server_that_is_none_of_ours(group: execnet.Group, answer: bytes, said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(10)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        spec = f"socket=127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(GatewayStartError) as caught:
            group.makegateway(spec)
        thread.join(SECONDS)
    assert spec in str(caught.value)
    assert said in str(caught.value)
