"""One gateway in this process, without a database: a snapshot made by hand, a real spool, a real mock upstream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from accounting import keys
from accounting.ledger import Ledger, Settled, decode_line
from accounting.prices import PriceList
from accounting.snapshot import Books, KeyCard
from accounting.spool import Spool
from ccproxy_site.lean import LeanHandler
from gateway import runtime
from gateway.configuration import Snapshot
from providers.dialects import DIALECTS
from providers.dialects.lessons import LEARNT
from providers.mock.server import running
from providers.routing import Endpoint, Route, Routing, Timeouts

OWNER_TOKEN, LIMITED_TOKEN, REVOKED_TOKEN, EXPIRED_TOKEN = (keys.mint() for _ in range(4))


def card(number: int, name: str, **changes: Any) -> KeyCard:
    known: dict[str, Any] = {
        "id": number,
        "name": name,
        "owner": f"{name}@example.org",
        "cost_centre": "CC1",
        "allowed_models": (),
        "scopes": frozenset({"messages"}),
        "expires_at": None,
        "revoked": False,
    }
    return KeyCard(**{**known, **changes})


CARDS = {
    keys.digest(OWNER_TOKEN): card(1, "owner"),
    keys.digest(LIMITED_TOKEN): card(2, "limited", allowed_models=("*haiku*",)),
    keys.digest(REVOKED_TOKEN): card(3, "revoked", revoked=True),
    keys.digest(EXPIRED_TOKEN): card(4, "expired", expires_at=1.0),
}


class Upstream:
    """A mock upstream that runs, and what it saw and billed."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def script(self, *scripts: dict[str, Any]) -> None:
        await self._post("/__script", list(scripts))

    async def default(self, script: dict[str, Any]) -> None:
        await self._post("/__script", {"default": script})

    async def bill(self) -> list[dict[str, Any]]:
        return list((await self._get("/__bill"))["calls"])

    async def requests(self) -> list[dict[str, Any]]:
        return list(await self._get("/__requests"))

    async def _post(self, path: str, body: Any) -> None:
        async with aiohttp.ClientSession() as session, session.post(self.url + path, json=body) as reply:
            assert reply.status < 300, await reply.text()

    async def _get(self, path: str) -> Any:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as reply:
            return await reply.json()


class Reply:
    """What an ASGI server would have sent."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.pieces: list[bytes] = []
        self.finished = False

    async def take(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            if message.get("body"):
                self.pieces.append(message["body"])
            self.finished = not message.get("more_body", False)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[tuple[str, Any]]:
        frames = [frame for frame in self.body.decode().split("\n\n") if frame and not frame.startswith(":")]
        lines = [dict(line.split(": ", 1) for line in frame.split("\n")) for frame in frames]
        return [(line["event"], json.loads(line["data"])) for line in lines]

    def text(self) -> str:
        deltas = [data["delta"] for name, data in self.events() if name == "content_block_delta"]
        return "".join(delta.get("text", "") for delta in deltas)


class Gateway:
    """The lean handler with a runtime of its own; requests go in as ASGI messages."""

    def __init__(self, held: runtime.Runtime) -> None:
        self.runtime = held
        self.application = LeanHandler()

    def route(self, *routes: Route) -> None:
        books = Books(CARDS, PriceList([]))
        self.runtime.configuration.install(Snapshot(1, Routing(routes), books))

    async def ask(
        self,
        body: Any,
        *,
        path: str = "/v1/messages",
        method: str = "POST",
        token: str | None = OWNER_TOKEN,
        headers: dict[str, str] | None = None,
        leave_after: float | None = None,
    ) -> Reply:
        reply = Reply()
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json", **({"x-api-key": token} if token else {}), **(headers or {})}
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        }
        messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": raw, "more_body": False})
        if leave_after is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(leave_after, messages.put_nowait, {"type": "http.disconnect"})
        await self.application(scope, messages.get, reply.take)
        return reply

    def settled(self) -> list[Settled]:
        """What the spool holds of finished requests."""
        lines = [decode_line(payload) for payload in self.runtime.ledger.spool.unread()[0]]
        return [line for line in lines if isinstance(line, Settled)]

    def lines(self) -> list[Any]:
        return [decode_line(payload) for payload in self.runtime.ledger.spool.unread()[0]]


def endpoint(number: int, kind: str, url: str, **changes: Any) -> Endpoint:
    known = Endpoint(id=number, name=f"{kind}-{number}", type=kind, base_url=url, credential=f"secret-{number}")
    return msgspec.structs.replace(known, **changes)


def question(text: str = "Hello", **changes: Any) -> dict[str, Any]:
    message = {"role": "user", "content": text}
    return {"model": "claude-opus-5-5", "max_tokens": 1000, "stream": True, "messages": [message], **changes}


QUICK = Timeouts(connect=1.0, first_byte=0.4, idle=0.4, total=5.0)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    held = runtime.Runtime()
    held.ledger = Ledger(Spool(tmp_path / "spool", segment_bytes=256 * 1024))
    before = runtime.replace(held)
    LEARNT.forget()
    yield Gateway(held)
    runtime.replace(before)
    await held.upstreams.close()
    held.ledger.close()


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with running() as url:
        yield Upstream(url)


@pytest.fixture
async def second_upstream() -> AsyncIterator[Upstream]:
    async with running() as url:
        yield Upstream(url)


@pytest.fixture(params=list(DIALECTS))
def kind(request: pytest.FixtureRequest) -> str:
    """Whatever a client can tell must be the same for every upstream language."""
    return str(request.param)
