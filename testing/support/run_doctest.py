"""Run the examples of one documentation page here, end their gateways, and fail if anything is left over."""

from __future__ import annotations

import doctest
import os
import sys

import leaks

TERMINATE_SECONDS = 5.0
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def main(page: str) -> int:
    """The exit status: 0 if each example of `page` gave what it shows and left nothing."""
    sys.path.insert(0, os.getcwd())
    if leaks.MARK not in os.environ:
        leaks.mark_session()
    before = leaks.Snapshot.take()
    import execnet

    result = doctest.testfile(page, module_relative=False, optionflags=OPTIONS, encoding="utf-8")
    execnet.default_group.terminate(TERMINATE_SECONDS)
    left = leaks.wait_for_none(before)
    print(f"{result.attempted} examples, {result.failed} failed")
    for line in left:
        print("left over:", line)
    return 1 if result.failed or left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
