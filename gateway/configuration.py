"""The running configuration of this process: an immutable snapshot, replaced when the version row has moved."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time

import msgspec
from channels.layers import get_channel_layer
from django.db import DatabaseError, close_old_connections, connection

from accounting.snapshot import Books, read_books
from providers.errors import NoProvider
from providers.models import CONFIGURATION_GROUP, ConfigVersion
from providers.routing import Routing
from providers.snapshot import read_routing

logger = logging.getLogger("ccproxy.configuration")


class Snapshot(msgspec.Struct, frozen=True):
    version: int
    routing: Routing
    books: Books


def read_snapshot() -> Snapshot:
    # The version first: what changes while we read makes the next look read again.
    version = ConfigVersion.current()
    return Snapshot(version, read_routing(), read_books())


class Configuration(threading.Thread):
    """Looks every second whether the version has moved. Polling is the truth; a message only hurries it."""

    def __init__(self, *, poll_seconds: float) -> None:
        super().__init__(name="configuration", daemon=True)
        self._poll_seconds = poll_seconds
        self._stop_asked = threading.Event()
        self._looked = threading.Event()
        self._snapshot: Snapshot | None = None
        self.failing_since: float | None = None

    @property
    def is_loaded(self) -> bool:
        return self._snapshot is not None

    @property
    def current(self) -> Snapshot:
        if self._snapshot is None:
            raise NoProvider("the gateway has not read its configuration yet: try again in a moment", retry_after=2)
        return self._snapshot

    def wait_for_first_look(self, seconds: float) -> None:
        """So that a server need not listen before it knows its keys. Passes in vain while the database is away."""
        self._looked.wait(seconds)

    def install(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def refresh(self) -> bool:
        """Whether a newer configuration was read. Raises DatabaseError."""
        if self._snapshot is not None and ConfigVersion.current() == self._snapshot.version:
            return False
        self.install(read_snapshot())
        return True

    def run(self) -> None:
        asyncio.run(self._watch())

    def stop(self) -> None:
        self._stop_asked.set()
        self.join(timeout=10)

    async def _watch(self) -> None:
        listener = Listener()
        while not self._stop_asked.is_set():
            await asyncio.to_thread(self._look)
            self._looked.set()
            await listener.heard(self._poll_seconds)
        await listener.close()
        await asyncio.to_thread(connection.close)

    def _look(self) -> None:
        try:
            changed = self.refresh()
        except DatabaseError as error:
            if self.failing_since is None:
                self.failing_since = time.time()
                logger.error("the configuration cannot be compared with the database: %s", str(error).strip())
            close_old_connections()
            connection.close()
            return
        self.failing_since = None
        if changed:
            logger.info("configuration %d is in force", self.current.version)


class Listener:
    """Hears that something changed, where a channel layer reaches other processes; is simply slow where none does."""

    def __init__(self) -> None:
        self._channel: str | None = None

    async def heard(self, seconds: float) -> None:
        """Returns when told of a change, after `seconds` at the latest."""
        layer = get_channel_layer()
        started = time.monotonic()
        if layer is not None:
            with contextlib.suppress(Exception):  # a layer's failure costs the hurry and nothing else
                async with asyncio.timeout(seconds):
                    if self._channel is None:
                        self._channel = await layer.new_channel()
                        await layer.group_add(CONFIGURATION_GROUP, self._channel)
                    await layer.receive(self._channel)
                    return
        await asyncio.sleep(max(0.0, seconds - (time.monotonic() - started)))

    async def close(self) -> None:
        layer = get_channel_layer()
        if layer is not None and self._channel is not None:
            with contextlib.suppress(Exception):
                await layer.group_discard(CONFIGURATION_GROUP, self._channel)
