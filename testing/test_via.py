"""Starts through another gateway that fail: told as those of a direct start are, and about as soon."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support import interpreters
from support.interpreters import Interpreter

import execnet
from execnet.gateway_bootstrap import GatewayStartError

SECONDS = 20.0
SLACK = 5.0  # how much longer than a direct start, which takes half a second to a second, where three run on two CPUs

READS_NO_MORE = {
    "from the start": "exec 0<&-; exec sleep 1000",
    "after the start text": "read line; exec 0<&-; exec sleep 1000",
    "after a while": "sleep 0.3; exec 0<&-; exec sleep 1000",
    "and has closed its output": "exec 0<&- 1>&-; exec sleep 1000",
    "and has said something else": "printf hello; exec 0<&-; exec sleep 1000",
    "and has said half of the answer": "printf '11\\7\\0\\0'; exec 0<&-; exec sleep 1000",
}


def script(folder: Path, text: str) -> Path:
    """A program that is no interpreter."""
    path = folder / "script"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def failed_start(group: execnet.Group, spec: str) -> tuple[GatewayStartError, float]:
    """The error of a start, and the seconds it took."""
    began = time.monotonic()
    with pytest.raises(GatewayStartError) as caught:
        group.makegateway(spec)
    return caught.value, time.monotonic() - began


@pytest.mark.parametrize("text", READS_NO_MORE.values(), ids=READS_NO_MORE)
def test_a_program_that_reads_no_more_gets_the_error_of_a_direct_start(
    group: execnet.Group, tmp_path: Path, text: str
) -> None:
    group.makegateway("popen//id=master")
    spec = f"popen//python={script(tmp_path, text)}"
    direct, seconds = failed_start(group, f"{spec}//id=one")
    proxied, proxied_seconds = failed_start(group, f"{spec}//id=one//via=master")
    # Only what a local process writes to its standard error is kept while it starts.
    told, _, place = str(proxied).partition("; its stderr went to")
    assert told == str(direct).replace("//id=one", "//id=one//via=master") and place
    assert (proxied.returncode, proxied.output) == (direct.returncode, direct.output)
    assert proxied_seconds < seconds + SLACK
    assert group["master"].remote_status().numexecuting == 0


@pytest.mark.parametrize("model", ["thread", "main_thread_only", "gevent", "eventlet"])
def test_a_master_of_any_model_tells_it(group: execnet.Group, tmp_path: Path, model: str) -> None:
    group.makegateway(f"popen//id=master//execmodel={model}")
    program = script(tmp_path, READS_NO_MORE["after the start text"])
    error, seconds = failed_start(group, f"popen//python={program}//via=master")
    assert "gave no answer" in str(error) and seconds < 1.0 + SLACK


@pytest.mark.parametrize("python", interpreters.found(), ids=lambda python: python.name)
def test_a_master_of_any_python_tells_it(group: execnet.Group, tmp_path: Path, python: Interpreter) -> None:
    group.makegateway(f"popen//id=master//python={python}")
    program = script(tmp_path, READS_NO_MORE["after the start text"])
    error, seconds = failed_start(group, f"popen//python={program}//via=master")
    assert "gave no answer" in str(error) and seconds < 1.0 + SLACK


MEANS_NOTHING = r"\7" + 8 * r"\0"


@pytest.mark.parametrize("via", ["", "//via=master"])
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("printf '1'; exit 3", "exited with status 3"),
        ("printf '1\\0\\0\\0'; exit 3", "exited with status 3; in the middle of a message"),
        ("printf '1\\4\\0\\0\\0\\1\\0\\0\\0\\11xx'; exit 3", "in the middle of a message: expected 9 bytes, got 2"),
        ("printf '1zzzzzzzzzz'; exec sleep 1000", "connection given up: LoadError: not a message header"),
        ("printf '1'; exec 1>&-; exec sleep 1000", "has closed the connection"),
    ],
    ids=["dies", "dies in a header", "dies in a message", "says no message", "closes its output"],
)
def test_a_program_that_answers_and_is_no_worker_ends_the_gateway(
    group: execnet.Group, tmp_path: Path, text: str, told: str, via: str
) -> None:
    group.makegateway("popen//id=master")
    # The start text is read, so that the answer is what decides: its byte, and the message that means nothing.
    program = script(tmp_path, f"read line; {text}".replace("'1", f"'1{MEANS_NOTHING}"))
    gateway = group.makegateway(f"popen//python={program}{via}")
    with pytest.raises((EOFError, OSError), match=told):  # OSError: the end was there before the channel
        gateway.newchannel().receive(SECONDS)
    group.terminate(0.2)


@pytest.mark.parametrize("via", ["", "//via=master"])
@pytest.mark.parametrize("said", ["1", "1hello", r"1\4\0\0\0\1"])
def test_a_program_that_says_the_byte_and_ends_did_not_start(
    group: execnet.Group, tmp_path: Path, said: str, via: str
) -> None:
    group.makegateway("popen//id=master")
    program = script(tmp_path, f"read line; printf '{said}'; exit 3")
    with pytest.raises(GatewayStartError, match=r"exited with status 3 .*it wrote '1"):
        group.makegateway(f"popen//python={program}{via}")


def test_what_cannot_be_sent_to_the_master_fails_at_once_and_leaves_it_free(group: execnet.Group) -> None:
    master = group.makegateway("popen//id=master//execmodel=main_thread_only")
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(execnet.DumpError) as kept:  # and with it all that a garbage collection would find
            group.makegateway("popen//via=master//python=\udc80")
    assert time.monotonic() - began < SLACK
    assert master.remote_exec("channel.send(1)").receive(SECONDS) == 1
    assert group.makegateway("popen//via=master").remote_exec("channel.send(1)").receive(SECONDS) == 1
    assert kept.value is not None
