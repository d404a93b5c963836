"""Garbage is collected when nothing runs, and freed memory goes back to the system."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import weakref

import pytest

from ccproxy_site import memory

# In a process of its own: what other tests have freed is given back as well.
PROGRAM = """
import asyncio
from ccproxy_site import memory

async def main():
    memory.LOOK = 0.05
    before = memory.resident()
    task = asyncio.create_task(memory.tidy_up(lambda: True))
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
    assert resident_after(PROGRAM.replace("memory.tidy_up(lambda: True)", "asyncio.sleep(0)")) > 100


class Cycle:
    def __init__(self) -> None:
        self.itself = self


@pytest.mark.parametrize(
    ("idle", "too_many", "is_kept"), [(True, 10**9, False), (False, 10**9, True), (False, 1, False)]
)
async def test_garbage_is_collected_when_nothing_runs_or_there_is_too_much(
    idle: bool, too_many: int, is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "LOOK", 0.01)
    monkeypatch.setattr(memory, "WORTH_WHILE", 1)
    monkeypatch.setattr(memory, "TOO_MANY", too_many)
    gc.collect()
    gc.disable()
    try:
        garbage = weakref.ref(Cycle())
        others = [[] for _ in range(1000)]  # type: ignore[var-annotated]
        task = asyncio.create_task(memory.tidy_up(lambda: idle))
        await asyncio.sleep(0.1)
        task.cancel()
        assert (garbage() is not None) is is_kept
    finally:
        gc.enable()
    assert len(others) == 1000
