"""The build of the optional C core, execnet._core; everything else stands in pyproject.toml.

Environment:

EXECNET_BUILD_CORE   unset: build the core where that is possible, else warn and install without it
                     1: a core that can't be built is an error
                     0: never build it
EXECNET_WERROR       1: compiler warnings are errors and asserts stay on
"""

import glob
import os
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

WANTED = os.environ.get("EXECNET_BUILD_CORE", "")
STRICT = os.environ.get("EXECNET_WERROR", "") == "1"
POSIX_FLAGS = ["-std=c11", "-O2", "-fvisibility=hidden"]
# Without POSIX there are only values in C: what connections need of the system is not there.
VALUES_ONLY = sys.platform == "win32"
SOURCES = ["csrc/module.c", "csrc/values/*.c"] if VALUES_ONLY else ["csrc/**/*.c"]
STRICT_FLAGS = ["-Wall", "-Wextra", "-Werror", "-UNDEBUG"]


class BuildCore(build_ext):
    """build_ext that installs execnet without its C core where the core is optional and can't be built."""

    def build_extension(self, ext):
        if self.compiler.compiler_type == "msvc":
            ext.extra_compile_args = ["/std:c11"]
        else:
            ext.extra_compile_args = POSIX_FLAGS + (STRICT_FLAGS if STRICT else [])
        if WANTED == "1":
            super().build_extension(ext)
            return
        try:
            super().build_extension(ext)
        except Exception as error:  # compilers fail in many ways; none may stop a pure install
            self.warn(
                "the C core execnet._core was not built, execnet runs on its portable core instead "
                f"(EXECNET_BUILD_CORE=1 makes this an error, =0 does not try): {error}"
            )


def core_extensions():
    """The extensions to build for this interpreter and environment."""
    if WANTED not in ("", "0", "1"):
        raise SystemExit(f"EXECNET_BUILD_CORE must be unset, 0 or 1, not {WANTED!r}")
    if WANTED == "0":
        return []
    if sys.implementation.name != "cpython":
        if WANTED == "1":
            raise SystemExit(f"EXECNET_BUILD_CORE=1, but the C core is for CPython, not {sys.implementation.name}")
        return []
    return [
        Extension(
            "execnet._core",
            sources=sorted(path for pattern in SOURCES for path in glob.glob(pattern, recursive=True)),
            include_dirs=["csrc"],
            define_macros=[("CORE_HAS_VALUES_ONLY", None)] if VALUES_ONLY else [],
            depends=sorted(glob.glob("csrc/**/*.h", recursive=True)),
            optional=WANTED != "1",
        )
    ]


setup(ext_modules=core_extensions(), cmdclass={"build_ext": BuildCore})
