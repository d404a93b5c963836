"""Calls to providers: the only module that knows an HTTP client.

The client is httpx; underneath, aiohttp makes the connections, keeps them and reads the answers. aiohttp's session is
left out: what it does between the two costs more than all the rest, and nothing of it is wanted here.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import lru_cache, partial
from ipaddress import ip_address
from math import inf
from types import TracebackType
from typing import Any, TypeVar, cast

import aiohttp
import httpx
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.helpers import BaseTimerContext
from aiohttp.http import HttpProcessingError, RawResponseMessage, StreamWriter
from aiohttp.streams import StreamReader
from django.conf import settings

from providers.addresses import is_never_called, written_in
from providers.dialects import Outbound
from providers.errors import BrokenOff, BrokenStream, Unreachable, UpstreamError
from providers.inflating import Inflater, inflater_for
from providers.log_events import LogEvent, about
from providers.routing import Endpoint

logger = logging.getLogger("ccproxy.upstream")

T = TypeVar("T")

# Above twice this a connection is not read until what there is has been taken.
READ_AHEAD = 64 * 1024
# A finished answer's connection is worth waiting for its last bytes: so long, in seconds.
LINGER_SECONDS = 1.0
# A large body is sent in pieces, so that one upload does not hold up the others.
LARGE_BODY, BODY_PIECE = 1024 * 1024, 256 * 1024
MOST_ERROR_BODY = 64 * 1024
KEEP_ALIVE_SECONDS = 60.0
# An answer's head: its lines, each line, and interim answers before it. So it stays below a megabyte.
MOST_HEADERS, LONGEST_LINE, MOST_INTERIM = 100, 8190, 20

# Why a provider cannot be reached.
NO_NAME = "its name does not resolve"
NO_TLS = "no TLS connection could be made"
NOT_IN_TIME = "it did not take the connection in time"
WAS_REFUSED = "the connection was refused"
NO_HOST = "its base URL names no host that could be called; an administrator has to correct it"
NOT_ALLOWED = "its name leads to an address that is never called; an administrator has to correct its base URL"

_versioned = re.compile(r"/(v\d+[a-z0-9]*|openai|models|deployments/[^/]+)$")


def url_for(base_url: str, path: str) -> str:
    """Base URLs are written with and without their version; some vendors have one of their own."""
    base = base_url.rstrip("/")
    return base + path if _versioned.search(base) else f"{base}/v1{path}"


class ItRang(Exception):
    """The moment until which somebody waited has come."""


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """In a loop of this thread alone. A name server that hangs is not waited for, as asyncio.run would."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


class Alarm(BaseTimerContext):
    """Ends a wait at a moment that moves. One timer of the loop serves all waits of a call: it looks whether the
    moment has moved, and a stream with a thousand reads has no thousand timers.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._at = self._looks_at = inf
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Task[Any] | None = None
        self._cancels_before = 0
        self._rang = False

    def set(self, at: float) -> None:
        self._at = at
        if at < self._looks_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(at, self._look)
            self._looks_at = at

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def ring(self) -> None:
        if self._waiting is not None and not self._rang:
            self._rang = True
            self._waiting.cancel()

    def _look(self) -> None:
        self._timer, self._looks_at = None, inf
        if self._waiting is None:
            return  # the next wait sets it anew
        if self._loop.time() < self._at:
            self.set(self._at)
        else:
            self.ring()

    def __enter__(self) -> Alarm:
        task = asyncio.current_task()
        if task is not None:
            self._waiting, self._cancels_before = task, task.cancelling()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._waiting = self._waiting, None
        if not self._rang:
            return
        self._rang = False
        if task is not None and task.uncancel() <= self._cancels_before and kind is asyncio.CancelledError:
            raise ItRang from None


def plain_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """By name in lower case; a header that came several times is one list."""
    headers: dict[str, str] = {}
    for name, value in raw:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


class Call:
    """One request to one provider and what has come back so far.

    The answer's head is waited for in a task of its own, and what follows gathers in the connection: whoever waits can
    give up waiting, since a ping is due, without cutting the call short.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.failure: UpstreamError | None = None
        self.got_bytes = False
        self.ended = False
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._loop)
        self._received = b""
        self._body: Body | None = None
        self._inflater: Inflater | None = None
        self._head_is_here: asyncio.Future[None] | None = None
        self.opening: asyncio.Task[None] | None = None

    def begin(self, transport: Transport, request: httpx.Request) -> None:
        request.extensions["alarm"] = self._alarm
        self.opening = self._loop.create_task(self._open(transport, request))

    @property
    def has_data(self) -> bool:
        return bool(self._received)

    async def wait(self, until: float) -> bool:
        """Until something new happened (True) or the loop's clock reached `until` (False)."""
        if self._received or self.ended:
            return True
        self._alarm.set(until)
        try:
            if self._body is not None:
                await self._read(self._body)
            else:
                await self._wait_for_head()
        except ItRang:
            return self.ended
        return True

    def take(self) -> bytes:
        """Everything that has come since the last time, as one piece."""
        data, self._received = self._received, b""
        return data

    async def whole(self, until: float, most: int) -> bytes | None:
        """The rest of the body; None where the deadline came first. An error is an error however long it is."""
        body = bytearray()
        while await self.wait(until):
            body += self.take()
            if len(body) > most:
                if self.status >= 400:
                    return bytes(body[:most])
                raise BrokenStream(f"the provider answered with more than {most} bytes: ask for a shorter answer")
            if self.ended:
                return bytes(body)
        return None

    def break_off(self, error: UpstreamError) -> None:
        """What has come may still be taken; then the call has failed with this error."""
        if not self.ended:
            self._fail(error)
            self._alarm.ring()

    def leave(self, *, finished: bool) -> None:
        """Nobody waits any more. The connection of a finished answer may still get its last bytes."""
        self._alarm.stop()
        self.ended = True
        if self.opening is not None:
            self.opening.cancel()
        if self._body is not None:
            self._body.linger() if finished else self._body.close()

    async def _wait_for_head(self) -> None:
        self._head_is_here = self._loop.create_future()  # one per wait: giving up cancels it
        with self._alarm:
            await self._head_is_here

    async def _open(self, transport: Transport, request: httpx.Request) -> None:
        try:
            response = await transport.handle_async_request(request)
            self._body = response.stream  # type: ignore[assignment]
            self.headers = plain_headers(response.headers.raw)
            self.status = response.status_code
        except UpstreamError as error:
            self._fail(error)
        except Exception:  # the edge of a task: whoever waits must hear of it
            logger.exception("a call to a provider failed in a way nobody thought of")
            self._fail(BrokenStream("the gateway failed while it talked to the provider; its log has the reason"))
        finally:
            if self._head_is_here is not None and not self._head_is_here.done():
                self._head_is_here.set_result(None)

    async def _read(self, body: Body) -> None:
        """One piece, or the end."""
        try:
            if self._inflater is not None and self._inflater.has_more:
                self._received = self._inflater.more()
                return
            data = await body.read()
            if data:
                self._received = self._plain(data)
                self.got_bytes = True
            self._look_for_the_end(body)
        except UpstreamError as error:
            # What cannot be read of an error's explanation is left out: the error stands.
            self._fail(error if self.status < 400 else None)

    def _look_for_the_end(self, body: Body) -> None:
        if not body.is_over or (self._inflater is not None and self._inflater.has_more):
            return
        if self._inflater is not None and not self._inflater.is_complete:
            raise BrokenStream("the provider's compressed answer was cut")
        self.ended = True

    def _plain(self, data: bytes) -> bytes:
        if not self.got_bytes:
            self._inflater = inflater_for(self.headers.get("content-encoding", ""), data)
        return data if self._inflater is None else self._inflater.feed(data)

    def _fail(self, error: UpstreamError | None) -> None:
        if not self.ended:
            self.failure = error
            self.ended = True


class Upstreams:
    """The connections of one process. There is no cap on them."""

    def __init__(self) -> None:
        # With kept connections, and without: of several that a server has closed the pool would give the next dead one.
        self._transports: dict[bool, Transport] = {}
        self._running: set[Call] = set()
        self._cancelled: set[asyncio.Task[None]] = set()
        self._broken_off: UpstreamError | None = None
        self._urls: dict[tuple[str, str], tuple[httpx.URL, bytes]] = {}

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
        call = Call()
        try:
            self._check_open()
            request = self._request(method, endpoint, outbound, headers)
            call.begin(self._open_transport(fresh=fresh), request)
        except UpstreamError as error:
            call.break_off(error)
        self._running.add(call)
        finished = False
        try:
            yield call
            finished = True
        finally:
            self._running.discard(call)
            call.leave(finished=finished)
            if call.opening is not None and not call.opening.done():
                self._cancelled.add(call.opening)
                call.opening.add_done_callback(self._cancelled.discard)

    def break_off(self, error: UpstreamError) -> None:
        """Every call ends with this failure now, and so does each that is begun later."""
        self._broken_off = error
        for call in self._running:
            call.break_off(_again(error))

    async def close(self) -> None:
        """For good. Calls that still run are broken off."""
        self.break_off(BrokenOff("the gateway is ending: try again"))
        for call in self._running:
            call.leave(finished=False)
        opening = [call.opening for call in self._running if call.opening is not None]
        await asyncio.gather(*self._cancelled, *opening, return_exceptions=True)
        for transport in self._transports.values():
            await transport.aclose()
        self._transports.clear()

    @property
    def is_broken_off(self) -> bool:
        return self._broken_off is not None

    def _check_open(self) -> None:
        if self._broken_off is not None:
            error = _again(self._broken_off)
            error.reached = False
            raise error

    def _request(
        self, method: str, endpoint: Endpoint, outbound: Outbound, headers: Mapping[str, str]
    ) -> httpx.Request:
        """With its headers in their last form and its body as it is: httpx need not look for what is missing."""
        url, host = self._url(endpoint, outbound.path)
        fields = {**outbound.headers, **headers, "accept-encoding": "identity"}
        raw = [(b"host", host), *((name.encode(), value.encode()) for name, value in fields.items())]
        raw.append((b"content-length", b"%d" % len(outbound.body)))
        extensions = {"timeout": {"connect": endpoint.timeouts.connect}}
        return httpx.Request(method, url, headers=raw, stream=httpx.ByteStream(outbound.body), extensions=extensions)

    def _url(self, endpoint: Endpoint, path: str) -> tuple[httpx.URL, bytes]:
        """The address, and how the `host` header names it."""
        known = (endpoint.base_url, path)
        if known not in self._urls:
            if len(self._urls) > 1000:
                self._urls.clear()
            try:
                url = httpx.URL(url_for(endpoint.base_url, path))
            except httpx.InvalidURL as error:
                raise _unreachable(NO_HOST) from error
            self._urls[known] = url, url.netloc
        return self._urls[known]

    def _open_transport(self, *, fresh: bool) -> Transport:
        if fresh not in self._transports:
            self._transports[fresh] = Transport(keeps=not fresh)
        return self._transports[fresh]


class Transport(httpx.AsyncBaseTransport):
    """Sends one request and hears the head of its answer. No redirect is followed, no proxy asked, no cookie kept."""

    def __init__(self, *, keeps: bool) -> None:
        self._keeps = keeps
        self._connector = aiohttp.TCPConnector(
            limit=0,
            force_close=not keeps,
            keepalive_timeout=KEEP_ALIVE_SECONDS if keeps else None,
            resolver=Resolver(),
        )
        # What the connector wants to know of whom it connects to: a request that is never sent.
        self._peers: dict[tuple[bytes, bytes, int | None], aiohttp.ClientRequest] = {}
        # Every connection there is, and the answer that comes over it.
        self._bodies: dict[ResponseHandler, Body | None] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises UpstreamError: nobody but a Call asks."""
        head = self._head(request)
        connection = await self._connect(request)
        protocol = _protocol(connection)
        reused = self._is_known(protocol)
        upload = None
        try:
            protocol.set_response_params(
                timer=request.extensions["alarm"],
                read_until_eof=True,
                auto_decompress=False,
                read_bufsize=READ_AHEAD,
                max_line_size=LONGEST_LINE,
                max_field_size=LONGEST_LINE,
                max_headers=MOST_HEADERS,
            )
            upload = _send(protocol, head, b"".join(cast("httpx.ByteStream", request.stream)))
            message, payload = await _answer(protocol)
        except BaseException as error:
            _cut(connection)
            if upload is not None:
                upload.cancel()
            if isinstance(error, HttpProcessingError):
                raise BrokenStream(
                    "the provider answered with what is no HTTP, or with a head that is too large: check its base URL"
                ) from error
            if isinstance(error, aiohttp.ClientError | OSError):
                failure = Unreachable("the provider closed the connection before it answered", reached=True)
                failure.again = reused
                raise failure from error
            raise
        body = self._bodies[protocol] = Body(connection, payload, upload)
        return httpx.Response(message.code, headers=message.raw_headers, stream=body)

    async def _connect(self, request: httpx.Request) -> Connection:
        timeouts = _timeouts(request.extensions["timeout"]["connect"])
        try:
            peer = self._peer(request.url)
            while True:
                connection = await self._connector.connect(peer, [], timeouts)
                protocol = _protocol(connection)
                if protocol not in self._bodies or not protocol.should_close:
                    return connection
                connection.close()  # kept, and its server has sent something since: nobody asked for that
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _unreachable(_why(error)) from error

    def _peer(self, url: httpx.URL) -> aiohttp.ClientRequest:
        known = (url.raw_scheme, url.raw_host, url.port)
        if known not in self._peers:
            host = url.raw_host.decode("ascii")
            address = written_in(host)
            if address is not None:
                _check(host, [str(address)])
            origin = yarl.URL(f"{url.scheme}://{url.netloc.decode('ascii')}/")
            self._peers[known] = aiohttp.ClientRequest("POST", origin, loop=asyncio.get_running_loop())
        return self._peers[known]

    def _head(self, request: httpx.Request) -> bytes:
        lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
        lines += [b"%b: %b" % field for field in request.headers.raw]
        if not self._keeps:
            lines.append(b"connection: close")
        head = b"\r\n".join([*lines, b"", b""])
        if head.count(b"\n") != len(lines) + 1 or head.count(b"\r") != len(lines) + 1 or b"\0" in head:
            raise ValueError("a header of a request to a provider has a line break in it")
        return head

    def _is_known(self, protocol: ResponseHandler) -> bool:
        if protocol in self._bodies:
            return True
        if protocol.closed is not None:
            self._bodies[protocol] = None
            protocol.closed.add_done_callback(partial(self._forget, protocol))
        return False

    def _forget(self, protocol: ResponseHandler, closed: asyncio.Future[None]) -> None:
        if not closed.cancelled():
            closed.exception()  # of no interest; unasked it would be logged
        body = self._bodies.pop(protocol, None)
        if body is not None:
            body.lose()

    async def aclose(self) -> None:
        for body in self._bodies.values():
            if body is not None:
                body.close()
        for protocol in self._bodies:
            if protocol.transport is not None:
                protocol.transport.abort()  # an orderly end would wait for a server that reads nothing
        await self._connector.close()


class Body(httpx.AsyncByteStream):
    """What follows the head. At its last byte the connection goes back to where it can be used again."""

    def __init__(self, connection: Connection, payload: StreamReader, upload: asyncio.Task[None] | None) -> None:
        self._connection = connection
        self._payload = payload
        self._upload = upload
        self._timer: asyncio.TimerHandle | None = None
        payload.on_eof(self._release)

    @property
    def is_over(self) -> bool:
        return self._payload.at_eof()

    async def read(self) -> bytes:
        """All there is, as soon as there is something; empty at the end."""
        try:
            return await self._payload.readany()
        except (aiohttp.ClientError, HttpProcessingError, OSError, RuntimeError) as error:
            if self._payload._buffer:  # what came before the fault is sound
                return self._payload._read_nowait(-1)
            raise BrokenStream("the connection to the provider broke in the middle of its answer") from error

    def linger(self) -> None:
        """The answer is complete; the last bytes of its wrapping may be on their way."""
        if not self._payload.is_eof():
            self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self.close)

    def close(self) -> None:
        """Before its last byte nobody can use the connection again; after it this does nothing."""
        self._stop()
        _cut(self._connection)

    def lose(self) -> None:
        """The connection is gone. aiohttp forgets to tell a reader where the wrapping of a later piece was wrong."""
        if not self._payload.is_eof() and self._payload.exception() is None:
            self._payload.set_exception(aiohttp.ClientPayloadError("the connection was lost"))
        self.close()

    def _release(self) -> None:
        transport = self._connection.transport
        is_sent = self._upload is None or self._upload.done()
        if not is_sent or (transport is not None and transport.get_write_buffer_size()):
            self.close()  # an answer to half a request: the other half would be taken for the next one
        else:
            self._stop()
            self._connection.release()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._upload is not None:
            self._upload.cancel()


class Resolver(AbstractResolver):
    """Every address of the answer is looked at, and the connection goes to one of those: no name is asked twice."""

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        _check(host, [each["host"] for each in found])
        return found

    async def close(self) -> None:
        await self._resolver.close()


class NeverCalled(OSError):
    """An address that this gateway calls for nobody."""


def _check(host: str, addresses: list[str]) -> None:
    """One bad address is enough: whoever answers for the name would have the next connection go there."""
    private_is_allowed = settings.PROVIDER_PRIVATE_NETWORKS == "allow"
    for text in addresses:
        if is_never_called(ip_address(text.partition("%")[0]), private_is_allowed=private_is_allowed):
            logger.error(
                "the provider at %s is not called, since its name leads to %s",
                host,
                text,
                extra=about(LogEvent.ADDRESS_REFUSED, host=host, address=text),
            )
            raise NeverCalled("an address that is never called")


def _send(protocol: ResponseHandler, head: bytes, body: bytes) -> asyncio.Task[None] | None:
    """Returns the task that still sends a large one: its answer may come before its end."""
    if len(body) > LARGE_BODY:
        return asyncio.get_running_loop().create_task(_upload(protocol, head, body))
    if not protocol.is_connected():
        raise ConnectionResetError("the connection was lost")
    protocol.transport.write(head + body)  # type: ignore[union-attr]
    return None


async def _upload(protocol: ResponseHandler, head: bytes, body: bytes) -> None:
    writer = StreamWriter(protocol, asyncio.get_running_loop())
    with suppress(aiohttp.ClientError, OSError):  # whoever waits for the answer hears of it
        await writer.write(head)
        for start in range(0, len(body), BODY_PIECE):
            await writer.write(body[start : start + BODY_PIECE])


async def _answer(protocol: ResponseHandler) -> tuple[RawResponseMessage, StreamReader]:
    for _ in range(MOST_INTERIM):
        message, payload = await protocol.read()
        if message.code >= 200 or message.code == 101:
            return message, payload
    raise BrokenStream(f"the provider sent {MOST_INTERIM} interim answers and none that counts")


def _protocol(connection: Connection) -> ResponseHandler:
    protocol = connection.protocol
    if protocol is None:
        raise ConnectionResetError("the connection was lost")
    return protocol


def _cut(connection: Connection) -> None:
    """At once: an orderly end would wait until a server that reads nothing has read what we wrote."""
    if connection.transport is not None:
        connection.transport.abort()
    connection.close()


@lru_cache(maxsize=256)
def _timeouts(connect: float) -> aiohttp.ClientTimeout:
    """For all of it: the name, every address it has, TLS."""
    return aiohttp.ClientTimeout(connect=connect)


def _unreachable(why: str) -> Unreachable:
    return Unreachable(f"the provider cannot be reached: {why}", reached=False)


def _why(error: Exception) -> str:
    """Without addresses: the client need not learn where the provider lives."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, NeverCalled):
        return NOT_ALLOWED
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return NO_NAME
    if isinstance(error, aiohttp.ClientSSLError):
        return NO_TLS
    if isinstance(error, TimeoutError):
        return NOT_IN_TIME
    if isinstance(error, ValueError):  # aiohttp.InvalidURL is one
        return NO_HOST
    return WAS_REFUSED


def _again(error: UpstreamError) -> UpstreamError:
    """One exception that many tasks raise would gather the tracebacks of them all."""
    copied = type(error).__new__(type(error), *error.args)
    copied.__dict__.update(error.__dict__)
    return copied
