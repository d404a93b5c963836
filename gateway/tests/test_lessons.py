"""A provider that refuses a parameter nobody needs is asked again without it, and the client never hears of it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.tests.conftest import Gateway, Upstream, endpoint, question
from gateway.tests.test_relay import bill_equals_ledger, route_to
from providers.routing import Endpoint, KnownModel
from providers.state import State, seal

NO_TEMPERATURE = {
    "status": 400,
    "error": {
        "error": {
            "message": "Unsupported value: 'temperature' does not support 0.2 with this model.",
            "code": "unsupported_value",
            "param": "temperature",
        }
    },
}
NO_TOP_P = {"status": 422, "error": {"detail": [{"loc": ["body", "top_p"], "msg": "Extra inputs are not permitted"}]}}


async def bodies(upstream: Upstream) -> list[dict[str, Any]]:
    return [request["body"] for request in await upstream.requests()]


async def test_a_refused_parameter_is_left_out_now_and_in_the_next_request(
    gateway: Gateway, upstream: Upstream
) -> None:
    gateway.route(route_to(endpoint(1, "openai", upstream.url)))
    await upstream.script(NO_TEMPERATURE, {"text": "First"}, {"text": "Second"})

    first = await gateway.ask(question(temperature=0.2))
    second = await gateway.ask(question(temperature=0.2))

    assert (first.status, first.text(), second.text()) == (200, "First", "Second")
    assert ["temperature" in body for body in await bodies(upstream)] == [True, False, False]
    one, two = gateway.settled()
    assert [attempt.status for attempt in one.attempts] == ["failed", "completed"]
    assert [attempt.status for attempt in two.attempts] == ["completed"]
    assert one.row.reason == two.row.reason == "temperature is left out"
    await bill_equals_ledger(gateway, upstream)


async def test_one_parameter_after_the_other_may_be_refused(gateway: Gateway, upstream: Upstream) -> None:
    gateway.route(route_to(endpoint(1, "openai", upstream.url)))
    await upstream.script(NO_TEMPERATURE, NO_TOP_P, {"text": "At last"})

    reply = await gateway.ask(question(temperature=0.2, top_p=0.5, stream=False))

    assert reply.json()["content"][0]["text"] == "At last"
    assert [sorted({"temperature", "top_p"} & set(body)) for body in await bodies(upstream)] == [
        ["temperature", "top_p"],
        ["top_p"],
        [],
    ]


async def test_a_refusal_that_no_change_helps_is_told_once(gateway: Gateway, upstream: Upstream) -> None:
    gateway.route(route_to(endpoint(1, "openai", upstream.url)))
    await upstream.default(NO_TEMPERATURE)

    reply = await gateway.ask(question(temperature=0.2))

    assert reply.status == 400
    assert "temperature" in reply.json()["error"]["message"]
    assert len(await bodies(upstream)) == 2


async def test_an_anthropic_refusal_goes_back_as_it_is(gateway: Gateway, upstream: Upstream) -> None:
    gateway.route(route_to(endpoint(1, "anthropic", upstream.url)))
    await upstream.default({"status": 400, "error": "temperature: unsupported"})

    reply = await gateway.ask(question(temperature=0.2))

    assert reply.status == 400
    assert len(await bodies(upstream)) == 1


async def test_the_second_providers_trouble_is_told_and_not_the_first_ones_lesson(
    gateway: Gateway, upstream: Upstream
) -> None:
    gateway.route(route_to(endpoint(1, "openai", upstream.url)))
    await upstream.script(NO_TEMPERATURE, {"status": 529})

    reply = await gateway.ask(question(temperature=0.2))

    assert (reply.status, reply.json()["error"]["type"]) == (529, "overloaded_error")


@pytest.mark.parametrize(
    ("message", "asked", "sent"),
    [
        (
            "This model's maximum context length is 8000 tokens. However, you requested 9000 tokens"
            " (5000 in the messages, 4000 in the completion).",
            4000,
            2936,
        ),
        ("max_tokens is too large: 4000. This model supports at most 2048 completion tokens.", 4000, 2048),
    ],
)
async def test_max_tokens_is_lowered_to_what_fits(
    gateway: Gateway, upstream: Upstream, message: str, asked: int, sent: int
) -> None:
    gateway.route(route_to(endpoint(1, "openai", upstream.url)))
    await upstream.script({"status": 400, "error": {"error": {"message": message}}}, {"text": "Fits"})

    reply = await gateway.ask(question(max_tokens=asked))

    assert reply.text() == "Fits"
    assert [body["max_tokens"] for body in await bodies(upstream)] == [asked, sent]


async def test_a_prompt_that_leaves_no_room_is_told_so_that_the_client_lowers_it(
    gateway: Gateway, upstream: Upstream
) -> None:
    gateway.route(route_to(endpoint(1, "openai", upstream.url)))
    message = "maximum context length is 8000 tokens, you requested 8900 (7900 in the messages, 1000 in the completion)"
    await upstream.script({"status": 400, "error": {"error": {"message": message}}})

    reply = await gateway.ask(question())

    assert reply.json()["error"]["message"].startswith(
        "input length and `max_tokens` exceed context limit: 7900 + 1000"
    )
    assert len(await bodies(upstream)) == 1


async def test_reasoning_that_is_demanded_back_is_given(gateway: Gateway, upstream: Upstream) -> None:
    gateway.route(route_to(endpoint(1, "openai", upstream.url)))
    demand = "The `reasoning_content` in the thinking mode must be passed back to the API."
    await upstream.script({"status": 400, "error": {"error": {"message": demand}}}, {"text": "Thanks"})
    call = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "ok"}
    history = [
        {"role": "user", "content": "Read"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm", "signature": "x"}, call]},
        {"role": "user", "content": [result]},
    ]

    reply = await gateway.ask(question(messages=history, thinking={"type": "adaptive"}))

    assert reply.text() == "Thanks"
    assert [body["messages"][1].get("reasoning_content") for body in await bodies(upstream)] == [None, "Hm"]


async def test_reasoning_state_that_is_refused_is_left_out_once(gateway: Gateway, upstream: Upstream) -> None:
    provider = endpoint(1, "openai", upstream.url, options={"dialect": "openrouter"})
    gateway.route(route_to(provider))
    refusal = {"error": {"message": "Encrypted content could not be verified", "code": "invalid_encrypted_content"}}
    await upstream.script({"status": 400, "error": refusal}, {"text": "Without"}, {"text": "With"})
    state = State("openai", "openrouter", "m", items=[{"type": "reasoning.encrypted", "data": "abc"}])
    sealed = seal(state, gateway.runtime.state_secret)
    thought = {"type": "thinking", "thinking": "", "signature": sealed}
    history = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": [thought, {"type": "text", "text": "Hi"}]},
        {"role": "user", "content": "Again"},
    ]

    first = await gateway.ask(question(messages=history))
    second = await gateway.ask(question(messages=history))

    assert (first.text(), second.text()) == ("Without", "With")
    assert ["reasoning_details" in body["messages"][1] for body in await bodies(upstream)] == [True, False, True]


TOO_LONG = {"status": 400, "error": {"error": {"message": "maximum context length is 8000 tokens, you sent 9000"}}}


def with_window(number: int, url: str, window: int | None) -> Endpoint:
    models = {"claude-opus-5-5": KnownModel("claude-opus-5-5", context_window=window)}
    return endpoint(number, "openai", url, models=models if window else {})


@pytest.mark.parametrize(("window", "answered"), [(200_000, True), (8000, False), (None, False)])
async def test_a_prompt_too_long_for_one_goes_only_to_a_larger_window(
    gateway: Gateway, upstream: Upstream, second_upstream: Upstream, window: int | None, answered: bool
) -> None:
    gateway.route(route_to(with_window(1, upstream.url, 8000), with_window(2, second_upstream.url, window)))
    await upstream.default(TOO_LONG)
    await second_upstream.default({"text": "It fits here"})

    reply = await gateway.ask(question())

    assert (reply.status == 200) is answered
    assert len(await bodies(second_upstream)) == int(answered)
    if not answered:
        assert reply.json()["error"]["message"] == "prompt is too long: 9000 tokens > 8000 maximum"


async def test_who_said_to_come_back_later_is_asked_last(
    gateway: Gateway, upstream: Upstream, second_upstream: Upstream
) -> None:
    gateway.route(route_to(endpoint(1, "openai", upstream.url), endpoint(2, "openai", second_upstream.url)))
    await upstream.default({"status": 429, "retry_after": 60})

    first, second = await gateway.ask(question()), await gateway.ask(question())

    assert (first.status, second.status) == (200, 200)
    assert (len(await bodies(upstream)), len(await bodies(second_upstream))) == (1, 2)


FLAGGED = {"error": {"message": "The prompt was flagged by our policy", "code": "content_policy_violation"}}


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])
async def test_moderation_may_be_told_as_an_answer(
    gateway: Gateway, upstream: Upstream, kind: str, stream: bool
) -> None:
    gateway.route(route_to(endpoint(1, kind, upstream.url, options={"refusal_as_answer": True})))
    await upstream.script({"status": 400, "error": FLAGGED})

    reply = await gateway.ask(question(stream=stream))

    assert reply.status == 200
    if stream:
        [delta] = [data for name, data in reply.events() if name == "message_delta"]
        assert (reply.text(), delta["delta"]["stop_reason"]) == ("The prompt was flagged by our policy", "refusal")
    else:
        assert reply.json()["stop_reason"] == "refusal"
    [settled] = gateway.settled()
    assert (settled.row.status, settled.row.stop_reason) == ("completed", "refusal")
    await bill_equals_ledger(gateway, upstream)


async def test_moderation_is_an_error_where_nothing_else_was_said(gateway: Gateway, upstream: Upstream) -> None:
    gateway.route(route_to(endpoint(1, "openai", upstream.url)))
    await upstream.script({"status": 400, "error": FLAGGED})

    reply = await gateway.ask(question())

    assert (reply.status, reply.json()["error"]["details"]["code"]) == (400, "content_filter")


async def test_a_dead_connection_before_the_lesson_changes_nothing(gateway: Gateway, upstream: Upstream) -> None:
    """A refusal on the fresh connection teaches as well."""
    gateway.route(route_to(endpoint(1, "openai", upstream.url)))
    await upstream.script({"status": 409, "error": "conflict"}, NO_TEMPERATURE, {"text": "At last"})

    reply = await gateway.ask(question(temperature=0.2))

    assert (reply.status, reply.text()) == (200, "At last")
    assert ["temperature" in body for body in await bodies(upstream)] == [True, True, False]


async def test_too_many_stop_sequences_are_refused_where_the_gateway_keeps_them(
    gateway: Gateway, upstream: Upstream, kind: str
) -> None:
    gateway.route(route_to(endpoint(1, kind, upstream.url)))
    reply = await gateway.ask(question(stop_sequences=[f"stop {number}" for number in range(101)]))
    assert reply.status == (200 if kind == "anthropic" else 400)


async def test_a_shape_that_cannot_be_demanded_is_asked_for_in_words(gateway: Gateway, upstream: Upstream) -> None:
    gateway.route(route_to(endpoint(1, "openai", upstream.url)))
    refusal = {"error": {"message": "response_format is not supported by this model", "param": "response_format"}}
    await upstream.script({"status": 400, "error": refusal}, {"text": "{}"})
    schema = {"type": "object", "properties": {"colour": {"type": "string"}}}

    reply = await gateway.ask(question(output_config={"format": {"type": "json_schema", "schema": schema}}))

    assert reply.text() == "{}"
    first, second = await bodies(upstream)
    assert ("response_format" in first, "response_format" in second) == (True, False)
    assert "colour" in second["messages"][0]["content"]
