"""Keys, routes and providers change under load: new requests follow within seconds, running streams do not notice."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from accounting import keys
from ccproxy_site.tests.e2e.family import Installation, Mock, installation, mock
from ccproxy_site.tests.e2e.load import KINDS, PATIENCE, Ask, Load, Seen, ask

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

AIM, LIMIT = 1.5, 7.5  # seconds until a change is in force
WAYS = ("save", "update", "apply")

# What an administrator would do, by `manage.py shell`: saved in the admin, and in bulk as an action would.
BY_HAND = {
    ("key", "save"): "key = ApiKey.objects.get(name={name!r}); key.revoked_at = timezone.now(); key.save()",
    ("key", "update"): "ApiKey.objects.filter(name={name!r}).update(revoked_at=timezone.now())",
    ("route", "save"): (
        "target = RouteTarget.objects.get(route__pattern={name!r});"
        " target.provider = Provider.objects.get(name='new'); target.upstream_model = 'moved'; target.save()"
    ),
    ("route", "update"): (
        "RouteTarget.objects.filter(route__pattern={name!r})"
        ".update(provider=Provider.objects.get(name='new'), upstream_model='moved')"
    ),
    ("provider", "save"): "one = Provider.objects.get(name={name!r}); one.enabled = False; one.save()",
    ("provider", "update"): "Provider.objects.filter(name={name!r}).update(enabled=False)",
}
IMPORTS = """
import os, time
from django.core.management import call_command
from django.utils import timezone
from accounting.models import *
from providers.models import *
"""


@dataclass(frozen=True)
class Move:
    """One change of configuration. Each has a key, a route and a provider that no other one touches."""

    what: str  # key, route, provider
    way: str

    @property
    def name(self) -> str:
        return f"{self.what}-{self.way}"

    def is_in_force(self, seen: Seen) -> bool:
        if self.what == "key":
            return seen.status == 401
        if self.what == "route":
            return seen.served_by == "new"
        return seen.status == 503

    def document(self, upstream: Mock) -> dict[str, Any]:
        if self.what == "key":
            return {"keys": [{"name": self.name, "revoked": True}]}
        if self.what == "route":
            return {"model_routes": {self.name: [{"provider": "new", "model": "moved"}]}}
        return {"providers": [{**provider(self.name, upstream), "enabled": False}]}


MOVES = [Move(what, way) for what in ("key", "route", "provider") for way in WAYS]


def provider(name: str, upstream: Mock) -> dict[str, Any]:
    kind = KINDS[hash_of(name) % len(KINDS)]
    return {"name": name, "type": kind, "base_url": upstream.url, "auth_value": "sk-upstream"}


def hash_of(name: str) -> int:
    return sum(name.encode())


def configuration(upstream: Mock, tokens: dict[str, str]) -> dict[str, Any]:
    names = [move.name for move in MOVES]
    return {
        "providers": [provider(name, upstream) for name in [*names, "new"]],
        "model_routes": {name: [{"provider": name}] for name in names},
        "keys": [{"name": name, "token": token} for name, token in tokens.items()],
    }


def script_of(move: Move, folder: Path, upstream: Mock) -> str:
    if move.way != "apply":
        return BY_HAND[move.what, move.way].format(name=move.name)
    path = folder / f"{move.name}.yaml"
    path.write_text(json.dumps(move.document(upstream)))
    return f"call_command('apply', {str(path)!r}, stdout=open(os.devnull, 'w'))"


def carry_out(gateway: Installation, upstream: Mock, moves: list[Move]) -> dict[str, float]:
    """One after the other; when each was committed, by the clock on the wall."""
    lines = [IMPORTS]
    for move in moves:
        lines += [script_of(move, gateway.folder, upstream), f"print({move.name!r}, time.time()); time.sleep(0.4)"]
    told = [line.split() for line in gateway.manage("shell", "-v0", "-c", "\n".join(lines)).splitlines()]
    return {name: float(moment) for name, moment in told}


class Watch:
    """Asks short questions all the time, and notes when the answer becomes another one."""

    def __init__(self, url: str, tokens: dict[str, str]) -> None:
        self._url = url
        self._tokens = tokens
        self.changed: dict[str, float] = {}
        self.changed_back: list[str] = []
        self.failures: list[Seen] = []

    async def follow(self, move: Move, stopped: Callable[[], bool]) -> None:
        body = {"model": move.name, "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}], "stream": False}
        async with aiohttp.ClientSession(timeout=PATIENCE) as session:
            while not stopped():
                began = time.time()
                seen = await ask(session, self._url, self._tokens[move.name], Ask(body, 0))
                if move.is_in_force(seen):
                    self.changed.setdefault(move.name, began)
                elif move.name in self.changed:
                    self.changed_back.append(move.name)
                elif seen.status != 200:
                    self.failures.append(seen)
                await asyncio.sleep(0.05)


@pytest.fixture(params=["polled", "hurried"])
def moved(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Installation, Mock, dict[str, str]]]:
    """Looking every second, or hardly ever, so that it is the message through Redis that does it."""
    extra = {}
    if request.param == "hurried":
        if not os.environ.get("REDIS_URL"):
            pytest.fail("REDIS_URL is not set") if os.environ.get("CI") else pytest.skip("REDIS_URL is not set")
        extra = {"REDIS_URL": os.environ["REDIS_URL"], "CONFIG_POLL_SECONDS": "60"}
    with mock(tmp_path) as upstream, installation(tmp_path, worker=False, **extra) as gateway:
        tokens = {move.name: keys.mint() for move in MOVES}
        gateway.start()
        gateway.apply(configuration(upstream, tokens))
        gateway.wait_until_key_works(tokens[MOVES[0].name])
        yield request.param, gateway, upstream, tokens


def test_changes_are_in_force_at_once_and_drop_no_stream(
    moved: tuple[str, Installation, Mock, dict[str, str]],
) -> None:
    how, gateway, upstream, tokens = moved
    watch, committed = Watch(gateway.url, tokens), dict[str, float]()
    moves = [move for move in MOVES if how == "polled" or move.way == "save"]
    askers = [(tokens[move.name], move.name) for move in MOVES]

    async def watch_all() -> None:
        working = asyncio.get_running_loop().run_in_executor(None, change_all)
        await asyncio.gather(*(watch.follow(move, working.done) for move in moves))
        await working

    def change_all() -> None:
        time.sleep(1)
        committed.update(carry_out(gateway, upstream, moves))
        until = time.monotonic() + LIMIT
        while len(watch.changed) < len(moves) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.5)

    with Load(gateway.url, askers, clients=len(MOVES), slow=0.8, pause=0.1) as load:
        asyncio.run(watch_all())

    delays = {name: watch.changed.get(name, float("inf")) - moment for name, moment in committed.items()}
    for name, delay in delays.items():
        print(f"{how}: {name} in force after {delay:.2f} s (aim {AIM} s)")  # noqa: T201 - what the test is for
    assert all(delay <= LIMIT for delay in delays.values()), delays
    assert watch.failures == []
    assert watch.changed_back == []
    assert [seen for seen in load.seen if seen.dropped] == []
    assert sum(seen.whole and seen.ended - seen.began > 1 for seen in load.seen) > len(MOVES), "no long streams ran"
    assert {seen.status for seen in load.seen} <= {200, 401, 503}
