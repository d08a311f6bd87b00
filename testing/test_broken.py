"""What once broke a connection: forks, handlers, finalizers, senders at the wrong moment; each in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import execnet

SECONDS = 30.0

c_core = pytest.mark.skipif(execnet.gateway_base.core != "c", reason="of the C core")

BEGIN = """
import faulthandler, os, signal, sys, threading, time
import execnet
from support.peer import Peer, frame
faulthandler.dump_traceback_later(20, exit=True)

def status_of_child(work):
    # What a forked child makes of work: the error's name, or "nothing"; "hangs" if it does not end.
    to_read, to_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(3)
        try:
            work()
            answer = "nothing"
        except Exception as exc:
            answer = type(exc).__name__
        os.write(to_write, answer.encode())
        os._exit(0)
    os.close(to_write)
    status = os.waitpid(pid, 0)[1]
    return os.read(to_read, 100).decode() if status == 0 else "hangs"

def fork_at_the_first_call():
    # A callback that forks once and tells if it is called in the child; and where the child's pid will be.
    parent, forked = os.getpid(), []

    def callback(item):
        if os.getpid() != parent:
            os.write(1, b"called in the child ")
        elif not forked:
            forked.append(None)
            pid = os.fork()
            forked[0] = pid

    return callback, forked
"""


def run(script: str, *args: str, **environ: str) -> str:
    """What the script prints, run in a process of its own."""
    path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + textwrap.dedent(script), *args],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(path), **environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout.strip()


@pytest.mark.parametrize(("method", "answer"), [("join", "nothing"), ("receive", "OSError"), ("send", "OSError")])
def test_a_child_forked_while_an_end_marker_is_delivered_has_no_connection(method: str, answer: str) -> None:
    script = """
    peer = Peer(execnet)
    first, second = peer.gateway.newchannel(), peer.gateway.newchannel()
    inside, leave = threading.Event(), threading.Event()

    def callback(item):
        inside.set()
        leave.wait(15)

    first.setcallback(callback, endmarker=None)
    peer.hang_up()
    assert inside.wait(10)
    works = {"join": peer.gateway.join, "receive": second.receive, "send": lambda: second.send(1)}
    print(status_of_child(works[sys.argv[1]]))
    leave.set()
    peer.gateway.join(10)
    """
    assert run(script, method) == answer


def test_the_child_that_an_end_marker_forked_calls_no_other_callback() -> None:
    script = """
    peer = Peer(execnet)
    callback, forked = fork_at_the_first_call()
    channels = [peer.gateway.newchannel() for _ in range(3)]
    for channel in channels:
        channel.setcallback(callback, endmarker=None)
    peer.hang_up()
    peer.gateway.join(10)
    os.waitpid(forked[0], 0)
    """
    assert run(script) == ""


@pytest.mark.parametrize(("method", "answer"), [("join", "nothing"), ("receive", "OSError"), ("send", "OSError")])
def test_a_child_forked_with_no_descriptor_left_has_no_connection(method: str, answer: str) -> None:
    script = """
    import resource

    peer = Peer(execnet)
    channel = peer.gateway.newchannel()
    works = {"join": peer.gateway.join, "receive": channel.receive, "send": lambda: channel.send(1)}
    to_read, to_write = os.pipe()
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        pass
    os.pipe = lambda: (to_read, to_write)
    answer = status_of_child(works[sys.argv[1]])
    for descriptor in held:
        os.close(descriptor)
    import select
    print(answer, bool(select.select([peer.in_], [], [], 0)[0]))
    """
    assert run(script, method) == f"{answer} False"


def test_a_close_that_a_handler_interrupted_can_be_repeated() -> None:
    script = """
    import random

    class Hit(Exception):
        pass

    def handler(*args):
        raise Hit

    peer = Peer(execnet)
    signal.signal(signal.SIGALRM, handler)
    moments = random.Random(1)
    before = None
    for _ in range(1500):
        channel = peer.gateway.newchannel()
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, moments.random() * 60e-6 + 1e-6)
                channel.close()
                time.sleep(0.0001)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Hit:
            pass
        channel.close()
        channel.waitclose(5)
        told = peer.message()
        if told == before:  # said twice: the handler raised between the saying and its return
            told = peer.message()
        assert told == (peer.CLOSE, channel.id, b""), (told, before, channel.id)
        before = told
        assert not peer.gateway._channelfactory.channels()
    """
    assert run(script) == ""


def test_a_gateway_whose_receiver_cannot_be_started_is_forgotten() -> None:
    script = """
    import _thread

    def none(*args):
        raise RuntimeError("can't start new thread")

    real, _thread.start_new_thread = _thread.start_new_thread, none
    try:
        Peer(execnet)
    except RuntimeError:
        pass
    _thread.start_new_thread = real
    print(len(execnet.gateway_base._receiving))
    """
    assert run(script) == "0"


@c_core
def test_channels_may_be_closed_while_others_wait_and_a_callback_takes_its_time() -> None:
    # In a build with asserts: somebody looks for what arrives, always.
    script = """
    peer = Peer(execnet)
    slow = peer.gateway.newchannel()
    slow.setcallback(lambda item: time.sleep(0.004))
    stop = time.monotonic() + 4

    def feed():
        while time.monotonic() < stop:
            peer.send(slow, 1)
            time.sleep(0.003)

    def wait(channel):
        try:
            while True:
                channel.receive(20)
        except (EOFError, OSError):
            pass

    def closes():
        while time.monotonic() < stop:
            channel = peer.gateway.newchannel()
            threads = [threading.Thread(target=wait, args=(channel,)) for _ in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(0.002)
            channel.close()
            for thread in threads:
                thread.join(10)
                assert not thread.is_alive()

    threading.Thread(target=lambda: [None for _ in iter(lambda: peer.read(1 << 16), b"")], daemon=True).start()
    threads = [threading.Thread(target=target) for target in (feed, closes, closes, closes, closes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    peer.gateway.exit()
    """
    assert run(script) == ""


@c_core
def test_threads_that_wait_when_the_interpreter_ends_leave_nothing_behind() -> None:
    script = """
    class Late:
        def __del__(self, sleep=time.sleep, write=os.write):
            sleep(0.3)
            self.queue.set()
            write(1, b"ended")

    peer = Peer(execnet, "pipe")
    channels = [peer.gateway.newchannel() for _ in range(50)]

    def wait(channel):
        while True:
            try:
                channel.receive(0.02)
            except channel.TimeoutError:
                pass

    for channel in channels:
        threading.Thread(target=wait, args=(channel,), daemon=True).start()
    sys.late = Late()  # goes last
    sys.late.queue = channels[0]._queue
    time.sleep(0.1)
    """
    assert run(script) == "ended"


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_busy_sender_does_not_keep_others_from_sending(size: int) -> None:
    script = """
    peer = Peer(execnet, "pipe")
    reader = os.fork()
    if reader == 0:
        while os.read(peer.in_.fileno(), 1 << 16):
            pass
        os._exit(0)
    channel = peer.gateway.newchannel()

    def send():
        while True:
            channel.send(b"x" * 1_500_000)

    for _ in range(2):
        threading.Thread(target=send, daemon=True).start()
    worst = 0.0
    for _ in range(5):
        began = time.monotonic()
        channel.send(b"y" * int(sys.argv[1]))
        worst = max(worst, time.monotonic() - began)
    print(worst < 3.0, flush=True)
    os.kill(reader, 9)
    os._exit(0)
    """
    assert run(script, str(size)) == "True"


def test_a_callback_that_raises_stopiteration_for_what_waits_fails() -> None:
    script = """
    peer = Peer(execnet)
    channel = peer.gateway.newchannel()

    def callback(item):
        raise StopIteration

    peer.send(channel, 1)
    try:
        channel.setcallback(callback)
        time.sleep(0.2)
        channel.waitclose(5)
    except (RuntimeError, channel.RemoteError) as exc:
        print(type(exc).__name__)
    """
    assert run(script) in ("RuntimeError", "RemoteError")


@pytest.mark.parametrize("way", ["forked by a thread", "imported by a thread"])
def test_the_main_thread_is_known_where_another_thread_began(way: str) -> None:
    script = """
    way = sys.argv[1]

    class Hit(Exception):
        pass

    def handler(number, frame):
        raise Hit

    def interrupted():
        # By a signal that another thread takes: only who looks hears of it.
        signal.signal(signal.SIGUSR1, handler)
        peer = Peer(execnet)
        channel = peer.gateway.newchannel()
        def interrupt():
            time.sleep(0.2)
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        threading.Thread(target=interrupt, daemon=True).start()
        try:
            channel.receive(10)
        except Hit:
            print("heard", flush=True)

    if way == "imported by a thread":
        for name in [name for name in sys.modules if name.split(".")[0] == "execnet"]:
            if name != "execnet._core":
                del sys.modules[name]
        importer = threading.Thread(target=__import__, args=("execnet",))
        importer.start()
        importer.join()
        execnet = sys.modules["execnet"]
        interrupted()
    else:
        def fork():
            pid = os.fork()
            if pid == 0:
                interrupted()
                os._exit(0)
            os.waitpid(pid, 0)
        forking = threading.Thread(target=fork)
        forking.start()
        forking.join()
    """
    assert run(script, way) == "heard"


both_cores = pytest.mark.parametrize(
    "environ", [pytest.param({}, marks=c_core, id="c"), pytest.param({"EXECNET_PURE": "1"}, id="portable")]
)


@both_cores
def test_handlers_that_send_while_their_thread_sends_leave_no_descriptor_behind(environ: dict[str, str]) -> None:
    script = """
    gateway = execnet.makegateway()
    channel, others = [gateway.remote_exec("for item in channel: pass") for _ in range(2)]
    before = len(os.listdir("/proc/self/fd"))
    hits = []

    def handler(*args):
        others.send(len(hits))
        hits.append(None)

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    while len(hits) < 1000:
        channel.send(b"x" * 200_000)
        channel.send(b"x")
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(len(os.listdir("/proc/self/fd")) - before < 3)
    gateway.exit(wait=5)
    """
    assert run(script, **environ) == "True"


def test_a_send_that_a_handler_ended_the_gateway_of_writes_to_no_other_file() -> None:
    script = """
    import tempfile

    peer = Peer(execnet, "pipe")
    channel = peer.gateway.newchannel()
    files, hits = [], []

    def handler(*args):
        hits.append(None)
        if len(hits) == 2:  # the pipe is full, and the system call that is interrupted has written nothing
            threading.Thread(target=read_all, daemon=True).start()
            peer.gateway.exit()
            ended.wait(10)
            files.extend(tempfile.TemporaryFile() for _ in range(10))

    def read_all():
        while peer.in_.read(1 << 16):
            pass
        ended.set()

    ended = threading.Event()
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
    try:
        channel.send(b"x" * 3_000_000)
    except OSError:
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(ended.is_set(), len(files), {os.fstat(file.fileno()).st_size for file in files})
    """
    assert run(script, EXECNET_PURE="1") == "True 10 {0}"


@both_cores
@pytest.mark.parametrize("error", ["SystemExit", "KeyboardInterrupt", "GeneratorExit"])
def test_what_an_end_marker_raises_keeps_no_other_channel_from_its_end(error: str, environ: dict[str, str]) -> None:
    script = """
    peer = Peer(execnet)
    raising, waiting, called = [peer.gateway.newchannel() for _ in range(3)]
    told = []

    def callback(item):
        raise getattr(__import__("builtins"), sys.argv[1])

    raising.setcallback(callback, endmarker=None)
    called.setcallback(told.append, endmarker="end")
    peer.hang_up()
    try:
        waiting.receive(10)
    except EOFError:
        print("ended", end=" ")
    peer.gateway.join(10)
    print(told, peer.gateway.hasreceiver(), len(execnet.gateway_base._receiving))
    """
    assert run(script, error, **environ) == "ended ['end'] False 0"


@both_cores
@pytest.mark.parametrize("count", [1, 100])
def test_the_child_that_a_callback_forked_is_not_called_again(count: int, environ: dict[str, str]) -> None:
    script = """
    peer = Peer(execnet)
    callback, forked = fork_at_the_first_call()
    channel = peer.gateway.newchannel()
    channel.setcallback(callback, endmarker=None)
    peer.write(peer.item(channel, 1) * int(sys.argv[1]))
    while not (forked and forked[0]):
        time.sleep(0.01)
    print(os.waitpid(forked[0], 0)[1])
    """
    assert run(script, str(count), **environ) == "0"


@both_cores
def test_a_channel_that_goes_while_the_interpreter_takes_modules_apart_says_nothing(environ: dict[str, str]) -> None:
    script = """
    peer = Peer(execnet)  # kept: its going is the connection's end
    channel = peer.gateway.newchannel()
    time.sleep(0.2)  # at an interpreter's end no other thread runs: without a GIL the receiver's would still begin
    names = vars(execnet.gateway_base)
    kept = dict(names)
    for name in kept:
        if name.startswith("_") and not name.startswith("__"):
            names[name] = None  # as the interpreter does first
    sys.unraisablehook = print
    del channel
    names.update(kept)
    sys.unraisablehook = sys.__unraisablehook__  # what other modules say at the interpreter's end is theirs
    """
    assert run(script, **environ) == ""


@both_cores
@pytest.mark.parametrize("stderr", ["None", "closed"])
def test_an_error_that_nobody_receives_and_nobody_can_be_told_disturbs_nothing(
    stderr: str, environ: dict[str, str]
) -> None:
    script = """
    import io

    peer = Peer(execnet)
    channel = peer.gateway.newchannel()
    real, sys.stderr = sys.stderr, None if sys.argv[1] == "None" else io.StringIO()
    if sys.stderr is not None:
        sys.stderr.close()
    peer.write(frame(peer.CLOSE_ERROR, 99, execnet.gateway_base.dumps_internal("nobody's")))
    peer.send(channel, 1)
    answer = channel.receive(10)
    sys.stderr = real
    print(answer)
    """
    assert run(script, stderr, **environ) == "1"


@both_cores
def test_the_child_that_a_callback_forked_leaves_where_it_can_write_nothing(environ: dict[str, str]) -> None:
    script = """
    peer = Peer(execnet)
    parent, forked = os.getpid(), []

    def callback(item):
        pid = os.fork()
        if pid == 0:
            sys.stdout = sys.stderr = None
            raise SystemExit(7)
        forked.append(pid)

    channel = peer.gateway.newchannel()
    channel.setcallback(callback)
    peer.send(channel, 1)
    while not forked:
        time.sleep(0.01)
    print(os.waitpid(forked[0], 0)[1] >> 8)
    """
    assert run(script, **environ) == "7"


@c_core
@pytest.mark.parametrize("how", ["thread", "fork"])
def test_the_main_thread_is_interrupted_whoever_was_the_first_to_need_the_core(how: str) -> None:
    script = """
    class Hit(Exception):
        pass

    def handler(*args):
        raise Hit

    def send_into_a_full_pipe():
        peer = Peer(execnet, "pipe")
        channel = peer.gateway.newchannel()
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
        try:
            channel.send(b"x" * 3_000_000)
        except Hit:
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.write(1, b"interrupted")

    def fork():
        pid = os.fork()
        if pid == 0:
            threading.Timer(10, os._exit, (1,)).start()
            try:
                send_into_a_full_pipe()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)

    def run(work):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    if sys.argv[1] == "fork":
        Peer(execnet)
        run(fork)
    else:
        run(lambda: Peer(execnet))
        send_into_a_full_pipe()
        os._exit(0)
    """
    assert run(script, how) == "interrupted"


@both_cores
def test_an_item_whose_reading_a_handler_interrupted_is_not_lost(environ: dict[str, str]) -> None:
    script = """
    import random

    class Hit(Exception):
        pass

    def handler(*args):
        if armed and args[1].f_code.co_name != "<module>":  # whose item it is by then
            raise Hit

    peer = Peer(execnet)
    channel = peer.gateway.newchannel()
    signal.signal(signal.SIGALRM, handler)
    moments = random.Random(1)
    number, hits = 1 << 200_000, 0
    for attempt in range(30):
        peer.send(channel, (attempt, number))
        armed, item = True, None
        try:
            signal.setitimer(signal.ITIMER_REAL, moments.random() * 0.02 + 1e-4)
            item = channel.receive(10)
            armed = False
        except Hit:
            hits += 1
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert (item or channel.receive(10))[0] == attempt
    print(hits > 0)
    """
    assert run(script, **environ) == "True"


@both_cores
def test_an_item_that_waits_is_not_lost_when_setcallback_is_interrupted(environ: dict[str, str]) -> None:
    script = """
    import random

    class Hit(Exception):
        pass

    def handler(*args):
        if armed:
            raise Hit

    peer = Peer(execnet)
    signal.signal(signal.SIGALRM, handler)
    moments = random.Random(1)
    hits = 0
    for _ in range(40):
        channel = peer.gateway.newchannel()
        peer.write(b"".join(peer.item(channel, number) for number in range(1000)))
        peer.end(channel)
        channel.waitclose(10)
        got, armed = [], True
        try:
            signal.setitimer(signal.ITIMER_REAL, moments.random() * 5e-4 + 2e-5)
            channel.setcallback(got.append)
            armed = False
        except Hit:
            armed = False
            hits += 1
            if channel._items is not None:
                got.extend(channel)
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert got == list(range(1000)), (len(got), sorted(set(range(1000)) - set(got)))
    print(hits > 0)
    """
    assert run(script, **environ) == "True"


@both_cores
def test_who_drops_channels_all_the_time_keeps_nobody_from_sending(environ: dict[str, str]) -> None:
    script = """
    gateway = execnet.makegateway()
    channel = gateway.remote_exec("for item in channel: channel.send(item)")

    def drop():
        while True:
            gateway.newchannel()

    for _ in range(2):
        threading.Thread(target=drop, daemon=True).start()
    for number in range(100):
        channel.send(number)
        assert channel.receive(15) == number
    print("sent", flush=True)
    os.kill(gateway.pid, 9)
    os._exit(0)
    """
    assert run(script, **environ) == "sent"


@pytest.mark.parametrize("lowest", [0, 3])
def test_a_task_that_closes_all_descriptors_as_daemons_do_ends_the_connection_for_who_sends_too(
    group: execnet.Group, monkeypatch: pytest.MonkeyPatch, lowest: int
) -> None:
    monkeypatch.setenv("EXECNET_QUIET", "1")
    gateway = group.makegateway("popen")
    unread = gateway.remote_exec("channel.receive(); import time; time.sleep(1000)")
    channel = gateway.remote_exec(f"import os, time; channel.receive(); os.closerange({lowest}, 100); time.sleep(1000)")
    failures = []

    def send() -> None:
        try:
            while True:
                unread.send(b"x" * 100_000)
        except OSError as error:
            failures.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    channel.send(None)
    with pytest.raises(EOFError):
        channel.receive(SECONDS)
    sender.join(SECONDS)
    assert len(failures) == 1


@c_core
@pytest.mark.timing
def test_a_worker_without_descriptors_needs_no_processor(group: execnet.Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXECNET_QUIET", "1")
    monkeypatch.setenv("EXECNET_LOST_TIMES", "20,30")
    gateway = group.makegateway("popen")
    wait = "import os, time; pid = os.getpid(); channel.send(pid); os.closerange(0, 100); time.sleep(1000)"
    pid = gateway.remote_exec(wait).receive(SECONDS)
    time.sleep(0.5)
    begun = processor_seconds(pid)
    time.sleep(1)
    assert processor_seconds(pid) - begun < 0.1


def processor_seconds(pid: int) -> float:
    """What a process has used so far."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
