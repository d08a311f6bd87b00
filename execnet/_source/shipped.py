"""The text of `execnet.gateway_base` as it is sent to interpreters that have no execnet: stripped, then compressed."""

from __future__ import annotations

from execnet import gateway_base

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from typing import Any

SHIPPED_NAME = "<execnet.gateway_base>"  # the file name that far tracebacks show

SHIPPED_START = """\
import binascii, zlib
exec(compile(zlib.decompress(binascii.a2b_base64('{text}')), '{name}', 'exec'))
"""

# Comments, docstrings that have their lines to themselves, the strings in which either would be something else, and
# indentation.
STRIPPED = (
    r'^(?P<indent> *)(?P<docstring>"""(?:.|\n)*?""")$|"""(?:.|\n)*?"""'
    r"""|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'| *#.*|^ +"""
)
_shipped: dict[str, str] = {}


def shipped_text() -> str:
    """The source of gateway_base without comments and texts of docstrings, indented by one space, its lines kept.

    Made once per process.
    """
    if "text" not in _shipped:
        loader: Any = gateway_base.__spec__.loader
        _shipped["text"] = strip_source(loader.get_source(gateway_base.__name__))
    return _shipped["text"]


def strip_source(source: str) -> str:
    """``source`` without comments, line for line, its docstrings empty; only what is quoted by ``\"\"\"`` is one.

    It is indented by one space for every four.
    """
    import re  # lazy: start-up speed

    def stripped(part: re.Match[str]) -> str:
        if part["docstring"]:
            return part["indent"][::4] + '""' + "\n" * part["docstring"].count("\n")
        if part[0].isspace():
            return part[0][::4]
        return "" if part[0].lstrip().startswith("#") else part[0]

    return re.sub(STRIPPED, stripped, source, flags=re.MULTILINE)


def packed_text() -> str:
    """The program that executes that text, which it holds compressed; made once per process."""
    if "packed" not in _shipped:
        import binascii  # lazy: start-up speed
        import zlib  # lazy: start-up speed

        # Not base64, which imports re on the far side.
        packed = binascii.b2a_base64(zlib.compress(shipped_text().encode("ascii"), 9), newline=False)
        _shipped["packed"] = SHIPPED_START.format(text=packed.decode("ascii"), name=SHIPPED_NAME)
    return _shipped["packed"]
