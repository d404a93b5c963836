"""Providers and routes: the version that moves with them, credentials at rest, and what they become in memory."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import transaction
from django.db.models import ProtectedError
from django.utils import timezone
from pytest_django import Settings

from providers.models import (
    ConfigVersion,
    CredentialMode,
    ModelRoute,
    Provider,
    ProviderHealth,
    RouteTarget,
    check_base_url,
)
from providers.snapshot import read_routing

pytestmark = pytest.mark.django_db

SECRET = "sk-canary-7f3a"


def provider(name: str = "first", **fields: Any) -> Provider:
    return Provider(**{"name": name, "type": "anthropic", "base_url": "https://api.example.com", **fields})


def saved(name: str = "first", **fields: Any) -> Provider:
    made = provider(name, **fields)
    made.save()
    return made


def test_a_version_that_never_moved_is_zero() -> None:
    assert ConfigVersion.current() == 0


def test_what_a_probe_saw_is_no_configuration() -> None:
    known = saved()
    before = ConfigVersion.current()
    ProviderHealth.objects.create(provider=known, checked_at=timezone.now(), ok=True)
    assert ConfigVersion.current() == before


def test_a_credential_is_encrypted_and_shown_by_no_repr() -> None:
    known = provider()
    known.set_credential(SECRET)
    known.save()

    [row] = Provider.objects.values_list()
    assert SECRET not in str(row)
    assert SECRET not in f"{known!r} {known} {known.sealed_credential}"
    assert SECRET not in repr(read_routing())
    assert Provider.objects.get().credential == SECRET


@pytest.mark.parametrize(
    ("base_url", "kept"),
    [
        ("https://api.example.com/v1", True),
        ("https://API.example.com", True),
        ("https://elsewhere.example.com", False),
        ("https://api.example.com:8443", False),
        ("https://api.example.com.evil.example", False),
    ],
)
def test_a_credential_stays_with_the_host_it_was_given_for(base_url: str, kept: bool) -> None:
    known = provider()
    known.set_credential(SECRET)
    known.save()

    known.base_url = base_url
    known.save(update_fields=["base_url"])

    known.refresh_from_db()
    assert known.has_credential is kept
    assert bool(known.sealed_credential) is kept


def test_a_credential_given_for_https_never_travels_in_clear() -> None:
    known = provider()
    known.set_credential(SECRET)
    known.save()
    known.base_url = known.base_url.replace("https://", "http://")
    known.save()
    assert Provider.objects.get().credential == ""


def test_a_credential_given_together_with_an_address_in_clear_is_meant_for_it() -> None:
    known = provider()
    known.set_credential(SECRET)
    known.save()
    known.base_url = known.base_url.replace("https://", "http://")
    known.set_credential("another")
    known.save()
    known.save()
    assert Provider.objects.get().credential == "another"


def test_a_host_changed_behind_the_models_back_gets_no_credential() -> None:
    known = provider()
    known.set_credential(SECRET)
    known.save()
    Provider.objects.update(base_url="https://elsewhere.example.com")
    assert Provider.objects.get().credential == ""


def test_a_credential_does_not_come_back_with_its_host() -> None:
    known = provider()
    known.set_credential(SECRET)
    known.save()
    for url in ("https://elsewhere.example.com", "https://api.example.com"):
        known.base_url = url
        known.save()
    assert Provider.objects.get().credential == ""


def test_keys_of_encryption_can_be_replaced(settings: Settings) -> None:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    settings.CREDENTIAL_KEYS = [old]
    known = provider()
    known.set_credential(SECRET)

    settings.CREDENTIAL_KEYS = [new, old]
    assert known.credential == SECRET
    known.set_credential(known.credential)

    settings.CREDENTIAL_KEYS = [new]
    assert known.credential == SECRET
    settings.CREDENTIAL_KEYS = [old]
    assert known.credential == ""


def test_a_key_of_encryption_that_is_none_is_named(settings: Settings) -> None:
    settings.CREDENTIAL_KEYS = ["too short"]
    with pytest.raises(ImproperlyConfigured, match="CREDENTIAL_KEYS"):
        provider().set_credential(SECRET)


@pytest.mark.parametrize(
    "url", ["https://api.example.com/v1", "http://ollama:11434", "http://[::1]:8000", "http://10.0.0.1"]
)
def test_urls_that_are_taken(url: str) -> None:
    check_base_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "api.example.com",
        "ftp://api.example.com",
        "https://",
        "https://user:secret@api.example.com",
        "https://api.example.com?key=1",
        "https://api.example.com/#part",
        "https://api.example.com/a b",
        "http://[::1",
        "http://host:99999",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        check_base_url(url)


@pytest.mark.parametrize("host", ["169.254.169.254", "2852039166", "[::ffff:169.254.169.254]", "[fe80::1%25eth0]", "0"])
def test_an_address_that_is_never_called_is_refused(host: str) -> None:
    with pytest.raises(ValidationError, match="never called"):
        check_base_url(f"http://{host}:8080/v1")


def test_private_addresses_are_refused_where_they_are_denied(settings: Settings) -> None:
    settings.PROVIDER_PRIVATE_NETWORKS = "deny"
    for url in ("http://127.0.0.1:8000", "http://10.0.0.1", "http://[::1]"):
        with pytest.raises(ValidationError, match="never called"):
            check_base_url(url)
    check_base_url("http://8.8.8.8")


def test_options_must_be_an_object() -> None:
    with pytest.raises(ValidationError, match="An object is expected"):
        provider(options=["pdf"]).full_clean()


def routed(pattern: str, by: Provider, position: int = 0, **fields: Any) -> None:
    made = ModelRoute.objects.create(pattern=pattern, position=position)
    RouteTarget.objects.create(route=made, provider=by, **fields)


@pytest.mark.parametrize(
    ("model", "pattern"),
    [
        ("claude-sonnet-4-5", "claude-sonnet-4-5"),  # the exact name
        ("CLAUDE-Sonnet-4-5[1m]", "claude-sonnet-4-5"),
        ("claude-sonnet-4-6", "claude-sonnet-*"),  # the most literal characters
        ("claude-opus-4-1", "claude-*"),
        ("claud3", "*d3"),  # equally literal: the lower position
        ("mistral", "*"),
    ],
)
def test_the_most_specific_route_wins(model: str, pattern: str) -> None:
    known = saved()
    patterns = ["*", "claude-*", "cl*", "*d3", "claude-sonnet-*", "claude-sonnet-4-5"]
    for text, position in zip(patterns, [0, 1, 3, 2, 4, 5], strict=True):
        routed(text, known, position)
    found = read_routing().route(model)
    assert found is not None
    assert found.pattern == pattern


def test_targets_are_tried_by_priority_and_then_in_their_order() -> None:
    made = ModelRoute.objects.create(pattern="*")
    for name, priority in (("a", 2), ("b", 1), ("c", 2), ("d", 1)):
        RouteTarget.objects.create(route=made, provider=saved(name), priority=priority)
    assert [candidate.endpoint.name for candidate in read_routing().candidates("m")] == ["b", "d", "a", "c"]


def test_passthrough_keeps_the_clients_name_for_a_model() -> None:
    known = saved()
    routed("claude-*", known)
    routed("gpt", known, upstream_model="openai/gpt-5")
    routing = read_routing()
    assert routing.candidates("Claude-X[1m]")[0].model == "Claude-X"
    assert routing.candidates("gpt")[0].model == "openai/gpt-5"


def test_a_disabled_provider_is_no_candidate() -> None:
    routed("*", saved(enabled=False))
    assert read_routing().candidates("m") == []


def test_the_demo_leaves_with_its_route_when_another_provider_is_there() -> None:
    routed("claude-*", saved("demo", is_demo=True))
    assert read_routing().candidates("claude-opus")

    other = saved("other")
    routed("*opus*", other)

    assert [each.endpoint.name for each in read_routing().candidates("claude-opus")] == ["other"]
    assert read_routing().route("claude-haiku") is None


def test_the_demo_does_not_come_back_when_the_other_is_disabled() -> None:
    """Else a company's developers would get invented answers."""
    routed("claude-*", saved("demo", is_demo=True))
    routed("*opus*", saved("other", enabled=False))
    assert read_routing().candidates("claude-opus") == []


def test_what_the_request_path_knows_of_a_provider() -> None:
    known = provider(
        base_url="https://api.example.com/v1/", dialect="deepseek", options={"pdf": True}, total_timeout=30
    )
    known.credential_mode = CredentialMode.CLIENT_TOKEN
    known.set_credential(SECRET)
    known.save()
    routed("*", known)

    endpoint = read_routing().candidates("m")[0].endpoint

    assert (endpoint.base_url, endpoint.credential, endpoint.client_token) == (
        "https://api.example.com/v1",
        SECRET,
        True,
    )
    assert (endpoint.auth_header, endpoint.auth_scheme) == ("x-api-key", "")
    assert endpoint.timeouts.total == 30
    assert endpoint.options == {"pdf": True, "dialect": "deepseek"}


def test_reading_the_routes_takes_four_queries(django_assert_num_queries: Any) -> None:
    for number in range(5):
        routed(f"model-{number}", saved(f"provider {number}"))
    with django_assert_num_queries(4):
        read_routing()


def test_a_target_needs_a_weight() -> None:
    made = RouteTarget(route=ModelRoute.objects.create(pattern="*"), provider=saved(), weight=0)
    with pytest.raises(ValidationError, match="weight"):
        made.full_clean()


def test_a_provider_that_serves_a_route_is_not_deleted() -> None:
    known = saved()
    routed("*", known)
    before = ConfigVersion.current()
    with pytest.raises(ProtectedError), transaction.atomic():
        known.delete()
    assert ConfigVersion.current() == before


def test_a_wrong_key_throws_no_credential_away(settings: Any) -> None:
    kept = provider()
    kept.set_credential(SECRET)
    kept.save()
    right = settings.CREDENTIAL_KEYS
    settings.CREDENTIAL_KEYS = [Fernet.generate_key().decode()]
    again = Provider.objects.get(pk=kept.pk)
    assert again.credential == ""
    again.save()
    settings.CREDENTIAL_KEYS = right
    assert Provider.objects.get(pk=kept.pk).credential == SECRET
