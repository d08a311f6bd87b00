"""What takes long to make is made once in a test run, by whichever of its processes needs it first."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path


class Once:
    """Makes folders in `place`, which the processes of a test run share; they are read there, not written to."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder of that name, filled by `make`; whoever comes meanwhile waits, and tries again where it failed."""
        folder, whole = self.place / name, self.place / f"{name} is whole"
        with (self.place / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                whole.touch()
        return folder
