"""An upstream that writes as much as it is let, and knows how much that was."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from typing import Any, Self

# What the kernel takes from us before anybody has read it.
SEND_BUFFER = 256 * 1024
PIECE_TEXT = "word " * 800
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


USAGE = {"input_tokens": 10, "output_tokens": 1, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
MESSAGE: dict[str, Any] = {
    "id": "msg_flood",
    "type": "message",
    "role": "assistant",
    "model": "flood",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": USAGE,
}
OPENING = event("message_start", message=MESSAGE) + event(
    "content_block_start", index=0, content_block={"type": "text", "text": ""}
)
PIECE = event("content_block_delta", index=0, delta={"type": "text_delta", "text": PIECE_TEXT}) * 8
ENDING = (
    event("content_block_stop", index=0)
    + event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=USAGE)
    + event("message_stop")
)


def listening() -> socket.socket:
    """It waits on a port of its own from now on; who calls before there is a flood waits as well."""
    line = socket.create_server(("127.0.0.1", 0), backlog=1024)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    return line


class Flood:
    """Each answer has `size` bytes. `written` is what the kernel has taken of all of them."""

    def __init__(self, line: socket.socket, size: int) -> None:
        self._line = line
        self._size = size
        self.written = 0
        self.calls = 0
        self.open = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, sock=self._line.dup())
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._server.close()
        # Whoever called has left by now, or is left here.
        for _ in range(100):
            if not self.open:
                break
            await asyncio.sleep(0.05)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.calls += 1
        self.open += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
            writer.transport.set_write_buffer_limits(high=0)
            await self._write(writer, HEAD + OPENING)
            for _ in range(self._size // len(PIECE)):
                await self._write(writer, PIECE)
            await self._write(writer, ENDING)
        self.open -= 1
        writer.transport.abort()

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        await writer.drain()
        self.written += len(data)

    async def has_come_to_rest(self, seconds: float, still: float = 1.0) -> bool:
        """Whether nothing was written for a while; waits for it."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        last, since = -1, 0.0
        while loop.time() < until:
            if self.written != last:
                last = self.written
                since = loop.time()
            elif loop.time() - since >= still:
                return True
            await asyncio.sleep(0.05)
        return False
