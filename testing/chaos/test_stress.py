"""The stress program over both cores: EXECNET_STRESS_SECONDS each; half an hour in chaos, else half a minute."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable

import pytest
import stress
from support.programs import end_group

import execnet

CHAOS = os.environ.get("EXECNET_CHAOS") == "long"
SECONDS = float(os.environ.get("EXECNET_STRESS_SECONDS", 1800 if CHAOS else 30))
CORES = ["c", "portable"] if execnet.gateway_base.core == "c" else ["portable"]
# What the last round and the showing of threads may take beyond it.
PATIENCE = 20.0
AFTERWARDS = 8 * PATIENCE + stress.ROUND_SECONDS


@pytest.mark.timeout(SECONDS + AFTERWARDS + 60)
@pytest.mark.parametrize("core", CORES)
def test_no_wait_is_lost_and_no_item(core: str, dice: random.Random, report: Callable[[str], None]) -> None:
    arguments = ["--seed", dice.randrange(1 << 32), "--seconds", SECONDS, "--core", core, "--patience", PATIENCE]
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
        output, _ = process.communicate(timeout=SECONDS + AFTERWARDS)
    finally:
        end_group(process.pid)
        process.wait(PATIENCE)
    assert process.returncode == 0, output
    report(f"stress over the {core} core: {output.splitlines()[-1]}")
