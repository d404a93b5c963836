"""The pass-through: bytes stay bytes, and the bill is read on the side."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.dialects.anthropic import PassThrough, RecentIds, encode, refusal, usage_of
from providers.dialects.dialect import Exchange
from providers.errors import AccountRefused, Overloaded, RateLimited, Refused
from providers.events import fold
from providers.messages import Limits, read_request
from providers.routing import Endpoint
from providers.state import State, seal
from providers.usage import Usage

SECRET = b"secret"


def exchange(body: bytes | None = None, model: str = "claude-a", headers: dict[str, str] | None = None) -> Exchange:
    body = body or b'{"model":"claude-a","max_tokens":5,"stream":true,"messages":[{"role":"user","content":"hi"}]}'
    return Exchange(
        request=read_request(body, Limits())[0],
        body=body,
        headers=headers or {},
        query="beta=true",
        endpoint=Endpoint(1, "vendor", "anthropic", "https://api.anthropic.com"),
        model=model,
        request_id="req_1",
        key_id="1",
        secret=SECRET,
    )


def sse(*events: dict[str, Any], end: str = "\n") -> bytes:
    lines = [f"event: {event['type']}{end}data: {json.dumps(event)}{end}{end}" for event in events]
    return "".join(lines).encode()


def start(message_id: str = "msg_1", **usage: Any) -> dict[str, Any]:
    message = {"id": message_id, "type": "message", "role": "assistant", "model": "up", "content": [], "usage": usage}
    return {"type": "message_start", "message": message}


OPEN = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
TEXT = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Grüße"}}
CLOSE = {"type": "content_block_stop", "index": 0}
DELTA = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}}
STOP = {"type": "message_stop"}


def answer(model: str = "claude-a") -> PassThrough:
    return PassThrough(exchange(model=model), "text/event-stream")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_an_answer_passes_to_the_byte(end: str) -> None:
    stream = sse(start(f"msg_{end!r}", input_tokens=3), OPEN, TEXT, CLOSE, DELTA, STOP, end=end)
    machine = answer()
    assert machine.feed(stream) == stream
    assert machine.finish() == b""
    assert machine.usage == Usage(input=3, output=9)
    assert (machine.stop_reason, machine.ended, machine.complete, machine.error) == ("end_turn", True, True, None)


@pytest.mark.parametrize(
    "written",
    [
        (b"event: ", b"event:"),
        (b"data: ", b"data:"),
        (b"data: ", b"id: 7\ndata: "),
        (b"data: ", b": data: {}\ndata: "),
        (b'"index"', b'\ndata: "index"'),
        (b"event: content_block_delta\n", b""),
        (b"\n\n", b"\n\n\n"),
        (b"\n\n", b"\n\n: a comment\n\n"),
        ("Gr\u00fc\u00dfe".encode(), b"Gr\xff\xfee"),
    ],
    ids=[
        "no blank",
        "no blank in data",
        "id",
        "comment in an event",
        "two lines",
        "no name",
        "blanks",
        "comment",
        "bad",
    ],
)
def test_whatever_the_form_of_an_event_it_passes_and_is_read(written: tuple[bytes, bytes]) -> None:
    usual = sse(start(f"msg_{written[1].hex()}", input_tokens=3), OPEN, TEXT, CLOSE, DELTA, STOP)
    usual = usual.replace(b"\\u00fc", "\u00fc".encode()).replace(b"\\u00df", "\u00df".encode())
    stream = usual.replace(*written)
    assert stream != usual
    machine = answer()
    assert machine.feed(stream) == stream.removesuffix(b": a comment\n\n")  # what follows the end is nobody's business
    assert (machine.usage, machine.output_characters, machine.output_sample[:2]) == (Usage(input=3, output=9), 5, "Gr")


@given(st.lists(st.integers(0, 700), max_size=12), st.integers())
def test_any_split_gives_the_same_bytes(cuts: list[int], unique: int) -> None:
    odd = {"type": "event_of_next_year", "x": "ä"}
    stream = b": hello\n\n" + sse(start(f"msg_split_{unique}"), odd, OPEN, TEXT, CLOSE, DELTA, STOP)
    machine = answer()
    edges = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    pieces = [machine.feed(stream[a:b]) for a, b in pairwise(edges)]
    assert b"".join(pieces).replace(machine.message_id.encode(), b"ID") == stream.replace(
        f"msg_split_{unique}".encode(), b"ID"
    )


def test_nothing_leaves_before_the_first_content() -> None:
    machine = answer()
    assert machine.feed(sse(start("msg_wait"))) == b""
    assert not machine.began
    assert b"msg_wait" in machine.feed(sse(OPEN))
    assert machine.began


def test_the_ending_is_known_before_any_of_it_leaves() -> None:
    machine = answer()
    machine.feed(sse(start("msg_e"), OPEN, TEXT, CLOSE))
    ending = sse(DELTA, STOP)
    for position in range(1, len(ending)):
        out = machine.feed(ending[position - 1 : position])
        assert machine.ended or b"message_delta" not in out


def test_the_client_sees_the_name_it_asked_for() -> None:
    machine = answer(model="up")
    out = machine.feed(sse(start("msg_name"), OPEN))
    assert b'"model":"claude-a"' in out.replace(b": ", b":")
    assert b"msg_name" in out


def test_a_repeated_message_id_is_replaced() -> None:
    first, second = answer(), answer()
    first.feed(sse(start("msg_same"), OPEN))
    out = second.feed(sse(start("msg_same"), OPEN))
    assert b"msg_same" not in out
    assert second.message_id.startswith("msg_")
    assert second.upstream_id == "msg_same"


def test_ids_are_remembered_for_so_many_answers() -> None:
    recent = RecentIds(2)
    assert [recent.is_fresh(each) for each in ("a", "a", "b", "c", "a", "", None)] == [
        True,
        False,
        True,
        True,
        True,
        False,
        False,
    ]


def test_a_stream_without_its_end_is_cut() -> None:
    machine = answer()
    machine.feed(sse(start("msg_cut"), OPEN, TEXT))
    assert machine.finish() == b""
    assert machine.error is not None
    assert machine.output_characters == len("Grüße")


def test_a_finished_answer_gets_the_stop_it_lacks() -> None:
    machine = answer()
    out = machine.feed(sse(start("msg_lack"), OPEN, TEXT, CLOSE)) + machine.feed(sse(DELTA))
    assert b"message_delta" not in out
    assert machine.finishing
    assert machine.finish() == sse(DELTA) + b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    assert machine.error is None


@pytest.mark.parametrize(
    "ending",
    [
        [DELTA, {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 500}}, STOP],
        [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, {**STOP, "usage": {"output_tokens": 500}}],
    ],
    ids=["in a later delta", "in the stop"],
)
def test_usage_that_comes_after_the_stop_reason_is_the_one_that_is_settled(ending: list[dict[str, Any]]) -> None:
    machine = answer()
    machine.feed(sse(start(f"msg_{len(ending)}", input_tokens=3, output_tokens=1), OPEN, TEXT, CLOSE))
    for event in ending:
        before = machine.ended
        out = machine.feed(sse(event))
        assert machine.ended or b"stop_reason" not in out
        assert not before
    assert machine.usage == Usage(input=3, output=500)
    assert machine.output_is_told


def test_the_first_guess_of_the_output_is_no_bill() -> None:
    machine = answer()
    bare = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    machine.feed(sse(start("msg_guess", input_tokens=3, output_tokens=1), OPEN, TEXT, CLOSE, bare, STOP))
    assert machine.complete
    assert not machine.output_is_told


@pytest.mark.parametrize("usage", [[1], "x", {"output_tokens": int("9" * 400)}])
def test_an_odd_usage_hides_no_ending(usage: Any) -> None:
    machine = answer()
    odd = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}
    out = machine.feed(sse(start(f"msg_odd{usage!r:.9}"), OPEN, TEXT, CLOSE)) + machine.feed(sse(odd))
    assert b'stop_reason": "end_turn' not in out
    assert machine.stop_reason == "end_turn"


def test_what_comes_after_the_end_is_not_read() -> None:
    machine = answer()
    late = {"type": "error", "error": {"type": "api_error", "message": "late"}}
    machine.feed(sse(start("msg_late"), OPEN, TEXT, CLOSE, DELTA, STOP, late))
    assert machine.complete
    assert machine.error is None


def test_a_complete_reply_where_a_stream_was_asked_for_becomes_one() -> None:
    content = [{"type": "text", "text": "hi"}, {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"a": 1}}]
    reply = {"id": "msg_doc", "content": content, "stop_reason": "tool_use", "usage": {"input_tokens": 3}}
    machine = answer()
    out = machine.feed(json.dumps(reply).encode()) + machine.finish()
    told = fold(out)
    assert [block["type"] for block in told["content"]] == ["text", "tool_use"]
    assert told["content"][1]["input"] == {"a": 1}
    assert (machine.complete, machine.usage) == (True, Usage(input=3))


def test_headers_that_no_header_can_hold_are_left_out() -> None:
    sent = encode(
        exchange(headers={"user-agent": "Gr\u00fc\u00dfe", "anthropic-beta": "a\x01b", "x-app": "cli"})
    ).headers
    assert "user-agent" not in sent
    assert "anthropic-beta" not in sent
    assert sent["x-app"] == "cli"


@pytest.mark.parametrize(
    "body",
    [
        b"<html>bad gateway</html>",
        b"",
        b'{"error":"slow"}',
        b'{"type":"error","error":{"message":"slow"}}',
        b'{"type":"error","error":{"type":null,"message":"slow"}}',
        b'{"type":"error","error":{"type":"api_error","message":" "}}',
        b'{"type":"error","error":{"type":"api_error","message":"at http://10.0.0.5:99 with sk-ant-canary123456"}}',
    ],
)
def test_what_is_no_envelope_or_tells_a_secret_does_not_go_back(body: bytes) -> None:
    error = refusal(exchange(), 502, {}, body)
    assert error.original is None
    assert "sk-ant-canary" not in error.message
    assert "10.0.0.5" not in error.message


def test_a_last_event_without_its_blank_line_counts() -> None:
    machine = answer()
    machine.feed(sse(start("msg_last"), OPEN, TEXT, CLOSE, DELTA))
    assert b"message_stop" in machine.feed(sse(STOP)[:-1]) + machine.finish()
    assert machine.complete


def test_an_error_before_content_is_for_the_next_candidate() -> None:
    machine = answer()
    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    assert machine.feed(sse(start("msg_err"), overloaded)) == b""
    assert isinstance(machine.error, Overloaded)
    assert not machine.began


def test_an_error_after_content_keeps_what_came_before_it() -> None:
    machine = answer()
    out = machine.feed(
        sse(start("msg_err2"), OPEN, TEXT, {"type": "error", "error": {"type": "api_error", "message": "x"}})
    )
    assert "Grüße".encode("unicode_escape") in out or "Grüße".encode() in out or b"Gr\\u00fc" in out
    assert b"event: error" not in out
    assert machine.error is not None


@pytest.mark.parametrize("body", [b"<html>sign in</html>", b'{"type":"message"}', b"  {}", b"[" * 200_000])
def test_what_is_no_event_stream_is_a_failure(body: bytes) -> None:
    machine = answer()
    machine.feed(body)
    machine.finish()
    assert machine.error is not None
    assert not machine.began


def test_garbage_in_an_event_disturbs_nothing() -> None:
    stream = sse(start("msg_garb"), OPEN) + b"event: content_block_delta\ndata: {broken\n\n" + sse(CLOSE, DELTA, STOP)
    machine = answer()
    assert machine.feed(stream) == stream
    assert machine.error is None


def test_a_plain_reply_passes_to_the_byte() -> None:
    reply = b'{ "id":"msg_plain", "content":[{"type":"text","text":"hi"}], "stop_reason":"end_turn", "x": 1.0,'
    reply += b'"model":"up", "usage":{"input_tokens":3,"output_tokens":4}}'
    machine = answer()
    assert machine.whole(reply) == reply
    assert machine.usage == Usage(input=3, output=4)
    renamed = answer(model="up")
    assert renamed.whole(reply.replace(b"msg_plain", b"msg_plain2")) == reply.replace(
        b"msg_plain", b"msg_plain2"
    ).replace(b'"model":"up"', b'"model":"claude-a"')


def test_only_the_model_changes_on_the_way_up() -> None:
    body = b'{"x":1.0, "model":"claude-a","max_tokens":5,"messages":[{"role":"user","content":"\\u00e9"}]}'
    assert encode(exchange(body)).body == body
    assert encode(exchange(body, model="up")).body == body.replace(b"claude-a", b"up")
    assert encode(exchange(body)).path == "/messages?beta=true"


def test_our_own_thinking_never_reaches_an_anthropic_upstream() -> None:
    ours = {"type": "thinking", "thinking": "", "signature": seal(State(), SECRET)}
    theirs = {"type": "thinking", "thinking": "hm", "signature": "Eabc"}
    text = {"type": "text", "text": "ccp1. is only text here"}
    request = {
        "model": "claude-a",
        "max_tokens": 5,
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [ours]},
            {"role": "assistant", "content": [ours, theirs, text]},
        ],
    }
    body = json.dumps(request).encode()
    escaped = body.replace(b'"ccp1.', b'"\\u0063cp1.')
    assert escaped != body
    assert json.loads(encode(exchange(escaped)).body) == json.loads(encode(exchange(body)).body)
    sent = json.loads(encode(exchange(body)).body)
    assert sent["messages"] == [request["messages"][0], {"role": "assistant", "content": [theirs, text]}]  # type: ignore[index]


def test_headers_that_are_the_client_s_business_go_on_and_no_others() -> None:
    headers = {
        "anthropic-beta": "a,b",
        "x-claude-code-session-id": "s",
        "user-agent": "claude-cli",
        "x-api-key": "ccp_ours",
        "authorization": "Bearer ccp_ours",
        "cookie": "c",
        "x-forwarded-for": "1.2.3.4",
        "host": "gateway",
    }
    sent = dict(encode(exchange(headers=headers)).headers)
    assert sent == {
        "anthropic-beta": "a,b",
        "x-claude-code-session-id": "s",
        "user-agent": "claude-cli",
        "anthropic-version": "2023-06-01",
        "content-type": "application/json",
    }


@pytest.mark.parametrize(
    ("reported", "usage"),
    [
        ({"input_tokens": 5, "output_tokens": 2}, Usage(input=5, output=2)),
        ({"input_tokens": 5, "cache_read_input_tokens": 7, "cache_creation_input_tokens": 9}, Usage(5, 7, 9)),
        (
            {
                "cache_creation_input_tokens": 9,
                "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 5},
            },
            Usage(0, 0, 4, 5),
        ),
        ({"cache_creation": {"ephemeral_1h_input_tokens": 5}}, Usage(0, 0, 0, 5)),
        ({"input_tokens": -5, "output_tokens": "12"}, Usage(output=12)),
        ({"input_tokens": None, "output_tokens": 10**30}, Usage(output=2**53)),
        ({"server_tool_use": {"web_search_requests": 3}}, Usage(web_searches=3)),
    ],
)
def test_usage_is_read_into_disjoint_parts(reported: dict[str, Any], usage: Usage) -> None:
    assert usage_of(reported) == usage


@pytest.mark.parametrize(
    ("status", "kind", "expected", "verbatim"),
    [
        (400, "invalid_request_error", Refused, True),
        (401, "authentication_error", AccountRefused, False),
        (429, "rate_limit_error", RateLimited, True),
        (529, "overloaded_error", Overloaded, True),
    ],
)
def test_refusals_go_back_byte_for_byte_unless_they_are_our_account_s(
    status: int, kind: str, expected: type, verbatim: bool
) -> None:
    body = msgspec.json.encode({"type": "error", "error": {"type": kind, "message": "as they said it"}})
    error = refusal(exchange(), status, {"content-type": "application/json"}, body)
    assert isinstance(error, expected)
    assert (error.original is not None) == verbatim
    if error.original:
        assert error.original[2] == body
