"""What a provider's options take out of a request to an Anthropic-format upstream, and which headers go with it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from providers.dialects import betas
from providers.dialects.anthropic import encode, refusal
from providers.dialects.anthropic_options import OPTIONS, normalises, option
from providers.dialects.dialect import Exchange
from providers.messages import Limits, read_request
from providers.routing import Endpoint

ASKED: dict[str, Any] = {"model": "claude-a", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}


def exchange(
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    base_url: str = "https://llm.example.com",
    options: dict[str, object] | None = None,
    **fields: Any,
) -> Exchange:
    body = body or json.dumps({**ASKED, **fields}).encode()
    return Exchange(
        request=read_request(body, Limits())[0],
        body=body,
        headers=headers or {},
        query="",
        endpoint=Endpoint(1, "somebody", "anthropic", base_url, options=options or {}),
        model="claude-a",
        request_id="req_1",
        key_id="1",
        secret=b"secret",
    )


def sent(**given: Any) -> dict[str, Any]:
    return dict(json.loads(encode(exchange(**given)).body))


def test_removed_fields_go_and_nothing_else_changes() -> None:
    body = (
        b'{ "model":"claude-a", "top_k" : 5,"max_tokens":5 , "x":1.0,"messages":[{"role":"user","content":"\\u00e9"}]}'
    )
    given = exchange(body, options={"remove_fields": ["top_k", "x", "not_there"]})
    assert encode(given).body == body.replace(b', "top_k" : 5', b"").replace(b' , "x":1.0', b"")
    assert encode(exchange(body)).body == body


@pytest.mark.parametrize("value", ["top_k", 5, None, {"top_k": True}, [5], True])
def test_options_of_an_illegal_type_are_passed_over(value: object) -> None:
    given = exchange(
        top_k=5,
        headers={"anthropic-beta": "a", "user-agent": "cli"},
        options={
            **dict.fromkeys(("remove_fields", "remove_betas"), value),
            **{name: ["no"] for name in ("strip_unsigned_thinking", "oauth", "forward_user_agent")},
        },
    )
    assert encode(given).body == given.body
    assert encode(given).headers["anthropic-beta"] == "a"
    assert encode(given).headers["user-agent"] == "cli"


def test_max_tokens_of_zero_passes() -> None:
    assert sent(max_tokens=0)["max_tokens"] == 0


TOOLS = [{"name": "Read", "input_schema": {"type": "object"}, "defer_loading": True}, {"name": "Bash"}]


@pytest.mark.parametrize(
    ("beta", "fields", "left"),
    [
        ("context-management-2025-06-27", {"context_management": {"edits": []}}, {}),
        ("context-management-2026-12-01", {"context_management": {"edits": []}}, {}),
        ("effort-2025-11-24", {"output_config": {"effort": "low"}}, {}),
        ("effort-2025-11-24", {"output_config": {"format": {}, "effort": "low"}}, {"output_config": {"format": {}}}),
        ("effort-2025-11-24", {"output_config": {"format": {}}}, {"output_config": {"format": {}}}),
        ("effort-2025-11-24", {}, {}),
        (
            "advanced-tool-use-2025-11-20",
            {"tools": TOOLS},
            {"tools": [{"name": "Read", "input_schema": {"type": "object"}}, {"name": "Bash"}]},
        ),
        ("structured-outputs-2025-11-13", {"output_format": {"type": "json_schema"}}, {}),
        ("thinking-token-count-2026-05-13", {"thinking": {"type": "adaptive"}}, {"thinking": {"type": "adaptive"}}),
        ("beta-of-next-year-2027-01-01", {"x": 1}, {"x": 1}),
    ],
)
def test_a_removed_beta_takes_with_it_what_needs_it(beta: str, fields: dict[str, Any], left: dict[str, Any]) -> None:
    options: dict[str, object] = {"remove_betas": [beta]}
    headers = {"anthropic-beta": f"claude-code-20250219, {beta},other"}
    given = exchange(headers=headers, options=options, **fields)
    assert encode(given).headers["anthropic-beta"] == "claude-code-20250219,other"
    assert json.loads(encode(given).body) == {**ASKED, **left}


def test_of_a_beta_that_was_not_sent_nothing_is_removed() -> None:
    options: dict[str, object] = {"remove_betas": ["effort-2025-11-24"]}
    given = exchange(headers={"anthropic-beta": "other"}, options=options, output_config={"effort": "low"})
    assert encode(given).body == given.body


def test_the_last_beta_takes_the_header_with_it() -> None:
    options: dict[str, object] = {"remove_betas": ["a"]}
    assert "anthropic-beta" not in encode(exchange(headers={"anthropic-beta": "a"}, options=options)).headers


@pytest.mark.parametrize("beta", [f"{name}-2025-01-01" for name in betas.PAIRS])
@pytest.mark.parametrize("odd", [5, None, [], {}, "x", [5], [[]]])
def test_odd_values_where_a_beta_s_fields_stand_do_no_harm(beta: str, odd: object) -> None:
    needs = betas.PAIRS[beta.removesuffix("-2025-01-01")]
    names = [*needs.fields, *(["output_config"] if needs.output_config else []), *(["tools"] if needs.tools else [])]
    body = json.dumps({**ASKED, **dict.fromkeys(names, odd)}).encode()
    rest = json.loads(betas.without_what_needs(beta, body))
    assert {name: rest[name] for name in ASKED} == ASKED


@pytest.mark.parametrize(
    ("client", "oauth", "upstream"),
    [
        (None, True, "oauth-2025-04-20"),
        ("a,b", True, "a,b,oauth-2025-04-20"),
        ("oauth-2025-04-20, b", True, "oauth-2025-04-20, b"),
        ("a, b", False, "a, b"),
    ],
)
def test_oauth_is_said_in_the_betas(client: str | None, oauth: bool, upstream: str) -> None:
    headers = {"anthropic-beta": client} if client else {}
    assert encode(exchange(headers=headers, options={"oauth": oauth})).headers["anthropic-beta"] == upstream


SIGNED = {"type": "thinking", "thinking": "a", "signature": "Eabc"}
UNSIGNED = {"type": "thinking", "thinking": "b"}
BLANK = {"type": "thinking", "thinking": "c", "signature": ""}
TEXT = {"type": "text", "text": "d"}


def test_unsigned_thinking_is_left_out_where_that_is_wanted() -> None:
    user, assistant = {"role": "user", "content": "hi"}, {"role": "assistant", "content": [UNSIGNED]}
    messages = [user, assistant, user, {"role": "assistant", "content": [SIGNED, UNSIGNED, BLANK, TEXT]}, user]
    assert sent(messages=messages)["messages"] == messages
    left = sent(messages=messages, options={"strip_unsigned_thinking": True})["messages"]
    assert left == [user, user, {"role": "assistant", "content": [SIGNED, TEXT]}, user]


FORWARDED = {
    "accept": "application/json",
    "anthropic-beta": "a",
    "anthropic-dangerous-direct-browser-access": "true",
    "anthropic-header-of-next-year": "x",
    "anthropic-version": "2023-06-01",
    "content-type": "application/json",
    "user-agent": "claude-cli/2",
    "x-app": "cli",
    "x-claude-code-agent-id": "7",
    "x-claude-code-session-id": "s",
    "x-stainless-retry-count": "0",
}
DROPPED = [
    *("accept-encoding", "authorization", "x-api-key", "host", "content-length", "content-encoding", "expect"),
    *("connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding"),
    *("upgrade", "cookie", "forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"),
    *("cf-connecting-ip", "cf-ray", "cdn-loop", "origin", "referer", "sec-fetch-mode", "sec-ch-ua"),
    *("x-request-id", "traceparent", "tracestate", "x-amzn-trace-id", "x-custom"),
]


@pytest.mark.parametrize("name", DROPPED)
def test_a_header_of_the_connection_or_of_the_gateway_is_dropped(name: str) -> None:
    assert encode(exchange(headers={**FORWARDED, name: "x"})).headers == FORWARDED


@pytest.mark.parametrize("name", FORWARDED)
def test_a_header_of_the_client_s_is_forwarded_unless_it_is_one_of_the_connection(name: str) -> None:
    assert encode(exchange(headers={name: FORWARDED[name]})).headers[name] == FORWARDED[name]
    of_connection = exchange(headers={name: "mine", "connection": f"keep-alive, {name.title()}"})
    assert encode(of_connection).headers.get(name) != "mine"


@pytest.mark.parametrize(
    ("switch", "missing"),
    [
        ("forward_user_agent", {"user-agent"}),
        ("forward_claude_code_headers", {"x-claude-code-session-id", "x-claude-code-agent-id"}),
    ],
)
def test_some_headers_can_be_kept_back(switch: str, missing: set[str]) -> None:
    assert set(FORWARDED) - set(encode(exchange(headers=FORWARDED, options={switch: False})).headers) == missing


def test_every_option_has_a_default_of_its_type_and_a_sentence() -> None:
    for name, known in OPTIONS.items():
        assert msgspec.convert(known.default, known.type) == known.default
        assert option(Endpoint(1, "x", "anthropic", "https://x.example"), name) == known.default
        assert known.help.endswith(".")


@pytest.mark.parametrize(
    ("base_url", "options", "wanted"),
    [
        ("https://api.anthropic.com", {}, False),
        ("https://API.Anthropic.com/v1", {}, False),
        ("https://api.deepseek.com/anthropic", {}, True),
        ("https://api.anthropic.com.example.net", {}, True),
        ("https://api.anthropic.com", {"normalise": True}, True),
        ("https://api.deepseek.com/anthropic", {"normalise": False}, False),
        ("https://api.deepseek.com/anthropic", {"normalise": "perhaps"}, True),
        ("https://api.deepseek.com/anthropic", {"normalise": None}, True),
    ],
)
def test_answers_are_repaired_unless_they_are_the_vendor_s_own(
    base_url: str, options: dict[str, object], wanted: bool
) -> None:
    assert normalises(Endpoint(1, "x", "anthropic", base_url, options=options)) is wanted


@pytest.mark.parametrize(
    ("base_url", "options", "verbatim"),
    [
        ("https://llm.example.com", {}, True),
        ("https://llm.example.com", {"hide_errors": True}, False),
        ("https://api.anthropic.com", {"hide_errors": True}, True),
    ],
)
def test_errors_can_be_put_into_our_words(base_url: str, options: dict[str, object], verbatim: bool) -> None:
    body = msgspec.json.encode({"type": "error", "error": {"type": "invalid_request_error", "message": "no"}})
    error = refusal(exchange(base_url=base_url, options=options), 400, {}, body)
    assert (error.original is not None) == verbatim


@pytest.mark.parametrize(
    ("base_url", "options", "thinking", "kept"),
    [
        ("https://api.deepseek.com/anthropic", {}, {"type": "disabled"}, False),
        ("https://api.deepseek.com/anthropic", {}, {"type": "adaptive"}, True),
        ("https://api.deepseek.com/anthropic", {"effort_without_thinking": True}, {"type": "disabled"}, True),
        ("https://api.anthropic.com", {}, {"type": "disabled"}, True),
        ("https://llm.example.com", {"effort_without_thinking": False}, {"type": "disabled"}, False),
    ],
)
def test_effort_beside_thinking_that_is_off(
    base_url: str, options: dict[str, Any], thinking: dict[str, Any], kept: bool
) -> None:
    asked = exchange(
        kind="anthropic",
        base_url=base_url,
        options=options,
        thinking=thinking,
        output_config={"effort": "high", "format": {"type": "json_schema", "schema": {}}},
    )
    sent = json.loads(encode(asked).body)
    assert ("effort" in sent["output_config"]) is kept
    assert "format" in sent["output_config"]
