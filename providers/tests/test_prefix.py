"""The next request of a conversation begins with the last one's very bytes: upstream caches live on that."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.dialects import DIALECTS
from providers.dialects.profiles import PROFILES
from providers.tests.exchanges import exchange, tool

FOREIGN = [("responses", "generic"), *(("openai", name) for name in sorted(PROFILES))]
WORDS = st.text(alphabet='ab \n"é', min_size=1, max_size=12).filter(str.strip)
TOOLS = [tool("Read"), tool("mcp__server__" + "long_" * 14), {**tool("Later"), "defer_loading": True}]
NAMES = st.sampled_from([str(each["name"]) for each in TOOLS[:2]])
IDS = st.sampled_from(["toolu_1", "call_0", "", "id with spaces", "x" * 80])
MARK = {"cache_control": {"type": "ephemeral"}}


@st.composite
def turns(draw: st.DrawFn) -> list[dict[str, Any]]:
    """An answer of the assistant's and what the client says to it: results of its calls, a reminder, a question."""
    said = [{"type": "text", "text": text} for text in draw(st.lists(WORDS, max_size=2))]
    calls = [
        {"type": "tool_use", "id": draw(IDS), "name": name, "input": {"path": draw(WORDS)}}
        for name in draw(st.lists(NAMES, max_size=3))
    ]
    thought = [{"type": "thinking", "thinking": draw(WORDS), "signature": draw(st.sampled_from(["", "abc"]))}]
    content = [*(thought if draw(st.booleans()) else []), *said, *calls]
    if not said and not calls:
        content.append({"type": "text", "text": draw(WORDS)})
    answers: list[dict[str, Any]] = [
        {"type": "tool_result", "tool_use_id": call["id"], "content": draw(WORDS), "is_error": draw(st.booleans())}
        for call in calls
        if draw(st.integers(0, 9))
    ]
    answers += [{"type": "text", "text": draw(WORDS)}] if not answers or draw(st.booleans()) else []
    reminder = [{"role": "system", "content": draw(WORDS)}] if draw(st.booleans()) else []
    return [{"role": "assistant", "content": content}, {"role": "user", "content": answers}, *reminder]


def sent(kind: str, dialect: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Claude Code marks the last block of the last message for its cache: the mark moves on every turn."""
    *before, last = json.loads(json.dumps(messages))
    if isinstance(last["content"], list):
        last["content"][-1].update(MARK)
    asked = exchange(
        kind=kind, options={"dialect": dialect}, messages=[*before, last], tools=TOOLS, thinking={"type": "adaptive"}
    )
    body: dict[str, Any] = json.loads(DIALECTS[kind].encode(asked).body)
    return body


def conversation_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    return list(body.get("messages") or body["input"])


def unmarked(message: dict[str, Any]) -> Any:
    """Where marks are kept they move, which is their meaning."""
    text = json.dumps(message).replace(f', "cache_control": {json.dumps(MARK["cache_control"])}', "")
    return json.loads(text)


@pytest.mark.parametrize(("kind", "dialect"), FOREIGN)
@given(st.lists(turns(), min_size=1, max_size=4))
def test_a_turn_later_the_request_begins_as_before(kind: str, dialect: str, later: list[list[dict[str, Any]]]) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": "Go"}]}]
    before = sent(kind, dialect, messages)
    for turn in later:
        messages = [*messages, *turn]
        after = sent(kind, dialect, messages)
        beginning = conversation_of(before)
        assert [*map(unmarked, conversation_of(after)[: len(beginning)])] == [*map(unmarked, beginning)]
        assert after["tools"] == before["tools"]
        assert after.get("instructions") == before.get("instructions")
        before = after


@pytest.mark.parametrize("kind", ["openai", "responses"])
def test_it_is_the_bytes_that_are_the_same(kind: str) -> None:
    first = [{"role": "user", "content": "Go"}]
    then = [*first, {"role": "assistant", "content": "Gone"}, {"role": "user", "content": "Again"}]
    one, two = (
        DIALECTS[kind].encode(exchange(kind=kind, system="Be kind.", messages=messages)).body
        for messages in (first, then)
    )
    end = one.index(b"Go") + len(b"Go")
    assert one[:end] == two[:end]
