"""What the server demands of a request for a WebSocket, and who gets the page that makes one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from twisted.web.http_headers import Headers

from ccproxy_site.viewing import MOST_UNDECIDED, Viewing, is_upgrade, objection, objection_of_crowd

GOOD = {
    "upgrade": ["websocket"],
    "connection": ["Upgrade"],
    "sec-websocket-version": ["13"],
    "sec-websocket-key": ["dGhlIHNhbXBsZSBub25jZQ=="],
}


class Asked:
    """A request as the server has read it, and what it is answered."""

    def __init__(
        self, changes: dict[str, list[str]] | None = None, *, method: bytes = b"GET", server: Any = None
    ) -> None:
        self.requestHeaders = Headers({**GOOD, **(changes or {})})
        self.method, self.clientproto = method, b"HTTP/1.1"
        self.is_over = False
        self.server = server
        self.answers: list[Any] = []
        self.reply = self.answers.append


def server(*, viewers: int = 0, undecided: int = 0, is_closing: bool = False) -> Any:
    return SimpleNamespace(
        viewers=set(range(viewers)),
        watching=set(range(viewers + undecided)),
        limits=SimpleNamespace(viewers=3),
        is_closing=is_closing,
    )


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, None),
        ({"upgrade": ["WebSocket"]}, None),
        ({"connection": ["keep-alive, Upgrade"]}, None),
        ({"connection": ["keep-alive", "upgrade"]}, None),
        ({"connection": []}, 400),
        ({"connection": ["keep-alive"]}, 400),
        ({"sec-websocket-version": []}, 400),
        ({"sec-websocket-version": ["13", "13"]}, 400),
        ({"sec-websocket-version": ["14"]}, 400),
        ({"sec-websocket-key": []}, 400),
        ({"sec-websocket-key": ["dGhlIHNhbXBsZSBub25jZQ=="] * 2}, 400),
        ({"sec-websocket-key": ["dGhlIHNhbXBsZSBub25jZQ==x"]}, 400),
        ({"sec-websocket-key": ["dGhlIHNhbXBs\u00e9SBub25jZQ=="]}, 400),
    ],
)
def test_a_handshake_is_taken_only_as_the_standard_has_it(changes: dict[str, list[str]], status: int | None) -> None:
    request: Any = Asked(changes)
    refusal = objection(request, "/ws/live")
    assert is_upgrade(request)
    assert (refusal and refusal.status) == status


def test_other_addresses_methods_and_versions_get_none() -> None:
    request: Any = Asked()
    for path in ("/", "/ws", "/ws/live/", "/v1/messages", "/admin/live/"):
        refusal = objection(request, path)
        assert refusal is not None
        assert refusal.status == 404
    posted: Any = Asked(method=b"POST")
    assert objection(posted, "/ws/live") is not None
    old: Any = Asked()
    old.clientproto = b"HTTP/1.0"
    assert objection(old, "/ws/live") is not None
    assert not is_upgrade(Asked({"upgrade": ["h2c"]}))  # type: ignore[arg-type]
    assert not is_upgrade(Asked({"upgrade": []}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "is_taken"),
    [
        ({"viewers": 2}, True),
        ({"viewers": 3}, False),
        ({"undecided": MOST_UNDECIDED - 1}, True),
        ({"undecided": MOST_UNDECIDED}, False),
        ({"is_closing": True}, False),
    ],
)
def test_so_many_may_watch(state: dict[str, Any], is_taken: bool) -> None:
    refusal = objection_of_crowd(server(**state))
    assert (refusal is None) == is_taken
    assert refusal is None or refusal.retry_after


async def test_who_is_refused_by_the_application_gets_an_http_answer_and_the_application_its_end() -> None:
    request: Any = Asked(server=server())
    view = Viewing(request)
    await view.send({"type": "websocket.close", "code": 4403, "reason": "you may not: ask somebody"})
    assert (request.answers[0].status, request.answers[0].message) == (403, "you may not: ask somebody")
    assert [(await view.receive())["type"] for _ in range(2)] == ["websocket.connect", "websocket.disconnect"]


async def test_who_has_left_or_comes_too_late_is_not_let_in() -> None:
    left: Any = Asked(server=server())
    left.is_over = True
    view = Viewing(left)
    await view.send({"type": "websocket.accept"})
    assert left.answers == []
    late: Any = Asked(server=server(viewers=3))
    second = Viewing(late)
    await second.send({"type": "websocket.accept"})
    assert late.answers[0].status == 529
    for each in (view, second):
        assert [(await each.receive())["type"] for _ in range(2)] == ["websocket.connect", "websocket.disconnect"]


async def test_an_application_that_ends_without_a_word_is_an_error() -> None:
    request: Any = Asked(server=server())
    Viewing(request).application_ended()
    assert request.answers[0].status == 500


@pytest.mark.parametrize(
    ("right", "changes", "status"),
    [
        (None, {"is_superuser": True}, 200),
        ("view_usagerecord", {}, 200),
        ("view_reports", {}, 403),
        ("view_usagerecord", {"is_staff": False}, 302),
        ("view_usagerecord", {"is_active": False}, 302),
    ],
)
def test_the_page_is_for_those_who_may_see_requests(
    db: None, client: Client, right: str | None, changes: dict[str, bool], status: int
) -> None:
    person = User.objects.create(username="person", **{"is_staff": True, **changes})
    if right:
        person.user_permissions.add(Permission.objects.get(codename=right))
    client.force_login(person)
    reply = client.get("/admin/live/")
    assert reply.status_code == status
    if status == 200:
        page = reply.content.decode()
        assert "ccproxy/live.js" in page
        assert "<noscript>" in page
        assert 'data-login="/admin/login/?next=/admin/live/"' in page


def test_a_stranger_is_sent_to_the_login(client: Client) -> None:
    reply = client.get("/admin/live/")
    assert (reply.status_code, reply.headers["location"]) == (302, "/admin/login/?next=/admin/live/")
