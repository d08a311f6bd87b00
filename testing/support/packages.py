"""Wheels and sdists of this checkout, and virtual environments to install them into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv", ".cache", ".tox", ".hypothesis", "build", "dist", "_build", "*.egg-info", "__pycache__", "*.so"
)
# Of the test run itself; a package under test is to be found where it is installed, and nowhere else.
NOT_INHERITED = ["PYTHONPATH", "EXECNET_PURE", "EXECNET_BUILD_CORE", "EXECNET_WERROR", "EXECNET_TEST_CORE"]
# Nor what would have every process compile what is installed here.
NOT_INHERITED += ["PYTHONDONTWRITEBYTECODE"]
SECONDS = 300


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without what says where execnet is and how it is built."""
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    return {**inherited, **extra}


def run(command: Sequence[object], cwd: Path, **extra: str) -> str:
    """Run `command` in `cwd`; what it wrote to both outputs.

    Raises AssertionError with that when it fails; `extra` are environment variables.
    """
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment(**extra),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SECONDS,
    )
    output = done.stdout.decode(errors="backslashreplace")
    assert done.returncode == 0, f"{command} exited with {done.returncode}:\n{output}"
    return output


def copy_checkout(target: Path) -> Path:
    """A copy of the sources, so that a build leaves nothing in the checkout."""
    shutil.copytree(CHECKOUT, target, ignore=NOT_SOURCE, symlinks=True)
    return target


def build(kind: str, source: Path, target: Path, **extra: str) -> tuple[Path, str]:
    """Build the "wheel" or the "sdist" of `source` into the folder `target`; the file and what was said meanwhile."""
    said = run([sys.executable, "-m", "build", f"--{kind}", "--outdir", target, source], cwd=target.parent, **extra)
    (built,) = target.iterdir()
    return built, said


class Venv:
    """A virtual environment of its own, with only what is installed into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"

    @classmethod
    def make(cls, folder: Path, python: str = sys.executable) -> Venv:
        """Make one in `folder`, of this process's Python or another."""
        run([python, "-m", "venv", "--without-pip", folder], cwd=folder.parent)
        return cls(folder)

    @property
    def site(self) -> Path:
        """The folder of its site-packages."""
        (folder,) = self.folder.glob("lib/python*/site-packages")
        return folder

    def install(self, *requirements: object, **extra: str) -> None:
        """Install `requirements`, with the pip of this process's environment if it has none of its own.

        `extra` are environment variables.
        """
        own = (self.site / "pip").exists()
        pip = [self.python, "-m", "pip"] if own else [sys.executable, "-m", "pip", "--python", self.python]
        pip += ["--disable-pip-version-check"]
        # What is imported is compiled then: far the most of it never is.
        run([*pip, "install", "--no-compile", "--prefer-binary", *requirements], cwd=self.folder, **extra)

    def run(self, *arguments: object, **extra: str) -> str:
        """Run this environment's Python with `arguments`; what it wrote. `extra` are environment variables."""
        return run([self.python, *arguments], cwd=self.folder, **extra)
