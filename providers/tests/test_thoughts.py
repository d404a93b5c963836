"""What a provider wants back with a thought or a call travels through the client, and how much was thought is told."""

from __future__ import annotations

import json
from typing import Any

from providers.dialects.chat_request import SIGNATURE_LOST, encode
from providers.dialects.composer import COUNT_BETA, SIGNED_WITHIN
from providers.state import unseal
from providers.tests.exchanges import DONE, SECRET, Json, answered, blocks, call, chunk, exchange, tool

GEMINI: Json = {"options": {"dialect": "gemini"}, "tools": [tool("Read"), tool("Bash")]}


def signed(entry: Json, signature: str) -> Json:
    entry["tool_calls"][0]["extra_content"] = {"google": {"thought_signature": signature}}
    return entry


def content_of(events: list[Json]) -> list[Json]:
    """As a client keeps it for its next request."""
    content: list[Json] = []
    for event in events:
        if event["type"] == "content_block_start":
            content.append({**event["content_block"]})
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            for field, name in (("text", "text"), ("thinking", "thinking"), ("signature", "signature")):
                if field in delta:
                    content[-1][name] += delta[field]
            if "partial_json" in delta:
                content[-1]["input"] = json.loads(delta["partial_json"])
    return content


def next_body(events: list[Json], **request: Any) -> Json:
    content = content_of(events)
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "ok"}
        for block in content
        if block["type"] == "tool_use"
    ]
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": content},
        {"role": "user", "content": results or "Go on"},
    ]
    body: Json = json.loads(encode(exchange(messages=messages, **request)).body)
    return body


def test_a_call_goes_back_with_the_signature_it_came_with() -> None:
    stream = (
        chunk(signed(call(0, '{"a":1}', "Read", "x"), "sig-1"))
        + chunk(call(1, '{"b":2}', "Bash", "y"))
        + chunk(finish="tool_calls")
        + DONE
    )
    events, _ = answered(stream, **GEMINI)
    assert blocks(events) == [("",), ("Read", '{"a":1}'), ("Bash", '{"b":2}')]

    calls = next_body(events, **GEMINI)["messages"][1]["tool_calls"]
    assert [each.get("extra_content") for each in calls] == [{"google": {"thought_signature": "sig-1"}}, None]


def test_a_signature_that_comes_a_little_later_is_waited_for() -> None:
    stream = (
        chunk(call(0, '{"a":', "Read", "x")) + chunk(signed(call(0, "1}"), "sig-2")) + chunk(finish="tool_calls") + DONE
    )
    events, _ = answered(stream, **GEMINI)
    state = unseal(content_of(events)[0]["signature"], SECRET)
    assert state is not None
    assert list(state.tool_signatures.values()) == ["sig-2"]


def test_a_long_call_without_a_signature_is_not_held_back() -> None:
    beginning = chunk(call(0, '{"a":"' + "x" * SIGNED_WITHIN, "Read", "x"))
    events, answer = answered(beginning, **GEMINI)
    assert answer.began
    assert blocks(events)[0][0] == "Read"


def test_a_first_call_whose_signature_is_lost_says_so() -> None:
    stream = chunk(call(0, "{}", "Read", "x")) + chunk(call(1, "{}", "Bash", "y")) + chunk(finish="tool_calls") + DONE
    events, _ = answered(stream, **GEMINI)
    calls = next_body(events, **GEMINI)["messages"][1]["tool_calls"]
    assert calls[0]["extra_content"] == {"google": {"thought_signature": SIGNATURE_LOST}}
    assert "extra_content" not in calls[1]


def test_a_client_that_sees_no_thinking_is_told_how_much_there_is() -> None:
    thought = "x" * 400
    stream = chunk({"reasoning_content": thought}) * 3 + chunk({"content": "Hi"}, "stop") + DONE
    request: dict[str, Any] = {"thinking": {"type": "adaptive", "display": "omitted"}}

    events, _ = answered(stream, headers={"anthropic-beta": f"a,{COUNT_BETA}"}, **request)
    counts = [event["delta"]["estimated_tokens"] for event in events if "estimated_tokens" in event.get("delta", {})]
    assert counts == [100, 100, 100]
    assert blocks(events) == [("",), "Hi"]

    events, _ = answered(stream, **request)
    assert not any("estimated_tokens" in event.get("delta", {}) for event in events)


THOUGHT_BETWEEN = (
    chunk({"content": "One, "})
    + chunk({"reasoning_content": "hm"})
    + chunk({"content": "two."})
    + chunk({}, "stop")
    + DONE
)
THOUGHT_BEHIND = chunk({"content": "One."}) + chunk({"reasoning_content": "hm"}) + chunk({}, "stop") + DONE


def test_a_thought_that_is_not_shown_divides_no_text() -> None:
    """Claude Code prints the last piece of a divided text, and nothing where a thought comes last."""
    omitted: dict[str, Any] = {"thinking": {"type": "adaptive", "display": "omitted"}}
    assert blocks(answered(THOUGHT_BETWEEN, **omitted)[0]) == ["One, two."]
    assert blocks(answered(THOUGHT_BEHIND, **omitted)[0]) == ["One."]


def test_a_thought_that_is_shown_stands_where_it_was_thought() -> None:
    shown: dict[str, Any] = {"thinking": {"type": "adaptive"}}
    assert blocks(answered(THOUGHT_BETWEEN, **shown)[0]) == ["One, ", ("hm",), "two."]
    assert blocks(answered(THOUGHT_BEHIND, **shown)[0]) == ["One.", ("hm",)]


def test_a_thought_behind_text_goes_back_with_the_call_it_led_to() -> None:
    request: dict[str, Any] = {"options": {"dialect": "deepseek"}, "tools": [tool("Read")]}
    stream = (
        chunk({"content": "I look."})
        + chunk({"reasoning_content": "which file?"})
        + chunk(call(0, "{}", "Read", "x"))
        + chunk(finish="tool_calls")
        + DONE
    )
    events, _ = answered(stream, **request)
    assert blocks(events) == ["I look.", ("",), ("Read", "{}")]
    assert next_body(events, **request)["messages"][1]["reasoning_content"] == "which file?"
