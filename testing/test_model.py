"""The state machines of csrc/connection, in all states of small worlds: the short `make model`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXPLORER = Path(__file__).resolve().parent / "model" / "explorer.py"
SECONDS = 120

pytestmark = [
    pytest.mark.timeout(SECONDS),
    pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc").split()[0]) is None, reason="no C compiler here"),
]


def test_no_wait_is_lost_in_any_state_of_the_small_worlds() -> None:
    run = subprocess.run(
        [sys.executable, EXPLORER, "--short"], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "worlds, no violation" in run.stdout
