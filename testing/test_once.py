"""What is made once in a test run is made by one of its processes, and whole for all others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.once import Once

PROGRAM = """
import sys, time
from pathlib import Path
from support.once import Once

def make(folder):
    with (folder / "made").open("a") as file:
        file.write("by one\\n")
    time.sleep(0.1)
    (folder / "whole").touch()

print((Once(Path(sys.argv[1]))("it", make) / "whole").exists())
"""


def test_of_several_processes_one_makes_it_and_the_others_wait(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    folder = Path(__file__).parent
    processes = [subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["True\n"] * 4
    assert (tmp_path / "it" / "made").read_text() == "by one\n"


def test_what_could_not_be_made_is_made_anew_by_whoever_comes_next(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise LookupError("it")

    once = Once(tmp_path)
    for _ in range(2):
        with pytest.raises(LookupError):
            once("it", fail)
    assert list(once("it", lambda folder: (folder / "whole").touch()).iterdir()) == [tmp_path / "it" / "whole"]
