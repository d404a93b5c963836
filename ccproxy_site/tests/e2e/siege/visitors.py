"""Clients on bare TCP: each reads, writes, waits and leaves exactly as it is told, and nothing by itself."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import socket
import struct
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ccproxy_site.tests.e2e.siege import sockets

# Less than this the kernel does not give.
SMALL_BUFFER = 4096
PATIENCE = 30.0


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def envelope(self) -> dict[str, Any]:
        """The error in it; empty where it holds none that a Messages client would understand."""
        with contextlib.suppress(ValueError):
            document = json.loads(self.body)
            if isinstance(document, dict) and document.get("type") == "error" and document.get("request_id"):
                error = document.get("error")
                named_alike = self.headers.get("request-id") == document["request_id"]
                if isinstance(error, dict) and error.get("type") and error.get("message") and named_alike:
                    return error
        return {}

    def refuses(self, status: int, kind: str = "") -> bool:
        """Whether it does so in words that its reader understands."""
        return (
            self.status == status and bool(self.envelope) and self.envelope["type"] == (kind or self.envelope["type"])
        )


class Gone(Exception):
    """The server closed before there was a whole reply."""


class Visitor:
    """One connection."""

    def __init__(self, line: socket.socket) -> None:
        self.line = line
        self._loop = asyncio.get_running_loop()
        self._heard = bytearray()

    async def say(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.line, data)

    async def push(self, piece: bytes, most: int) -> int:
        """Says `piece` over and over, until the server says something or closes; how many bytes it took."""
        said, rest = 0, memoryview(b"")
        while said < most and not self.is_spoken_to:
            rest = rest or memoryview(piece)
            try:
                taken = self.line.send(rest)
            except BlockingIOError:
                await asyncio.sleep(0.002)
                continue
            except OSError:
                break
            said, rest = said + taken, rest[taken:]
            await asyncio.sleep(0)
        return said

    @property
    def is_spoken_to(self) -> bool:
        try:
            self.line.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    async def hear(self, most: int = 65536) -> bytes:
        """What is there next; nothing once the server has closed, however it did."""
        try:
            return await self._loop.sock_recv(self.line, most)
        except OSError:
            return b""

    async def until_closed(self, seconds: float) -> float | None:
        """How long it took, or None."""
        began = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while data := await self.hear():
                    self._heard += data
                return time.monotonic() - began
        return None

    async def reply(self, *, to: str = "POST", seconds: float = PATIENCE) -> Reply:
        """The next one. Raises Gone, or TimeoutError."""
        async with asyncio.timeout(seconds):
            lines = (await self._until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(lines[0].split()[1])
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            if to == "HEAD" or status in {100, 204, 304}:
                body = b""
            elif "content-length" in headers:
                body = await self._take(int(headers["content-length"]))
            elif headers.get("transfer-encoding") == "chunked":
                body = await self._chunks()
            else:
                body = await self._rest()
        return Reply(status, headers, body)

    async def _more(self) -> None:
        data = await self.hear()
        if not data:
            raise Gone(f"the server closed after {bytes(self._heard[:200])!r}")
        self._heard += data

    async def _until(self, mark: bytes) -> bytes:
        while (end := self._heard.find(mark)) < 0:
            await self._more()
        found = bytes(self._heard[:end])
        del self._heard[: end + len(mark)]
        return found

    async def _take(self, length: int) -> bytes:
        while len(self._heard) < length:
            await self._more()
        found = bytes(self._heard[:length])
        del self._heard[:length]
        return found

    async def _chunks(self) -> bytes:
        parts = []
        while length := int(await self._until(b"\r\n"), 16):
            parts.append(await self._take(length))
            await self._take(2)
        await self._take(2)
        return b"".join(parts)

    async def _rest(self) -> bytes:
        while data := await self.hear():
            self._heard += data
        found = bytes(self._heard)
        self._heard.clear()
        return found

    @property
    def unread(self) -> bytes:
        """What came after the last reply."""
        return bytes(self._heard)

    def read_by_server(self, said: int) -> int:
        """Of what was said, what its process has taken out of the kernel."""
        outstanding = struct.unpack("i", fcntl.ioctl(self.line, termios.TIOCOUTQ, b"\0\0\0\0"))[0]
        return int(said - outstanding - sockets.waiting(self.line))

    def leave(self) -> None:
        self.line.close()

    def vanish(self) -> None:
        """By a reset, as a process that dies with bytes unread, or a router that forgets."""
        with contextlib.suppress(OSError):
            self.line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.line.close()


class Gate:
    """Where visitors enter; whoever is still there at the end of the block leaves."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._visitors: list[Visitor] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for visitor in self._visitors:
            visitor.vanish()

    async def enter(self, *, reads: int = 0, writes: int = 0, source: str = "127.0.0.1") -> Visitor:
        """`reads` and `writes`: the kernel's buffers, where they should be smaller than it likes."""
        line = socket.socket()
        visitor = Visitor(line)
        self._visitors.append(visitor)
        line.setblocking(False)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if reads:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, reads)
        if writes:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, writes)
        line.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", self._port))
        return visitor
