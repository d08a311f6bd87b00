"""The threading module, imported by another thread than the main one.

A worker does without it until its tasks want it: importing it costs a third of a start. Python before
3.13 takes the thread that imports it first for the main thread. That is right for the first task, which
runs there; before a second one runs in another thread, the import is made, and made right, here.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def import_threading(ident: int) -> None:
    """Import threading in any thread, the main thread being the one of ``ident``."""
    import threading  # lazy: that is the point

    main: Any = threading.main_thread()
    if main.ident == ident:
        return
    # What the module did for the importing thread when it made its _MainThread, done for the other one:
    # alike in Python 3.9 to 3.12.
    module: Any = threading
    lock = threading.Lock()
    lock.acquire()
    with module._shutdown_locks_lock:
        module._shutdown_locks.discard(main._tstate_lock)
        module._shutdown_locks.add(lock)
        main._tstate_lock = lock
    with module._active_limbo_lock:
        del module._active[main._ident]
        main._ident = ident
        module._active[ident] = main
    main._native_id = os.getpid() if sys.platform == "linux" else None
