"""Compares what an example prints with what its page shows: real output of one run, which differs in the next."""

from __future__ import annotations

import doctest
import re

# What differs from run to run or from machine to machine, and what is put in its place before the two are compared.
VARYING = [
    # Pages leave out the lines of a traceback that are execnet's own.
    (r'^ *File "(?:[^"\n]*/execnet/(?:\w+/)?\w+\.py|<execnet\.\w+>)", line .*\n(?:    .*\n)*', ""),
    (r"^[ ~^]*[~^]\n", ""),  # what Python 3.11 and newer mark in a line of code
    (r'File "[^"\n]*/([^"/\n]+)", line', r'File "\1", line'),
    (r"\bprocess \d+", "process PID"),
    (r"\b127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
    (r"\b(?:CPython|PyPy) \d+\.\d+\.\d+\S*", "PYTHON"),
    (r"^execnet \S+ on .*", "execnet VERSION on PYTHON"),
    # A row of the table that `python -m execnet` prints.
    (r"^(\S+ +\S+) +PYTHON +\w+ .*", r"\1 FIGURES"),
    # A row of the table that `execnet timeline` prints.
    (r"^(gw\d+) +\d+\.\d{3} +\d+\.\d{3} +.*", r"\1 SECONDS"),
    # What the portable core says with other details.
    (r"(\(already closed\?\)): .*", r"\1"),
    (r"\b(?:the )?value ends (?:early|within).*", "value ends early"),
    (r"\s+in the value's first \d+ bytes", ""),  # a note, from Python 3.11 on
]


class Checker(doctest.OutputChecker):
    """Compares without what varies, and without regard to how lines are broken."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        """Whether the output `got` is what `want` shows."""
        return super().check_output(comparable(want), comparable(got), doctest.ELLIPSIS)


def comparable(output: str) -> str:
    """`output` on one line, what varies put in a common form."""
    for pattern, common in VARYING:
        output = re.sub(pattern, common, output, flags=re.MULTILINE)
    return " ".join(output.split())
