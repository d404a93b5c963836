"""Answers of Anthropic-compatible providers that break the rules of the format, and what the client gets of them."""

from __future__ import annotations

import itertools
import json
import re
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.dialects import anthropic_answer
from providers.dialects.anthropic_answer import PassThrough, RecentIds
from providers.errors import BrokenStream
from providers.tests.exchanges import exchange
from providers.tests.grammar import Json, content_of, obeys
from providers.usage import Usage

_numbers = itertools.count()
TEXTLESS = "(The model returned no text.)"
ASKED = {"role": "user", "content": "hi"}


def answer(**request: Any) -> PassThrough:
    request = {"upstream_model": "claude-sonnet-5-5", **request}
    return PassThrough(exchange(**request), "text/event-stream")


def written(event: Json, name: str | None = None) -> bytes:
    text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name or event['type']}\ndata: {text}\n\n".encode()


def sse(*events: Json | bytes) -> bytes:
    return b"".join(event if isinstance(event, bytes) else written(event) for event in events)


def message(**fields: Any) -> Json:
    whole: Json = {
        "id": f"msg_up{next(_numbers)}",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5-5",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 25, "output_tokens": 1},
    }
    return {name: value for name, value in {**whole, **fields}.items() if value != "gone"}


def start(**fields: Any) -> Json:
    return {"type": "message_start", "message": message(**fields)}


def opened(index: Any, kind: str = "text", **fields: Any) -> Json:
    empty: Json = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}}.get(kind, {})
    if kind == "tool_use":
        empty = {"id": f"toolu_up{next(_numbers)}", "name": "Read", "input": {}}
    block = {name: value for name, value in {"type": kind, **empty, **fields}.items() if value != "gone"}
    return {"type": "content_block_start", "index": index, "content_block": block}


FIELDS = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}


def delta(index: Any, said: Any, kind: str = "text_delta") -> Json:
    return {
        "type": "content_block_delta",
        "index": index,
        "delta": {"type": kind, FIELDS.get(kind, "partial_json"): said},
    }


def argument(index: Any, said: Any) -> Json:
    return delta(index, said, "input_json_delta")


def stopped(index: Any) -> Json:
    return {"type": "content_block_stop", "index": index}


def ending(reason: Any = "end_turn", **usage: Any) -> Json:
    told = {"stop_reason": reason, "stop_sequence": None}
    return {"type": "message_delta", "delta": told, "usage": {"output_tokens": 15, **usage}}


STOP = {"type": "message_stop"}
PING = {"type": "ping"}
HI = [opened(0), delta(0, "Hi"), stopped(0)]
END = [ending(), STOP]


def nameless(event: Json) -> bytes:
    return written(event).split(b"\n", 1)[1]


def call(index: Any, arguments: str = '{"a":1}', **fields: Any) -> list[Json]:
    return [opened(index, "tool_use", **fields), argument(index, arguments), stopped(index)]


def without(event: Json, *names: str) -> Json:
    return {name: value for name, value in event.items() if name not in names}


CALL = ("Read", '{"a":1}')

# The stream; what the client reads of it; its reason to stop, where that is not end_turn.
FAULTS: dict[str, tuple[list[Json | bytes], list[Any], str]] = {
    "no names": ([nameless(event) for event in [start(), *HI, *END]], ["Hi"], ""),
    "a name lost in the middle": ([start(), opened(0), delta(0, "a"), nameless(delta(0, "b")), *END], ["ab"], ""),
    "a wrong name": ([start(), opened(0), written(delta(0, "Hi"), "message"), stopped(0), *END], ["Hi"], ""),
    "no type": (
        [
            start(),
            opened(0),
            b"event: content_block_delta\ndata: " + json.dumps(without(delta(0, "Hi"), "type")).encode(),
            b"\n\n",
            stopped(0),
            *END,
        ],
        ["Hi"],
        "",
    ),
    "no message_start": ([*HI, *END], ["Hi"], ""),
    "a message_start that is no message": ([{"type": "message_start", "message": "x"}, *HI, *END], ["Hi"], ""),
    **{
        f"message_start with {name} {value!r}": ([start(**{name: value}), *HI, *END], ["Hi"], "")
        for name, value in [
            ("usage", "gone"),
            ("usage", None),
            ("usage", {}),
            ("usage", {"input_tokens": 3}),
            ("usage", {"input_tokens": -3, "output_tokens": "4"}),
            ("content", "gone"),
            ("content", None),
            ("id", "gone"),
            ("id", ""),
            ("id", 7),
            ("model", "gone"),
            ("role", "gone"),
            ("type", "gone"),
        ]
    },
    "content in message_start": ([start(content=[{"type": "text", "text": "Hi"}]), *END], ["Hi"], ""),
    "indexes from five": ([start(), opened(5), delta(5, "a"), stopped(5), *call(6), *END], ["a", CALL], ""),
    "indexes with a gap": ([start(), *HI, *call(3), *END], ["Hi", CALL], ""),
    "all indexes zero": ([start(), *HI, *call(0), *call(0), *END], ["Hi", CALL, CALL], ""),
    "all indexes zero and no stops": (
        [start(), opened(0), delta(0, "Hi"), *call(0)[:2], *call(0)[:2], *END],
        ["Hi", CALL, CALL],
        "",
    ),
    "no indexes": ([start(), *(without(event, "index") for event in [*HI, *call(1)]), *END], ["Hi", CALL], ""),
    "indexes that are words": ([start(), opened("a"), delta("a", "Hi"), stopped("a"), *END], ["Hi"], ""),
    "a delta without a block": ([start(), delta(0, "Hi"), stopped(0), *END], ["Hi"], ""),
    "thinking without a block": ([start(), delta(0, "hm", "thinking_delta"), *HI, *END], [("hm", ""), "Hi"], ""),
    "a delta with another index": ([start(), opened(0), delta(1, "Hi"), stopped(0), *END], ["Hi"], ""),
    "a delta of another kind": (
        [start(), opened(0, "thinking"), delta(0, "Hi"), stopped(0), *END],
        [("", ""), "Hi"],
        "",
    ),
    "a delta without a type": (
        [start(), opened(0), {**delta(0, ""), "delta": {"text": "Hi"}}, stopped(0), *END],
        ["Hi"],
        "",
    ),
    "a delta of null": ([start(), opened(0), delta(0, None), delta(0, "Hi"), stopped(0), *END], ["Hi"], ""),
    "a delta that is none": ([start(), opened(0), {**delta(0, ""), "delta": 3}, *HI[1:], *END], ["Hi"], ""),
    "a text never stopped": ([start(), opened(0), delta(0, "Hi"), *END], ["Hi"], ""),
    "a text never stopped before a call": ([start(), opened(0), delta(0, "Hi"), *call(1), *END], ["Hi", CALL], ""),
    "text after its block": ([start(), *HI, delta(0, " you"), *END], ["Hi", " you"], ""),
    "signed thinking never stopped": (
        [
            start(),
            opened(0, "thinking"),
            delta(0, "hm", "thinking_delta"),
            delta(0, "S", "signature_delta"),
            opened(1),
            delta(1, "Hi"),
            *END,
        ],
        [("hm", "S"), "Hi"],
        "",
    ),
    "a stop too many": ([start(), *HI, stopped(0), stopped(1), *END], ["Hi"], ""),
    "a start without a block": ([start(), {"type": "content_block_start", "index": 0}, *HI[1:], *END], ["Hi"], ""),
    "text in the start": ([start(), opened(0, text="H"), delta(0, "i"), stopped(0), *END], ["Hi"], ""),
    "text null in the start": ([start(), opened(0, text=None), delta(0, "Hi"), stopped(0), *END], ["Hi"], ""),
    "thinking in the start": (
        [start(), opened(0, "thinking", thinking="hm", signature="S"), stopped(0), opened(1), delta(1, "Hi"), *END],
        [("hm", "S"), "Hi"],
        "",
    ),
    "input whole in the start": (
        [start(), opened(0, "tool_use", input={"a": 1}), stopped(0), *END],
        [CALL],
        "",
    ),
    "input as a string in the start": (
        [start(), opened(0, "tool_use", input='{"a":1}'), stopped(0), *END],
        [CALL],
        "",
    ),
    "input in start and deltas": (
        [start(), opened(0, "tool_use", input={"a": 1}), argument(0, '{"a"'), argument(0, ":1}"), stopped(0), *END],
        [CALL],
        "",
    ),
    "input in the start and an empty delta": (
        [start(), opened(0, "tool_use", input={"a": 1}), argument(0, "{}"), stopped(0), *END],
        [CALL],
        "",
    ),
    "input null in the start": (
        [start(), opened(0, "tool_use", input=None), argument(0, '{"a":1}'), stopped(0), *END],
        [CALL],
        "",
    ),
    "parallel calls, interleaved": (
        [
            start(),
            opened(0, "tool_use"),
            opened(1, "tool_use", name="Bash"),
            argument(0, '{"a"'),
            argument(1, '{"b":'),
            argument(0, ":1}"),
            argument(1, "2}"),
            stopped(0),
            stopped(1),
            ending("tool_use"),
            STOP,
        ],
        [CALL, ("Bash", '{"b":2}')],
        "tool_use",
    ),
    "parallel calls, the second stopped first": (
        [start(), *(opened(0, "tool_use"), *call(1, "{}", name="Bash"), argument(0, '{"a":1}'), stopped(0)), *END],
        [CALL, ("Bash", "{}")],
        "",
    ),
    "a text open beside a call": (
        [start(), opened(0), delta(0, "H"), *call(1), delta(0, "i"), stopped(0), *END],
        ["H", CALL, "i"],
        "",
    ),
    "a call without id": ([start(), *call(0, id="gone"), *END], [CALL], ""),
    "an id used twice": ([start(), *call(0, id="call_0"), *call(1, id="call_0"), *END], [CALL, CALL], ""),
    "a call without a name": ([start(), *call(0, name="gone"), *HI, *END], ["Hi"], ""),
    "two message_starts": ([start(), start(), *HI, *END], ["Hi"], ""),
    "two answers": ([start(), *HI, *END, start(), *HI, *END], ["Hi"], "sound"),
    "two answers, the first without an end": ([start(), *HI, start(), *HI, *END], ["Hi", "Hi"], ""),
    "data of two lines": (
        [start(), opened(0), written(delta(0, "Hi")).replace(b'"index"', b'\ndata: "index"'), *END],
        ["Hi"],
        "",
    ),
    "events with one newline between them": (
        [start(), opened(0), written(delta(0, "H"))[:-1], written(delta(0, "i")), stopped(0), *END],
        ["Hi"],
        "",
    ),
    "an event that cannot be read": (
        [start(), opened(0), b"event: content_block_delta\ndata: {broken\n\n", *HI[1:], *END],
        ["Hi"],
        "",
    ),
    "no UTF-8": ([start(), opened(0), written(delta(0, "H?")).replace(b"?", b"\xff"), *END], ["H\ufffd"], ""),
    "message_delta without usage": ([start(), *HI, without(ending(), "usage"), STOP], ["Hi"], ""),
    "message_delta with usage null": ([start(), *HI, {**ending(), "usage": None}, STOP], ["Hi"], ""),
    "message_delta with words for numbers": ([start(), *HI, ending(output_tokens="15"), STOP], ["Hi"], ""),
    "message_delta without a reason": ([start(), *HI, ending(None), STOP], ["Hi"], ""),
    "no reason after a call": ([start(), *call(0), ending(None), STOP], [CALL], "tool_use"),
    "a message_delta that is none": ([start(), *HI, {**ending(), "delta": None}, STOP], ["Hi"], ""),
    "no message_delta": ([start(), *HI, STOP], ["Hi"], ""),
    "two message_deltas": ([start(), *HI, ending(), ending(), STOP], ["Hi"], ""),
    "text after the message_delta": (
        [start(), *HI, ending(), opened(1), delta(1, "!"), stopped(1), STOP],
        ["Hi", "!"],
        "",
    ),
    "stop": ([start(), *HI, ending("stop"), STOP], ["Hi"], ""),
    "stop after a call": ([start(), *call(0), ending("stop"), STOP], [CALL], "tool_use"),
    "length": ([start(), *HI, ending("length"), STOP], ["Hi"], "max_tokens"),
    "tool_calls": ([start(), *call(0), ending("tool_calls"), STOP], [CALL], "tool_use"),
    "end_turn after a call": ([start(), *call(0), *END], [CALL], "tool_use"),
    "an end mark in place of message_stop": ([start(), *HI, ending(), b"data: [DONE]\n\n"], ["Hi"], ""),
    "a signature on the block behind its own": (
        [
            start(),
            opened(0, "thinking"),
            delta(0, "hm", "thinking_delta"),
            stopped(0),
            opened(1),
            delta(1, "SIGNED", "signature_delta"),
            delta(1, "Hi"),
            stopped(1),
            *END,
        ],
        [("hm", ""), "Hi"],
        "",
    ),
    "tool_use without a call": ([start(), *HI, ending("tool_use"), STOP], ["Hi"], ""),
    "only thinking": (
        [start(), opened(0, "thinking"), delta(0, "hm", "thinking_delta"), stopped(0), *END],
        [("hm", ""), TEXTLESS],
        "",
    ),
    "white space after thinking": (
        [
            start(),
            opened(0, "thinking"),
            delta(0, "hm", "thinking_delta"),
            stopped(0),
            opened(1),
            delta(1, "\n"),
            stopped(1),
            *END,
        ],
        [("hm", ""), "\n", TEXTLESS],
        "",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("size", [0, 1, 7], ids=["at once", "by the byte", "by seven"])
def test_a_fault_is_repaired(name: str, size: int) -> None:
    events, content, reason = FAULTS[name]
    stream = sse(*events)
    machine = answer()
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)] if size else [stream]
    out = b"".join([*map(machine.feed, pieces), machine.finish()])
    assert machine.error is None
    told = obeys(out)
    assert content_of(told) == content
    called = any(event.get("content_block", {}).get("type") == "tool_use" for event in told)
    expected = reason.replace("sound", "") or ("tool_use" if called else "end_turn")
    assert told[-2]["delta"]["stop_reason"] == machine.stop_reason == expected
    assert bool(machine.fault) == (reason != "sound")
    assert (machine.began, machine.ended, machine.complete) == (True, True, True)
    assert machine.usage is None or machine.usage.output in (15, 1)


SOUND: dict[str, list[Json | bytes]] = {
    "text": [start(), PING, *HI, *END],
    "thinking, text and calls": [
        start(),
        opened(0, "thinking"),
        delta(0, "hm", "thinking_delta"),
        delta(0, "SIGNED", "signature_delta"),
        stopped(0),
        opened(1),
        delta(1, "Grüße"),
        stopped(1),
        *call(2, id="toolu_x1"),
        *call(3, id="toolu_x2"),
        ending("tool_use"),
        STOP,
    ],
    "a call without arguments": [start(), opened(0, "tool_use"), stopped(0), ending("tool_use"), STOP],
    "an answer that was cut": [start(), ending("max_tokens"), STOP],
    "a refusal": [start(), ending("refusal"), STOP],
    "events and fields of next year": [
        start(container={"id": "c"}),
        {"type": "event_of_next_year", "x": 1.0},
        b"event: other\ndata: no json\n\n",
        b"data: [DONE]\n\n",
        opened(0, "block_of_next_year", x=[]),
        delta(0, "x", "delta_of_next_year"),
        stopped(0),
        ending("reason_of_next_year", iterations=[{"output_tokens": 400}]),
        STOP,
    ],
    "a server's tool": [
        start(),
        opened(0, "server_tool_use", id="srvtoolu_1", name="web_search", input={}),
        argument(0, '{"query":"x"}'),
        stopped(0),
        opened(1, "web_search_tool_result", tool_use_id="srvtoolu_1", content=[]),
        stopped(1),
        opened(2, citations=[]),
        delta(2, {"type": "char_location"}, "citations_delta"),
        delta(2, "Hi"),
        stopped(2),
        *END,
    ],
    "half of a surrogate pair": [
        start(),
        opened(0),
        written(delta(0, "X")).replace(b"X", rb"\ud83d"),
        written(delta(0, "X")).replace(b"X", rb"\ude00 ok"),
        stopped(0),
        *END,
    ],
}


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [0, 1, 7], ids=["at once", "by the byte", "by seven"])
def test_a_sound_stream_stays_the_same_to_the_byte(name: str, end: bytes, size: int) -> None:
    stream = b": hello" + end + end + sse(*SOUND[name]).replace(b"\n", end)
    fresh = re.sub(rb"msg_up\d+", f"msg_up{next(_numbers)}".encode(), stream)
    machine = answer()
    pieces = [fresh[at : at + size] for at in range(0, len(fresh), size)] if size else [fresh]
    assert b"".join([*map(machine.feed, pieces), machine.finish()]) == fresh
    assert (machine.fault, machine.error) == ("", None)
    obeys(fresh)


def test_what_passed_before_the_fault_stays_to_the_byte() -> None:
    before = b"\xef\xbb\xbf: hello\r\n\r\n" + sse(start(), PING, *HI).replace(b"\n", b"\r\n")
    after = sse(*call(3, id="toolu_after"), *END).replace(b"\n", b"\r\n")
    machine = answer()
    out = machine.feed(before) + machine.feed(after)
    assert out.startswith(before)
    assert b"\r" not in out.removeprefix(before)
    assert content_of(obeys(out)) == ["Hi", CALL]


def test_the_text_streams_on_after_a_fault() -> None:
    machine = answer()
    assert machine.feed(sse(start(usage=None), opened(4))) == b""
    assert b"Hel" in machine.feed(sse(delta(4, "Hel")))
    assert b"lo" in machine.feed(sse(delta(4, "lo")))
    assert machine.feed(b": alive\n\n") == b": alive\n\n"
    assert b"ping" in machine.feed(sse(PING))


def test_an_ending_that_waited_as_bytes_is_written_once() -> None:
    machine = answer()
    machine.feed(sse(start(), *HI, ending()))
    assert machine.finishing
    out = machine.feed(sse(ending(output_tokens=500))) + machine.feed(sse(STOP))
    assert out.count(b"event: message_delta") == 1
    assert json.loads(out.split(b"data: ")[1].split(b"\n")[0])["usage"]["output_tokens"] == 500


def test_a_finished_answer_gets_the_stop_it_lacks_also_after_a_fault() -> None:
    machine = answer()
    out = machine.feed(sse(start(usage=None), *HI, ending())) + machine.finish()
    assert content_of(obeys(out)) == ["Hi"]
    assert machine.complete


def test_the_answer_is_named_as_the_client_named_its_model() -> None:
    machine = answer(upstream_model="up")
    out = machine.feed(sse(start(model="up", usage=None), *HI, *END))
    assert obeys(out)[0]["message"]["model"] == "claude-sonnet-5-5"


def test_an_id_the_conversation_has_used_is_replaced() -> None:
    history = [
        ASKED,
        {"role": "assistant", "content": [{"type": "tool_use", "id": "call_0", "name": "Read", "input": {}}]},
    ]
    machine = answer(messages=[*history, ASKED])
    out = machine.feed(sse(start(), *call(0, id="call_0"), *call(1, id="call_1"), *END))
    first, second = [event["content_block"]["id"] for event in obeys(out) if event["type"] == "content_block_start"]
    assert re.fullmatch("toolu_[0-9A-Za-z]{22}", first)
    assert second == "call_1"


def test_a_call_without_a_name_is_for_the_only_tool() -> None:
    tools = [{"name": "Bash", "input_schema": {"type": "object"}}]
    machine = answer(tools=tools)
    out = machine.feed(sse(start(), *call(0, name=""), argument(1, '{"b":2}'), *END))
    assert content_of(obeys(out)) == [("Bash", '{"a":1}'), ("Bash", '{"b":2}')]


def test_nothing_is_repaired_where_it_is_not_wanted() -> None:
    for options, host in [({"normalise": False}, "https://llm.example.com"), ({}, "https://api.anthropic.com")]:
        stream = sse(start(usage=None), *call(7, id="x"), *END)
        machine = answer(options=options, base_url=host)
        assert machine.feed(stream) == stream
        assert machine.fault == ""


def test_an_option_of_an_illegal_type_is_passed_over() -> None:
    machine = answer(options={"normalise": ["no"]})
    machine.feed(sse(start(usage=None), *HI))
    assert machine.fault
    assert answer(options={"normalise": True}, base_url="https://api.anthropic.com").feed(sse(*HI))


EMPTY: dict[str, list[Json]] = {
    "nothing but the end": [STOP],
    "no content": [start(), *END],
    "no content and no message_delta": [start(), STOP],
    "an empty text": [start(), opened(0), stopped(0), *END],
    "white space": [start(), opened(0), delta(0, " \n"), stopped(0), *END],
    "a call nobody named": [start(usage=None), ending("tool_use"), STOP],
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_answer_is_for_the_next_candidate(name: str) -> None:
    machine = answer()
    assert machine.feed(sse(*EMPTY[name])) + machine.finish() == b""
    assert isinstance(machine.error, BrokenStream)
    assert machine.error.message == "the model returned an empty answer"
    assert not machine.began


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_answer_to_a_probe_passes_with_an_empty_text(name: str) -> None:
    machine = answer(max_tokens=16)
    told = obeys(machine.feed(sse(*EMPTY[name])) + machine.finish())
    assert "".join(content_of(told)).strip() == ""
    assert len(content_of(told)) == 1
    assert machine.complete


def test_the_text_of_an_empty_answer_is_the_provider_s_option() -> None:
    machine = answer(options={"empty_answer_text": "nothing"})
    out = machine.feed(sse(start(), opened(0, "thinking"), delta(0, "hm", "thinking_delta"), stopped(0), *END))
    assert content_of(obeys(out)) == [("hm", ""), "nothing"]


def test_usage_nobody_told_is_counted() -> None:
    machine = answer()
    machine.count = lambda: Usage(input=7, output=3)
    ended = obeys(machine.feed(sse(start(usage=None), *HI, without(ending(), "usage"), STOP)))
    assert (ended[-2]["usage"]["input_tokens"], ended[-2]["usage"]["output_tokens"]) == (7, 3)
    assert machine.usage is None


def test_figures_are_clamped_and_later_ones_override() -> None:
    machine = answer()
    usage = {"input_tokens": "30", "cache_read_input_tokens": -4, "output_tokens": 1, "service_tier": "standard"}
    told = obeys(machine.feed(sse(start(usage=usage), *HI, ending(output_tokens=9, input_tokens=None), STOP)))
    assert machine.usage == Usage(input=30, output=9)
    assert told[0]["message"]["usage"]["service_tier"] == "standard"
    assert told[-2]["usage"]["input_tokens"] == 30


@pytest.mark.parametrize("size", [64, 4096])
def test_parallel_blocks_are_held_up_to_a_bound(size: int) -> None:
    machine = answer()
    machine.feed(sse(start(), opened(0, "tool_use"), opened(1, "tool_use")))
    piece = sse(argument(1, "x" * size)) * 16
    tracemalloc.start()
    for _ in range(17 * 1024 * 1024 // (size * 16)):
        machine.feed(piece)
        if machine.error is not None:
            break
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(machine.error, BrokenStream)
    assert most < 400 * 1024 * 1024


# What is no event stream

REPLY: Json = {**message(), "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn"}


def reply(**fields: Any) -> bytes:
    whole = {**REPLY, "id": f"msg_r{next(_numbers)}", **fields}
    return json.dumps({name: value for name, value in whole.items() if value != "gone"}).encode()


TOOL: Json = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"a": 1}}
REPLIES: dict[str, tuple[Json, list[Any], str]] = {
    "no id": ({"id": "gone"}, ["Hi"], "end_turn"),
    "id and model null": ({"id": None, "model": None}, ["Hi"], "end_turn"),
    "a model that is no name": ({"model": ["claude"]}, ["Hi"], "end_turn"),
    "no type and role": ({"type": "gone", "role": "gone"}, ["Hi"], "end_turn"),
    "no usage": ({"usage": "gone"}, ["Hi"], "end_turn"),
    "usage in words": ({"usage": {"input_tokens": "5", "output_tokens": -1}}, ["Hi"], "end_turn"),
    "no model": ({"model": "gone"}, ["Hi"], "end_turn"),
    "no stop_reason": ({"stop_reason": "gone"}, ["Hi"], "end_turn"),
    "null after a call": ({"stop_reason": None, "content": [TOOL]}, [CALL], "tool_use"),
    "stop": ({"stop_reason": "stop"}, ["Hi"], "end_turn"),
    "content as a string": ({"content": "Hi"}, ["Hi"], "end_turn"),
    "a string among the blocks": ({"content": ["Hi", 3, {}]}, ["Hi"], "end_turn"),
    "ids used twice": ({"content": [TOOL, TOOL]}, [CALL, CALL], "tool_use"),
    "input as a string": ({"content": [{**TOOL, "input": '{"a":1}'}]}, [CALL], "tool_use"),
    "end_turn after a call": ({"content": [TOOL]}, [CALL], "tool_use"),
    "only thinking": ({"content": [{"type": "thinking", "thinking": "hm"}]}, [("hm", ""), TEXTLESS], "end_turn"),
    "text null": ({"content": [{"type": "text", "text": None}, TOOL]}, ["", CALL], "tool_use"),
}


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_is_repaired_in_one_piece_and_as_a_stream(name: str) -> None:
    fields, content, reason = REPLIES[name]
    as_events, in_one = answer(), answer()
    told = obeys(as_events.feed(reply(**fields)) + as_events.finish())
    assert (content_of(told), told[-2]["delta"]["stop_reason"]) == (content, reason)
    read = json.loads(in_one.whole(reply(**fields)))
    blocks = [block.get("text", (block.get("name") or block.get("thinking"),)) for block in read["content"]]
    assert blocks == [block if isinstance(block, str) else block[:1] for block in content]
    assert (read["stop_reason"], read["type"], read["role"]) == (reason, "message", "assistant")
    assert read["id"].startswith("msg_")
    assert isinstance(read["model"], str)
    assert read["usage"]["output_tokens"] >= 0
    ids = [block["id"] for block in read["content"] if block["type"] == "tool_use"]
    assert len(set(ids)) == len(ids)
    assert in_one.stop_reason == as_events.stop_reason == reason


READERS: dict[str, Callable[[PassThrough, bytes], bytes]] = {
    "in one piece": lambda machine, body: machine.whole(body),
    "as a stream": lambda machine, body: machine.feed(body) + machine.finish(),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("content", [None, [], "", "gone"])
def test_a_reply_without_content_is_for_the_next_candidate_unless_it_was_a_probe(content: Any, reader: str) -> None:
    machine, probe = answer(), answer(max_tokens=1)
    assert READERS[reader](machine, reply(content=content)) == b""
    assert isinstance(machine.error, BrokenStream)
    assert not machine.began
    assert b'"type":"text","text":""' in READERS[reader](probe, reply(content=content))


def test_a_sound_reply_passes_to_the_byte() -> None:
    body = reply(content=[{"type": "text", "text": "Hi", "citations": None}, TOOL], stop_reason="tool_use", x=1.0)
    assert answer().whole(body) == body


def test_a_reply_is_left_alone_where_nothing_is_to_be_repaired() -> None:
    body = reply(usage="gone", content=[], stop_reason=None)
    assert answer(options={"normalise": False}).whole(body) == body


def test_lines_of_events_are_read_as_events() -> None:
    lines = b"\n".join(json.dumps(event).encode() for event in [start(), *HI, *END])
    for options in ({}, {"normalise": False}):
        machine = answer(options=options)
        out = machine.feed(lines) + machine.finish()
        assert content_of(obeys(out)) == ["Hi"]
        assert machine.usage == Usage(input=25, output=15)


@pytest.mark.parametrize(
    ("body", "content_type", "sentence"),
    [
        (b"<html>sign in</html>", "text/html", "the provider answered with text/html that is no reply"),
        (b"Bad gateway", "text/plain", "the provider answered with text/plain instead of an event stream"),
        (b"", "text/event-stream", "the provider closed the stream without an answer"),
        (b": only\n\n: comments\n\n", "text/event-stream", "the provider closed the stream without an answer"),
        (b'{"type":"message_start"}\nnot json', "application/json", "the provider answered with application/json"),
        (sse(start(), PING), "text/event-stream", "the provider closed the stream before the answer was complete"),
        (b'{"error":{"message":"slow down","type":"x"}}', "application/json", "slow down"),
    ],
)
@pytest.mark.parametrize("normalise", [True, False])
def test_what_is_no_answer_is_a_failure_with_a_sentence(
    body: bytes, content_type: str, sentence: str, normalise: bool
) -> None:
    machine = PassThrough(exchange(options={"normalise": normalise}), content_type)
    assert machine.feed(body) + machine.finish() == b""
    assert machine.error is not None
    assert sentence in machine.error.message
    assert not machine.began


# Whatever comes

_ids = re.compile(rb"(msg|toolu)_[0-9A-Za-z]+")
MUTATIONS: dict[str, Callable[[list[bytes], int, int], None]] = {
    "lose": lambda events, at, _: events.__delitem__(at),
    "repeat": lambda events, at, to: events.insert(to, events[at]),
    "swap": lambda events, at, to: events.insert(to, events.pop(at)),
    "unname": lambda events, at, _: events.__setitem__(at, events[at].split(b"\n", 1)[-1]),
    "flip": lambda events, at, to: events.__setitem__(at, _flipped(events[at], to)),
    "glue": lambda events, at, _: events.__setitem__(at, events[at][:-1]),
    "null": lambda events, at, to: events.__setitem__(at, _nulled(events[at], to)),
    "renumber": lambda events, at, to: events.__setitem__(
        at, re.sub(rb'"index":\d+', b'"index":%d' % (to % 4), events[at])
    ),
}


def _flipped(event: bytes, to: int) -> bytes:
    at = to % max(len(event), 1)
    return event[:at] + bytes([to * 7 % 256]) + event[at + 1 :]


def _nulled(event: bytes, to: int) -> bytes:
    values = list(re.finditer(rb':("[^"]*"|\d+|\{\}|\[\])', event))
    if not values:
        return event
    value = values[to % len(values)]
    return event[: value.start(1)] + (b"null", b"[]", b"-1", b'"x"', b"{}")[to % 5] + event[value.end(1) :]


def mutated(events: list[Json | bytes], steps: list[tuple[str, int, int]]) -> bytes:
    pieces = [sse(event) for event in events]
    for kind, at, to in steps:
        if pieces:
            MUTATIONS[kind](pieces, at % len(pieces), to % len(pieces) if kind in {"repeat", "swap"} else to)
    return b"".join(pieces)


steps = st.lists(st.tuples(st.sampled_from(sorted(MUTATIONS)), st.integers(0, 40), st.integers(0, 400)), max_size=6)
splits = st.lists(st.integers(0, 2500), max_size=10)


def run(stream: bytes, cuts: list[int], options: dict[str, object]) -> tuple[bytes, PassThrough]:
    anthropic_answer._recent_ids = RecentIds(1)  # what an earlier run has shown is not remembered
    machine = answer(options=options)
    edges = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    out = b"".join([*(machine.feed(stream[a:b]) for a, b in pairwise(edges)), machine.finish()])
    return out, machine


@given(st.sampled_from(sorted(SOUND)), steps, splits)
def test_whatever_comes_the_client_gets_a_stream_or_a_failure(
    name: str, changes: list[tuple[str, int, int]], cuts: list[int]
) -> None:
    out, machine = run(mutated(SOUND[name], changes), cuts, {})
    assert machine.complete or machine.error is not None
    obeys(out, ended=machine.error is None)
    assert machine.error is None or b"message_delta" not in out


def _comparable(out: bytes) -> bytes:
    """Ids are minted anew each time, and a blank line more says nothing."""
    return re.sub(rb"\n{3,}", b"\n\n", _ids.sub(b"ID", out))


@given(st.sampled_from(sorted(SOUND)), steps, splits, st.booleans())
def test_the_cuts_between_reads_change_nothing(
    name: str, changes: list[tuple[str, int, int]], cuts: list[int], normalise: bool
) -> None:
    stream = mutated(SOUND[name], changes)
    options: dict[str, object] = {"normalise": normalise}
    (one, first), (many, second) = run(stream, [], options), run(stream, cuts, options)
    assert _comparable(one) == _comparable(many)
    assert (first.usage, first.stop_reason, first.complete) == (second.usage, second.stop_reason, second.complete)
    assert (first.error is None) == (second.error is None)
    assert first.output_characters == second.output_characters
