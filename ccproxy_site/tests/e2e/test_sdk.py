"""Anthropic's own SDK talks to the gateway as it would to Anthropic."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anthropic
import pytest

from ccproxy_site.tests.e2e.family import Installation, Mock, installation, mock
from ccproxy_site.tests.e2e.reconcile import reconcile
from providers.dialects import DIALECTS

pytestmark = pytest.mark.e2e

UPSTREAMS = [name for name in ("anthropic", "openai") if name in DIALECTS]
MODELS = {"anthropic": "claude-opus-5-5", "openai": "claude-sonnet-5-5"}
MANY_MODELS = [f"model-{number:02}" for number in range(45)]
MOST_BYTES = 200_000
SOON = 7.5  # five times what a change of configuration should take
QUESTION: list[anthropic.types.MessageParam] = [
    {"role": "user", "content": "What is the weather in Lyon and in Zürich?"}
]
WEATHER: anthropic.types.ToolParam = {
    "name": "weather",
    "description": "The weather of a town.",
    "input_schema": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
}
CALLS = [{"name": "weather", "input": {"town": "Lyon"}}, {"name": "weather", "input": {"town": "Zürich"}}]
THINKING: anthropic.types.ThinkingConfigEnabledParam = {"type": "enabled", "budget_tokens": 2000}


@dataclass
class House:
    gateway: Installation
    mock: Mock
    key: str

    def client(self, **options: Any) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=self.gateway.url, **{"api_key": self.key, **options})


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """At the end, whatever the tests have asked must stand in the ledger as it stands on the bill."""
    folder = tmp_path_factory.mktemp("house")
    with mock(folder) as upstream, installation(folder, MAX_BODY_BYTES=str(MOST_BYTES)) as gateway:
        gateway.start()
        gateway.apply(configuration(upstream))
        key = gateway.issue_key()
        gateway.wait_until_key_works(key)
        yield House(gateway, upstream, key)
        assert reconcile(gateway, upstream).calls


@pytest.fixture
def client(house: House) -> Iterator[anthropic.Anthropic]:
    with house.client() as client:
        yield client


def configuration(upstream: Mock) -> dict[str, Any]:
    providers = [
        {"name": name, "type": name, "base_url": upstream.url, "auth_value": "sk-upstream"} for name in UPSTREAMS
    ]
    routes = {model: [{"provider": name}] for name, model in MODELS.items() if name in UPSTREAMS}
    routes |= {name: [{"provider": UPSTREAMS[0]}] for name in MANY_MODELS}
    return {"providers": providers, "model_routes": routes}


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_a_conversation_with_tools_and_thinking(house: House, client: anthropic.Anthropic, upstream: str) -> None:
    """Streamed, then the results asked plain: the second answer needs everything the first one said."""
    house.mock.queue(
        {"thinking": "Two towns, two calls.", "text": "I look it up.", "tools": CALLS, "interleave": True},
        {"thinking": "Both are known.", "text": "Rain in Lyon, sun in Zürich ✓"},
    )
    with client.messages.stream(
        model=MODELS[upstream], max_tokens=4000, messages=QUESTION, tools=[WEATHER], thinking=THINKING
    ) as stream:
        text = "".join(stream.text_stream)
        first = stream.get_final_message()

    assert text == "I look it up."
    assert [block.type for block in first.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert first.stop_reason == "tool_use"
    assert (first.model, first.role) == (MODELS[upstream], "assistant")
    calls = [block for block in first.content if block.type == "tool_use"]
    assert [(call.name, call.input) for call in calls] == [(call["name"], call["input"]) for call in CALLS]
    assert calls[0].id != calls[1].id

    results: list[anthropic.types.ToolResultBlockParam] = [
        {"type": "tool_result", "tool_use_id": calls[0].id, "content": "rain"},
        {"type": "tool_result", "tool_use_id": calls[1].id, "content": "no such town", "is_error": True},
    ]
    second = client.messages.create(
        model=MODELS[upstream],
        max_tokens=4000,
        messages=[
            *QUESTION,
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": results},
        ],
        tools=[WEATHER],
        thinking=THINKING,
    )

    assert [block.type for block in second.content] == ["thinking", "text"]
    assert second.content[1] == anthropic.types.TextBlock(type="text", text="Rain in Lyon, sun in Zürich ✓")
    assert second.stop_reason == "end_turn"
    assert second.id != first.id
    billed = house.mock.bill()[-2:]
    assert [usage_told(answer) for answer in (first, second)] == [usage_billed(call) for call in billed]


def usage_told(answer: anthropic.types.Message | anthropic.types.ParsedMessage[None]) -> tuple[int, int, int, int]:
    usage = answer.usage
    read, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    return usage.input_tokens, read, written, usage.output_tokens


def usage_billed(call: dict[str, Any]) -> tuple[int, int, int, int]:
    return call["input"], call["cache_read"], call["cache_write_5m"] + call["cache_write_1h"], call["output"]


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_an_image_goes_up_and_a_stop_reason_comes_down(
    house: House, client: anthropic.Anthropic, upstream: str
) -> None:
    house.mock.queue({"text": "A small picture, cut sh", "stop_reason": "max_tokens"})
    source: anthropic.types.Base64ImageSourceParam = {
        "type": "base64",
        "media_type": "image/png",
        "data": "iVBORw0KGgo=",
    }
    answer = client.messages.create(
        model=MODELS[upstream],
        max_tokens=10,
        messages=[
            {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "What?"}]}
        ],
    )

    assert answer.stop_reason == "max_tokens"
    assert "iVBORw0KGgo=" in house.mock.requests()[-1]["text"]


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_tokens_are_counted_and_cost_nothing(house: House, client: anthropic.Anthropic, upstream: str) -> None:
    booked = len(house.mock.bill())
    short = client.messages.count_tokens(model=MODELS[upstream], messages=QUESTION)
    long = client.messages.count_tokens(
        model=MODELS[upstream], messages=QUESTION * 10, tools=[WEATHER], system="Be brief."
    )

    assert 5 < short.input_tokens < 50
    assert long.input_tokens > 5 * short.input_tokens
    assert len(house.mock.bill()) == booked


def test_every_model_is_listed_once_over_several_pages(client: anthropic.Anthropic) -> None:
    expected = sorted([*MANY_MODELS, *(MODELS[name] for name in UPSTREAMS)])
    listed = list(client.models.list(limit=10))

    assert sorted(model.id for model in listed) == expected
    assert all(model.display_name and model.created_at for model in listed)
    assert client.models.retrieve(listed[-1].id) == listed[-1]


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_an_upstream_error_has_its_type(house: House, upstream: str) -> None:
    """In the middle of a stream, too; Chat Completions has no word for overloaded there."""
    said = {"anthropic": "overloaded_error", "openai": "api_error"}[upstream]
    house.mock.queue({"status": 529})
    with house.client(max_retries=0) as client, pytest.raises(anthropic.OverloadedError) as overloaded:
        client.messages.create(model=MODELS[upstream], max_tokens=10, messages=QUESTION)
    house.mock.queue({"error_in_stream": 2, "text": "Half of an answ"})
    with (
        house.client() as client,
        pytest.raises(anthropic.APIStatusError, match=said),
        client.messages.stream(model=MODELS[upstream], max_tokens=10, messages=QUESTION) as stream,
    ):
        stream.get_final_message()

    assert overloaded.value.status_code == 529


@pytest.mark.parametrize(
    ("options", "request_fields", "error", "message"),
    [
        ({"api_key": "sk-ant-wrong"}, {}, anthropic.AuthenticationError, "this is no key of this gateway"),
        ({"api_key": None, "auth_token": "wrong"}, {}, anthropic.AuthenticationError, "this is no key of this gateway"),
        ({}, {"model": "claude-opus-5-6"}, anthropic.NotFoundError, "near to it: claude-opus-5-5"),
        ({}, {"max_tokens": -1}, anthropic.BadRequestError, "max_tokens"),
        ({}, {"messages": [{"role": "nobody", "content": "x"}]}, anthropic.BadRequestError, r"messages\.0\.role"),
        ({}, {"system": "x" * MOST_BYTES}, anthropic.ContentTooLargeError, "shorten the conversation"),
    ],
    ids=["unknown key", "unknown token", "unknown model", "bad number", "bad role", "too large"],
)
def test_what_the_gateway_refuses_is_said_once(
    house: House,
    options: dict[str, Any],
    request_fields: dict[str, Any],
    error: type[anthropic.APIStatusError],
    message: str,
) -> None:
    """With the SDK's own retries on: a refusal that another try would not change must cause none."""
    calls = len(house.mock.bill())
    asked: dict[str, Any] = {"model": MODELS["anthropic"], "max_tokens": 10, "messages": QUESTION, **request_fields}
    with house.client(**options) as client, pytest.raises(error, match=message) as refused:
        client.messages.create(**asked)

    answer = refused.value
    assert answer.request.headers["x-stainless-retry-count"] == "0"
    assert answer.request_id == answer.body["request_id"]  # type: ignore[index]
    assert answer.request_id is not None
    assert answer.request_id.startswith("req_")
    assert len(house.mock.bill()) == calls


def test_a_revoked_key_is_told_so(house: House) -> None:
    token = house.gateway.issue_key("leaver")
    house.gateway.wait_until_key_works(token)
    house.gateway.apply({"keys": [{"name": "leaver", "revoked": True}]})

    with house.client(api_key=token) as client:
        refused = until_refused(client)

    assert "was revoked" in str(refused)
    assert refused.response.headers["x-should-retry"] == "false"


def until_refused(client: anthropic.Anthropic) -> anthropic.AuthenticationError:
    until = time.monotonic() + SOON
    while time.monotonic() < until:
        try:
            client.models.list()
        except anthropic.AuthenticationError as error:
            return error
    raise AssertionError(f"the key was still served after {SOON} s")
