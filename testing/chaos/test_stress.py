"""The stress program over both cores, with everything and with groups alone: an hour in chaos, else a minute.

EXECNET_STRESS_SECONDS says how many seconds each of the four takes.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable

import pytest
from chaos import stress
from support.programs import end_group

import execnet

CHAOS = os.environ.get("EXECNET_CHAOS") == "long"
# What is played, and for how many seconds.
PARTS = {"": 900 if CHAOS else 20, "groups": 900 if CHAOS else 10}
CORES = ["c", "portable"] if execnet.gateway_base.core == "c" else ["portable"]
# What the last round and the showing of threads may take beyond it.
PATIENCE = 30.0
AFTERWARDS = 8 * PATIENCE + stress.ROUND_SECONDS


@pytest.mark.timeout(float(os.environ.get("EXECNET_STRESS_SECONDS", max(PARTS.values()))) + AFTERWARDS + 60)
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("part", PARTS, ids=["everything", "groups"])
def test_no_wait_is_lost_and_no_item_and_no_gateway(
    part: str, core: str, dice: random.Random, report: Callable[[str], None]
) -> None:
    seconds = float(os.environ.get("EXECNET_STRESS_SECONDS", PARTS[part]))
    arguments = ["--seed", dice.randrange(1 << 32), "--seconds", seconds, "--core", core, "--patience", PATIENCE]
    if part:
        arguments += ["--only", part]
    environ = {name: value for name, value in os.environ.items() if name != "EXECNET_LOST_TIMES"}
    process = subprocess.Popen(
        [sys.executable, stress.__file__, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environ,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds + AFTERWARDS)
    finally:
        end_group(process.pid)
        process.wait(PATIENCE)
    assert process.returncode == 0, output
    report(f"stress with {part or 'everything'} over the {core} core: {output.splitlines()[-1]}")
