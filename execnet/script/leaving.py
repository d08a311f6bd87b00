"""The end of a forked worker, which takes apart what is its own, and not what it shares with its fork server.

To the program it is the end of any interpreter: threads are waited for, exit handlers run, what the worker's own
modules hold is finalized, open files are flushed. Only the modules that were there when it was forked stay as they are:
to take them apart costs a good part of a short worker's time, and copies the memory that it shares.
"""

from __future__ import annotations

import _io
import _thread
import atexit
import gc
import os
import sys
import time

from execnet import gateway_base

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CONNECTION_ENDS = 0.1  # seconds that the threads of the connection have, whose work is done
_HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
# The names of the modules that the fork server had when it was ready to fork.
_shared: set[str] = set()


def share() -> None:
    """In the fork server: note what its workers share."""
    _shared.update(sys.modules)


def leave(status: int) -> None:
    """End this process with the status; returns where the interpreter has to end it.

    So it is while there are threads, which the interpreter can stop and nothing else; where an output is broken, which
    it tells; and without a GIL, for then CPython 3.13 keeps functions, and what their modules hold, for ever.
    """
    threading = sys.modules.get("threading")
    if threading is not None:
        threading._shutdown()  # waits for those that are to be waited for
    try:
        atexit._run_exitfuncs()
    except BaseException:  # CPython 3.9 has told of it already
        pass
    if not _HAS_GIL or _has_threads(threading) or not _flush(sys.stdout) or not _flush(sys.stderr):
        return
    # First, for the collector ends the files of a module in any order, and what one has in its buffer may be lost.
    _flush_files()
    for name in [name for name in sys.modules if name not in _shared]:
        del sys.modules[name]
    gc.collect()
    _flush_files()
    # With the C core, exit handlers of C code run as well, which write what was measured of it, for example.
    end = getattr(gateway_base._posix_core, "leave", os._exit)
    end(status)


def _has_threads(threading: Any) -> bool:
    """Whether there are other threads, but for those of the connection, which are about to end."""
    if threading is not None:
        threads = [thread for thread in threading.enumerate() if not isinstance(thread, threading._DummyThread)]
        if len(threads) > 1:
            return True
    deadline = time.monotonic() + CONNECTION_ENDS
    while _thread._count() and time.monotonic() < deadline:
        time.sleep(0.0002)
    return _thread._count() > 0


def _flush_files() -> None:
    """Flush all that is open. The collector, which knows it, does not know what was there before the fork."""
    for item in gc.get_objects():
        if issubclass(type(item), _io._IOBase):
            _flush(item)


def _flush(file: Any) -> bool:
    """Whether the file could be flushed, if there is anything to flush."""
    try:
        if file is not None and not file.closed:
            file.flush()
    except Exception:  # a file may be of any class; the interpreter passes over what it raises, too
        return False
    return True
