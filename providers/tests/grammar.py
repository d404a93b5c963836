"""What every Messages client takes, as strictly as the strictest of them: a stream as bytes in, its events out."""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]

FITS = {
    "text": {"text_delta", "citations_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "tool_use": {"input_json_delta"},
    "server_tool_use": {"input_json_delta"},
    "mcp_tool_use": {"input_json_delta"},
}
KNOWN_DELTAS = set().union(*FITS.values())
SAYS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
}
COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
ORDERED = {
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
}


def read_events(stream: bytes) -> list[Json]:
    """The events a client hears: those with a name, whose data must then be what the name says."""
    text = stream.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    assert not text or text.endswith("\n\n"), "an event without its end"
    events = []
    for event in text.split("\n\n"):
        lines = [line for line in event.split("\n") if line and not line.startswith(":")]
        names = [line[6:].strip() for line in lines if line.startswith("event:")]
        data = [line[5:] for line in lines if line.startswith("data:")]
        if not data or not names or names[-1] not in ORDERED | {"ping", "error"}:
            continue
        assert len(data) == 1, "data of several lines"
        payload = json.loads(data[0])
        assert payload["type"] == names[-1]
        events.append(payload)
    return events


def is_index(value: Any, index: int) -> bool:
    return type(value) is int and value == index


def obeys(stream: bytes, *, ended: bool = True) -> list[Json]:
    """Asserts the grammar; `ended` is False for one that was broken off."""
    events = [event for event in read_events(stream) if event["type"] in ORDERED]
    if ended:
        assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
        check_ending(events[-2])
    body = events[:-2] if ended else events
    if body:
        assert body[0]["type"] == "message_start"
        check_start(body[0]["message"])
    block, index, ids = None, 0, set()
    for event in body[1:]:
        assert event["type"].startswith("content_block_")
        assert is_index(event["index"], index)
        if event["type"] == "content_block_start":
            assert block is None
            block = event["content_block"]
            check_block(block)
            if block["type"] == "tool_use":
                assert block["id"] not in ids
                ids.add(block["id"])
        elif event["type"] == "content_block_delta":
            assert block is not None
            check_delta(event["delta"], block["type"])
        else:
            assert block is not None
            block, index = None, index + 1
    assert block is None or not ended
    return events


def check_start(message: Json) -> None:
    assert message["type"] == "message"
    assert message["role"] == "assistant"
    assert isinstance(message["id"], str)
    assert message["id"]
    assert isinstance(message["model"], str)
    assert message["model"]
    assert message["content"] == []
    check_usage(message["usage"], "input_tokens", "output_tokens")


def check_usage(usage: Json, *needed: str) -> None:
    for name in COUNTS:
        value = usage.get(name)
        assert (value is None and name not in needed) or (type(value) is int and value >= 0), (name, value)


def check_block(block: Json) -> None:
    assert isinstance(block["type"], str)
    if block["type"] in {"text", "thinking"}:
        assert block[block["type"]] == ""
    if block["type"].endswith("tool_use"):
        assert block["input"] == {}
    if block["type"] == "tool_use":
        assert isinstance(block["name"], str)
        assert block["id"]


def check_delta(delta: Json, block: str) -> None:
    kind = delta["type"]
    assert isinstance(kind, str)
    assert kind not in KNOWN_DELTAS or block not in FITS or kind in FITS[block]
    assert kind not in SAYS or isinstance(delta[SAYS[kind]], str)


def check_ending(event: Json) -> None:
    assert isinstance(event["delta"]["stop_reason"], str)
    check_usage(event["usage"], "output_tokens")


def content_of(events: list[Json]) -> list[Any]:
    """The content, short: text as a string, thinking as (text, signature), a call as (name, arguments)."""
    content: list[Any] = []
    for event in events:
        if event["type"] == "content_block_start":
            kind = event["content_block"]["type"]
            empty = {"text": "", "thinking": ("", ""), "tool_use": (event["content_block"].get("name"), "")}
            content.append(empty.get(kind, kind))
        elif event["type"] == "content_block_delta":
            content[-1] = _with(content[-1], event["delta"])
    return content


def _with(block: Any, delta: Json) -> Any:
    if delta["type"] == "text_delta":
        return block + delta["text"]
    if delta["type"] == "thinking_delta":
        return (block[0] + delta["thinking"], block[1])
    if delta["type"] == "signature_delta":
        return (block[0], block[1] + delta["signature"])
    if delta["type"] == "input_json_delta" and isinstance(block, tuple):
        return (block[0], block[1] + delta["partial_json"])
    return block
