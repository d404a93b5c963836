"""How a provider is doing, in words for a page."""

from __future__ import annotations

from django.utils import timezone

from providers.models import CredentialMode, Provider, ProviderHealth


def state_of(provider: Provider) -> str:
    """What the last probe saw. It takes nobody out of a route."""
    try:
        health = provider.health
    except ProviderHealth.DoesNotExist:
        return "never probed"
    at = timezone.localtime(health.checked_at)
    when = f"{at:%Y-%m-%d %H:%M} {at.tzname()}"
    if health.ok:
        return f"well at {when}"
    return f"ill: {health.detail} at {when}" if health.detail else f"ill at {when}"


def credential_state(provider: Provider) -> str:
    if provider.credential_mode == CredentialMode.CLIENT_TOKEN:
        return "the client's"
    if provider.has_credential:
        return "set"
    return "unusable" if provider.sealed_credential else "none"
