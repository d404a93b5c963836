"""Two handlers serve one view: ours, which goes to it straight, and Django's, through its resolver and ninja."""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler, ASGIRequest

from ccproxy_site import lean
from gateway.tests.conftest import Gateway, Reply, Upstream, endpoint, question
from gateway.tests.test_relay import route_to

HOST = {"host": "localhost"}


@pytest.fixture
def routed(gateway: Gateway, upstream: Upstream) -> Gateway:
    gateway.route(route_to(endpoint(1, "anthropic", upstream.url)))
    return gateway


def told(reply: Reply) -> tuple[int, str, bytes]:
    """Without the ids, which are fresh each time."""
    [content_type] = [value for name, value in reply.headers.items() if name.lower() == "content-type"]
    return reply.status, content_type, re.sub(rb"(req|msg)_\w+", b"id", reply.body)


@pytest.mark.parametrize(
    "asked",
    [
        {"body": question()},
        {"body": question(stream=False)},
        {"body": question(stream=False), "path": "/v1/messages/"},
        {"body": question(), "token": None},
        {"body": b"{"},
        {"body": question(), "path": "/v1/messages/count_tokens"},
        {"body": b"", "method": "GET"},
    ],
    ids=["stream", "plain", "with a slash", "no key", "no JSON", "counting", "no POST"],
)
async def test_both_handlers_answer_alike(routed: Gateway, asked: dict[str, Any]) -> None:
    ours = await routed.ask(**asked, headers=HOST)
    routed.application = ASGIHandler()  # type: ignore[assignment]
    theirs = await routed.ask(**asked, headers=HOST)
    if ours.status == 405:
        assert theirs.status == 405  # ninja's own word, which our handler puts into an envelope
    else:
        assert told(ours) == told(theirs)
    assert ours.headers["request-id"].startswith("req_")


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_what_is_asked_all_day_needs_no_resolver(
    routed: Gateway, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def refuse() -> None:
        raise AssertionError("the resolver was asked")

    monkeypatch.setattr(lean, "get_resolver", refuse)
    assert (await routed.ask(question(), path=path)).status == 200
    assert (await routed.ask(b"", path="/v1/models", method="GET")).status == 500


def test_a_request_is_django_s_in_all_that_is_asked_of_it() -> None:
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/models",
        "query_string": b"limit=3",
        "headers": [(b"x-one", b"1"), (b"cookie", b"a=b"), (b"content-type", b"text/plain; charset=latin-1")],
    }
    ours, theirs = lean.LeanRequest(scope), ASGIRequest(scope, BytesIO())
    for name in ("META", "GET", "COOKIES", "path_info", "method", "content_type", "resolver_match"):
        assert getattr(lean.LeanRequest(scope), name) == getattr(theirs, name), name
    assert (ours.headers["x-one"], ours.get_full_path()) == ("1", "/v1/models?limit=3")
    with pytest.raises(AttributeError):
        _ = ours.no_such_thing


async def test_the_last_piece_says_that_it_is_the_last(routed: Gateway, upstream: Upstream) -> None:
    await upstream.script({"text": "Good morning", "chunk_delay": 0.01})
    messages: list[dict[str, Any]] = []
    original = routed.application

    async def watching(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: dict[str, Any]) -> None:
            messages.append(message)
            await send(message)

        await original(scope, receive, sending)

    routed.application = watching  # type: ignore[assignment]
    await routed.ask(question())
    assert [message["more_body"] for message in messages[1:]] == [True] * (len(messages) - 2) + [False]
    assert b"message_stop" in messages[-1]["body"]
