"""Compiles providers/_hot.py where a compiler is at hand; everything else about the package is in pyproject.toml.

`python setup.py build_ext --inplace` does it in a checkout. CCPROXY_BUILD_CYTHON=false leaves it out; a failure leaves
it out too and says so: the gateway then runs the same loops uncompiled.
"""

import os
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

WANTED = os.environ.get("CCPROXY_BUILD_CYTHON", "true").strip().lower() not in {"false", "0", "no", "off"}


class OptionalBuild(build_ext):
    def run(self) -> None:
        try:
            super().run()
        except Exception as error:  # noqa: BLE001 - whatever a compiler does, the package works without it
            print(f"The compiled loops were not built, the gateway runs without them: {error}", file=sys.stderr)


def extensions() -> list[Extension]:
    if not WANTED:
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        print("The compiled loops were not built: Cython is not installed", file=sys.stderr)
        return []
    hot = Extension("providers._hot_c", ["providers/_hot.py"])
    # The annotations are for readers and mypy; the types that count stand in the .pxd.
    directives = {"annotation_typing": False, "language_level": 3}
    try:
        return list(cythonize([hot], compiler_directives=directives, quiet=True, build_dir="build/cython"))
    except Exception as error:  # noqa: BLE001 - as above
        print(f"The compiled loops were not built, the gateway runs without them: {error}", file=sys.stderr)
        return []


setup(ext_modules=extensions(), cmdclass={"build_ext": OptionalBuild})
