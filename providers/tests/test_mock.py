"""The mock upstream: what it says, what it bills, and how it misbehaves when told to."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from providers.mock import scripts, server

LANGUAGES = ["anthropic", "openai", "responses"]
PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions", "responses": "/v1/responses"}
TOOLS = [{"name": "Read", "input": {"path": "a.py"}}, {"name": "Bash", "input": {"command": "ls -l /tmp/ünïcode"}}]
PARTS = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "thinking")


class Mock:
    """A client of the running mock, as a gateway would be one."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    def call(self, language: str, script: dict[str, Any] | None = None, **fields: Any) -> Any:
        headers = {"x-request-id": "req_test"}
        if script is not None:
            headers["x-mock-script"] = json.dumps(script)
        return self.session.post(self.url + PATHS[language], json=request_body(language, **fields), headers=headers)

    async def stream(self, language: str, script: dict[str, Any] | None = None, **fields: Any) -> list[dict[str, Any]]:
        async with self.call(language, script, stream=True, **fields) as reply:
            assert reply.status == 200
            return read_events(await reply.read())

    async def plain(self, language: str, script: dict[str, Any] | None = None, **fields: Any) -> Any:
        async with self.call(language, script, **fields) as reply:
            assert reply.status == 200
            return await reply.json()

    async def order(self, change: Any) -> None:
        async with self.session.post(self.url + "/__script", json=change) as reply:
            assert reply.status == 200

    async def get(self, path: str) -> Any:
        async with self.session.get(self.url + path) as reply:
            return await reply.json()

    async def last_call(self) -> dict[str, Any]:
        calls: list[dict[str, Any]] = (await self.get("/__bill"))["calls"]
        return calls[-1]

    async def settled_call(self) -> dict[str, Any]:
        """The last call once it is settled, for clients that left before that."""
        async with asyncio.timeout(5):
            while True:
                call = await self.last_call()
                if call["finished_at"] is not None:
                    return call


@pytest.fixture
async def mock() -> AsyncIterator[Mock]:
    async with server.running() as url, aiohttp.ClientSession() as session:
        yield Mock(session, url)


def request_body(language: str, prompt: str = "Say hello, please.", **fields: Any) -> dict[str, Any]:
    said = "input" if language == "responses" else "messages"
    body = {"model": "test-model", "max_tokens": 100, said: [{"role": "user", "content": prompt}], **fields}
    if language == "openai" and fields.get("stream"):
        body.setdefault("stream_options", {"include_usage": True})
    return body


def read_events(body: bytes) -> list[dict[str, Any]]:
    frames = [frame for frame in body.decode().replace("\r\n", "\n").split("\n\n") if frame]
    data = [line.removeprefix("data: ") for frame in frames for line in frame.split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in data if line != "[DONE]"]


def streamed_text(language: str, events: list[dict[str, Any]]) -> str:
    if language == "anthropic":
        return "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")
    if language == "openai":
        return "".join(choice["delta"].get("content") or "" for event in events for choice in event.get("choices", []))
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


def plain_text(language: str, document: dict[str, Any]) -> str:
    if language == "anthropic":
        text = document["content"][0]["text"]
    elif language == "openai":
        text = document["choices"][0]["message"]["content"]
    else:
        text = document["output"][0]["content"][0]["text"]
    assert isinstance(text, str)
    return text


def streamed_usage(language: str, events: list[dict[str, Any]]) -> dict[str, int]:
    if language == "anthropic":
        start = events[0]["message"]["usage"]
        return disjoint(language, {**start, **events[-2]["usage"]})
    return disjoint(language, events[-1]["usage"] if language == "openai" else events[-1]["response"]["usage"])


def disjoint(language: str, usage: dict[str, Any]) -> dict[str, int]:
    """A vendor's usage in the bill's columns, converted here by hand: the point of the comparison."""
    if language == "anthropic":
        return {
            "input": usage["input_tokens"],
            "cache_read": usage["cache_read_input_tokens"],
            "cache_write_5m": usage["cache_creation"]["ephemeral_5m_input_tokens"],
            "cache_write_1h": usage["cache_creation"]["ephemeral_1h_input_tokens"],
            "output": usage["output_tokens"],
            "thinking": usage.get("output_tokens_details", {}).get("thinking_tokens", 0),
        }
    before, after = ("prompt", "completion") if language == "openai" else ("input", "output")
    details = usage[f"{before}_tokens_details"]
    written = details.get("cache_write_tokens", 0)
    return {
        "input": usage[f"{before}_tokens"] - details["cached_tokens"] - written,
        "cache_read": details["cached_tokens"],
        "cache_write_5m": written,
        "cache_write_1h": 0,
        "output": usage[f"{after}_tokens"],
        "thinking": usage[f"{after}_tokens_details"]["reasoning_tokens"],
    }


def billed(call: dict[str, Any]) -> dict[str, int]:
    return {name: call[name] for name in PARTS}


def test_the_package_needs_no_django() -> None:
    code = "import sys, providers.mock.server; sys.exit('django' in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_stream_says_the_default_text_and_bills_what_it_reports(mock: Mock, language: str) -> None:
    events = await mock.stream(language)

    assert streamed_text(language, events) == scripts.DEFAULT_TEXT
    call = await mock.last_call()
    assert billed(call) == streamed_usage(language, events)
    assert call["request_id"] == "req_test"
    assert (call["call"], call["language"], call["stream"], call["status"]) == (1, language, True, 200)
    assert (call["outcome"], call["stop_reason"]) == ("completed", "end_turn")


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_plain_answer_equals_the_stream(mock: Mock, language: str) -> None:
    document = await mock.plain(language)
    events = await mock.stream(language)

    assert plain_text(language, document) == streamed_text(language, events)
    call = (await mock.get("/__bill"))["calls"][0]
    assert billed(call) == disjoint(language, document["usage"])
    assert call["stream"] is False


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("stream", [True, False])
async def test_given_figures_are_billed_and_told_in_the_vendors_words(mock: Mock, language: str, stream: bool) -> None:
    given = {"input": 7, "cache_read": 500, "cache_write_5m": 30, "cache_write_1h": 0, "output": 90, "thinking": 40}
    if stream:
        told = streamed_usage(language, await mock.stream(language, {"usage": given}))
    else:
        told = disjoint(language, (await mock.plain(language, {"usage": given}))["usage"])

    assert told == given == billed(await mock.last_call())


def test_prompt_is_four_bytes_a_token_and_openai_caches_a_third() -> None:
    body = json.dumps(request_body("openai", prompt="x" * 970)).encode()
    prompt = scripts.read_prompt("openai", body)

    assert len(prompt.history) == 1003  # a third of 251 tokens, rounded down, is cached
    assert (prompt.figures.input, prompt.figures.cache_read) == (168, 83)
    assert scripts.prompt_tokens(prompt) == 251


@pytest.mark.parametrize(("control", "column"), [({}, "cache_write_5m"), ({"ttl": "1h"}, "cache_write_1h")])
def test_anthropic_caches_only_what_is_marked(control: dict[str, str], column: str) -> None:
    text = {"type": "text", "text": "x" * 600, "cache_control": {"type": "ephemeral", **control}}
    marked = scripts.read_prompt("anthropic", json.dumps(request_body("anthropic", system=[text])).encode())
    plain = scripts.read_prompt("anthropic", json.dumps(request_body("anthropic")).encode())

    total = scripts.prompt_tokens(marked)
    assert marked.figures.cache_read == total // 3
    assert getattr(marked.figures, column) == total // 6
    assert plain.figures.input == scripts.prompt_tokens(plain)


async def test_usage_none_is_not_reported_and_still_billed(mock: Mock) -> None:
    events = await mock.stream("openai", {"usage": "none"})
    document = await mock.plain("anthropic", {"usage": "none"})

    assert not any(event.get("usage") for event in events)
    assert "usage" not in document
    bill = await mock.get("/__bill")
    assert all(call["output"] > 0 for call in bill["calls"])
    assert bill["totals"]["output"] == sum(call["output"] for call in bill["calls"])


async def test_chat_reports_usage_only_when_asked(mock: Mock) -> None:
    events = await mock.stream("openai", stream_options=None)

    assert all("usage" not in event for event in events)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_thinking_comes_first_and_is_part_of_the_output(mock: Mock, language: str) -> None:
    events = await mock.stream(language, {"thinking": "Hmm, twelve.", "text": "Two and ten", "chunks": 1})

    wire = json.dumps(events)
    assert wire.index("Hmm") < wire.index('"Two')
    call = await mock.last_call()
    assert (call["thinking"], call["output"]) == (3, 6)
    assert billed(call) == streamed_usage(language, events)


async def test_tokens_are_counted_free_of_charge(mock: Mock) -> None:
    async with mock.session.post(f"{mock.url}/v1/messages/count_tokens", json=request_body("anthropic")) as reply:
        counted = (await reply.json())["input_tokens"]
    await mock.plain("anthropic")

    bill = await mock.get("/__bill")
    assert [call["input"] for call in bill["calls"]] == [counted]


def streamed_tools(language: str, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Name and parsed input per call, put together the way a client does it."""
    calls: dict[int, list[str]] = {}
    for event in events:
        if language == "openai":
            for piece in (piece for choice in event["choices"] for piece in choice["delta"].get("tool_calls", [])):
                call = calls.setdefault(piece["index"], [piece["function"].get("name", ""), ""])
                call[1] += piece["function"]["arguments"]
        elif event["type"] == "content_block_start" and event["content_block"]["type"] == "tool_use":
            calls[event["index"]] = [event["content_block"]["name"], ""]
        elif event["type"] == "content_block_delta" and event["delta"]["type"] == "input_json_delta":
            calls[event["index"]][1] += event["delta"]["partial_json"]
        elif event["type"] == "response.output_item.added" and event["item"]["type"] == "function_call":
            calls[event["output_index"]] = [event["item"]["name"], ""]
        elif event["type"] == "response.function_call_arguments.delta":
            calls[event["output_index"]][1] += event["delta"]
    return [{"name": name, "input": json.loads(arguments)} for name, arguments in calls.values()]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("interleave", [False, True])
async def test_parallel_tools(mock: Mock, language: str, interleave: bool) -> None:
    script = {"text": "Looking.", "tools": TOOLS, "interleave": interleave, "tool_fragment": 5}
    events = await mock.stream(language, script)

    assert streamed_tools(language, events) == TOOLS
    assert streamed_text(language, events) == "Looking."
    call = await mock.last_call()
    assert call["stop_reason"] == "tool_use"
    assert billed(call) == streamed_usage(language, events)


async def test_interleaved_arguments_alternate_between_the_calls(mock: Mock) -> None:
    def order(events: list[dict[str, Any]]) -> list[int]:
        return [event["index"] for event in events if event["type"] == "content_block_delta"]

    in_turns = order(await mock.stream("anthropic", {"tools": TOOLS, "tool_fragment": 8, "interleave": True}))
    in_sequence = order(await mock.stream("anthropic", {"tools": TOOLS, "tool_fragment": 8}))
    assert in_turns[:4] == [0, 1, 0, 1]
    assert in_sequence == sorted(in_sequence)


async def test_ids_are_fresh_unless_they_are_to_repeat(mock: Mock) -> None:
    fresh = [await mock.plain("anthropic", {"tools": TOOLS}) for _ in range(2)]
    same = [await mock.plain("anthropic", {"tools": TOOLS, "repeat_ids": True}) for _ in range(2)]

    assert fresh[0]["id"] != fresh[1]["id"]
    assert fresh[0]["content"][0]["id"] != fresh[1]["content"][0]["id"]
    assert same[0] == same[1]
    assert [block["id"] for block in same[0]["content"]] == ["call_0", "call_1"]


async def test_header_goes_before_queue_before_directive_before_model_before_default(mock: Mock) -> None:
    await mock.order({"default": {"text": "default"}, "queue": [{"text": "queue"}]})
    directive: dict[str, Any] = {"prompt": 'Now [[mock: {"text": "directive, with ]] inside"}]] go'}

    answers = [
        await mock.plain("openai", {"text": "header"}, **directive),
        await mock.plain("openai", **directive),
        await mock.plain("openai", **directive, model="mock-thinking"),
        await mock.plain("openai", model="mock-thinking"),
        await mock.plain("openai"),
    ]
    texts = [plain_text("openai", answer) for answer in answers]
    assert texts == ["header", "queue", "directive, with ]] inside", scripts.DEFAULT_TEXT, "default"]


async def test_a_plain_directive_is_spent_once_it_was_answered(mock: Mock) -> None:
    history = [
        {"role": "user", "content": [{"type": "text", "text": '[[mock: {"text": "once"}]]'}]},
        {"role": "assistant", "content": "once"},
        {"role": "user", "content": "and now?"},
    ]
    assert plain_text("anthropic", await mock.plain("anthropic", messages=history)) == scripts.DEFAULT_TEXT


@pytest.mark.parametrize("text", ["[[mock: {broken", '[[mock: {"unknown": 1}]]'])
async def test_an_unreadable_script_is_refused(mock: Mock, text: str) -> None:
    async with mock.call("anthropic", prompt=text) as reply:
        assert reply.status == 400
        assert "mock" in (await reply.json())["error"]["message"]
    assert billed(await mock.last_call()) == dict.fromkeys(PARTS, 0)


AGENT = {"agent": [{"tools": TOOLS}, {"tools": TOOLS[:1]}, {"text": "Done."}]}


def agent_history(language: str, answers: int) -> list[dict[str, Any]]:
    """A conversation with that many finished turns, its first prompt holding the agent script."""
    prompt = f"Please work. [[mock: {json.dumps(AGENT)}]]"
    turns: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
    for _ in range(answers):
        if language == "responses":
            turns.append({"type": "reasoning", "summary": []})
            turns.append({"type": "function_call", "call_id": "c", "name": "Read", "arguments": "{}"})
            turns.append({"type": "function_call_output", "call_id": "c", "output": "ok"})
        elif language == "openai":
            turns += [{"role": "assistant", "content": None}, {"role": "tool", "tool_call_id": "c", "content": "ok"}]
        else:
            turns.append({"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "Read"}]})
            turns.append({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "ok"}]})
    return turns


@pytest.mark.parametrize("language", LANGUAGES)
async def test_an_agent_script_steps_with_the_turns_of_the_conversation(mock: Mock, language: str) -> None:
    field = "input" if language == "responses" else "messages"

    async def turn(answers: int) -> list[dict[str, Any]]:
        fields: dict[str, Any] = {field: agent_history(language, answers), "tools": [{"name": "Read"}]}
        return await mock.stream(language, **fields)

    assert streamed_tools(language, await turn(0)) == TOOLS
    assert streamed_tools(language, await turn(1)) == TOOLS[:1]
    assert streamed_text(language, await turn(2)) == "Done."
    assert streamed_text(language, await turn(3)) == scripts.DEFAULT_TEXT


async def test_an_agent_calls_no_tools_where_none_are_offered(mock: Mock) -> None:
    await mock.order({"default": AGENT})

    assert plain_text("anthropic", await mock.plain("anthropic")) == scripts.DEFAULT_TEXT


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("stream", [True, False])
async def test_errors_have_the_vendors_body_and_cost_nothing(mock: Mock, language: str, stream: bool) -> None:
    async with mock.call(language, {"status": 429, "error": "slow down", "retry_after": 2}, stream=stream) as reply:
        document = await reply.json()

    assert (reply.status, reply.headers["retry-after"]) == (429, "2")
    assert document["error"]["message"] == "slow down"
    assert document["error"]["type"] == "rate_limit_error"
    assert ("code" in document["error"]) == (language != "anthropic")
    call = await mock.last_call()
    assert (call["outcome"], call["status"]) == ("error", 429)
    assert billed(call) == dict.fromkeys(PARTS, 0)


async def test_an_error_object_is_the_whole_body(mock: Mock) -> None:
    async with mock.call("openai", {"status": 400, "error": {"detail": "FastAPI says no"}}) as reply:
        assert await reply.json() == {"detail": "FastAPI says no"}


@pytest.mark.parametrize("language", LANGUAGES)
async def test_an_error_inside_the_stream(mock: Mock, language: str) -> None:
    script = {"error_in_stream": 1, "status": 529, "error": "too busy", "text": "abcdefgh", "usage": {"output": 40}}
    events = await mock.stream(language, script)

    assert "too busy" in json.dumps(events[-1])
    assert streamed_text(language, events) == "ab"
    call = await mock.last_call()
    assert (call["outcome"], call["status"], call["output"]) == ("error", 200, 10)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_clean_cut_bills_the_pieces_that_left(mock: Mock, language: str) -> None:
    script = {"cut_after": 3, "text": "abcdefgh", "chunks": 4, "usage": {"output": 40}}
    events = await mock.stream(language, script)

    assert streamed_text(language, events) == "abcdef"
    call = await mock.last_call()
    assert (call["outcome"], call["output"], call["stop_reason"]) == ("cut", 30, None)
    assert call["input"] > 0


@pytest.mark.parametrize("stream", [True, False])
async def test_an_aborted_answer_resets_the_connection(mock: Mock, stream: bool) -> None:
    received = bytearray()

    async def receive() -> None:
        async with mock.call("anthropic", {"cut_after": 2, "cut": "abort"}, stream=stream) as reply:
            async for data in reply.content.iter_any():
                received.extend(data)

    with pytest.raises(aiohttp.ClientError):
        await receive()
    assert b"message_stop" not in received
    assert (await mock.last_call())["outcome"] == "cut"


async def test_a_client_that_leaves_pays_for_what_was_written(mock: Mock) -> None:
    script = {"text": "abcdefgh", "chunks": 8, "chunk_delay": 30, "usage": {"output": 80}}
    async with mock.call("anthropic", script, stream=True) as reply:
        received = b""
        while b"text_delta" not in received:
            received += await reply.content.readany()
        reply.close()

    call = await mock.settled_call()
    assert (call["outcome"], call["output"], call["stop_reason"]) == ("abandoned", 10, None)


@pytest.mark.parametrize("script", [{"hang": True}, {"first_delay": 30}])
async def test_a_client_that_leaves_before_the_answer_pays_for_the_prompt(mock: Mock, script: dict[str, Any]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await mock.plain("openai", script)

    call = await mock.settled_call()
    assert (call["outcome"], call["output"], call["status"]) == ("abandoned", 0, 0)
    assert call["input"] > 0


@pytest.mark.parametrize("language", LANGUAGES)
async def test_no_done_leaves_the_last_marker_out(mock: Mock, language: str) -> None:
    markers = {"anthropic": b"message_stop", "openai": b"[DONE]", "responses": b"response.completed"}
    async with mock.call(language, {}, stream=True) as reply:
        whole = await reply.read()
    async with mock.call(language, {"no_done": True}, stream=True) as reply:
        markless = await reply.read()

    assert markers[language] in whole
    assert markers[language] not in markless
    assert (await mock.last_call())["outcome"] == "completed"


@pytest.mark.parametrize("language", LANGUAGES)
async def test_lines_and_writes_may_be_cut_oddly(mock: Mock, language: str) -> None:
    async with mock.call(language, {"crlf": True, "split": 1, "text": "naïve ✓"}, stream=True) as reply:
        body = await reply.read()

    assert body.count(b"\n") == body.count(b"\r\n")
    assert streamed_text(language, read_events(body)) == "naïve ✓"


@pytest.mark.parametrize(
    ("script", "content_type", "start"),
    [
        ({"html": True}, "text/html", b"<!doctype"),
        ({"empty": True}, "text/event-stream", b""),
        ({"json_instead": True}, "application/json", b'{"id"'),
    ],
)
async def test_a_stream_that_is_none(mock: Mock, script: dict[str, Any], content_type: str, start: bytes) -> None:
    async with mock.call("openai", script, stream=True) as reply:
        body = await reply.read()

    assert (reply.status, reply.content_type) == (200, content_type)
    assert body.startswith(start)
    assert (len(body) > 0) == (len(start) > 0)
    call = await mock.last_call()
    assert (call["outcome"] == "completed") == (call["output"] > 0) == ("json_instead" in script)


def tool_entries(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of Chat Completions, fragment by fragment."""
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    return [entry for delta in deltas for entry in delta.get("tool_calls", [])]


async def test_parts_come_in_the_order_they_are_told_in(mock: Mock) -> None:
    parts = [{"thinking": "Hm."}, {"tool": TOOLS[0]}, {"thinking": "So.", "text": "Then:"}, {"tool": TOOLS[1]}]
    document = await mock.plain("anthropic", {"parts": parts})
    chat = await mock.stream("openai", {"parts": parts, "chunks": 1})
    responses = await mock.plain("responses", {"parts": parts})

    kinds = ["thinking", "tool_use", "thinking", "text", "tool_use"]
    assert [block["type"] for block in document["content"]] == kinds
    assert document["stop_reason"] == "tool_use"
    assert streamed_tools("openai", chat) == TOOLS
    items = [item["type"] for item in responses["output"]]
    assert items == ["reasoning", "function_call", "reasoning", "message", "function_call"]
    assert len({item["id"] for item in responses["output"]}) == 5
    calls = (await mock.get("/__bill"))["calls"]
    assert [call["thinking"] for call in calls] == [2, 2, 2]
    assert billed(calls[1]) == streamed_usage("openai", chat)


async def test_only_neighbouring_calls_take_turns(mock: Mock) -> None:
    parts = [{"tool": TOOLS[0]}, {"tool": TOOLS[1]}, {"text": "-"}, {"tool": TOOLS[0]}]
    events = await mock.stream("anthropic", {"parts": parts, "interleave": True, "tool_fragment": 8})

    order = [event["index"] for event in events if event["type"] == "content_block_delta"]
    assert order[:4] == [0, 1, 0, 1]
    assert order[-3:] == [2, 3, 3]


@pytest.mark.parametrize(
    ("script", "positions"),
    [({}, {0, 1}), ({"index": "zero"}, {0}), ({"index": "none"}, {None}), ({"first_index": 5}, {5, 6})],
    ids=["own", "zero", "none", "from 5"],
)
@pytest.mark.parametrize("language", LANGUAGES)
async def test_indexes(mock: Mock, language: str, script: dict[str, Any], positions: set[int | None]) -> None:
    events = await mock.stream(language, {"tools": TOOLS, **script})

    if language == "openai":
        found = {entry.get("index") for entry in tool_entries(events)}
    else:
        name = "index" if language == "anthropic" else "output_index"
        placed = ("content_block", "response.output_item", "response.function_call")
        found = {event.get(name) for event in events if event["type"].startswith(placed)}
    assert found == positions


def tool_ids(language: str, document: dict[str, Any]) -> list[str | None]:
    if language == "anthropic":
        return [block.get("id") for block in document["content"]]
    if language == "openai":
        return [call.get("id") for call in document["choices"][0]["message"]["tool_calls"]]
    return [item.get("call_id") for item in document["output"]]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_ids(mock: Mock, language: str) -> None:
    same = await mock.plain(language, {"tools": TOOLS, "ids": "same"})
    empty = await mock.plain(language, {"tools": TOOLS, "ids": "empty"})
    none = await mock.plain(language, {"tools": TOOLS, "ids": "none"})
    long = await mock.plain(language, {"tools": TOOLS, "id_length": 1300})

    [first, second] = tool_ids(language, same)
    assert first == second
    assert first
    assert tool_ids(language, empty) == ["", ""]
    assert empty["id"] == ""
    assert tool_ids(language, none) == [None, None]
    assert "id" not in none
    assert [len(tool_id or "") for tool_id in tool_ids(language, long)] == [1300, 1300]
    assert len({*tool_ids(language, long)}) == 2


@pytest.mark.parametrize("language", LANGUAGES)
async def test_arguments_as_an_object(mock: Mock, language: str) -> None:
    script = {"tools": TOOLS, "arguments_object": True}
    events = await mock.stream(language, script)
    assert billed(await mock.last_call()) == streamed_usage(language, events)

    if language == "anthropic":
        started = [event["content_block"] for event in events if event["type"] == "content_block_start"]
        assert [block["input"] for block in started] == [tool["input"] for tool in TOOLS]
        assert not any(event["type"] == "content_block_delta" for event in events)
    elif language == "openai":
        entries = tool_entries(events)
        assert [entry["function"]["arguments"] for entry in entries] == [tool["input"] for tool in TOOLS]
    else:
        done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        assert [item["arguments"] for item in done] == [tool["input"] for tool in TOOLS]
        assert not any("arguments" in event["type"] for event in events)


@pytest.mark.parametrize(
    ("thinking_as", "fields"),
    [
        ("reasoning_content", {"reasoning_content"}),
        ("reasoning", {"reasoning"}),
        ("reasoning_details", {"reasoning", "reasoning_details"}),
        ("think_tags", {"content"}),
    ],
)
async def test_thinking_has_other_names_in_chat(mock: Mock, thinking_as: str, fields: set[str]) -> None:
    script = {"thinking": "Hm, naïve.", "text": "So.", "thinking_as": thinking_as, "chunks": 1}
    events = await mock.stream("openai", script)

    [said] = [choice["delta"] for event in events for choice in event["choices"] if "Hm, naïve." in str(choice)]
    assert said.keys() == fields
    assert billed(await mock.last_call()) == streamed_usage("openai", events)


async def test_think_tags_stand_in_front_of_the_text(mock: Mock) -> None:
    events = await mock.stream("openai", {"thinking": "Hm.", "text": "So.", "thinking_as": "think_tags"})

    assert streamed_text("openai", events) == "<think>\nHm.\n</think>\n\nSo."
    assert (await mock.last_call())["thinking"] == 0


@pytest.mark.parametrize("language", LANGUAGES)
async def test_usage_everywhere_grows_to_the_whole_and_is_the_price_of_a_cut(mock: Mock, language: str) -> None:
    script = {"usage_everywhere": True, "text": "abcdefgh", "usage": {"output": 40}}
    whole = await mock.stream(language, script)
    cut = await mock.stream(language, {**script, "cut_after": 3})

    names = {"anthropic": "output_tokens", "openai": "completion_tokens", "responses": "output_tokens"}
    reported = [(event.get("response") or event).get("usage") or {} for event in whole]
    assert [usage[names[language]] for usage in reported if usage][:4] == [10, 20, 30, 40]
    last = (cut[-1].get("response") or cut[-1])["usage"]
    assert last[names[language]] == (await mock.last_call())["output"] == 30


async def test_usage_may_be_missing_at_the_start_alone(mock: Mock) -> None:
    events = await mock.stream("anthropic", {"no_start_usage": True})

    assert "usage" not in events[0]["message"]
    assert events[-2]["usage"]["output_tokens"] == (await mock.last_call())["output"]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_heads_may_be_missing_or_come_twice(mock: Mock, language: str) -> None:
    usual = await mock.stream(language, {})
    none = await mock.stream(language, {"no_head": True})
    twice = await mock.stream(language, {"two_heads": True})

    size = {"anthropic": 2, "openai": 1, "responses": 2}[language]
    assert len(usual) - len(none) == len(twice) - len(usual) == size
    assert streamed_text(language, none) == streamed_text(language, twice) == scripts.DEFAULT_TEXT
    kinds = [event.get("type") for event in twice[: 2 * size]]
    assert kinds[:size] == kinds[size:]


async def test_an_error_may_be_the_first_event(mock: Mock) -> None:
    [event] = await mock.stream("anthropic", {"error_in_stream": 0, "no_head": True})

    assert event["type"] == "error"
    assert (await mock.last_call())["output"] == 0


async def test_chat_without_a_role_with_message_for_delta_and_filter_results_first(mock: Mock) -> None:
    script = {"no_role": True, "message_instead": True, "filter_first": True, "text": "Hi"}
    filtered, *events = await mock.stream("openai", script)

    assert filtered["choices"] == []
    assert filtered["prompt_filter_results"]
    choices = [choice for event in events for choice in event["choices"]]
    messages = [choice["message"] for choice in choices if "message" in choice]
    assert "".join(message["content"] for message in messages) == "Hi"
    assert len(messages) == len(choices) - 1
    assert not any("delta" in choice for choice in choices)
    assert not any("role" in message for message in messages)


@pytest.mark.parametrize("language", ["anthropic", "responses"])
async def test_no_role_and_no_event_names(mock: Mock, language: str) -> None:
    async with mock.call(language, {"no_role": True, "no_event_names": True}, stream=True) as reply:
        body = await reply.read()

    assert b"event:" not in body
    assert b'"role"' not in body
    assert streamed_text(language, read_events(body)) == scripts.DEFAULT_TEXT


@pytest.mark.parametrize("language", LANGUAGES)
async def test_comments_stand_before_the_answer_and_between_its_events(mock: Mock, language: str) -> None:
    script = {"comments": True, "keep_alive": 0.01, "crlf": True}
    async with mock.call(language, script, stream=True) as reply:
        body = await reply.read()

    assert body.startswith(b": keep-alive\r\n\r\n" * 11)
    frames = [frame for frame in body.split(b"\r\n\r\n") if frame and frame != b"data: [DONE]"]
    assert frames[10::2] == [b": keep-alive"] * len(frames[10::2])
    assert len(read_events(body)) == len(frames[11::2])


@pytest.mark.parametrize("stream", [True, False])
async def test_blank_lines_stand_before_a_document(mock: Mock, stream: bool) -> None:
    script = {"json_instead": True, "comments": True, "keep_alive": 0.01}
    async with mock.call("openai", script, stream=stream) as reply:
        body = await reply.read()

    assert body.startswith(b"\n" * 11 + b"{")
    assert plain_text("openai", json.loads(body)) == scripts.DEFAULT_TEXT


OVERFLOWS = [
    ("anthropic", "own", "prompt is too long: 13 tokens > 5 maximum"),
    ("openai", "own", "maximum context length is 5 tokens. However, your messages resulted in 13 tokens"),
    ("responses", "own", "exceeds the context window"),
    ("openai", "vllm", "your request has 13 input tokens"),
    ("openai", "llamacpp", "exceed_context_size_error"),
    ("openai", "openrouter", "you requested about 13 tokens"),
    ("openai", "gemini", "input token count (13) exceeds the maximum number of tokens allowed (5)"),
]


@pytest.mark.parametrize(("language", "vendor", "said"), OVERFLOWS)
async def test_a_context_window_is_refused_in_the_vendors_words(
    mock: Mock, language: str, vendor: str, said: str
) -> None:
    async with mock.call(language, {"context_window": 5, "vendor": vendor}, stream=True) as reply:
        assert reply.status == 400
        assert said in await reply.text()
    assert billed(await mock.last_call()) == dict.fromkeys(PARTS, 0)
    assert await mock.plain(language, {"context_window": 13, "vendor": vendor})


async def test_size_and_chunks(mock: Mock) -> None:
    events = await mock.stream("openai", {"size": 10_000, "chunks": 100})

    assert len(streamed_text("openai", events)) == 10_000
    assert sum(bool(choice["delta"].get("content")) for event in events for choice in event["choices"]) == 100
    assert (await mock.last_call())["output"] == 2500


async def test_requests_are_shown_to_the_byte(mock: Mock) -> None:
    sent = '{"model": "m",  "messages":[]}'
    async with mock.session.post(f"{mock.url}/messages?beta=true", data=sent, headers={"X-Api-Key": "k"}) as reply:
        assert reply.status == 200

    [seen] = await mock.get("/__requests")
    assert (seen["path"], seen["headers"]["x-api-key"]) == ("/messages?beta=true", "k")
    assert (seen["text"], seen["body"]) == (sent, json.loads(sent))


async def test_reset_forgets_everything(mock: Mock) -> None:
    await mock.order([{"text": "never said"}])
    await mock.plain("anthropic", {"text": "billed"})
    async with mock.session.post(f"{mock.url}/__reset") as reply:
        assert reply.status == 200

    assert plain_text("anthropic", await mock.plain("anthropic")) == scripts.DEFAULT_TEXT
    assert (await mock.last_call())["call"] == 1


async def test_models_are_listed_for_both_vendors(mock: Mock) -> None:
    models = await mock.get("/v1/models")

    assert models["object"] == "list"
    assert models["first_id"] == models["data"][0]["id"]
    assert {"id", "object", "type", "display_name", "created_at"} <= models["data"][0].keys()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"model": "m"}',
        b'{"model": 3, "messages": []}',
        b'{"model": "m", "messages": ["[[mock: {}]] \xff"]}',
        b'{"model": "m", "messages": ' + b"[" * 100_000,
    ],
)
async def test_a_bad_request_is_a_row_without_a_price(mock: Mock, body: bytes) -> None:
    async with mock.session.post(f"{mock.url}/v1/messages", data=body) as reply:
        assert reply.status == 400
        assert (await reply.json())["type"] == "error"
    assert (await mock.last_call())["status"] == 400
    assert len(await mock.get("/__requests")) == 1


async def test_the_bill_file_has_a_line_before_the_answer_and_continues_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "bill.jsonl"
    async with server.running(bill_file=path) as url, aiohttp.ClientSession() as session:
        async with Mock(session, url).call("anthropic", {"chunk_delay": 30}, stream=True) as reply:
            await reply.content.readany()
            opened = json.loads(path.read_text())
            assert (opened["call"], opened["outcome"], opened["output"]) == (1, "running", 0)
            assert opened["input"] > 0
            reply.close()
        first = await Mock(session, url).settled_call()

    async with server.running(bill_file=path) as url, aiohttp.ClientSession() as session:
        mock = Mock(session, url)
        await mock.plain("openai")
        bill = await mock.get("/__bill")
    assert bill["calls"][0] == first
    assert [call["call"] for call in bill["calls"]] == [1, 2]
    assert json.loads(path.read_text().splitlines()[-1]) == bill["calls"][1]


async def test_the_command_says_where_it_listens_and_ends_well_on_sigterm() -> None:
    code = (
        "from django.conf import settings; settings.configure();"
        "from providers.management.commands.mock_upstream import Command;"
        "Command().run_from_argv(['manage.py', 'mock_upstream', '--port', '0'])"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode().strip()
    try:
        url = line.removeprefix("mock upstream on ")
        async with aiohttp.ClientSession() as session:
            assert streamed_text("openai", await Mock(session, url).stream("openai")) == scripts.DEFAULT_TEXT
    finally:
        process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
