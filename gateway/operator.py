"""What operators read and do over HTTP: how the gateway and its providers stand, and who may know it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, TypeVar

import msgspec
from django.conf import settings
from django.contrib import auth
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import CsrfViewMiddleware

from accounting.models import Scope
from gateway.figures import Standing, of_provider, stamp
from gateway.intake import authenticate, headers_of
from gateway.metrics import Figures, Totals
from gateway.runtime import Runtime
from gateway.watch import Seen, in_thread
from providers.errors import GatewayError, KeyRefused, NotAllowed, ProxyError
from providers.models import PASSTHROUGH, ConfigVersion, ModelList, ModelRoute, Provider
from providers.routing import Endpoint

# Behind by so much, reports mislead.
LONGEST_LAG = 15 * 60.0

T = TypeVar("T")

# A database that hangs holds these, and no thread of the event loop's own: those look up the names of providers.
_readers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="operators")


class Operator(msgspec.Struct, frozen=True):
    """Who may read all this. Providers' addresses and changes are for keys with the scope and for administrators."""

    sees_addresses: bool
    may_reload: bool


async def admit(request: HttpRequest, runtime: Runtime) -> Operator:
    """By a key with the operator scope, or by the session of a member of staff. Raises KeyRefused or NotAllowed."""
    headers = headers_of(request)
    if "x-api-key" in headers or "authorization" in headers:
        authenticate(headers, runtime.configuration.current, Scope.OPERATOR.value)
        return Operator(sees_addresses=True, may_reload=True)
    if settings.SESSION_COOKIE_NAME not in request.COOKIES:
        raise KeyRefused("this is for operators: send a key that has the operator scope, or sign in at /admin/")
    return await from_database(lambda: by_session(request))


def by_session(request: HttpRequest) -> Operator:
    """As the middleware of sessions, which the API goes without, would find it."""
    sessions = import_module(settings.SESSION_ENGINE)
    request.session = sessions.SessionStore(request.COOKIES[settings.SESSION_COOKIE_NAME])
    user = auth.get_user(request)
    if not user.is_authenticated:
        raise KeyRefused("your session has ended: sign in at /admin/, or send a key that has the operator scope")
    if not (user.is_active and getattr(user, "is_staff", False) and user.has_perm("providers.view_provider")):
        raise NotAllowed("your account may not see this: it takes the permission to view providers")
    if request.method == "POST" and refuses_form(request):
        raise NotAllowed("a change by a session needs the CSRF token of a page here: send it in x-csrftoken, or a key")
    may_reload = user.has_perm("providers.change_provider")
    return Operator(sees_addresses=getattr(user, "is_superuser", False), may_reload=may_reload)


def refuses_form(request: HttpRequest) -> bool:
    """Whether another site may have sent it in the name of whoever is signed in."""
    check = CsrfViewMiddleware(lambda _: HttpResponse())
    check.process_request(request)
    return check.process_view(request, lambda _: HttpResponse(), (), {}) is not None


async def from_database(work: Callable[[], T]) -> T:
    try:
        return await asyncio.get_running_loop().run_in_executor(_readers, in_thread, work)
    except DatabaseError as error:
        raise GatewayError("the database does not answer: try again in a moment", retry_after=5) from error


async def standing(runtime: Runtime, written_out: Callable[[Standing], T]) -> T:
    """In one form or another; in a thread, since those of many routes take their time."""
    seen, endpoints = await runtime.watch.seen(), endpoints_of(runtime)
    return await asyncio.to_thread(lambda: written_out(Standing(runtime.publisher.all_figures(), seen, endpoints)))


def endpoints_of(runtime: Runtime) -> list[Endpoint]:
    configuration = runtime.configuration
    return configuration.current.routing.endpoints if configuration.is_loaded else []


async def providers(runtime: Runtime, operator: Operator) -> dict[str, Any]:
    rows = await from_database(lambda: list(described(operator)))
    return await asyncio.to_thread(lambda: with_figures(rows, runtime.publisher.all_figures(), time.time()))


def with_figures(rows: Iterable[Mapping[str, Any]], figures: Figures, now: float) -> dict[str, Any]:
    hour = figures.last_hour(now)
    return {
        "configuration_version": figures.now.version,
        "providers": [{**row, **told_by_figures(row["name"], figures, hour, now)} for row in rows],
    }


def described(operator: Operator) -> Iterable[dict[str, Any]]:
    """As the database has them, without anything secret."""
    models = {row.provider_id: len(row.listed) for row in ModelList.objects.all()}
    routes: dict[int, list[dict[str, str]]] = {}
    for route in ModelRoute.objects.prefetch_related("targets"):
        for target in route.targets.all():
            model = "" if target.upstream_model == PASSTHROUGH else target.upstream_model
            routes.setdefault(target.provider_id, []).append({"pattern": route.pattern, "model": model})
    for provider in Provider.objects.select_related("health"):
        health = getattr(provider, "health", None)
        yield {
            "name": provider.name,
            "type": provider.type,
            "enabled": provider.enabled,
            **({"base_url": provider.base_url} if operator.sees_addresses else {}),
            "healthy": health.ok if health else None,
            "checked_at": stamp(health.checked_at.timestamp()) if health else None,
            "latency_ms": health.latency_ms if health else None,
            "routes": routes.get(provider.pk, []),
            "models_known": models.get(provider.pk, 0),
        }


def told_by_figures(name: str, figures: Figures, last_hour: Totals, now: float) -> dict[str, Any]:
    hour, answered = of_provider(name, last_hour), figures.answered_at.get(name)
    resting = [(model, until) for provider, model, until in figures.now.resting if provider == name and until > now]
    return {
        "attempts_last_hour": hour["attempts"],
        "errors_last_hour": sum(hour["failures"].values()),
        "failures_last_hour": hour["failures"],
        "health_score": hour["health_score"],
        "consecutive_failures": figures.now.failing.get(name, 0),
        "last_success": stamp(answered) if answered else None,
        "cooldown": [
            {"model": model, "until": stamp(until), "seconds_left": round(until - now, 1)} for model, until in resting
        ],
    }


async def reload(operator: Operator) -> dict[str, Any]:
    """Every process reads the configuration anew within a second or two."""
    if not operator.may_reload:
        raise NotAllowed("your account may not change this: it takes the permission to change providers")
    return {"configuration_version": await from_database(moved_version)}


def moved_version() -> int:
    ConfigVersion.bump()
    return ConfigVersion.current()


async def health(runtime: Runtime, request: HttpRequest) -> tuple[dict[str, Any], int]:
    """Counts for everybody; names and addresses for operators."""
    seen = await runtime.watch.seen()
    troubles = runtime.troubles()
    degradations = [*runtime.degradations(), *degraded(runtime, seen)]
    endpoints = endpoints_of(runtime)
    healthy, last = [seen.healthy(endpoint.id) for endpoint in endpoints], seen.last_probe
    body: dict[str, Any] = {
        "status": "unhealthy" if troubles else "degraded" if degradations else "healthy",
        "reasons": [*troubles, *degradations],
        "spool_backlog_bytes": runtime.ledger.spool.backlog,
        "upstreams_total": len(endpoints),
        "upstreams_healthy": healthy.count(True),
        "upstreams_ill": healthy.count(False),
        "models_cached": sum(len(endpoint.models) for endpoint in endpoints),
        "rollup_lag_seconds": round(seen.rollup_lag or 0.0, 1) if seen.is_known else None,
        "worker": {"alive": seen.worker_is_alive(time.time()), "last_probe": stamp(last) if last else None},
        "configuration_version": runtime.configuration.current.version if runtime.configuration.is_loaded else None,
    }
    operator = await recognised(request, runtime)
    if operator is not None:
        body["upstreams"] = [described_upstream(endpoint, seen, runtime, operator) for endpoint in endpoints]
    return body, 503 if troubles else 200


def degraded(runtime: Runtime, seen: Seen) -> list[str]:
    """What the database tells, beside what a process notices by itself."""
    found = []
    ill = sum(not probe.ok for probe in seen.probes.values())
    if ill:
        found.append(f"{ill} of {len(seen.probes)} providers did not answer well when they were asked last")
    if seen.worker_is_alive(time.time()) is False:
        found.append("no provider was asked for its state lately: see whether worker and beat run")
    if seen.rollup_lag is not None and seen.rollup_lag > LONGEST_LAG:
        found.append(f"reports are {seen.rollup_lag / 60:.0f} minutes behind: see whether worker and beat run")
    return found


async def recognised(request: HttpRequest, runtime: Runtime) -> Operator | None:
    """Whoever may not know more still gets the answer that a probe wants."""
    try:
        return await admit(request, runtime)
    except ProxyError:
        return None


def described_upstream(endpoint: Endpoint, seen: Seen, runtime: Runtime, operator: Operator) -> dict[str, Any]:
    """No breaker exists yet: it never opens. Its failures are those that this process has met since the last answer."""
    failures = runtime.metrics.failures_since_answer(endpoint.name)
    return {
        "name": endpoint.name,
        "type": endpoint.type,
        **({"base_url": endpoint.base_url} if operator.sees_addresses else {}),
        "healthy": seen.healthy(endpoint.id),
        "circuit_breaker": {"is_open": False, "consecutive_failures": failures},
    }
