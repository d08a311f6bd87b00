"""A progress bar on the terminal, counted in bytes: by rich or tqdm where they are installed, else a plain line."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

PLAIN_WIDTH = 30
REDRAW_SECONDS = 0.1


def bar(wanted: bool) -> Bar:
    """A bar on stderr, if that is a terminal; one that shows nothing where it is not, or not ``wanted``."""
    if not wanted or not sys.stderr.isatty():
        return Bar()
    for kind in (RichBar, TqdmBar):
        with suppress(ImportError):
            return kind()
    return PlainBar()


class Bar:
    """How much is expected and done; shows nothing. As a context manager: removed at the end."""

    def __init__(self) -> None:
        self.total = 0
        self.done = 0

    def expect(self, size: int) -> None:
        """Another ``size`` bytes are to be done."""
        self.total += size
        self._draw()

    def advance(self, size: int) -> None:
        """Another ``size`` bytes are done."""
        self.done += size
        self._draw()

    def _draw(self) -> None:
        """Show both."""

    def _clear(self) -> None:
        """Show nothing more."""

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._clear()


class RichBar(Bar):
    """One of rich; raises ImportError."""

    def __init__(self) -> None:
        progress: Any = import_module("rich.progress")
        console = import_module("rich.console").Console(stderr=True)
        super().__init__()
        columns = (progress.BarColumn(), progress.DownloadColumn(), progress.TransferSpeedColumn())
        self._progress = progress.Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("", total=None)
        self._progress.start()

    def _draw(self) -> None:
        self._progress.update(self._task, total=self.total, completed=self.done)

    def _clear(self) -> None:
        self._progress.stop()


class TqdmBar(Bar):
    """One of tqdm; raises ImportError."""

    def __init__(self) -> None:
        tqdm: Any = import_module("tqdm")
        super().__init__()
        self._tqdm = tqdm.tqdm(total=0, unit="B", unit_scale=True, leave=False, file=sys.stderr)

    def _draw(self) -> None:
        self._tqdm.total = self.total
        self._tqdm.update(self.done - self._tqdm.n)

    def _clear(self) -> None:
        self._tqdm.close()


class PlainBar(Bar):
    """A line that is drawn again and again."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def _draw(self) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + REDRAW_SECONDS
        share = min(1.0, self.done / self.total) if self.total else 0.0
        filled = "#" * int(share * PLAIN_WIDTH)
        self._write(f"\r[{filled:<{PLAIN_WIDTH}}] {share:4.0%} of {self.total / 2**20:.1f} MiB\x1b[K")

    def _clear(self) -> None:
        self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        with suppress(OSError):  # nobody can see it
            sys.stderr.write(text)
            sys.stderr.flush()
