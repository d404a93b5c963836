"""What runs now: the picture of one process, of several, and who is told it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.layers import InMemoryChannelLayer
from channels.testing import WebsocketCommunicator
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.backends.db import SessionStore
from django.db import DatabaseError, connections

from accounting.ledger import COMPLETED, Entry, Ledger
from accounting.spool import Spool
from gateway import live, running, runtime
from gateway.running import MOST_ROWS, Overview, Picture, merged, picture
from gateway.tests.conftest import Gateway, Upstream, card, endpoint, question
from providers.routing import Candidate, Route, Target
from providers.usage import Usage


class Known:
    """A meter that must not reckon."""

    def __init__(self, read: int, written: int) -> None:
        self._known = read, written

    def so_far(self) -> Any:
        raise AssertionError("the live view asks for no estimate")

    def known(self) -> tuple[int, int]:
        return self._known


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    held = Ledger(Spool(tmp_path / "spool-of-one", segment_bytes=2**20))
    yield held
    held.spool.close(remove=False)


def begin(ledger: Ledger, number: int, *, streamed: bool = True) -> Entry:
    entry = ledger.begin(
        f"req_{number}", card(1, "bob"), model="opus", streamed=streamed, client_request_id="", session_id="secret"
    )
    entry.open_attempt(Candidate(endpoint(1, "anthropic", "http://127.0.0.1"), "upstream-model"))
    return entry


def test_a_row_says_who_what_where_and_how_far(ledger: Ledger) -> None:
    entry = begin(ledger, 1)
    entry.close_attempt("failed", (Usage(), "estimated", ""), reason="secret reason")
    entry.open_attempt(Candidate(endpoint(2, "openai", "http://127.0.0.1"), "upstream-model"))
    entry.meter = Known(4321, 7)
    [row] = picture(ledger.entries(), entry.row.started_at + 65.9).rows
    assert row == running.Row("req_1", "bob", "opus", "openai-2", 2, 65, 4321, 7, True)
    assert picture(ledger.entries(), entry.row.started_at - 5).rows[0].age == 0, "a clock that was set back"


def test_what_is_settled_runs_no_more(ledger: Ledger) -> None:
    first, second = begin(ledger, 1), begin(ledger, 2, streamed=False)
    assert [row.streamed for row in picture(ledger.entries(), time.time()).rows] == [True, False]
    first.close_attempt(COMPLETED, (Usage(), "upstream", ""))
    first.settle(COMPLETED)
    assert [row.request_id for row in picture(ledger.entries(), time.time()).rows] == ["req_2"]
    second.settled = True  # and waits in memory, since the disk is full
    assert picture(ledger.entries(), time.time()) == Picture()


def test_the_longest_running_are_listed_and_the_rest_is_counted(ledger: Ledger) -> None:
    entries = [begin(ledger, number) for number in range(MOST_ROWS + 20)]
    entries[0].row.started_at -= 100
    told = picture(ledger.entries(), time.time())
    assert (told.running, told.more, len(told.rows)) == (MOST_ROWS + 20, 20, MOST_ROWS)
    assert [row.request_id for row in told.rows] == [f"req_{number}" for number in range(MOST_ROWS)]
    assert told.since == int(entries[0].row.started_at)


def row(age: int, name: str = "") -> running.Row:
    return running.Row(name or f"req_{age}", "bob", "opus", "first", 1, age, 0, 0, True)


def test_the_pictures_of_several_processes_become_one() -> None:
    told = merged([Picture(2, 0, 50, [row(30), row(10)]), Picture(), Picture(3, 2, 40, [row(20)])])
    assert told == Picture(5, 2, 40, [row(30), row(20), row(10)])
    assert merged([Picture()]) == Picture()
    many = merged([Picture(400, 0, 1, [row(5)] * 400), Picture(400, 0, 1, [row(9)] * 400)])
    assert (many.running, many.more, len(many.rows)) == (800, 300, MOST_ROWS)
    assert [many.rows[index].age for index in (0, 399, 400)] == [9, 9, 5]


def test_a_picture_of_two_hundred_costs_no_ten_milliseconds(ledger: Ledger) -> None:
    for number in range(200):
        begin(ledger, number).meter = Known(10, number)
    took = []
    for _ in range(5):
        overview = Overview(lambda: ledger)
        began = time.perf_counter()
        told = overview.shown()
        took.append(time.perf_counter() - began)
    assert json.loads(told)["running"] == 200
    assert min(took) < 0.01


def test_one_picture_serves_all_viewers_of_a_second(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(running, "time", SimpleNamespace(monotonic=lambda: now, time=time.time))
    overview = Overview(lambda: ledger)
    first = overview.shown()
    begin(ledger, 1)
    now += 0.5
    assert overview.shown() is first
    now += 0.5
    assert json.loads(overview.shown())["running"] == 1


# Siblings


async def join(ledger: Ledger, layer: InMemoryChannelLayer) -> tuple[Overview, str]:
    overview, channel = Overview(lambda: ledger), await layer.new_channel()
    await overview.join(layer, channel)
    return overview, channel


async def hear_all(layer: InMemoryChannelLayer, *members: tuple[Overview, str]) -> None:
    """Until nobody has anything left to hear."""
    for _ in range(3):
        await asyncio.sleep(0.01)
        for overview, channel in members:
            while (waiting := layer.channels.get(channel)) is not None and not waiting.empty():
                await overview.hear(await layer.receive(channel))


async def test_processes_tell_each_other_what_they_run_and_the_dead_are_absent(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = Ledger(Spool(tmp_path / "other", segment_bytes=2**20))
    begin(ledger, 1)
    begin(others, 2)
    layer = InMemoryChannelLayer()
    ours, theirs = await join(ledger, layer), await join(others, layer)
    monkeypatch.setattr(running, "FRESH", 0.0)

    assert [row["request_id"] for row in json.loads(ours[0].shown())["rows"]] == ["req_1"]
    await hear_all(layer, ours, theirs)
    assert {row["request_id"] for row in json.loads(ours[0].shown())["rows"]} == {"req_1", "req_2"}

    monkeypatch.setattr(running, "ABSENT", 0.05)
    await asyncio.sleep(0.06)
    assert [row["request_id"] for row in json.loads(ours[0].shown())["rows"]] == ["req_1"]
    await hear_all(layer, ours, theirs)
    assert json.loads(ours[0].shown())["running"] == 2
    ours[0].leave()  # the layer is away
    await hear_all(layer, ours, theirs)
    await asyncio.sleep(0.06)
    assert json.loads(ours[0].shown())["running"] == 1
    others.spool.close(remove=False)


async def test_nobody_asks_again_while_a_question_has_not_left(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Stuck(InMemoryChannelLayer):
        async def group_send(self, group: str, message: dict[str, Any]) -> None:
            asked.append(message)
            await asyncio.sleep(3600)

    monkeypatch.setattr(running, "FRESH", 0.0)
    overview, _channel = await join(ledger, Stuck())
    for _ in range(3):
        overview.shown()
        await asyncio.sleep(0.01)
    assert len(asked) == 1
    overview._asking.cancel()  # type: ignore[union-attr]


async def test_a_sibling_that_hears_nothing_stops_nobody(ledger: Ledger) -> None:
    layer = InMemoryChannelLayer(capacity=1)
    overview, _channel = await join(ledger, layer)
    for _ in range(3):
        await overview.hear({"type": "live.ask", "reply": "deaf"})
    assert layer.channels["deaf"].qsize() == 1


# Through the gateway


async def test_a_running_answer_shows_its_tokens_without_an_estimate(gateway: Gateway, upstream: Upstream) -> None:
    gateway.route(Route("*", (Target(endpoint(1, "anthropic", upstream.url), ""),)))
    await upstream.script({"text": "word " * 100, "chunks": 10, "chunk_delay": 0.05})
    asking = asyncio.create_task(gateway.ask(question()))
    seen = []
    while not asking.done():
        seen += picture(gateway.runtime.ledger.entries(), time.time()).rows
        await asyncio.sleep(0.02)
    assert (await asking).status == 200
    assert {(each.key, each.model, each.provider) for each in seen} == {("owner", "claude-opus-5-5", "anthropic-1")}
    assert seen[0].output < 50
    assert 50 < seen[-1].output <= 126
    assert seen[-1].input > 0
    assert picture(gateway.runtime.ledger.entries(), time.time()) == Picture()


async def test_a_waiting_request_shows_what_the_journal_has_estimated(gateway: Gateway, upstream: Upstream) -> None:
    gateway.route(Route("*", (Target(endpoint(1, "openai", upstream.url), ""),)))
    await upstream.script({"first_delay": 0.2, "chunks": 4, "chunk_delay": 0.1})
    asking = asyncio.create_task(gateway.ask(question("Hello " * 100)))
    await asyncio.sleep(0.1)
    entries = gateway.runtime.ledger.entries
    assert picture(entries(), time.time()).rows[0].input == 0
    gateway.runtime.ledger.leave_progress()
    assert picture(entries(), time.time()).rows[0].input > 100
    await asking


# Who is told


def signed_in(user: User) -> SessionStore:
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    return session


def person(name: str, right: str = "view_usagerecord", **changes: Any) -> User:
    user = User.objects.create_user(name, is_staff=True, **changes)
    user.user_permissions.add(Permission.objects.get(codename=right))
    return user


def viewer(session: str, origin: str | None = "http://localhost:8787") -> WebsocketCommunicator:
    headers = [(b"host", b"localhost:8787"), (b"cookie", f"sessionid={session}".encode())]
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    return WebsocketCommunicator(live.live_view, "/ws/live", headers)


@pytest.fixture
def hurried(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    monkeypatch.setattr(live, "TICK", 0.02)
    monkeypatch.setattr(running, "FRESH", 0.01)
    return gateway


def run(scene: Coroutine[Any, Any, None]) -> None:
    """In a loop of its own; the thread that asks the database for it keeps its connection otherwise."""

    async def whole() -> None:
        try:
            await scene
        finally:
            await sync_to_async(connections.close_all)()

    asyncio.run(whole())


async def told(communicator: WebsocketCommunicator) -> Any:
    message = json.loads(await communicator.receive_from(timeout=3))
    await communicator.send_to(text_data="taken")
    return message


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("who", "origin", "code"),
    [
        ("root", "http://localhost:8787", None),
        ("viewer", "http://LOCALHOST:8787", None),
        ("viewer", "https://localhost:8787", None),  # TLS ends before us
        ("viewer", "https://gateway.example", None),
        ("viewer", "https://a.people.example", None),
        ("viewer", "http://gateway.example", 4403),
        ("viewer", "https://people.example.evil", 4403),
        ("viewer", "http://localhost:8788", 4403),
        ("viewer", "http://localhost", 4403),
        ("viewer", "null", 4403),
        ("viewer", "http://[", 4403),
        ("viewer", "", 4403),
        ("viewer", None, 4403),
        ("finance", "http://localhost:8787", 4403),
        ("outsider", "http://localhost:8787", 4403),
        ("gone", "http://localhost:8787", 4401),
        ("nobody", "http://localhost:8787", 4401),
    ],
)
def test_who_is_let_in(
    hurried: Gateway, settings: SimpleNamespace, who: str, origin: str | None, code: int | None
) -> None:
    settings.CSRF_TRUSTED_ORIGINS = ["https://gateway.example", "https://*.people.example"]
    people = {
        "root": User.objects.create_superuser("root"),
        "viewer": person("viewer"),
        "finance": person("finance", "view_reports"),
        "outsider": person("outsider"),
        "gone": person("gone", is_active=False),
    }
    User.objects.filter(username="outsider").update(is_staff=False)
    session = str(signed_in(people[who]).session_key) if who in people else "0123456789abcdef0123456789abcdef"

    async def knock() -> None:
        communicator = viewer(session, origin)
        is_in, said = await communicator.connect(timeout=3)
        assert (is_in, None if is_in else said) == (code is None, code)
        await communicator.disconnect()

    run(knock())


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda user, session: session.delete(), 4401),
        (lambda user, session: User.objects.filter(pk=user.pk).update(is_active=False), 4401),
        (lambda user, session: User.objects.filter(pk=user.pk).update(is_staff=False), 4403),
        (lambda user, session: user.user_permissions.clear(), 4403),
        (lambda user, session: (user.set_password("new"), user.save()), 4401),
        (lambda user, session: (session.set_expiry(-1), session.save()), 4401),
    ],
    ids=["signed out", "deactivated", "no staff", "no right", "new password", "expired"],
)
def test_it_ends_with_the_session_and_with_the_right(hurried: Gateway, change: Any, code: int) -> None:
    user = person("viewer")
    session = signed_in(user)

    async def watch() -> None:
        communicator = viewer(str(session.session_key))
        assert (await communicator.connect(timeout=3))[0]
        assert await told(communicator) == {"running": 0, "more": 0, "since": None, "rows": []}
        await sync_to_async(change)(user, session)
        while (message := await communicator.receive_output(timeout=3))["type"] == "websocket.send":
            await communicator.send_to(text_data="taken")
        assert message == {"type": "websocket.close", "code": code, "reason": live.REASONS[code]}
        await communicator.disconnect()

    run(watch())


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("trouble", ["error", "silence"])
def test_where_nobody_can_tell_who_watches_nothing_is_told(
    hurried: Gateway, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    session = signed_in(person("viewer"))

    def broken(_user: object) -> int:
        if trouble == "error":
            raise DatabaseError("away")
        time.sleep(0.3)
        return 0

    async def watch() -> None:
        communicator = viewer(str(session.session_key))
        assert (await communicator.connect(timeout=3))[0]
        monkeypatch.setattr(live, "objection_to", broken)
        monkeypatch.setattr(live, "PATIENCE", 0.1)
        while (message := await communicator.receive_output(timeout=3))["type"] == "websocket.send":
            await communicator.send_to(text_data="taken")
        assert message["code"] == 1013
        await communicator.disconnect()

    run(watch())


@pytest.mark.django_db(transaction=True)
def test_news_come_when_there_are_any_and_a_sign_of_life_when_there_are_none(
    hurried: Gateway, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "TICK", 0.05)
    session = signed_in(person("viewer"))
    hurried.runtime.ledger = ledger

    async def watch() -> None:
        communicator = viewer(str(session.session_key))
        assert (await communicator.connect(timeout=3))[0]
        assert (await told(communicator))["running"] == 0
        assert await communicator.receive_nothing(timeout=0.2)
        assert (await told(communicator))["running"] == 0, "the beat"
        begin(ledger, 1)
        assert (await told(communicator))["running"] == 1
        begin(ledger, 2)
        begin(ledger, 3)
        assert json.loads(await communicator.receive_from(timeout=3))["running"] >= 2
        begin(ledger, 4)
        assert await communicator.receive_nothing(timeout=0.3), "the last one was not taken yet"
        await communicator.send_to(bytes_data=b"taken")
        assert (await told(communicator))["running"] == 4
        await communicator.disconnect()

    run(watch())


@pytest.mark.django_db(transaction=True)
def test_a_view_that_fails_says_so_and_leaves_no_task(
    hurried: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    session = signed_in(person("viewer"))

    async def watch() -> None:
        before = asyncio.all_tasks()
        communicator = viewer(str(session.session_key))
        assert (await communicator.connect(timeout=3))[0]
        await told(communicator)
        monkeypatch.setattr(runtime.running().overview, "_ledger", None)
        assert (await communicator.receive_output(timeout=3))["code"] == 1011
        await communicator.disconnect()
        assert asyncio.all_tasks() == before

    run(watch())
    assert "the live view failed" in caplog.text
