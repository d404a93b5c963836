"""Calls to providers over real connections: kept, broken, endless, compressed, and to where nobody may be led."""

from __future__ import annotations

import asyncio
import gzip
import logging
import zlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from providers import upstream
from providers.dialects import Outbound
from providers.errors import BrokenOff, BrokenStream, Unreachable, UpstreamError
from providers.routing import Endpoint, Timeouts
from providers.tests.hostile import (
    CHUNKED,
    JSON,
    SSE,
    Script,
    Server,
    chunk,
    descriptors,
    nothing_left_behind,
    read_request,
    repeats,
    says,
    serving,
)
from providers.upstream import Upstreams

PATIENCE = 5.0
REPLY = JSON + b'content-length: 11\r\n\r\n{"ok":true}'
MOST = 64 * 1024 * 1024


class Asked:
    """What came of one call."""

    def __init__(self) -> None:
        self.status = 0
        self.body: bytes | None = None
        self.failure: UpstreamError | None = None


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    async with nothing_left_behind():
        made = Upstreams()
        yield made
        await made.close()


def endpoint(url: str, **timeouts: float) -> Endpoint:
    return Endpoint(id=1, name="one", type="anthropic", base_url=url, timeouts=Timeouts(**timeouts))


async def ask(
    upstreams: Upstreams,
    url: str,
    body: bytes = b"{}",
    *,
    headers: dict[str, str] | None = None,
    fresh: bool = False,
    most: int = MOST,
    patience: float = PATIENCE,
) -> Asked:
    asked, loop = Asked(), asyncio.get_running_loop()
    async with upstreams.call(endpoint(url), Outbound("/messages", body), headers or {}, fresh=fresh) as call:
        try:
            asked.body = await call.whole(loop.time() + patience, most)
        except UpstreamError as error:
            asked.failure = error
        asked.status, asked.failure = call.status, asked.failure or call.failure
    return asked


async def keeps_answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await read_request(reader)
        writer.write(REPLY)


# Connections


async def test_a_connection_is_used_again(upstreams: Upstreams) -> None:
    async with serving(keeps_answering) as server:
        for _ in range(3):
            assert (await ask(upstreams, server.url)).body == b'{"ok":true}'
        assert server.connections == 1


async def test_what_is_sent(upstreams: Upstreams) -> None:
    async with serving(keeps_answering) as server:
        await ask(upstreams, server.url + "/base", b"body", headers={"x-api-key": "secret"})
        head, body = server.requests
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /base/v1/messages HTTP/1.1"
    assert sorted(lines[1:-2]) == sorted(
        [f"host: {server.url[7:]}", "x-api-key: secret", "accept-encoding: identity", "content-length: 4"]
    )
    assert body == b"body"


async def test_a_fresh_call_makes_its_own_connection_and_keeps_none(upstreams: Upstreams) -> None:
    async with serving(keeps_answering) as server:
        await ask(upstreams, server.url)
        assert (await ask(upstreams, server.url, fresh=True)).status == 200
        assert (await ask(upstreams, server.url, fresh=True)).status == 200
        assert server.connections == 3
        assert b"connection: close" in server.requests[-2]


async def test_a_kept_connection_that_has_died_is_told_from_a_provider_that_refuses(upstreams: Upstreams) -> None:
    async def answers_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(REPLY)
        await read_request(reader)  # and closes without a word

    async with serving(answers_once) as server:
        await ask(upstreams, server.url)
        failure = (await ask(upstreams, server.url)).failure
        assert isinstance(failure, Unreachable)
        assert (failure.reached, failure.again) == (True, True)
    async with serving(says()) as server:
        failure = (await ask(upstreams, server.url)).failure
        assert isinstance(failure, Unreachable)
        assert (failure.reached, failure.again) == (True, False)


async def test_what_never_left_is_told_from_what_may_have_been_read(upstreams: Upstreams) -> None:
    failure = (await ask(upstreams, "http://127.0.0.1:9")).failure
    assert isinstance(failure, Unreachable)
    assert not failure.reached
    assert failure.message == "the provider cannot be reached: the connection was refused"


async def test_a_name_that_does_not_resolve(upstreams: Upstreams, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(*_: Any) -> Any:
        raise OSError("no such name")

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", nobody)
    failure = (await ask(upstreams, "http://nowhere.example")).failure
    assert failure is not None
    assert failure.message == "the provider cannot be reached: its name does not resolve"
    assert not failure.reached


@pytest.mark.parametrize(
    "url", ["http://a b/", "http://[::1", "http://\x7f.example", "http://x:99999", "http://" + "a" * 300]
)
async def test_a_base_url_that_is_none_is_no_fault_of_ours(upstreams: Upstreams, url: str) -> None:
    failure = (await ask(upstreams, url)).failure
    assert isinstance(failure, Unreachable)
    assert not failure.reached


async def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_one(upstreams: Upstreams) -> None:
    intruder = JSON + b"content-length: 8\r\n\r\nintruder"

    async def says_more(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(REPLY)
        await asyncio.sleep(0.1)
        writer.write(intruder)
        await reader.read()

    async with serving(says(REPLY + intruder, then="hold"), says_more, keeps_answering) as server:
        for _ in range(3):
            assert (await ask(upstreams, server.url)).body == b'{"ok":true}'
            await asyncio.sleep(0.2)
        assert server.connections == 3


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nb", "a\rb", "a\0b"])
async def test_no_header_brings_another_one(upstreams: Upstreams, value: str) -> None:
    async with serving(keeps_answering) as server:
        asked = await ask(upstreams, server.url, headers={"x-a": value})
        assert asked.failure is not None
        assert server.requests == []


# Waiting


async def test_who_gives_up_waiting_cuts_nothing_short(upstreams: Upstreams) -> None:
    slow = says(SSE + CHUNKED, chunk(b"one"), chunk(b"two"), b"0\r\n\r\n", pause=0.2)
    loop = asyncio.get_running_loop()
    async with serving(slow) as server, upstreams.call(endpoint(server.url), Outbound("/m", b""), {}) as call:
        given_up, heard = 0, b""
        while not call.ended:
            if await call.wait(loop.time() + 0.03):
                heard += call.take()
            else:
                given_up += 1
        assert heard == b"onetwo"
        assert given_up > 5
        assert call.failure is None


async def test_a_stream_of_many_pieces_has_one_timer(upstreams: Upstreams, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    pieces = says(SSE + CHUNKED, *(chunk(b"piece") for _ in range(50)), b"0\r\n\r\n", pause=0.005)
    async with serving(pieces) as server, upstreams.call(endpoint(server.url), Outbound("/m", b""), {}) as call:
        await call.wait(loop.time() + PATIENCE)
        timers = 0
        honest = loop.call_at

        def counting(when: float, callback: Any, *args: Any, **options: Any) -> asyncio.TimerHandle:
            nonlocal timers
            timers += getattr(callback, "__self__", None).__class__.__name__ == "Alarm"
            return honest(when, callback, *args, **options)

        monkeypatch.setattr(loop, "call_at", counting)
        waits = 0
        while not call.ended:
            assert await call.wait(loop.time() + PATIENCE)
            waits += bool(call.take())
        assert waits > 20
        assert timers <= 1


async def test_a_client_that_leaves_in_the_middle_of_a_wait_is_not_held(upstreams: Upstreams) -> None:
    async with serving(says(SSE + CHUNKED, then="hold")) as server:
        asking = asyncio.create_task(ask(upstreams, server.url))
        await asyncio.sleep(0.1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asking, 1)


async def test_what_came_before_a_reset_is_not_lost(upstreams: Upstreams) -> None:
    loop = asyncio.get_running_loop()
    cut = says(SSE + CHUNKED, chunk(b"one"), chunk(b"two"), pause=0.05, then="reset")
    async with serving(cut) as server, upstreams.call(endpoint(server.url), Outbound("/m", b""), {}) as call:
        assert await call.wait(loop.time() + PATIENCE)
        await asyncio.sleep(0.4)  # the client is slow to take it
        heard = call.take()
        while not call.ended:
            await call.wait(loop.time() + PATIENCE)
            heard += call.take()
        assert heard == b"onetwo"
        assert isinstance(call.failure, BrokenStream)


async def test_what_nobody_takes_is_not_read_on(upstreams: Upstreams) -> None:
    sent = 0

    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(SSE + CHUNKED)
        piece = chunk(b"x" * 65536)
        while True:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    loop = asyncio.get_running_loop()
    async with serving(floods) as server, upstreams.call(endpoint(server.url), Outbound("/m", b""), {}) as call:
        assert await call.wait(loop.time() + PATIENCE)
        await asyncio.sleep(0.3)
        before = sent
        await asyncio.sleep(0.3)
        assert sent == before  # the kernel's buffers are full
        assert await call.wait(loop.time() + PATIENCE)
        assert len(call.take()) < 1024 * 1024


@pytest.mark.parametrize("last_chunk", [b"0\r\n\r\n", b""], ids=["comes", "never comes"])
async def test_a_finished_answer_s_last_bytes_are_waited_for_a_moment(
    upstreams: Upstreams, monkeypatch: pytest.MonkeyPatch, last_chunk: bytes
) -> None:
    monkeypatch.setattr(upstream, "LINGER_SECONDS", 0.3)
    loop = asyncio.get_running_loop()

    async def ends_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(SSE + CHUNKED + chunk(b"all there is"))
        await asyncio.sleep(0.1)
        writer.write(last_chunk)
        await keeps_answering(reader, writer)

    async with serving(ends_late) as server:
        async with upstreams.call(endpoint(server.url), Outbound("/m", b""), {}) as call:
            while not call.take():
                await call.wait(loop.time() + PATIENCE)
        await asyncio.sleep(0.6)
        assert server.open == bool(last_chunk)
        await ask(upstreams, server.url, patience=0.2)
        assert server.connections == 1 + (not last_chunk)


async def test_closing_waits_for_nobody(upstreams: Upstreams) -> None:
    async with serving(says(then="hold")) as server:
        async with upstreams.call(endpoint(server.url), Outbound("/m", b""), {}) as call:
            await asyncio.sleep(0.1)  # the client is stuck, and so is whoever serves it
            async with asyncio.timeout(1):
                await upstreams.close()
            assert isinstance(call.failure, BrokenOff)
        assert (await ask(upstreams, server.url)).failure is not None
        assert server.connections == 1


# Faults

NO_HTTP = "what is no HTTP, or with a head that is too large"
BROKE = "broke in the middle of its answer"
HELD = {"then": "hold"}
FAULTS: dict[str, tuple[Script, type[UpstreamError], str]] = {
    "endless header": (repeats(b"HTTP/1.1 200 OK\r\nx: ", b"a" * 1000), BrokenStream, NO_HTTP),
    "endless headers": (repeats(b"HTTP/1.1 200 OK\r\n", b"x-a: b\r\n" * 50), BrokenStream, NO_HTTP),
    "endless status line": (repeats(b"HTTP/1.1 200 ", b"a" * 1000), BrokenStream, NO_HTTP),
    "endless trailers": (repeats(SSE + CHUNKED + b"0\r\n", b"x-a: b\r\n" * 50), BrokenStream, ""),
    "ssh": (says(b"SSH-2.0-OpenSSH_9\r\n", then="hold"), BrokenStream, NO_HTTP),
    "tls": (says(b"\x15\x03\x01\x00\x02\x02\x46", then="hold"), BrokenStream, NO_HTTP),
    "http/0.9": (says(b"hello world"), BrokenStream, NO_HTTP),
    "two lengths": (
        says(JSON + b"content-length: 3\r\ncontent-length: 5\r\n\r\nabcde", then="hold"),
        BrokenStream,
        NO_HTTP,
    ),
    "closes at once": (says(), Unreachable, "closed the connection before it answered"),
    "closes in its headers": (says(b"HTTP/1.1 200 OK\r\nx-a:"), Unreachable, "before it answered"),
    "interim answers for ever": (repeats(b"", b"HTTP/1.1 102 Wait\r\n\r\n", pause=0.01), BrokenStream, "interim"),
    "interim answers in a flood": (repeats(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 99), BrokenStream, "interim"),
    "shorter than it says": (says(JSON + b"content-length: 9\r\n\r\nabc"), BrokenStream, BROKE),
    "chunk is cut": (says(SSE + CHUNKED + b"10\r\nabc"), BrokenStream, BROKE),
    "chunks without end": (says(SSE + CHUNKED + chunk(b"abc")), BrokenStream, BROKE),
    "reset": (says(SSE + CHUNKED, chunk(b"abc"), pause=0.05, then="reset"), BrokenStream, BROKE),
    "chunk of no size": (
        says(SSE + CHUNKED, chunk(b"abc"), b"zz\r\nabc", pause=0.05, then="hold"),
        BrokenStream,
        BROKE,
    ),
    "chunk of huge size": (says(SSE + CHUNKED, b"f" * 20 + b"\r\nabc", pause=0.05, then="hold"), BrokenStream, BROKE),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_is_told_at_once(upstreams: Upstreams, name: str) -> None:
    script, kind, message = FAULTS[name]
    async with serving(script) as server:
        async with asyncio.timeout(PATIENCE / 2):
            asked = await ask(upstreams, server.url)
        assert isinstance(asked.failure, kind)
        assert message in asked.failure.message
        assert asked.failure.reached
        assert str(server.url[7:]) not in asked.failure.message


async def test_longer_than_it_says_is_cut_there_and_the_connection_dropped(upstreams: Upstreams) -> None:
    longer = says(JSON + b"content-length: 3\r\n\r\nabc", b"def", pause=0.1, then="hold")
    async with serving(longer, keeps_answering) as server:
        assert (await ask(upstreams, server.url)).body == b"abc"
        await asyncio.sleep(0.3)
        assert (await ask(upstreams, server.url)).body == b'{"ok":true}'
        assert server.connections == 2


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nx-a", SSE + CHUNKED, SSE + CHUNKED + b"5;ext"])
async def test_silence_ends_with_the_caller_s_patience(upstreams: Upstreams, start: bytes) -> None:
    async with serving(says(start, then="hold")) as server:
        asked = await ask(upstreams, server.url, patience=0.2)
        assert asked.body is None
        assert asked.failure is None


async def test_an_answer_before_the_request_was_read(upstreams: Upstreams) -> None:
    async def refuses_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 9\r\n\r\ntoo large")
        await asyncio.sleep(PATIENCE)  # and reads no further

    async with serving(refuses_early) as server:
        async with asyncio.timeout(2):
            asked = await ask(upstreams, server.url, b"x" * 30_000_000)
        assert (asked.status, asked.body) == (413, b"too large")
        await ask(upstreams, server.url)
        assert server.connections == 2  # nobody speaks in the middle of a body


async def test_a_large_request_arrives_whole(upstreams: Upstreams) -> None:
    async with serving(keeps_answering) as server:
        body = bytes(range(256)) * 50_000
        for _ in range(2):
            assert (await ask(upstreams, server.url, body)).status == 200
        assert server.connections == 1
        assert server.requests[1] == body
        assert server.requests[3] == body


@pytest.mark.parametrize("size", [900_000, 30_000_000])
async def test_a_provider_that_reads_nothing_holds_no_connection(upstreams: Upstreams, size: int) -> None:
    async def reads_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(60)

    async with serving(reads_nothing) as server:
        before = descriptors()
        asked = await ask(upstreams, server.url, b"x" * size, patience=0.3)
        assert asked.body is None
        await asyncio.sleep(0.1)
        assert descriptors() == before + 1  # the server's end


# Size


async def test_a_whole_answer_has_a_size(upstreams: Upstreams) -> None:
    async with serving(repeats(JSON + CHUNKED, chunk(b"x" * 65536))) as server:
        asked = await ask(upstreams, server.url, most=1_000_000)
        assert asked.failure is not None
        assert "more than 1000000 bytes" in asked.failure.message


async def test_an_error_stays_an_error_however_long_its_explanation_is(upstreams: Upstreams) -> None:
    endless = repeats(b"HTTP/1.1 429 Slow\r\nretry-after: 3\r\n" + CHUNKED, chunk(b"x" * 65536))
    async with serving(endless) as server:
        asked = await ask(upstreams, server.url, most=1000)
        assert (asked.status, asked.body, asked.failure) == (429, b"x" * 1000, None)


def packed(body: bytes, encoding: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\n"
    if encoding:
        head += b"content-encoding: " + encoding + b"\r\n"
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


TEXT = b"".join(b'{"number":%d}' % number for number in range(50_000))


@pytest.mark.parametrize(
    "answer",
    [packed(gzip.compress(TEXT), b"gzip"), packed(zlib.compress(TEXT), b"deflate"), packed(gzip.compress(TEXT), b"")],
    ids=["gzip", "deflate", "without a word"],
)
async def test_a_compressed_answer_is_unpacked(upstreams: Upstreams, answer: bytes) -> None:
    async with serving(says(answer, then="hold")) as server:
        assert (await ask(upstreams, server.url)).body == TEXT


async def test_a_compressed_stream_is_unpacked_as_it_comes(upstreams: Upstreams) -> None:
    packer = zlib.compressobj(wbits=31)
    pieces = [packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH) for text in (b"one", b"two", b"three")]
    answer = [SSE + b"content-encoding: gzip\r\n" + CHUNKED, *map(chunk, [*pieces, packer.flush()]), b"0\r\n\r\n"]
    loop = asyncio.get_running_loop()
    heard = []
    slow = says(*answer, pause=0.05)
    async with serving(slow) as server, upstreams.call(endpoint(server.url), Outbound("/m", b""), {}) as call:
        while not call.ended:
            await call.wait(loop.time() + PATIENCE)
            heard.append(call.take())
        assert [piece for piece in heard if piece] == [b"one", b"two", b"three"]
        assert call.failure is None


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (packed(gzip.compress(b"\0" * 20_000_000), b"gzip"), "more than 100 times its size"),
        (packed(TEXT, b"br"), "compresses its answer as 'br'"),
        (packed(TEXT, b"zstd"), "compresses its answer as 'zstd'"),
        (packed(TEXT, b"gzip"), "damaged"),
        (packed(gzip.compress(TEXT)[:-20], b"gzip"), "was cut"),
    ],
    ids=["bomb", "br", "zstd", "no gzip", "cut"],
)
async def test_what_cannot_be_unpacked_is_told(upstreams: Upstreams, answer: bytes, message: str) -> None:
    async with serving(says(answer, then="hold")) as server:
        asked = await ask(upstreams, server.url)
        assert isinstance(asked.failure, BrokenStream)
        assert message in asked.failure.message


@pytest.mark.parametrize("encoding", [b"br", b"gzip"])
async def test_an_error_that_cannot_be_unpacked_is_still_that_error(upstreams: Upstreams, encoding: bytes) -> None:
    async with serving(says(packed(TEXT, encoding, b"429 Slow"), then="hold")) as server:
        asked = await ask(upstreams, server.url)
        assert (asked.status, asked.body, asked.failure) == (429, b"", None)


# Where a call may lead


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(upstreams: Upstreams, status: int) -> None:
    async with serving(keeps_answering) as target:
        away = b"HTTP/1.1 %d Away\r\nlocation: %b/v1/messages\r\ncontent-length: 0\r\n\r\n" % (
            status,
            target.url.encode(),
        )
        async with serving(says(away, then="hold")) as server:
            asked = await ask(upstreams, server.url, headers={"x-api-key": "secret"})
            assert asked.status == status
        assert (target.connections, target.requests) == (0, [])


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.169.254.",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.254.43518",
        "0.0.0.0",  # noqa: S104
        "0",
        "[::]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "255.255.255.255",
    ],
)
async def test_an_address_that_is_never_called_is_not_connected_to(
    upstreams: Upstreams, host: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def connect(*_: Any, **__: Any) -> Any:
        pytest.fail("a connection was tried")

    monkeypatch.setattr("aiohappyeyeballs.start_connection", connect)
    with caplog.at_level(logging.ERROR, "ccproxy.upstream"):
        failure = (await ask(upstreams, f"http://{host}:8080")).failure
    assert isinstance(failure, Unreachable)
    assert not failure.reached
    assert "base URL" in failure.message
    if host != "0251.0376.0251.0376":  # httpx knows no octal numbers
        assert "never called" in failure.message
        assert "is not called" in caplog.text


class Names:
    """A resolver that answers as it was told, one answer after the other."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[dict[str, Any]]:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        return [
            {"hostname": host, "host": each, "port": port, "family": 2 + 8 * (":" in each), "proto": 0, "flags": 0}
            for each in answer
        ]


def answered_by(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> Names:
    names = Names(*answers)
    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", lambda _, *args: names.resolve(*args))
    return names


def port_of(server: Server) -> str:
    return server.url.rsplit(":", 1)[1]


async def test_one_bad_address_of_a_name_is_enough(
    upstreams: Upstreams, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answered_by(monkeypatch, ["127.0.0.1", "::ffff:169.254.169.254"])
    async with serving(keeps_answering) as server:
        with caplog.at_level(logging.ERROR, "ccproxy.upstream"):
            failure = (await ask(upstreams, f"http://rebound.example:{port_of(server)}")).failure
        assert server.connections == 0
    assert failure is not None
    assert "never called" in failure.message
    assert "169.254" not in failure.message
    assert "rebound.example" not in failure.message
    assert "rebound.example" in caplog.text
    assert "169.254.169.254" in caplog.text


async def test_the_connection_goes_to_the_address_that_was_looked_at(
    upstreams: Upstreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = answered_by(monkeypatch, ["127.0.0.1"], ["169.254.169.254"])
    async with serving(keeps_answering) as server:
        assert (await ask(upstreams, f"http://rebound.example:{port_of(server)}")).status == 200
        assert names.asked == 1
        assert f"host: rebound.example:{port_of(server)}".encode() in server.requests[0]


async def test_private_networks_can_be_denied(
    upstreams: Upstreams, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.PROVIDER_PRIVATE_NETWORKS = "deny"
    answered_by(monkeypatch, ["127.0.0.1"])
    async with serving(keeps_answering) as server:
        for url in (server.url, f"http://local.example:{port_of(server)}"):
            failure = (await ask(upstreams, url)).failure
            assert failure is not None
            assert "never called" in failure.message
        assert server.connections == 0
