"""What is written to standard output before a gateway is up is skipped, and shown."""

from __future__ import annotations

import os
import re
import sys
import warnings
from io import BytesIO
from pathlib import Path

import pytest
from support.sshd import SshServer

import execnet
from execnet import gateway_base, gateway_bootstrap, gateway_io
from execnet._process import noise as gateway_noise
from execnet.gateway_bootstrap import GatewayStartError
from execnet.xspec import XSpec

SECONDS = 20.0
ANSWER = gateway_base.ANSWER
NOISES = {
    "a line": b"hello from sitecustomize\n",
    "the byte": b"1",
    "the byte, often": b"1" * 100,
    "lines of it": b"1\n11\n1\n",
    "it begins so": b"1 file was left\n",
    "most of the answer": ANSWER[:-1],
    "parts of the answer": b"".join(ANSWER[:size] for size in range(len(ANSWER))),
    "all bytes": bytes(range(256)) * 2,
    "as much as may be": b"x1" * (gateway_noise.NOISE_SIZE // 2),
}


def customize(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Have each interpreter that starts run the text first."""
    (folder / "sitecustomize.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


def works(gateway: execnet.Gateway) -> bool:
    """Whether code runs there, and values go both ways."""
    channel = gateway.remote_exec("channel.send(channel.receive() * 2)")
    channel.send(21)
    return bool(channel.receive(SECONDS) == 42)


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("kind", ["popen", f"popen//python={sys.executable}", "popen//via=master"])
def test_noise_is_skipped_and_shown(
    group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: bytes, kind: str
) -> None:
    (tmp_path / "noise").write_bytes(noise)
    customize(tmp_path, monkeypatch, f"import os; os.write(1, open({str(tmp_path / 'noise')!r}, 'rb').read())")
    if "via" in kind:
        with pytest.warns(RuntimeWarning, match="id=master"):
            group.makegateway("popen//id=master")
    with pytest.warns(RuntimeWarning) as caught:
        gateway = group.makegateway(kind)
    assert works(gateway)
    (warning,) = caught
    shown = repr(noise[: gateway_noise.NOISE_SHOWN].decode("utf-8", "backslashreplace"))
    assert f"gateway {kind!r}: before it was ready" in str(warning.message) and shown in str(warning.message)
    assert warning.filename == __file__


def test_both_cores(pair_group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    customize(tmp_path, monkeypatch, "print('1', end='', flush=True)")
    with pytest.warns(RuntimeWarning, match="had '1'$"):
        assert works(pair_group.makegateway("popen"))


def test_noise_that_comes_in_pieces(group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    customize(tmp_path, monkeypatch, "import os, time\nfor _ in range(5): os.write(1, b'1'); time.sleep(0.1)")
    with pytest.warns(RuntimeWarning, match="had '11111'$"):
        assert works(group.makegateway("popen"))


def test_a_step_of_the_start_that_somebody_wrapped_tells_it_once(
    group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    customize(tmp_path, monkeypatch, "print('hello')")
    own = gateway_bootstrap.bootstrap_exec
    monkeypatch.setattr(gateway_bootstrap, "bootstrap_exec", lambda io, spec: own(io, spec))
    with pytest.warns(RuntimeWarning) as caught:
        assert works(group.makegateway(f"popen//python={sys.executable}"))
    assert len(caught) == 1


def test_several_at_once(group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    customize(tmp_path, monkeypatch, "print('hello')")
    with pytest.warns(RuntimeWarning) as caught:
        gateways = group.makegateways([f"popen//id=g{number}" for number in range(3)])
    assert [re.findall("id=g[0-9]", str(warning.message)) for warning in caught] == [[f"id=g{n}"] for n in range(3)]
    assert all(map(works, gateways))


@pytest.mark.parametrize("kind", ["ssh", "vagrant_ssh"])
def test_what_a_far_shell_says(
    group: execnet.Group, ssh_server: SshServer, request: pytest.FixtureRequest, kind: str
) -> None:
    python = f"printf 'Welcome to 1\\n\\n1'; {sys.executable}"
    if kind == "ssh":
        spec = ssh_server.spec(python=python)
    else:
        spec = f"vagrant_ssh={request.getfixturevalue('vagrant')}//ssh_config={ssh_server.config}//python={python}"
    with pytest.warns(RuntimeWarning, match=r"had 'Welcome to 1\\n\\n1'$"):
        assert works(group.makegateway(spec))


def test_a_warning_that_is_an_error_leaves_nothing(
    group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    customize(tmp_path, monkeypatch, "print('hello')")
    with warnings.catch_warnings(), pytest.raises(RuntimeWarning, match="hello"):
        warnings.simplefilter("error")
        group.makegateways(["popen"] * 2)
    assert len(group) == 0 and not group._membership.places


def test_more_than_may_be_is_an_error(group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    customize(tmp_path, monkeypatch, "print('x' * 70000, flush=True)")
    with pytest.raises(GatewayStartError, match="it wrote 'xxx") as caught:
        group.makegateway("popen")
    assert len(caught.value.output) > gateway_noise.NOISE_SIZE


def test_noise_of_one_that_ends_is_in_the_error(group: execnet.Group) -> None:
    with pytest.raises(GatewayStartError, match=r"exited with status 3 .*it wrote '1, 2, 3\\n1'") as caught:
        group.makegateway("popen//python=sh -c 'echo 1, 2, 3; printf 1; exit 3'")
    assert caught.value.output == b"1, 2, 3\n1"


@pytest.mark.parametrize("via", ["", "//via=master"])
def test_silence_after_noise_is_not_waited_for(group: execnet.Group, monkeypatch: pytest.MonkeyPatch, via: str) -> None:
    group.makegateway("popen//id=master")
    monkeypatch.setattr(gateway_io.Popen2IOMaster, "quiet_time", 0.1)
    monkeypatch.setattr(gateway_io.ProxyIO, "quiet_time", 0.1)
    with pytest.raises(GatewayStartError, match=r"gave no answer .*it wrote 'hello'"):
        group.makegateway(f"popen{via}//python=sh -c 'printf hello; exec sleep 1000'")


def test_who_sets_a_limit_is_waited_for_as_long(
    group: execnet.Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_io.Popen2IOMaster, "quiet_time", 0.1)
    customize(tmp_path, monkeypatch, "import time; print('hello', flush=True); time.sleep(0.5)")
    with pytest.warns(RuntimeWarning, match="hello"):
        assert works(group.makegateway("popen//timeout=20"))


def test_without_noise_nothing_is_said_and_one_read_is_all(
    group: execnet.Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, original = [], os.read

    def counted(descriptor: int, size: int) -> bytes:
        data = original(descriptor, size)
        reads.append((size, data))
        return data

    monkeypatch.setattr(os, "read", counted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gateway = group.makegateway("popen")
    monkeypatch.undo()
    assert [data for size, data in reads if size <= len(ANSWER)] == [ANSWER] and works(gateway)


# other ends


class PlainIO:
    """An io of a program's own: only what bootstrap() was always told to need."""

    def __init__(self, io: gateway_io.Popen2IOMaster) -> None:
        self._io = io
        self.execmodel = io.execmodel
        self.read, self.write, self.wait, self.kill = io.read, io.write, io.wait, io.kill
        self.close_read, self.close_write = io.close_read, io.close_write


@pytest.fixture
def spec() -> XSpec:
    """A spec as a group completes it."""
    spec = XSpec("popen//id=one//execmodel=thread")
    return spec


def test_an_io_that_can_only_read_and_write(local: object, spec: XSpec) -> None:
    io = gateway_io.Popen2IOMaster(gateway_io.popen_args(spec), gateway_base.get_execmodel("thread"))
    gateway = gateway_bootstrap.bootstrap(PlainIO(io), spec)
    assert works(gateway)
    gateway.exit()
    gateway.join(SECONDS)
    assert io.wait() == 0


@pytest.mark.parametrize("via", ["", "//via=master"])
def test_a_far_side_that_answers_with_the_one_byte(
    group: execnet.Group, monkeypatch: pytest.MonkeyPatch, via: str
) -> None:
    group.makegateway("popen//id=master")
    for io in (gateway_io.Popen2IOMaster, gateway_io.ProxyIO):
        monkeypatch.setattr(io, "quiet_time", 0.3)
    text = gateway_bootstrap.POPEN_START.replace("answer(io)", "io.write(b'1')")
    monkeypatch.setattr(gateway_bootstrap, "POPEN_START", text)
    assert works(group.makegateway(f"popen{via}"))


def test_the_answer_begins_with_its_byte_and_is_otherwise_a_message_that_means_nothing() -> None:
    assert ANSWER[:1] == gateway_noise.ACCEPTED == b"1"
    message = gateway_base.Message.from_io(BytesIO(ANSWER[1:]))
    assert repr(message) == "<Message CHANNEL_LAST_MESSAGE channel=0 lendata=0>"


class Pieces:
    """An io whose input comes in pieces; never more than was asked for."""

    quiet_time = 1.0
    noise = b""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def receive(self, count: int, seconds: float | None) -> bytes:
        chunk, self.data = self.data[:count], self.data[count:]
        return chunk


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("behind", [b"", b"\x04\0\0"])
def test_nothing_behind_the_answer_is_read(noise: bytes, behind: bytes) -> None:
    io = Pieces(noise + ANSWER + behind)
    assert gateway_noise.await_answer(io, io.receive) == b"1"
    assert (io.noise, io.data) == (noise, behind)
