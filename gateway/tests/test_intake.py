"""What is refused before any provider is called, and the sentence it is refused with."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from accounting import keys
from gateway.tests.conftest import (
    EXPIRED_TOKEN,
    LIMITED_TOKEN,
    OWNER_TOKEN,
    REVOKED_TOKEN,
    Gateway,
    Upstream,
    endpoint,
    question,
)
from gateway.tests.test_relay import route_to
from providers.routing import Route


@pytest.fixture
def routed(gateway: Gateway, upstream: Upstream) -> Gateway:
    gateway.route(route_to(endpoint(1, "anthropic", upstream.url)))
    return gateway


async def nothing_was_called(gateway: Gateway, upstream: Upstream) -> None:
    assert await upstream.bill() == []
    assert gateway.lines() == []


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (None, "no key was sent"),
        ("", "no key was sent"),
        ("sk-ant-api03-something", "no key of this gateway"),
        (OWNER_TOKEN[:-1] + ("a" if OWNER_TOKEN[-1] != "a" else "b"), "copied whole"),
        (keys.mint(), "unknown here"),
        (REVOKED_TOKEN, "was revoked"),
        (EXPIRED_TOKEN, "has expired"),
    ],
    ids=["none", "empty", "foreign", "mistyped", "unknown", "revoked", "expired"],
)
async def test_a_key_that_does_not_open_is_401_and_not_retried(
    routed: Gateway, upstream: Upstream, token: str | None, said: str
) -> None:
    reply = await routed.ask(question(), token=token)
    assert reply.status == 401
    assert reply.headers["x-should-retry"] == "false"
    body = reply.json()
    assert body["type"] == "error"
    assert body["error"]["type"] == "authentication_error"
    assert said in body["error"]["message"]
    assert body["request_id"] == reply.headers["request-id"]
    await nothing_was_called(routed, upstream)


@pytest.mark.parametrize("headers", [{"authorization": f"Bearer {OWNER_TOKEN}"}, {"x-api-key": OWNER_TOKEN}])
async def test_both_credential_headers_open(routed: Gateway, headers: dict[str, str]) -> None:
    assert (await routed.ask(question(), token=None, headers=headers)).status == 200


async def test_of_two_different_credentials_the_key_is_found(routed: Gateway) -> None:
    reply = await routed.ask(question(), token="sk-ant-mine", headers={"authorization": f"Bearer {OWNER_TOKEN}"})
    assert reply.status == 200


async def test_a_model_the_key_may_not_use_is_403(routed: Gateway, upstream: Upstream) -> None:
    reply = await routed.ask(question(), token=LIMITED_TOKEN)
    assert (reply.status, reply.json()["error"]["type"]) == (403, "permission_error")
    await nothing_was_called(routed, upstream)


async def test_an_unknown_model_is_404_with_near_names(routed: Gateway, upstream: Upstream) -> None:
    routed.route(Route("claude-opus-5-5", ()), Route("glm-4.6", ()))
    reply = await routed.ask(question(model="claude-opos-5-5"))
    assert (reply.status, reply.json()["error"]["type"]) == (404, "not_found_error")
    await nothing_was_called(routed, upstream)


async def test_a_route_without_a_provider_is_503(gateway: Gateway) -> None:
    gateway.route(Route("claude-*", ()))
    reply = await gateway.ask(question())
    assert reply.status == 503
    assert reply.json()["error"]["details"]["code"] == "PROVIDER_UNAVAILABLE"
    assert reply.headers["retry-after"]


MESSAGE = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("body", "path", "problem"),
    [
        (b"", "body", "not valid JSON"),
        (b"{", "body", "not valid JSON"),
        (b"[]", "body", "expected object"),
        (b"\xff\xfe", "body", "not valid JSON"),
        ({"messages": [MESSAGE], "max_tokens": 1}, "model", "Field required"),
        ({"model": 5, "messages": [MESSAGE], "max_tokens": 1}, "model", "expected str"),
        ({"model": "claude-a", "max_tokens": 1}, "messages", "Field required"),
        ({"model": "claude-a", "messages": {}, "max_tokens": 1}, "messages", "expected array"),
        ({"model": "claude-a", "messages": [], "max_tokens": 1}, "messages", "at least one"),
        ({"model": "claude-a", "messages": ["x"], "max_tokens": 1}, "messages.0", "expected object"),
        ({"model": "claude-a", "messages": [{"role": "tool", "content": "x"}], "max_tokens": 1}, "messages.0.role", ""),
        ({"model": "claude-a", "messages": [{"role": "user"}], "max_tokens": 1}, "messages.0.content", "required"),
        (
            {"model": "claude-a", "messages": [{"role": "user", "content": 5}], "max_tokens": 1},
            "messages.0.content",
            "",
        ),
        (question(messages=[{"role": "user", "content": [{}]}]), "messages.0.content.0.type", "required"),
        (question(messages=[{"role": "user", "content": [{"type": "text"}]}]), "messages.0.content.0.text", ""),
        (question(messages=[{"role": "user", "content": [{"type": "image"}]}]), "messages.0.content.0.source", ""),
        (question(messages=[{"role": "assistant", "content": [{"type": "tool_use", "id": "a"}]}]), "name", ""),
        (question(messages=[{"role": "user", "content": [{"type": "tool_result"}]}]), "tool_use_id", ""),
        ({"model": "claude-a", "messages": [MESSAGE]}, "max_tokens", "Field required"),
        (question(max_tokens="5"), "max_tokens", "expected"),
        (question(max_tokens=-1), "max_tokens", "negative"),
        (question(stream="yes"), "stream", "expected"),
        (question(tools={}), "tools", "expected array"),
        (question(tools=[{}]), "tools.0.name", "required"),
        (question(tools=[{"name": "a", "input_schema": []}]), "tools.0.input_schema", "object"),
        (question(temperature=1.5), "temperature", "outside"),
        (question(top_p="x"), "top_p", "expected"),
        (question(system=5), "system", "expected"),
        (question(stop_sequences=["a", 5]), "stop_sequences", "expected"),
        (question(thinking="on"), "thinking", "expected object"),
        (b'{"model":"claude-a","max_tokens":1,"messages":' + b"[" * 200 + b"]" * 200 + b"}", "body", "deeper than"),
        (b"[" * 100_000, "body", "deeper than"),
    ],
)
async def test_bad_input_is_400_and_names_the_field(
    routed: Gateway, upstream: Upstream, body: Any, path: str, problem: str
) -> None:
    reply = await routed.ask(body)
    assert reply.status == 400, reply.body
    error = reply.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert path in error["message"].split(": ")[0]
    assert problem in error["message"]
    assert "Traceback" not in error["message"]
    await nothing_was_called(routed, upstream)


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": [{"role": "user", "content": [{"type": "from_next_year", "x": 1}]}]},
        {"messages": [MESSAGE, {"role": "system", "output_config": {"effort": "high"}}]},
        {"tools": [{"type": "toolset_of_next_year"}]},
        {"field_of_next_year": {"deep": [[[1]]]}},
        {"system": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]},
        {"temperature": None, "system": None},
    ],
)
async def test_what_is_unknown_is_let_through(routed: Gateway, changes: dict[str, Any]) -> None:
    assert (await routed.ask(question(**changes))).status == 200


async def test_limits_have_their_codes(routed: Gateway, upstream: Upstream) -> None:
    import msgspec

    routed.runtime.limits = msgspec.structs.replace(routed.runtime.limits, messages=3, content=2000)
    many = await routed.ask(question(messages=[MESSAGE] * 4))
    assert (many.status, many.json()["error"]["details"]["code"]) == (400, "too_many_messages")
    large = await routed.ask(question("x" * 3000))
    assert (large.status, large.json()["error"]["details"]["code"]) == (413, "content_too_large")
    empty = await routed.ask(question(messages=[]))
    assert (empty.status, empty.json()["error"]["details"]["code"]) == (400, "empty_messages")
    await nothing_was_called(routed, upstream)


async def test_a_large_body_passes_and_a_larger_one_is_413(routed: Gateway, upstream: Upstream, settings: Any) -> None:
    reply = await routed.ask(question("x" * 20_000_000))
    assert reply.status == 200
    settings.MAX_BODY_BYTES = 1000
    refused = await routed.ask(question("x" * 2000))
    assert (refused.status, refused.json()["error"]["type"]) == (413, "request_too_large")
    assert len(await upstream.bill()) == 1


async def test_compressed_bodies_are_read_and_bombs_are_not(routed: Gateway, settings: Any) -> None:
    plain = json.dumps(question()).encode()
    packed = await routed.ask(gzip.compress(plain), headers={"content-encoding": "gzip"})
    assert packed.status == 200
    damaged = await routed.ask(plain, headers={"content-encoding": "gzip"})
    assert damaged.status == 400
    strange = await routed.ask(plain, headers={"content-encoding": "br"})
    assert (strange.status, strange.json()["error"]["type"]) == (415, "invalid_request_error")
    settings.MAX_BODY_BYTES = 100_000
    bomb = await routed.ask(gzip.compress(b" " * 10_000_000), headers={"content-encoding": "gzip"})
    assert bomb.status == 413


async def test_a_models_name_writes_no_line_of_its_own_into_the_log(
    routed: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="ccproxy.requests"):
        assert (await routed.ask(question(model="claude-a\nrequest_completed by nobody"))).status == 200
    [line] = [record.getMessage() for record in caplog.records if record.name == "ccproxy.requests"]
    assert "claude-a\\nrequest_completed by nobody" in line
    assert "\n" not in line


async def test_a_compressed_body_of_several_members_is_read_and_shreds_are_not(routed: Gateway) -> None:
    plain = json.dumps(question()).encode()
    members = [gzip.compress(plain[at : at + 9]) for at in range(0, len(plain), 9)]
    assert (await routed.ask(b"".join(members), headers={"content-encoding": "gzip"})).status == 200
    # Without a limit these would keep everybody waiting, the longer the more than twice.
    shreds = await routed.ask(gzip.compress(b"") * 100_000 + members[0], headers={"content-encoding": "gzip"})
    assert shreds.status == 400
    assert "members" in shreds.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("DELETE", "/v1/models", 405, "invalid_request_error"),
        ("POST", "/v1/nothing", 404, "not_found_error"),
        ("GET", "/v1", 404, "not_found_error"),
        ("GET", "/v1/", 404, "not_found_error"),
    ],
)
async def test_errors_of_the_framework_have_the_envelope_too(
    routed: Gateway, method: str, path: str, status: int, kind: str
) -> None:
    reply = await routed.ask(b"", method=method, path=path)
    assert (reply.status, reply.json()["error"]["type"]) == (status, kind)
    assert reply.headers["request-id"].startswith("req_")


async def test_our_own_failure_is_an_envelope_without_a_traceback(
    routed: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a secret of ours")

    monkeypatch.setattr("gateway.api.candidates_for", broken)
    reply = await routed.ask(question())
    assert (reply.status, reply.json()["error"]["type"]) == (500, "api_error")
    assert "secret of ours" not in reply.body.decode()


@pytest.mark.parametrize("path", ["/v1/messages/", "/v1/messages?beta=true", "/v1/messages/?beta=true"])
async def test_slashes_and_queries_are_served(routed: Gateway, path: str) -> None:
    assert (await routed.ask(question(), path=path)).status == 200


async def test_open_pages_need_no_key(routed: Gateway) -> None:
    root = await routed.ask(b"", method="GET", path="/", token=None)
    assert (root.status, root.json()) == (200, {"status": "ok"})
    hello = await routed.ask(b"", method="HEAD", path="/api/hello", token=None)
    assert (hello.status, hello.body) == (200, b"")
    for path in ("/health", "/health/live", "/health/ready"):
        assert (await routed.ask(b"", method="GET", path=path, token=None)).status == 200


async def test_models_are_listed_as_the_key_may_use_them(routed: Gateway) -> None:
    whole = (await routed.ask(b"", method="GET", path="/v1/models")).json()
    assert "claude-opus-5-5" in [model["id"] for model in whole["data"]]
    assert whole["has_more"] is False
    limited = (await routed.ask(b"", method="GET", path="/v1/models", token=LIMITED_TOKEN)).json()
    assert {"haiku" in model["id"] for model in limited["data"]} == {True}
    first = (await routed.ask(b"", method="GET", path="/v1/models?limit=1")).json()
    assert (len(first["data"]), first["has_more"]) == (1, True)
    rest = (await routed.ask(b"", method="GET", path=f"/v1/models?after_id={first['last_id']}")).json()
    assert len(rest["data"]) == len(whole["data"]) - 1
    bad = await routed.ask(b"", method="GET", path="/v1/models?limit=0")
    assert bad.status == 400


async def test_one_model_answers_for_any_routed_name(routed: Gateway) -> None:
    assert (await routed.ask(b"", method="GET", path="/v1/models/claude-of-next-year")).json()["type"] == "model"
    assert (await routed.ask(b"", method="GET", path="/v1/models/gpt-x")).status == 404
    empty = Route("nothing", ())
    routed.route(empty)
    listed = (await routed.ask(b"", method="GET", path="/v1/models")).json()
    assert (listed["data"], listed["first_id"], listed["last_id"]) == ([], None, None)


async def test_tokens_are_counted_and_never_booked(gateway: Gateway, upstream: Upstream, kind: str) -> None:
    gateway.route(route_to(endpoint(1, kind, upstream.url)))
    body = {"model": "claude-opus-5-5", "messages": [{"role": "user", "content": "Hello there"}]}
    reply = await gateway.ask(body, path="/v1/messages/count_tokens")
    assert reply.status == 200
    assert reply.json()["input_tokens"] > 0
    await nothing_was_called(gateway, upstream)


async def test_counting_goes_on_here_where_the_provider_does_not_count(gateway: Gateway) -> None:
    gateway.route(route_to(endpoint(1, "anthropic", "http://127.0.0.1:9")))
    body = {"model": "claude-opus-5-5", "messages": [{"role": "user", "content": "Hello there"}]}
    first = await gateway.ask(body, path="/v1/messages/count_tokens")
    assert first.json()["input_tokens"] > 0
    assert gateway.runtime.not_counting == {}


async def test_a_token_the_provider_refuses_is_refused_for_counting_too(gateway: Gateway, upstream: Upstream) -> None:
    gateway.route(route_to(endpoint(1, "anthropic", upstream.url + "/nothing-here")))
    body = {"model": "claude-opus-5-5", "messages": [{"role": "user", "content": "Hello there"}]}
    assert (await gateway.ask(body, path="/v1/messages/count_tokens")).status == 200
    assert list(gateway.runtime.not_counting) == [1]


@pytest.mark.parametrize(
    "path", ["/v1/models?limit=%C2%B2", "/v1/models?limit=" + "9" * 5000, "/v1/models?" + "a&" * 2000]
)
async def test_odd_queries_are_400(routed: Gateway, path: str) -> None:
    reply = await routed.ask(b"", method="GET", path=path)
    assert (reply.status, reply.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    "changes",
    [
        {"tool_choice": {"type": ["auto"]}},
        {"thinking": {"type": {}}},
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": []}}]}]},
        {"tools": [{"type": 5, "name": "a"}]},
    ],
)
async def test_a_type_is_a_string_for_every_upstream(
    gateway: Gateway, upstream: Upstream, changes: dict[str, Any]
) -> None:
    gateway.route(route_to(endpoint(1, "openai", upstream.url)))
    reply = await gateway.ask(question(**changes))
    assert reply.status == 400
    assert "expected a string" in reply.json()["error"]["message"]


async def test_half_an_emoji_reaches_any_upstream_mended(gateway: Gateway, upstream: Upstream, kind: str) -> None:
    gateway.route(route_to(endpoint(1, kind, upstream.url), model="renamed"))
    assert (await gateway.ask(question("half an emoji \ud83d"))).status == 200


async def test_every_reply_has_its_id(routed: Gateway) -> None:
    for method, path in (("GET", "/"), ("GET", "/health"), ("GET", "/v1/models"), ("HEAD", "/api/hello")):
        assert (await routed.ask(b"", method=method, path=path)).headers["request-id"].startswith("req_")
