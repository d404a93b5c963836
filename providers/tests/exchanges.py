"""Exchanges and streams for the tests of the dialects: made in one line, read back as plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from providers.dialects import DIALECTS, Answer
from providers.dialects.dialect import Exchange
from providers.messages import Limits, read_request
from providers.routing import Endpoint

SECRET = b"a secret of the tests"
STREAMS = Path(__file__).parent / "streams"
DELTA_OF = {
    "text": {"text_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "tool_use": {"input_json_delta"},
}

Json = dict[str, Any]


def exchange(
    *,
    kind: str = "openai",
    base_url: str = "https://llm.example.com/v1",
    options: Mapping[str, object] | None = None,
    upstream_model: str = "upstream-model",
    headers: Mapping[str, str] | None = None,
    **body: Any,
) -> Exchange:
    body = {
        "model": "claude-sonnet-5-5",
        "max_tokens": 1000,
        "stream": True,
        "messages": [{"role": "user", "content": "Hello"}],
        **body,
    }
    sent = json.dumps(body).encode()
    endpoint = Endpoint(1, "somebody", kind, base_url, options=options or {})
    return Exchange(
        read_request(sent, Limits())[0],
        sent,
        headers or {},
        "",
        endpoint,
        upstream_model,
        "req_test",
        "key-1",
        SECRET,
    )


def tool(name: str = "Read", **schema: Any) -> Json:
    return {"name": name, "description": f"{name} it", "input_schema": {"type": "object", "properties": {}, **schema}}


def chunk(delta: Json | None = None, finish: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice], **fields}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def call(index: int | None = 0, arguments: Any = None, name: str | None = None, id: str | None = None) -> Json:
    entry: Json = {"function": {"arguments": arguments, "name": name}, "id": id, "index": index}
    return {"tool_calls": [{key: value for key, value in entry.items() if value is not None}]}


DONE = b"data: [DONE]\n\n"


def answered(stream: bytes, size: int = 0, kind: str = "openai", **request: Any) -> tuple[list[Json], Answer]:
    """The events of a whole stream, fed in pieces of a size, and the machine that made them."""
    answer = DIALECTS[kind].answer(exchange(kind=kind, **request), "text/event-stream")
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)] if size else [stream]
    events = b"".join([*map(answer.feed, pieces), answer.finish()])
    return payloads(events), answer


def payloads(events: bytes) -> list[Json]:
    """The events' payloads; each must be named as its payload is typed."""
    read = []
    for event in events.decode().split("\n\n")[:-1]:
        name, data = event.split("\n")
        payload = json.loads(data.removeprefix("data: "))
        assert name == f"event: {payload['type']}"
        read.append(payload)
    return read


def obeys_grammar(events: list[Json], *, ended: bool = True) -> None:
    """One message_start, blocks one after another with indexes from 0, one message_delta, one message_stop."""
    assert not events or events[0]["type"] == "message_start"
    body = events[1:-2] if ended else events[1:]
    if ended:
        assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    open_block, index = None, 0
    for event in body:
        if event["type"] == "content_block_start":
            assert open_block is None
            open_block = event["content_block"]["type"]
            assert event["content_block"].get("input", {}) == {}
        else:
            assert open_block is not None
            if event["type"] == "content_block_stop":
                open_block = None
            else:
                assert event["type"] == "content_block_delta"
                assert event["delta"]["type"] in DELTA_OF[open_block]
                assert all(value for key, value in event["delta"].items() if key != "type")
        assert event["index"] == index
        index += event["type"] == "content_block_stop"
    assert not ended or open_block is None


def blocks(events: list[Json]) -> list[Any]:
    """The content, short: text as a string, thinking as (text,), a call as (name, arguments)."""
    content: list[Any] = []
    for event in events:
        if event["type"] == "content_block_start":
            block = event["content_block"]
            content.append({"text": "", "thinking": ("",), "tool_use": (block.get("name"), "")}[block["type"]])
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            if delta["type"] == "text_delta":
                content[-1] += delta["text"]
            elif delta["type"] == "thinking_delta":
                content[-1] = (content[-1][0] + delta["thinking"],)
            elif delta["type"] == "input_json_delta":
                content[-1] = (content[-1][0], content[-1][1] + delta["partial_json"])
    return content


def stop(events: list[Json]) -> str | None:
    return next((event["delta"]["stop_reason"] for event in events if event["type"] == "message_delta"), None)


def without_ids(value: Any) -> Any:
    """Ids are minted, and signatures seal them."""
    if isinstance(value, list):
        return [without_ids(item) for item in value]
    if isinstance(value, dict):
        return {key: without_ids(item) for key, item in value.items() if key not in {"id", "signature", "tool_use_id"}}
    return value


def is_the_same_in_pieces(stream: bytes, size: int, **request: Any) -> None:
    """Whatever the reads cut, the events are the same, and so is the bill."""
    whole, one = answered(stream, **request)
    split, other = answered(stream, size, **request)
    assert without_ids(split) == without_ids(whole)
    assert (str(one.error), one.usage, one.output_characters) == (
        str(other.error),
        other.usage,
        other.output_characters,
    )
