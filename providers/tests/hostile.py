"""Upstreams that do what no provider should: raw TCP servers on the loopback, one script per connection."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_length = re.compile(rb"\ncontent-length: *(\d+)", re.IGNORECASE)

SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"


class Server:
    """What a hostile upstream saw."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connections = 0
        self.requests: list[bytes] = []
        self.open = 0


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    found = _length.search(head)
    return head + await reader.readexactly(int(found[1]) if found else 0)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def says(*pieces: bytes, pause: float = 0.0, then: str = "close") -> Script:
    """Reads the request, sends the pieces, then closes, resets, or holds the connection open."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        if then == "hold":
            await reader.read()
        elif then == "reset":
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()

    return script


def repeats(start: bytes, piece: bytes, *, pause: float = 0.0) -> Script:
    """The piece again and again, as long as anybody takes it."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(start)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return script


@contextlib.asynccontextmanager
async def serving(*scripts: Script) -> AsyncIterator[Server]:
    """Each connection gets the next script, the last one all that follow."""
    tasks: set[asyncio.Task[None]] = set()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        script = scripts[min(server.connections, len(scripts) - 1)]
        server.connections += 1
        server.open += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await script(Recording(reader, server.requests), writer)
        finally:
            server.open -= 1
            writer.close()
            tasks.discard(task)

    listener = await asyncio.start_server(play, "127.0.0.1", 0, limit=64 * 1024 * 1024)
    server = Server(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Recording(asyncio.StreamReader):
    """Keeps what was read."""

    def __init__(self, reader: asyncio.StreamReader, into: list[bytes]) -> None:
        self._reader = reader
        self._into = into

    async def readuntil(self, separator: bytes = b"\n") -> bytes:  # type: ignore[override]
        data = await self._reader.readuntil(separator)
        self._into.append(data)
        return data

    async def readexactly(self, n: int) -> bytes:
        data = await self._reader.readexactly(n)
        self._into.append(data)
        return data

    async def read(self, n: int = -1) -> bytes:
        return await self._reader.read(n)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextlib.asynccontextmanager
async def nothing_left_behind() -> AsyncIterator[None]:
    """Afterwards there are no more open descriptors and no more tasks than before."""
    await asyncio.sleep(0)
    files, tasks = descriptors(), len(asyncio.all_tasks())
    yield
    async with asyncio.timeout(5):
        while descriptors() > files or len(asyncio.all_tasks()) > tasks:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)
