"""Clients that ask until they are told to stop, and write down what they saw: the ledger's witnesses."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp

from ccproxy_site.tests.e2e.family import Mock
from providers.dialects import DIALECTS

KINDS = list(DIALECTS)
MODELS = [f"claude-{kind}" for kind in KINDS]
# After a refused connection: the gateway may be starting.
PAUSE = 0.15
PATIENCE = aiohttp.ClientTimeout(total=60, sock_connect=5)


def configuration(upstream: Mock) -> dict[str, Any]:
    """The same mock in every language that is there, each with a model of its own."""
    providers = [{"name": kind, "type": kind, "base_url": upstream.url, "auth_value": "sk-upstream"} for kind in KINDS]
    return {"providers": providers, "model_routes": {f"claude-{kind}": [{"provider": kind}] for kind in KINDS}}


@dataclass
class Seen:
    """One request as its client saw it. `whole`: the answer was there to its last word."""

    model: str
    streamed: bool
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    request_id: str = ""
    status: int = 0
    served_by: str = ""
    whole: bool = False
    failure: str = ""
    text_length: int = 0
    usage: dict[str, int] = field(default_factory=dict)

    @property
    def dropped(self) -> bool:
        """It had begun to come and never ended."""
        return self.status == 200 and not self.whole

    def figures(self) -> dict[str, int]:
        """In the ledger's words, as far as a client can tell: it is not told how long a cache entry lives."""
        return {
            "input": self.usage.get("input_tokens", 0),
            "cache_read": self.usage.get("cache_read_input_tokens", 0),
            "cache_write": self.usage.get("cache_creation_input_tokens", 0),
            "output": self.usage.get("output_tokens", 0),
        }

    def note_usage(self, usage: Mapping[str, Any] | None) -> None:
        self.usage.update({name: value for name, value in (usage or {}).items() if isinstance(value, int)})


@dataclass
class Ask:
    """A question whose answer is known beforehand."""

    body: dict[str, Any]
    text_length: int


def compose(chance: random.Random, model: str, *, slow: float) -> Ask:
    """Mostly short answers, some long ones, and `slow` of all as streams that take one to three seconds."""
    size = chance.choice((1, 40, 300, 3000, 20_000))
    script: dict[str, Any] = {"size": size, "chunks": chance.randint(1, 12)}
    streamed = chance.random() < 0.7
    if chance.random() < slow:
        streamed, script["chunks"] = True, 20
        script["chunk_delay"] = chance.uniform(0.05, 0.15)
    if chance.random() < 0.2:
        script["thinking"] = "Let me see." * chance.randint(1, 20)
    block: dict[str, Any] = {"type": "text", "text": "word " * chance.randint(1, 400)}
    if chance.random() < 0.4:
        block["cache_control"] = {"type": "ephemeral", **({"ttl": "1h"} if chance.random() < 0.5 else {})}
    order = {"type": "text", "text": f"[[mock: {json.dumps(script)}]]"}
    body = {"model": model, "max_tokens": 8000, "stream": streamed}
    return Ask({**body, "messages": [{"role": "user", "content": [block, order]}]}, size)


class Load:
    """While the block runs, `clients` of them ask, each the next question as soon as it has its answer.

    They have their own thread and event loop, so that a test may kill, wait and measure meanwhile. On leaving, every
    client first finishes what it has begun.
    """

    def __init__(
        self,
        url: str,
        askers: Sequence[tuple[str, str]],  # key and model; clients take them in turn
        *,
        clients: int = 8,
        seed: int = 0,
        slow: float = 0.15,
        pause: float = 0.03,
        keep_alive: bool = True,  # else every question comes over a connection of its own
    ) -> None:
        self.seen: list[Seen] = []
        self._url = url
        self._askers = askers
        self._clients = clients
        self._seed = seed
        self._slow = slow
        self._pause = pause
        self._keep_alive = keep_alive
        self._stop_asked = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")
        self._trouble: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_asked.set()
        self._thread.join()
        if self._trouble is not None:
            raise self._trouble

    def _run(self) -> None:
        try:
            asyncio.run(self._ask_until_stopped())
        except BaseException as error:  # noqa: BLE001 - raised again where the load ends
            self._trouble = error

    async def _ask_until_stopped(self) -> None:
        connector = aiohttp.TCPConnector(limit=0, force_close=not self._keep_alive)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=PATIENCE) as session,
            asyncio.TaskGroup() as group,
        ):
            for number in range(self._clients):
                group.create_task(self._client(session, number))

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        chance = random.Random(f"{self._seed}-{number}")
        turn = number
        while not self._stop_asked.is_set():
            key, model = self._askers[turn % len(self._askers)]
            turn += self._clients + 1
            seen = await ask(session, self._url, key, compose(chance, model, slow=self._slow))
            self.seen.append(seen)
            await asyncio.sleep(chance.uniform(0, 2 * self._pause) if seen.status == 200 else PAUSE)


async def ask(session: aiohttp.ClientSession, url: str, key: str, question: Ask, seen: Seen | None = None) -> Seen:
    """`seen` is for somebody who wants to watch it coming."""
    seen = seen or Seen(question.body["model"], question.body["stream"])
    try:
        async with session.post(
            url + "/v1/messages", json=question.body, headers={"x-api-key": key, "anthropic-version": "2023-06-01"}
        ) as reply:
            seen.status = reply.status
            seen.request_id = reply.headers.get("request-id", "")
            seen.served_by = reply.headers.get("x-ccproxy-provider", "")
            if reply.status != 200:
                seen.failure = (await reply.text())[:300]
            elif seen.streamed:
                await read_stream(reply, seen)
            else:
                read_message(json.loads(await reply.read()), seen)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        seen.failure = f"{type(error).__name__}: {error}"
    seen.ended = time.monotonic()
    if seen.whole and seen.text_length != question.text_length:
        seen.whole, seen.failure = False, f"{seen.text_length} characters came of {question.text_length}"
    return seen


async def read_stream(reply: aiohttp.ClientResponse, seen: Seen) -> None:
    async for line in reply.content:
        if not line.startswith(b"data:"):
            continue
        event = json.loads(line[5:])
        kind = event["type"]
        if kind == "message_start":
            seen.note_usage(event["message"].get("usage"))
        elif kind == "content_block_delta":
            seen.text_length += len(event["delta"].get("text", ""))
        elif kind == "message_delta":
            seen.note_usage(event.get("usage"))
        elif kind == "message_stop":
            seen.whole = True
        elif kind == "error":
            seen.failure = event["error"]["message"]


def read_message(message: Any, seen: Seen) -> None:
    seen.note_usage(message.get("usage"))
    seen.text_length = sum(len(block.get("text", "")) for block in message["content"])
    seen.whole = message["type"] == "message"
