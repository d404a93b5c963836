"""Whatever an upstream does, its client gets an answer or an error, soon, and the ledger one row."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from accounting.ledger import Settled
from gateway.tests.conftest import Gateway, Reply, endpoint, question
from gateway.tests.test_relay import route_to
from providers.routing import Timeouts
from providers.tests.hostile import (
    CHUNKED,
    JSON,
    SSE,
    Script,
    chunk,
    nothing_left_behind,
    read_request,
    repeats,
    says,
    serving,
)

SHORT = Timeouts(connect=1.0, first_byte=0.6, idle=0.6, total=1.2)
KEPT_BACK = "169.254"


@pytest.fixture(autouse=True)
async def clean(gateway: Gateway) -> AsyncIterator[None]:
    """Descriptors and tasks come back."""
    gateway.runtime.ledger.spool.probe()  # opens its file
    async with nothing_left_behind():
        yield
        await gateway.runtime.upstreams.close()


def event(kind: str, data: object, name: str = "") -> bytes:
    text = json.dumps(data, separators=(",", ":"))
    return (f"data: {text}\n\n" if kind == "openai" else f"event: {name}\ndata: {text}\n\n").encode()


def response(name: str, **fields: object) -> bytes:
    return event("responses", {"type": name, "output_index": 0, **fields}, name)


def beginning(kind: str) -> bytes:
    """Up to where text may come."""
    if kind == "openai":
        return event(kind, {"id": "c1", "choices": [{"index": 0, "delta": {"role": "assistant"}}]})
    if kind == "responses":
        item = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
        created = response("response.created", response={"id": "resp_1", "status": "in_progress"})
        return created + response("response.output_item.added", item=item)
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "claude-opus-5-5"}
    start = {"type": "message_start", "message": {**message, "usage": {"input_tokens": 5, "output_tokens": 1}}}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    return event(kind, start, "message_start") + event(kind, block, "content_block_start")


def text(kind: str, said: str) -> bytes:
    if kind == "openai":
        return event(kind, {"id": "c1", "choices": [{"index": 0, "delta": {"content": said}}]})
    if kind == "responses":
        return response("response.output_text.delta", item_id="msg_1", content_index=0, delta=said)
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": said}}
    return event(kind, delta, "content_block_delta")


def ending(kind: str) -> bytes:
    if kind == "openai":
        stop = {"id": "c1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        return event(kind, stop) + b"data: [DONE]\n\n"
    if kind == "responses":
        return response("response.completed", response={"id": "resp_1", "status": "completed", "output": []})
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}}
    stopped = event(kind, {"type": "content_block_stop", "index": 0}, "content_block_stop")
    return stopped + event(kind, delta, "message_delta") + event(kind, {"type": "message_stop"}, "message_stop")


def whole(kind: str) -> bytes:
    return beginning(kind) + text(kind, "hello") + ending(kind)


async def ask(gateway: Gateway, kind: str, script: Script, *, stream: bool = True, body: str = "Hello") -> Reply:
    """The reply, which must be there soon after the provider's time is over."""
    async with serving(script) as server:
        gateway.route(route_to(endpoint(1, kind, server.url, timeouts=SHORT)))
        async with asyncio.timeout(10 * SHORT.total):
            return await gateway.ask(question(body, stream=stream))


def only_row(gateway: Gateway) -> Settled:
    [settled] = gateway.settled()
    return settled


def assert_failed(gateway: Gateway, reply: Reply) -> str:
    """The sentence of the error, which came as a status or as the last event."""
    if reply.status == 200:
        before, _, last = reply.body.rpartition(b"event: error\ndata: ")
        assert b"message_stop" not in before
        data = json.loads(last)
    else:
        data = reply.json()
    assert only_row(gateway).row.status in {"failed", "cut"}
    assert data["error"]["message"]
    return str(data["error"]["message"])


def endless(kind: str, piece: bytes, *, pause: float = 0.001) -> Script:
    return repeats(SSE + CHUNKED + chunk(beginning(kind)), chunk(piece), pause=pause)


# Before any content


@pytest.mark.parametrize(
    "script",
    [
        repeats(b"HTTP/1.1 200 OK\r\nx: ", b"a" * 1000),
        repeats(b"HTTP/1.1 200 OK\r\n", b"x-a: b\r\n" * 50),
        repeats(b"HTTP/1.1 200 ", b"a" * 1000),
        repeats(b"", b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.005),
        repeats(b"", b"\r\n" * 100, pause=0.001),
        says(b"SSH-2.0-OpenSSH_9\r\n", then="hold"),
        says(then="hold"),
        says(),
        says(b"HTTP/1.1 200 OK\r\nx-a:"),
        says(b"HTTP/1.1 000 Odd\r\n\r\n", then="hold"),
        says(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", then="hold"),
        says(b"HTTP/1.1 204 Empty\r\n\r\n", then="hold"),
        says(SSE + b"content-length: 0\r\n\r\n", then="hold"),
        says(JSON + b"content-length: 99\r\n\r\n{", then="hold"),
        says(JSON + b"content-length: 99\r\n\r\n{"),
        says(JSON + b"content-encoding: br\r\ncontent-length: 3\r\n\r\nabc", then="hold"),
        says(JSON + b"content-encoding: gzip\r\n\r\n" + gzip.compress(b"\0" * 20_000_000)),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_no_answer_is_an_error(gateway: Gateway, kind: str, script: Script, *, stream: bool) -> None:
    assert_failed(gateway, await ask(gateway, kind, script, stream=stream))


@pytest.mark.parametrize("stream", [True, False])
async def test_a_redirect_says_what_to_do_and_leads_nowhere(gateway: Gateway, kind: str, *, stream: bool) -> None:
    async with serving(says()) as target:
        away = b"HTTP/1.1 307 Away\r\nlocation: %b/v1/messages\r\ncontent-length: 0\r\n\r\n" % target.url.encode()
        message = assert_failed(gateway, await ask(gateway, kind, says(away, then="hold"), stream=stream))
        assert target.connections == 0
    assert "redirect (HTTP 307)" in message
    assert "correct its base URL" in message


async def test_an_address_that_is_never_called_is_not_told_to_the_client(gateway: Gateway, kind: str) -> None:
    gateway.route(route_to(endpoint(1, kind, f"http://{KEPT_BACK}.169.254/v1")))
    reply = await gateway.ask(question())
    assert "never called" in assert_failed(gateway, reply)
    assert KEPT_BACK.encode() not in reply.body
    [attempt] = only_row(gateway).attempts
    assert not attempt.reached


async def test_an_early_refusal_of_a_large_request_is_that_refusal(gateway: Gateway, kind: str) -> None:
    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        said = b'{"type":"error","error":{"type":"request_too_large","message":"too large for me"}}'
        writer.write(b"HTTP/1.1 413 Large\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(said))
        writer.write(said)
        await asyncio.sleep(5)

    reply = await ask(gateway, kind, refuses, body="x" * 20_000_000)
    assert reply.status in {400, 413}
    assert "too large for me" in assert_failed(gateway, reply)


# In the middle of an answer


@pytest.mark.parametrize("piece", [b": ping\n\n", b"event: ping\ndata: {}\n\n", b"\n", b"x", b"x: y\n\n"])
async def test_what_says_nothing_for_ever_ends_with_its_time(gateway: Gateway, kind: str, piece: bytes) -> None:
    assert_failed(gateway, await ask(gateway, kind, endless(kind, piece)))


async def test_text_for_ever_ends_with_its_time_and_is_billed(gateway: Gateway, kind: str) -> None:
    reply = await ask(gateway, kind, endless(kind, text(kind, "word ")))
    assert "longer than 1.2 s" in assert_failed(gateway, reply)
    assert reply.text().startswith("word word")
    assert only_row(gateway).row.status == "cut"
    assert only_row(gateway).attempts[0].usage.output > 0


@pytest.mark.parametrize("piece", [b"x" * 65536, b"data: x\n" * 8192, b"data\n" * 13000, b"\xff" * 65536])
async def test_an_event_without_end_is_bounded(gateway: Gateway, kind: str, piece: bytes) -> None:
    flood = repeats(SSE + CHUNKED + chunk(beginning(kind)) + chunk(text(kind, "hello")), chunk(piece))
    tracemalloc.start()
    try:
        reply = await ask(gateway, kind, flood)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert_failed(gateway, reply)
    assert most < 250 * 1024 * 1024


async def test_one_byte_at_a_time_is_read(gateway: Gateway, kind: str) -> None:
    async def trickles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for byte in SSE + CHUNKED + chunk(whole(kind)) + b"0\r\n\r\n":
            writer.write(bytes((byte,)))
            await asyncio.sleep(0)

    reply = await ask(gateway, kind, trickles)
    assert reply.text() == "hello"
    assert reply.events()[-1][0] == "message_stop"
    assert only_row(gateway).row.status == "completed"


@pytest.mark.parametrize(
    "rest",
    [
        b"zz\r\n",
        b"ffffffffffffffffffffff\r\n",
        b"20\r\ncut",
        b"",
        b"0\r\n\r\n",
    ],
    ids=["no size", "too large a size", "cut in a chunk", "no last chunk", "no ending"],
)
async def test_an_answer_that_breaks_is_cut(gateway: Gateway, kind: str, rest: bytes) -> None:
    start = SSE + CHUNKED + chunk(beginning(kind) + text(kind, "hello"))
    reply = await ask(gateway, kind, says(start, rest, pause=0.05, then="hold" if rest[:1] in b"zf" else "close"))
    assert_failed(gateway, reply)
    assert reply.text() == "hello"
    assert only_row(gateway).row.status == "cut"


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b""], ids=["ended", "closed"])
@pytest.mark.parametrize("half", ["\u20ac".encode()[:2], b'"}'], ids=["half a letter", "half an event"])
async def test_half_an_event_at_the_end_is_not_passed_on(gateway: Gateway, kind: str, half: bytes, end: bytes) -> None:
    cut = text(kind, "gone").split(b"gone")[0] + half
    start = SSE + CHUNKED + chunk(beginning(kind) + text(kind, "hello"))
    reply = await ask(gateway, kind, says(start, chunk(cut), end, pause=0.05))
    assert_failed(gateway, reply)
    assert [name for name, _ in reply.events()][-1] == "error"  # every event can be read
    assert reply.text() == "hello"


@pytest.mark.parametrize("after", [b"0\r\n\r\n" + b"junk" * 100, b"", b"zz\r\n", chunk(b": more\n\n") * 1000])
async def test_what_comes_after_the_end_changes_nothing(gateway: Gateway, kind: str, after: bytes) -> None:
    reply = await ask(gateway, kind, says(SSE + CHUNKED + chunk(whole(kind)), after, pause=0.05, then="hold"))
    assert reply.events()[-1][0] == "message_stop"
    assert only_row(gateway).row.status == "completed"


async def test_longer_than_it_says_is_right_where_the_answer_fits(gateway: Gateway, kind: str) -> None:
    answer = whole(kind)
    head = SSE + b"content-length: %d\r\n\r\n" % len(answer)
    reply = await ask(gateway, kind, says(head + answer, b"and more", pause=0.1, then="hold"))
    assert reply.text() == "hello"
    assert only_row(gateway).row.status == "completed"


async def test_a_compressed_stream_is_read(gateway: Gateway, kind: str) -> None:
    body = gzip.compress(whole(kind))
    head = SSE + b"content-encoding: gzip\r\n" + CHUNKED
    reply = await ask(
        gateway, kind, says(head, *(chunk(body[i : i + 9]) for i in range(0, len(body), 9)), b"0\r\n\r\n")
    )
    assert reply.text() == "hello"
    assert only_row(gateway).row.status == "completed"


async def test_a_stream_that_unpacks_without_measure_is_cut(gateway: Gateway, kind: str) -> None:
    bomb = gzip.compress(beginning(kind) + text(kind, "hello") + b": comment\n\n" * 1_000_000)
    head = SSE + b"content-encoding: gzip\r\n\r\n"
    reply = await ask(gateway, kind, says(head + bomb))
    assert "more than 100 times its size" in assert_failed(gateway, reply)
    assert reply.text() == "hello"
