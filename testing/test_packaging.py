"""What is built and installed: wheel and sdist in empty environments, with and without a compiler."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from support import interpreters, packages, wheels

import execnet

pytestmark = pytest.mark.timeout(300)

NO_COMPILER = "/nonexistent/cc"


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def has_core(wheel: Path) -> bool:
    return any(name.startswith("execnet/_core.") and not name.endswith(".pyi") for name in names(wheel))


def installed(package: Path, folder: Path) -> packages.Venv:
    venv = packages.Venv.make(folder / "venv")
    venv.install(package)
    return venv


def core_of(venv: packages.Venv) -> str:
    return venv.run("-c", "import execnet.gateway_base as base; print(base.core)").strip()


def assert_the_main_job_runs(venv: packages.Venv) -> None:
    report = json.loads(venv.run("-m", "execnet", "--json"))
    assert report["execnet"] == execnet.__version__
    assert [row["error"] for row in report["gateways"]] == [None, None]
    assert venv.run("-m", "execnet", "--version").strip() == f"execnet {execnet.__version__}"
    script = venv.folder / "bin" / "execnet"
    assert packages.run([script, "run", "popen", "--", "print(6 * 7)"], cwd=venv.folder) == "gw0: 42\n"


def test_the_wheel_runs_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv = installed(wheel, tmp_path)
    assert_the_main_job_runs(venv)
    assert core_of(venv) == execnet.gateway_base.core


def test_the_sdist_installs_into_an_empty_environment(sdist: Path, tmp_path: Path) -> None:
    assert_the_main_job_runs(installed(sdist, tmp_path))


def test_the_sdist_builds_the_same_wheel_again(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # the default from 3.14 on
        archive.extractall(tmp_path / "unpacked")
    (source,) = (tmp_path / "unpacked").iterdir()
    core = "1" if has_core(wheel) else "0"
    rebuilt, _ = packages.build("wheel", source, tmp_path / "rebuilt", EXECNET_BUILD_CORE=core)
    assert sorted(names(rebuilt)) == sorted(names(wheel))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    metadata = f"execnet-{execnet.__version__}.dist-info"
    found = names(wheel)
    assert {name.partition("/")[0] for name in found} == {"execnet", metadata}
    assert not [name for name in found if "test" in name or name.endswith((".c", ".h"))]
    for needed in ("execnet/py.typed", "execnet/gateway_base.pyi", "execnet/script/socketserver.py"):
        assert needed in found
    assert has_core(wheel) == (execnet.gateway_base.core == "c")


def test_the_sdist_holds_what_its_own_tests_and_docs_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    for needed in ("Makefile", "tox.ini", "LICENSE", "CHANGELOG.rst", "testing/conftest.py", "doc/conf.py"):
        assert needed in found
    for text in ("CONTRIBUTING.rst", "SECURITY.md", "CODE_OF_CONDUCT.md", "CITATION.cff"):  # some are part of pages
        assert text in found
    assert not [name for name in found if name.endswith((".so", ".pyc"))]


@pytest.mark.needs("twine")
def test_twine_finds_nothing_wrong(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    packages.run([sys.executable, "-m", "twine", "check", "--strict", wheel, sdist], cwd=tmp_path)


def test_the_metadata_names_no_dependency(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"execnet-{execnet.__version__}.dist-info/METADATA").decode()
    lines = text.splitlines()
    assert "Requires-Python: >=3.9" in lines
    assert "License-Expression: MIT" in lines
    assert not [line for line in lines if line.startswith("Requires-Dist")]


@pytest.mark.needs("index")
def test_build_core_0_gives_a_wheel_for_any_platform(sources: Path, tmp_path: Path) -> None:
    wheel, _ = packages.build("wheel", sources, tmp_path / "pure", EXECNET_BUILD_CORE="0")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not has_core(wheel)
    venv = installed(wheel, tmp_path)
    assert core_of(venv) == "portable"
    assert_the_main_job_runs(venv)


def without_compiler(sources: Path, folder: Path, **extra: str) -> tuple[Path, str]:
    # In a folder of its own: the objects of an earlier build would not need a compiler.
    copy = folder / "copy"
    shutil.copytree(sources, copy, ignore=packages.NOT_SOURCE)
    return packages.build("wheel", copy, folder / "built", CC=NO_COMPILER, **extra)


@pytest.mark.needs("index")
def test_without_a_compiler_a_warning_is_given_and_the_portable_core_installed(sources: Path, tmp_path: Path) -> None:
    wheel, said = without_compiler(sources, tmp_path)
    assert not has_core(wheel)
    assert "the C core execnet._core was not built" in said
    assert NO_COMPILER in said
    venv = installed(wheel, tmp_path)
    assert core_of(venv) == "portable"
    assert_the_main_job_runs(venv)


@pytest.mark.needs("index")
def test_build_core_1_makes_a_missing_compiler_an_error(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=NO_COMPILER):
        without_compiler(sources, tmp_path, EXECNET_BUILD_CORE="1")


def test_another_value_of_build_core_is_refused(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="EXECNET_BUILD_CORE must be unset, 0 or 1, not 'yes'"):
        packages.build("wheel", sources, tmp_path / "built", EXECNET_BUILD_CORE="yes")


def check_machine(sources: Path, *variables: str) -> str:
    """What make says about this machine before it builds anything; its exit status must tell of a lack."""
    done = subprocess.run(
        ["make", "--no-print-directory", "-s", "check-machine", *variables],
        cwd=sources,
        env=packages.environment(),
        capture_output=True,
        timeout=60,
    )
    assert done.returncode != 0
    return done.stderr.decode().splitlines()[0]


def python_without(word: str, folder: Path) -> str:
    """A Python that fails at each program in which `word` stands."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\ncase "$*" in *{word}*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("word, said", [("ensurepip", "apt-get install python3-venv"), ("Python.h", "python3-dev")])
def test_make_names_what_the_python_lacks_in_one_line(sources: Path, tmp_path: Path, word: str, said: str) -> None:
    line = check_machine(sources, f"PYTHON={python_without(word, tmp_path)}")
    assert line.startswith("make: ") and said in line


def test_make_names_a_missing_compiler_or_python_in_one_line(sources: Path) -> None:
    said = check_machine(sources, f"CC={NO_COMPILER}")
    assert said == f"make: no C compiler ({NO_COMPILER}) here: apt-get install gcc"
    assert "apt-get install python3" in check_machine(sources, "PYTHON=/nonexistent/python")


@pytest.mark.needs("index")
def test_the_release_is_built_the_same_twice_repaired_and_tried(sources: Path, tmp_path: Path) -> None:
    program = sources / "testing" / "support" / "wheels.py"
    name = interpreters.this().name
    said = packages.run([sys.executable, program, "dist", name], cwd=tmp_path, SOURCE_DATE_EPOCH="1700000000")
    files = sorted(path.name for path in (tmp_path / "dist").iterdir())
    core = "c" if wheels.has_own_wheel(interpreters.this()) else "portable"
    assert f"installed on {name}: {core} core, a value went there and back" in said
    assert len(files) == (3 if core == "c" else 2)
    assert f"execnet-{execnet.__version__}-py3-none-any.whl" in files
    for file in files:
        assert f"built twice, the same: {file}\n" in said
        assert re.search(rf"^{re.escape(file)} +\d+\.\d KiB$", said, re.MULTILINE)
        if "-cp" in file and not wheels.cannot_repair():
            assert re.search(r"(many|musl)linux_\d", file)


def test_a_wheel_above_the_limit_is_named(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("small.whl", "large.whl", "large.tar.gz")]
    for path in paths:
        path.write_bytes(b" " * (wheels.LIMIT_KIB * 1024 + ("large" in path.name)))
    assert wheels.too_large(paths) == ["large.whl"]
    assert wheels.table(paths[:1]) == f"small.whl   {wheels.LIMIT_KIB}.0 KiB"


def test_the_same_sdist_comes_out_whenever_it_is_packed(sdist: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first = wheels.with_one_time(sdist, tmp_path / sdist.name, 1700000000)
    again = wheels.with_one_time(first, tmp_path / "again" / sdist.name, 1700000000)
    assert first.read_bytes() == again.read_bytes()
    with tarfile.open(first) as archive:
        assert {member.mtime for member in archive.getmembers()} == {1700000000}
