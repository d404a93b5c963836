"""What operators read and do: who may, what stands there, and what never does."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.core.handlers.asgi import ASGIHandler
from django.db import DatabaseError
from django.test import Client
from django.utils import timezone

from accounting import keys
from accounting.models import DirtyQuarter
from accounting.prices import PriceList
from accounting.snapshot import Books
from gateway import figures, operator, watch
from gateway.configuration import Snapshot
from gateway.metrics import Publisher
from gateway.tests.conftest import (
    CARDS,
    EXPIRED_TOKEN,
    OWNER_TOKEN,
    REVOKED_TOKEN,
    Gateway,
    Reply,
    Upstream,
    card,
    endpoint,
    question,
)
from gateway.tests.test_relay import route_to
from providers.errors import KeyRefused
from providers.models import ConfigVersion, ModelList, ModelRoute, Provider, ProviderHealth, RouteTarget
from providers.routing import Endpoint, KnownModel, Routing

OPERATOR_TOKEN = keys.mint()
BASE_URL = "https://api.of-a-provider.example/v1"
T = TypeVar("T")
READING = ("/metrics", "/v1/metrics", "/providers")


def install(gateway: Gateway, *endpoints: Endpoint) -> None:
    """A configuration that knows a key of operators; figures of this gateway alone."""
    gateway.runtime.publisher = Publisher(gateway.runtime.metrics, gateway.runtime.ledger.spool.directory / "metrics")
    cards = {**CARDS, keys.digest(OPERATOR_TOKEN): card(9, "operator", scopes=frozenset({"operator"}))}
    routing = Routing([route_to(*endpoints or [endpoint(1, "openai", BASE_URL)])])
    gateway.runtime.configuration.install(Snapshot(4, routing, Books(cards, PriceList([]))))


async def read(gateway: Gateway, path: str, token: str | None = OPERATOR_TOKEN, **asked: Any) -> Reply:
    return await gateway.ask(b"", **{"method": "GET", **asked}, path=path, token=token)


def signed_in(name: str, *permissions: str, **fields: Any) -> Client:
    user = User.objects.create_user(name, **fields)
    for permission in permissions:
        label, codename = permission.split(".")
        user.user_permissions.add(Permission.objects.get(content_type__app_label=label, codename=codename))
    client = Client()
    client.force_login(user)
    return client


def cookies(client: Client) -> dict[str, str]:
    return {"cookie": "; ".join(f"{name}={morsel.value}" for name, morsel in client.cookies.items())}


async def in_database(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(watch.in_thread, work)


@pytest.mark.parametrize("path", READING)
async def test_a_key_needs_the_scope_of_operators(gateway: Gateway, transactional_db: None, path: str) -> None:
    install(gateway)
    statuses = {
        token: (await read(gateway, path, token)).status
        for token in (None, "nonsense", keys.mint(), OWNER_TOKEN, REVOKED_TOKEN, EXPIRED_TOKEN, OPERATOR_TOKEN)
    }
    assert [*statuses.values()] == [401, 401, 401, 403, 401, 401, 200]
    refused = (await read(gateway, path, OWNER_TOKEN)).json()
    assert refused["error"]["type"] == "permission_error"
    assert "operator" in refused["error"]["message"]


async def test_a_key_of_operators_asks_no_models(gateway: Gateway) -> None:
    install(gateway)
    assert (await gateway.ask(question(), token=OPERATOR_TOKEN)).status == 403
    assert (await read(gateway, "/v1/models")).status == 403


@pytest.fixture
def visitors(transactional_db: None) -> dict[str, dict[str, str]]:
    return {
        "superuser": cookies(signed_in("root", is_staff=True, is_superuser=True)),
        "viewer": cookies(signed_in("viewer", "providers.view_provider", is_staff=True)),
        "changer": cookies(signed_in("changer", "providers.view_provider", "providers.change_provider", is_staff=True)),
        "finance": cookies(signed_in("finance", "accounting.view_reports", is_staff=True)),
        "staff": cookies(signed_in("staff", is_staff=True)),
        "no staff": cookies(signed_in("developer", "providers.view_provider")),
        "inactive": cookies(signed_in("gone", "providers.view_provider", is_staff=True, is_active=False)),
        "nonsense": {"cookie": f"{settings.SESSION_COOKIE_NAME}=nonsense"},
    }


@pytest.mark.parametrize("path", READING)
async def test_a_session_needs_staff_with_the_permission(
    gateway: Gateway, visitors: dict[str, dict[str, str]], path: str
) -> None:
    install(gateway)
    statuses = {name: (await read(gateway, path, None, headers=sent)).status for name, sent in visitors.items()}
    assert {name for name, status in statuses.items() if status == 200} == {"superuser", "viewer", "changer"}
    assert {statuses[name] for name in ("finance", "staff", "no staff")} == {403}
    assert {statuses[name] for name in ("inactive", "nonsense")} == {401}


async def test_addresses_of_providers_are_for_superusers_and_operators(
    gateway: Gateway, visitors: dict[str, dict[str, str]], configured: Provider
) -> None:
    install(gateway)
    for name, shown in (("superuser", True), ("viewer", False), ("changer", False)):
        for path in ("/providers", "/health"):
            reply = await read(gateway, path, None, headers=visitors[name])
            assert (BASE_URL in reply.body.decode()) == shown
            assert "openai-1" in reply.body.decode()
    for path in ("/providers", "/health"):
        assert BASE_URL in (await read(gateway, path)).body.decode()


async def test_prometheus_may_read_without_a_key_where_that_is_wanted(
    gateway: Gateway, transactional_db: None, settings: Any
) -> None:
    install(gateway)
    settings.METRICS_OPEN = True
    reply = await read(gateway, "/metrics", None)
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE ccproxy_running_requests gauge" in reply.body.decode()
    assert (await read(gateway, "/v1/metrics", None)).status == 401
    assert (await read(gateway, "/metrics/", None, method="HEAD")).body == b""


@pytest.fixture
def configured(transactional_db: None) -> Provider:
    """As the snapshot of these tests names it, with a route, a list of models and a probe."""
    provider = Provider(name="openai-1", type="openai", base_url=BASE_URL)
    provider.set_credential("sk-never-shown")
    provider.save()
    route = ModelRoute.objects.create(pattern="claude-*")
    RouteTarget.objects.create(route=route, provider=provider, upstream_model="gpt-x")
    ModelList.objects.create(provider=provider, base_url=BASE_URL, listed=["a", "b"], seen_at=timezone.now())
    probed(provider, ok=True)
    return provider


def probed(provider: Provider, *, ok: bool, ago: float = 0.0) -> None:
    moment = timezone.now() - dt.timedelta(seconds=ago)
    ProviderHealth.objects.update_or_create(
        provider=provider, defaults={"checked_at": moment, "ok": ok, "latency_ms": 12}
    )


async def test_providers_are_listed_as_they_stand(gateway: Gateway, configured: Provider, upstream: Upstream) -> None:
    install(gateway, endpoint(configured.pk, "openai", upstream.url, name="openai-1"))
    await upstream.script({"text": "fine"}, {"status": 429, "retry_after": 30})
    assert [(await gateway.ask(question())).status for _ in range(2)] == [200, 429]
    told = (await read(gateway, "/providers")).json()
    assert told["configuration_version"] == 4
    [provider] = told["providers"]
    assert provider["routes"] == [{"pattern": "claude-*", "model": "gpt-x"}]
    known = ("name", "type", "enabled", "healthy", "latency_ms", "models_known")
    assert [provider[name] for name in known] == ["openai-1", "openai", True, True, 12, 2]
    assert (provider["attempts_last_hour"], provider["errors_last_hour"]) == (2, 1)
    assert provider["failures_last_hour"] == {"rate_limit_error": 1}
    assert (provider["consecutive_failures"], provider["health_score"]) == (1, 0.5)
    assert abs(dt.datetime.fromisoformat(provider["last_success"]).timestamp() - time.time()) < 10
    [rest] = provider["cooldown"]
    assert rest["model"] == "claude-opus-5-5"
    assert 25 < rest["seconds_left"] <= 30


async def test_a_provider_that_nobody_knows_yet_is_listed(gateway: Gateway, transactional_db: None) -> None:
    install(gateway)
    await in_database(lambda: Provider.objects.create(name="new", type="openai", base_url=BASE_URL, enabled=False))
    [provider] = (await read(gateway, "/providers")).json()["providers"]
    assert (provider["healthy"], provider["checked_at"], provider["last_success"]) == (None, None, None)
    assert (provider["routes"], provider["cooldown"], provider["health_score"]) == ([], [], None)


async def test_a_reload_moves_the_version(gateway: Gateway, transactional_db: None) -> None:
    install(gateway)
    before = await in_database(ConfigVersion.current)
    reply = await read(gateway, "/providers/reload", method="POST")
    assert (reply.status, reply.json()) == (200, {"configuration_version": before + 1})
    assert await in_database(ConfigVersion.current) == before + 1
    assert (await read(gateway, "/providers/reload")).status == 405
    assert (await read(gateway, "/providers/reload", OWNER_TOKEN, method="POST")).status == 403


async def test_another_site_cannot_reload_in_the_name_of_whoever_is_signed_in(
    gateway: Gateway, visitors: dict[str, dict[str, str]]
) -> None:
    install(gateway)
    token = "a" * 32
    session = visitors["changer"]["cookie"]
    with_token = {"cookie": f"{session}; csrftoken={token}", "x-csrftoken": token, "host": "localhost"}
    without = {**with_token, "x-csrftoken": "b" * 32}
    foreign = {**with_token, "origin": "https://elsewhere.example"}
    viewer = {**with_token, "cookie": f"{visitors['viewer']['cookie']}; csrftoken={token}"}
    before = await in_database(ConfigVersion.current)
    for sent in ({"cookie": session}, without, foreign, viewer):
        assert (await read(gateway, "/providers/reload", None, method="POST", headers=sent)).status == 403
    assert await in_database(ConfigVersion.current) == before
    assert (await read(gateway, "/providers/reload", None, method="POST", headers=with_token)).status == 200


async def test_figures_as_json_are_those_of_what_was_asked(
    gateway: Gateway, upstream: Upstream, transactional_db: None
) -> None:
    install(gateway, endpoint(1, "openai", upstream.url))
    await upstream.script({"text": "one"}, {"text": "two"}, {"status": 500})
    for _ in range(3):
        await gateway.ask(question())
    told = (await read(gateway, "/v1/metrics")).json()
    assert told["total"]["by_status"] == told["last_hour"]["by_status"] == {"completed": 2, "failed": 1}
    assert told["last_hour"]["error_share"] == pytest.approx(1 / 3, abs=1e-3)
    [route] = told["last_hour"]["routes"]
    assert (route["provider"], route["route"], route["requests"], route["failed"]) == ("openai-1", "claude-*", 3, 1)
    assert 0 < route["duration_seconds"]["p50"] <= route["duration_seconds"]["p99"] < 10
    assert route["first_byte_seconds"]["p95"] > 0
    booked = [settled.attempts[-1].usage for settled in gateway.settled()]
    assert told["total"]["tokens"]["output"] == sum(usage.output for usage in booked)
    assert told["total"]["refusals"] == [{"type": "api_error", "status": 500, "number": 1}]
    assert (told["running"], told["processes"], told["configuration_version"]) == (0, 1, 4)


async def test_health_tells_counts_to_everybody_and_names_to_operators(gateway: Gateway, configured: Provider) -> None:
    known = {"a": KnownModel("a"), "b": KnownModel("b")}
    install(gateway, endpoint(configured.pk, "openai", BASE_URL, models=known), endpoint(77, "openai", BASE_URL))
    for token in (None, OWNER_TOKEN, "nonsense"):
        reply = await read(gateway, "/health", token)
        told = reply.json()
        assert (reply.status, told["status"], told["reasons"]) == (200, "healthy", [])
        counts = ("upstreams_total", "upstreams_healthy", "upstreams_ill", "models_cached", "configuration_version")
        assert [told[name] for name in counts] == [2, 1, 0, 2, 4]
        assert told["worker"]["alive"] is True
        assert told["rollup_lag_seconds"] == 0
        assert "openai-" not in reply.body.decode()
        assert BASE_URL not in reply.body.decode()
    first, second = (await read(gateway, "/health")).json()["upstreams"]
    assert (first["healthy"], second["healthy"]) == (True, None)
    assert first["circuit_breaker"] == {"is_open": False, "consecutive_failures": 0}


@pytest.mark.parametrize(
    ("probe", "reason"),
    [
        ({"ok": False}, "1 of 1 providers did not answer well"),
        ({"ok": True, "ago": 600.0}, "see whether worker and beat run"),
    ],
)
async def test_health_is_degraded_by_what_an_administrator_should_see(
    gateway: Gateway, configured: Provider, probe: dict[str, Any], reason: str
) -> None:
    install(gateway)
    await in_database(lambda: probed(configured, **probe))
    told = (await read(gateway, "/health", None)).json()
    assert told["status"] == "degraded"
    assert reason in told["reasons"][0]
    assert "openai-1" not in str(told)
    ready = await read(gateway, "/health/ready", None)
    assert (ready.status, ready.json()["status"]) == (200, "healthy")


async def test_a_provider_that_is_switched_off_degrades_nothing(gateway: Gateway, configured: Provider) -> None:
    install(gateway)

    def switch_off() -> None:
        probed(configured, ok=False, ago=9999.0)
        Provider.objects.update(enabled=False)

    await in_database(switch_off)
    told = (await read(gateway, "/health", None)).json()
    assert (told["status"], told["worker"]["alive"]) == ("healthy", None)


async def test_reports_that_are_behind_are_told(gateway: Gateway, transactional_db: None) -> None:
    install(gateway)
    begun = timezone.now().replace(minute=0, second=0, microsecond=0) - dt.timedelta(hours=1)
    await in_database(lambda: DirtyQuarter.objects.create(starts_at=begun))
    told = (await read(gateway, "/health", None)).json()
    assert told["rollup_lag_seconds"] >= 3600
    assert "minutes behind" in told["reasons"][0]
    text = (await read(gateway, "/metrics")).body.decode()
    [line] = [line for line in text.splitlines() if line.startswith("ccproxy_rollup_lag_seconds ")]
    assert float(line.split()[1]) == pytest.approx(told["rollup_lag_seconds"], abs=0.1)


async def test_health_waits_for_no_database(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its packets vanish: the page answers all the same, one thread waits, and the event loop never."""
    install(gateway)
    looks: list[int] = []
    let_go = threading.Event()

    def hang() -> watch.Seen:
        looks.append(1)
        let_go.wait(20)
        return watch.Seen(is_known=True)

    monkeypatch.setattr(watch, "look", hang)
    monkeypatch.setattr(watch, "PATIENCE", 0.2)
    started = time.monotonic()
    replies = await asyncio.gather(*(read(gateway, "/health", None) for _ in range(50)))
    assert {reply.status for reply in replies} == {200}
    assert replies[0].json()["rollup_lag_seconds"] is None
    assert time.monotonic() - started < 2
    assert looks == [1]
    let_go.set()


async def test_without_a_database_operators_with_a_key_still_read_figures(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise DatabaseError("the server is gone, password=hunter2")

    install(gateway)
    monkeypatch.setattr(watch, "look", away)
    monkeypatch.setattr(operator, "by_session", away)
    monkeypatch.setattr(operator, "described", away)
    assert (await read(gateway, "/health")).status == 200
    assert (await read(gateway, "/v1/metrics")).json()["rollup_lag_seconds"] is None
    assert "rollup_lag" not in (await read(gateway, "/metrics")).body.decode()
    session = {"cookie": f"{settings.SESSION_COOKIE_NAME}=x"}
    for path, token, headers in (("/providers", OPERATOR_TOKEN, {}), ("/metrics", None, session)):
        reply = await read(gateway, path, token, headers=headers)
        assert (reply.status, reply.headers["retry-after"]) == (503, "5")
        assert "hunter2" not in reply.body.decode()
    assert "upstreams" not in (await read(gateway, "/health", None, headers=session)).json()


async def test_one_look_serves_whoever_asks_within_seconds(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def look() -> watch.Seen:
        looks.append(1)
        return watch.Seen(is_known=True)

    monkeypatch.setattr(watch, "look", look)
    for _ in range(20):
        assert (await gateway.runtime.watch.seen()).is_known
    assert looks == [1]


async def test_figures_are_read_and_written_out_off_the_event_loop(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of many routes take tenths of a second, and answers stream meanwhile."""
    install(gateway)
    monkeypatch.setattr(watch, "look", watch.Seen)
    threads: list[str] = []

    def noted(honest: Callable[..., T]) -> Callable[..., T]:
        def work(*arguments: Any) -> T:
            threads.append(threading.current_thread().name)
            return honest(*arguments)

        return work

    monkeypatch.setattr(gateway.runtime.publisher, "all_figures", noted(gateway.runtime.publisher.all_figures))
    monkeypatch.setattr(figures, "prometheus", noted(figures.prometheus))
    monkeypatch.setattr(figures, "as_json", noted(figures.as_json))
    monkeypatch.setattr(operator, "described", lambda _: [{"name": "p"}])
    monkeypatch.setattr(operator, "told_by_figures", noted(operator.told_by_figures))
    for path in READING:
        assert (await read(gateway, path)).status == 200
    assert len(threads) == 6
    assert threading.current_thread().name not in threads


async def test_a_database_that_hangs_holds_no_thread_of_the_event_loop(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Providers' names are looked up in those, and anybody can send a cookie."""
    install(gateway)
    let_go = threading.Event()

    def hang(_: object) -> operator.Operator:
        let_go.wait(20)
        raise KeyRefused("no such session")

    monkeypatch.setattr(watch, "look", watch.Seen)
    monkeypatch.setattr(operator, "by_session", hang)
    session = {"cookie": f"{settings.SESSION_COOKIE_NAME}=x"}
    asking = [asyncio.ensure_future(read(gateway, "/health", None, headers=session)) for _ in range(50)]
    await asyncio.sleep(0.2)
    try:
        looked_up = asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80)
        assert await asyncio.wait_for(looked_up, timeout=5)
    finally:
        let_go.set()
    assert {reply.status for reply in await asyncio.gather(*asking)} == {200}


@pytest.mark.parametrize("error", [DatabaseError("away"), ValueError("a bug")])
async def test_a_look_that_fails_is_told_by_the_watch_alone(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def fail() -> watch.Seen:
        raise error

    install(gateway)
    monkeypatch.setattr(watch, "look", fail)
    assert (await read(gateway, "/health", None)).json()["rollup_lag_seconds"] is None
    gc.collect()
    await asyncio.sleep(0)
    assert "asyncio" not in {line.name for line in caplog.records}
    assert [line.name for line in caplog.records].count("ccproxy.watch") == isinstance(error, ValueError)


@pytest.mark.parametrize("path", [*READING, "/health"])
async def test_no_cache_on_the_way_keeps_what_operators_see(
    gateway: Gateway, transactional_db: None, path: str
) -> None:
    """A cookie or x-api-key does not stop one that is shared, as `authorization` would."""
    install(gateway)
    assert (await read(gateway, path)).headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", READING)
async def test_django_s_own_handler_serves_them_too(gateway: Gateway, transactional_db: None, path: str) -> None:
    install(gateway)
    gateway.application = ASGIHandler()  # type: ignore[assignment]
    for token, status in ((OPERATOR_TOKEN, 200), (OWNER_TOKEN, 403), (None, 401)):
        assert (await read(gateway, path, token, headers={"host": "localhost"})).status == status
