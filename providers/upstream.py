"""Calls to providers: the only module that knows an HTTP client.

A call runs in a task of its own, so that whoever waits for it can give up waiting without cutting it short: until a
deadline passes, until a ping is due, until the client has to be told that the gateway is still there.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import re
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from providers.dialects import Outbound
from providers.errors import BrokenStream, Unreachable, UpstreamError
from providers.routing import Endpoint

logger = logging.getLogger("ccproxy.upstream")

# Above this the reading stops until the client has taken what there is.
MOST_WAITING = 256 * 1024
# A finished answer's connection is worth waiting for its last bytes: so long, in seconds.
DRAIN_SECONDS = 1.0
# A large body is sent in pieces, so that one upload does not hold up the others.
LARGE_BODY, BODY_PIECE = 1024 * 1024, 256 * 1024
MOST_ERROR_BODY = 64 * 1024
KEEP_ALIVE_SECONDS = 60.0

_versioned = re.compile(r"/(v\d+[a-z0-9]*|openai)$")
_reused: contextvars.ContextVar[bool] = contextvars.ContextVar("connection_was_reused", default=False)


def url_for(base_url: str, path: str) -> str:
    """Base URLs are written with and without their version; some vendors have one of their own."""
    base = base_url.rstrip("/")
    return base + path if _versioned.search(base) else f"{base}/v1{path}"


class Call:
    """One request to one provider and what has come back so far."""

    def __init__(self, transport: httpx.AsyncBaseTransport, request: httpx.Request) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.failure: UpstreamError | None = None
        self.got_bytes = False
        self._received: list[bytes] = []
        self._waiting_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Future[bool] | None = None
        self._room: asyncio.Future[None] | None = None
        self._discard = False
        self.ended = False
        self.task = self._loop.create_task(self._run(transport, request))

    @property
    def answered(self) -> bool:
        """Whether status and headers are here."""
        return self.status > 0

    @property
    def has_data(self) -> bool:
        return bool(self._received)

    async def wait(self, until: float) -> bool:
        """Until something new happened (True) or the loop's clock reached `until` (False)."""
        if self._received or self.ended:
            return True
        self._news = self._loop.create_future()
        timer = self._loop.call_at(until, self._tell, False)
        try:
            return await self._news
        finally:
            timer.cancel()
            self._news = None

    def take(self) -> bytes:
        """Everything that has come since the last time, as one piece."""
        data = self._received[0] if len(self._received) == 1 else b"".join(self._received)
        self._received.clear()
        self._waiting_bytes = 0
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        return data

    async def whole(self, until: float, most: int) -> bytes | None:
        """The rest of the body, decompressed; None where the deadline came first."""
        parts: list[bytes] = []
        size = 0
        while True:
            if not await self.wait(until):
                return None
            data = self.take()
            parts.append(data)
            size += len(data)
            if size > most:
                raise BrokenStream(f"the provider answered with more than {most} bytes")
            if self.ended and not self._received:
                return _decompressed(b"".join(parts), self.headers.get("content-encoding", ""), most)

    async def _run(self, transport: httpx.AsyncBaseTransport, request: httpx.Request) -> None:
        try:
            response = await transport.handle_async_request(request)
            try:
                self.headers = response.headers
                self.status = response.status_code
                self._tell()
                await self._read(response.stream)
            finally:
                await response.stream.aclose()  # type: ignore[union-attr]
        except (httpx.HTTPError, aiohttp.ClientError, OSError, TimeoutError) as error:
            self.failure = _failure(error, answered=self.answered)
        except Exception:  # the edge of a task: whoever waits must hear of it
            logger.exception("a call to a provider failed in a way nobody thought of")
            self.failure = BrokenStream("the gateway failed while it talked to the provider; its log has the reason")
        finally:
            self.ended = True
            self._tell()

    async def _read(self, stream: Any) -> None:
        async for data in stream:
            if self._discard:
                continue
            self.got_bytes = True
            self._received.append(data)
            self._waiting_bytes += len(data)
            self._tell()
            if self._waiting_bytes >= MOST_WAITING:
                self._room = self._loop.create_future()
                await self._room
                self._room = None

    def _tell(self, news: bool = True) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(news)

    def discard_rest(self) -> None:
        self._discard = True
        self.take()


class Upstreams:
    """The connections of one process. There is no cap on them."""

    def __init__(self) -> None:
        # With kept connections, and without: of several that a server has closed the pool would give the next dead one.
        self._transports: dict[bool, httpx.AsyncBaseTransport] = {}
        self._draining: set[asyncio.Task[None]] = set()
        self._urls: dict[tuple[str, str], httpx.URL] = {}

    @asynccontextmanager
    async def call(
        self,
        endpoint: Endpoint,
        outbound: Outbound,
        headers: Mapping[str, str],
        *,
        method: str = "POST",
        fresh: bool = False,
    ) -> AsyncIterator[Call]:
        """The call ends with the block; one whose answer is complete may read its last bytes a little longer."""
        request = httpx.Request(
            method,
            self._url(endpoint, outbound.path),
            headers={
                **outbound.headers,
                **headers,
                "accept-encoding": "identity",
                "content-length": str(len(outbound.body)),
            },
            content=_in_pieces(outbound.body) if len(outbound.body) > LARGE_BODY else outbound.body,
            extensions={"timeout": {"connect": endpoint.timeouts.connect}},
        )
        call = Call(self._open_transport(fresh=fresh), request)
        finished = False
        try:
            yield call
            finished = True
        finally:
            if call.task.done():
                pass
            elif finished:
                self._drain(call)
            else:
                call.task.cancel()
                self._keep(call.task)

    def _drain(self, call: Call) -> None:
        call.discard_rest()
        timer = asyncio.get_running_loop().call_later(DRAIN_SECONDS, call.task.cancel)
        self._keep(call.task)
        call.task.add_done_callback(lambda _: timer.cancel())

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    def _url(self, endpoint: Endpoint, path: str) -> httpx.URL:
        known = (endpoint.base_url, path)
        if known not in self._urls:
            if len(self._urls) > 1000:
                self._urls.clear()
            self._urls[known] = httpx.URL(url_for(endpoint.base_url, path))
        return self._urls[known]

    def _open_transport(self, *, fresh: bool) -> httpx.AsyncBaseTransport:
        if fresh not in self._transports:
            self._transports[fresh] = AiohttpTransport(client=lambda: _session(fresh=fresh))
        return self._transports[fresh]

    async def close(self) -> None:
        for task in self._draining:
            task.cancel()
        if self._draining:
            await asyncio.gather(*self._draining, return_exceptions=True)
        for transport in self._transports.values():
            await transport.aclose()
        self._transports.clear()


def _session(*, fresh: bool) -> aiohttp.ClientSession:
    tracing = aiohttp.TraceConfig()
    tracing.on_connection_reuseconn.append(_note_reuse)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0, force_close=fresh, keepalive_timeout=None if fresh else KEEP_ALIVE_SECONDS
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[tracing],
        skip_auto_headers=("user-agent", "accept", "accept-encoding"),
    )


async def _in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), BODY_PIECE):
        yield body[start : start + BODY_PIECE]


async def _note_reuse(*_: Any) -> None:
    _reused.set(True)


def _failure(error: Exception, *, answered: bool) -> UpstreamError:
    """What broke, told by the transport's cause: its class is the same before and after the request has left."""
    cause = error.__cause__ or error
    if answered:
        return BrokenStream("the connection to the provider broke in the middle of its answer")
    if isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.InvalidURL):
        return Unreachable(f"the provider cannot be reached: {_what(cause)}", reached=False)
    failure = Unreachable("the provider closed the connection before it answered", reached=True)
    failure.stale = _reused.get()
    return failure


def _what(cause: BaseException) -> str:
    """Without addresses: the client need not learn where the provider lives."""
    if isinstance(cause, aiohttp.ClientConnectorDNSError):
        return "its name does not resolve"
    if isinstance(cause, aiohttp.ClientSSLError):
        return "no TLS connection could be made"
    if isinstance(cause, aiohttp.ConnectionTimeoutError):
        return "it did not take the connection in time"
    return "the connection was refused"


def _decompressed(body: bytes, encoding: str, most: int) -> bytes:
    """Some servers compress what nobody asked them to, errors above all."""
    if encoding not in {"gzip", "deflate"} and not body.startswith(b"\x1f\x8b"):
        return body
    try:
        inflater = zlib.decompressobj(wbits=47 if body.startswith(b"\x1f\x8b") or encoding == "gzip" else 15)
        plain = inflater.decompress(body, most + 1)
    except zlib.error as error:
        raise BrokenStream("the provider's compressed answer is damaged") from error
    if len(plain) > most:
        raise BrokenStream(f"the provider answered with more than {most} bytes")
    return plain
