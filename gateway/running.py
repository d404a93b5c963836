"""What runs now, in this web process and in its siblings: names and figures, never what is asked or answered."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from channels.exceptions import ChannelFull
from django.utils.crypto import salted_hmac

from accounting.ledger import Entry, Ledger

# The rest is only counted: who looks at more than this reads none of it.
MOST_ROWS = 500
# Seconds for which one picture serves every viewer of this process.
FRESH = 0.9
# Seconds after which a sibling that has said nothing is taken to be gone.
ABSENT = 3.0


class Row(msgspec.Struct, frozen=True):
    """One request. Tokens are what is known without reckoning: told by the provider, or estimated for the journal."""

    request_id: str
    key: str
    model: str
    provider: str
    attempt: int
    age: int  # seconds
    input: int
    output: int
    streamed: bool


class Picture(msgspec.Struct, frozen=True):
    """The longest-running first: they are what one looks for, and their rows stay where they are."""

    running: int = 0
    more: int = 0  # that run as well and have no row
    since: int | None = None  # when the longest-running began, in Unix time
    rows: list[Row] = []


_decode = msgspec.json.Decoder(Picture).decode


def picture(entries: Iterable[Entry], now: float) -> Picture:
    """Of entries in the order in which they began. Only reads, from any thread."""
    open_entries = [entry for entry in entries if entry.attempts and not entry.settled]
    rows = [row_of(entry, now) for entry in open_entries[:MOST_ROWS]]
    since = int(open_entries[0].row.started_at) if open_entries else None
    return Picture(len(open_entries), len(open_entries) - len(rows), since, rows)


def row_of(entry: Entry, now: float) -> Row:
    row, attempt, meter = entry.row, entry.attempts[-1], entry.meter
    read, written = (attempt.usage.read, attempt.usage.output) if meter is None else meter.known()
    age = max(int(now - row.started_at), 0)
    return Row(row.request_id, row.key, row.model, attempt.provider, attempt.number, age, read, written, row.streamed)


def merged(pictures: list[Picture]) -> Picture:
    rows = sorted(itertools.chain.from_iterable(each.rows for each in pictures), key=lambda row: -row.age)[:MOST_ROWS]
    running = sum(each.running for each in pictures)
    since = min((each.since for each in pictures if each.since is not None), default=None)
    return Picture(running, running - len(rows), since, rows)


def group() -> str:
    """Of this installation alone: another one may use the same Redis, and its people are not ours."""
    return f"ccproxy.live.{salted_hmac('ccproxy.live', '').hexdigest()[:16]}"


class Overview:
    """The picture of all web processes. Made when somebody looks: who is not watched does nothing.

    Processes ask each other through the channel layer, in the thread that listens to it anyway; the event loop only
    takes what was told last.
    """

    def __init__(self, ledger: Callable[[], Ledger]) -> None:
        self._ledger = ledger
        self._shown = ""
        self._shown_at = float("-inf")
        self._told: dict[str, tuple[float, Picture]] = {}
        self._layer: Any = None
        self._channel = self._group = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asking: concurrent.futures.Future[None] | None = None

    def shown(self) -> str:
        """As JSON. A sibling's part comes a second later than one's own."""
        now = time.monotonic()
        if now - self._shown_at > FRESH:
            self._shown_at = now
            self._ask()
            siblings = [told for heard_at, told in [*self._told.values()] if now - heard_at < ABSENT]
            self._shown = msgspec.json.encode(merged([self._own(), *siblings])).decode()
        return self._shown

    def _own(self) -> Picture:
        return picture(self._ledger().entries(), time.time())

    def _ask(self) -> None:
        if self._loop is None or (self._asking is not None and not self._asking.done()):
            return
        question = {"type": "live.ask", "reply": self._channel}
        self._asking = asyncio.run_coroutine_threadsafe(self._layer.group_send(self._group, question), self._loop)

    # In the listener's thread

    async def join(self, layer: Any, channel: str) -> None:
        self._layer, self._channel, self._group = layer, channel, group()
        await layer.group_add(self._group, channel)
        self._loop = asyncio.get_running_loop()

    def leave(self) -> None:
        self._loop = None

    async def hear(self, message: dict[str, Any]) -> None:
        if message["type"] == "live.told":
            self._note(message["sibling"], _decode(message["picture"]))
        elif message["type"] == "live.ask" and message["reply"] != self._channel:
            answer = {"type": "live.told", "sibling": self._channel, "picture": msgspec.json.encode(self._own())}
            with contextlib.suppress(ChannelFull):  # whoever asked has not listened for long
                await self._layer.send(message["reply"], answer)

    def _note(self, sibling: str, told: Picture) -> None:
        now = time.monotonic()
        present = {name: each for name, each in self._told.items() if now - each[0] < ABSENT}
        self._told = {**present, sibling: (now, told)}
