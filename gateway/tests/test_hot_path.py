"""The way of a request through the gateway: no query, no thread, nothing the contract forbids; and who would notice."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import SyncToAsync, sync_to_async
from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper

from accounting.models import ApiKey
from gateway.relay import Relay
from gateway.tests.conftest import Gateway, Upstream, endpoint, question
from providers.routing import Route, Target

# What leads off the event loop, each by the door that everything of its kind goes through.
HOPS: dict[str, tuple[object, str]] = {
    "sync_to_async": (SyncToAsync, "__call__"),
    "run_in_executor": (asyncio.base_events.BaseEventLoop, "run_in_executor"),
    "a thread": (threading.Thread, "start"),
    "a pool": (concurrent.futures.ThreadPoolExecutor, "submit"),
}
QUERIES: dict[str, tuple[object, str]] = {
    "a connection": (BaseDatabaseWrapper, "ensure_connection"),
    "a cursor": (BaseDatabaseWrapper, "cursor"),
}


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """What happened off the event loop or in the database while the block ran; a query is refused as well."""
    noticed: list[str] = []

    def notice(name: str, honest: Any) -> Any:
        def door(*arguments: Any, **options: Any) -> Any:
            noticed.append(name)
            if name in QUERIES:
                raise AssertionError("a query on the hot path")
            return honest(*arguments, **options)

        return door

    with pytest.MonkeyPatch.context() as patch:
        for name, (owner, attribute) in {**HOPS, **QUERIES}.items():
            patch.setattr(owner, attribute, notice(name, getattr(owner, attribute)))
        yield noticed


@pytest.fixture
async def ready(gateway: Gateway, upstream: Upstream, kind: str) -> Gateway:
    gateway.route(Route("claude-*", (Target(endpoint(1, kind, upstream.url), "", 1),)))
    return gateway


async def pass_by(gateway: Gateway, *, stream: bool) -> tuple[int, list[str]]:
    with watched() as noticed:
        reply = await gateway.ask(question(stream=stream))
    return reply.status, noticed


@pytest.mark.parametrize("stream", [True, False])
async def test_hot_path_stays_on_the_loop_and_asks_no_database(ready: Gateway, stream: bool) -> None:
    first, second = [await pass_by(ready, stream=stream) for _ in range(2)]
    assert first == second == (200, [])
    assert len(ready.settled()) == 2


@pytest.mark.parametrize("stream", [True, False])
async def test_hot_path_stays_on_the_loop_when_providers_fail(ready: Gateway, upstream: Upstream, stream: bool) -> None:
    await upstream.script({"status": 529})
    status, noticed = await pass_by(ready, stream=stream)
    assert (status, noticed) == (529, [])


async def hop() -> None:
    await sync_to_async(len)("to a thread and back")


async def hop_by_hand() -> None:
    await asyncio.get_running_loop().run_in_executor(None, len, "")


async def hop_by_asyncio() -> None:
    await asyncio.to_thread(len, "")


async def start_a_thread() -> None:
    thread = threading.Thread(target=len, args=("",))
    thread.start()
    thread.join()


async def query() -> None:
    ApiKey.objects.exists()


async def query_in_a_thread() -> None:
    await ApiKey.objects.aexists()


async def prepare() -> None:
    """Nothing planted: the test itself is not what is noticed."""


PLANTED: dict[Callable[[], Awaitable[None]], set[str]] = {
    prepare: set(),
    hop: {"sync_to_async", "run_in_executor"},
    hop_by_hand: {"run_in_executor", "a pool"},
    hop_by_asyncio: {"run_in_executor"},
    start_a_thread: {"a thread"},
    query: {"a cursor"},
    query_in_a_thread: {"sync_to_async"},
}


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.__name__)
@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_planted_on_the_hot_path_is_noticed(
    ready: Gateway, monkeypatch: pytest.MonkeyPatch, planted: Callable[[], Awaitable[None]], stream: bool
) -> None:
    honest_whole, honest_stream = Relay.whole, Relay.stream

    async def whole(relay: Relay) -> bytes:
        with contextlib.suppress(AssertionError):
            await planted()
        return await honest_whole(relay)

    async def streamed(relay: Relay) -> AsyncIterator[bytes]:
        with contextlib.suppress(AssertionError):
            await planted()
        async for piece in honest_stream(relay):
            yield piece

    monkeypatch.setattr(Relay, "whole", whole)
    monkeypatch.setattr(Relay, "stream", streamed)
    _, noticed = await pass_by(ready, stream=stream)
    assert bool(noticed) == bool(PLANTED[planted])
    assert PLANTED[planted] <= set(noticed)


PACKAGES = ("accounting", "ccproxy_site", "gateway", "providers")
LINT = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]


def lint(house: Path) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": str(house)}
    done = subprocess.run(LINT, cwd=house, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_what_the_contract_forbids_is_noticed(tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(settings.BASE_DIR / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(settings.BASE_DIR / "pyproject.toml", tmp_path)
    code, told = lint(tmp_path)
    assert code == 0, told

    planted = {
        "gateway/relay.py": "import httpx",
        "providers/routing.py": "import django",
        "accounting/ledger.py": "import gateway.runtime",
    }
    for path, line in planted.items():
        with (tmp_path / path).open("a") as file:
            file.write(f"\n{line}\n")

    code, told = lint(tmp_path)
    assert code != 0
    assert "0 kept, 3 broken" in told, told
    for forbidden in ("gateway.relay -> httpx", "providers.routing -> django", "accounting.ledger -> gateway.runtime"):
        assert forbidden in told, told
