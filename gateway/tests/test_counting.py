"""count_tokens: who counts, what the reply says, and that running streams hardly notice."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway import counting
from gateway.configuration import Configuration
from gateway.tests.conftest import Gateway, Reply, endpoint
from gateway.tests.test_relay import route_to
from providers import tokens, weighing
from providers.factors import Factors
from providers.models import ModelRoute, Provider, RouteTarget

NOWHERE = "http://127.0.0.1:9"
MANAGED = {"edits": [{"type": "clear_tool_uses_20250919"}]}

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture(autouse=True)
def unlearned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighing, "factors", Factors())


def body(text: str = "hello world", **fields: Any) -> dict[str, Any]:
    return {"model": "claude-opus-5-5", "messages": [{"role": "user", "content": text}], **fields}


async def count(gateway: Gateway, asked: Any) -> Reply:
    return await gateway.ask(asked, path="/v1/messages/count_tokens?beta=true")


class Counter:
    """An upstream that answers count_tokens as it is told, and remembers how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.url = ""
        self.answer: Answer

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        await request.read()
        return await self.answer(request)

    def say(self, text: str, status: int = 200) -> None:
        async def answer(_request: web.Request) -> web.StreamResponse:
            return web.Response(text=text, status=status, content_type="application/json")

        self.answer = answer


@pytest.fixture
async def counter() -> AsyncIterator[Counter]:
    held = Counter()
    application = web.Application()
    application.router.add_post("/v1/messages/count_tokens", held.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    held.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield held
    await runner.cleanup()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (body(), {"input_tokens": 9}),
        (body(context_management=MANAGED), {"input_tokens": 9, "context_management": {"original_input_tokens": 9}}),
        (body(context_management=None), {"input_tokens": 9}),
        (body(context_management="odd"), {"input_tokens": 9, "context_management": {"original_input_tokens": 9}}),
        (body('"context_management"'), {"input_tokens": 10}),
        (body(model="claude-of-next-year", stream=True, max_tokens=5), {"input_tokens": 9}),
        (body(messages=[{"role": "user", "content": []}], system="hello world"), {"input_tokens": 13}),
    ],
)
async def test_foreign_models_are_counted_for_here(gateway: Gateway, asked: Any, told: dict[str, Any]) -> None:
    gateway.route(route_to(endpoint(1, "openai", NOWHERE), model="gpt-5"))
    reply = await count(gateway, asked)
    assert (reply.status, reply.json()) == (200, told)
    assert gateway.lines() == []


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (b"{", "body"),
        ({"model": "claude-opus-5-5"}, "messages: Field required"),
        ({"model": "claude-opus-5-5", "messages": []}, "messages"),
        (body(system=7), "system"),
        (body(tools=[{"input_schema": {}}]), "tools.0.name: Field required"),
    ],
)
async def test_what_is_broken_is_refused_as_a_message_would_be(gateway: Gateway, asked: Any, message: str) -> None:
    gateway.route(route_to(endpoint(1, "openai", NOWHERE)))
    reply = await count(gateway, asked)
    assert (reply.status, reply.json()["error"]["type"]) == (400, "invalid_request_error")
    assert reply.json()["error"]["message"].startswith(message)


async def test_a_tool_that_cannot_be_offered_is_no_reason_to_refuse_a_count(gateway: Gateway) -> None:
    gateway.route(route_to(endpoint(1, "openai", NOWHERE), model="gpt-5"))
    reply = await count(gateway, body(tools=[{"type": "web_search_20250305", "name": "web_search"}]))
    assert reply.json() == {"input_tokens": 9}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"input_tokens": 4711}', {"input_tokens": 4711}),
        (
            '{"input_tokens": 5, "context_management": {"original_input_tokens": 9}, "new": 1}',
            {"input_tokens": 5, "context_management": {"original_input_tokens": 9}},
        ),
        ('{"input_tokens": "many"}', {"input_tokens": 11}),
        ("<html>", {"input_tokens": 11}),
    ],
)
async def test_a_provider_that_counts_is_believed_when_it_can_be_read(
    gateway: Gateway, counter: Counter, text: str, told: dict[str, Any]
) -> None:
    gateway.route(route_to(endpoint(1, "anthropic", counter.url)))
    counter.say(text)
    for _ in range(2):
        assert (await count(gateway, body())).json() == told
    assert counter.asked == 2


@pytest.mark.parametrize(
    ("text", "status", "asked"),
    [
        ("Not Found", 404, 1),
        ("", 405, 1),
        ("", 501, 1),
        ('{"error": {"message": "model: claude-opus-5-5"}}', 404, 2),  # it lacks the model: it may count for others
        ("", 500, 2),
        ("", 529, 2),
    ],
)
async def test_a_provider_that_does_not_count_is_not_asked_again(
    gateway: Gateway, counter: Counter, text: str, status: int, asked: int
) -> None:
    gateway.route(route_to(endpoint(1, "anthropic", counter.url)))
    counter.say(text, status)
    for _ in range(2):
        assert (await count(gateway, body())).json() == {"input_tokens": 11}
    assert counter.asked == asked


async def test_a_provider_that_takes_too_long_is_not_asked_again(
    gateway: Gateway, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "PATIENCE", 0.05)
    gateway.route(route_to(endpoint(1, "anthropic", counter.url)))
    never = asyncio.Event()

    async def silence(_request: web.Request) -> web.StreamResponse:
        await never.wait()
        return web.Response()

    counter.answer = silence
    for _ in range(2):
        assert (await count(gateway, body())).json() == {"input_tokens": 11}
    assert counter.asked == 1
    assert 3500 < gateway.runtime.not_counting[1] - time.monotonic() <= 3600
    never.set()


async def test_a_provider_that_refuses_the_request_is_heard(gateway: Gateway, counter: Counter) -> None:
    gateway.route(route_to(endpoint(1, "anthropic", counter.url)))
    counter.say('{"type":"error","error":{"type":"invalid_request_error","message":"tools.0: no"}}', 400)
    reply = await count(gateway, body())
    assert (reply.status, reply.json()["error"]["message"]) == (400, "tools.0: no")


# The event loop


class Ticks:
    """A stream's stand-in: it wants to run every millisecond, and knows by how much it was late."""

    def __init__(self) -> None:
        self.late: list[float] = []

    async def run(self) -> None:
        while True:
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            self.late.append(time.perf_counter() - due)


TEXT = "".join(path.read_text() for path in sorted(Path(tokens.__file__).parent.glob("*.py")))


def burst(turn: int) -> list[dict[str, Any]]:
    """Fifty requests of 30 KB, none of which was counted before."""
    return [body(f"{turn} {number} " + TEXT[number * 400 : number * 400 + 30_000]) for number in range(50)]


async def latest(gateway: Gateway, asked: list[dict[str, Any]]) -> float:
    """By how much the stream was late at worst while all of these were counted."""
    ticks = Ticks()
    stream = asyncio.create_task(ticks.run())
    await asyncio.sleep(0.01)
    replies = await asyncio.gather(*(count(gateway, each) for each in asked))
    stream.cancel()
    assert {reply.status for reply in replies} == {200}
    assert min(reply.json()["input_tokens"] for reply in replies) > 5_000
    return max(ticks.late)


async def test_fifty_counts_at_once_hardly_hold_up_a_running_stream(gateway: Gateway) -> None:
    """The stream waits for fifty requests to be read, which takes some 10 ms, and hardly longer for their tokens."""
    gateway.route(route_to(endpoint(1, "openai", NOWHERE), model="gpt-5"))
    tokens.warm()
    for asked in burst(0):
        tokens.count_text(asked["messages"][0]["content"])
    read = min([await latest(gateway, burst(0)) for _ in range(3)])  # known by now: nothing is encoded
    counted = min([await latest(gateway, burst(turn)) for turn in (1, 2, 3)])  # other processes hold us up as well
    assert counted < 5 * read  # on the event loop it was nine times


async def test_a_long_request_is_counted_in_another_thread_and_a_short_one_here(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.route(route_to(endpoint(1, "openai", NOWHERE), model="gpt-5"))
    threads: list[str] = []
    original = tokens.count_request

    def noted(*arguments: Any) -> int:
        threads.append(threading.current_thread().name)
        return original(*arguments)

    monkeypatch.setattr(tokens, "count_request", noted)
    tokens.warm()
    await count(gateway, body("short"))
    await count(gateway, body("long " * 2_000))
    assert threads[0] == threading.current_thread().name
    assert threads[1].startswith("counting")

    monkeypatch.setattr(tokens, "_encodings", {})  # loading takes long, whatever is counted
    await count(gateway, body("short"))
    assert threads[2].startswith("counting")


def test_vocabularies_are_loaded_by_whoever_reads_the_configuration(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_encodings", {})
    configuration = Configuration(poll_seconds=1)
    provider = Provider.objects.create(name="first", type="anthropic", base_url="https://api.example.com")
    RouteTarget.objects.create(route=ModelRoute.objects.create(pattern="*"), provider=provider)
    configuration._look()
    assert not tokens.is_ready()

    provider.type = "openai"
    provider.save()
    configuration._look()
    assert tokens.is_ready()


def test_a_vocabulary_that_cannot_be_read_is_no_end_of_the_configuration(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_endpoints: object) -> None:
        raise OSError("no such file")

    monkeypatch.setattr(weighing, "warm", broken)
    configuration = Configuration(poll_seconds=1)
    configuration._look()
    assert configuration.is_loaded
    assert "the vocabulary cannot be read" in caplog.text
