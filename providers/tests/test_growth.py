"""Twice the work for twice the length: nothing on the way of a request or an answer grows with the square."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from providers.dialects import DIALECTS
from providers.messages import Limits, read_request
from providers.tests.exchanges import exchange

# Eight times the length may take this many times as long: in proportion it is 8, with the square 64.
MOST = 24
TIMES = 8


def seconds(work: Callable[[], object]) -> float:
    """The quickest of a few runs, in CPU time: what else the machine does is not counted."""
    best = float("inf")
    for _ in range(4):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


def grows(work_of: Callable[[int], Callable[[], object]], length: int) -> float:
    return seconds(work_of(length * TIMES)) / max(seconds(work_of(length)), 0.0005)


def conversation(turns: int) -> dict[str, Any]:
    call = {"type": "tool_use", "id": "call_0", "name": "Read", "input": {"file_path": "/a", "limit": 10}}
    result = {"type": "tool_result", "tool_use_id": "call_0", "content": "line\n" * 5}
    pair = [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    return {"messages": [{"role": "user", "content": "Go"}, *pair * turns]}


def many_tools(count: int) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"path": {"type": "string"}}}
    return {
        "tools": [{"name": f"tool.{number}", "description": "d", "input_schema": schema} for number in range(count)]
    }


def many_blocks(count: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * count}]}


def long_arguments(length: int) -> dict[str, Any]:
    call = {"type": "tool_use", "id": "toolu_1", "name": "Write", "input": {"content": 'ab"\n' * length}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "x" * length}
    return {"messages": [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]}


def deep_schema(count: int) -> dict[str, Any]:
    properties = {
        f"p{number}": {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/a"}]}} for number in range(count)
    }
    schema = {"type": "object", "properties": properties, "$defs": {"a": {"type": "string"}}}
    return {"tools": [{"name": "f", "input_schema": schema}]}


@pytest.mark.parametrize("kind", sorted(DIALECTS))
@pytest.mark.parametrize(
    ("request_of", "length"),
    [(conversation, 60), (many_tools, 60), (many_blocks, 500), (long_arguments, 20_000), (deep_schema, 60)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_request_is_translated_in_proportion_to_its_length(
    kind: str, request_of: Callable[[int], dict[str, Any]], length: int
) -> None:
    def work_of(size: int) -> Callable[[], object]:
        asked = exchange(kind=kind, **request_of(size))
        return lambda: (read_request(asked.body, Limits()), DIALECTS[kind].encode(asked))

    assert grows(work_of, length) < MOST


def chat(**delta: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"


def fragment(arguments: str, name: str | None = None) -> bytes:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    return chat(tool_calls=[{"index": 0, **({"id": "c1"} if name else {}), "function": function}])


def detail(text: str) -> bytes:
    return chat(reasoning_details=[{"type": "reasoning.text", "index": 0, "text": text}])


CHAT: dict[str, tuple[bytes, bytes]] = {
    "text": (b"", chat(content="word ")),
    "white space before the text": (b"", chat(content=" ")),
    "thinking": (b"", chat(reasoning_content="word ")),
    "reasoning details": (b"", detail("word ")),
    "arguments": (fragment('{"a":"', "Write"), fragment("word ")),
    "arguments lost in white space": (fragment("{", "Write"), fragment("  ")),
    "arguments that are no object": (fragment("word", "Write"), fragment("word ")),
    "a name with every fragment": (fragment('{"a":"', "Write"), fragment("word ", "Write")),
    "text behind an open call": (fragment('{"a":"', "Write"), chat(content="word ")),
    "comments": (b"", b": still here\n"),
    "one line": (b"data: ", b"word "),
    "lines of one event": (b"", b"data: word\n"),
    "bad chunks between good ones": (b"", b"data: {\n\n" + chat(content="word ")),
}


@pytest.mark.parametrize("dialect", ["generic", "openrouter", "gemini"])
@pytest.mark.parametrize("habit", sorted(CHAT))
def test_a_chat_answer_is_read_in_proportion_to_its_length(habit: str, dialect: str) -> None:
    beginning, repeated = CHAT[habit]
    tools = [{"name": "Write", "input_schema": {"type": "object"}}]
    asked = exchange(options={"dialect": dialect, "think_tags": "tags"}, tools=tools, stop_sequences=["never said"])

    def work_of(size: int) -> Callable[[], object]:
        def work() -> None:
            answer = DIALECTS["openai"].answer(asked, "text/event-stream")
            answer.feed(beginning)
            for _ in range(size):
                answer.feed(repeated)
            answer.finish()

        return work

    assert grows(work_of, 400) < MOST
