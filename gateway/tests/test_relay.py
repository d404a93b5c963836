"""One question, one answer, booked: what a client gets and what stands in the ledger, for every upstream language."""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import Any

import pytest

from accounting.ledger import Entry
from gateway.relay import Relay
from gateway.tests.conftest import OWNER_TOKEN, QUICK, Gateway, Upstream, endpoint, question
from providers import tokens
from providers.dialects import Answer
from providers.errors import LedgerUnavailable
from providers.routing import Endpoint, Route, Target, Timeouts


def route_to(*endpoints: Endpoint, pattern: str = "claude-*", model: str = "") -> Route:
    return Route(pattern, tuple(Target(each, model, priority) for priority, each in enumerate(endpoints)))


async def bill_equals_ledger(gateway: Gateway, *upstreams: Upstream) -> None:
    """Row by row and to the token: what was billed stands as an attempt of the request it was made for."""
    billed = [call for upstream in upstreams for call in await upstream.bill()]
    attempts = {
        (row.row.request_id, attempt.number): attempt
        for row in gateway.settled()
        for attempt in row.attempts
        if attempt.reached
    }
    assert sorted(call["request_id"] for call in billed) == sorted(request_id for request_id, _ in attempts)
    for call in billed:
        columns = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
        same_request = [attempt for (request_id, _), attempt in attempts.items() if request_id == call["request_id"]]
        figures = [tuple(getattr(attempt.usage, name) for name in columns) for attempt in same_request]
        assert tuple(call[name] for name in columns) in figures


async def test_streamed_answer_is_whole_and_booked(gateway: Gateway, upstream: Upstream, kind: str) -> None:
    gateway.route(route_to(endpoint(1, kind, upstream.url)))
    await upstream.script({"text": "Good morning to you"})

    reply = await gateway.ask(question())

    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.text() == "Good morning to you"
    assert [name for name, _ in reply.events()][-2:] == ["message_delta", "message_stop"]
    [settled] = gateway.settled()
    assert settled.row.request_id == reply.headers["request-id"]
    assert (settled.row.status, settled.row.stop_reason) == ("completed", "end_turn")
    assert settled.attempts[0].source == "upstream"
    await bill_equals_ledger(gateway, upstream)


async def test_plain_answer_is_whole_and_booked(gateway: Gateway, upstream: Upstream, kind: str) -> None:
    gateway.route(route_to(endpoint(1, kind, upstream.url)))
    await upstream.script({"text": "Good morning to you"})

    reply = await gateway.ask(question(stream=False))

    assert reply.status == 200
    assert [block["text"] for block in reply.json()["content"]] == ["Good morning to you"]
    await bill_equals_ledger(gateway, upstream)


async def test_settlement_stands_in_the_spool_before_the_ending_leaves(
    gateway: Gateway, upstream: Upstream, kind: str
) -> None:
    gateway.route(route_to(endpoint(1, kind, upstream.url)))
    rows_at_send = []
    original = gateway.application

    async def watching(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: dict[str, Any]) -> None:
            if b"message_delta" in message.get("body", b"") or b"message_stop" in message.get("body", b""):
                rows_at_send.append(len(gateway.settled()))
            await send(message)

        await original(scope, receive, sending)

    gateway.application = watching  # type: ignore[assignment]
    await gateway.ask(question())
    assert rows_at_send
    assert set(rows_at_send) == {1}


@pytest.mark.parametrize(
    "failure", [{"status": 500}, {"status": 429}, {"status": 529}, {"html": True}, {"empty": True}]
)
@pytest.mark.parametrize("stream", [True, False])
async def test_next_provider_answers_in_silence_when_the_first_fails(
    gateway: Gateway, upstream: Upstream, second_upstream: Upstream, kind: str, failure: dict[str, object], stream: bool
) -> None:
    gateway.route(route_to(endpoint(1, kind, upstream.url), endpoint(2, kind, second_upstream.url)))
    await upstream.script(failure)
    await second_upstream.script({"text": "second"})

    reply = await gateway.ask(question(stream=stream))

    assert reply.status == 200
    assert reply.headers["x-ccproxy-provider"] == f"{kind}-2"
    assert (reply.text() if stream else reply.json()["content"][0]["text"]) == "second"
    [settled] = gateway.settled()
    assert [attempt.status for attempt in settled.attempts] == ["failed", "completed"]
    await bill_equals_ledger(gateway, upstream, second_upstream)


async def test_refused_connection_never_left_and_moves_on(gateway: Gateway, upstream: Upstream, kind: str) -> None:
    gateway.route(route_to(endpoint(1, kind, "http://127.0.0.1:9"), endpoint(2, kind, upstream.url)))
    reply = await gateway.ask(question())
    assert reply.status == 200
    [settled] = gateway.settled()
    assert [attempt.reached for attempt in settled.attempts] == [False, True]
    await bill_equals_ledger(gateway, upstream)


async def test_silent_provider_is_left_for_the_next(
    gateway: Gateway, upstream: Upstream, second_upstream: Upstream, kind: str
) -> None:
    slow = endpoint(1, kind, upstream.url, timeouts=QUICK)
    gateway.route(route_to(slow, endpoint(2, kind, second_upstream.url)))
    await upstream.script({"hang": True})
    reply = await gateway.ask(question())
    assert reply.status == 200
    assert reply.headers["x-ccproxy-provider"] == f"{kind}-2"


async def test_all_candidates_failed_tells_the_most_useful_reason(
    gateway: Gateway, upstream: Upstream, second_upstream: Upstream, kind: str
) -> None:
    gateway.route(route_to(endpoint(1, kind, upstream.url), endpoint(2, kind, second_upstream.url)))
    await upstream.script({"status": 500})
    await second_upstream.script({"status": 429, "retry_after": 7})
    reply = await gateway.ask(question())
    assert reply.status == 429
    assert reply.json()["error"]["type"] == "rate_limit_error"
    assert reply.headers["retry-after"] == "7"
    [settled] = gateway.settled()
    assert settled.row.status == "failed"


@pytest.mark.parametrize("cut", ["close", "abort"])
async def test_cut_answer_ends_in_an_error_and_is_billed_as_estimated(
    gateway: Gateway, upstream: Upstream, kind: str, cut: str
) -> None:
    gateway.route(route_to(endpoint(1, kind, upstream.url)))
    await upstream.script({"text": "never to be finished", "cut_after": 2, "cut": cut, "chunk_delay": 0.02})
    reply = await gateway.ask(question())
    names = [name for name, _ in reply.events()]
    assert reply.status == 200
    assert names[-1] == "error"
    assert "message_stop" not in names
    assert "message_delta" not in names
    [settled] = gateway.settled()
    assert settled.row.status == "cut"
    assert settled.attempts[0].source == "estimated"
    assert settled.attempts[0].usage.input > 0
    assert settled.attempts[0].usage.output > 0


async def test_error_in_the_middle_of_a_stream_is_an_error_event(
    gateway: Gateway, upstream: Upstream, kind: str
) -> None:
    gateway.route(route_to(endpoint(1, kind, upstream.url)))
    await upstream.script({"text": "half of it", "error_in_stream": 2})
    reply = await gateway.ask(question())
    assert [name for name, _ in reply.events()][-1] == "error"
    assert gateway.settled()[0].row.status == "cut"


async def test_client_that_leaves_ends_the_upstream_call_and_is_billed(
    gateway: Gateway, upstream: Upstream, kind: str
) -> None:
    gateway.route(route_to(endpoint(1, kind, upstream.url)))
    await upstream.script({"text": "a long story " * 50, "chunks": 50, "chunk_delay": 0.1})
    await gateway.ask(question(), leave_after=0.5)
    [settled] = gateway.settled()
    assert settled.row.status == "cancelled"
    assert settled.attempts[0].usage.output > 0
    for _ in range(20):
        [call] = await upstream.bill()
        if call["outcome"] != "running":
            break
        await asyncio.sleep(0.1)
    assert call["outcome"] == "abandoned"


async def test_waiting_client_gets_comments_and_failover_stays_possible(
    gateway: Gateway, upstream: Upstream, second_upstream: Upstream, kind: str
) -> None:
    gateway.runtime.pace = type(gateway.runtime.pace)(commit_after=0.1, ping_after=0.1)
    slow = endpoint(1, kind, upstream.url, timeouts=QUICK)
    gateway.route(route_to(slow, endpoint(2, kind, second_upstream.url)))
    await upstream.script({"hang": True})
    await second_upstream.script({"text": "at last"})
    reply = await gateway.ask(question())
    assert reply.body.startswith(b": waiting\n\n")
    assert reply.text() == "at last"


async def test_silence_in_the_middle_is_filled_with_pings(gateway: Gateway, upstream: Upstream, kind: str) -> None:
    gateway.runtime.pace = type(gateway.runtime.pace)(commit_after=5, ping_after=0.1)
    gateway.route(route_to(endpoint(1, kind, upstream.url)))
    await upstream.script({"text": "slow going", "chunks": 2, "chunk_delay": 0.35})
    reply = await gateway.ask(question())
    assert ("ping", {"type": "ping"}) in reply.events()
    assert reply.text() == "slow going"


async def test_failure_after_the_commitment_is_an_error_event(gateway: Gateway, upstream: Upstream, kind: str) -> None:
    gateway.runtime.pace = type(gateway.runtime.pace)(commit_after=0.1, ping_after=0.1)
    gateway.route(route_to(endpoint(1, kind, upstream.url, timeouts=QUICK)))
    await upstream.script({"hang": True})
    reply = await gateway.ask(question())
    assert reply.status == 200
    assert [name for name, _ in reply.events()] == ["error"]
    assert gateway.settled()[0].row.status == "failed"


async def test_usage_is_counted_when_the_provider_says_nothing(gateway: Gateway, upstream: Upstream, kind: str) -> None:
    tokens.warm()
    gateway.route(route_to(endpoint(1, kind, upstream.url)))
    await upstream.script({"text": "Good morning to you", "usage": "none"})
    reply = await gateway.ask(question())
    [settled] = gateway.settled()
    assert settled.row.status == "completed"
    assert settled.attempts[0].source == "counted"
    assert settled.attempts[0].usage.output == 4
    if kind == "openai":
        [delta] = [data for name, data in reply.events() if name == "message_delta"]
        assert delta["usage"]["output_tokens"] == 4


async def test_gateway_key_never_goes_upstream(gateway: Gateway, upstream: Upstream, kind: str) -> None:
    gateway.route(route_to(endpoint(1, kind, upstream.url)))
    await gateway.ask(question())
    [seen] = await upstream.requests()
    assert "ccp_" not in str(seen["headers"])
    assert "secret-1" in str(seen["headers"])
    assert seen["headers"]["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    "authorization",
    [f"BEARER {OWNER_TOKEN}", f"Basic {OWNER_TOKEN}", f"Bearer\t{OWNER_TOKEN}", f"Bearer sk-x, Bearer {OWNER_TOKEN}"],
    ids=["upper case", "basic", "tab", "twice"],
)
async def test_a_key_in_no_form_is_taken_for_the_client_s_own_token(
    gateway: Gateway, upstream: Upstream, authorization: str
) -> None:
    gateway.route(route_to(endpoint(1, "anthropic", upstream.url, client_token=True)))
    reply = await gateway.ask(question(), headers={"authorization": authorization})
    assert reply.status == 401
    assert await upstream.requests() == []


async def test_a_missing_token_is_worse_news_than_a_passing_trouble(gateway: Gateway, upstream: Upstream) -> None:
    gateway.route(
        route_to(endpoint(1, "anthropic", upstream.url), endpoint(2, "anthropic", upstream.url, client_token=True))
    )
    await upstream.script({"status": 529})
    assert (await gateway.ask(question())).status == 529


async def test_an_endless_answer_ends_with_its_time(gateway: Gateway, upstream: Upstream, kind: str) -> None:
    short = Timeouts(connect=1, first_byte=5, idle=5, total=2)
    gateway.route(route_to(endpoint(1, kind, upstream.url, timeouts=short)))
    await upstream.script({"size": 100_000, "chunks": 2000, "chunk_delay": 0.01})
    reply = await gateway.ask(question())
    assert [name for name, _ in reply.events()][-1] == "error"
    assert b"longer than 2 s" in reply.body


async def test_who_leaves_before_the_first_byte_is_billed_for_what_was_read(
    gateway: Gateway, upstream: Upstream, kind: str
) -> None:
    gateway.route(route_to(endpoint(1, kind, upstream.url)))
    await upstream.script({"hang": True})
    await gateway.ask(question("word " * 400), leave_after=0.3)
    [settled] = gateway.settled()
    assert settled.row.status == "cancelled"
    assert settled.attempts[0].usage.input > 300
    assert settled.attempts[0].source == "estimated"


async def test_client_token_is_forwarded_where_the_provider_wants_it(gateway: Gateway, upstream: Upstream) -> None:
    gateway.route(route_to(endpoint(1, "anthropic", upstream.url, client_token=True)))
    refused = await gateway.ask(question())
    assert refused.status == 401
    assert "your own token" in refused.json()["error"]["message"]
    await gateway.ask(question(), headers={"authorization": "Bearer sk-ant-mine"})
    [seen] = await upstream.requests()
    assert seen["headers"]["authorization"] == "Bearer sk-ant-mine"
    assert "x-api-key" not in seen["headers"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_disk_that_fills_up_between_two_candidates_is_not_the_client_leaving(
    gateway: Gateway, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, *, stream: bool
) -> None:
    gateway.route(route_to(endpoint(1, "anthropic", upstream.url), endpoint(2, "anthropic", upstream.url)))
    await upstream.script({"status": 500})
    honest = gateway.runtime.ledger.write_intent

    def full(entry: Entry) -> None:
        if len(entry.attempts) > 1:
            raise LedgerUnavailable("the disk is full")
        honest(entry)

    monkeypatch.setattr(gateway.runtime.ledger, "write_intent", full)
    reply = await gateway.ask(question(stream=stream))
    assert reply.status == 503
    assert [settled.row.status for settled in gateway.settled()] == ["failed"]


@pytest.mark.parametrize("stream", [True, False])
async def test_our_own_bug_is_not_the_client_leaving(
    gateway: Gateway, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, *, stream: bool
) -> None:
    def bug(*_: object) -> None:
        raise KeyError("bug")

    gateway.route(route_to(endpoint(1, "anthropic", upstream.url)))
    monkeypatch.setattr(Relay, "_before_sending", bug)
    reply = await gateway.ask(question(stream=stream))
    assert reply.status == 500
    assert [settled.row.status for settled in gateway.settled()] == ["failed"]


async def test_our_own_bug_in_the_middle_ends_in_an_error_event(
    gateway: Gateway, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.route(route_to(endpoint(1, "anthropic", upstream.url)))
    await upstream.script({"chunks": 10, "chunk_delay": 0.03, "size": 1000})
    honest, pieces = Relay._before_sending, itertools.count()

    def bug(relay: Relay, answer: Answer) -> None:
        if next(pieces) > 3:
            raise KeyError("bug")
        honest(relay, answer)

    monkeypatch.setattr(Relay, "_before_sending", bug)
    reply = await gateway.ask(question())
    assert reply.events()[-1][0] == "error"
    assert [settled.row.status for settled in gateway.settled()] == ["cut"]


async def test_the_error_names_who_was_tried_and_why_each_failed(
    gateway: Gateway, upstream: Upstream, second_upstream: Upstream, kind: str
) -> None:
    gateway.route(route_to(endpoint(1, kind, upstream.url), endpoint(2, "openai", second_upstream.url)))
    await upstream.script({"status": 529})
    await second_upstream.script({"status": 429, "retry_after": 3})

    details = (await gateway.ask(question())).json()["error"]["details"]

    assert [attempt["provider"] for attempt in details["attempts"]] == [f"{kind}-1", "openai-2"]
    assert "overloaded" in details["attempts"][0]["reason"]
    assert "rate" in details["attempts"][1]["reason"]
    assert details["provider"] == "openai-2"


async def test_names_of_providers_are_kept_where_policy_says_so(
    gateway: Gateway, upstream: Upstream, settings: Any
) -> None:
    settings.EXPOSE_PROVIDER = False
    gateway.route(route_to(endpoint(1, "openai", upstream.url)))
    await upstream.script({"status": 529})

    reply = await gateway.ask(question())

    assert "openai-1" not in reply.body.decode() + str(reply.headers)


async def test_the_debug_log_shows_how_an_answer_began_and_what_was_left_out(
    gateway: Gateway, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "ccproxy.relay")
    gateway.route(route_to(endpoint(77, "openai", upstream.url)))
    await upstream.script({"html": True}, {"text": "A preview of this. " * 50})

    await gateway.ask(question())
    await gateway.ask(question(context_management={"edits": []}))

    assert "<!doctype html>" in caplog.text
    assert "A preview of this." in caplog.text
    assert max(map(len, caplog.messages)) < 400
    assert "openai-77 takes no context_management" in caplog.text


async def test_what_was_odd_about_an_answer_stands_in_its_row(gateway: Gateway, upstream: Upstream) -> None:
    gateway.route(route_to(endpoint(1, "anthropic", upstream.url)))
    await upstream.script({"text": "Hello there", "no_event_names": True})

    await gateway.ask(question())

    [settled] = gateway.settled()
    assert settled.row.status == "completed"
    assert "event" in settled.row.reason
