"""The far side of ``via``: starts a process here and carries its bytes to the initiator.

The text is run through ``remote_exec`` on any Python from 2.7 on, with nothing installed. The
task answers and ends; threads of the gateway's own model carry on, so the gateway stays free
for other tasks.
"""

import os
import subprocess as plain_subprocess
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from execnet.gateway_base import Channel
    from execnet.gateway_base import ExecModel

CHUNK = 65536  # bytes read at most for one message: a whole pipe


def feed(data, stdin):
    # type: (Channel, Any) -> None
    """Pass on what arrives until an empty item, or the channel's end, says that this is all."""
    try:
        for chunk in data:
            if not chunk:
                break
            stdin.write(chunk)
            stdin.flush()
    except (IOError, OSError):  # noqa: UP024 -- two classes on Python 2
        pass  # the process is gone: drain() tells
    try:
        stdin.close()
    except (IOError, OSError):  # noqa: UP024
        pass  # what could not be flushed is lost with the process


def drain(process, data, control, execmodel):
    # type: (Any, Channel, Channel, ExecModel) -> None
    """Send what the process writes; at its end close the channels, with its exit status."""
    try:
        for chunk in chunks(process.stdout, execmodel):
            data.send(chunk)
    except (IOError, OSError):  # noqa: UP024
        pass  # the initiator is gone, or has let go of the gateway
    finally:
        process.stdout.close()
        finish(process, data, control)


def chunks(stdout, execmodel):
    # type: (Any, ExecModel) -> Iterator[bytes]
    """What the process writes, as it comes."""
    if execmodel.backend in ("thread", "main_thread_only"):
        descriptor = stdout.fileno()
        return iter(lambda: os.read(descriptor, CHUNK), b"")
    # Only the green file itself lets other tasks run; unbuffered ones have no read1.
    read = getattr(stdout, "read1", stdout.read)
    return iter(lambda: read(CHUNK), b"")


def finish(process, data, control):
    # type: (Any, Channel, Channel) -> None
    """Reap the process, which has nothing more to say, and tell its exit status."""
    try:
        data.close()
        control.send(process.wait())
        control.close()
    except (IOError, OSError):  # noqa: UP024
        process.wait()  # nobody wants to know, but it is ours to reap


def killer(process):
    # type: (Any) -> Any
    """A callback that kills the process, whatever arrives."""

    def kill(order):
        # type: (object) -> None
        try:
            process.kill()
        except OSError:
            pass  # it has ended and was reaped

    return kill


def serve(channel):
    # type: (Channel) -> None
    """Receive ``(args, data, control)``; answer the pid, or ``(errno, text, file name)``.

    ``args[0]`` None stands for this interpreter. ``data`` carries the process's stdin and
    stdout, an empty item closes stdin. An item on ``control`` kills; its exit status is
    answered there.
    """
    args, data, control = channel.receive()
    execmodel = channel.gateway.execmodel
    try:
        process = execmodel.subprocess.Popen(
            [args[0] or sys.executable] + args[1:],
            stdin=plain_subprocess.PIPE,
            stdout=plain_subprocess.PIPE,
            close_fds=os.name == "posix",  # Python 2 would hand on the pipes of its siblings
        )
    except OSError as error:
        channel.send((error.errno, error.strerror, error.filename))
        data.close()
        control.close()
        return
    control.setcallback(killer(process))
    execmodel.start(feed, (data, process.stdin))
    execmodel.start(drain, (process, data, control, execmodel))
    channel.send(process.pid)


if __name__ == "__channelexec__":
    serve(channel)  # type: ignore[name-defined]  # noqa: F821
