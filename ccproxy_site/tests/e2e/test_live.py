"""The live view on a real server: who may look, what they see, and that viewers take nothing the gateway needs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
import struct
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from accounting import keys
from ccproxy_site.tests.e2e.browser import HEIGHT, NARROW, WIDTH, Page, chromium, pictures, tab
from ccproxy_site.tests.e2e.family import Installation, Mock, installation, mock

__all__ = ["chromium", "pictures"]

pytestmark = pytest.mark.e2e

# An address may have no more connections than this, so that those of viewers who left are missed if they stay.
MOST_CONNECTIONS, MOST_VIEWERS = 30, 5
KEY = keys.mint()
SLOW = {"text": "word " * 400, "chunks": 20, "chunk_delay": 0.2}

# Models, as clients may write them.
NAMES = ["claude-opus-5-5", "vendor/a-model-with-a-long-name-2026-11-20", "<script>alert(1)</script><b>bold"]
ROWS = "document.querySelectorAll('#cc-live-rows tr').length"
MODELS = "[...document.querySelectorAll('#cc-live-rows tr')].map(row => row.cells[1].firstChild.textContent)"
HIDE = """
Object.defineProperty(document, 'hidden', {{configurable: true, get: () => {}}});
document.dispatchEvent(new Event('visibilitychange'));
"""

# Signs everybody in at once: one command instead of a page each.
PEOPLE = """
import json
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.backends.db import SessionStore
told = {}
for name, staff, right in (
    ("root", True, ""), ("viewer", True, "view_usagerecord"), ("second", True, "view_usagerecord"),
    ("guest", True, "view_usagerecord"), ("finance", True, "view_reports"), ("developer", False, "view_usagerecord"),
):
    person = User.objects.create_user(name, is_staff=staff, is_superuser=name == "root")
    if right:
        person.user_permissions.add(Permission.objects.get(codename=right))
    session = SessionStore()
    session[SESSION_KEY] = str(person.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = person.get_session_auth_hash()
    session.save()
    told[name] = session.session_key
print("\\n" + json.dumps(told))
"""


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mock]:
    with mock(tmp_path_factory.mktemp("upstream")) as held:
        yield held


def configuration(upstream: Mock) -> dict[str, Any]:
    return {
        "providers": [{"name": "slow", "type": "anthropic", "base_url": upstream.url, "credential": "none"}],
        "model_routes": {"*": [{"provider": "slow"}]},
        "keys": [{"name": "bob", "token": KEY}],
    }


class House:
    """A gateway, and the sessions of those who are signed in to it."""

    def __init__(self, gateway: Installation) -> None:
        self.gateway = gateway
        self.sessions: dict[str, str] = json.loads(gateway.manage("shell", "-c", PEOPLE).splitlines()[-1])

    def headers(self, person: str | None = "viewer", *, origin: str | None = "") -> dict[str, str]:
        """As a browser would send them; an empty origin is the gateway's own."""
        cookie = {"cookie": f"sessionid={self.sessions.get(person, person)}"} if person else {}
        return {**cookie, **({} if origin is None else {"origin": origin or self.gateway.url})}

    def change(self, statement: str, *values: str) -> None:
        with contextlib.closing(sqlite3.connect(self.gateway.folder / "var" / "ccproxy.sqlite3")) as database:
            database.execute(statement, values)
            database.commit()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, upstream: Mock) -> Iterator[House]:
    with installation(
        tmp_path_factory.mktemp("house"),
        MAX_CONNECTIONS_PER_ADDRESS=str(MOST_CONNECTIONS),
        MAX_LIVE_VIEWERS=str(MOST_VIEWERS),
    ) as gateway:
        gateway.start()
        gateway.apply(configuration(upstream))
        held = House(gateway)
        gateway.wait_until_key_works(KEY)
        yield held


@contextlib.asynccontextmanager
async def watching(
    house: House, person: str | None = "viewer", *, path: str = "/ws/live", origin: str | None = ""
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    headers, patience = house.headers(person, origin=origin), aiohttp.ClientWSTimeout(ws_close=5.0)
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(house.gateway.url + path, headers=headers, timeout=patience) as connected,
    ):
        yield connected


async def refusal(house: House, person: str | None = "viewer", **changes: Any) -> tuple[int, str]:
    """The status and the words with which a handshake is refused."""
    headers = {
        **house.headers(person, origin=changes.pop("origin", "")),
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        **changes.pop("headers", {}),
    }
    url = house.gateway.url + changes.get("path", "/ws/live")
    async with (
        aiohttp.ClientSession() as session,
        session.request(changes.get("method", "GET"), url, headers=headers) as reply,
    ):
        error = await reply.json()
        assert reply.headers["request-id"] == error["request_id"]
        return reply.status, error["error"]["message"]


async def next_picture(viewer: aiohttp.ClientWebSocketResponse, seconds: float = 12.0) -> Any:
    """What is told next; the viewer says that it has taken it."""
    told = await viewer.receive_str(timeout=seconds)
    await viewer.send_str("taken")
    return json.loads(told)


async def close_code(viewer: aiohttp.ClientWebSocketResponse, seconds: float) -> int | None:
    """Taking everything that comes until the other side closes."""
    async with asyncio.timeout(seconds):
        async for _message in viewer:
            with contextlib.suppress(ConnectionError):
                await viewer.send_str("taken")
    return viewer.close_code


async def ask(house: House, script: dict[str, Any], **changes: Any) -> None:
    text = f"[[mock: {json.dumps(script)}]]"
    body = {"model": "claude-opus-5-5", "max_tokens": 9, "stream": True, **changes}
    body["messages"] = [{"role": "user", "content": "Hello, this is a secret. " + text}]
    async with aiohttp.ClientSession() as session:
        url, headers = house.gateway.url + "/v1/messages", {"x-api-key": KEY}
        async with session.post(url, json=body, headers=headers) as reply:
            assert reply.status == 200
            await reply.read()


async def test_a_running_stream_is_seen_growing_and_then_no_more(house: House) -> None:
    seen: list[Any] = []
    async with watching(house) as viewer, watching(house) as silent:
        assert await next_picture(viewer) == {"running": 0, "more": 0, "since": None, "rows": []}
        assert json.loads(await silent.receive_str())["running"] == 0
        asking = asyncio.create_task(ask(house, SLOW))
        began = time.time()
        while not seen or seen[-1]["running"]:
            seen.append(picture := await next_picture(viewer))
            assert "secret" not in json.dumps(picture)
            assert "word" not in json.dumps(picture)
            if len(seen) == 2:
                with pytest.raises(TimeoutError):
                    await silent.receive(timeout=0.01)
                await silent.send_str("taken")
        await asking
        late = await next_picture(silent)
        assert late["rows"][0]["age"] >= 1, "whoever takes a message late gets no old ones"
    rows = [picture["rows"][0] for picture in seen if picture["rows"]]
    assert {(row["key"], row["model"], row["provider"], row["attempt"], row["streamed"]) for row in rows} == {
        ("bob", "claude-opus-5-5", "slow", 1, True)
    }
    assert rows[0]["request_id"].startswith("req_")
    assert len({row["request_id"] for row in rows}) == 1
    assert [row["age"] for row in rows] == sorted({row["age"] for row in rows})
    written = [row["output"] for row in rows]
    assert written == sorted(set(written)), "tokens grow"
    assert len(rows) >= 3
    assert 0 < written[-1] <= 500
    assert rows[-1]["input"] > 0
    assert seen[0]["since"] is None or abs(seen[0]["since"] - began) < 3
    assert seen[-1]["rows"] == []


async def test_only_those_who_may_see_requests_get_in_and_only_from_our_own_pages(house: House) -> None:
    address = house.gateway.url
    assert await refusal(house, None) == (403, "you are signed out: sign in again")
    assert await refusal(house, "0123456789abcdef0123456789abcdef") == (403, "you are signed out: sign in again")
    for person in ("finance", "developer"):
        status, words = await refusal(house, person)
        assert (status, words.partition(":")[0]) == (403, "you may not see requests")
    for origin in (None, "null", "https://evil.example", address.replace("http:", "ftp:"), address + "0"):
        status, words = await refusal(house, "root", origin=origin)
        assert (status, "CSRF_TRUSTED_ORIGINS" in words) == (403, True), origin
    assert (await refusal(house, "root", headers={"host": "evil.example"}, origin="http://evil.example"))[0] == 403
    async with watching(house, "root") as viewer:
        assert "rows" in await next_picture(viewer)


async def test_a_websocket_is_served_at_one_address_and_only_as_it_should_be(house: House) -> None:
    for changes in ({"path": "/v1/messages"}, {"path": "/"}, {"path": "/ws/live/"}, {"method": "POST"}):
        status, words = await refusal(house, "root", **changes)
        assert (status, words) == (404, "no WebSocket is served here: ask with plain HTTP")
    for headers in (
        {"connection": "keep-alive"},
        {"sec-websocket-version": "8"},
        {"sec-websocket-key": "short"},
        {"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==\tx"},
    ):
        assert (await refusal(house, "root", headers=headers))[0] == 400, headers
    async with aiohttp.ClientSession() as session, session.get(house.gateway.url + "/ws/live") as reply:
        assert reply.status == 404
        assert "content-length" in reply.headers
        assert "transfer-encoding" not in reply.headers, "a page has one length"


async def test_a_viewer_that_talks_too_much_is_closed(house: House) -> None:
    async with watching(house) as viewer:
        for _ in range(500):
            await viewer.send_str("x")
        assert await close_code(viewer, 5) == 1008
    async with watching(house) as viewer:
        await viewer.send_str("x" * 1025)
        assert await close_code(viewer, 5) == 1009
    async with watching(house) as viewer:
        await viewer.send_str("x" * 1024)
        await viewer.send_bytes(b"x")
        assert "rows" in await next_picture(viewer)
    with handshake(house) as flood:
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                flood.sendall(b"\x89\xfd" + bytes(4 + 125))  # pings, which want to be answered
        assert (await asyncio.to_thread(heard, flood))[1] < 5
    with handshake(house) as pieces:  # of one message
        for opcode in (0x01, 0x00):
            pieces.sendall(bytes([opcode, 0x80 | 126]) + struct.pack("!H", 700) + bytes(4) + b"x" * 700)
        assert struct.pack("!H", 1009) in (await asyncio.to_thread(heard, pieces))[0]


async def test_no_more_may_watch_than_the_setting_says(house: House) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(MOST_VIEWERS):
            await stack.enter_async_context(watching(house))
        status, words = await refusal(house)
        assert status == 529
        assert "MAX_LIVE_VIEWERS" in words
    async with watching(house) as viewer:
        assert "rows" in await next_picture(viewer)


def descriptors(process: int) -> int:
    return len([*Path(f"/proc/{process}/fd").iterdir()])


async def test_two_hundred_visits_leave_nothing_behind(house: House) -> None:
    [process] = house.gateway.web_processes()

    async def visit(number: int) -> None:
        if number % 4 == 0:
            assert (await refusal(house, None))[0] == 403
            return
        async with watching(house) as viewer:
            if number % 4 == 1:
                await next_picture(viewer)
            if number % 4 == 2:
                viewer._response.connection.transport.abort()  # type: ignore[union-attr]

    await visit(1)
    before = descriptors(process)
    for start in range(0, 200, 4):
        await asyncio.gather(*map(visit, range(start, start + 4)))
    await asyncio.sleep(1.5)
    assert descriptors(process) <= before + 2
    async with asyncio.TaskGroup() as group:  # and every place is free
        for _ in range(MOST_CONNECTIONS - 2):
            group.create_task(ask(house, {"text": "Hi", "chunk_delay": 0.1}))
    assert "Traceback" not in house.gateway.log.read_text()


def handshake(house: House) -> socket.socket:
    """A viewer that answers no ping and no close."""
    client = socket.create_connection(("127.0.0.1", house.gateway.port), timeout=40)
    lines = {**house.headers(), "host": f"127.0.0.1:{house.gateway.port}", "connection": "upgrade"}
    lines |= {"upgrade": "websocket", "sec-websocket-version": "13", "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    client.sendall(f"GET /ws/live HTTP/1.1\r\n{head}\r\n".encode())
    assert client.recv(12) == b"HTTP/1.1 101"
    return client


def heard(client: socket.socket) -> tuple[bytes, float]:
    """What came until the other side closed, and how many seconds that took."""
    began, told = time.monotonic(), b""
    with client, contextlib.suppress(ConnectionError):
        while piece := client.recv(65536):
            told += piece
    return told, time.monotonic() - began


async def test_the_page_shows_it_and_ends_with_the_session(house: House, chromium: str, pictures: Path) -> None:
    vanished = asyncio.create_task(asyncio.to_thread(heard, handshake(house)))
    async with tab(chromium) as page, watching(house, "second") as second:
        await page.call("Network.setCookie", name="sessionid", value=house.sessions["guest"], url=house.gateway.url)
        await page.open(house.gateway.url + "/admin/live/")
        await until(page, "nothing runs now")
        asking = [asyncio.create_task(ask(house, {**SLOW, "chunk_delay": 0.3}, model=name)) for name in NAMES]
        await until(page, "told once a second")
        await asyncio.sleep(2)
        assert await page.run(ROWS) == len(NAMES)
        assert sorted(await page.run(MODELS)) == sorted(NAMES), "a name stays text"
        written = await page.run("document.getElementById('cc-live-output').textContent")
        assert int(written.replace(",", "")) > 0
        for scheme in ("light", "dark"):
            await page.run(f"document.documentElement.classList.toggle('dark', {json.dumps(scheme == 'dark')})")
            for width in (WIDTH, NARROW):
                await page.picture(pictures / f"live-{scheme}-{width}.png", width)
        await page.resize(HEIGHT, NARROW)
        assert await page.run("document.documentElement.scrollWidth") <= NARROW

        await page.run(HIDE.format("true"))
        await until(page, "Paused")
        await asyncio.gather(*asking)
        assert await page.run(ROWS) == len(NAMES), "nothing is told to a page that nobody sees"
        await page.run(HIDE.format("false"))
        await until(page, "nothing runs now")
        assert await page.run(ROWS) == 0

        house.change("DELETE FROM django_session WHERE session_key = ?", house.sessions["guest"])
        house.change(
            "DELETE FROM auth_user_user_permissions WHERE user_id = (SELECT id FROM auth_user"
            " WHERE username = 'second')"
        )
        assert await close_code(second, 13) == 4403
        await until(page, "You are signed out. Sign in again", 13)
        assert await page.run("document.querySelector('#cc-live-state a').pathname") == "/admin/login/"
        assert page.faults == []
        await page.picture(pictures / "live-signed-out.png")
    assert (await vanished)[1] < 30


@pytest.fixture
def pair(tmp_path: Path, upstream: Mock) -> Iterator[House]:
    """Two processes."""
    if not os.environ.get("REDIS_URL"):
        pytest.fail("REDIS_URL is not set") if os.environ.get("CI") else pytest.skip("REDIS_URL is not set")
    with installation(tmp_path, REDIS_URL=os.environ["REDIS_URL"], DRAIN_SECONDS="3") as gateway:
        gateway.processes = 2
        gateway.start()
        gateway.apply(configuration(upstream))
        held = House(gateway)
        gateway.wait_until_key_works(KEY)
        yield held


async def test_several_processes_are_seen_as_one_until_they_die_and_until_they_end(
    pair: House, chromium: str, pictures: Path
) -> None:
    gateway = pair.gateway
    async with tab(chromium) as page:
        await page.call("Network.setCookie", name="sessionid", value=pair.sessions["guest"], url=gateway.url)
        await page.open(gateway.url + "/admin/live/")
        asking = [asyncio.create_task(ask(pair, {**SLOW, "chunk_delay": 2})) for _ in range(12)]
        async with watching(pair) as viewer:
            while (await next_picture(viewer))["running"] < 12:
                assert not any(each.done() for each in asking)
        os.kill(min(gateway.web_processes()), signal.SIGKILL)
        await asyncio.sleep(4)

        async with watching(pair) as viewer:
            for _ in range(3):
                picture = await next_picture(viewer)
            survivors = [each for each in asking if not each.done()]
            assert picture["running"] == len(survivors) == len({row["request_id"] for row in picture["rows"]})
            assert 0 < len(survivors) < 12

            silent = asyncio.create_task(asyncio.to_thread(heard, handshake(pair)))
            began = time.monotonic()
            assert gateway.process is not None
            gateway.process.send_signal(signal.SIGTERM)
            assert await close_code(viewer, 3) == 1001
            assert time.monotonic() - began < 1
            assert (await silent)[1] < 3
        await until(page, "Connection lost, trying again in")
        await page.picture(pictures / "live-lost.png")
        assert await asyncio.to_thread(gateway.stop) == 0
        await asyncio.gather(*asking, return_exceptions=True)

        pair.change("DELETE FROM django_session WHERE session_key = ?", pair.sessions["guest"])
        await asyncio.to_thread(gateway.start)
        await until(page, "You are signed out", 20)


async def until(page: Page, words: str, seconds: float = 10.0) -> None:
    """Until the page's state says so."""
    told = ""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while words not in told:
                await asyncio.sleep(0.1)
                told = await page.run("document.getElementById('cc-live-state').textContent")
    assert words in told
