"""The load: connections that are kept alive, a request at a time on each, and every reply checked whole."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from benchmarks import INPUT_TOKENS, STAMP, Scenario

# Seconds for one reply; and the rest after one that went wrong, so that a dead server is not hammered.
PATIENCE, REST = 30.0, 0.1
LAST_CHUNK = b"0\r\n\r\n"

_length = re.compile(rb"\ncontent-length: *(\d+)", re.IGNORECASE)
_chunked = re.compile(rb"\ntransfer-encoding: *chunked", re.IGNORECASE)
_stamp = re.compile(rb"@(\d{15})")
_told_stamp = re.compile(r"@\d{15}")

Look = Callable[[], object] | None
Arrivals = list[tuple[float, int]]  # when, and how many bytes were there then


class BadReply(Exception):
    """Not what was to be answered; the text says in what."""


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    sends: int  # HTTP chunks of a stream: as many as the server made sends
    delays: list[tuple[float, float]] = field(default_factory=list)  # of stamped chunks: when it came, how late


@dataclass
class Tally:
    """What one round of load has seen."""

    replies: int = 0
    bad: int = 0
    complaints: list[str] = field(default_factory=list)  # the first few
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    sends: int = 0
    delays: list[tuple[float, float]] = field(default_factory=list)
    # All connections were there from when to when, by the clock of the stamps.
    complete: float = math.inf
    thinning: float = math.inf

    def complain(self, complaint: str) -> None:
        self.bad += 1
        if len(self.complaints) < 3:
            self.complaints.append(complaint)

    def hear(self, reply: Reply) -> None:
        self.replies += 1
        self.sends += reply.sends
        self.delays += reply.delays

    def delays_of_all(self) -> list[float]:
        """Of the chunks that came while all connections were there."""
        return [late for at, late in self.delays if self.complete <= at <= self.thinning]


@dataclass(frozen=True)
class Address:
    """Where to ask, and with which headers besides those that every client sends."""

    port: int
    path: str
    headers: tuple[str, ...] = ()
    before_model: str = ""  # what must stand before a model's name
    forgiven: frozenset[str] = frozenset()  # what is not compared, since there it rightly differs

    def request(self, scenario: Scenario) -> bytes:
        model = scenario.model.encode()
        body = scenario.request.replace(model, self.before_model.encode() + model, 1)
        lines = (
            f"POST {self.path.format(scenario=scenario.name)} HTTP/1.1",
            f"host: 127.0.0.1:{self.port}",
            "user-agent: ccproxy-benchmarks",
            "accept: */*",
            "content-type: application/json",
            "anthropic-version: 2023-06-01",
            f"content-length: {len(body)}",
            *self.headers,
        )
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def drive(
    address: Address, scenario: Scenario, connections: int, seconds: float, look: Look = None, joining: float = 0.0
) -> Tally:
    """Each connection asks for so long; what is under way at the end is waited for.

    They join evenly over so many seconds. `look` is called once all have, and again when the first one leaves.
    """
    tally = Tally()
    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            asking = tasks.create_task(keep_asking(address, scenario, seconds, tally))
            if look:
                asking.add_done_callback(lambda _: leave(tally, look))
                await asyncio.sleep(joining / connections)
        tally.complete = time.monotonic()
        if look:
            look()
    tally.seconds = time.perf_counter() - started
    return tally


def leave(tally: Tally, look: Callable[[], object]) -> None:
    if tally.thinning == math.inf:
        tally.thinning = time.monotonic()
        look()


async def keep_asking(address: Address, scenario: Scenario, seconds: float, tally: Tally) -> None:
    """Over one connection; a new one where a reply was bad."""
    until = time.perf_counter() + seconds
    request = address.request(scenario)
    while time.perf_counter() < until:
        try:
            await ask_over_connection(address, request, scenario, until, tally)
        except (BadReply, OSError, EOFError, TimeoutError, ValueError, asyncio.LimitOverrunError) as error:
            tally.complain(f"{type(error).__name__}: {error}")
            await asyncio.sleep(REST)


async def ask_over_connection(address: Address, request: bytes, scenario: Scenario, until: float, tally: Tally) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
    try:
        while time.perf_counter() < until:
            asked = time.perf_counter()
            writer.write(request)
            async with asyncio.timeout(PATIENCE):
                reply = await read_reply(reader)
            tally.latencies.append(time.perf_counter() - asked)
            check(scenario, reply, address.forgiven)
            tally.hear(reply)
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
    arrivals: Arrivals = []
    while not coded.endswith(LAST_CHUNK):  # no text of ours ends so
        data = await reader.read(65536)
        if not data:
            raise EOFError("the connection was closed in the middle of a reply")
        coded += data
        arrivals.append((time.monotonic(), len(coded)))
    chunks = decoded(coded)
    return Reply(status, b"".join(chunks), len(chunks), delays(coded, arrivals))


def delays(coded: bytes, arrivals: Arrivals) -> list[tuple[float, float]]:
    """When each stamped chunk came, and how much later than it was sent."""
    found = []
    coming = iter(arrivals)
    at, length = next(coming)
    for stamp in _stamp.finditer(coded):
        while length < stamp.end():
            at, length = next(coming)
        found.append((at, at - int(stamp[1]) / 1e6))
    return found


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


def check(scenario: Scenario, reply: Reply, forgiven: frozenset[str] = frozenset()) -> None:
    """Raises BadReply unless the whole answer is there."""
    if reply.status != 200:
        raise BadReply(f"HTTP {reply.status}: {reply.body[:300].decode('utf-8', 'replace')}")
    try:
        told = told_by_stream(reply.body) if scenario.streams else msgspec.json.decode(reply.body)
        compare(scenario, told, forgiven)
    except (msgspec.DecodeError, LookupError, TypeError) as error:
        raise BadReply(f"not a Messages reply: {type(error).__name__} {error}") from error


def compare(scenario: Scenario, told: dict[str, Any], forgiven: frozenset[str]) -> None:
    told_and_expected = {
        "text": (_told_stamp.sub(STAMP, text_of(told)), "".join(scenario.texts)),
        "model": (told["model"], scenario.model),
        "stop_reason": (told["stop_reason"], "end_turn"),
        "id": (told["id"][:4], "msg_"),
        "input_tokens": (told["usage"]["input_tokens"], INPUT_TOKENS),
        "output_tokens": (told["usage"]["output_tokens"], scenario.output_tokens),
    }
    for what, (said, expected) in told_and_expected.items():
        if what not in forgiven:
            expect(what, said, expected)


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
