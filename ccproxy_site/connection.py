"""One client's connection and its requests: Twisted's HTTP parser and Daphne's request, under limits.

As they come they take a body of any size before the application runs, wait for ever for a head that trickles, hold a
whole answer in memory for a client that does not read, and answer bad requests with bare status lines.
"""

from __future__ import annotations

import asyncio
import logging
import math
import select
from http import HTTPStatus
from io import BytesIO
from tempfile import SpooledTemporaryFile
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from daphne.http_protocol import WebRequest
from twisted.protocols.basic import LineReceiver
from twisted.web.http import HTTPChannel
from twisted.web.http import Request as TwistedRequest

from ccproxy_site.limits import Stall, Upload, head_too_large, too_large
from ccproxy_site.viewing import Socket, Viewing, is_upgrade, objection, objection_of_crowd
from providers import identity
from providers.errors import BadMessage, MethodNotAllowed, ProxyError, TooSlow

if TYPE_CHECKING:
    from ccproxy_site.listener import Listener

logger = logging.getLogger("ccproxy.server")

Message = dict[str, Any]

# Larger bodies wait on the disk until they are whole, and reach the application in pieces of this size.
BODY_PIECE = 1024 * 1024
# Of a body whose length nobody knows so much is read at a time: the limit is passed by no more than this.
UNKNOWN_BODY_READ = 32 * 1024
# Seconds for a refused client to read why, before the connection is reset.
LAST_WORDS = 2.0
# Seconds in which a client that is just about to ask may still do so, where a process ends.
FAREWELL = 5.0

NO_BODY = frozenset({204, 304})
STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Request(WebRequest):
    """Daphne's, with its own way to the application and to the socket."""

    def __init__(self, channel: Connection, queued: object = False) -> None:
        TwistedRequest.__init__(self, channel, queued, parsePOSTFormSubmission=False)
        self.server = channel.server
        self._loop: asyncio.AbstractEventLoop = channel.loop
        self._body_is_read = False
        self._is_over = False  # answered whole, or the client has left
        self.has_slot = False  # of those that may run at once
        self._over: asyncio.Future[None] | None = None
        self._has_head = False
        self._head = b""  # until it leaves with the first piece
        self._is_chunked = False

    def gotLength(self, length: int | None) -> None:
        small = length is not None and length <= BODY_PIECE
        self.content = BytesIO() if small else SpooledTemporaryFile(max_size=BODY_PIECE)  # noqa: SIM115

    def handleContentChunk(self, data: bytes) -> None:
        self.content.write(data)
        if self.content.tell() > self.channel.limits.body_bytes:
            self.channel.refuse(too_large(self.channel.limits.body_bytes))

    def process(self) -> None:
        path = origin_path(self.path)
        if is_upgrade(self):
            self._view(path)
            return
        refusal = self.server.take_slot(self, path)
        if refusal is not None:
            self.reply(refusal)
            return
        scope = self._scope(path)
        scope["method"] = self.method.decode()
        self.server.start(self, scope)

    def _view(self, path: str) -> None:
        """Daphne's way to a WebSocket would lead out of every limit."""
        refusal = objection(self, path) or objection_of_crowd(self.server)
        if refusal is not None:
            self.reply(refusal)
            return
        self.server.watch(Viewing(self), {**self._scope(path), "type": "websocket", "scheme": "ws", "subprotocols": []})

    def _scope(self, path: str) -> dict[str, Any]:
        peer, host = self.client, self.host
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": self.clientproto[5:].decode(),
            "path": path,
            "raw_path": self.path,
            "root_path": "",
            "scheme": "http",
            "query_string": self.uri.partition(b"?")[2],
            # A name with an underscore is another header's name to WSGI and CGI readers (CVE-2015-0219).
            "headers": [
                (name.lower(), value)
                for name, values in self.requestHeaders.getAllRawHeaders()
                if b"_" not in name
                for value in values
            ],
            "client": [peer.host, peer.port],
            "server": [host.host, host.port],
        }

    @property
    def is_over(self) -> bool:
        return self._is_over

    async def receive(self) -> Message:
        if not self._body_is_read and not self._is_over:
            body = self.content.read(BODY_PIECE)
            self._body_is_read = len(body) < BODY_PIECE
            if self._body_is_read:
                self.content.close()  # now, not when the answer has ended
            return {"type": "http.request", "body": body, "more_body": not self._body_is_read}
        if not self._is_over:
            self._over = self._loop.create_future()
            await self._over
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Returns when the client has room for more."""
        if self._is_over:
            return
        channel = self.channel
        self.handle_reply(message)
        if channel.is_full and not self._is_over:
            await channel.room()

    def handle_reply(self, message: Message) -> None:
        if self._is_over:
            return
        if message["type"] == "http.response.start":
            self._head = self._head_of(message["status"], message.get("headers", ()))
        else:
            self._write(message.get("body", b""), is_last=not message.get("more_body", False))

    def _head_of(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        self._has_head = True
        self.code = status
        lines = [status_line(status)]
        lines += [b"%s: %s\r\n" % header for header in headers]
        has_length = any(name == b"content-length" for name, _ in headers)
        if not has_length and status not in NO_BODY and self.method != b"HEAD":
            if self.clientproto == b"HTTP/1.1":
                self._is_chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                self.channel.persistent = False
        lines.append(b"server: ccproxy\r\n")
        if self.server.is_closing:
            self.channel.persistent = False
        if not self.channel.persistent:
            lines.append(b"connection: close\r\n")
        head = b"".join(lines)
        if not head.count(b"\n") == head.count(b"\r") == len(lines):
            raise ValueError("a line break within a header of the answer")
        return head + b"\r\n"

    def _write(self, body: bytes, *, is_last: bool) -> None:
        """One write for whatever there is: the head with the first piece, the end with the last."""
        if self.method == b"HEAD" or self.code in NO_BODY:
            body = b""
        if self._is_chunked:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if is_last:
                body += b"0\r\n\r\n"
        self.channel.write_now(self._head + body)
        self._head = b""
        if is_last:
            self._finish()

    def _finish(self) -> None:
        self._end()  # first: what follows begins with the next request that is here already
        self.startedWriting = 1  # nothing is left for Twisted to write
        TwistedRequest.finish(self)

    def connectionLost(self, reason: Any) -> None:
        TwistedRequest.connectionLost(self, reason)
        self._end()

    def _end(self) -> None:
        self._is_over = True
        self.server.free_slot(self)
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def application_ended(self, exception: BaseException | None) -> None:
        """Whatever it left unanswered is ended here: an answer cut short must look like one."""
        if self._is_over:
            return
        if self._has_head or exception is None:
            self.channel.transport.abortConnection()
        else:
            self.reply(ProxyError("the gateway failed on this request; its log has the reason"))

    def reply(self, error: ProxyError) -> None:
        headers, body = told(error)
        self.handle_reply({"type": "http.response.start", "status": error.status, "headers": headers})
        self.handle_reply({"type": "http.response.body", "body": body})


class Connection(HTTPChannel):
    """Twisted's, which asks nobody how long it may take and how much."""

    requestFactory = Request
    # The listener looks after all connections once a second: a timer for each would cost more than its requests.
    timeOut = None

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self.factory = listener
        self.server = listener.server
        self.loop: asyncio.AbstractEventLoop = listener.loop
        self.limits = listener.limits
        self.totalHeadersSize = self.MAX_LENGTH = self.limits.header_bytes
        self.maxHeaders = self.limits.headers
        self.is_full = False
        self._room: asyncio.Future[None] | None = None
        self._is_leaving = False
        self._deadline = monotonic() + self.limits.silent_seconds
        self._expects_head = True
        self._body: Upload | None = None
        self._stall: Stall | None = None

    def connectionMade(self) -> None:
        super().connectionMade()
        self._host = self.transport.getHost()
        self.factory.enter(self)

    def connectionLost(self, reason: Any) -> None:
        super().connectionLost(reason)
        self.factory.leave(self)
        self._make_room()

    def getHost(self) -> Any:
        return self._host

    def dataReceived(self, data: bytes) -> None:
        if self._is_leaving:
            return
        if self._body is not None:
            self._body.take(len(data))
        elif self._expects_head:
            self._expects_head = False
            self._deadline = monotonic() + self.limits.header_seconds
        try:
            LineReceiver.dataReceived(self, data)
        except Exception:
            logger.exception("a request could not be read")
            self.refuse(BadMessage("this request cannot be read"))

    def allHeadersReceived(self) -> None:
        request = self.requests[-1]
        refusal = self._refusal(request.requestHeaders)
        if refusal is not None:
            self.refuse(refusal)
            return
        super().allHeadersReceived()
        if self.length != 0:
            self._body = Upload(self.limits)
            self._body.take(len(self._buffer))
            self._deadline = math.inf
            if self.length is None:
                self.transport.bufferSize = UNKNOWN_BODY_READ

    def _refusal(self, headers: Any) -> ProxyError | None:
        """Where two readers might see two requests there is none; and what is too long is not even read."""
        coding = headers.getRawHeaders(b"transfer-encoding")
        if coding and (self.length is not None or headers.hasHeader(b"content-length") or self._version != b"HTTP/1.1"):
            return BadMessage("it is unclear where the request ends: send content-length, or chunked transfer-encoding")
        if self._command == b"CONNECT":
            return MethodNotAllowed("this gateway is no proxy for other hosts: ask it for /v1/messages")
        hosts = headers.getRawHeaders(b"host", ())
        if len(hosts) > 1 or (not hosts and self._version == b"HTTP/1.1"):
            return BadMessage("a request names one host: send one Host header")
        if self.length is not None and self.length > self.limits.body_bytes:
            return too_large(self.limits.body_bytes)
        return None

    def allContentReceived(self) -> None:
        if self._is_leaving:
            return
        if self._body is not None:
            self._body = None
            self.transport.bufferSize = type(self.transport).bufferSize
        self._deadline = math.inf
        self._expects_head = False
        super().allContentReceived()

    def lineReceived(self, line: bytes) -> None:
        if line[:1] in {b" ", b"\t"}:  # Twisted would join it to the header before it, and not everybody does
            self.refuse(BadMessage("a header goes on in a second line: send each in one line"))
        else:
            super().lineReceived(line)

    def _finishRequestBody(self, data: bytes) -> None:
        """With what was sent after the body. Twisted bounds only what comes after that."""
        super()._finishRequestBody(data)
        if self._handlingRequest and len(data) > self._optimisticEagerReadSize:
            self.transport.pauseProducing()

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        return super().checkPersistence(request, version) and not self.server.is_closing

    def requestDone(self, request: Any) -> None:
        limits = self.limits
        self._expects_head = not self._buffer  # the next request may be here already
        if self.server.is_closing:
            seconds = FAREWELL
        else:
            seconds = limits.keep_alive_seconds if self._expects_head else limits.header_seconds
        self._deadline = monotonic() + seconds
        super().requestDone(request)

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse(head_too_large(self.limits))

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Twisted's word for everything it refuses; what it counts, it counts before it calls."""
        limits = self.limits
        if self._receivedHeaderSize > limits.header_bytes or self._receivedHeaderCount > limits.headers:
            self.refuse(head_too_large(limits))
        else:
            self.refuse(BadMessage("this is not HTTP/1.1 as this gateway reads it"))

    def refuse(self, error: ProxyError) -> None:
        """Says why and reads no more; who is still sending gets a moment to hear it."""
        if self._is_leaving:
            return
        self._is_leaving = self.paused = True
        self._body = None
        self._deadline = monotonic() + LAST_WORDS
        headers, body = told(error)
        lines = [b"%s: %s\r\n" % header for header in [*headers, (b"connection", b"close")]]
        self.transport.write(b"".join([status_line(error.status), *lines, b"\r\n", body]))
        self.transport.pauseProducing()
        self.transport.loseWriteConnection()

    @property
    def has_unsent(self) -> bool:
        """A piece waits in the first of these until the socket has been tried, then in the second."""
        return bool(self.transport._tempDataBuffer or self.transport.dataBuffer)

    def write_now(self, data: bytes) -> None:
        """To the socket at once where nothing waits: a turn of the event loop per piece costs more than the piece."""
        transport = self.transport
        if transport.connected and not self.has_unsent:
            sent = transport.writeSomeData(data)
            if isinstance(sent, int) and sent > 0:
                if sent == len(data):
                    return
                data = data[sent:]
        transport.write(data)

    def pauseProducing(self) -> None:
        """The transport has enough."""
        super().pauseProducing()
        self.is_full = True

    def resumeProducing(self) -> None:
        super().resumeProducing()
        self._make_room()

    def _make_room(self) -> None:
        self.is_full = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def room(self) -> asyncio.Future[None]:
        self._room = self.loop.create_future()
        return self._room

    def become_socket(self, viewing: Viewing, request: Request) -> Socket:
        """What the transport reads goes there from now on, and the place among the connections is its own."""
        transport, socket = self.transport, Socket(viewing, self.factory)
        transport.unregisterProducer()
        transport.protocol = socket
        self.factory.replace(self, socket)
        socket.makeConnection(transport)
        socket.open(request)
        if self._dataBuffer:
            socket.dataReceived(b"".join(self._dataBuffer))
        transport.resumeProducing()
        return socket

    def look_after(self, now: float) -> None:
        """Once a second: is the client still taking and giving as it should?"""
        if self.has_unsent:
            self._stall = self._stall or Stall(self.transport, now)
            if self._stall.seconds(now) > self.limits.client_stall_seconds:
                self.transport.abortConnection()
            return
        self._stall = None
        if self._dataBuffer and has_hung_up(self.transport):
            self.transport.abortConnection()
        elif self._body is not None:
            refusal = self._body.refusal(now)
            if refusal is not None:
                self.refuse(refusal)
        elif now > self._deadline:
            self._overdue()

    def _overdue(self) -> None:
        if self._is_leaving:
            self.transport.abortConnection()
        elif self._expects_head:
            self.close_idle()
        else:
            self.refuse(TooSlow(f"no whole request head came in {self.limits.header_seconds:g} s: send it at once"))

    def close_soon(self) -> None:
        """Unless it asks once more: that answer is the last, and says so."""
        if self._expects_head:
            self._deadline = min(self._deadline, monotonic() + FAREWELL)

    def close_idle(self) -> None:
        """Only between two requests."""
        if self._expects_head and not self._is_leaving:
            self._is_leaving = True
            self._deadline = monotonic() + LAST_WORDS
            self.loseConnection()


def origin_path(path: bytes) -> str:
    """Of a target in absolute form its path; of several slashes at the beginning one, or a base URL that ends in a
    slash would find nothing."""
    text = path.decode("latin-1")
    scheme, is_absolute, rest = text.partition("://")
    if is_absolute and "/" not in scheme:
        text = rest.partition("/")[2]
    return "/" + unquote(text).lstrip("/")


def has_hung_up(transport: Any) -> bool:
    """Asks the kernel: where more is sent than is read, nobody reads that the client has left."""
    poll = select.poll()
    poll.register(transport.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


def status_line(status: int) -> bytes:
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def told(error: ProxyError) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body that every Messages client understands."""
    request_id = identity.request_id()
    body = error.envelope(request_id)
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "request-id": request_id,
        **error.headers(),
    }
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()], body
