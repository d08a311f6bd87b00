"""A process on another gateway: its bytes, its end and its status come over channels."""

from __future__ import annotations

import time
from contextlib import suppress

from execnet._process.death import REAP_TIME
from execnet._process.noise import QUIET_TIME, await_answer
from execnet._process.waiting import KILL_TIME, LAST_WORDS, LAST_WORDS_SIZE, patience
from execnet.gateway_base import RemoteError, TimeoutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from execnet._output.streams import Outputs
    from execnet.gateway_base import Channel, ExecModel


class ProxyIO:
    """A process that another gateway has started for us (``via``), its bytes carried by channels.

    ``proxy_channel`` is a running ``execnet.script.proxy``, :meth:`start` tells it what to run.
    """

    __module__ = "execnet.gateway_io"  # where programs find it

    remoteaddress: str
    #: Whether this program has killed the process.
    signalled = False
    #: As those of Popen2IOMaster.
    noise = b""
    quiet_time: float | None = QUIET_TIME
    outputs: Outputs | None = None

    def __init__(self, proxy_channel: Channel, execmodel: ExecModel) -> None:
        self.execmodel = execmodel
        self.returncode: int | None = None
        self.pid: int | None = None
        self._asking = 0  # threads in exit_status
        self._told = execmodel.Event()
        self.args: list[str | None] = []
        self._proxy = proxy_channel
        self._data = proxy_channel.gateway.newchannel()
        self._control = proxy_channel.gateway.newchannel()
        self._buffer = b""

    def __repr__(self) -> str:
        return f"<ProxyIO via {self._proxy.gateway.id!r}>"

    def start(
        self, args: Sequence[str | None], env: dict[str, str] | None = None, outputs: dict[str, int] | None = None
    ) -> None:
        """Have the process started, with ``env`` added to its environment, and descriptors there for its outputs.

        None as ``args[0]`` is the proxying interpreter itself.
        """
        self.args = list(args)
        try:
            more: list[object] = [env or {}, outputs] if outputs else [env] if env else []
            self._proxy.send((self.args, self._data, self._control, *more))
        except BaseException:
            # The far side waits no longer for what to run, and nobody here for what becomes of it.
            for channel in (self._proxy, self._data, self._control):
                with suppress(OSError):  # the proxying gateway is gone
                    channel.close()
            raise

    def read(self, nbytes: int) -> bytes:
        """Exactly ``nbytes`` bytes; raises EOFError where the process or its gateway ended."""
        chunks, missing = [self._buffer], nbytes - len(self._buffer)
        while missing > 0:
            try:
                chunk = self._receive(None)
            except (EOFError, OSError, RemoteError) as error:
                self._buffer = b"".join(chunks)
                raise EOFError(f"expected {nbytes} bytes, got {nbytes - missing}") from error
            chunks.append(chunk)
            missing -= len(chunk)
        received = b"".join(chunks)
        self._buffer = received[nbytes:]
        return received[:nbytes]

    def write(self, data: bytes) -> None:
        """Write all of ``data``; raises OSError where the process or its gateway ended."""
        if data:
            self._data.send(data)

    def close_read(self) -> None:
        """Nothing more will be read."""
        self._data.close()

    def close_write(self) -> None:
        """Close the process's stdin."""
        with suppress(OSError):  # closed already, or the proxying gateway is gone
            self._data.send(b"")

    def wait(self) -> int | None:
        """Wait for the process's end; its exit status, None where the proxying gateway is gone."""
        returncode = self.exit_status(None)
        if self.outputs is not None:
            self.outputs.finish()
        return returncode

    def reap(self) -> None:
        """As Popen2IOMaster.reap: note the status that the far side tells."""
        self.wait()

    @property
    def via_error(self) -> Exception | None:
        """Why the proxying gateway is gone, if it is."""
        return getattr(self._proxy.gateway, "_error", None)

    def kill(self) -> None:
        """Have the process killed, without waiting; harmless once it has ended."""
        self.signalled = True
        with suppress(OSError):  # ended, or the proxying gateway is gone
            self._control.send("kill")

    def await_answer(self) -> bytes:
        """Wait for the process's answer; empty where it ended, or wrote something else.

        Raises OSError where the proxying gateway could not start it.
        """
        try:
            started = self._proxy.receive()
        except (EOFError, RemoteError) as error:
            raise OSError(f"proxying on gateway {self._proxy.gateway.id!r} failed: {error}") from None
        if isinstance(started, tuple):
            raise OSError(*started)
        self.pid = started
        return await_answer(self, self._receive_some)

    def _receive_some(self, count: int, seconds: float | None) -> bytes | None:
        if not self._buffer:
            try:
                self._buffer = self._receive(seconds)
            except TimeoutError:
                return None
            except (EOFError, OSError, RemoteError):
                return b""
        received, self._buffer = self._buffer[:count], self._buffer[count:]
        return received

    def abandon(self) -> tuple[bytes, int | None]:
        """As Popen2IOMaster.abandon."""
        deadline = time.monotonic() + LAST_WORDS
        output = self._last_words(deadline)
        returncode = self.exit_status(patience(output, deadline))
        self._data.close()
        if returncode is None:
            self.kill()
            self.exit_status(KILL_TIME)
        self._control.close()
        if self.outputs is not None:
            self.outputs.finish()
        return output, returncode

    def _last_words(self, deadline: float) -> bytes:
        output = self._buffer
        while len(output) < LAST_WORDS_SIZE:
            try:
                output += self._receive(max(0.0, deadline - time.monotonic()))
            except (EOFError, TimeoutError, RemoteError):
                break
        return output

    def _receive(self, timeout: float | None) -> bytes:
        chunk: bytes | str = self._data.receive(timeout)
        # A Python 2 proxy sends its str, which reads as latin-1 text by default.
        return chunk.encode("latin-1") if isinstance(chunk, str) else chunk

    def exit_status(self, timeout: float | None) -> int | None:
        """As Popen2IOMaster.exit_status; None waits without end."""
        self._asking += 1
        try:
            if self.returncode is None:
                self.returncode = self._control.receive(timeout)
                self._told.set()
        except (EOFError, OSError, RemoteError) as error:
            if self._asking > 1:  # another thread may be about to store what it received
                self._told.wait(REAP_TIME if isinstance(error, TimeoutError) else LAST_WORDS)
        finally:
            self._asking -= 1
        return self.returncode
