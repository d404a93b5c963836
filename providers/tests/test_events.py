from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.events import PING, Fold, MessageWriter, WrongOrder, event, fold, parsed_input
from providers.tests.exchanges import obeys_grammar, payloads
from providers.usage import Usage

USAGE = Usage(input=40, cache_read=60, output=20, thinking=5)


def test_a_message_is_started_by_its_first_block_and_told_in_full() -> None:
    writer = MessageWriter("msg_1", "claude-x")
    assert writer.take() == b""
    writer.text("Hi")
    writer.end("end_turn", USAGE)
    events = payloads(writer.take())
    obeys_grammar(events)
    assert events[0]["message"] == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 0,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
        },
    }
    assert events[-2] == {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {
            "input_tokens": 40,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 60,
            "output_tokens": 20,
            "output_tokens_details": {"thinking_tokens": 5},
        },
    }


def test_a_block_of_another_kind_ends_the_one_before() -> None:
    writer = MessageWriter("msg_1", "m")
    writer.thinking("hm")
    writer.sign("ccp1.x")
    writer.text("a")
    writer.tool_use("toolu_1", "Read")
    writer.arguments("{}")
    writer.text("b")
    writer.end("end_turn", Usage())
    events = payloads(writer.take())
    obeys_grammar(events)
    starts = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    assert starts == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": ""},
        {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {}},
        {"type": "text", "text": ""},
    ]


STEPS: dict[str, Any] = {
    "text": lambda writer: writer.text("é"),
    "no text": lambda writer: writer.text(""),
    "thinking": lambda writer: writer.thinking("t"),
    "sign": lambda writer: writer.sign("s"),
    "tool": lambda writer: writer.tool_use("toolu_1", "Read"),
    "arguments": lambda writer: writer.arguments("{}"),
    "no arguments": lambda writer: writer.arguments(""),
    "close": lambda writer: writer.close(),
    "delta": lambda writer: writer.delta({"type": "text_delta", "text": "x"}) if writer.block == "text" else None,
    "end": lambda writer: writer.end("end_turn", Usage()),
}


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=30))
def test_whatever_is_called_the_order_is_right_or_the_call_is_refused(steps: list[str]) -> None:
    writer = MessageWriter("msg_1", "m")
    for step in steps:
        try:
            STEPS[step](writer)
        except WrongOrder:
            continue
    if not writer.ended:
        writer.end("end_turn", Usage())
    obeys_grammar(payloads(writer.take()))


@pytest.mark.parametrize("step", ["text", "thinking", "tool", "end"])
def test_nothing_follows_the_end(step: str) -> None:
    writer = MessageWriter("msg_1", "m")
    writer.end("end_turn", Usage())
    with pytest.raises(WrongOrder):
        STEPS[step](writer)


def test_a_writer_goes_on_where_other_bytes_have_left() -> None:
    writer = MessageWriter("msg_1", "m", started=True, index=3, block="text")
    writer.text("more")
    writer.tool_use("toolu_1", "Read")
    writer.end("tool_use", Usage())
    events = payloads(writer.take())
    assert [(event["type"], event.get("index")) for event in events] == [
        ("content_block_delta", 3),
        ("content_block_stop", 3),
        ("content_block_start", 4),
        ("content_block_stop", 4),
        ("message_delta", None),
        ("message_stop", None),
    ]


def test_the_fold_is_the_reply() -> None:
    writer = MessageWriter("msg_1", "m")
    writer.thinking("hm")
    writer.thinking(" ok")
    writer.sign("ccp1.x")
    writer.text("a")
    writer.text("b")
    writer.tool_use("toolu_1", "Read")
    writer.arguments('{"path":')
    writer.arguments('"x"}')
    writer.end("refusal", USAGE, details={"type": "refusal"})
    assert fold(PING + writer.take()) == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "hm ok", "signature": "ccp1.x"},
            {"type": "text", "text": "ab"},
            {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"path": "x"}},
        ],
        "stop_reason": "refusal",
        "stop_sequence": None,
        "stop_details": {"type": "refusal"},
        "usage": USAGE.wire(),
    }


def test_the_fold_knows_an_error_and_keeps_figures_that_a_later_null_would_wipe() -> None:
    folded = Fold()
    folded.feed(event({"type": "message_start", "message": {"id": "msg_1", "usage": {"input_tokens": 7}}}))
    folded.feed(event({"type": "message_delta", "delta": {}, "usage": {"input_tokens": None, "output_tokens": 2}}))
    folded.feed(event({"type": "error", "error": {"type": "api_error"}}))
    assert folded.reply()["usage"] == {"input_tokens": 7, "output_tokens": 2}
    assert folded.error == {"type": "error", "error": {"type": "api_error"}}


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ('{"a":1}', {"a": 1}),
        ("", {}),
        ('{"a":', {"__unparsedToolInput": {"raw": '{"a":', "len": 5}}),
        ("[1]", {"__unparsedToolInput": {"raw": "[1]", "len": 3}}),
    ],
)
def test_the_input_of_a_reply_is_always_an_object(arguments: str, value: dict[str, Any]) -> None:
    assert parsed_input(arguments) == value
