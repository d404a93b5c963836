"""An upstream that costs almost nothing: answers made beforehand, each under a fresh id, written chunk by chunk.

The mock upstream of the tests reads, renders and bills every call; here that would take the processor that the load
needs. What this one sends are the same bytes a provider would send.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import re
import time
from collections.abc import Callable
from typing import Any

from benchmarks import INPUT_TOKENS, MODEL_PREFIX, SCENARIOS, STAMP, Scenario, dumped, message

# Stands in every prepared answer where the id belongs: providers never use one twice, and a gateway may rely on it.
ID = b"0" * 24
BLANK = STAMP.encode()

_length = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_model = re.compile(rb'"model": ?"%b(\w+)"' % MODEL_PREFIX.encode())


def messages(scenario: Scenario) -> list[bytes]:
    """Anthropic Messages: the pieces of a stream, or one document. Opening and ending travel with a chunk."""
    if not scenario.streams:
        return [dumped(message(scenario, scenario.texts[0]))]
    opening = {**message(scenario, ""), "content": [], "stop_reason": None}
    opening["usage"] = {"input_tokens": INPUT_TOKENS, "output_tokens": 1}
    first = event({"type": "message_start", "message": opening})
    first += event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
    last = event({"type": "content_block_stop", "index": 0})
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    last += event({"type": "message_delta", "delta": delta, "usage": {"output_tokens": scenario.output_tokens}})
    last += event({"type": "message_stop"})
    return framed(first, [event(text_delta(text)) for text in scenario.texts], last)


def text_delta(text: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}


def event(payload: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (payload["type"].encode(), dumped(payload))


def completions(scenario: Scenario) -> list[bytes]:
    """The same as Chat Completions."""
    output = scenario.output_tokens
    usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": output, "total_tokens": INPUT_TOKENS + output}
    head = {"id": f"chatcmpl-{ID.decode()}", "created": 1767225600, "model": scenario.model}
    if not scenario.streams:
        answer = {"role": "assistant", "content": scenario.texts[0]}
        choice = {"index": 0, "message": answer, "finish_reason": "stop"}
        return [dumped({**head, "object": "chat.completion", "choices": [choice], "usage": usage})]

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return data({**head, "object": "chat.completion.chunk", "choices": [choice], "usage": None})

    last = chunk({}, "stop") + data({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    deltas = [chunk({"content": text}) for text in scenario.texts]
    return framed(chunk({"role": "assistant", "content": ""}), deltas, last + b"data: [DONE]\n\n")


def data(payload: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % dumped(payload)


def framed(first: bytes, pieces: list[bytes], last: bytes) -> list[bytes]:
    pieces[0] = first + pieces[0]
    pieces[-1] += last
    return pieces


LANGUAGES: dict[str, Callable[[Scenario], list[bytes]]] = {"anthropic": messages, "openai": completions}


def http_writes(scenario: Scenario, pieces: list[bytes]) -> list[bytes]:
    """What goes over the line, one write each."""
    if not scenario.streams:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(pieces[0])
        return [head + pieces[0]]
    writes = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return framed(head, writes, b"0\r\n\r\n")


def stamped(piece: bytes) -> bytes:
    """With the time of sending, by a clock that all processes of the machine share."""
    return piece.replace(BLANK, b"@%015d" % (time.monotonic_ns() // 1000))


class Upstream:
    """All answers in all languages, ready to be written; the request's path says which language."""

    def __init__(self) -> None:
        self._writes = {
            (language, name): http_writes(row, answers(row))
            for language, answers in LANGUAGES.items()
            for name, row in SCENARIOS.items()
        }
        self._numbers = itertools.count(1)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, kept alive until the other side closes it."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                language = "openai" if b"/chat/completions" in head.partition(b"\r\n")[0] else "anthropic"
                await self._answer(language, await read_body(head, reader), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, language: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        found = _model.search(body)
        if found is None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            return
        scenario = SCENARIOS[found[1].decode()]
        own_id = b"%024d" % next(self._numbers)
        for number, write in enumerate(self._writes[language, scenario.name]):
            if number:
                await asyncio.sleep(scenario.pause)  # 0: other connections get their turn
            piece = write.replace(ID, own_id)
            writer.write(stamped(piece) if scenario.stamped else piece)
        await writer.drain()


async def read_body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    length = _length.search(head)
    return await reader.readexactly(int(length[1])) if length else b""


async def main() -> None:
    parser = argparse.ArgumentParser(description="A fast upstream with fixed answers, for the benchmarks.")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    gc.freeze()
    gc.disable()  # nothing here is a cycle that grows, and a collection would look like a slow server
    server = await asyncio.start_server(Upstream().serve, "127.0.0.1", options.port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
