"""The far side of ``via``: starts a process here and carries its bytes to the initiator.

The text is run through ``remote_exec`` on any Python from 2.7 on, with nothing installed. The
task answers and ends; threads of the gateway's own model carry on, so the gateway stays free
for other tasks.
"""

import os
import select
import sys
from subprocess import PIPE

CHUNK = 65536  # bytes read at most for one message: a whole pipe
ANSWER = b"1" + b"\7" + 8 * b"\0"  # of a gateway that is up: gateway_base's; of one with another text "1" is all
LAST_WORDS = 0.5  # seconds after a process's end in which its output must have come
LOOK = 0.2  # seconds between two looks at a process that has not answered yet


def feed(data, stdin, answered, drained):
    """Pass on what arrives until an empty item, or the channel's end, says that this is all.

    A process that reads no more before it has read the first item and answered is given up: after its last words the
    channel is closed. One that does so later may still have much to say.
    """
    begun = given_up = False
    try:
        for chunk in arriving(data, stdin, answered):
            stdin.write(chunk)
            stdin.flush()
            begun = True
    except (IOError, OSError):  # noqa: UP024 -- two classes on Python 2
        given_up = not begun or not answered.is_set()
    try:
        stdin.close()
    except (IOError, OSError):  # noqa: UP024
        pass  # what could not be flushed is lost with the process
    if given_up:
        drained.wait(LAST_WORDS)
        if not begun or not answered.is_set():
            close(data)


def arriving(data, stdin, answered):
    """The items up to an empty one; raises IOError where the process reads no more before it has answered."""
    while True:
        try:
            chunk = data.receive(None if answered.is_set() else LOOK)
        except data.TimeoutError:
            if reads_no_more(stdin):
                raise
            continue
        except (EOFError, data.RemoteError):
            return
        if not chunk:
            return
        yield chunk


def reads_no_more(stdin):
    """Whether nobody holds the other end of the pipe; no, where that can't be asked."""
    if not hasattr(select, "poll") or not hasattr(os, "dup"):  # Windows; Jython, which polls sockets alone
        return False
    poll = select.poll()
    poll.register(stdin.fileno(), 0)  # POLLERR, which needs not be asked for
    return bool(poll.poll(0))


def drain(stdout, data, answered, drained, execmodel):
    """Send what the process writes, set ``answered`` by its answer; at the end close the channel, set ``drained``."""
    last = b""
    try:
        for chunk in chunks(stdout, execmodel):
            if not answered.is_set():
                last = (last + chunk)[-len(ANSWER) :]
                if last in (ANSWER, ANSWER[:1]):
                    answered.set()
            data.send(chunk)
    except (IOError, OSError):  # noqa: UP024
        pass  # the initiator is gone, or has let go of the gateway
    finally:
        stdout.close()
        close(data)
        drained.set()


def watch(process, data, control, drained, mutex, execmodel):
    """Reap the process and tell its exit status.

    A child that it has left may hold its stdout: ``drained`` then comes too late.
    """
    status = reaped(process, mutex, execmodel)
    drained.wait(LAST_WORDS)
    close(data)
    try:
        control.send(status)
    except (IOError, OSError):  # noqa: UP024
        pass  # nobody wants to know
    close(control)


def reaped(process, mutex, execmodel):
    """The exit status of the process; while ``mutex`` is held, for it to be killed, no other one gets its number."""
    if execmodel.backend not in ("thread", "main_thread_only") or not hasattr(os, "waitid"):
        return process.wait()
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    except OSError:
        pass  # a program that runs here reaps all there is
    with mutex:
        return process.wait()


def close(channel):
    """Close ``channel``, also where its connection is gone."""
    try:
        channel.close()
    except (IOError, OSError):  # noqa: UP024
        pass


def chunks(stdout, execmodel):
    """What the process writes, as it comes."""
    if execmodel.backend in ("thread", "main_thread_only"):
        descriptor = stdout.fileno()
        return iter(lambda: os.read(descriptor, CHUNK), b"")
    # Only the green file itself lets other tasks run; unbuffered ones have no read1.
    read = getattr(stdout, "read1", stdout.read)
    return iter(lambda: read(CHUNK), b"")


def native(text):
    """``text`` as the str of this Python."""
    return text if isinstance(text, str) else text.encode("utf-8")


def killer(process, mutex):
    """A callback that kills the process, whatever arrives."""

    def kill(order):
        try:
            with mutex:
                process.kill()
        except OSError:
            pass  # it has ended and was reaped

    return kill


def options_for(outputs, env):
    """What a process is started with to have these outputs, and ``env`` added to its environment."""
    # Python 2 would hand on the pipes of its siblings.
    options = {"close_fds": os.name == "posix"}
    if env:
        options["env"] = dict(os.environ, **{native(name): native(env[name]) for name in env})
    if "stderr" in outputs:
        options["stderr"] = outputs["stderr"]
    if "stdout" in outputs and sys.version_info[0] > 2 and os.name == "posix":
        options["pass_fds"] = (outputs["stdout"],)
    return options


def serve(channel):
    """Receive ``(args, data, control)``, perhaps with ``env`` and ``outputs``.

    Answers the pid, or ``(errno, text, file name)``. ``args[0]`` None stands for this interpreter; ``env`` is added to
    the process's environment. ``data`` carries the process's stdin and stdout, an empty item closes stdin. An item on
    ``control`` kills; its exit status is answered there. ``outputs`` has descriptors of this process: the started one
    gets that of ``stderr`` as its own, that of ``stdout`` by its number where it can.
    """
    order = channel.receive()
    args, data, control = order[:3]
    env = order[3] if len(order) > 3 else {}
    outputs = order[4] if len(order) > 4 else {}
    execmodel = channel.gateway.execmodel
    try:
        process = execmodel.subprocess.Popen(
            [args[0] or sys.executable] + args[1:], stdin=PIPE, stdout=PIPE, **options_for(outputs, env)
        )
    except OSError as error:
        channel.send((error.errno, error.strerror, error.filename))
        close(data)
        close(control)
        return
    finally:
        for number in outputs.values():
            os.close(number)
    mutex = execmodel.Lock()
    control.setcallback(killer(process, mutex))
    answered, drained = execmodel.Event(), execmodel.Event()
    execmodel.start(feed, (data, process.stdin, answered, drained))
    execmodel.start(drain, (process.stdout, data, answered, drained, execmodel))
    execmodel.start(watch, (process, data, control, drained, mutex, execmodel))
    channel.send(process.pid)


if __name__ == "__channelexec__":
    serve(channel)  # noqa: F821
