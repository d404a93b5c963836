"""The load: connections that are kept alive, a request at a time on each, and every reply checked whole."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec

from benchmarks import INPUT_TOKENS, Scenario

# Seconds for one reply; and the rest after one that went wrong, so that a dead server is not hammered.
PATIENCE, REST = 30.0, 0.1
LAST_CHUNK = b"0\r\n\r\n"

_length = re.compile(rb"\ncontent-length: *(\d+)", re.IGNORECASE)
_chunked = re.compile(rb"\ntransfer-encoding: *chunked", re.IGNORECASE)


class BadReply(Exception):
    """Not what was to be answered; the text says in what."""


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    sends: int  # HTTP chunks of a stream: as many as the server made sends


@dataclass
class Tally:
    """What one round of load has seen."""

    replies: int = 0
    bad: int = 0
    complaints: list[str] = field(default_factory=list)  # the first few
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    sends: int = 0

    def complain(self, complaint: str) -> None:
        self.bad += 1
        if len(self.complaints) < 3:
            self.complaints.append(complaint)


@dataclass(frozen=True)
class Address:
    """Where to ask, and with which headers besides those that every client sends."""

    port: int
    path: str
    headers: tuple[str, ...] = ()

    def request(self, scenario: Scenario) -> bytes:
        lines = (
            f"POST {self.path.format(scenario=scenario.name)} HTTP/1.1",
            f"host: 127.0.0.1:{self.port}",
            "user-agent: ccproxy-benchmarks",
            "accept: */*",
            "content-type: application/json",
            "anthropic-version: 2023-06-01",
            f"content-length: {len(scenario.request)}",
            *self.headers,
        )
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + scenario.request


async def drive(address: Address, scenario: Scenario, seconds: float) -> Tally:
    """Asks for so long; what is under way at the end is waited for."""
    tally = Tally()
    request = address.request(scenario)
    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(scenario.connections):
            tasks.create_task(keep_asking(address.port, request, scenario, started + seconds, tally))
    tally.seconds = time.perf_counter() - started
    return tally


async def keep_asking(port: int, request: bytes, scenario: Scenario, until: float, tally: Tally) -> None:
    """Over one connection; a new one where a reply was bad."""
    while time.perf_counter() < until:
        try:
            await ask_over_connection(port, request, scenario, until, tally)
        except (BadReply, OSError, EOFError, TimeoutError, ValueError, asyncio.LimitOverrunError) as error:
            tally.complain(f"{type(error).__name__}: {error}")
            await asyncio.sleep(REST)


async def ask_over_connection(port: int, request: bytes, scenario: Scenario, until: float, tally: Tally) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while time.perf_counter() < until:
            asked = time.perf_counter()
            writer.write(request)
            async with asyncio.timeout(PATIENCE):
                reply = await read_reply(reader)
            tally.latencies.append(time.perf_counter() - asked)
            check(scenario, reply)
            tally.replies += 1
            tally.sends += reply.sends
    finally:
        writer.close()


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head[9:12])
    length = _length.search(head)
    if length:
        return Reply(status, await reader.readexactly(int(length[1])), 1)
    if not _chunked.search(head):
        raise BadReply("a reply without content-length that is not chunked either")
    coded = b""
    while not coded.endswith(LAST_CHUNK):  # no text of ours ends so
        data = await reader.read(65536)
        if not data:
            raise EOFError("the connection was closed in the middle of a reply")
        coded += data
    chunks = decoded(coded)
    return Reply(status, b"".join(chunks), len(chunks))


def decoded(coded: bytes) -> list[bytes]:
    """The chunks of a chunked body; each must have the length it says."""
    chunks = []
    position = 0
    while True:
        end = coded.index(b"\r\n", position)
        size = int(coded[position:end], 16)
        position = end + 2 + size
        if coded[position : position + 2] != b"\r\n":
            raise BadReply("an HTTP chunk of another length than it says")
        if not size:
            break
        chunks.append(coded[end + 2 : position])
        position += 2
    if position + 2 != len(coded):
        raise BadReply("bytes after the last HTTP chunk")
    return chunks


def check(scenario: Scenario, reply: Reply) -> None:
    """Raises BadReply unless the whole answer is there."""
    if reply.status != 200:
        raise BadReply(f"HTTP {reply.status}: {reply.body[:300].decode('utf-8', 'replace')}")
    try:
        check_message(scenario, reply)
    except (msgspec.DecodeError, LookupError, TypeError) as error:
        raise BadReply(f"not a Messages reply: {type(error).__name__} {error}") from error


def check_message(scenario: Scenario, reply: Reply) -> None:
    told = told_by_stream(reply.body) if scenario.streams else msgspec.json.decode(reply.body)
    expect("text", text_of(told), "".join(scenario.texts))
    expect("model", told["model"], scenario.model)
    expect("stop_reason", told["stop_reason"], "end_turn")
    expect("id", told["id"][:4], "msg_")
    figures = told["usage"]["input_tokens"], told["usage"]["output_tokens"]
    expect("usage", figures, (INPUT_TOKENS, scenario.output_tokens))


def expect(what: str, told: object, expected: object) -> None:
    if told != expected:
        raise BadReply(f"{what} is {str(told)[:100]!r}, not {str(expected)[:100]!r}")


def text_of(told: dict[str, Any]) -> str:
    return "".join(block["text"] for block in told["content"])


def told_by_stream(body: bytes) -> dict[str, Any]:
    """The reply that a stream's events come to; they must be whole, in order, and end with message_stop."""
    events = [payload_of(text) for text in body.removesuffix(b"\n\n").split(b"\n\n")]
    kinds = [event["type"] for event in events]
    deltas = events[2:-3]
    expect("opening", kinds[:2], ["message_start", "content_block_start"])
    expect("deltas", set(kinds[2:-3]), {"content_block_delta"})
    expect("ending", kinds[-3:], ["content_block_stop", "message_delta", "message_stop"])
    started, ended = events[0]["message"], events[-2]
    text = "".join(event["delta"]["text"] for event in deltas)
    usage = {**started["usage"], **ended["usage"]}
    return {**started, **ended["delta"], "content": [{"text": text}], "usage": usage}


def payload_of(event: bytes) -> dict[str, Any]:
    name, newline, data = event.partition(b"\ndata: ")
    payload: dict[str, Any] = msgspec.json.decode(data)
    expect("event", name, b"event: " + payload["type"].encode() if newline else b"an event with data")
    return payload
