"""The loops of providers._hot: compiled where they were built and are not switched off, else as they stand there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

# Not by way of the settings: the pure modules import this one, and they know no Django.
WANTED = os.environ.get("CCPROXY_ENABLE_CYTHON", "true").strip().lower() not in {"false", "0", "no", "off"}
COMPILED = False

if TYPE_CHECKING or not WANTED:
    from providers._hot import frames, scan
else:
    try:
        from providers._hot_c import frames, scan

        COMPILED = True
    except ImportError:  # not built here: the same results, later
        from providers._hot import frames, scan

__all__ = ["COMPILED", "WANTED", "frames", "scan", "state"]


def state() -> str:
    """For people."""
    if COMPILED:
        return "in use"
    return "not built" if WANTED else "switched off"
