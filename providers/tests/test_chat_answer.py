from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from providers.dialects import Answer
from providers.dialects.arguments import Arguments, mended, repaired
from providers.dialects.chat import STOP_REASONS, ChatAnswer, usage_of
from providers.dialects.foreign import stop_reason
from providers.dialects.names import ToolNames
from providers.dialects.think_tags import ThinkTags
from providers.errors import AccountRefused, BrokenStream, Overloaded, RateLimited, Refused, UpstreamError
from providers.state import unseal
from providers.tests.exchanges import (
    DONE,
    SECRET,
    STREAMS,
    answered,
    blocks,
    call,
    chunk,
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
STOP = chunk(finish="stop") + DONE
CALLED = chunk(finish="tool_calls") + DONE


def recorded(name: str, **request: Any) -> tuple[list[Any], Answer]:
    return answered((STREAMS / f"{name}.sse").read_bytes(), **{**TOOLS, **request})


def content(*stream: bytes, **request: Any) -> list[Any]:
    events, answer = answered(b"".join(stream), **{**TOOLS, **request})
    assert answer.error is None
    obeys_grammar(events)
    return blocks(events)


def failure(stream: bytes, **request: Any) -> UpstreamError:
    events, answer = answered(stream, **request)
    obeys_grammar(events, ended=False)
    assert answer.error is not None
    assert not answer.ended
    return answer.error


# Whole streams


RECORDED: list[tuple[str, dict[str, Any], list[Any], str, Usage | None]] = [
    ("openai_text", {}, ["Hello wörld 🙂!"], "end_turn", Usage(input=12, output=5)),
    (
        "openai_parallel_interleaved",
        {},
        ["I'll look.", ("Read", '{"path":"x"}'), ("Bash", '{"command":"ls"}')],
        "tool_use",
        Usage(input=40, cache_read=60, output=20),
    ),
    ("azure_filters_first", {}, ["Hi"], "end_turn", Usage(input=9, output=1)),
    (
        "deepseek_reasoning",
        THINKING,
        [("hm ok",), "Hi"],
        "end_turn",
        Usage(input=10, cache_read=20, output=8, thinking=6),
    ),
    (
        "openrouter_reasoning_details",
        {**THINKING, "options": {"dialect": "openrouter"}},
        [("Let me see",), ("Read", '{"path": "x"}')],
        "tool_use",
        Usage(input=40, cache_read=10, output=25),
    ),
    ("qwen_blank_repeats", {}, [("Read", '{"path": "x"}')], "tool_use", Usage(input=10, output=5)),
    (
        "gemini_all_index_zero",
        {"options": {"dialect": "gemini"}},
        [("Read", '{"path":"a"}'), ("Read", '{"path":"b"}'), ("Bash", '{"command":"ls"}')],
        "tool_use",
        Usage(input=10, output=30),
    ),
    ("run_together", {}, [("Read", '{"path":"a"}'), ("Read", '{"path":"b"}')], "tool_use", None),
    ("mistral_parts", THINKING, [("hm",), "Hi!"], "model_context_window_exceeded", Usage(input=5, output=2)),
    ("vllm_one_newline", {}, ["ab"], "end_turn", Usage(input=5, output=2)),
    ("groq_usage_apart", THINKING, [("hm",), "Hi"], "end_turn", Usage(input=7, output=3)),
    ("kimi_usage_in_choice", {}, ["Hi"], "end_turn", Usage(input=5, cache_read=15, output=2)),
    ("ollama_whole_call", {}, [("Read", '{"path":"x"}')], "tool_use", None),
]


@pytest.mark.parametrize(
    ("name", "request_fields", "said", "stopped", "usage"), RECORDED, ids=lambda value: str(value)[:30]
)
def test_recorded_streams(name: str, request_fields: Any, said: list[Any], stopped: str, usage: Usage | None) -> None:
    events, answer = recorded(name, **request_fields)
    obeys_grammar(events)
    assert blocks(events) == said
    assert stop(events) == answer.stop_reason == stopped
    assert answer.usage == usage
    assert answer.ended
    assert answer.complete
    assert answer.error is None


@pytest.mark.parametrize("name", sorted(path.stem for path in STREAMS.glob("*.sse")))
@pytest.mark.parametrize("size", [1, 7, 64])
def test_any_split_of_the_bytes_gives_the_same_events(name: str, size: int) -> None:
    is_the_same_in_pieces((STREAMS / f"{name}.sse").read_bytes(), size, **TOOLS, **THINKING)


def test_the_worked_example_event_by_event() -> None:
    events, _ = recorded("openai_parallel_interleaved")
    assert [
        (
            event["type"],
            event["index"],
            event.get("delta", {}).get("text") or event.get("delta", {}).get("partial_json"),
        )
        for event in events[1:-2]
    ] == [
        ("content_block_start", 0, None),
        ("content_block_delta", 0, "I'll look."),
        ("content_block_stop", 0, None),
        ("content_block_start", 1, None),
        ("content_block_delta", 1, '{"path":"x"'),
        ("content_block_delta", 1, "}"),
        ("content_block_stop", 1, None),
        ("content_block_start", 2, None),
        ("content_block_delta", 2, '{"command":"ls"}'),
        ("content_block_stop", 2, None),
    ]
    assert events[-2]["usage"] == {
        "input_tokens": 40,
        "cache_read_input_tokens": 60,
        "cache_creation_input_tokens": 0,
        "output_tokens": 20,
    }


def test_ids_are_ours_and_new_every_time() -> None:
    ids = set()
    for _ in range(2):
        events, answer = recorded("openai_parallel_interleaved")
        assert events[0]["message"]["id"] == answer.message_id
        assert answer.upstream_id == "chatcmpl-Bx1"
        started = [event["content_block"] for event in events if event["type"] == "content_block_start"]
        ids |= {answer.message_id, started[1]["id"], started[2]["id"]}
    assert len(ids) == 6
    assert all(name.startswith(("msg_", "toolu_")) for name in ids)


def test_the_answer_carries_the_name_the_client_asked_for() -> None:
    events, _ = recorded("openai_text", model="claude-opus-5-5")
    assert events[0]["message"]["model"] == "claude-opus-5-5"


def test_text_leaves_as_it_comes() -> None:
    answer = ChatAnswer(exchange(), "text/event-stream")
    steps: list[tuple[bytes, list[Any], tuple[bool, ...]]] = [
        (chunk({"role": "assistant", "content": ""}), [], (False, False, False)),
        (chunk({"content": "Hel"}), ["message_start", "Hel"], (True, False, False)),
        (chunk({"content": "lo"}), ["lo"], (True, False, False)),
        (chunk(finish="stop"), [], (True, True, False)),
        (DONE, ["message_delta", "message_stop"], (True, True, True)),
        (chunk({"content": "late"}), [], (True, True, True)),
    ]
    for data, left, (began, finishing, ended) in steps:
        events = payloads(answer.feed(data))
        said = [event.get("delta", {}).get("text") or event["type"] for event in events]
        assert [word for word in said if not word.startswith("content_block")] == left
        assert (answer.began, answer.finishing, answer.ended, answer.complete) == (began, finishing, ended, ended)
    assert answer.finish() == b""


# Thinking


def test_thinking_that_is_not_to_be_shown_is_still_a_signed_block() -> None:
    events, _ = recorded("deepseek_reasoning", **OMITTED)
    obeys_grammar(events)
    assert blocks(events) == [("",), "Hi"]
    deltas = [event["delta"]["type"] for event in events if event["type"] == "content_block_delta"]
    assert deltas == ["signature_delta", "text_delta"]


def test_the_signature_brings_the_reasoning_back() -> None:
    events, _ = recorded("deepseek_reasoning", **OMITTED, options={"dialect": "deepseek"})
    state = unseal(_signature(events), SECRET)
    assert state is not None
    assert (state.dialect, state.family, state.model, state.reasoning) == (
        "openai",
        "deepseek",
        "upstream-model",
        "hm ok",
    )


ENCRYPTED: Any = {"reasoning_details": [{"type": "reasoning.encrypted", "data": "abc", "index": 0}]}


@pytest.mark.parametrize(
    ("deltas", "said"),
    [
        ([{"content": "x"}, ENCRYPTED], ["x"]),
        ([{"content": "x"}, ENCRYPTED, {"content": "y"}], ["xy"]),
        ([{"content": "x"}, ENCRYPTED, call(0, "{}", "Read")], ["x", ("",), ("Read", "{}")]),
        ([call(0, "{}", "Read"), {"content": "x"}, ENCRYPTED], [("Read", "{}"), "x", ("",)]),
        ([ENCRYPTED, {"content": "x"}], [("",), "x"]),
        ([ENCRYPTED], [("",), "(The model returned no text.)"]),
    ],
)
def test_a_block_without_text_never_hides_the_text_before_it(deltas: list[Any], said: list[Any]) -> None:
    assert content(*map(chunk, deltas), STOP, **TOOLS, **THINKING, options={"dialect": "openrouter"}) == said


def test_reasoning_details_are_put_together_for_the_way_back() -> None:
    events, _ = recorded("openrouter_reasoning_details", **OMITTED, options={"dialect": "openrouter"})
    state = unseal(_signature(events), SECRET)
    assert state is not None
    assert state.items == [
        {
            "type": "reasoning.text",
            "text": "Let me see",
            "index": 0,
            "format": "anthropic-claude-v1",
            "signature": "EqoB",
        }
    ]


def _signature(events: list[Any]) -> str:
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    return str(next(delta["signature"] for delta in deltas if delta["type"] == "signature_delta"))


@pytest.mark.parametrize(
    ("request_fields", "said"),
    [
        (THINKING, [("hm ok",), "Hi"]),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024, "display": "summarized"}}, [("hm ok",), "Hi"]),
        ({**THINKING, "options": {"thinking": "hide"}}, [("",), "Hi"]),
        ({}, ["Hi"]),
        ({"thinking": {"type": "disabled"}}, ["Hi"]),
        ({"options": {"dialect": "deepseek"}}, [("",), "Hi"]),
        ({"options": {"dialect": "deepseek"}, "tools": []}, ["Hi"]),
    ],
)
def test_who_sees_thinking(request_fields: Any, said: list[Any]) -> None:
    assert blocks(recorded("deepseek_reasoning", **request_fields)[0]) == said


def test_thinking_may_come_between_texts_and_calls() -> None:
    stream = [
        chunk({"reasoning": "a"}),
        chunk({"content": "b"}),
        chunk({"reasoning_content": "c"}),
        chunk(call(0, '{"x":1}', "Read")),
        chunk({"reasoning_content": "d"}),
        chunk({"content": "e"}),
        STOP,
    ]
    assert content(*stream, **THINKING) == [("a",), "b", ("c",), ("Read", '{"x":1}'), ("d",), "e"]


def test_the_same_reasoning_told_twice_is_shown_once() -> None:
    details = [{"type": "reasoning.text", "text": "hm", "index": 0}]
    assert content(
        chunk({"reasoning": "hm", "reasoning_details": details}), chunk({"content": "x"}), STOP, **THINKING
    ) == [
        ("hm",),
        "x",
    ]


@pytest.mark.parametrize(
    ("mode", "text", "said"),
    [
        ("tags", "<think>hm</think>\n\nHi", [("hm",), "Hi"]),
        ("tags", "\n<think>\nhm</think>Hi", [("hm",), "Hi"]),
        ("tags", "Hi <think>x</think>", ["Hi <think>x</think>"]),
        ("tags", "<think>a < b </ c</think>Hi<think>", [("a < b </ c",), "Hi<think>"]),
        ("open", "hm</think>Hi", [("hm",), "Hi"]),
        ("no", "<think>hm</think>Hi", ["<think>hm</think>Hi"]),
        ("tags", "<thin", ["<thin"]),
    ],
)
def test_think_tags_at_the_start_are_reasoning_wherever_they_are_split(mode: str, text: str, said: list[Any]) -> None:
    options = {"think_tags": mode}
    for size in (1, 3, 100):
        pieces = [chunk({"content": text[at : at + size]}) for at in range(0, len(text), size)]
        assert content(*pieces, STOP, **THINKING, options=options) == said


def test_an_end_tag_that_never_comes_loses_nothing() -> None:
    tags = ThinkTags(opened=True)
    assert [*tags.split("abc</th"), *tags.flush()] == [("thinking", "abc"), ("thinking", "</th")]


# Text


@pytest.mark.parametrize(
    ("deltas", "said"),
    [
        ([{"content": "\n\n"}, {"content": "Hi"}], ["\n\nHi"]),
        ([{"content": "\n\n"}, call(0, "{}", "Read")], [("Read", "{}")]),
        ([{"content": "Hi"}, {"content": "\n"}, {"content": "you"}], ["Hi\nyou"]),
        (
            [call(0, '{"a":1}', "Read"), {"content": "\n"}, call(1, '{"b":1}', "Read")],
            [("Read", '{"a":1}'), ("Read", '{"b":1}')],
        ),
        ([call(0, '{"a":1}', "Read"), {"content": "\n"}, {"content": "Hi"}], [("Read", '{"a":1}'), "\nHi"]),
        (
            [call(0, '{"a":', "Read"), {"content": "Hi"}, call(0, "1}"), {"content": "!"}],
            [("Read", '{"a":1}'), "Hi!"],
        ),
        ([{"content": "Hi", "tool_calls": []}], ["Hi"]),
        ([{"content": None}, {"content": "Hi"}, {}], ["Hi"]),
        ([{"content": "Hi", **call(0, "{}", "Read")}], ["Hi", ("Read", "{}")]),
        ([{"reasoning_content": None, "content": [{"type": "text", "text": "Hi"}]}], ["Hi"]),
    ],
)
def test_text_and_calls_stand_where_they_belong(deltas: list[Any], said: list[Any]) -> None:
    assert content(*map(chunk, deltas), STOP) == said


def test_a_refusal_is_said_and_named() -> None:
    events, _ = answered(chunk({"refusal": "I can't."}) + STOP)
    assert blocks(events) == ["I can't."]
    assert events[-2]["delta"] == {
        "stop_reason": "refusal",
        "stop_sequence": None,
        "stop_details": {"type": "refusal", "category": None, "explanation": None},
    }
    assert (
        stop(answered(chunk({"refusal": "No."}) + STOP, options={"refusal_stop_reason": "end_turn"})[0]) == "end_turn"
    )


def test_half_an_emoji_does_not_break_the_stream() -> None:
    broken = b'data: {"choices":[{"index":0,"delta":{"content":"a\\ud83d"}}]}\n\n'
    assert content(broken, chunk({"content": "b"}), STOP) == ["a\ufffdb"]


# Calls

A, B = '{"a":1}', '{"b":2}'

CALLS: list[tuple[str, list[Any], list[Any]]] = [
    ("by index", [call(0, A, "Read", "x"), call(1, B, "Bash", "y")], [("Read", A), ("Bash", B)]),
    ("fragments", [call(0, "", "Read", "x"), call(0, '{"a"'), call(0, ":1}")], [("Read", A)]),
    (
        "announced together, filled by turns",
        [
            call(0, "", "Read", "x"),
            call(1, "", "Bash", "y"),
            call(0, '{"a":'),
            call(1, '{"b":'),
            call(0, "1}"),
            call(1, "2}"),
        ],
        [("Read", A), ("Bash", B)],
    ),
    ("all numbered 0, with ids", [call(0, A, "Read", "x"), call(0, B, "Bash", "y")], [("Read", A), ("Bash", B)]),
    ("all numbered 0, without ids", [call(0, A, "Read"), call(0, B, "Read")], [("Read", A), ("Read", B)]),
    ("all numbered 0, the same id", [call(0, A, "Read", "c"), call(0, B, "Bash", "c")], [("Read", A), ("Bash", B)]),
    (
        "all numbered 0, in fragments",
        [call(0, "", "Read"), call(0, A), call(0, "", "Bash"), call(0, B)],
        [("Read", A), ("Bash", B)],
    ),
    (
        "all numbered 0, told apart by id",
        [call(0, '{"a":', "Read", "x"), call(0, '{"b":', "Bash", "y"), call(0, "1}", id="x"), call(0, "2}", id="y")],
        [("Read", A), ("Bash", B)],
    ),
    ("no index, ids", [call(None, A, "Read", "x"), call(None, B, "Bash", "y")], [("Read", A), ("Bash", B)]),
    ("no index, no ids", [call(None, A, "Read"), call(None, B, "Bash")], [("Read", A), ("Bash", B)]),
    ("no index, fragments", [call(None, "", "Read", "x"), call(None, '{"a"'), call(None, ":1}")], [("Read", A)]),
    ("the id late", [call(0, None, "Read"), call(0, A, id="x")], [("Read", A)]),
    ("the name late", [call(0, '{"a"', id="x"), call(0, ":1}", "Read")], [("Read", A)]),
    ("the name again", [call(0, '{"a"', "Read", "x"), call(0, ":1}", "Read", "x")], [("Read", A)]),
    ("id and name again at the end", [call(0, A, "Read", "x"), call(0, "", "Read", "x")], [("Read", A)]),
    ("all of it again", [call(0, A, "Read", "x"), call(0, A, "Read", "x")], [("Read", A)]),
    ("all of it again, spaced", [call(0, A, "Read"), call(0, '{ "a": 1 }', "Read")], [("Read", A)]),
    ("arguments again in fragments", [call(0, A, "Read"), call(0, '{"a"'), call(0, ":1}")], [("Read", A)]),
    ("without arguments", [call(0, "", "Read", "x")], [("Read", "{}")]),
    ("null arguments", [call(0, None, "Read", "x")], [("Read", "{}")]),
    ("object arguments", [call(0, {"a": 1}, "Read", "x")], [("Read", A)]),
    ("a filler before", [call(0, "{}", "Read"), call(0, A)], [("Read", A)]),
    ("a filler before, split", [call(0, "{", "Read"), call(0, "}"), call(0, A)], [("Read", A)]),
    ("two empty calls", [call(0, "{}", "Read"), call(0, "{}", "Bash")], [("Read", "{}"), ("Bash", "{}")]),
    ("run together", [call(0, A + B, "Read")], [("Read", A), ("Read", B)]),
    ("run together thrice", [call(0, A + B + A, "Read")], [("Read", A), ("Read", B), ("Read", A)]),
    ("run together with a repeat", [call(0, A + A + B, "Read")], [("Read", A), ("Read", B)]),
    ("garbage after", [call(0, A + ",,]", "Read")], [("Read", A)]),
    ("white space after", [call(0, A, "Read"), call(0, "\n \n")], [("Read", A)]),
    ("white space before", [call(0, " \n", "Read"), call(0, A)], [("Read", A)]),
    ("a string that holds an object", [call(0, json.dumps(A), "Read")], [("Read", A)]),
    ("null as text", [call(0, "null", "Read")], [("Read", "{}")]),
    ("an empty list", [call(0, "[]", "Read")], [("Read", "{}")]),
    ("an empty string", [call(0, '""', "Read")], [("Read", "{}")]),
    ("braces in strings", [call(0, '{"a":"}{', "Read"), call(0, '\\"}"}')], [("Read", '{"a":"}{\\"}"}')]),
    ("a backslash at the edge", [call(0, '{"a":"\\', "Read"), call(0, '\\"}')], [("Read", '{"a":"\\\\"}')]),
    ("broken", [call(0, "oops", "Read")], [("Read", "oops")]),
    ("nested", [call(0, '{"a":[{"b":', "Read"), call(0, "{}}]}")], [("Read", '{"a":[{"b":{}}]}')]),
    (
        "old form",
        [{"function_call": {"name": "Read", "arguments": '{"a"'}}, {"function_call": {"arguments": ":1}"}}],
        [("Read", A)],
    ),
    ("three at once", [{"tool_calls": [call(n, A, "Read")["tool_calls"][0] for n in range(3)]}], [("Read", A)] * 3),
    ("an unknown tool", [call(0, A, "Nope")], [("Nope", A)]),
    ("another case", [call(0, A, "READ")], [("Read", A)]),
    ("marks of a channel", [call(0, A, "Read<|channel|>commentary")], [("Read", A)]),
    (
        "a name space of the model's",
        [call(0, A, "functions.read"), call(1, A, "default_api:Bash")],
        [("Read", A), ("Bash", A)],
    ),
    ("a name space of somebody's", [call(0, A, "other.Read")], [("other.Read", A)]),
    (
        "numbers for ids",
        [{"tool_calls": [{"index": "0", "id": 5, "function": {"name": "Read", "arguments": A}}]}],
        [("Read", A)],
    ),
    ("an entry that says nothing", [{"tool_calls": [{"index": 0}]}, call(1, A, "Read")], [("Read", A)]),
    (
        "late fragments of a closed call",
        [call(0, A, "Read", "x"), call(1, '{"b":', "Bash", "y"), call(0, "junk"), call(1, "2}")],
        [("Read", A), ("Bash", B)],
    ),
    ("a number for each fragment", [call(0, '{"a"', "Read", "x"), call(1, ":"), call(2, "1}")], [("Read", A)]),
    (
        "a number for each fragment of two calls",
        [call(0, "", "Read", "x"), call(1, A), call(2, "", "Bash", "y"), call(3, '{"b":'), call(4, "2}")],
        [("Read", A), ("Bash", B)],
    ),
    ("a fragment of nobody's", [call(0, A, "Read", "x"), call(1, B)], [("Read", A)]),
    ("snapshots", [call(0, '{"a', "Read"), call(0, '{"a":'), call(0, A)], [("Read", A)]),
    ("snapshots from the brace", [call(0, "{", "Read"), call(0, '{"'), call(0, '{"a'), call(0, A)], [("Read", A)]),
    (
        "snapshots of two calls",
        [call(0, '{"a', "Read", "x"), call(0, A, "Read", "x"), call(1, '{"b"', "Bash", "y"), call(1, B, "Bash", "y")],
        [("Read", A), ("Bash", B)],
    ),
    ("an object like the one around it", [call(0, '{"a":', "Read"), call(0, A + "}")], [("Read", '{"a":{"a":1}}')]),
    ("a key like the text before it", [call(0, '{":', "Read"), call(0, '{":1}')], [("Read", '{":{":1}')]),
]


@pytest.mark.parametrize(("deltas", "said"), [row[1:] for row in CALLS], ids=[row[0] for row in CALLS])
def test_calls_are_told_apart(deltas: list[Any], said: list[Any]) -> None:
    assert content(*map(chunk, deltas), CALLED) == said


def test_a_name_in_pieces_is_put_together_where_the_provider_does_that() -> None:
    deltas = [call(0, None, "Re", "x"), call(0, None, "ad"), call(0, A)]
    assert content(*map(chunk, deltas), CALLED, options={"split_names": True}) == [("Read", A)]


def test_a_call_without_a_name_is_the_only_tool_or_none() -> None:
    nameless = chunk(call(0, A, id="x")) + CALLED
    assert content(nameless, tools=[tool("Read")]) == [("Read", A)]
    assert "empty answer" in failure(nameless, **TOOLS).message


def test_a_shortened_name_comes_back_in_full() -> None:
    full = "mcp__server__" + "x" * 70
    short = ToolNames([full]).sent(full)
    assert content(chunk(call(0, A, short)), CALLED, tools=[tool(full)]) == [(full, A)]


def test_arguments_are_streamed_and_not_held() -> None:
    answer = ChatAnswer(exchange(**TOOLS), "text/event-stream")
    assert blocks(payloads(answer.feed(chunk(call(0, "", "Read", "x"))))) == [("Read", "")]
    for piece in ('{"path":"/a', "/b", "/c"):
        event = payloads(answer.feed(chunk(call(0, piece))))[0]
        assert event["delta"] == {"type": "input_json_delta", "partial_json": piece}


def test_where_arguments_need_repair_they_wait_and_are_mended() -> None:
    glm: Any = {
        "options": {"repair_args": True},
        "tools": [tool("Read", properties={"list": {"type": "array"}, "s": {"type": "string"}})],
    }
    said = content(chunk(call(0, '{"list":"[1,', "Read")), chunk(call(0, '2]","s":"[3]\n"}')), CALLED, **glm)
    assert said == [("Read", '{"list":[1,2],"s":"[3]\\n"}')]


@pytest.mark.parametrize(
    ("text", "schema", "mended_text"),
    [
        ('{"o":"{\\"a\\":1}"}', {"properties": {"o": {"type": "object"}}}, '{"o":{"a":1}}'),
        ('{"o":"no"}', {"properties": {"o": {"type": "object"}}}, '{"o":"no"}'),
        ('{"o":"[1]"}', {"properties": {"o": {"type": "string"}}}, '{"o":"[1]"}'),
        ('{"o":"[1]"}', {}, '{"o":"[1]"}'),
        ('{"o":', {"properties": {}}, '{"o":'),
    ],
)
def test_only_what_the_schema_shows_to_be_wrong_is_mended(text: str, schema: Any, mended_text: str) -> None:
    assert mended(text, schema) == mended_text


JSON_TEXTS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text(), JSON_TEXTS), st.lists(st.integers(0, 200), max_size=8), st.booleans())
def test_arguments_pass_unchanged_however_they_are_cut(value: Any, cuts: list[int], ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    arguments = Arguments()
    left = [arguments.add(text[start:end]) for start, end in pairwise(edges)]
    assert arguments.complete
    assert arguments.spill == ""
    assert "".join(left) + arguments.rest() == text


@given(st.text(alphabet='{}[]":, \\a1', max_size=40), st.integers(0, 40))
def test_even_garbage_for_arguments_is_cut_alike_wherever_it_is_split(text: str, cut: int) -> None:
    assume(not text[:cut] or not text[cut:].startswith(text[:cut]))  # that may be all of it so far
    whole, split = (content_of_call([text]), content_of_call([text[:cut], text[cut:]]))
    assert whole == split


def content_of_call(pieces: list[str]) -> list[Any]:
    return content(chunk(call(0, "", "Read")), *(chunk(call(0, piece)) for piece in pieces), CALLED)


@pytest.mark.parametrize("text", ["", " ", "null", "[]", '""', '"{}"', "{}", " {} "])
def test_nothing_is_an_empty_object(text: str) -> None:
    assert repaired(text) == "{}"


# Stop reasons


@pytest.mark.parametrize(
    ("finish", "without_tool", "with_tool"),
    [
        ("stop", "end_turn", "tool_use"),
        ("eos", "end_turn", "tool_use"),
        ("STOP", "end_turn", "tool_use"),
        ("", "end_turn", "tool_use"),
        ("tool_calls", "end_turn", "tool_use"),
        ("function_call", "end_turn", "tool_use"),
        ("length", "max_tokens", "tool_use"),
        ("MAX_TOKENS", "max_tokens", "tool_use"),
        ("model_length", "model_context_window_exceeded", "model_context_window_exceeded"),
        ("content_filter", "refusal", "refusal"),
        ("SAFETY", "refusal", "refusal"),
        ("sensitive", "refusal", "refusal"),
        ("pause_turn", "pause_turn", "tool_use"),
        ("brand_new", "end_turn", "tool_use"),
    ],
)
def test_finish_reason_becomes_stop_reason(finish: str, without_tool: str, with_tool: str) -> None:
    meaning = STOP_REASONS.get(finish.lower(), "end_turn")
    assert stop_reason(meaning) == without_tool
    assert stop_reason(meaning, tool_used=True) == with_tool


def test_a_call_that_was_cut_by_the_limit_is_no_call_to_run() -> None:
    cut = chunk(call(0, '{"a":', "Read")) + chunk(finish="length") + DONE
    events, _ = answered(cut, **TOOLS)
    assert (blocks(events), stop(events)) == ([("Read", '{"a":')], "max_tokens")
    whole = chunk(call(0, A, "Read")) + chunk(finish="length") + DONE
    assert stop(answered(whole, **TOOLS)[0]) == "tool_use"


@pytest.mark.parametrize("field", ["stop_reason", "matched_stop"])
def test_a_matched_stop_string_is_named(field: str) -> None:
    ending = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", field: "END"}]}
    stream = chunk({"content": "x"}) + b"data: " + json.dumps(ending).encode() + b"\n\n" + DONE
    events, _ = answered(stream, stop_sequences=["END"])
    assert events[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "END"}
    assert stop(answered(stream)[0]) == "end_turn"


@pytest.mark.parametrize(
    ("model", "headers", "told"),
    [
        ("claude-sonnet-5-5", {}, True),
        ("claude-sonnet-4-5", {}, True),
        ("claude-opus-4-1-20250805", {}, False),
        ("gpt-5.1", {}, False),
        ("gpt-5.1", {"anthropic-beta": "a,model-context-window-exceeded-2025-08-26"}, True),
    ],
)
def test_a_full_window_is_told_to_those_who_know_the_word(model: str, headers: Any, told: bool) -> None:
    stream = chunk({"content": "x"}) + chunk(finish="model_length") + DONE
    expected = "model_context_window_exceeded" if told else "max_tokens"
    assert stop(answered(stream, model=model, headers=headers)[0]) == expected


@pytest.mark.parametrize(
    ("finish", "error"),
    [("error", UpstreamError), ("network_error", UpstreamError), ("insufficient_system_resource", Overloaded)],
)
def test_some_reasons_to_finish_are_failures(finish: str, error: type[UpstreamError]) -> None:
    assert type(failure(chunk({"content": "x"}) + chunk(finish=finish) + DONE)) is error


# Usage


@pytest.mark.parametrize(
    ("reported", "usage"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 2}, Usage(input=10, output=2)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage()),
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 9,
                "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
            },
            Usage(input=10, cache_read=60, cache_write_5m=30, output=9),
        ),
        ({"prompt_tokens": 100, "cached_tokens": 60}, Usage(input=40, cache_read=60)),
        ({"prompt_tokens": 100, "prompt_cache_hit_tokens": 60}, Usage(input=40, cache_read=60)),
        ({"prompt_tokens": 100, "cache_creation_input_tokens": 60}, Usage(input=40, cache_write_5m=60)),
        ({"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 60}}, Usage(cache_read=10)),
        ({"prompt_tokens": -5, "completion_tokens": "7"}, Usage(output=7)),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 4}},
            Usage(input=10, output=5, thinking=4),
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 19,
                "completion_tokens_details": {"reasoning_tokens": 4},
            },
            Usage(input=10, output=9, thinking=4),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 99}, Usage(input=10, output=5)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": None}, Usage(input=10, output=5)),
        ({"promptTokenCount": 10, "candidatesTokenCount": 5}, Usage(input=10, output=5)),
    ],
)
def test_usage_is_split_into_disjoint_parts(reported: Any, usage: Usage) -> None:
    assert usage_of(reported) == usage


def test_reasoning_outside_the_completion_is_counted_in() -> None:
    reported = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 99}
    assert usage_of(reported, reasoning_outside=True) == Usage(input=10, output=89)


FIGURES = st.one_of(st.none(), st.integers(-(10**30), 10**30), st.text(max_size=3), st.floats(), st.booleans())
NAMES = [
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cache_write_tokens",
]


@given(
    st.dictionaries(st.sampled_from(NAMES), FIGURES), st.dictionaries(st.sampled_from(NAMES), FIGURES), st.booleans()
)
def test_usage_is_never_negative_and_adds_up_to_the_prompt(outer: Any, inner: Any, outside: bool) -> None:
    reported = {**outer, "prompt_tokens_details": inner, "completion_tokens_details": inner}
    usage = usage_of(reported, reasoning_outside=outside)
    parts = (usage.input, usage.cache_read, usage.cache_write_5m, usage.output, usage.thinking)
    assert min(parts) >= 0
    assert usage.thinking <= usage.output
    assert (
        usage.input + usage.cache_read + usage.cache_write_5m
        == usage_of({**outer}).input + usage_of({**outer}).cache_read
    )


def test_running_totals_replace_each_other() -> None:
    stream = b"".join(
        chunk({"content": "x"}, usage={"prompt_tokens": 5, "completion_tokens": n, "total_tokens": None})
        for n in range(1, 4)
    )
    events, answer = answered(stream + STOP)
    assert answer.usage == Usage(input=5, output=3)
    assert events[-2]["usage"]["output_tokens"] == 3


def test_what_no_upstream_told_is_counted_by_whoever_can() -> None:
    answer = ChatAnswer(exchange(), "text/event-stream")
    answer.count = lambda: Usage(input=7, output=1)
    events = payloads(answer.feed(chunk({"content": "x"}) + STOP))
    assert events[-2]["usage"]["input_tokens"] == 7
    assert answer.usage is None
    assert answered(chunk({"content": "x"}) + STOP)[0][-2]["usage"]["input_tokens"] == 0


def test_output_is_measured_on_the_way() -> None:
    _, answer = answered(chunk({"reasoning": "abc", "content": "de"}) + chunk(call(0, A, "Read")) + CALLED, **TOOLS)
    assert answer.output_characters == 5 + len(A)
    assert answer.output_sample == "abcde" + A
    _, long = answered(chunk({"content": "x" * 5000}) * 4 + STOP)
    assert long.output_characters == 20_000
    assert 8192 <= len(long.output_sample) <= 16_384


# Endings


@pytest.mark.parametrize(
    "stream",
    [
        chunk({"content": "x"}) + chunk(finish="stop"),
        chunk({"content": "x"}) + DONE,
        chunk({"content": "x"}) + b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n',
        chunk({"content": "x"}) + chunk(finish="stop") + b"data:[DONE]",
        b"data:\n\n" * 20 + chunk({"content": "x"}) + STOP,
        chunk({"content": "x"}).rstrip() + STOP,
        chunk({"content": "x"}).rstrip() + chunk(finish="stop")[6:] + DONE,
        chunk({"content": "x"}) + chunk(finish="stop").rstrip() + DONE,
        chunk({"content": "x"}) + STOP + DONE + chunk({"content": "late"}),
    ],
)
def test_a_stream_may_end_in_any_of_these_ways(stream: bytes) -> None:
    events, answer = answered(stream)
    obeys_grammar(events)
    assert (blocks(events), stop(events), answer.error) == (["x"], "end_turn", None)


def test_usage_before_the_text_is_no_end() -> None:
    first = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n'
    assert isinstance(failure(first + chunk({"content": "x"})), BrokenStream)
    assert isinstance(failure(first), BrokenStream)


def test_a_cut_answer_does_not_look_finished() -> None:
    events, answer = recorded("cut_in_text")
    assert [event["type"] for event in events] == ["message_start", "content_block_start", "content_block_delta"]
    assert isinstance(answer.error, BrokenStream)
    assert answer.began
    assert not answer.ended


@pytest.mark.parametrize(
    ("stream", "content_type", "says"),
    [
        (b"", "text/event-stream", "without an answer"),
        (b": only\n\n: comments\n\n", "text/event-stream", "without an answer"),
        (b"<!doctype html><html>", "text/html", "text/html"),
        (b"Service unavailable", "text/plain", "text/plain"),
        (chunk({"content": ""}) + STOP, "text/event-stream", "empty answer"),
        (chunk({"content": " \n"}) + STOP, "text/event-stream", "empty answer"),
        (DONE, "text/event-stream", "empty answer"),
        (chunk({"reasoning": "hm"}) + STOP, "text/event-stream", "empty answer"),
        (b"data: junk\n\n" * 10, "text/event-stream", "cannot be read"),
        (b"{}", "application/json", "neither"),
        (b"[]", "application/json", "application/json"),
        (b'{"choices"', "application/json", "application/json"),
    ],
)
def test_no_answer_is_a_failure_before_anything_has_left(stream: bytes, content_type: str, says: str) -> None:
    answer = ChatAnswer(exchange(), content_type)
    assert answer.feed(stream) + answer.finish() == b""
    assert not answer.began
    assert isinstance(answer.error, UpstreamError)
    assert says in answer.error.message


def test_thinking_alone_gets_a_sentence_beside_it() -> None:
    assert content(chunk({"reasoning": "hm"}), STOP, **THINKING) == [("hm",), "(The model returned no text.)"]
    other = content(chunk({"reasoning": "hm"}), STOP, **THINKING, options={"empty_answer_text": "Nothing."})
    assert other == [("hm",), "Nothing."]


def test_an_empty_answer_at_the_limit_or_to_a_probe_passes() -> None:
    assert content(chunk(finish="length") + DONE) == []
    assert content(STOP, max_tokens=1) == [""]
    assert content(chunk(finish="content_filter") + DONE) == []


def test_bad_chunks_between_good_ones_are_passed_over() -> None:
    junk = b"data: {broken\n\n"
    assert content(*([junk] * 9 + [chunk({"content": "x"})] + [junk] * 9), STOP) == ["x"]


ERRORS: list[tuple[str, Any, type[UpstreamError], str]] = [
    ("object", {"error": {"message": "boom", "type": "server_error"}}, UpstreamError, "boom"),
    ("text", {"error": "boom"}, UpstreamError, "boom"),
    ("code and message", {"code": "InternalError", "message": "boom", "request_id": "r"}, UpstreamError, "boom"),
    ("detail", {"detail": "boom"}, UpstreamError, "boom"),
    ("mistral", {"object": "error", "message": "boom", "type": "x", "code": 500}, UpstreamError, "boom"),
    ("numeric code", {"error": {"code": 429, "message": "slow"}}, RateLimited, "limiting"),
    ("digits", {"error": {"code": "429", "message": "slow"}}, RateLimited, "limiting"),
    ("overload", {"error": {"type": "overloaded_error", "message": "x"}}, Overloaded, "overloaded"),
    (
        "base_resp",
        {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}},
        AccountRefused,
        "no provider",
    ),
    (
        "choice",
        {"choices": [{"index": 0, "error": {"message": "boom"}, "finish_reason": "error"}]},
        UpstreamError,
        "boom",
    ),
    (
        "overflow",
        {
            "error": {
                "code": 400,
                "message": "maximum context length is 1000 tokens. Your messages resulted in 2000 tokens",
            }
        },
        Refused,
        "prompt is too long: 2000 tokens > 1000 maximum",
    ),
]


@pytest.mark.parametrize(("payload", "error", "says"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS])
@pytest.mark.parametrize("before", [b"", chunk({"content": "x"})])
def test_errors_inside_a_stream_are_read(payload: Any, error: type[UpstreamError], says: str, before: bytes) -> None:
    events, answer = answered(before + b"data: " + json.dumps(payload).encode() + b"\n\n")
    assert blocks(events) == (["x"] if before else [])
    assert answer.began is bool(before)
    assert type(answer.error) is error
    assert says in answer.error.message


def test_an_error_event_without_an_error_field_is_one_too() -> None:
    assert "boom" in failure(b'event: error\ndata: {"message":"boom"}\n\n').message


@pytest.mark.parametrize(
    "told", [{}, {"type": "ping"}, {"code": 200, "message": "ok"}, {"code": "Success", "message": "x"}, {"code": "x"}]
)
def test_metadata_is_no_error(told: Any) -> None:
    assert content(b"data: " + json.dumps(told).encode() + b"\n\n", chunk({"content": "x"}), STOP) == ["x"]


@pytest.mark.parametrize("name", ["openrouter_error_in_200", "minimax_base_resp"])
def test_recorded_errors(name: str) -> None:
    events, answer = recorded(name)
    assert events == []
    assert answer.error is not None
    assert not answer.began


# Whole answers


def reply(message: Any, finish: str | None = "stop", **fields: Any) -> bytes:
    return json.dumps(
        {"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": finish}], **fields}
    ).encode()


def whole(body: bytes, **request: Any) -> Any:
    answer = ChatAnswer(exchange(stream=False, **request), "application/json")
    said = answer.whole(body)
    return json.loads(said) if answer.error is None else answer.error


def test_choices_without_numbers_are_one_answer() -> None:
    called = {"tool_calls": [{"id": "c", "type": "function", "function": {"name": "Read", "arguments": A}}]}
    choices = [{"message": {"content": "Hi"}}, {"message": called}, {"index": 1, "message": {"content": "other"}}]
    said = whole(json.dumps({"choices": choices}).encode(), **TOOLS)
    assert [block["type"] for block in said["content"]] == ["text", "tool_use"]
    assert said["stop_reason"] == "tool_use"


def test_an_answer_in_one_piece() -> None:
    message = {
        "role": "assistant",
        "content": "Hi",
        "reasoning_content": "hm",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "Read", "arguments": A}}],
    }
    usage = {"prompt_tokens": 10, "completion_tokens": 2}
    said = whole(reply(message, "tool_calls", usage=usage), **TOOLS, **THINKING)
    assert said["content"][0].pop("signature").startswith("ccp1.")
    assert said["content"][2].pop("id").startswith("toolu_")
    assert said.pop("id").startswith("msg_")
    assert said == {
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5-5",
        "content": [
            {"type": "thinking", "thinking": "hm"},
            {"type": "text", "text": "Hi"},
            {"type": "tool_use", "name": "Read", "input": {"a": 1}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 10,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 2,
        },
    }


def test_broken_arguments_of_a_whole_answer_are_still_an_object() -> None:
    message = {"content": None, "tool_calls": [{"id": "c", "function": {"name": "Read", "arguments": '{"a"'}}]}
    assert whole(reply(message), **TOOLS)["content"][0]["input"] == {"__unparsedToolInput": {"raw": '{"a"', "len": 4}}


@pytest.mark.parametrize("before", [b"", b"\n\n\n ", b"\xef\xbb\xbf"])
def test_json_in_place_of_a_stream_is_told_as_a_stream(before: bytes) -> None:
    events, answer = answered(before + reply({"content": "Hi"}), 5)
    obeys_grammar(events)
    assert blocks(events) == ["Hi"]
    assert answer.complete


def test_lines_of_json_in_place_of_a_stream_are_read() -> None:
    lines = [chunk({"content": "a"}), chunk({"content": "b"}), chunk(finish="stop")]
    assert content(b"\n".join(line.removeprefix(b"data: ").strip() for line in lines)) == ["ab"]


def test_a_stream_in_place_of_a_whole_answer_is_folded() -> None:
    assert whole(chunk({"content": "Hi"}) + STOP)["content"] == [{"type": "text", "text": "Hi"}]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"error":{"message":"boom"}}', UpstreamError),
        (b'{"error":{"message":"x","type":"insufficient_quota"}}', AccountRefused),
        (b"<html>", BrokenStream),
        (b"", BrokenStream),
        (b"[1,2]", BrokenStream),
        (reply({"content": ""}), BrokenStream),
    ],
)
def test_a_body_that_is_no_answer_is_an_error(body: bytes, error: type[UpstreamError]) -> None:
    assert type(whole(body)) is error


# Whatever comes

TEXTS = st.sampled_from(["alpha", "é🙂", " ", "\n\n", "", "beta "])
ARGUMENTS = st.sampled_from(
    [A, B, "{}", "", '{"a":', "1}", "}", '"x"', "null", A + B, " ", "\\", "[", None, {"a": 1}, 7]
)
DELTAS = st.one_of(
    st.builds(lambda text: {"content": text}, TEXTS),
    st.builds(lambda text: {"reasoning_content": text}, TEXTS),
    st.builds(
        call,
        st.sampled_from([0, 1, 2, None, "0"]),
        ARGUMENTS,
        st.sampled_from([None, "", "Read", "Bash"]),
        st.sampled_from([None, "", "x", "y"]),
    ),
    st.sampled_from(
        [{}, {"tool_calls": None}, {"content": [{"type": "text", "text": "p"}]}, {"refusal": "no"}, {"tool_calls": [7]}]
    ),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(DELTAS, max_size=14),
    st.sampled_from([None, "stop", "length", "tool_calls"]),
    st.integers(1, 60),
    st.booleans(),
)
def test_any_sequence_of_chunks_obeys_the_grammar(
    deltas: list[Any], finish: str | None, size: int, shown: bool
) -> None:
    stream = b"".join(map(chunk, deltas)) + (chunk(finish=finish) if finish else b"") + DONE
    request: Any = {**TOOLS, **(THINKING if shown else {})}
    events, answer = answered(stream, **request)
    assert answer.ended is (answer.error is None)
    obeys_grammar(events, ended=answer.ended)
    assert without_ids(answered(stream, size, **request)[0]) == without_ids(events)


CUT = st.integers(1, 5)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["", "Hello there", "\n\n", " x"]),
    st.sampled_from(["", "hm, let me see"]),
    st.lists(
        st.tuples(
            st.sampled_from(["Read", "Bash"]),
            st.sampled_from([A, B, "{}", "", '{"a":"\\"}{"}', A + B, "{}" + A, "null"]),
        )
    ),
    CUT,
)
def test_a_stream_folds_to_the_whole_answer(text: str, thought: str, calls: list[tuple[str, str]], cut: int) -> None:
    entries = [
        {"index": n, "id": f"call_{n}", "function": {"name": name, "arguments": arguments}}
        for n, (name, arguments) in enumerate(calls)
    ]
    body = reply({"content": text, "reasoning_content": thought, "tool_calls": entries})
    stream = [chunk({"reasoning_content": piece}) for piece in _pieces(thought, cut)]
    stream += [chunk({"content": piece}) for piece in _pieces(text, cut)]
    for n, (name, arguments) in enumerate(calls):
        stream.append(chunk(call(n, "", name, f"call_{n}")))
        stream += [chunk(call(n, piece)) for piece in _pieces(arguments, cut)]
    request: Any = {**TOOLS, **THINKING}
    one, other = whole(body, **request), whole(b"".join(stream) + STOP, **request)
    if isinstance(one, UpstreamError):
        assert (type(one), str(one)) == (type(other), str(other))
    else:
        assert without_ids(one) == without_ids(other)


def _pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]
