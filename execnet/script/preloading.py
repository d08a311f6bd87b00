"""What a fork server imports before it forks: modules that were named, or those that the initiator has imported.

Named ones are all there, or no worker is forked. Of what the initiator has, only what can be imported as there is:
no module of the program that is run, which may look at what differs from worker to worker, and none of those that need
one. A worker imports these as it would without a fork server. Since an import that fails leaves traces, the fork server
begins anew without such modules: no worker ever sees one half imported.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found, unused-ignore]  # as in forkserver
import _thread
import os
import sys
import time

from execnet import gateway_base

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

assert sys.platform != "win32"  # as in forkserver

STDERR = 2
MOST_ROUNDS = 10  # each of them leaves out at least one module
THREADS_END_TIME = 1.0  # seconds for threads of C code that end when the process forks
TASKS = "/proc/self/task"  # a folder for each thread of the process, on Linux


def preload_named(names: list[str]) -> str:
    """Import the modules; why no worker can be forked now, or nothing."""
    watch = _Threads()
    for name in names:
        try:
            __import__(name)
        except (Exception, SystemExit) as error:
            if not (isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}.")):
                _show(gateway_base.geterrortext(error))
            return f"preload={name}: {type(error).__name__}: {error}"
        watch.look(name)
    return watch.reason()


def preload_known(file: int, begin_anew: Callable[[list[str]], None]) -> str:
    """As preload_named, for what is told in the open ``file``: what the initiator has imported, and where from.

    Calls ``begin_anew`` with the command of this process where some is to be left out, which is noted in the file.
    """
    size = os.fstat(file).st_size
    told: dict[str, Any] = gateway_base.loads_internal(os.pread(file, size, 0))
    watch = _Threads()
    known = _Known(set(told["names"]), tuple(told["folders"]))
    _import_known(told["names"], known, watch)
    left_out = [name for name in told["names"] if name not in known.names]
    if not left_out:
        return watch.reason()
    if told["rounds"] >= MOST_ROUNDS:
        return f"modules that this process has can't be imported again, such as {left_out[0]}"
    names = [name for name in told["names"] if name in known.names]
    data = gateway_base.dumps_internal({**told, "names": names, "rounds": told["rounds"] + 1})
    os.ftruncate(file, 0)
    os.pwrite(file, data, 0)
    begin_anew(told["command"])
    return ""


def _import_known(names: list[str], known: _Known, watch: _Threads) -> None:
    """Import what can be; what can't is no longer among ``known.names``."""
    import warnings  # lazy: start-up speed

    shown = warnings.showwarning
    # The initiator has imported the same, and told what there is to tell.
    warnings.showwarning = _no_warning  # type: ignore[assignment, unused-ignore]
    sys.meta_path.insert(0, known)
    try:
        for name in names:
            try:
                if name in known.names:
                    __import__(name)
            except BaseException:  # whatever a module raises, Skipped and SystemExit too: the worker meets it itself
                known.names.discard(name)
            watch.look(name)
    finally:
        sys.meta_path.remove(known)
        if warnings.showwarning is _no_warning:
            warnings.showwarning = shown


def _no_warning(*args: object) -> None:
    """In place of warnings.showwarning."""


class _Elsewhere(BaseException):
    """A module is not one that a fork server imports. No ImportError: to take it for missing would be wrong."""


class _Known:
    """In front of sys.meta_path: refuses modules that are neither known nor of the standard library."""

    def __init__(self, names: set[str], folders: tuple[str, ...]) -> None:
        self.names = names
        self.folders = folders
        self.library = os.path.join(os.path.dirname(os.__file__), "")

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> Any:
        """What the other finders find; raises where that is not to be imported here."""
        for finder in sys.meta_path:
            find_spec = getattr(finder, "find_spec", None)
            spec = find_spec(name, path, target) if finder is not self and find_spec else None
            if spec is not None:
                if spec.has_location and not self._may_be(name, str(spec.origin)):
                    raise _Elsewhere(name)
                return spec
        return None

    def _may_be(self, name: str, file: str) -> bool:
        if file.startswith(self.folders):
            return name in self.names
        return file.startswith(self.library) and "-packages" not in file[len(self.library) :]


class _Threads:
    """Looks for threads that imports have started, which no worker would have."""

    def __init__(self) -> None:
        self.module = ""

    def look(self, module: str) -> None:
        """After the import of a module: note whether it is the first one with threads."""
        if not self.module and (_thread._count() or _number_of_threads() > 1):
            self.module = module

    def reason(self) -> str:
        """Why no worker can be forked now, or nothing."""
        threading = sys.modules.get("threading")
        others = threading.enumerate() if threading else []
        found = ", ".join(thread.name for thread in others if thread.ident != _thread.get_ident())
        if not found and self.module and _number_of_threads() > 1 and not _end_at_a_fork():
            found = "of C code"
        return f"preload={self.module} started threads, which no worker would have: {found}" if found else ""


def _number_of_threads() -> int:
    """How many threads this process has, those of C code too; 0 where that can't be asked."""
    try:
        return os.stat(TASKS).st_nlink - 2
    except OSError:
        return 0


def _end_at_a_fork() -> bool:
    """Whether threads of C code end when this process forks, as those of OpenBLAS do; it starts them again in need."""
    import warnings  # lazy: start-up speed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of this fork, which is there to see whether others may be
        pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    deadline = time.monotonic() + THREADS_END_TIME
    while _number_of_threads() > 1:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def _show(text: str) -> None:
    try:
        os.write(STDERR, text.encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # nobody reads there


def exec_again(command: list[str], environment: dict[bytes, bytes], descriptors: list[int]) -> None:
    """Have this process begin anew, as it was started."""
    # Ctrl-C must not end it in between; what it does to the new program, that has to say.
    _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGINT])
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    os.execvpe(command[0], command, environment)
