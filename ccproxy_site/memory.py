"""When garbage is collected, and when memory goes back to the system: not in the middle of a thousand streams.

Python collects by the number of new objects, whatever goes on: over a thousand slow streams that was the tail of the
delays (p99 70 to 90 ms, and 4 without it). An answer leaves no cycles behind, so nearly nothing is there to be found.
And the C library keeps freed memory for itself: after two hundred slow readers the process stayed 160 MB larger.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path

# Seconds between two looks.
LOOK = 5.0
# Objects made and not freed since the last collection: worth one while nothing runs, and too many whatever runs.
WORTH_WHILE, TOO_MANY = 2_000, 1_000_000
# After so many collections of what is new alone, what has survived them is looked at too.
MOST_YOUNG = 10
# Bytes that a process must have grown for giving back to be worth while.
GROWN = 8 * 1024 * 1024

# glibc has it; musl gives memory back by itself.
_give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)


def take_over() -> None:
    """What is there now is there for good: no collection looks at it again."""
    gc.collect()
    gc.freeze()
    gc.disable()


def resident() -> int:
    """In bytes. Raises OSError where there is no /proc."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def tidy_up(is_idle: Callable[[], bool]) -> None:
    """For as long as the process lives."""
    least = 0
    with contextlib.suppress(OSError):
        least = resident()
    while True:
        await asyncio.sleep(LOOK)
        young = gc.get_count()[0]
        if young > WORTH_WHILE and is_idle():
            gc.collect()
        elif young > TOO_MANY:
            gc.collect(0 if gc.get_count()[1] < MOST_YOUNG else 2)
        with contextlib.suppress(OSError):  # no descriptor is left: the next look may find one
            least = min(least or resident(), resident())
            if _give_back is not None and resident() - least > GROWN:
                # Also when it was in vain the last time: what was in use then may be free now. It takes milliseconds.
                await asyncio.to_thread(_give_back, 0)
