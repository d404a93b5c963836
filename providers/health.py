"""Whether each provider is there, as an administrator sees it. Routing does not depend on it."""

from __future__ import annotations

import asyncio
import time

from django.utils import timezone

from providers.dialects import Outbound
from providers.errors import UpstreamError
from providers.models import Provider, ProviderHealth
from providers.routing import Endpoint
from providers.snapshot import endpoint_of, live
from providers.upstream import Upstreams

PATIENCE = 10.0
MOST_REPLY = 4 * 1024 * 1024


def probe_all() -> None:
    """Asks every enabled provider for its models, all at once, and keeps what came of it."""
    endpoints = [endpoint_of(provider) for provider in live(list(Provider.objects.all()))]
    for endpoint, (ok, detail, milliseconds) in zip(endpoints, asyncio.run(_probe(endpoints)), strict=True):
        ProviderHealth.objects.update_or_create(
            provider_id=endpoint.id,
            defaults={"checked_at": timezone.now(), "ok": ok, "detail": detail[:300], "latency_ms": milliseconds},
        )


async def _probe(endpoints: list[Endpoint]) -> list[tuple[bool, str, int]]:
    upstreams = Upstreams()
    try:
        return await asyncio.gather(*(_ask(upstreams, endpoint) for endpoint in endpoints))
    finally:
        await upstreams.close()


async def _ask(upstreams: Upstreams, endpoint: Endpoint) -> tuple[bool, str, int]:
    """A provider that answers at all is there; one that refuses our credential is told apart."""
    headers = {endpoint.auth_header: endpoint.auth_scheme + endpoint.credential} if endpoint.credential else {}
    headers["anthropic-version"] = "2023-06-01"
    started = time.monotonic()
    async with upstreams.call(endpoint, Outbound("/models", b""), headers, method="GET") as call:
        try:
            body = await call.whole(asyncio.get_running_loop().time() + PATIENCE, MOST_REPLY)
        except UpstreamError as error:
            return False, error.message, int((time.monotonic() - started) * 1000)
        milliseconds = int((time.monotonic() - started) * 1000)
    if call.failure is not None:
        return False, call.failure.message, milliseconds
    if body is None:
        return False, f"no answer in {PATIENCE:.0f} s", milliseconds
    if call.status in (401, 403) and not endpoint.client_token:
        return False, f"HTTP {call.status}: the provider refuses the credential", milliseconds
    return call.status < 500, f"HTTP {call.status}", milliseconds
