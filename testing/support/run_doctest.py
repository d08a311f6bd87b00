"""Run the examples of one documentation page here, end their gateways, and fail if anything is left over."""

from __future__ import annotations

import doctest
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import leaks
from support.shown import Checker

TERMINATE_SECONDS = 5.0


def main(page: str) -> int:
    """The exit status: 0 if each example of `page` gave what it shows and left nothing."""
    sys.path.insert(0, os.getcwd())
    if leaks.MARK not in os.environ:
        leaks.mark_session()
    before = leaks.Snapshot.take()
    import execnet

    text = Path(page).read_text("utf-8")
    examples = doctest.DocTestParser().get_doctest(text, {"__name__": "__main__"}, page, page, 0)
    result = doctest.DocTestRunner(Checker()).run(examples)
    execnet.default_group.terminate(TERMINATE_SECONDS)
    left = leaks.wait_for_none(before)
    print(f"{result.attempted} examples, {result.failed} failed")
    for line in left:
        print("left over:", line)
    return 1 if result.failed or left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
