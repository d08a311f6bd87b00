"""The portable twin: execnet/gateway_base.py loaded a second time, over the portable core."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

import execnet

PORTABLE_TWIN = "gateway_base_portable"


def load_portable_twin() -> ModuleType:
    """`execnet/gateway_base.py` under a second name, over the portable core."""
    if PORTABLE_TWIN in sys.modules:
        return sys.modules[PORTABLE_TWIN]
    spec = importlib.util.spec_from_file_location(PORTABLE_TWIN, execnet.gateway_base.__file__)
    assert spec is not None and spec.loader is not None
    twin = importlib.util.module_from_spec(spec)
    sys.modules[PORTABLE_TWIN] = twin
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXECNET_PURE", "1")
        spec.loader.exec_module(twin)
    assert twin.core == "portable"
    return twin
