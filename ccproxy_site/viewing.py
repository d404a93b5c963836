"""The live view's WebSocket: a request like any other until the application accepts it, then frames under limits.

Autobahn reads and writes the frames. It asks nobody how many may come, answers every ping whether or not its answers
are taken, and has no place in a drain.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol

from providers.errors import BadMessage, Busy, NotAllowed, NotFound, ProxyError

if TYPE_CHECKING:
    from ccproxy_site.connection import Message, Request
    from ccproxy_site.listener import Listener

PATH = "/ws/live"
KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")

# Bytes of a message from a viewer, who only ever says that it has taken ours, and of all its frames in a second.
MOST_SAID = 1024
MOST_SAID_IN_A_SECOND = 2048
# Seconds between a pong and the next ping, until a pong is missed, and for the other side to close as well.
PING_AFTER, PONG_WITHIN, CLOSE_WITHIN = 5, 10, 1
# Requests that the application has not decided on yet; it asks the database.
MOST_UNDECIDED = 50

GOING_AWAY, TOO_MUCH, TOO_LARGE, FAILED = 1001, 1008, 1009, 1011


def is_upgrade(request: Request) -> bool:
    upgrade = request.requestHeaders.getRawHeaders(b"upgrade")
    return bool(upgrade) and upgrade[0].lower() == b"websocket"


def objection(request: Request, path: str) -> ProxyError | None:
    """What is wrong with a request for a WebSocket."""
    if path != PATH or request.method != b"GET":
        return NotFound("no WebSocket is served here: ask with plain HTTP")
    headers = request.requestHeaders
    hops = b",".join(headers.getRawHeaders(b"connection", ())).lower().split(b",")
    if b"upgrade" not in [hop.strip() for hop in hops] or request.clientproto != b"HTTP/1.1":
        return BadMessage("a WebSocket begins with HTTP/1.1 and `Connection: Upgrade`: let the server in front pass it")
    if headers.getRawHeaders(b"sec-websocket-version") != [b"13"]:
        return BadMessage("this is not the WebSocket of RFC 6455: send `Sec-WebSocket-Version: 13`")
    keys = headers.getRawHeaders(b"sec-websocket-key", ())
    if len(keys) != 1 or not KEY.fullmatch(keys[0]):
        return BadMessage("a WebSocket begins with one Sec-WebSocket-Key of 16 bytes in base64")
    return None


def objection_of(server: Any) -> ProxyError | None:
    """Why this process takes no viewer now."""
    if server.is_closing:
        return Busy("this process is ending: try again in a moment", retry_after=1)
    if len(server.viewers) >= server.limits.viewers:
        return Busy(
            f"{server.limits.viewers} people watch this process already: try again later, or raise MAX_LIVE_VIEWERS",
            retry_after=30,
        )
    return None


def objection_of_crowd(server: Any) -> ProxyError | None:
    if len(server.watching) - len(server.viewers) >= MOST_UNDECIDED:
        return Busy("too many want to watch at once: try again in a moment", retry_after=2)
    return objection_of(server)


class Viewing:
    """What the application speaks to, from the request to the last frame."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._socket: Socket | None = None
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._inbox.put_nowait({"type": "websocket.connect"})
        self.receive = self._inbox.get

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if self._socket is None:
            self._decide(kind, message.get("reason"))
        elif kind == "websocket.send":
            self._socket.say(message["text"])
        elif kind == "websocket.close":
            self._socket.end(message.get("code", 1000), message.get("reason") or "")

    def _decide(self, kind: str, reason: str | None) -> None:
        request = self._request
        refusal: ProxyError | None = NotAllowed(reason or "nobody may look at this from here")
        if kind == "websocket.accept":
            refusal = objection_of(request.server)
        if refusal is None and not request.is_over:
            self._socket = request.channel.become_socket(self, request)
            return
        if refusal is not None:
            request.reply(refusal)
        self.ended(1006)

    def said(self, text: str) -> None:
        self._inbox.put_nowait({"type": "websocket.receive", "text": text})

    def ended(self, code: int) -> None:
        self._inbox.put_nowait({"type": "websocket.disconnect", "code": code})

    def application_ended(self) -> None:
        """Without its viewer having left it has failed."""
        if self._socket is not None:
            self._socket.end(FAILED, "the live view failed: the gateway's log says why")
        elif not self._request.is_over:
            self._request.reply(ProxyError("the gateway failed on this request; its log has the reason"))


class Socket(WebSocketServerProtocol):
    """Stands in the listener's list in the place of the connection that it was."""

    # What it has not taken yet is news of the past: no end waits for it.
    has_unsent = False

    def __init__(self, viewing: Viewing, listener: Listener) -> None:
        super().__init__()
        self.factory = listener.sockets
        self._viewing = viewing
        self._listener = listener
        self._may_say = MOST_SAID_IN_A_SECOND

    def open(self, request: Request) -> None:
        """Autobahn reads a request by itself: it gets one that says the same and nothing else."""
        [key] = request.requestHeaders.getRawHeaders(b"sec-websocket-key")
        head = b"GET %s HTTP/1.1\r\nhost: ccproxy\r\nupgrade: websocket\r\nconnection: upgrade\r\n" % PATH.encode()
        super().dataReceived(head + b"sec-websocket-version: 13\r\nsec-websocket-key: %s\r\n\r\n" % key)

    def getPeer(self) -> Any:
        return self.transport.getPeer()

    def dataReceived(self, data: bytes) -> None:
        may_say = self._may_say
        self._may_say -= len(data)
        if may_say > 0:
            super().dataReceived(data[:may_say])
            if self._may_say < 0:
                self.end(TOO_MUCH, "a viewer says nothing but that it has taken a message")

    def onMessageFrameBegin(self, length: int) -> None:
        """Autobahn's own limit would hold for what we send as well."""
        super().onMessageFrameBegin(length)
        if self.message_data_total_length > MOST_SAID:
            self.end(TOO_LARGE, "a viewer says nothing but that it has taken a message")

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self._viewing.said("" if isBinary else payload.decode())

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self._viewing.ended(code or 1005)

    def connectionLost(self, reason: Any) -> None:
        super().connectionLost(reason)
        self._listener.leave(self)

    def say(self, text: str) -> None:
        if self.state == self.STATE_OPEN:
            self.sendMessage(text.encode())

    def end(self, code: int, reason: str) -> None:
        """Autobahn lets only applications' own codes pass through the front door."""
        if self.state == self.STATE_OPEN:
            self.sendCloseFrame(code, reason.encode()[:123])

    def look_after(self, _now: float) -> None:
        self._may_say = MOST_SAID_IN_A_SECOND

    def go_away(self) -> None:
        self.end(GOING_AWAY, "this process is ending: another one will tell")

    close_soon = close_idle = go_away


def socket_factory() -> WebSocketServerFactory:
    factory = WebSocketServerFactory(server="ccproxy")
    factory.setProtocolOptions(
        versions=[13],
        webStatus=False,
        failByDrop=False,
        autoPingInterval=PING_AFTER,
        autoPingTimeout=PONG_WITHIN,
        closeHandshakeTimeout=CLOSE_WITHIN,
    )
    return factory
