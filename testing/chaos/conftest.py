"""How long chaos lasts, and the seed of all that is random in it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
from chaos.activities import LONG, SHORT, Size


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos")
    group.addoption("--seed", type=int, help="repeat what is random as in the run that printed this seed")
    group.addoption("--rounds", type=int, help="rounds of each kind of kill")


@pytest.fixture(scope="session")
def size(pytestconfig: pytest.Config) -> Size:
    """The size of this run: long with EXECNET_CHAOS=long."""
    size = LONG if os.environ.get("EXECNET_CHAOS") == "long" else SHORT
    rounds = pytestconfig.getoption("rounds", None)
    return size if rounds is None else size._replace(rounds=rounds)


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    """What the tests' random numbers begin with."""
    given = pytestconfig.getoption("seed", None)
    return random.SystemRandom().randrange(1 << 32) if given is None else given


@pytest.fixture
def dice(seed: int, request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of this test's own; a test that fails shows the seed."""
    print(f"repeat with: --seed {seed}")
    return random.Random(f"{seed} {request.node.name}")


@pytest.fixture
def report(request: pytest.FixtureRequest, seed: int) -> Callable[[str], None]:
    """Prints a line of figures, past pytest's capture."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def print_line(line: str) -> None:
        if os.environ.get("EXECNET_CHAOS"):
            with capture.global_and_fixture_disabled():
                print(f"\n  {line} (seed {seed})", end="", flush=True)

    return print_line


@pytest.fixture(autouse=True)
def short_lost_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that lose their connection leave sooner; those over ssh keep the default."""
    monkeypatch.setenv("EXECNET_LOST_TIMES", "0.1,0.4")
