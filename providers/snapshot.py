"""The routing of the configuration as it stands in the database, read in four queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from providers.dialects import DIALECTS
from providers.dialects.profiles import by_host
from providers.discovery import by_name
from providers.models import PASSTHROUGH, CredentialMode, ModelList, ModelRoute, Provider
from providers.routing import Endpoint, KnownModel, Route, Routing, Target, Timeouts


def read_routing() -> Routing:
    providers = list(Provider.objects.all())
    lists = model_lists()
    endpoints = {
        provider.pk: endpoint_of(provider, lists.get((provider.pk, provider.base_url), {}))
        for provider in live(providers)
    }
    # The demo's own route goes with the demo: it must not stand before those of the providers that came.
    retired = {provider.pk for provider in providers if provider.is_demo} - set(endpoints)
    routes = ModelRoute.objects.prefetch_related("targets").order_by("position", "pk")
    return Routing(
        Route(
            pattern=route.pattern,
            strategy=route.strategy,
            targets=tuple(
                Target(
                    endpoints[target.provider_id],
                    "" if target.upstream_model == PASSTHROUGH else target.upstream_model,
                    target.priority,
                    target.weight,
                )
                for target in route.targets.all()
                if target.provider_id in endpoints
            ),
        )
        for route in routes
        if not retired or {target.provider_id for target in route.targets.all()} != retired
    )


def model_lists() -> dict[tuple[int, str], Mapping[str, KnownModel]]:
    """By the provider and the address that was asked: a provider that has moved has no list yet."""
    rows = ModelList.objects.values_list("provider_id", "base_url", "listed")
    return {(provider_id, base_url): by_name(stored) for provider_id, base_url, stored in rows}


def live(providers: Sequence[Provider]) -> list[Provider]:
    """The enabled ones that speak a language we know; the demo leaves as soon as there is another, enabled or not."""
    demo_serves = all(provider.is_demo for provider in providers)
    return [
        provider
        for provider in providers
        if provider.enabled and provider.type in DIALECTS and provider.is_demo == demo_serves
    ]


def endpoint_of(provider: Provider, models: Mapping[str, KnownModel] = {}) -> Endpoint:
    header, scheme = credential_header(
        provider.auth_type, provider.type, provider.dialect or by_host(provider.base_url)
    )
    return Endpoint(
        id=provider.pk,
        name=provider.name,
        type=provider.type,
        base_url=provider.base_url.rstrip("/"),
        credential=provider.credential,
        auth_header=header,
        auth_scheme=scheme,
        client_token=provider.credential_mode == CredentialMode.CLIENT_TOKEN,
        timeouts=Timeouts(
            provider.connect_timeout, provider.first_byte_timeout, provider.idle_timeout, provider.total_timeout
        ),
        options={
            **(provider.options if isinstance(provider.options, dict) else {}),
            **({"dialect": provider.dialect} if provider.dialect else {}),
        },
        models=models,
    )


def credential_header(auth_type: str, provider_type: str, dialect: str = "") -> tuple[str, str]:
    """The header a credential travels in, and what stands before it there."""
    if auth_type.startswith("header:"):
        return auth_type.removeprefix("header:").lower(), ""
    if auth_type == "api_key" and provider_type == "anthropic":
        return "x-api-key", ""
    if auth_type == "api_key" and dialect == "azure":
        return "api-key", ""
    return "authorization", "Bearer "
