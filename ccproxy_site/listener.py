"""Daphne's server and its listener: who may connect, who may ask, and what still runs.

Import it only when the event loop's policy is decided: Daphne makes its loop as it is imported.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from daphne import server
from daphne.http_protocol import HTTPFactory
from twisted.internet import defer, reactor

from ccproxy_site.connection import Connection, Request
from ccproxy_site.limits import Limits
from ccproxy_site.viewing import Socket, Viewing, socket_factory
from providers.errors import Busy, ProxyError
from providers.log_events import LogEvent, about

logger = logging.getLogger("ccproxy.server")

API = "/v1/"
# Seconds between two looks at the connections.
LOOK = 1.0


class Listener(HTTPFactory):
    """Makes the connections, up to a number, and looks after them."""

    def __init__(self, of: Server) -> None:
        super().__init__(of)
        self.limits = of.limits
        self.loop: asyncio.AbstractEventLoop = of.loop
        self.connections: set[Connection | Socket] = set()
        self.sockets = socket_factory()
        self._from: Counter[str] = Counter()
        self._refused = 0
        self.loop.call_later(LOOK, self._look)

    def buildProtocol(self, addr: Any) -> Connection | None:
        """None closes the connection at once."""
        limits = self.limits
        is_full = len(self.connections) >= limits.connections
        if is_full or 0 < limits.connections_per_address <= self._from[addr.host]:
            self._refused += 1
            return None
        return Connection(self)

    def enter(self, connection: Connection) -> None:
        self.connections.add(connection)
        self._from[connection.getPeer().host] += 1

    def replace(self, connection: Connection, socket: Socket) -> None:
        self.connections.remove(connection)
        self.connections.add(socket)
        self.server.viewers.add(socket)

    def leave(self, connection: Connection | Socket) -> None:
        self.connections.remove(connection)
        self.server.viewers.discard(connection)
        host = connection.getPeer().host
        self._from[host] -= 1
        if not self._from[host]:
            del self._from[host]

    def _look(self) -> None:
        self.loop.call_later(LOOK, self._look)
        now = monotonic()
        for connection in [*self.connections]:
            connection.look_after(now)
        if self._refused:
            logger.warning(
                "%d connections were closed at once, there are too many already",
                self._refused,
                extra=about(LogEvent.CONNECTIONS_REFUSED, connections=self._refused),
            )
            self._refused = 0

    def log(self, request: Any) -> None:
        """Twisted would format a line that goes nowhere."""


class Server(server.Server):
    """One process, on one socket. When it listens it says so."""

    def __init__(self, application: Any, listening: socket.socket, *, when_listening: Callable[[], None]) -> None:
        super().__init__(application, endpoints=["ours"], signal_handlers=False, verbosity=0, server_name="ccproxy")
        self.endpoints: list[str] = []  # Daphne would take a socket only as text
        self._socket = listening
        self.limits = Limits.from_settings()
        self.loop: asyncio.AbstractEventLoop = reactor._asyncioEventloop
        self.is_closing = False  # connections are not kept any more
        self.is_refusing = False  # and new requests not taken
        self.running: set[asyncio.Task[None]] = set()
        self.watching: set[asyncio.Task[None]] = set()  # the live view's tasks, which no end waits for
        self.viewers: set[Socket] = set()
        self._when_listening = when_listening
        self._port: Any = None
        self._slots_taken = self._shed = 0

    def run(self) -> None:
        # Daphne makes its factory by the name it knows it by; that name is the only way in.
        server.HTTPFactory = Listener
        reactor.callWhenRunning(self._listen)
        super().run()

    def _listen(self) -> None:
        listening = self._socket
        listening.setblocking(False)
        self._port = reactor.adoptStreamPort(listening.fileno(), listening.family, self.http_factory)
        listening.close()  # the reactor has its own
        self._when_listening()

    @property
    def connections_open(self) -> set[Connection | Socket]:
        listener: Listener = self.http_factory
        return listener.connections

    def stop_listening(self) -> None:
        self._port.stopListening()

    def take_slot(self, request: Request, path: str) -> ProxyError | None:
        """Why a new request is not taken. Health, the admin and what runs already are never shed."""
        if not path.startswith(API):
            return None
        if self.is_refusing:
            return Busy("this gateway is being restarted: try again in a moment", retry_after=2)
        if self._slots_taken >= self.limits.concurrent_requests:
            self._shed += 1
            # Not all of them at the same second again.
            return Busy("this gateway has too many requests at once: try again", retry_after=1 + self._shed % 3)
        self._slots_taken += 1
        request.has_slot = True
        return None

    def free_slot(self, request: Request) -> None:
        if request.has_slot:
            request.has_slot = False
            self._slots_taken -= 1

    def start(self, request: Request, scope: dict[str, Any]) -> None:
        task = self.loop.create_task(self.application(scope, request.receive, request.send))
        self.running.add(task)
        task.add_done_callback(partial(self._ended, request))

    def _ended(self, request: Request, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        exception = None if task.cancelled() else task.exception()
        if exception is not None:
            logger.error("the application failed on a request", exc_info=exception)
        request.application_ended(exception)

    def watch(self, viewing: Viewing, scope: dict[str, Any]) -> None:
        task = self.loop.create_task(self.application(scope, viewing.receive, viewing.send))
        self.watching.add(task)
        task.add_done_callback(partial(self._watched, viewing))

    def _watched(self, viewing: Viewing, task: asyncio.Task[None]) -> None:
        self.watching.discard(task)
        if not task.cancelled():
            if task.exception() is not None:
                logger.error("the live view failed", exc_info=task.exception())
            viewing.application_ended()

    def send_viewers_away(self) -> None:
        for viewer in [*self.viewers]:
            viewer.go_away()

    def kill_all_applications(self) -> defer.Deferred[Any]:
        """At the very end, after the drain."""
        tasks = [*self.running, *self.watching]
        for task in tasks:
            task.cancel()
        return defer.Deferred.fromFuture(asyncio.gather(*tasks, return_exceptions=True))
