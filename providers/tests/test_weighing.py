"""A request weighs what its upstream is shown of it, in the tokens of the model that reads it."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from providers import tokens, weighing
from providers.factors import ENOUGH_ANSWERS, Factors
from providers.messages import Message, MessagesRequest
from providers.routing import Endpoint
from providers.state import State, seal

FOREIGN = Endpoint(1, "foreign", "openai", "https://api.example.com")
THINKING = Endpoint(2, "thinking", "openai", "https://api.deepseek.com")
ANTHROPIC = Endpoint(3, "anthropic", "anthropic", "https://api.anthropic.com")

TOOL: dict[str, Any] = {
    "name": "Bash",
    "description": "hello world",
    "input_schema": {"type": "object", "properties": {}},
}
DEFERRED = {**TOOL, "name": "Later", "defer_loading": True}
SERVERS = {"type": "web_search_20250305", "name": "web_search"}
LONG = "hello world " * 400
PIXELS = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (1024).to_bytes(4, "big") * 2 + b"\x08\x06\0\0\0"
IMAGE = {"type": "image", "source": {"type": "base64", "data": base64.b64encode(PIXELS).decode()}}


@pytest.fixture(autouse=True)
def unlearned(monkeypatch: pytest.MonkeyPatch) -> Factors:
    factors = Factors()
    monkeypatch.setattr(weighing, "factors", factors)
    return factors


def asked(content: Any = "hello world", **fields: Any) -> MessagesRequest:
    return MessagesRequest(model="any", messages=[Message(role="user", content=content)], **fields)


def thought(text: str, signature: str = "") -> MessagesRequest:
    block = {"type": "thinking", "thinking": text, "signature": signature}
    return MessagesRequest(model="any", messages=[Message(role="assistant", content=[block])])


def weight(request: MessagesRequest, endpoint: Endpoint = FOREIGN, model: str = "gpt-4o") -> int:
    return weighing.count(request, endpoint, model)


def test_the_family_of_the_model_decides_its_factor_and_its_images() -> None:
    request = asked([IMAGE])
    assert weight(request) == tokens.PER_REPLY + tokens.PER_MESSAGE + 765
    assert weight(request, FOREIGN, "claude-opus-5-5") == -(-(7 + 1399) * 12 // 10)


@pytest.mark.parametrize(
    ("tools", "counted"),
    [
        ([TOOL, DEFERRED], [TOOL]),
        ([TOOL, SERVERS], [TOOL]),
        ([SERVERS], []),  # it would be refused: what is asked is how long it is
        ([TOOL, DEFERRED, {"type": "tool_search_tool_regex_20251119", "name": "tool_search"}], [TOOL, DEFERRED]),
        ([TOOL, TOOL], [TOOL]),
        ([], []),
    ],
)
def test_tools_that_are_not_offered_weigh_nothing(tools: list[Any], counted: list[Any]) -> None:
    plain = [{name: value for name, value in tool.items() if name != "defer_loading"} for tool in counted]
    assert weight(asked(tools=tools)) == tokens.count_request(asked(tools=plain))


def test_schemas_weigh_what_is_sent_of_them() -> None:
    noisy = {
        **TOOL,
        "input_schema": {**TOOL["input_schema"], "$schema": "https://json-schema.org/draft-07", "$id": "x"},
    }
    assert weight(asked(tools=[noisy])) == weight(asked(tools=[TOOL]))


def test_thinking_weighs_where_it_is_sent() -> None:
    ours = thought(LONG, seal(State(dialect="chat"), b"secret"))
    theirs = thought(LONG, "their own")
    assert weight(ours, FOREIGN) == weight(theirs, FOREIGN) < 20
    assert weight(ours, THINKING) == weight(theirs, THINKING) > 800
    assert weight(ours, ANTHROPIC) < 20
    assert weight(theirs, ANTHROPIC) > 800


def test_another_vocabulary_is_an_option_of_the_provider() -> None:
    other = Endpoint(4, "other", "openai", "https://api.example.com", options={"encoding": "cl100k_base"})
    odd = Endpoint(5, "odd", "openai", "https://api.example.com", options={"encoding": "latin"})
    request = asked("Grüße aus Zürich 🎉")
    assert weight(request, other) - weight(request) == 3
    assert weight(request, odd) == weight(request)


def test_what_answers_have_taught_changes_estimates_and_then_counts(unlearned: Factors) -> None:
    request = asked(LONG)
    first, counted = weighing.estimate(request, FOREIGN, "glm"), weight(request, FOREIGN, "glm")
    assert first.tokens == first.plain

    for _ in range(ENOUGH_ANSWERS):
        weighing.learn(first, counted * 3 // 2)
        weight(request, FOREIGN, "glm")

    assert weighing.estimate(request, FOREIGN, "glm").tokens == pytest.approx(counted * 1.5, abs=2)
    assert weight(request, FOREIGN, "glm") == pytest.approx(counted * 1.5, abs=2)
    assert weight(request, FOREIGN, "kimi") == counted


def test_a_vocabulary_that_is_not_there_is_not_loaded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    request = asked(LONG)
    monkeypatch.setattr(tokens, "_encodings", {})
    assert not tokens.is_ready()
    assert weighing.count_at_once(request, FOREIGN, "m") == weighing.estimate(request, FOREIGN, "m").tokens
    assert not tokens.is_ready()

    weighing.warm([FOREIGN])
    assert tokens.is_ready()
    assert weighing.count_at_once(request, FOREIGN, "m") == weight(request, FOREIGN, "m")


def test_only_what_is_needed_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(tokens, "warm", loaded.append)
    weighing.warm([ANTHROPIC])
    assert loaded == []
    weighing.warm([ANTHROPIC, FOREIGN, THINKING])
    assert loaded == ["o200k_base"]
