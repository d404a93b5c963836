"""The routing of the configuration as it stands in the database, read in three queries."""

from __future__ import annotations

from collections.abc import Sequence

from providers.dialects import DIALECTS
from providers.models import PASSTHROUGH, CredentialMode, ModelRoute, Provider
from providers.routing import Endpoint, Route, Routing, Target, Timeouts


def read_routing() -> Routing:
    providers = list(Provider.objects.all())
    endpoints = {provider.pk: endpoint_of(provider) for provider in live(providers)}
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


def live(providers: Sequence[Provider]) -> list[Provider]:
    """The enabled ones that speak a language we know; the demo leaves as soon as there is another, enabled or not."""
    demo_serves = all(provider.is_demo for provider in providers)
    return [
        provider
        for provider in providers
        if provider.enabled and provider.type in DIALECTS and provider.is_demo == demo_serves
    ]


def endpoint_of(provider: Provider) -> Endpoint:
    header, scheme = credential_header(provider.auth_type, provider.type)
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
    )


def credential_header(auth_type: str, provider_type: str) -> tuple[str, str]:
    """The header a credential travels in, and what stands before it there."""
    if auth_type.startswith("header:"):
        return auth_type.removeprefix("header:").lower(), ""
    if auth_type == "api_key" and provider_type == "anthropic":
        return "x-api-key", ""
    return "authorization", "Bearer "
