"""Run with "c" or "portable": the execnet that is installed has that core, and a value goes there and back."""

import sys

import execnet
import execnet.gateway_base

SECONDS = 60.0


def main(core: str) -> None:
    """Raise, or print which core it was."""
    found = execnet.gateway_base.core
    if found != core:
        raise SystemExit(f"{sys.executable}: execnet has the {found} core, not the {core} core")
    group = execnet.Group()
    channel = group.makegateway("popen").remote_exec("channel.send(channel.receive())")
    value = ["there and back", {"again": 1.5}]
    channel.send(value)
    assert channel.receive(SECONDS) == value
    group.terminate(SECONDS)
    print(f"{found} core, a value went there and back")


if __name__ == "__main__":
    main(*sys.argv[1:])
