"""What a local process writes to its standard error while it starts: shown, and told by the error of a failed start."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.blocked import Call
from support.processes import wait_until
from support.terminal import Terminal

import execnet
from execnet._output.carrier import Carrier, Pipe
from execnet._process.first_words import FirstWords
from execnet.gateway_bootstrap import GatewayStartError

MakeGateway = Callable[..., execnet.Gateway]
SECONDS = 30.0
# What the standard error of a process is, as nobody else's.
IDENTITY = "import os; channel.send(os.fstat(2)[1:3])"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is kept on Windows")


def wrapper(tmp_path: Path, text: str) -> Path:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return program


def failed(makegateway: MakeGateway, spec: str) -> GatewayStartError:
    with pytest.raises(GatewayStartError) as caught:
        makegateway(spec)
    return caught.value


@pytest.mark.parametrize("options", ["", "//stdout=prefix", "//stderr=inherit"])
def test_a_failed_start_tells_and_shows_it(
    makegateway: MakeGateway, capfd: pytest.CaptureFixture[str], tmp_path: Path, options: str
) -> None:
    program = wrapper(tmp_path, "echo one >&2; echo two >&2; exit 3")
    error = failed(makegateway, f"popen//python={program}{options}")
    assert error.stderr == "one\ntwo"
    assert str(error).endswith("exited with status 3 before it answered; on stderr: one\ntwo")
    assert capfd.readouterr().err == "one\ntwo\n"


def test_it_tells_what_our_own_interpreter_says(makegateway: MakeGateway, tmp_path: Path) -> None:
    error = failed(makegateway, f"popen//env:PYTHONHOME={tmp_path}")
    assert "No module named 'encodings'" in error.stderr


def test_it_is_told_of_a_start_that_takes_too_long(makegateway: MakeGateway, tmp_path: Path) -> None:
    program = wrapper(tmp_path, "echo waiting for nothing >&2; exec sleep 60")
    error = failed(makegateway, f"popen//timeout=0.7//python={program}")
    assert error.stderr == "waiting for nothing"


def test_it_is_told_with_the_others_that_failed(group: execnet.Group, tmp_path: Path) -> None:
    program = wrapper(tmp_path, "echo no such thing >&2; exit 3")
    with pytest.raises(GatewayStartError) as caught:
        group.makegateways([f"2*popen//python={program}"])
    assert str(caught.value).count("on stderr: no such thing") == 2


def test_more_than_a_pipe_holds_is_shown_in_order(
    makegateway: MakeGateway, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    program = wrapper(
        tmp_path,
        f'"{sys.executable}" -c "import sys; sys.stderr.write(text)"'.replace(
            "text", "''.join(str(number) + chr(10) for number in range(40000))"
        ),
    )
    error = failed(makegateway, f"popen//python={program}")
    assert capfd.readouterr().err == "".join(f"{number}\n" for number in range(40000))
    assert error.stderr.splitlines() == [str(number) for number in range(39960, 40000)]


@pytest.mark.parametrize("python", ["", f"//python={sys.executable}"])
def test_a_worker_has_the_standard_error_of_the_program(makegateway: MakeGateway, python: str) -> None:
    gateway = makegateway(f"popen{python}")
    assert tuple(gateway.remote_exec(IDENTITY).receive(SECONDS)) == os.fstat(2)[1:3]


def test_what_an_interpreter_says_that_starts_is_shown_before_there_is_a_gateway(
    makegateway: MakeGateway, capfd: pytest.CaptureFixture[str]
) -> None:
    gateway = makegateway(f"popen//python={sys.executable} -X nonsense -W nonsense")
    assert "nonsense" in capfd.readouterr().err
    gateway.remote_exec("import os; os.write(2, b'later')").waitclose(SECONDS)
    assert capfd.readouterr().err == "later"


def test_what_a_process_says_that_is_started_ahead_is_shown_when_it_is_asked_for(
    group: execnet.Group, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    program = wrapper(tmp_path, f'echo early >&2; exec {sys.executable} "$@"')
    group.start_ahead = 2
    specs = [execnet.XSpec(f"popen//python={program}") for _ in range(3)]
    for spec in specs:
        group.allocate_id(spec)
    for count, spec in enumerate(specs, 1):
        group.makegateway(spec)
        assert capfd.readouterr().err == "early\n", count


def test_what_nobody_asked_for_has_said_is_shown_at_its_end(
    group: execnet.Group, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    mark = tmp_path / "said"
    program = wrapper(tmp_path, f'echo early >&2; touch {mark}; exec {sys.executable} "$@"')
    group.start_ahead = 1
    specs = [execnet.XSpec("popen"), execnet.XSpec(f"popen//python={program}")]
    for spec in specs:
        group.allocate_id(spec)
    group.makegateway(specs[0])
    wait_until(mark.exists, SECONDS, "the process that is started ahead")
    group.terminate(timeout=SECONDS)
    assert capfd.readouterr().err == "early\n"


def test_who_keeps_the_pipe_is_heard_as_long_as_it_lives(
    makegateway: MakeGateway, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # As sudo does: the worker never gets what it was to put back.
    closing = "import os, sys; os.closerange(3, 100); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    program = wrapper(tmp_path, f"{sys.executable} -c '{closing}' \"$@\"\necho the wrapper ends >&2")
    gateway = makegateway(f"popen//python={program}")
    gateway.remote_exec("import os; os.write(2, b'from the worker\\n')").waitclose(SECONDS)
    shown: list[str] = []

    def is_shown() -> bool:
        shown.append(capfd.readouterr().err)
        return "from the worker\n" in "".join(shown)

    wait_until(is_shown, SECONDS, "what the worker wrote")
    gateway.exit(wait=SECONDS)
    assert "".join([*shown, capfd.readouterr().err]) == "from the worker\nthe wrapper ends\n"


def test_each_who_sees_the_end_waits_for_what_was_left() -> None:
    class Slow:
        def __init__(self) -> None:
            self.written = b""

        def write(self, data: bytes) -> None:
            time.sleep(0.2)
            self.written += data

        def end(self) -> None: ...

    words, sink = FirstWords(), Slow()
    reading, writing = os.pipe()
    words._stream = Pipe(Carrier(), sink, reading)
    os.write(writing, b"last words")

    def finish() -> bytes:
        words.finish()
        return sink.written

    try:
        seen = [call.result() for call in [Call(finish) for _ in range(3)]]
    finally:
        os.close(writing)
        words.close()
    assert seen == [b"last words"] * 3


def test_what_outlives_a_failed_start_is_heard(
    makegateway: MakeGateway, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program = wrapper(tmp_path, f"(read line; echo $line >&2) < {fifo} &\nexit 3")
    opened = os.open(fifo, os.O_RDWR)
    assert failed(makegateway, f"popen//python={program}").stderr == ""
    os.write(opened, b"now\n")
    os.close(opened)
    wait_until(lambda: "now" in capfd.readouterr().err, SECONDS, "what the child wrote")


def test_a_worker_sees_the_terminal(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import execnet, sys\n"
        "for spec in ('popen', f'popen//python={sys.executable}'):\n"
        "    gateway = execnet.makegateway(spec)\n"
        "    ask = 'import os, sys; channel.send((os.isatty(2), sys.stderr.isatty(), sys.stderr.encoding))'\n"
        "    print(gateway.remote_exec(ask).receive(), sys.stderr.encoding)\n"
        "try:\n"
        "    execnet.makegateway('popen//env:PYTHONHOME=/nowhere')\n"
        "except OSError as error:\n"
        "    print('kept:', 'encodings' in error.stderr)\n"
    )
    with Terminal(sys.executable, str(program), env=os.environ) as terminal:
        for _ in range(2):
            terminal.expect("(True, True, 'utf-8') utf-8")
        terminal.expect("No module named 'encodings'")
        terminal.expect("kept: True")


def test_nobody_waits_for_a_reader_of_our_own_standard_error(tmp_path: Path) -> None:
    talker = wrapper(tmp_path, "yes >&2")
    program = f"""
import execnet
try:
    execnet.makegateway("popen//timeout=1//python={talker}")
except execnet.TimeoutError as error:
    print(error.stderr[:4].split())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-1) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"['y', 'y']\n"
        finally:
            process.kill()


def test_a_program_without_standard_error_starts_workers() -> None:
    program = """
import os
os.close(2)
import execnet
print(execnet.makegateway("popen").remote_exec("channel.send(5)").receive())
try:
    execnet.makegateway("popen//python=false")
except OSError as error:
    print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], stdout=-1, timeout=SECONDS, check=True)
    assert done.stdout == b"5\nGatewayStartError\n"
