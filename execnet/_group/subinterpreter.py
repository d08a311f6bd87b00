"""What is different in an interpreter beside the main one of its process; imported there, and nowhere else.

At its end it awaits the threads that threading knows, then calls what is registered with atexit, and brings the
process down where any other thread is left. So ours are of that kind, and gateways end before it begins to wait: their
receivers are among those threads. Threads of the program may go on until then, and start gateways; once all have been
ended, no thread begins any more, as at the end of the main interpreter, so what is started that late fails or is ended.
"""

from __future__ import annotations

import atexit
import threading
import time

from execnet.gateway_base import ThreadExecModel, _main_thread_is, _posix_core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Seconds that the C core's own threads have to leave, once all gateways have ended.
HELPER_TIME = 1.0


_cleanups: list[Callable[[], object]] = []
_is_over = False


def call_at_exit(cleanup: Callable[[], object]) -> None:
    """Have ``cleanup`` called before the interpreter awaits its threads."""
    _cleanups.append(cleanup)


def _end() -> None:
    global _is_over

    _clean_up()
    _is_over = True
    _clean_up()  # what was started between the two


def _clean_up() -> None:
    for cleanup in reversed(_cleanups):
        cleanup()


def _start_awaited(self: ThreadExecModel, func: Callable[..., object], args: tuple[Any, ...] = ()) -> None:
    if _is_over:
        raise RuntimeError("can't create new thread at interpreter shutdown")
    # Said here, it is not asked of a thread that threading may not know yet, and would then note at the wrong time.
    threading.Thread(target=func, args=args, daemon=False).start()


def _await_helpers() -> None:
    deadline = time.monotonic() + HELPER_TIME
    while _posix_core is not None and _posix_core.helpers() and time.monotonic() < deadline:
        time.sleep(0.001)


threading._register_atexit(_end)  # type: ignore[attr-defined]
ThreadExecModel.start = _start_awaited  # type: ignore[method-assign]
_main_thread_is(0)  # signal handlers run in none of its threads
atexit.register(_await_helpers)
