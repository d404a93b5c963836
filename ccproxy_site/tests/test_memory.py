"""Freed memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

# In a process of its own: what other tests have freed is given back as well.
PROGRAM = """
import asyncio
from ccproxy_site import memory

async def main():
    memory.LOOK = 0.05
    before = memory.resident()
    task = asyncio.create_task(memory.give_back())
    await asyncio.sleep(0.01)
    blocks = [bytes(100_000) for _ in range(2000)]
    held = blocks[::50]  # the last one keeps the heap from shrinking by itself
    del blocks
    await asyncio.sleep(0.5)
    print((memory.resident() - before) // 2**20)
    task.cancel()

asyncio.run(main())
"""


def resident_after(program: str) -> int:
    return int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)


def test_what_was_freed_is_given_back() -> None:
    assert resident_after(PROGRAM) < 30
    assert resident_after(PROGRAM.replace("memory.give_back()", "asyncio.sleep(0)")) > 100
