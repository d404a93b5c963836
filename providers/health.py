"""Whether each provider is there, and which models it lists: one question answers both.

Routing does not depend on the first; the second is part of the configuration.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time

import msgspec
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from providers import discovery
from providers.dialects import Outbound
from providers.errors import UpstreamError
from providers.log_events import LogEvent, about
from providers.models import ConfigVersion, ModelList, Provider, ProviderHealth
from providers.routing import Endpoint, KnownModel
from providers.snapshot import endpoint_of, live
from providers.upstream import Upstreams, run_apart

logger = logging.getLogger("ccproxy.health")

PATIENCE = 10.0
MOST_REPLY = 4 * 1024 * 1024
# Anthropic lists twenty at once unless asked for more; others may refuse what they do not know.
PATHS = {"anthropic": "/models?limit=1000"}


class Finding(msgspec.Struct, frozen=True):
    ok: bool
    detail: str
    milliseconds: int
    models: list[KnownModel] | None = None  # None: it has not listed any


def probe_all() -> None:
    """Asks every enabled provider for its models, all at once, and keeps what came of it."""
    providers = live(list(Provider.objects.all()))
    endpoints = [endpoint_of(provider) for provider in providers]
    known = dict(ProviderHealth.objects.values_list("provider_id", "ok"))
    for provider, finding in zip(providers, asyncio.run(_probe(endpoints)), strict=True):
        if finding.ok != known.get(provider.pk, True):
            _tell(provider.name, finding)
        keep(provider, finding)
        if finding.models is not None and not has_fresh_models(provider):
            keep_models(provider, finding.models)


def probe_now(provider: Provider) -> Finding:
    """For somebody who waits for it: a list that came is kept, however young the one known is."""
    [finding] = run_apart(_probe([endpoint_of(provider)]))
    keep(provider, finding)
    if finding.models is not None:
        keep_models(provider, finding.models)
    return finding


def keep(provider: Provider, finding: Finding) -> None:
    ProviderHealth.objects.update_or_create(
        provider_id=provider.pk,
        defaults={
            "checked_at": timezone.now(),
            "ok": finding.ok,
            "detail": finding.detail[:300],
            "latency_ms": finding.milliseconds,
        },
    )


def has_fresh_models(provider: Provider) -> bool:
    lists = ModelList.objects.filter(provider=provider, base_url=provider.base_url)
    return lists.filter(seen_at__gt=timezone.now() - freshness()).exists()


def keep_models(provider: Provider, models: list[KnownModel]) -> None:
    """Another list than the one known moves the version."""
    now, listed = timezone.now(), discovery.stored(models)
    known = ModelList.objects.filter(provider=provider, base_url=provider.base_url).first()
    with transaction.atomic():
        ModelList.objects.update_or_create(
            provider=provider, defaults={"base_url": provider.base_url, "listed": listed, "seen_at": now}
        )
        if known is None or known.listed != listed:
            ConfigVersion.bump()


def freshness() -> dt.timedelta:
    """How long a list is good. Probes come at intervals: the one nearest to the end of that time renews it."""
    return dt.timedelta(seconds=settings.MODEL_LIST_SECONDS - settings.PROBE_SECONDS / 2)


async def _probe(endpoints: list[Endpoint]) -> list[Finding]:
    upstreams = Upstreams()
    try:
        return await asyncio.gather(*(_ask(upstreams, endpoint) for endpoint in endpoints))
    finally:
        await upstreams.close()


async def _ask(upstreams: Upstreams, endpoint: Endpoint) -> Finding:
    """A provider that answers at all is there; one that refuses our credential is told apart."""
    headers = {endpoint.auth_header: endpoint.auth_scheme + endpoint.credential} if endpoint.credential else {}
    headers["anthropic-version"] = "2023-06-01"
    path, started = PATHS.get(endpoint.type, "/models"), time.monotonic()
    async with upstreams.call(endpoint, Outbound(path, b""), headers, method="GET") as call:
        try:
            body = await call.whole(asyncio.get_running_loop().time() + PATIENCE, MOST_REPLY)
        except UpstreamError as error:
            return Finding(False, error.message, _since(started))
        milliseconds = _since(started)
    if call.failure is not None:
        return Finding(False, call.failure.message, milliseconds)
    if body is None:
        return Finding(False, f"no answer in {PATIENCE:.0f} s", milliseconds)
    if call.status in (401, 403) and not endpoint.client_token:
        return Finding(False, f"HTTP {call.status}: the provider refuses the credential", milliseconds)
    models = discovery.read_listing(body) if call.status == 200 else None
    return Finding(call.status < 500, f"HTTP {call.status}", milliseconds, models)


def _tell(name: str, finding: Finding) -> None:
    """Once when it falls ill, and once when it is well again."""
    event = LogEvent.PROVIDER_WELL if finding.ok else LogEvent.PROVIDER_ILL
    level = logging.INFO if finding.ok else logging.WARNING
    fields = about(event, provider=name, latency_ms=finding.milliseconds, detail=finding.detail)
    logger.log(level, "%s provider=%s: %s", event, name, finding.detail, extra=fields)


def _since(started: float) -> int:
    return int((time.monotonic() - started) * 1000)
