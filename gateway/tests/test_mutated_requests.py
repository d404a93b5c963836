"""Whatever a client sends, it gets a right answer or a refusal that says why; and all that was asked is booked."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tests.conftest import Gateway, Reply, Upstream, endpoint
from gateway.tests.mutations import (
    BYTE_STEPS,
    STEPS,
    Json,
    Step,
    assert_plain_reply,
    assert_refused,
    bounded,
    changed,
    changed_bytes,
    settled_since,
)
from gateway.tests.test_relay import route_to
from providers.dialects.profiles import PROFILES
from providers.mock.scripts import DEFAULT_TEXT
from providers.tests import grammar

SOON = 5.0
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0\0\0\1\0\x08\2\0\0\0").decode()
PDF = base64.b64encode(b"%PDF-1.4\n1 0 obj <</Type /Page>> endobj\n%%EOF").decode()


def request(*messages: Json, **fields: Any) -> Json:
    return {"model": "claude-opus-5-5", "max_tokens": 32000, "stream": True, "messages": list(messages), **fields}


def says(*content: Json | str, role: str = "user", **fields: Any) -> Json:
    blocks = [{"type": "text", "text": each} if isinstance(each, str) else each for each in content]
    return {"role": role, "content": blocks, **fields}


def calls(name: str, number: int, **given: Any) -> Json:
    return {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": given}


def result(number: int, content: Any, **fields: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": content, **fields}


def source(kind: str, media_type: str, data: str) -> Json:
    return {"type": kind, "source": {"type": "base64", "media_type": media_type, "data": data}}


def tool(name: str, **properties: Any) -> Json:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "properties": properties}
    return {"name": name, "description": f"{name} it", "input_schema": {**schema, "additionalProperties": False}}


TOOLS = [
    tool("Read", file_path={"type": "string"}, limit={"type": "integer", "exclusiveMinimum": 0}),
    tool("Bash", command={"type": "string"}, timeout={"anyOf": [{"type": "number"}, {"type": "null"}]}),
    tool("mcp__a_server_with_a_long_name__a_tool_with_an_even_longer_name_than_that", of={"$ref": "#/$defs/x"}),
]
IMAGE, DOCUMENT = source("image", "image/png", PNG), source("document", "application/pdf", PDF)

SOUND: dict[str, Json] = {
    "as Claude Code begins": request(
        says("say hi"),
        says("# Environment", role="system", output_config={"effort": "medium"}),
        system=[
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cc_entrypoint=cli"},
            {"type": "text", "text": "You are Claude Code.", "cache_control": {"type": "ephemeral"}},
        ],
        tools=[*TOOLS, {**tool("Deferred"), "defer_loading": True}],
        metadata={"user_id": '{"device_id":"d","session_id":"s"}'},
        thinking={"type": "adaptive", "display": "omitted"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        output_config={"effort": "medium"},
    ),
    "in the middle of its work": request(
        says("look"),
        says({"type": "thinking", "thinking": "hm", "signature": "sig"}, "I look.", calls("Read", 1, file_path="a"))
        | {"role": "assistant"},
        says(result(1, [{"type": "text", "text": "seen"}, IMAGE]), "and then?"),
        says(calls("Bash", 2, command="ls"), calls("Bash", 3, command="pwd"), role="assistant"),
        says(result(3, "no", is_error=True), result(2, "a b", cache_control={"type": "ephemeral"})),
        says("The user hasn't heard from you.", role="system", clear_at="next_user_message"),
        tools=TOOLS,
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
        thinking={"type": "enabled", "budget_tokens": 2000},
    ),
    "with pictures and papers": request(
        says(
            IMAGE,
            {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
            {**DOCUMENT, "title": "A paper", "context": "from the archive"},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}},
            {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "part"}]}},
            {"type": "search_result", "title": "t", "source": "s", "content": [{"type": "text", "text": "found"}]},
            "compare",
        ),
        stream=False,
    ),
    "with tools that are found later": request(
        says("find one"),
        says(calls("ToolSearch", 1, query="x"), role="assistant"),
        says(result(1, [{"type": "tool_reference", "tool_name": "Deferred"}])),
        says({"type": "tool_removal", "tool_name": "Bash"}, role="system"),
        tools=[*TOOLS, {**tool("Deferred"), "defer_loading": True}, {"type": "bash_20250124", "name": "bash"}],
        tool_choice={"type": "any"},
    ),
    "for an object": request(
        says("a name, please"),
        says("{", role="assistant"),
        temperature=0,
        top_p=0.9,
        top_k=40,
        stop_sequences=["STOP", "\n\nHuman:"],
        output_config={"format": {"type": "json_schema", "schema": TOOLS[0]["input_schema"]}},
        service_tier="auto",
        stream=False,
    ),
    "with another provider's leftovers": request(
        says({"type": "redacted_thinking", "data": "xyz"}, "text", role="assistant"),
        says(
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}},
            {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [{"title": "t", "url": "u"}]},
            calls("Read", 1),
            calls("Read", 1),
            role="assistant",
        ),
        {"role": "user", "content": "stop, do that instead"},
        says(result(1, {"rows": 3}), result(9, None), {"type": "compaction", "content": "before"}),
        tools=[{"type": "web_search_20250305", "name": "web_search"}, TOOLS[0]],
        tool_choice={"type": "tool", "name": "Read"},
    ),
}

ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "identity": bytes,
    "br": bytes,
}
sound_ones = st.sampled_from(sorted(SOUND)).map(SOUND.__getitem__)
# Most bodies are plain: the rest would only be refused.
encodings = st.sampled_from(["", "", "", "", "", "", *ENCODINGS])
vendors = st.sampled_from(sorted(PROFILES))
models = st.sampled_from(["", "their-name"])  # another name is written into the body


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, dict[str, str]]:
    document = changed(draw(sound_ones), draw(STEPS))
    text = json.dumps(document, ensure_ascii=draw(st.booleans()))
    data = changed_bytes(
        text.encode(draw(st.sampled_from(["utf-8"] * 9 + ["utf-16"])), "surrogatepass"), draw(BYTE_STEPS)
    )
    encoding = draw(encodings)
    packed = ENCODINGS[encoding](data)
    if encoding and draw(st.booleans()):
        packed = changed_bytes(packed, draw(BYTE_STEPS))
    return packed, {"content-encoding": encoding} if encoding else {}


async def soon(answer: Any) -> Reply:
    """Also a busy loop is no answer: then no timer of the event loop would tell."""
    begun = time.monotonic()
    async with asyncio.timeout(SOON):
        reply: Reply = await answer
    assert time.monotonic() - begun < SOON
    assert reply.finished
    return reply


def assert_right(reply: Reply, body: bytes) -> None:
    """The mock says one sentence; only a stop sequence may shorten it."""
    if reply.headers["content-type"].startswith("text/event-stream"):
        content = grammar.content_of(grammar.obeys(reply.body))
    else:
        content = [block.get("text") for block in assert_plain_reply(reply)["content"]]
    said = "".join(part for part in content if isinstance(part, str))
    assert DEFAULT_TEXT.startswith(said)
    assert said == DEFAULT_TEXT or b"stop_sequences" in body


async def assert_answered(
    gateway: Gateway, upstream: Upstream, kind: str, body: bytes, headers: dict[str, str]
) -> None:
    await upstream._post("/__reset", None)
    reply = await soon(gateway.ask(body, headers=headers))
    bill, rows = await upstream.bill(), settled_since(gateway)
    attempts = [attempt for row in rows for attempt in row.attempts if attempt.reached]
    assert len(rows) == (1 if bill else 0)
    assert len(attempts) == len(bill)
    assert gateway.runtime.ledger.running == 0
    if kind != "anthropic":
        assert all(call["status"] == 200 for call in bill), "what was sent upstream is no request of its language"
    if reply.status == 200:
        assert rows[0].row.status == "completed"
        assert_right(reply, body if not headers else b"stop_sequences")
        [call] = [call for call in bill if call["status"] == 200]
        told = attempts[-1].usage if attempts[-1].source == "upstream" else None  # some vendors are not asked for it
        assert told is None or (call["input"], call["output"]) == (told.input, told.output)
    else:
        assert 400 <= reply.status < 500, reply.body
        assert_refused(reply)


def towards(gateway: Gateway, kind: str, url: str, vendor: str, model: str = "") -> None:
    gateway.route(route_to(endpoint(1, kind, url, options={"dialect": vendor}), pattern="*", model=model))


@pytest.mark.parametrize("odd", [b'"\\ud800"', b'"\xff"', b'{"\\ud800":1}', b"1e999", b'{"a":"\xed\xa0\x80"}'])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize(
    "place", [b'"context_management":%b', b'"new":%b', b'"metadata":{"x":%b}', b'"\xff":%b', b'"\\udc00\xff":%b']
)
async def test_odd_text_where_nobody_looks_does_no_harm(
    gateway: Gateway,
    upstream: Upstream,
    kind: str,
    odd: bytes,
    path: str,
    place: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At the debug level too, where the fields that go no further are named."""
    towards(gateway, kind, upstream.url, "generic", "their-name")
    body = json.dumps(request(says("hi"))).encode()[:-1] + b"," + place % odd + b"}"
    with caplog.at_level("DEBUG"):
        reply = await soon(gateway.ask(body, path=path))
    assert reply.status in {200, 400}, reply.body


async def test_sound_requests_are_answered_by_every_vendor(gateway: Gateway, upstream: Upstream, kind: str) -> None:
    """Those from which the mutations start; what some vendor cannot take says so."""
    answered = 0
    for vendor in sorted(PROFILES):
        towards(gateway, kind, upstream.url, vendor)
        for body in SOUND.values():
            await assert_answered(gateway, upstream, kind, json.dumps(body).encode(), {})
            answered += bool((await upstream.bill())[-1:])
    assert answered > len(PROFILES) * len(SOUND) / 2


@bounded(250)
@given(sent=bodies(), vendor=vendors, model=models)
async def test_a_mutated_request_is_answered_or_refused_and_booked(
    gateway: Gateway, upstream: Upstream, kind: str, sent: tuple[bytes, dict[str, str]], vendor: str, model: str
) -> None:
    towards(gateway, kind, upstream.url, vendor, model)
    await assert_answered(gateway, upstream, kind, *sent)


@bounded(250)
@given(sound=sound_ones, steps=STEPS, vendor=vendors, model=models)
async def test_a_request_of_odd_types_is_answered_or_refused_and_booked(
    gateway: Gateway, upstream: Upstream, kind: str, sound: Json, steps: list[Step], vendor: str, model: str
) -> None:
    """JSON all the way: more of these get past the first look."""
    towards(gateway, kind, upstream.url, vendor, model)
    await assert_answered(gateway, upstream, kind, json.dumps(changed(sound, steps)).encode(), {})


@bounded(120)
@given(sent=bodies(), vendor=vendors, model=models)
async def test_a_mutated_request_is_counted_or_refused_and_never_booked(
    gateway: Gateway, upstream: Upstream, kind: str, sent: tuple[bytes, dict[str, str]], vendor: str, model: str
) -> None:
    towards(gateway, kind, upstream.url, vendor, model)
    reply = await soon(gateway.ask(sent[0], path="/v1/messages/count_tokens", headers=sent[1]))
    assert settled_since(gateway) == []
    if reply.status == 200:
        counted = reply.json()["input_tokens"]
        assert type(counted) is int
        assert counted >= 0
    else:
        assert 400 <= reply.status < 500, reply.body
        assert_refused(reply)
