"""What only the database knows of how things stand: looked up in a thread, at most every five seconds."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TypeVar

import msgspec
from django.conf import settings
from django.db import DatabaseError, connection

from accounting.rollups import lag
from providers.models import ProviderHealth

logger = logging.getLogger("ccproxy.watch")

FRESH = 5.0
# Whoever begins a look waits so long for it; then, as whoever comes during it, he gets what was known before.
PATIENCE = 0.5
# Seconds beyond two intervals after which the worker must have asked every provider.
LATE = 60.0

T = TypeVar("T")


class Probe(msgspec.Struct, frozen=True):
    """What the last one saw."""

    ok: bool
    checked_at: float
    latency_ms: int | None
    detail: str


class Seen(msgspec.Struct, frozen=True):
    is_known: bool = False  # the database has answered
    probes: Mapping[int, Probe] = {}  # of enabled providers
    rollup_lag: float | None = None

    def healthy(self, provider_id: int) -> bool | None:
        probe = self.probes.get(provider_id)
        return None if probe is None else probe.ok

    @property
    def last_probe(self) -> float | None:
        return max((probe.checked_at for probe in self.probes.values()), default=None)

    def worker_is_alive(self, now: float) -> bool | None:
        """By what it leaves behind; None where it had nothing to leave."""
        last = self.last_probe
        return None if last is None else now - last < 2 * settings.PROBE_SECONDS + LATE


class Watch:
    """One look at a time, however many ask and however long the database takes."""

    def __init__(self) -> None:
        self._seen = Seen()
        self._looked_at = -FRESH
        self._look: Future[Seen] | None = None

    async def seen(self) -> Seen:
        now = time.monotonic()
        if self._look is None and now - self._looked_at >= FRESH:
            self._look = Future()
            # A daemon: a database that does not answer keeps no process from ending.
            threading.Thread(target=look_into, args=(self._look,), name="watch", daemon=True).start()
            await asyncio.wait([asyncio.wrap_future(self._look)], timeout=PATIENCE)
        self._take()
        return self._seen

    def _take(self) -> None:
        look = self._look
        if look is None or not look.done():
            return
        self._look, self._looked_at, self._seen = None, time.monotonic(), look.result()


def look_into(future: Future[Seen]) -> None:
    """Never an error in the future: asyncio would log each that nobody waits for any more."""
    seen = Seen()
    try:
        seen = in_thread(look)
    except DatabaseError:
        pass  # the configuration's own look has logged it
    except Exception:
        logger.exception("what the database knows of the state of things cannot be read")
    future.set_result(seen)


def look() -> Seen:
    probes = {
        row.provider_id: Probe(row.ok, row.checked_at.timestamp(), row.latency_ms, row.detail)
        for row in ProviderHealth.objects.filter(provider__enabled=True)
    }
    return Seen(is_known=True, probes=probes, rollup_lag=lag())


def in_thread(work: Callable[[], T]) -> T:
    """For work in a thread: the connection that Django opens for it is closed again."""
    try:
        return work()
    finally:
        connection.close()
