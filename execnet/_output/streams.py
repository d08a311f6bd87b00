"""What one worker has: a stream for each of its outputs that somebody asked for.

It is made before the process, which is given the writing ends of pipes; what could not be given so is set up in the
worker, by a task, as soon as there is a gateway. What is asked of a dead worker's output waits until it has arrived.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

from execnet._output.carrier import MOST_WAITING, PATIENCE, Pipe
from execnet._output.last_words import Parted, new_mark
from execnet._output.modes import CAPTURE, DESCRIPTORS, FILE, INHERIT, NULL, PREFIX, none_kept, path_of
from execnet._output.sinks import Caller, Descriptor, File, Kept, Lines, Nowhere, Printer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from execnet._output.carrier import Carrier, Stream
    from execnet._output.sinks import Sink
    from execnet.gateway import Gateway
    from execnet.xspec import XSpec

    StreamT = TypeVar("StreamT", bound=Stream)

TAIL_SIZE = 16 * 1024  # bytes of the last words
TAIL_LINES = 40
CRASH = "Fatal Python error"  # the first line of what faulthandler tells of a crash, one for each frame of its stacks

# Runs on the far side, on Python 2.7 and newer: its standard output becomes what it was started with for that.
TAKE = """
import os
number, device, inode = channel.receive()
try:
    status = os.fstat(number)
    is_it = (status.st_dev, status.st_ino) == (device, inode)
except OSError:
    is_it = False
if is_it:
    os.dup2(number, 1)
    os.close(number)
channel.send(is_it)
"""


class Outputs:
    """The outputs of the worker that is to be started for ``spec``, in the given modes."""

    def __init__(
        self, spec: XSpec, modes: dict[str, str], carrier: Carrier, function: Callable[[Any, str, str], object] | None
    ) -> None:
        self.id = spec.id or ""
        self._spec = spec
        # Where it is told what a worker wrote last; then standard error is carried, whatever it is to be.
        self.mark = new_mark() if spec.ssh and modes.get("stdout", NULL) != NULL else None
        self._modes = {"stderr": INHERIT, **modes} if self.mark else modes
        self.carrier = carrier
        self._function = function
        self.gateway: Gateway | None = None
        self._deadline = float("inf")
        self._streams: dict[str, Stream] = {}
        self._kept: dict[str, Kept] = {}
        # Names of outputs that the process has as they are to be, and those of its descriptors that it still has to
        # take, with what they are known by.
        self._done: set[str] = set()
        self._given: dict[str, tuple[int, int, int]] = {}
        self._far_ends: list[int] = []

    # -- before and while the process is started

    def popen_options(self) -> dict[str, Any]:
        """What `subprocess.Popen` is to be given."""
        options: dict[str, Any] = {}
        stderr = self.stderr_end()
        if stderr is not None:
            options["stderr"] = stderr
        if not self._spec.popen or sys.platform == "win32":
            return options  # ssh hands on no others, and Windows has no numbers for them
        stdout = self.stdout_end()
        if stdout is not None:
            status = os.fstat(stdout)
            self._given["stdout"] = (stdout, status.st_dev, status.st_ino)
            options["pass_fds"] = (stdout,)
        return options

    def stderr_end(self) -> int | None:
        """A descriptor for a local process's standard error; None where it is to have ours."""
        self._done.add("stderr")
        return self._end_for("stderr") if self.mark or self._modes.get("stderr", INHERIT) != INHERIT else None

    def stdout_end(self) -> int | None:
        """A descriptor for a local process's standard output; None where that is to lead nowhere."""
        if self._modes.get("stdout") == INHERIT and not _is_inheritable(DESCRIPTORS["stdout"]):
            self._done.add("stdout")
        return self._end_for("stdout") if "stdout" in self.left() else None

    def close_far_ends(self) -> None:
        """The process has what was made for it, or never will."""
        while self._far_ends:
            os.close(self._far_ends.pop())

    def relay(self, gateway: Gateway) -> dict[str, int]:
        """Descriptors that ``gateway`` has, for a process that it is to start, to give it."""
        from execnet._output import far  # lazy: only for what is far

        names = [name for name in self.left() if name == "stderr" or self._spec.popen]  # ssh hands on no others
        known = far.relay(gateway, self, names)
        if "stderr" in known:
            self._done.add("stderr")
        if "stdout" in known:
            self._given["stdout"] = known["stdout"]
        return {name: number for name, (number, _, _) in known.items()}

    def is_done(self, name: str) -> None:
        """The process has the output as it is to be."""
        self._done.add(name)

    def left(self) -> list[str]:
        """The outputs that are still to be set up."""
        return [name for name in self._modes if name not in self._done]

    def _end_for(self, name: str) -> int:
        mode = self._modes[name]
        if self.mark:
            end = self._pipe(name)
        elif mode == INHERIT:
            end = os.dup(DESCRIPTORS[name])
        elif mode == NULL:
            end = os.open(os.devnull, os.O_WRONLY)
        elif mode.startswith(FILE):
            end = os.open(path_of(mode, self.id), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        else:
            end = self._pipe(name)
        self._far_ends.append(_above_standard(end))
        return self._far_ends[-1]

    def _pipe(self, name: str) -> int:
        read, write = os.pipe()
        try:
            self._streams[name] = Pipe(self.carrier, self.sink(name), read)
        except BaseException:
            os.close(read)
            os.close(write)
            raise
        return write

    def sink(self, name: str) -> Sink:
        """Where this output goes to, of what is carried."""
        sink = self._sink(name, self._modes[name])
        return Parted(sink, self.mark, self._take_last) if self.mark and name == "stderr" else sink

    def _take_last(self, data: bytes | None) -> None:
        stdout = self._streams.get("stdout")
        if stdout is not None:
            stdout.take_last(data)

    def _sink(self, name: str, mode: str) -> Sink:
        if mode == PREFIX:
            if self._function is not None:
                return Lines(Caller(self._function, name, self))
            return Lines(Printer(name, self.id))
        if mode == CAPTURE:
            kept = self._kept[name] = Kept(Descriptor(DESCRIPTORS[name]) if name == "stderr" else None)
            return kept
        if mode.startswith(FILE):
            return File(path_of(mode, self.id))
        return Descriptor(DESCRIPTORS[name]) if mode == INHERIT else Nowhere()

    # -- when there is a gateway

    def set_up(self, gateway: Gateway) -> bool:
        """Have the worker do what its process could not be started with; whether there were tasks for that."""
        self.gateway = gateway
        if not self.left():
            return False
        if "stdout" in self._given and self._takes(gateway, self._given.pop("stdout")):
            self._done.add("stdout")
        if self.left():
            from execnet._output import far  # lazy: only for what is far

            far.set_up(gateway, self)
        return True

    def _takes(self, gateway: Gateway, given: tuple[int, int, int]) -> bool:
        channel = gateway.remote_exec(TAKE)
        channel.send(given)
        taken: bool = channel.receive()
        channel.waitclose()
        return taken

    def refuse(self, reason: str) -> None:
        """What is left can't be had: ValueError where the spec asks for it, nothing where only the environment does."""
        for name in self.left():
            if getattr(self._spec, name):
                raise ValueError(f"{name}={self._modes[name]}: {reason} ({str(self._spec)!r})")

    def is_carried(self, name: str) -> bool:
        """Whether what is written comes here; else it leads nowhere."""
        return self._modes[name] != NULL or self.mark is not None

    def carry(self, name: str, make: Callable[[Carrier, Sink], StreamT]) -> StreamT:
        """The stream for an output that is sent."""
        stream = self._streams[name] = make(self.carrier, self.sink(name))
        return stream

    # -- later

    def settle(self, timeout: float = PATIENCE) -> None:
        """Wait until what has come is written, for at most ``timeout`` seconds."""
        for settled in [stream.settle() for stream in self._streams.values() if not stream.ended.is_set()]:
            self.carrier.wait(settled, timeout)

    def settle_last(self) -> None:
        """As settle(), where the process has ended; a child of its may go on writing."""
        for settled in [stream.settle_last() for stream in self._streams.values() if not stream.ended.is_set()]:
            self.carrier.wait(settled, PATIENCE)

    def finish(self) -> None:
        """The process has ended: wait until what it left is written, as long as that makes progress, and may last."""
        self.close_far_ends()
        for stream in self._streams.values():
            most = stream.carried + MOST_WAITING
            if not self._ends(stream, stream.linger, most, stream.may_bring):
                stream.finish()
                self._ends(stream, PATIENCE, sys.maxsize, self.carrier.is_at_work)  # what is left has an end

    def hurry(self) -> None:
        """The process is late: finish() waits no longer than PATIENCE from now on."""
        self._deadline = time.monotonic() + PATIENCE

    def _ends(self, stream: Stream, patience: float, most: int, is_coming: Callable[[], bool]) -> bool:
        """Wait for the end of a stream while each ``patience`` seconds bring something, up to ``most`` bytes."""
        carried = -1
        while not self.carrier.wait(stream.ended, min(patience, self._left())) and self._left() > 0:
            if not (carried < stream.carried < most or is_coming()):
                break
            carried = stream.carried
        return stream.ended.is_set()

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    def text(self, name: str) -> str:
        """What is kept of an output; ValueError where nothing is."""
        if name not in self._kept:
            raise none_kept(name, self.id)
        self.settle()
        return self._kept[name].last().decode("utf-8", "backslashreplace")

    def last_words(self, timeout: float) -> str:
        """The last lines on a captured stderr, those of a crash from its first on; else empty."""
        self.settle(timeout)
        if "stderr" not in self._kept:
            return ""
        lines = self._kept["stderr"].last(TAIL_SIZE).decode("utf-8", "backslashreplace").splitlines()
        crash = next((at for at, line in enumerate(lines) if line.startswith(CRASH)), len(lines))
        return "\n".join(lines[min(crash, max(len(lines) - TAIL_LINES, 0)) :])

    def place_of_stderr(self) -> str:
        """Where standard error goes, in words."""
        mode = self._modes.get("stderr", INHERIT)
        return "to where ours goes" if mode in (INHERIT, CAPTURE, PREFIX) else f"to {mode}"

    def is_mid_line(self) -> bool:
        """Whether a captured stderr, which is passed on to ours, has stopped in the middle of a line."""
        return "stderr" in self._kept and self._kept["stderr"].last(1) not in (b"", b"\n")


def _above_standard(descriptor: int) -> int:
    """The descriptor, by another number where it has one of the standard ones, which a process has for itself."""
    if descriptor > max(DESCRIPTORS.values()):
        return descriptor
    try:
        return _above_standard(os.dup(descriptor))
    finally:
        os.close(descriptor)


def _is_inheritable(descriptor: int) -> bool:
    with suppress(OSError):  # closed
        return os.get_inheritable(descriptor)
    return False
