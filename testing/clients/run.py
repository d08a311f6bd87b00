"""The test suites of programs that stand on execnet, over our wheel and over execnet 2.1.2, compared test by test.

    python testing/clients/run.py [--only NAME ...] [--jobs N] [--seconds N]

Each program is the newest that the package index has, its tests are those of its source distribution. Both sides get
the same versions of all else, each in a fresh virtual environment, and run side by side. A test that passes over 2.1.2
only is run again alone, on both sides. What came out is kept in results/, and doc/compatibility.rst is written from it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clients import table
from clients.outcomes import UNFINISHED
from support import packages
from support.oracle import REQUIREMENT

HERE = Path(__file__).resolve().parent
CACHE = packages.CHECKOUT / ".cache" / "clients"
PLUGIN = "clients_outcomes"
# Seconds for a suite on one side, and for a test alone.
SUITE_SECONDS, ALONE_SECONDS = 1500, 300
OLD, OURS = "2.1.2", "ours"
Outcomes = dict[str, str]


class Client(NamedTuple):
    """A program and how its tests are run."""

    name: str
    #: What its tests need besides itself and pytest.
    needs: tuple[str, ...]
    #: In its source distribution.
    tests: str
    #: What is left out of the copy that the tests run in, so that they import what is installed.
    source: str = "src"
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = {}


CLIENTS = (
    Client("pytest-xdist", ("filelock", "psutil", "setproctitle"), "testing"),
    Client(
        "pytest-cov",
        ("process-tests", "pytest-xdist", "virtualenv"),
        "tests",
        environment={"PYTHONPATH": "{folder}/tests", "PYTHONUNBUFFERED": "yes"},
    ),
    Client("pytest-rerunfailures", ("pytest-xdist",), "tests"),
    Client("pytest-bdd", ("pytest-xdist",), "tests"),
    Client("remoto", ("mock",), "remoto/tests", source="remoto/*.py"),
    Client("devpi-server", ("webtest", "beautifulsoup4"), "test_devpi_server/test_fileutil.py", source="devpi_server"),
)


def fetch(client: Client, folder: Path) -> tuple[str, Path]:
    """Its newest source distribution, unpacked into `folder`: its version and where it is."""
    folder.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    packages.run([*pip, "--no-binary", client.name, client.name], cwd=folder)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "sdist", filter="data")
    (source,) = (folder / "sdist").iterdir()
    return source.name.rpartition("-")[2], source


def make_side(folder: Path, client: Client, version: str, execnet: object, constraints: Path) -> packages.Venv:
    """An environment with the client over that execnet; the first one decides the versions of all else."""
    venv = packages.Venv.make(folder)
    more = ["--constraint", constraints] if constraints.exists() else []
    venv.install("--quiet", f"{client.name}=={version}", "pytest", *client.needs, execnet, *more)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", venv.python]
    installed = packages.run([*pip, "list", "--format=freeze"], cwd=folder)
    if not constraints.exists():
        lines = [line for line in installed.splitlines() if "==" in line and not line.startswith("execnet==")]
        constraints.write_text("\n".join(lines) + "\n")
    site = venv.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    shutil.copy(HERE / "outcomes.py", Path(site) / f"{PLUGIN}.py")
    return venv


def copy_tests(client: Client, source: Path, target: Path) -> Path:
    """The source distribution without the program itself."""
    left_out = {path.resolve() for path in source.glob(client.source)}

    def ignore(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if (Path(folder) / name).resolve() in left_out]

    return Path(shutil.copytree(source, target, ignore=ignore))


class Side:
    """One program over one execnet."""

    def __init__(self, client: Client, venv: packages.Venv, folder: Path) -> None:
        self.client, self.venv, self.folder = client, venv, folder
        #: Whether its time was over before its suite had ended.
        self.is_cut = False

    def run(self, name: str, seconds: float, *tests: str) -> Outcomes:
        """Run these tests, for at most so many seconds; the output stays beside the folder."""
        notes = self.folder.parent / f"{self.folder.name}-{name}.jsonl"
        notes.unlink(missing_ok=True)
        environment = {key: text.format(folder=self.folder) for key, text in self.client.environment.items()}
        path = os.pathsep.join([str(self.venv.folder / "bin"), os.environ["PATH"]])
        command = [self.venv.python, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider", "--rootdir", self.folder]
        # Temporary folders of its own: each pytest removes those of the ones before it.
        with notes.with_suffix(".log").open("wb") as log, tempfile.TemporaryDirectory(prefix="clients-") as temp:
            process = subprocess.Popen(
                [str(word) for word in [*command, "-v", *self.client.arguments, *tests]],
                cwd=self.folder,
                env=packages.environment(
                    PATH=path, CLIENTS_OUTCOMES=str(notes), PYTEST_DEBUG_TEMPROOT=temp, **environment
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.is_cut = self.is_cut or name == "suite"
            with suppress(ProcessLookupError):  # nothing is left
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        lines = notes.read_text(encoding="utf-8").splitlines() if notes.exists() else []
        return dict(map(json.loads, lines))


def compare(client: Client, wheel: Path, seconds: float) -> dict[str, object]:
    """Run the client's tests on both sides; what doc/compatibility.rst is written from."""
    folder = CACHE / client.name
    shutil.rmtree(folder, ignore_errors=True)
    version, source = fetch(client, folder)
    result: dict[str, object] = {"version": version, "python": platform.python_version()}
    if not (source / client.tests).exists():
        return {**result, "lacks": "its source distribution has no tests"}
    sides = {}
    for name, execnet in ((OLD, REQUIREMENT), (OURS, wheel)):
        venv = make_side(folder / f"venv-{name}", client, version, execnet, folder / "constraints.txt")
        sides[name] = Side(client, venv, copy_tests(client, source, folder / name))
    versions = dict(line.split("==") for line in (folder / "constraints.txt").read_text().splitlines())
    with ThreadPoolExecutor() as pool:
        running = {name: pool.submit(side.run, "suite", seconds, client.tests) for name, side in sides.items()}
        found = {name: run.result() for name, run in running.items()}
    result["cut"] = [name for name, side in sides.items() if side.is_cut]
    alone = {
        test: {name: side.run("alone", ALONE_SECONDS, test).get(test, UNFINISHED) for name, side in sides.items()}
        for test in table.only_there({**result, "outcomes": found, "alone": {}}, OLD, OURS)
    }
    return {**result, "pytest": versions["pytest"], "outcomes": found, "alone": alone}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=[client.name for client in CLIENTS], help="these programs")
    parser.add_argument("--jobs", type=int, default=1, help="so many programs side by side (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=SUITE_SECONDS, help="for a suite (default %(default)s)")
    arguments = parser.parse_args()
    shutil.rmtree(CACHE / "wheel", ignore_errors=True)
    (CACHE / "wheel").mkdir(parents=True)
    source = packages.copy_checkout(CACHE / "wheel" / "source")
    wheel, _ = packages.build("wheel", source, CACHE / "wheel" / "dist", EXECNET_BUILD_CORE="1")
    chosen = [client for client in CLIENTS if not arguments.only or client.name in arguments.only]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        running = [(client, pool.submit(compare, client, wheel, arguments.seconds)) for client in chosen]
        for client, run in running:
            table.keep(client.name, run.result())
            print(f"{client.name}: done", file=sys.stderr, flush=True)
    text = table.page([client.name for client in CLIENTS])
    table.PAGE.write_text(text, encoding="utf-8")
    print(text)
    return table.fails()


if __name__ == "__main__":
    sys.exit(main())
