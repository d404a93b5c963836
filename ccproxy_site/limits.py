"""What one connection may take of the server's time and memory, and how it is measured."""

from __future__ import annotations

import fcntl
import struct
import termios
from dataclasses import dataclass
from time import monotonic
from typing import Any

from django.conf import settings

from providers.errors import HeadTooLarge, ProxyError, TooLarge, TooSlow


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, bytes and counts, as the settings of the same names say."""

    header_bytes: int
    headers: int
    header_seconds: float
    body_bytes: int
    body_grace_seconds: float
    body_bytes_per_second: int
    body_silence_seconds: float
    silent_seconds: float
    keep_alive_seconds: float
    client_stall_seconds: float
    connections: int
    connections_per_address: int
    concurrent_requests: int
    viewers: int

    @classmethod
    def from_settings(cls) -> Limits:
        return cls(
            header_bytes=settings.MAX_HEADER_BYTES,
            headers=settings.MAX_HEADERS,
            header_seconds=settings.HEADER_SECONDS,
            body_bytes=settings.MAX_BODY_BYTES,
            body_grace_seconds=settings.BODY_GRACE_SECONDS,
            body_bytes_per_second=settings.BODY_BYTES_PER_SECOND,
            body_silence_seconds=settings.BODY_SILENCE_SECONDS,
            silent_seconds=settings.SILENT_SECONDS,
            keep_alive_seconds=settings.KEEP_ALIVE_SECONDS,
            client_stall_seconds=settings.CLIENT_STALL_SECONDS,
            connections=settings.MAX_CONNECTIONS,
            connections_per_address=settings.MAX_CONNECTIONS_PER_ADDRESS,
            concurrent_requests=settings.MAX_CONCURRENT_REQUESTS,
            viewers=settings.MAX_LIVE_VIEWERS,
        )


class Upload:
    """A body on its way: slow lines must live, and nobody may hold a connection with a byte now and then."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._started = self._last = monotonic()
        self._bytes = 0

    def take(self, length: int) -> None:
        self._bytes += length
        self._last = monotonic()

    def refusal(self, now: float) -> ProxyError | None:
        limits, elapsed = self._limits, now - self._started
        if now - self._last > limits.body_silence_seconds:
            return TooSlow(f"nothing of the body came for {limits.body_silence_seconds:g} s: send it without pauses")
        if elapsed > limits.body_grace_seconds and self._bytes < limits.body_bytes_per_second * elapsed:
            return TooSlow(f"the body came slower than {limits.body_bytes_per_second} bytes a second: try again")
        if self._bytes > 2 * limits.body_bytes:  # framed so that the content never comes to the limit
            return too_large(limits.body_bytes)
        return None


class Stall:
    """How long a client has taken nothing of what waits for it, here and in the kernel."""

    def __init__(self, transport: Any, now: float) -> None:
        self._transport = transport
        self._waiting = self._count()
        self._since = now

    def seconds(self, now: float) -> float:
        waiting = self._count()
        if waiting < self._waiting:
            self._since = now
        self._waiting = waiting
        return now - self._since

    def _count(self) -> int:
        transport = self._transport
        unsent = fcntl.ioctl(transport.socket, termios.TIOCOUTQ, b"\0\0\0\0")
        here = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
        return int(struct.unpack("i", unsent)[0]) + int(here)


def too_large(most: int) -> TooLarge:
    return TooLarge(
        f"the body is larger than the {most} bytes this gateway takes: shorten the conversation or compact it"
    )


def head_too_large(limits: Limits) -> HeadTooLarge:
    return HeadTooLarge(
        f"the request's head is larger than {limits.header_bytes} bytes or {limits.headers} headers: send fewer headers"
    )
