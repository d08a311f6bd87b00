"""On a free-threaded build of Python the GIL stays off: the C core, which needs it, is neither built nor imported."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support import interpreters, packages

import execnet

pytestmark = pytest.mark.needs("free-threaded")

SECONDS = 30.0

HAS_GIL = "import sys; channel.send(sys._is_gil_enabled())"
GATEWAYS = f"""
import sys
import execnet, execnet.gateway_base
group = execnet.Group()
told = [group.makegateway(spec).remote_exec({HAS_GIL!r}).receive({SECONDS}) for spec in ("popen", "popen//warm")]
group.terminate({SECONDS})
print(execnet.gateway_base.core, sys._is_gil_enabled(), *told)
"""


@pytest.fixture
def python() -> str:
    """The newest free-threaded interpreter."""
    found = interpreters.free_threaded()
    assert found is not None
    return os.path.realpath(found)  # a virtual environment of a link to it would not find its library


@pytest.fixture
def with_a_core(tmp_path: Path) -> Path:
    """A folder with the package, whose C core must not be imported."""
    package = tmp_path / "execnet"
    shutil.copytree(execnet.__path__[0], package, ignore=shutil.ignore_patterns("_core.*", "__pycache__"))
    (package / "_core.py").write_text("raise AssertionError('the C core was imported')")
    return tmp_path


def test_the_gil_stays_off_here_and_in_popen_and_warm_workers(python: str, with_a_core: Path) -> None:
    said = packages.run([python, "-W", "error", "-c", GATEWAYS], cwd=with_a_core, PYTHONWARNINGS="error")
    assert said.split() == ["portable", "False", "False", "False"]


def test_the_gil_stays_off_in_a_worker_that_is_sent_the_text(
    python: str, with_a_core: Path, group: execnet.Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EXECNET_PURE", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(with_a_core))
    gateway = group.makegateway(f"popen//python={python}")
    assert gateway.remote_exec(HAS_GIL).receive(SECONDS) is False


@pytest.mark.timeout(300)
@pytest.mark.needs("index")
def test_it_is_installed_without_the_c_core(python: str, sources: Path, tmp_path: Path) -> None:
    venv = packages.Venv(tmp_path / "venv", python)
    venv.install(sources)
    assert venv.run("-W", "error", "-c", GATEWAYS).split() == ["portable", "False", "False", "False"]
    assert not [path for path in venv.folder.rglob("_core.*") if path.suffix != ".pyi"]


@pytest.mark.timeout(300)
@pytest.mark.needs("index")
def test_to_demand_the_c_core_is_an_error(python: str, sources: Path, tmp_path: Path) -> None:
    venv = packages.Venv(tmp_path / "venv", python)
    with pytest.raises(AssertionError, match="EXECNET_BUILD_CORE=1, but the C core needs the GIL"):
        venv.install(sources, EXECNET_BUILD_CORE="1")
