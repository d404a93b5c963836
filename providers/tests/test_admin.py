"""Providers and routes as an administrator edits them."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import path, reverse
from django.utils import timezone

from providers.models import ConfigVersion, ModelRoute, Provider, ProviderHealth, RouteTarget

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]
urlpatterns = [path("admin/", admin.site.urls)]

SECRET = "sk-canary-7f3a"
FORM = {
    "name": "first",
    "type": "openai",
    "base_url": "https://api.example.com",
    "auth_type": "api_key",
    "credential_mode": "own",
    "enabled": "on",
    "connect_timeout": "10",
    "first_byte_timeout": "120",
    "idle_timeout": "120",
    "total_timeout": "600",
    "dialect": "",
    "options": "{}",
    "credential": "",
}
ADD, LIST = "admin:providers_provider_add", "admin:providers_provider_changelist"


def provider(credential: str = "", **fields: Any) -> Provider:
    made = Provider(**{"name": "first", "type": "openai", "base_url": "https://api.example.com", **fields})
    made.set_credential(credential)
    made.save()
    return made


def change(row: Any) -> str:
    return reverse(f"admin:providers_{row._meta.model_name}_change", args=[row.pk])


def saved(client: Client, url: str, form: dict[str, str]) -> str:
    """The page after saving, once the version was seen to move."""
    before = ConfigVersion.current()
    answer = client.post(url, form, follow=True)
    assert answer.redirect_chain, answer.context["errors"]
    assert ConfigVersion.current() > before
    return str(answer.content.decode())


def acted(client: Client, url: str, action: str, *rows: Any, **more: str) -> str:
    before = ConfigVersion.current()
    answer = client.post(url, {"action": action, "_selected_action": [row.pk for row in rows], **more}, follow=True)
    assert ConfigVersion.current() > before
    return str(answer.content.decode())


def test_a_provider_is_made_with_its_credential(admin_client: Client) -> None:
    page = saved(admin_client, reverse(ADD), {**FORM, "credential": SECRET})
    assert Provider.objects.get().credential == SECRET
    assert SECRET not in page


def test_a_credential_is_on_no_page_and_in_no_history(admin_client: Client) -> None:
    known = provider(SECRET)
    saved(admin_client, change(known), {**FORM, "credential": SECRET + "2"})
    pages = [
        admin_client.get(url).content.decode()
        for url in (change(known), reverse(LIST), reverse("admin:providers_provider_history", args=[known.pk]))
    ]
    refused = admin_client.post(change(known), {**FORM, "credential": SECRET, "name": ""}).content.decode()
    told = "".join(LogEntry.objects.values_list("change_message", flat=True))
    for text in (*pages, refused, told):
        assert SECRET not in text
        assert known.sealed_credential not in text
    assert "A credential is set." in pages[0]


def test_an_empty_field_keeps_the_credential(admin_client: Client) -> None:
    known = provider(SECRET)
    saved(admin_client, change(known), {**FORM, "total_timeout": "60"})
    known.refresh_from_db()
    assert (known.credential, known.total_timeout) == (SECRET, 60)


def test_a_change_of_host_drops_the_credential_and_says_so(admin_client: Client) -> None:
    known = provider(SECRET)
    page = saved(admin_client, change(known), {**FORM, "base_url": "https://elsewhere.example.com"})
    known.refresh_from_db()
    assert known.sealed_credential == ""
    assert "The credential of first was dropped" in page
    assert "There is none." in admin_client.get(change(known)).content.decode()


def test_a_credential_given_together_with_another_host_is_for_that_host(admin_client: Client) -> None:
    known = provider(SECRET)
    page = saved(
        admin_client, change(known), {**FORM, "base_url": "https://elsewhere.example.com", "credential": "new"}
    )
    known.refresh_from_db()
    assert known.credential == "new"
    assert "was dropped" not in page


def test_a_credential_that_cannot_be_opened_is_told(admin_client: Client) -> None:
    known = provider(SECRET)
    Provider.objects.update(base_url="https://elsewhere.example.com")
    assert "One is stored, but" in admin_client.get(change(known)).content.decode()


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("base_url", "example.com", "A URL is expected"),
        ("options", "[1]", "An object is expected"),
        ("auth_type", "magic", "Say api_key"),
        ("idle_timeout", "0", "greater than or equal to 0.1"),
    ],
)
def test_a_field_that_will_not_do_is_told(admin_client: Client, field: str, value: str, sentence: str) -> None:
    page = admin_client.post(reverse(ADD), {**FORM, field: value}).content.decode()
    assert sentence in page
    assert not Provider.objects.exists()


def test_the_demo_cannot_be_edited_into_or_out_of_one(admin_client: Client) -> None:
    saved(admin_client, reverse(ADD), {**FORM, "is_demo": "on"})
    assert not Provider.objects.get().is_demo


def test_actions_enable_disable_and_forget(admin_client: Client) -> None:
    known, other = provider(SECRET), provider(name="second")
    acted(admin_client, reverse(LIST), "disable", known, other)
    assert not Provider.objects.filter(enabled=True).exists()
    acted(admin_client, reverse(LIST), "enable", known)
    acted(admin_client, reverse(LIST), "forget_credential", known)
    known.refresh_from_db()
    assert (known.enabled, known.sealed_credential) == (True, "")


def test_the_list_tells_how_a_provider_is_doing(admin_client: Client, django_assert_max_num_queries: Any) -> None:
    for number in range(10):
        made = provider(name=f"p{number}")
        ProviderHealth.objects.create(provider=made, checked_at=timezone.now(), ok=False, detail="refused")
    provider(name="new")
    with django_assert_max_num_queries(8):
        page = admin_client.get(reverse(LIST)).content.decode()
    assert page.count("ill: refused at") == 10
    assert "never" in page


def test_a_provider_that_serves_nothing_can_be_deleted(admin_client: Client) -> None:
    known, other = provider(), provider(name="second")
    saved(admin_client, reverse("admin:providers_provider_delete", args=[known.pk]), {"post": "yes"})
    acted(admin_client, reverse(LIST), "delete_selected", other, post="yes")
    assert not Provider.objects.exists()


def test_a_provider_that_serves_a_route_cannot(admin_client: Client) -> None:
    known = provider()
    RouteTarget.objects.create(route=ModelRoute.objects.create(pattern="*"), provider=known)
    url = reverse("admin:providers_provider_delete", args=[known.pk])
    assert "protected" in admin_client.get(url).content.decode()
    admin_client.post(url, {"post": "yes"})
    assert Provider.objects.exists()


def route_form(*targets: dict[str, Any], initial: int = 0) -> dict[str, str]:
    form = {"pattern": "*sonnet*", "strategy": "priority", "position": "0"}
    form |= {"targets-TOTAL_FORMS": str(len(targets)), "targets-INITIAL_FORMS": str(initial)}
    for number, target in enumerate(targets):
        values = {"upstream_model": "passthrough", "priority": "1", "weight": "1", **target}
        form |= {f"targets-{number}-{name}": str(value) for name, value in values.items()}
    return form


def test_a_route_is_edited_together_with_its_targets(admin_client: Client) -> None:
    first, second = provider(), provider(name="second", enabled=False)
    url = reverse("admin:providers_modelroute_add")
    saved(admin_client, url, route_form({"provider": first.pk}, {"provider": second.pk, "priority": 2}))
    made = ModelRoute.objects.get()
    page = admin_client.get(reverse("admin:providers_modelroute_changelist")).content.decode()
    assert "1. first as passthrough, 2. second as passthrough (disabled)" in page

    [one, other] = made.targets.all()
    form = route_form(
        {"id": one.pk, "route": made.pk, "provider": first.pk, "upstream_model": "gpt-5"},
        {"id": other.pk, "route": made.pk, "provider": second.pk, "DELETE": "on"},
        initial=2,
    )
    saved(admin_client, change(made), form)
    assert [(target.provider.name, target.upstream_model) for target in made.targets.all()] == [("first", "gpt-5")]


def test_a_target_without_weight_is_refused(admin_client: Client) -> None:
    form = route_form({"provider": provider().pk, "weight": 0})
    page = admin_client.post(reverse("admin:providers_modelroute_add"), form).content.decode()
    assert "greater than or equal to 1" in page
    assert not ModelRoute.objects.exists()


def test_a_route_can_be_deleted(admin_client: Client) -> None:
    made, other = ModelRoute.objects.create(pattern="a"), ModelRoute.objects.create(pattern="b")
    RouteTarget.objects.create(route=made, provider=provider())
    saved(admin_client, reverse("admin:providers_modelroute_delete", args=[made.pk]), {"post": "yes"})
    acted(admin_client, reverse("admin:providers_modelroute_changelist"), "delete_selected", other, post="yes")
    assert not ModelRoute.objects.exists()
    assert not RouteTarget.objects.exists()


def test_the_list_of_routes_takes_a_few_queries(admin_client: Client, django_assert_max_num_queries: Any) -> None:
    known = provider()
    for number in range(20):
        RouteTarget.objects.create(route=ModelRoute.objects.create(pattern=f"r{number}"), provider=known)
    with django_assert_max_num_queries(8):
        admin_client.get(reverse("admin:providers_modelroute_changelist"))
