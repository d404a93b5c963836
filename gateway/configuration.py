"""The running configuration of this process: an immutable snapshot, replaced when the version row has moved."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from typing import Any

import msgspec
from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.db import DatabaseError, close_old_connections, connection

from accounting.snapshot import Books, read_books
from gateway.running import Overview
from providers import weighing
from providers.errors import NoProvider
from providers.log_events import LogEvent, about
from providers.models import CONFIGURATION_GROUP, ConfigVersion, configuration_changed
from providers.routing import Routing
from providers.snapshot import read_routing

logger = logging.getLogger("ccproxy.configuration")

# Seconds before a channel layer that failed is listened to again.
LAYER_PAUSE = 5.0
# Seconds between two entries in the layer's groups, which forget their members after a day.
LAYER_ENTRY = 3600.0
# Seconds after which a database that has not answered counts as away.
PATIENCE = 5.0


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
        self._wake = threading.Event()
        self._stop_asked = False
        self._looked = threading.Event()
        self._snapshot: Snapshot | None = None
        self._failing_since: float | None = None
        self._looking_since: float | None = None

    @property
    def is_loaded(self) -> bool:
        return self._snapshot is not None

    @property
    def failing_since(self) -> float | None:
        """Since when the database says nothing; where its packets vanish, silence is all that ever shows."""
        looking = self._looking_since
        if self._failing_since is None and looking is not None and time.time() - looking > PATIENCE:
            return looking
        return self._failing_since

    @property
    def current(self) -> Snapshot:
        if self._snapshot is None:
            raise NoProvider("the gateway has not read its configuration yet: try again in a moment", retry_after=2)
        return self._snapshot

    def install(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def refresh(self) -> bool:
        """Whether a newer configuration was read. Raises DatabaseError."""
        if self._snapshot is not None and ConfigVersion.current() == self._snapshot.version:
            return False
        self.install(read_snapshot())
        return True

    def wait_for_first_look(self, seconds: float) -> None:
        """So that a server need not listen before it knows its keys. Passes in vain while the database is away."""
        self._looked.wait(seconds)

    def run(self) -> None:
        configuration_changed.connect(self.look_now)
        while not self._stop_asked:
            self._looking_since = time.time()
            self._look()
            self._looking_since = None
            self._looked.set()
            self._wake.wait(self._poll_seconds)
            self._wake.clear()
        connection.close()

    def look_now(self, **_: object) -> None:
        """Somebody has changed the configuration, in this process or in another."""
        self._wake.set()

    def stop(self) -> None:
        configuration_changed.disconnect(self.look_now)
        self._stop_asked = True
        self._wake.set()
        self.join(timeout=10)

    def _warm_up(self) -> None:
        """What the providers that came need to be counted for is loaded here: the event loop must not wait for it."""
        try:
            weighing.warm(self.current.routing.endpoints)
        except Exception:
            logger.exception("no tokens can be counted: the vocabulary cannot be read")

    def _look(self) -> None:
        try:
            changed = self.refresh()
        except DatabaseError as error:
            if self._failing_since is None:
                self._failing_since = time.time()
                logger.error(
                    "the configuration cannot be compared with the database: %s",
                    str(error).strip(),
                    extra=about(LogEvent.CONFIGURATION_UNREADABLE),
                )
            connection.close()
            return
        except Exception:
            # A row no code of ours could have written: what is in force stays in force.
            logger.exception(
                "the configuration in the database cannot be read", extra=about(LogEvent.CONFIGURATION_UNREADABLE)
            )
            self._failing_since = self._failing_since or time.time()
            return
        close_old_connections()
        self._failing_since = None
        if changed:
            version = self.current.version
            logger.info(
                "configuration %d is in force", version, extra=about(LogEvent.CONFIGURATION_IN_FORCE, version=version)
            )
            self._warm_up()


class Listener(threading.Thread):
    """Hears of changes, and what siblings run, through the channel layer that all processes share.

    Where the layer fails, only the hurry is lost, and the siblings' part of the live view.
    """

    def __init__(self, configuration: Configuration, overview: Overview) -> None:
        super().__init__(name="configuration-listener", daemon=True)
        self._configuration = configuration
        self._overview = overview

    def run(self) -> None:
        layer = get_channel_layer()
        if layer is not None and not isinstance(layer, InMemoryChannelLayer):
            asyncio.run(self._listen(layer))

    async def _listen(self, layer: Any) -> None:
        while True:
            with contextlib.suppress(Exception):
                channel = await layer.new_channel()
                while True:
                    await layer.group_add(CONFIGURATION_GROUP, channel)
                    await self._overview.join(layer, channel)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LAYER_ENTRY):
                            await self._hear_all(layer, channel)
            self._overview.leave()
            await asyncio.sleep(LAYER_PAUSE)

    async def _hear_all(self, layer: Any, channel: str) -> None:
        while True:
            message = await layer.receive(channel)
            if message["type"] == "configuration.changed":
                self._configuration.look_now()
            else:
                await self._overview.hear(message)
