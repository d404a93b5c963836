from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.dialects import Answer
from providers.dialects.responses import ResponsesAnswer, usage_of
from providers.errors import BrokenStream, Overloaded, RateLimited, Refused, UpstreamError
from providers.state import unseal
from providers.tests import exchanges
from providers.tests.exchanges import (
    SECRET,
    STREAMS,
    blocks,
    exchange,
    is_the_same_in_pieces,
    obeys_grammar,
    payloads,
    stop,
    tool,
    without_ids,
)
from providers.usage import Usage

THINKING: Any = {"thinking": {"type": "adaptive"}}
OMITTED: Any = {"thinking": {"type": "adaptive", "display": "omitted"}}
TOOLS: Any = {"tools": [tool("Read"), tool("Bash")]}
SEARCH: Any = {"type": "web_search_20250305", "name": "web_search"}
FOLDER = STREAMS / "responses"
A, B = '{"a":1}', '{"b":2}'


def event(kind: str, **fields: Any) -> bytes:
    payload = json.dumps({"type": f"response.{kind}", **fields}).encode()
    return b"event: response.%b\ndata: %b\n\n" % (kind.encode(), payload)


def delta(text: str, at: int | None = 0, id: str | None = None) -> bytes:
    return event("output_text.delta", **_place(at, id), content_index=0, delta=text)


def args(fragment: str, at: int | None = 0, id: str | None = None) -> bytes:
    return event("function_call_arguments.delta", **_place(at, id), delta=fragment)


def args_done(arguments: Any, at: int | None = 0, id: str | None = None, **fields: Any) -> bytes:
    return event("function_call_arguments.done", **_place(at, id), arguments=arguments, **fields)


def summary(text: str, part: int = 0, at: int | None = 0) -> bytes:
    return event("reasoning_summary_text.delta", **_place(at, None), summary_index=part, delta=text)


def raw(text: str, at: int | None = 0) -> bytes:
    return event("reasoning_text.delta", **_place(at, None), content_index=0, delta=text)


def _place(at: int | None, id: str | None) -> Any:
    return {name: value for name, value in (("output_index", at), ("item_id", id)) if value is not None}


def added(item: Any, at: int | None = 0) -> bytes:
    return event("output_item.added", **_place(at, None), item=item)


def done(item: Any, at: int | None = 0) -> bytes:
    return event("output_item.done", **_place(at, None), item=item)


def message(text: str, **fields: Any) -> Any:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}], **fields}


def call(name: str, arguments: Any = "", **fields: Any) -> Any:
    return {"type": "function_call", "call_id": "call_0", "name": name, "arguments": arguments, **fields}


def reasoning(secret: str | None = "gAA", *texts: str, **fields: Any) -> Any:
    told = [{"type": "summary_text", "text": text} for text in texts]
    return {"type": "reasoning", "id": "rs_1", "summary": told, "encrypted_content": secret, **fields}


def completed(*output: Any, **fields: Any) -> bytes:
    return event("completed", response={"id": "resp_1", "status": "completed", "output": list(output), **fields})


def incomplete(reason: str, *output: Any) -> bytes:
    told = {"status": "incomplete", "incomplete_details": {"reason": reason}, "output": list(output)}
    return event("incomplete", response=told)


END = completed()


def answered(stream: bytes, size: int = 0, **request: Any) -> tuple[list[Any], Answer]:
    return exchanges.answered(stream, size, kind="responses", **request)


def content(*stream: bytes, **request: Any) -> list[Any]:
    events, answer = answered(b"".join(stream), **{**TOOLS, **request})
    assert answer.error is None
    obeys_grammar(events)
    return blocks(events)


def recorded(name: str, **request: Any) -> tuple[list[Any], Answer]:
    return answered((FOLDER / f"{name}.sse").read_bytes(), **{**TOOLS, **request})


# Whole streams

READ = ("Read", '{"path":"x"}')

RECORDED: list[tuple[str, Any, list[Any], str, Usage | None]] = [
    ("openai_text", {}, ["Hello wörld 🙂!"], "end_turn", Usage(input=12, output=5)),
    (
        "openai_reasoning_call",
        THINKING,
        [("**Looking**\n\nThen read",), "I'll look.", ("",), READ, ("Bash", '{"command":"ls"}')],
        "tool_use",
        Usage(input=40, cache_read=60, output=60, thinking=32),
    ),
    ("openai_incomplete", {}, ["It was"], "max_tokens", Usage(input=9, output=16)),
    (
        "raw_reasoning_one_newline_apart",
        THINKING,
        [("hm ok",), "Hi"],
        "end_turn",
        Usage(input=10, output=8, thinking=6),
    ),
    ("ids_change_all_the_time", {}, [READ], "tool_use", Usage(input=10, output=5)),
    ("deltas_alone", {}, ["Hi you"], "end_turn", Usage(input=5, output=2)),
    ("done_items_alone", {}, ["Hi", READ], "tool_use", Usage(input=5, output=2)),
    ("completed_alone", THINKING, [("hm",), "Hi", READ], "tool_use", Usage(input=5, output=2)),
    ("named_by_the_event_line", {}, ["Hi you"], "end_turn", Usage(input=5, output=2)),
    ("named_by_the_data", {}, ["Hi you"], "end_turn", Usage(input=5, output=2)),
    ("web_search", {}, ["Cats."], "end_turn", Usage(input=50, output=5, web_searches=1)),
]


@pytest.mark.parametrize(
    ("name", "request_fields", "said", "stopped", "usage"), RECORDED, ids=[row[0] for row in RECORDED]
)
def test_recorded_streams(name: str, request_fields: Any, said: list[Any], stopped: str, usage: Usage | None) -> None:
    events, answer = recorded(name, **request_fields)
    obeys_grammar(events)
    assert blocks(events) == said
    assert stop(events) == answer.stop_reason == stopped
    assert answer.usage == usage
    assert answer.error is None
    assert (answer.ended, answer.complete) == (True, True)


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.sse")))
@pytest.mark.parametrize("size", [1, 7, 64])
def test_any_split_of_the_bytes_gives_the_same_events(name: str, size: int) -> None:
    is_the_same_in_pieces((FOLDER / f"{name}.sse").read_bytes(), size, kind="responses", **TOOLS, **THINKING)


def test_text_leaves_as_it_comes() -> None:
    answer = ResponsesAnswer(exchange(), "text/event-stream")
    steps: list[tuple[bytes, list[str], tuple[bool, bool]]] = [
        (event("created", response={"id": "resp_1", "output": []}), [], (False, False)),
        (added(message("")), [], (False, False)),
        (delta("Hel"), ["message_start", "Hel"], (True, False)),
        (delta("lo"), ["lo"], (True, False)),
        (done(message("Hello")), [], (True, False)),
        (END, ["message_delta", "message_stop"], (True, True)),
        (delta("late"), [], (True, True)),
    ]
    for data, left, (began, ended) in steps:
        said = [told.get("delta", {}).get("text") or told["type"] for told in payloads(answer.feed(data))]
        assert [word for word in said if not word.startswith("content_block")] == left
        assert (answer.began, answer.ended, answer.complete) == (began, ended, ended)
    assert answer.upstream_id == "resp_1"
    assert answer.finish() == b""


def test_a_call_leaves_as_it_comes_and_ends_when_it_is_done() -> None:
    answer = ResponsesAnswer(exchange(**TOOLS), "text/event-stream")
    steps = [
        (added(call("Read")), ["message_start", "content_block_start"]),
        (args('{"a":'), ['{"a":']),
        (args("1}"), ["1}"]),
        (args_done(A), []),
        (done(call("Read", A)), ["content_block_stop"]),
    ]
    for data, left in steps:
        told = payloads(answer.feed(data))
        assert [payload.get("delta", {}).get("partial_json") or payload["type"] for payload in told] == left


# Nothing is said twice, nothing is lost


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        ([delta("ab"), done(message("abcd"))], ["abcd"]),
        ([delta("ab"), event("output_text.done", output_index=0, content_index=0, text="abcd")], ["abcd"]),
        ([delta("ab"), completed(message("abcd"))], ["abcd"]),
        ([delta("ab"), done(message("something else"))], ["ab"]),
        ([delta("ab"), done(message("ab")), done(message("ab")), delta("ab")], ["ab"]),
        ([delta("ab", id="m"), done(message("ab", id="m")), completed(message("ab", id="m"))], ["ab"]),
        ([delta("ab"), completed(message("ab", id="m"), message("cd", id="n"))], ["ab", "cd"]),
        ([delta("ab", None), delta("cd", None), completed(message("abcd", id="m"))], ["abcd"]),
        (
            [delta("ab", None, "m"), delta("cd", None, "n"), completed(message("ab", id="m"), message("cd", id="n"))],
            ["ab", "cd"],
        ),
        ([added(message("", id="m"), None), delta("ab", None, "m"), done(message("ab", id="m"), None)], ["ab"]),
        ([added(message(""), None), delta("ab", None, "m"), done(message("ab"), None)], ["ab"]),
        ([delta("ab"), event("output_text.done", output_index=0, content_index=1, text="ab")], ["ab"]),
        ([delta("ab", 0), delta("cd", 1), done(message("cd"), 1)], ["ab", "cd"]),
        ([delta("ab", 0, "m"), done(message("ab", id="m"), 0), delta("cd", 0, "n")], ["ab", "cd"]),
        (
            [event("output_text.delta", output_index=0, content_index=n, delta=text) for n, text in enumerate("ab")]
            + [done({"type": "message", "content": [{"text": text} for text in "abc"]})],
            ["abc"],
        ),
        ([event("output_text.delta", output_index="0", delta={"text": "ab"}), done(message("ab"))], ["ab"]),
        ([delta("ab"), event("brand.new", delta="x"), added({"type": "mcp_call"}, 1)], ["ab"]),
        ([delta("ab"), event("output_text.annotation.added", annotation={"url": "x"})], ["ab"]),
    ],
)
def test_what_was_told_before_is_not_repeated(stream: list[bytes], said: list[Any]) -> None:
    ending = [] if b"response.completed" in stream[-1] else [END]
    assert content(*stream, *ending) == said


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        ([added(call("Read")), args(A), args_done(A), done(call("Read", A))], [("Read", A)]),
        ([added(call("Read")), args('{"a"'), args_done(A)], [("Read", A)]),
        ([added(call("Read")), args('{"a"'), done(call("Read", A))], [("Read", A)]),
        ([added(call("Read")), args_done(A)], [("Read", A)]),
        ([added(call("Read")), args_done({"a": 1})], [("Read", A)]),
        ([args('{"a"'), args(":1}"), done(call("Read", A))], [("Read", A)]),
        ([args(A), args_done(A, name="Read")], [("Read", A)]),
        ([done(call("Read", {"a": 1}))], [("Read", A)]),
        ([done(call("Read", A)), done(call("Read", A)), completed(call("Read", A))], [("Read", A)]),
        (
            [done(call("Read", A, id="x")), completed(call("Read", A, id="x"), call("Read", A, id="y"))],
            [("Read", A)] * 2,
        ),
        ([added(call("Read")), done(call("Read", "{}"))], [("Read", "{}")]),
        ([added(call("Read")), done(call("Read"))], [("Read", "{}")]),
        ([added(call("Read")), args("{}"), args_done(A)], [("Read", A)]),
        (
            [
                added(call("Read"), 0),
                added(call("Bash"), 1),
                args('{"b"', 1),
                args('{"a"', 0),
                args(":2}", 1),
                args(":1}", 0),
            ],
            [("Read", A), ("Bash", B)],
        ),
        (
            [added(call("Read", id="x"), 0), args(A, 0, "x"), added(call("Bash", id="y"), 0), args(B, 0, "y")],
            [("Read", A), ("Bash", B)],
        ),
        (
            [
                added(call("Read", id="x"), None),
                added(call("Bash", id="y"), None),
                args(B, None, "y"),
                args(A, None, "x"),
            ],
            [("Read", A), ("Bash", B)],
        ),
        (
            [added(call("Read"), None), args(A, None), added(call("Bash"), None), args(B, None)],
            [("Read", A), ("Bash", B)],
        ),
        ([added(call("Read")), args(A + B), done(call("Read", A + B))], [("Read", A), ("Read", B)]),
        ([added(call("Read")), args(A), delta("then", 1)], [("Read", A), "then"]),
        ([added(call("Read")), args('{"a"'), done(call("Read", '{"a"')), delta("then", 1)], [("Read", '{"a"'), "then"]),
        ([delta("first", 0), added(call("read"), 1), done(call("read", A), 1)], ["first", ("Read", A)]),
        (
            [
                added({"type": "custom_tool_call", "name": "Read"}),
                event("custom_tool_call_input.delta", output_index=0, delta="a "),
                event("custom_tool_call_input.delta", output_index=0, delta='"b"'),
                done({"type": "custom_tool_call", "name": "Read", "input": 'a "b"'}),
            ],
            [("Read", '{"input":"a \\"b\\""}')],
        ),
        (
            [
                added({"type": "custom_tool_call", "name": "Read"}),
                event("custom_tool_call_input.done", output_index=0, input="x"),
            ],
            [("Read", '{"input":"x"}')],
        ),
        ([added(call("Read", A))], [("Read", A)]),
        ([added(call("Read", A)), done(call("Read"))], [("Read", A)]),
        ([added(call("Read", A)), done(call("Read", A))], [("Read", A)]),
        ([added(call("Read", A)), args('{"a"'), args(":1}")], [("Read", A)]),
    ],
)
def test_calls_come_whole_whatever_was_left_out(stream: list[bytes], said: list[Any]) -> None:
    ending = [] if b"response.completed" in stream[-1] else [END]
    events, answer = answered(b"".join([*stream, *ending]), **TOOLS)
    assert answer.error is None
    obeys_grammar(events)
    assert blocks(events) == said
    assert stop(events) == "tool_use"


def test_a_name_comes_back_as_the_client_knows_it() -> None:
    long = "mcp__server__" + "x" * 80
    sent = ResponsesAnswer(exchange(tools=[tool(long)]), "")._composer._names.sent(long)
    assert content(done(call(sent, A)), END, tools=[tool(long)]) == [(long, A)]


# Thinking


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        ([summary("a"), summary("b"), summary("c", 1), delta("x", 1)], [("ab\n\nc",), "x"]),
        ([summary("a"), done(reasoning("s", "ab", "c")), delta("x", 1)], [("ab\n\nc",), "x"]),
        ([done(reasoning("s", "ab", "c")), delta("x", 1)], [("ab\n\nc",), "x"]),
        ([done(reasoning("s")), delta("x", 1)], [("",), "x"]),
        ([raw("a"), summary("b"), raw("c"), done(reasoning("s", "b")), delta("x", 1)], [("ac",), "x"]),
        ([summary("b"), raw("a"), summary("c"), delta("x", 1)], [("b\n\na",), "x"]),
        ([summary("a"), raw("a"), summary("b"), raw("b"), delta("x", 1)], [("ab",), "x"]),
        ([summary("ab"), raw("a"), raw("bc"), delta("x", 1)], [("abc",), "x"]),
        (
            [done(reasoning("s", "b", content=[{"type": "reasoning_text", "text": "a"}])), delta("x", 1)],
            [("a",), "x"],
        ),
        (
            [summary("b"), done(reasoning("s", "b", content=[{"type": "reasoning_text", "text": "a"}])), delta("x", 1)],
            [("b",), "x"],
        ),
        (
            [
                summary("a"),
                event("reasoning_summary_text.done", output_index=0, summary_index=0, text="ab"),
                delta("x", 1),
            ],
            [("ab",), "x"],
        ),
        ([event("reasoning_text.done", output_index=0, content_index=0, text="ab"), delta("x", 1)], [("ab",), "x"]),
        ([done(reasoning("s", "a"), 0), done(reasoning("t", "b", id="rs_2"), 1), delta("x", 2)], [("a",), ("b",), "x"]),
        ([delta("x", 0), summary("a", at=1), added(call("Read"), 2), args(A, 2)], ["x", ("a",), ("Read", A)]),
        ([summary("a"), delta("x", 1), completed(reasoning("s", "a"), message("x"))], [("a",), "x"]),
        ([raw("a"), END], [("a",), "(The model returned no text.)"]),
    ],
)
def test_thinking_is_told_once_in_one_block_for_each_item(stream: list[bytes], said: list[Any]) -> None:
    ending = [] if b"response.completed" in stream[-1] else [END]
    assert content(*stream, *ending, **THINKING) == said


@pytest.mark.parametrize(
    ("request_fields", "said"),
    [
        (THINKING, [("a",), "x"]),
        (OMITTED, [("",), "x"]),
        ({**THINKING, "options": {"thinking": "hide"}}, [("",), "x"]),
        ({"tools": TOOLS["tools"]}, [("",), "x"]),
        ({"tools": []}, ["x"]),
        ({"tools": [], "thinking": {"type": "disabled"}}, ["x"]),
    ],
)
def test_who_sees_thinking(request_fields: Any, said: list[Any]) -> None:
    stream = summary("a") + done(reasoning("s", "a")) + delta("x", 1) + END
    assert blocks(answered(stream, **request_fields)[0]) == said


def states(events: list[Any]) -> list[Any]:
    deltas = [told["delta"] for told in events if told["type"] == "content_block_delta"]
    signed = [delta["signature"] for delta in deltas if delta["type"] == "signature_delta"]
    return [unseal(signature, SECRET) for signature in signed]


def test_the_signature_brings_the_items_back() -> None:
    first, second = states(recorded("openai_reasoning_call", **OMITTED)[0])
    assert (first.dialect, first.family, first.model) == ("responses", "llm.example.com", "upstream-model")
    told = [{"type": "summary_text", "text": text} for text in ("**Looking**", "Then read")]
    assert first.items == [{"id": "rs_1", "type": "reasoning", "encrypted_content": "gAAfirst", "summary": told}]
    assert second.items == [{"id": "rs_2", "type": "reasoning", "encrypted_content": "gAAsecond", "summary": []}]


def test_an_item_without_its_secret_is_of_no_use_to_anybody() -> None:
    events, _ = answered(done(reasoning(None, "a")) + delta("x", 1) + END, **TOOLS)
    assert [state.items for state in states(events)] == [[]]


# Text that ends elsewhere


def test_a_stop_sequence_is_kept_by_the_gateway() -> None:
    events, answer = answered(delta("abSTO") + delta("Pcd") + END, stop_sequences=["STOP"])
    assert (blocks(events), stop(events)) == (["ab"], "stop_sequence")
    assert answer.complete


def test_a_refusal_is_said_and_named() -> None:
    part = {"type": "refusal", "refusal": "I can't."}
    told = {"type": "message", "content": [part]}
    for stream in (
        event("refusal.delta", output_index=0, content_index=0, delta="I can't.") + done(told),
        event("refusal.done", output_index=0, content_index=0, refusal="I can't."),
        done(told),
        b"",
    ):
        events, _ = answered(stream + completed(told))
        assert blocks(events) == ["I can't."]
        assert events[-2]["delta"]["stop_reason"] == "refusal"
        assert events[-2]["delta"]["stop_details"] == {"type": "refusal", "category": None, "explanation": None}


@pytest.mark.parametrize(
    ("stream", "stopped"),
    [
        (delta("x") + END, "end_turn"),
        (delta("x") + incomplete("max_output_tokens"), "max_tokens"),
        (delta("x") + incomplete("content_filter"), "refusal"),
        (delta("x") + incomplete("something"), "end_turn"),
        (delta("x") + event("incomplete"), "end_turn"),
        (delta("x") + event("completed"), "end_turn"),
        (delta("x") + b"data: [DONE]\n\n", "end_turn"),
        (done(call("Read", A)) + END, "tool_use"),
        (done(call("Read", A)) + incomplete("max_output_tokens"), "tool_use"),
        (added(call("Read")) + args('{"a') + incomplete("max_output_tokens", call("Read", '{"a')), "max_tokens"),
        (done(call("Read", A)) + incomplete("content_filter"), "refusal"),
        (incomplete("max_output_tokens"), "max_tokens"),
    ],
)
def test_why_the_model_stopped(stream: bytes, stopped: str) -> None:
    events, answer = answered(stream, **TOOLS)
    obeys_grammar(events)
    assert (stop(events), answer.stop_reason) == (stopped, stopped)


# Web search


def test_a_search_of_the_provider_is_shown_to_who_offered_one() -> None:
    request: Any = {"tools": [tool(), SEARCH], "options": {"web_search": "native"}}
    events, answer = recorded("web_search", **request)
    started = [told["content_block"] for told in events if told["type"] == "content_block_start"]
    assert [block["type"] for block in started] == ["server_tool_use", "web_search_tool_result", "text"]
    assert started[0]["id"] == started[1]["tool_use_id"]
    assert started[0]["id"].startswith("srvtoolu_")
    assert [page["url"] for page in started[1]["content"]] == ["https://cats.example"]
    deltas = [told["delta"] for told in events if told["type"] == "content_block_delta"]
    assert deltas[0] == {"type": "input_json_delta", "partial_json": '{"query":"cats"}'}
    assert answer.usage == Usage(input=50, output=5, web_searches=1)
    assert events[-2]["usage"]["server_tool_use"] == {"web_search_requests": 1}


# Usage


@pytest.mark.parametrize(
    ("reported", "usage"),
    [
        ({"input_tokens": 100, "output_tokens": 5}, Usage(input=100, output=5)),
        (
            {"input_tokens": 100, "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10}},
            Usage(input=30, cache_read=60, cache_write_5m=10),
        ),
        ({"input_tokens": 10, "input_tokens_details": {"cached_tokens": 60}}, Usage(cache_read=10)),
        (
            {"input_tokens": 10, "input_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 60}},
            Usage(cache_read=6, cache_write_5m=4),
        ),
        (
            {"output_tokens": 10, "output_tokens_details": {"reasoning_tokens": 4}},
            Usage(output=10, thinking=4),
        ),
        ({"output_tokens": 10, "output_tokens_details": {"reasoning_tokens": 40}}, Usage(output=10, thinking=10)),
        ({"input_tokens": -5, "output_tokens": "7", "input_tokens_details": None}, Usage(output=7)),
        ({"input_tokens": 10, "output_tokens": 5, "total_tokens": 99}, Usage(input=10, output=5)),
        (
            {
                "input_tokens": 10,
                "output_tokens": 5,
                "total_tokens": 19,
                "output_tokens_details": {"reasoning_tokens": 4},
            },
            Usage(input=10, output=9, thinking=4),
        ),
    ],
)
def test_usage_is_split_into_disjoint_parts(reported: Any, usage: Usage) -> None:
    assert usage_of(reported) == usage


FIGURES = st.one_of(st.none(), st.integers(-(10**30), 10**30), st.text(max_size=3), st.floats(), st.booleans())
DETAILS = st.one_of(
    FIGURES,
    st.dictionaries(st.sampled_from(["cached_tokens", "cache_write_tokens", "reasoning_tokens"]), FIGURES),
)


@given(FIGURES, FIGURES, DETAILS, DETAILS)
def test_usage_is_never_negative_and_adds_up_to_the_input(given_: Any, made: Any, one: Any, other: Any) -> None:
    reported = {"input_tokens": given_, "output_tokens": made}
    usage = usage_of({**reported, "input_tokens_details": one, "output_tokens_details": other})
    assert min(usage.input, usage.cache_read, usage.cache_write_5m, usage.output, usage.thinking) >= 0
    assert usage.thinking <= usage.output
    assert usage.input + usage.cache_read + usage.cache_write_5m == usage_of(reported).input


def test_what_no_upstream_told_is_counted_by_whoever_can() -> None:
    answer = ResponsesAnswer(exchange(), "text/event-stream")
    answer.count = lambda: Usage(input=7, output=1)
    events = payloads(answer.feed(delta("x") + END))
    assert events[-2]["usage"]["input_tokens"] == 7
    assert answer.usage is None


def test_usage_on_the_way_is_replaced_not_added() -> None:
    told = [{"usage": {"input_tokens": 5, "output_tokens": n}} for n in (1, 2)]
    stream = b"".join(event("in_progress", response=response) for response in told)
    assert answered(delta("x") + stream)[1].usage == Usage(input=5, output=2)
    assert answered(delta("x") + stream + completed(usage=None))[1].usage == Usage(input=5, output=2)


# Failures


def plain_event(payload: Any, name: bytes = b"error") -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name, json.dumps(payload).encode())


FAILURES: list[tuple[str, bytes, type[UpstreamError], str]] = [
    ("flat", plain_event({"type": "error", "code": "server_error", "message": "boom"}), UpstreamError, "boom"),
    ("flat without a code", plain_event({"type": "error", "code": None, "message": "boom"}), UpstreamError, "boom"),
    ("flat without a type", plain_event({"message": "boom"}), UpstreamError, "boom"),
    ("nested", plain_event({"type": "error", "error": {"type": "x", "message": "boom"}}), UpstreamError, "boom"),
    ("nested without a type", b'data: {"error":{"message":"boom"}}\n\n', UpstreamError, "boom"),
    ("rate", plain_event({"type": "error", "code": "rate_limit_exceeded", "message": "x"}), RateLimited, "limiting"),
    ("status", plain_event({"type": "error", "error": {"code": 429, "message": "x"}}), RateLimited, "limiting"),
    ("failed", event("failed", response={"status": "failed", "error": {"message": "boom"}}), UpstreamError, "boom"),
    (
        "failed by overload",
        event("failed", response={"error": {"code": "server_is_overloaded", "message": "x"}}),
        Overloaded,
        "overloaded",
    ),
    (
        "failed by overflow",
        event("failed", response={"error": {"code": "context_length_exceeded", "message": "too long"}}),
        Refused,
        "prompt is too long",
    ),
    (
        "refused",
        event("failed", response={"error": {"code": "invalid_prompt", "message": "no such prompts"}}),
        Refused,
        "no such prompts",
    ),
    (
        "failed without a word",
        event("failed", response={"status": "failed", "error": None}),
        UpstreamError,
        "broke off",
    ),
    ("failed without a response", event("failed"), UpstreamError, "broke off"),
    ("cancelled", event("completed", response={"status": "cancelled"}), UpstreamError, "cancelled"),
]


@pytest.mark.parametrize(("failed", "error", "says"), [row[1:] for row in FAILURES], ids=[row[0] for row in FAILURES])
@pytest.mark.parametrize("before", [b"", delta("x")], ids=["at once", "after text"])
def test_failures_inside_a_stream_are_read(failed: bytes, error: type[UpstreamError], says: str, before: bytes) -> None:
    events, answer = answered(before + failed + END)
    obeys_grammar(events, ended=False)
    assert blocks(events) == (["x"] if before else [])
    assert (answer.began, answer.ended) == (bool(before), False)
    assert type(answer.error) is error
    assert says in answer.error.message


def test_a_cut_answer_does_not_look_finished() -> None:
    events, answer = recorded("cut_in_text")
    assert [told["type"] for told in events] == ["message_start", "content_block_start", "content_block_delta"]
    assert isinstance(answer.error, BrokenStream)
    assert not answer.ended


@pytest.mark.parametrize(
    ("stream", "content_type", "says"),
    [
        (b"", "text/event-stream", "without an answer"),
        (event("created", response={}), "text/event-stream", "without an answer"),
        (added(message("")) + done(message("")), "text/event-stream", "without an answer"),
        (END, "text/event-stream", "empty answer"),
        (done(message(" ")) + END, "text/event-stream", "empty answer"),
        (b"<html>", "text/html", "text/html"),
        (b"data: junk\n\n" * 10, "text/event-stream", "cannot be read"),
        (b"{}", "application/json", "neither"),
        (b"[]", "application/json", "application/json"),
        (b'{"output":[]}', "application/json", "empty answer"),
        (b'{"output"', "application/json", "application/json"),
    ],
)
def test_no_answer_is_a_failure_before_anything_has_left(stream: bytes, content_type: str, says: str) -> None:
    answer = ResponsesAnswer(exchange(), content_type)
    assert answer.feed(stream) + answer.finish() == b""
    assert not answer.began
    assert isinstance(answer.error, UpstreamError)
    assert says in answer.error.message


# Whole answers


def reply(*output: Any, **fields: Any) -> bytes:
    told = {"id": "resp_1", "object": "response", "status": "completed", "error": None, "output": list(output)}
    return json.dumps({**told, **fields}).encode()


def whole(body: bytes, **request: Any) -> Any:
    answer = ResponsesAnswer(exchange(stream=False, **request), "application/json")
    said = answer.whole(body)
    return json.loads(said) if answer.error is None else answer.error


def test_an_answer_in_one_piece() -> None:
    body = reply(
        reasoning("s", "hm"),
        message("Hi"),
        call("Read", A),
        usage={"input_tokens": 10, "output_tokens": 2},
    )
    said = whole(body, **TOOLS, **THINKING)
    assert said["content"][0].pop("signature").startswith("ccp1.")
    assert said["content"][2].pop("id").startswith("toolu_")
    assert said["content"] == [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "name": "Read", "input": {"a": 1}},
    ]
    assert (said["stop_reason"], said["usage"]["input_tokens"], said["usage"]["output_tokens"]) == ("tool_use", 10, 2)


@pytest.mark.parametrize("before", [b"", b"\n\n ", b"\xef\xbb\xbf"])
def test_json_in_place_of_a_stream_is_told_as_a_stream(before: bytes) -> None:
    events, answer = answered(before + reply(message("Hi")), 5)
    obeys_grammar(events)
    assert blocks(events) == ["Hi"]
    assert answer.complete


@pytest.mark.parametrize(
    "body",
    [
        b"data: " + reply(message("Hi")) + b"\n\n",
        delta("Hi") + END,
        b"\n".join(line.removeprefix(b"data: ") for line in (delta("Hi") + END).split(b"\n") if line[:5] == b"data:"),
        completed(message("Hi")).split(b"data: ")[1],
    ],
)
def test_what_is_said_in_another_form_is_read_all_the_same(body: bytes) -> None:
    assert whole(body)["content"] == [{"type": "text", "text": "Hi"}]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"error":{"message":"boom"}}', UpstreamError),
        (reply(status="failed", error={"code": "rate_limit_exceeded", "message": "x"}), RateLimited),
        (reply(status="failed"), UpstreamError),
        (reply(), BrokenStream),
        (b'{"choices":[]}', BrokenStream),
        (b"[1,2]", BrokenStream),
        (b"", BrokenStream),
    ],
)
def test_a_body_that_is_no_answer_is_an_error(body: bytes, error: type[UpstreamError]) -> None:
    assert type(whole(body)) is error


# Whatever comes

TEXTS = st.sampled_from(["alpha", "é🙂", " ", "\n\n", "", "beta "])
FRAGMENTS = st.sampled_from([A, B, "{}", "", '{"a":', "1}", "}", '"x"', A + B, " ", "["])
PLACES = st.sampled_from([0, 1, 2, None])
IDS = st.sampled_from([None, "x", "y"])
ITEMS = st.one_of(
    st.builds(message, TEXTS),
    st.builds(lambda text, id: message(text, id=id), TEXTS, IDS),
    st.builds(lambda name, text, id: call(name, text, id=id), st.sampled_from(["", "Read", "Bash"]), FRAGMENTS, IDS),
    st.builds(reasoning, st.sampled_from([None, "s"]), TEXTS, TEXTS),
    st.builds(lambda text: {"type": "custom_tool_call", "name": "Read", "input": text}, TEXTS),
    st.sampled_from([{}, {"type": 7}, {"type": "web_search_call"}, {"type": "message", "content": 7}, {"type": "new"}]),
)
EVENTS = st.one_of(
    st.builds(delta, TEXTS, PLACES, IDS),
    st.builds(args, FRAGMENTS, PLACES, IDS),
    st.builds(args_done, FRAGMENTS, PLACES, IDS),
    st.builds(summary, TEXTS, st.integers(0, 2), PLACES),
    st.builds(raw, TEXTS, PLACES),
    st.builds(added, ITEMS, PLACES),
    st.builds(done, ITEMS, PLACES),
    st.sampled_from(
        [event("created"), event("output_item.done", item=7), event("refusal.delta", delta="no"), b": c\n\n"]
    ),
)
ENDINGS = st.one_of(
    st.lists(ITEMS, max_size=4).map(lambda output: completed(*output)),
    st.lists(ITEMS, max_size=4).map(lambda output: incomplete("max_output_tokens", *output)),
    st.sampled_from([b"", b"data: [DONE]\n\n", event("failed")]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, max_size=14), ENDINGS, st.integers(1, 60), st.booleans())
def test_any_sequence_of_events_obeys_the_grammar(events: list[bytes], ending: bytes, size: int, shown: bool) -> None:
    stream = b"".join(events) + ending
    request: Any = {**TOOLS, **(THINKING if shown else {})}
    told, answer = answered(stream, **request)
    assert answer.ended is (answer.error is None)
    obeys_grammar(told, ended=answer.ended)
    assert without_ids(answered(stream, size, **request)[0]) == without_ids(told)


PIECES = {
    "message": ("output_text.delta", {"content_index": 0}),
    "function_call": ("function_call_arguments.delta", {}),
    "reasoning": ("reasoning_summary_text.delta", {"summary_index": 0}),
}
WAYS = ["index and id", "index", "id", "index and ids that change", "order"]


def as_stream(item: Any, at: int, way: str, size: int, skip: int) -> bytes:
    """An item as events, of which one kind may be left out, and each of which says in its way where it belongs."""

    def told(kind: str, **fields: Any) -> bytes:
        id = f"{item['id']}_{next(numbers)}" if "change" in way else item["id"]
        place: Any = {"output_index": at} if "index" in way else {}
        if "item" in fields:
            fields["item"] = {**fields["item"], "id": id if "id" in way else None}
        elif "id" in way:
            place["item_id"] = id
        return event(kind, **place, **fields)

    numbers = itertools.count()
    kind, index = PIECES[item["type"]]
    text = item.get("arguments") or "".join(part["text"] for part in item.get("content") or item.get("summary") or ())
    begun = [told("output_item.added", item={**item, "content": [], "summary": [], "arguments": ""})]
    pieces = [told(kind, **index, delta=text[start : start + size]) for start in range(0, len(text), size)]
    ended = [told("output_item.done", item=item)]
    return b"".join(part for position, parts in enumerate([begun, pieces, ended]) if position != skip for part in parts)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(["Hello there", "x"]).map(message),
            st.builds(call, st.sampled_from(["Read", "Bash"]), st.sampled_from([A, B, "{}", '{"a":"\\"}{"}', A + B])),
            st.builds(reasoning, st.just("s"), st.sampled_from(["", "hm, let me see"])),
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(WAYS),
    st.integers(1, 5),
    st.integers(0, 3),
    st.booleans(),
)
def test_a_stream_folds_to_the_whole_answer(items: list[Any], way: str, size: int, skip: int, repeated: bool) -> None:
    items = [{**item, "id": f"item_{at}"} for at, item in enumerate(items)]
    stream = b"".join(as_stream(item, at, way, size, skip) for at, item in enumerate(items))
    stream += completed(*items if repeated or skip == 2 else ())
    request: Any = {**TOOLS, **THINKING}
    one, other = whole(reply(*items), **request), whole(stream, **request)
    if skip == 2:  # without its end an item of reasoning has nothing to bring back before what it led to
        assert [block for block in without_ids(other)["content"] if block.get("thinking") != ""] == [
            block for block in without_ids(one)["content"] if block.get("thinking") != ""
        ]
    else:
        assert without_ids(one) == without_ids(other)


def test_blocks_of_a_search_obey_the_order_too() -> None:
    stream = done({"type": "web_search_call", "action": {"queries": ["q"]}}, 0) + delta("x", 1) + END
    events, _ = answered(stream, tools=[tool(), SEARCH], options={"web_search": "native"})
    order = [(told["type"], told["index"]) for told in events if "index" in told]
    assert order == [
        ("content_block_start", 0),
        ("content_block_delta", 0),
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_stop", 1),
        ("content_block_start", 2),
        ("content_block_delta", 2),
        ("content_block_stop", 2),
    ]
