"""What the page about a route is told by the gateway: which models a key may use, and who rests."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from accounting import keys
from accounting.models import ApiKey
from gateway import runtime
from gateway.runtime import Runtime
from providers.models import ModelRoute, Provider, RouteTarget
from providers.rate_headers import Rests
from providers.routing import Candidate, Endpoint

pytestmark = pytest.mark.django_db
WHICH = "/admin/providers/modelroute/which/"


@pytest.fixture
def admin(client: Client) -> Client:
    client.force_login(User.objects.create(username="admin", is_staff=True, is_superuser=True))
    return client


@pytest.fixture
def rests() -> Iterator[Rests]:
    held = SimpleNamespace(rests=Rests())
    before = runtime.replace(cast(Runtime, held))
    yield held.rests
    runtime.replace(before)


def issued(name: str, **fields: Any) -> ApiKey:
    key = ApiKey(name=name, **fields)
    key.take_token(keys.mint())
    key.save()
    return key


def remarks(client: Client, model: str, key: str = "") -> list[str]:
    answer = client.get(WHICH, {"model": model, "key": key})
    return list(answer.context["explanation"].remarks)


def test_a_key_that_may_use_a_model_is_told_from_one_that_may_not(admin: Client) -> None:
    issued("every")
    issued("few", allowed_models=["*haiku*", "gpt-5.1"])
    issued("gone", revoked_at=timezone.now())
    issued("old", expires_at=timezone.now() - dt.timedelta(days=1))
    assert remarks(admin, "claude-opus-5-5") == []
    assert remarks(admin, "claude-opus-5-5", "every") == ["The key every may use it."]
    assert remarks(admin, "claude-haiku-5-5[1m]", "few") == ["The key few may use it."]
    assert remarks(admin, "claude-opus-5-5", "few") == [
        "The key few may not use it, a client gets 403. It may use *haiku*, gpt-5.1."
    ]
    assert remarks(admin, "m", "gone") == ["The key gone may use it, but is revoked: a client gets 401."]
    assert remarks(admin, "m", "old") == ["The key old may use it, but is expired: a client gets 401."]
    [unknown] = remarks(admin, "m", "nobody")
    assert "There is no key 'nobody'" in unknown


def test_who_may_not_look_at_keys_learns_nothing_of_them(client: Client) -> None:
    issued("few", allowed_models=["secret-project-model"])
    person = User.objects.create(username="viewer", is_staff=True)
    person.user_permissions.add(Permission.objects.get(codename="view_modelroute"))
    client.force_login(person)
    assert remarks(client, "m", "few") == remarks(client, "m", "nobody")
    assert "may not look at keys" in remarks(client, "m", "few")[0]


def test_a_provider_that_rests_is_told(admin: Client, rests: Rests) -> None:
    provider = Provider.objects.create(name="first", type="openai", base_url="https://api.example.com")
    RouteTarget.objects.create(route=ModelRoute.objects.create(pattern="*"), provider=provider)
    assert remarks(admin, "m") == []
    candidate = Candidate(Endpoint(provider.pk, "first", "openai", ""), "m")
    rests.note(candidate, {"retry-after": "30"}, 429, time.time())
    assert remarks(admin, "m") == ["first has said that m is spent: this process asks it last for a while."]
    assert remarks(admin, "other") == []
