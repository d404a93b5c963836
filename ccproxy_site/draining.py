"""How a web process ends: what runs may finish, what cannot is told, and the ledger has all of it."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable

from twisted.internet import reactor

from ccproxy_site.connection import FAREWELL
from ccproxy_site.listener import Server
from gateway.runtime import Runtime
from providers.errors import BrokenOff
from providers.log_events import LogEvent, about

logger = logging.getLogger("ccproxy.server")

# Seconds for the last events to reach their clients once the calls to providers are broken off.
LAST_EVENTS = 2.0
NAP = 0.05


class Drain:
    """SIGTERM begins it, a second one cuts it short; SIGHUP begins it where a successor has the same socket."""

    def __init__(self, server: Server, runtime: Runtime, *, seconds: float) -> None:
        self._server = server
        self._runtime = runtime
        self._seconds = seconds
        self._loop = server.loop
        self._task: asyncio.Task[None] | None = None
        self._is_hurried = False

    def listen_to_signals(self) -> None:
        self._loop.add_signal_handler(signal.SIGTERM, self.begin)
        self._loop.add_signal_handler(signal.SIGINT, self.begin)
        self._loop.add_signal_handler(signal.SIGHUP, self.hand_over)

    def begin(self) -> None:
        if self._task is not None:
            self._is_hurried = True
            return
        running = len(self._server.running)
        logger.info(
            "ending: %d requests may run on for %g s",
            running,
            self._seconds,
            extra=about(LogEvent.ENDING, requests=running),
        )
        self._runtime.ending = True
        self._server.is_closing = True
        self._server.send_viewers_away()
        self._task = self._loop.create_task(self._drain(self._nothing_runs))
        # Whoever spreads the load needs a moment to look elsewhere.
        self._loop.call_later(FAREWELL, self._take_nothing_new)

    def hand_over(self) -> None:
        """A successor takes what comes: nothing new is accepted here, and no connection is cut at a bad moment."""
        if self._task is None:
            self._server.stop_listening()
            self._server.is_closing = True
            self._runtime.ending = True
            for connection in self._server.connections_open:
                connection.close_soon()
            self._task = self._loop.create_task(self._drain(self._nobody_is_here))

    async def _drain(self, is_done: Callable[[], bool]) -> None:
        await self._wait(self._seconds, is_done)
        self._take_nothing_new()
        if self._server.running:
            running = len(self._server.running)
            logger.warning(
                "%d requests are broken off", running, extra=about(LogEvent.REQUESTS_BROKEN_OFF, requests=running)
            )
            self._runtime.upstreams.break_off(BrokenOff("the gateway is being restarted: try again", retry_after=2))
            self._is_hurried = False
            await self._wait(LAST_EVENTS, self._nothing_runs)
        try:
            await asyncio.wait_for(self._runtime.upstreams.close(), LAST_EVENTS)
        except Exception:
            logger.exception("the connections to providers could not be closed in order")
        finally:
            reactor.stop()

    async def _wait(self, seconds: float, is_done: Callable[[], bool]) -> None:
        until = self._loop.time() + seconds
        while not is_done() and not self._is_hurried and self._loop.time() < until:  # noqa: ASYNC110 - three causes
            await asyncio.sleep(NAP)

    def _nothing_runs(self) -> bool:
        """And everything has left that was answered."""
        return not self._server.running and not any(each.has_unsent for each in self._server.connections_open)

    def _nobody_is_here(self) -> bool:
        return not self._server.running and not self._server.connections_open

    def _take_nothing_new(self) -> None:
        self._server.is_refusing = True
        for connection in [*self._server.connections_open]:
            connection.close_idle()
