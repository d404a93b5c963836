"""A client that leaves, at whatever moment: the call ends then and there, and what was begun is settled."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from accounting.ledger import Opened
from gateway.tests.conftest import Gateway, Upstream, endpoint, question
from gateway.tests.test_relay import route_to
from providers.upstream import Call


@pytest.fixture
def running(gateway: Gateway, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """The calls whose block has not ended."""
    gateway.route(route_to(endpoint(1, "anthropic", upstream.url)))
    calls: list[Call] = []
    honest = gateway.runtime.upstreams.call

    @asynccontextmanager
    async def watched(*arguments: Any, **options: Any) -> AsyncIterator[Call]:
        async with honest(*arguments, **options) as call:
            calls.append(call)
            try:
                yield call
            finally:
                calls.remove(call)

    monkeypatch.setattr(gateway.runtime.upstreams, "call", watched)
    return calls


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is left to the garbage collector stays."""
    gc.disable()
    yield
    gc.enable()


def assert_nothing_is_left(gateway: Gateway, running: list[Call]) -> None:
    assert running == []
    assert gateway.runtime.ledger.running == 0
    intents = {line.row.request_id for line in gateway.lines() if isinstance(line, Opened)}
    assert intents == {settled.row.request_id for settled in gateway.settled()}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_that_is_cancelled_at_any_step_is_settled(
    gateway: Gateway, upstream: Upstream, running: list[Call], no_collector: None, *, stream: bool
) -> None:
    await upstream.default({"text": "a long story " * 50, "chunks": 50, "chunk_delay": 0.005})
    for steps in [*range(12), 30, 100, 300]:
        asking = asyncio.create_task(gateway.ask(question(stream=stream)))
        for _ in range(steps):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        assert_nothing_is_left(gateway, running)
    assert {settled.row.status for settled in gateway.settled()} <= {"cancelled", "completed"}
    assert gateway.settled() != []


@pytest.mark.parametrize("pieces", [0, 1, 2, 3])
async def test_a_stream_that_cannot_be_sent_on_ends_its_call_at_once(
    gateway: Gateway, upstream: Upstream, running: list[Call], no_collector: None, pieces: int
) -> None:
    await upstream.script({"text": "a long story " * 50, "chunks": 50, "chunk_delay": 0.02})
    original = gateway.application

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        sent = 0

        async def sending(message: dict[str, Any]) -> None:
            nonlocal sent
            if sent == pieces:
                raise ConnectionResetError
            sent += 1
            await send(message)

        with pytest.raises(ConnectionResetError):
            await original(scope, receive, sending)
        assert_nothing_is_left(gateway, running)

    gateway.application = failing  # type: ignore[assignment]
    await gateway.ask(question())
    assert [settled.row.status for settled in gateway.settled()] == ["cancelled"]
