"""When this gateway ends, what it still has with providers is broken off: told to the client, and booked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.tests.conftest import Gateway, Reply, Upstream, endpoint, question
from gateway.tests.test_relay import bill_equals_ledger, route_to
from providers.errors import BrokenOff


def leaving() -> BrokenOff:
    return BrokenOff("the gateway is being restarted: try again", retry_after=2)


async def until_billed(upstream: Upstream) -> None:
    """Until the provider has learnt that nobody listens any more."""
    async with asyncio.timeout(5):
        while any(call["outcome"] == "running" for call in await upstream.bill()):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)


async def begun(gateway: Gateway, upstream: Upstream, pieces: int = 0, *, stream: bool = True) -> asyncio.Task[Reply]:
    """A question that has reached its provider, and of whose answer so many pieces have reached the client."""
    sent = 0
    original = gateway.application

    async def watching(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: dict[str, Any]) -> None:
            nonlocal sent
            sent += bool(message.get("body"))
            await send(message)

        await original(scope, receive, sending)

    gateway.application = watching  # type: ignore[assignment]
    task = asyncio.create_task(gateway.ask(question(stream=stream)))
    async with asyncio.timeout(5):
        while sent < pieces or not await upstream.requests():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)
    gateway.application = original
    return task


async def test_a_running_stream_ends_in_an_error_event_and_is_booked_as_cut(
    gateway: Gateway, upstream: Upstream, second_upstream: Upstream, kind: str
) -> None:
    gateway.route(route_to(endpoint(1, kind, upstream.url), endpoint(2, kind, second_upstream.url)))
    await upstream.script({"text": "a long story " * 50, "chunks": 50, "chunk_delay": 0.1})
    asking = await begun(gateway, upstream, pieces=3)

    gateway.runtime.upstreams.break_off(leaving())
    async with asyncio.timeout(1):
        reply = await asking

    name, data = reply.events()[-1]
    assert (name, data["error"]["type"]) == ("error", "overloaded_error")
    assert data["error"]["message"] == "the gateway is being restarted: try again"
    assert reply.text().startswith("a long story")
    [settled] = gateway.settled()
    assert settled.row.status == "cut"
    assert settled.attempts[0].usage.output > 0
    assert await second_upstream.requests() == []


@pytest.mark.parametrize("stream", [True, False])
async def test_who_waits_for_the_first_byte_gets_a_plain_error(
    gateway: Gateway, upstream: Upstream, second_upstream: Upstream, kind: str, *, stream: bool
) -> None:
    gateway.route(route_to(endpoint(1, kind, upstream.url), endpoint(2, kind, second_upstream.url)))
    await upstream.script({"hang": True})
    asking = await begun(gateway, upstream, stream=stream)

    gateway.runtime.upstreams.break_off(leaving())
    async with asyncio.timeout(1):
        reply = await asking

    assert reply.status == 529
    assert reply.headers["retry-after"] == "2"
    [settled] = gateway.settled()
    assert (settled.row.status, len(settled.attempts)) == ("failed", 1)
    assert settled.attempts[0].usage.input > 0  # the provider may have read the question
    assert await second_upstream.requests() == []


async def test_calls_begun_afterwards_fail_at_once_and_call_nobody(
    gateway: Gateway, upstream: Upstream, kind: str
) -> None:
    gateway.route(route_to(endpoint(1, kind, upstream.url), endpoint(2, kind, upstream.url)))
    gateway.runtime.upstreams.break_off(leaving())
    replies = await asyncio.gather(*(gateway.ask(question()) for _ in range(3)))
    assert [reply.status for reply in replies] == [529, 529, 529]
    assert [attempt.reached for settled in gateway.settled() for attempt in settled.attempts] == [False] * 3
    await bill_equals_ledger(gateway, upstream)


async def test_closing_the_connections_ends_what_still_runs(gateway: Gateway, upstream: Upstream, kind: str) -> None:
    gateway.route(route_to(endpoint(1, kind, upstream.url)))
    await upstream.script({"text": "a long story " * 50, "chunks": 50, "chunk_delay": 0.1})
    asking = await begun(gateway, upstream, pieces=3)

    async with asyncio.timeout(2):
        await gateway.runtime.upstreams.close()
        reply = await asking

    assert reply.events()[-1][0] == "error"
    assert [settled.row.status for settled in gateway.settled()] == ["cut"]
    await until_billed(upstream)
