"""The oracle: execnet 2.1.2 in a folder of its own, run as a black box in its own process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REQUIREMENT = "execnet==2.1.2"
CHECKOUT = Path(__file__).resolve().parents[2]

# Instead of the line that it is sent: what serves is 2.1.2.
WORKER = """
import os, sys
sys.path.insert(0, {path!r})
while os.read(0, 1) != b"\\n":
    pass
from execnet.gateway_base import get_execmodel, init_popen_io, serve
io = init_popen_io(get_execmodel("thread"))
io.write(b"1")
serve(io, id="theirs-worker")
"""


def place() -> Path:
    """Where the oracle is, or is to be: $EXECNET_ORACLE, or a cache in the checkout."""
    given = os.environ.get("EXECNET_ORACLE")
    return Path(given) if given else CHECKOUT / ".cache" / "oracle"


def folder() -> Path:
    """Where the oracle is; the cache is filled by pip on first use."""
    path = place()
    if not path.exists() and not os.environ.get("EXECNET_ORACLE"):
        _install(path)
    return path


def _install(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=target.parent))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    try:
        subprocess.run([*pip, "--target", str(fresh / "oracle"), REQUIREMENT], check=True, timeout=120)
        # Renamed when whole, so that two sessions at once never see half a folder.
        os.rename(fresh / "oracle", target)
    except OSError:
        if not target.exists():
            raise
    finally:
        shutil.rmtree(fresh)


class Oracle:
    """Runs programs that import execnet 2.1.2."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def environment(self, **extra: str) -> dict[str, str]:
        """This process's environment, with the oracle as the only folder on PYTHONPATH."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EXECNET_PURE")}
        return {**environment, "PYTHONPATH": str(self.path), **extra}

    def worker_spec(self, folder: Path) -> str:
        """A spec for a worker over execnet 2.1.2, whose program is put into the folder."""
        program = folder / "worker.py"
        program.write_text(WORKER.format(path=str(self.path)))
        return f"popen//python={sys.executable} -I {program}"

    def popen(self, source: str) -> subprocess.Popen[bytes]:
        """Start a program with its standard input and output as pipes."""
        return subprocess.Popen(
            [sys.executable, "-c", source],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment(),
            cwd=self.path,  # "-c" looks for modules in the working directory first
        )

    def run(self, source: str, input: bytes = b"", timeout: float = 60.0) -> bytes:
        """Run a program to its end; what it wrote to standard output.

        Raises subprocess.CalledProcessError when it fails.
        """
        return subprocess.run(
            [sys.executable, "-c", source],
            input=input,
            stdout=subprocess.PIPE,
            env=self.environment(),
            cwd=self.path,
            timeout=timeout,
            check=True,
        ).stdout


if __name__ == "__main__":
    print(folder())
