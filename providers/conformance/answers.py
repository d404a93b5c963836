"""Reading a Messages answer as a client does: the events, the rules of their order, and the reply they add up to.

Written apart from the code it judges, on purpose.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]

USAGE = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
# Without these in message_start the official SDKs fail; the others may be missing there.
COUNTED = ("input_tokens", "output_tokens")
# Which deltas a block takes; blocks of other types are open.
DELTAS = {
    "text": {"text_delta", "citations_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "tool_use": {"input_json_delta"},
}


def read_events(body: bytes) -> tuple[list[Json], list[str]]:
    """The payloads, pings left out; and what is wrong with how they are written."""
    events, wrong = [], []
    for block in body.decode("utf-8", "replace").replace("\r\n", "\n").split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        fields = {name: value.removeprefix(" ") for name, _, value in (line.partition(":") for line in lines)}
        try:
            payload = json.loads(fields.get("data", ""))
        except ValueError:
            wrong.append(f"an event is no JSON: {block[:200]!r}")
            continue
        kind = payload.get("type") if isinstance(payload, dict) else None
        if not isinstance(kind, str) or fields.get("event") != kind:
            wrong.append(f"an event is not named as its payload is typed: {block[:200]!r}")
        elif kind != "ping":
            events.append(payload)
    return events, wrong


def grammar(events: list[Json], *, broken_off: bool) -> list[str]:
    """What breaks the rules of the order. An answer that is broken off ends with an error and nothing else."""
    kinds = [event["type"] for event in events]
    wrong = []
    if broken_off:
        if kinds[-1:] != ["error"] or kinds.count("error") != 1:
            wrong.append(f"the stream should end with one error event, its events are {_abridged(kinds)}")
        if {"message_delta", "message_stop"} & set(kinds):
            wrong.append("an answer that was cut looks like a finished one: it has a message_delta or message_stop")
        body = kinds[:-1]
    else:
        if kinds[-2:] != ["message_delta", "message_stop"]:
            wrong.append(f"the stream should end with message_delta and message_stop, not {_abridged(kinds[-2:])}")
        body = kinds[:-2]
    if kinds[:1] == ["message_start"]:
        wrong += _start(events[0])
        wrong += _blocks(events[1 : len(body)], closed=not broken_off)
    elif kinds[:1] != ["error"]:
        wrong.append(f"the stream should begin with message_start, not {_abridged(kinds[:1])}")
    return wrong


def _start(event: Json) -> list[str]:
    message = _part(event, "message")
    usage = message.get("usage")
    wrong = []
    if not isinstance(usage, dict) or not all(type(usage.get(name)) is int for name in COUNTED):
        wrong.append(f"message_start needs a usage with {' and '.join(COUNTED)}, it has {usage}")
    if message.get("content") != [] or message.get("role") != "assistant" or message.get("type") != "message":
        wrong.append("message_start needs type message, role assistant and an empty content")
    if not isinstance(message.get("model"), str) or not message.get("id"):
        wrong.append("message_start needs an id and a model")
    return wrong


def _blocks(events: list[Json], *, closed: bool) -> list[str]:
    """One block open at a time, indexes from 0 without gaps, and only deltas that the open block takes."""
    wrong: list[str] = []
    opened: Json | None = None
    index = 0
    for event in events:
        kind = event["type"]
        if event.get("index") != index:
            wrong.append(f"{kind} has index {event.get('index')}, expected {index}")
        if kind == "content_block_start":
            if opened is not None:
                wrong.append("a block starts while another is open")
            opened = _part(event, "content_block")
            wrong += _opened(opened)
        elif opened is None:
            wrong.append(f"{kind} while no block is open")
        elif kind == "content_block_stop":
            opened, index = None, index + 1
        elif kind != "content_block_delta":
            wrong.append(f"{kind} among the blocks")
        else:
            wrong += _delta(_part(event, "delta").get("type"), opened.get("type"))
    if opened is not None and closed:
        wrong.append("a block is never closed")
    return wrong


def _delta(kind: Any, block: Any) -> list[str]:
    fits = kind in DELTAS[block] if block in DELTAS else isinstance(kind, str)
    return [] if fits else [f"a {kind} in a block of type {block}"]


def _part(event: Json, name: str) -> Json:
    part = event.get(name)
    return part if isinstance(part, dict) else {}


def _opened(block: Json) -> list[str]:
    if block.get("type") == "tool_use" and block.get("input"):
        return ["a tool's input stands in content_block_start, where clients lose it"]
    if block.get("type") == "tool_use" and not (block.get("id") and block.get("name")):
        return ["a tool call starts without id or name"]
    return []


def fold(events: list[Json]) -> Json:
    """The reply that the events add up to. Arguments that are no JSON stay a text."""
    reply: Json = {"content": [], "usage": {}}
    content: list[Json] = reply["content"]
    for event in events:
        kind = event["type"]
        if kind == "message_start":
            reply.update({**_part(event, "message"), "content": content})
            reply["usage"] = dict(_part(reply, "usage"))
        elif kind == "content_block_start":
            block = _part(event, "content_block")
            content.append({**block, **({"input": ""} if block.get("type") == "tool_use" else {})})
        elif kind == "content_block_delta" and content:
            _add(content[-1], _part(event, "delta"))
        elif kind == "message_delta":
            reply.update(_part(event, "delta"))
            reply["usage"].update({name: told for name, told in _part(event, "usage").items() if told is not None})
        elif kind == "error":
            reply["error"] = event.get("error") or "an error without a word"
    for block in content:
        if isinstance(block.get("input"), str):
            block["input"] = parsed(block["input"] or "{}")
    return reply


GROWING = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}


def _add(block: Json, delta: Json) -> None:
    kind = delta.get("type")
    if kind == "input_json_delta":
        block["input"] = str(block.get("input") or "") + str(delta.get("partial_json", ""))
    elif kind in GROWING:
        block[GROWING[kind]] = str(block.get(GROWING[kind]) or "") + str(delta.get(GROWING[kind], ""))


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def short(content: Any) -> list[Any]:
    """Blocks as the cases write them: a text is a string, thinking and tool calls are small objects."""
    return list(map(_short, content)) if isinstance(content, list) else [content]


def _short(block: Any) -> Any:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind == "text":
        return block.get("text")
    if kind == "thinking":
        return {"thinking": block.get("thinking")}
    if kind == "tool_use":
        return {"tool": block.get("name"), "input": block.get("input")}
    return block


def blocks_of(reply: Json, kind: str) -> Iterator[Json]:
    content = reply.get("content")
    for block in content if isinstance(content, list) else ():
        if isinstance(block, dict) and block.get("type") == kind:
            yield block


def _abridged(kinds: list[str]) -> str:
    return ", ".join(kinds if len(kinds) <= 8 else [*kinds[:4], "…", *kinds[-3:]]) or "none"
