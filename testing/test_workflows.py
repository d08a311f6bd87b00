"""The workflows of continuous integration and of a release, as far as they can be held without running them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.packages import CHECKOUT

WORKFLOWS = sorted((CHECKOUT / ".github" / "workflows").glob("*.yml"))
USES = re.compile(r"^\s*(?:- )?uses: *(.*)$", re.MULTILINE)
# By commit, which nobody can move, with the name of the release beside it; or a workflow of this repository.
PINNED = re.compile(r"[\w-]+/[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*$|\./\.github/workflows/\w+\.yml$")
NEEDS_FILE = re.compile(r"[\w./]*(testing/support/\w+\.py)")


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.name)
def text(request: pytest.FixtureRequest) -> str:
    path: Path = request.param
    return path.read_text("utf-8")


def test_every_action_is_pinned_by_its_commit(text: str) -> None:
    uses = USES.findall(text)
    assert uses
    assert [name for name in uses if not PINNED.match(name)] == []


def test_what_they_run_is_there(text: str) -> None:
    assert [path for path in NEEDS_FILE.findall(text) if not (CHECKOUT / path).is_file()] == []
    targets = re.findall(r"make (\w+)", text)
    makefile = (CHECKOUT / "Makefile").read_text("utf-8")
    assert [name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []


def test_nothing_may_write_but_the_job_that_publishes(text: str) -> None:
    assert "permissions:\n  contents: read\n" in text
    assert re.findall(r"^ +([\w-]+): write$", text, re.MULTILINE) in ([], ["id-token"])


def test_pyproject_has_a_round_trip_over_the_c_core_with_each_wheel_of_a_release() -> None:
    settings = (CHECKOUT / "pyproject.toml").read_text("utf-8")
    assert 'test-command = "python {project}/testing/support/round_trip.py c"' in settings
