"""A program that writes and reads values with the execnet it can import, asked over its pipes.

Both the oracle's execnet and ours run it, each in its own process with the same hash seed: then sets have the same
order in both. A request is an operation and its argument, an answer an outcome and its value, all by marshal.
"""

from __future__ import annotations

import marshal
import resource
import sys
from typing import Any, BinaryIO

# 2.1.2 builds any list that a few changed bytes claim; here it fails soon instead. A free-threaded build has reserved a
# gibibyte of addresses when it begins.
MORE_ADDRESSES = 128 << 20


class Odd:
    """Something execnet does not serialize."""


def answer(operation: str, argument: Any) -> Any:
    import execnet

    if operation == "dumps":
        return execnet.dumps(argument)
    if operation == "dumps expression":
        return execnet.dumps(eval(argument, {"Odd": Odd, "execnet": execnet}))
    assert operation == "loads", operation
    data, options = argument
    return execnet.loads(data, **options)


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    while True:
        try:
            operation, argument = marshal.load(requests)
        except EOFError:
            return
        try:
            reply = marshal.dumps(("value", answer(operation, argument)))
        except Exception as error:  # whatever it is, it is the outcome to compare
            reply = marshal.dumps(("error", (type(error).__name__, str(error))))
        answers.write(reply)
        answers.flush()


if __name__ == "__main__":
    with open("/proc/self/statm") as sizes:
        limit = int(sizes.read().split()[0]) * resource.getpagesize() + MORE_ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    serve(sys.stdin.buffer, sys.stdout.buffer)
