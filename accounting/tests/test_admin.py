"""Keys, prices and the ledger as an administrator and a finance reader see them."""

from __future__ import annotations

import datetime as dt
import logging
from decimal import Decimal
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import path, reverse
from django.utils import timezone

from accounting import keys
from accounting.models import ApiKey, CostCentre, Price, UsageAttempt, UsageRecord
from providers.models import ConfigVersion, Provider

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]
urlpatterns = [path("admin/", admin.site.urls)]

NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
KEYS, RECORDS = "admin:accounting_apikey_changelist", "admin:accounting_usagerecord_changelist"
KEY_FORM = {"name": "alice", "owner": "", "cost_centre": "", "allowed_models": "", "scopes": "messages"}
KEY_FORM |= {"expires_at_0": "", "expires_at_1": ""}
PRICE_FORM = {
    "model": "m",
    "provider": "",
    "valid_from_0": "2026-01-01",
    "valid_from_1": "00:00:00",
    "currency": "USD",
    "source": "",
    **dict.fromkeys(("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "web_search"), "0"),
}


def url(name: str, *arguments: Any) -> str:
    return reverse(f"admin:accounting_{name}", args=arguments)


def posted(client: Client, address: str, form: dict[str, Any]) -> str:
    """The page after a change, once the version was seen to move."""
    before = ConfigVersion.current()
    answer = client.post(address, form, follow=True)
    assert answer.status_code == 200
    assert ConfigVersion.current() > before, answer.content.decode()
    return str(answer.content.decode())


def acted(client: Client, address: str, action: str, *rows: Any, **more: str) -> str:
    return posted(client, address, {"action": action, "_selected_action": [row.pk for row in rows], **more})


def record(request_id: str = "req_1", **fields: Any) -> UsageRecord:
    values = {"started_at": NOON, "finished_at": NOON, "model": "m", "status": "completed", "source": "upstream"}
    return UsageRecord.objects.create(**{"request_id": request_id, "key": "alice", **values, **fields})


def attempt(row: UsageRecord, number: int) -> UsageAttempt:
    values = {"started_at": NOON, "finished_at": NOON, "provider": "p", "upstream_model": "m", "source": "upstream"}
    return UsageAttempt.objects.create(record=row, number=number, status="failed", reason=f"reason {number}", **values)


def test_an_issued_key_is_shown_once_and_left_nowhere(admin_client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    before = ConfigVersion.current()
    answer = admin_client.post(url("apikey_add"), KEY_FORM)
    page = answer.content.decode()
    key = ApiKey.objects.get()
    token = next(word for word in page.replace("<", " ").replace(">", " ").split() if keys.is_well_formed(word))

    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]
    assert key.digest == keys.digest(token)
    assert "ANTHROPIC_BASE_URL=http://testserver" in page
    assert f"ANTHROPIC_AUTH_TOKEN={token}" in page
    assert ConfigVersion.current() > before

    assert token not in caplog.text
    assert token not in str(admin_client.cookies)
    assert token not in str([session.get_decoded() for session in Session.objects.all()])
    assert token not in str(list(LogEntry.objects.values()))
    assert token not in str(list(ApiKey.objects.values()))
    for address in (reverse(KEYS), url("apikey_change", key.pk), url("apikey_history", key.pk), reverse("admin:index")):
        assert token not in admin_client.get(address).content.decode()


@pytest.mark.parametrize("button", ["_save", "_continue", "_addanother"])
def test_whatever_button_was_pressed_the_key_is_shown(admin_client: Client, button: str) -> None:
    answer = admin_client.post(url("apikey_add"), {**KEY_FORM, button: "1"})
    assert b"ANTHROPIC_AUTH_TOKEN=ccp_" in answer.content


def test_a_name_that_is_taken_issues_nothing(admin_client: Client) -> None:
    ApiKey.issue("alice")
    page = admin_client.post(url("apikey_add"), KEY_FORM).content.decode()
    assert "already exists" in page
    assert "ANTHROPIC_AUTH_TOKEN" not in page
    assert ApiKey.objects.count() == 1


def test_models_are_written_one_per_line_and_scopes_ticked(admin_client: Client) -> None:
    centre = CostCentre.objects.create(code="R&D")
    form: dict[str, Any] = {**KEY_FORM, "allowed_models": " *haiku* \r\n\r\ngpt-5", "scopes": ["messages", "operator"]}
    form |= {"cost_centre": centre.pk, "expires_at_0": "2999-12-31", "expires_at_1": "00:00"}
    posted(admin_client, url("apikey_add"), form)
    key = ApiKey.objects.get()
    assert (key.allowed_models, key.scopes) == (["*haiku*", "gpt-5"], ["messages", "operator"])
    page = admin_client.get(url("apikey_change", key.pk)).content.decode()
    assert "*haiku*\ngpt-5</textarea>" in page


def test_editing_a_key_keeps_its_token(admin_client: Client) -> None:
    key, _ = ApiKey.issue("alice", allowed_models=["a"])
    page = posted(admin_client, url("apikey_change", key.pk), {**KEY_FORM, "name": "bob", "owner": "Bob"})
    assert "ANTHROPIC_AUTH_TOKEN" not in page
    now = ApiKey.objects.get()
    assert (now.name, now.owner, now.allowed_models, now.digest) == ("bob", "Bob", [], key.digest)


def test_the_digest_is_on_no_page(admin_client: Client) -> None:
    key, _ = ApiKey.issue("alice")
    for address in (reverse(KEYS), url("apikey_change", key.pk)):
        page = admin_client.get(address).content.decode()
        assert key.digest not in page
        assert key.prefix in page


def test_revoking_is_an_action_and_final(admin_client: Client) -> None:
    long_ago = timezone.now() - dt.timedelta(days=9)
    key, _ = ApiKey.issue("alice")
    other, _ = ApiKey.issue("bob", revoked_at=long_ago)
    page = acted(admin_client, reverse(KEYS), "revoke", key, other)
    assert "Revoked: 1." in page
    assert ApiKey.objects.get(name="alice").state() == "revoked"
    assert ApiKey.objects.get(name="bob").revoked_at == long_ago
    posted(admin_client, url("apikey_change", key.pk), {**KEY_FORM, "revoked_at_0": "", "revoked_at_1": ""})
    assert ApiKey.objects.get(name="alice").state() == "revoked"


def test_the_list_of_keys_answers_at_a_glance(admin_client: Client, django_assert_max_num_queries: Any) -> None:
    centre = CostCentre.objects.create(code="R&D")
    for number in range(20):
        ApiKey.issue(f"key {number}", owner="Alice", cost_centre=centre)
    with django_assert_max_num_queries(9):
        page = admin_client.get(reverse(KEYS)).content.decode()
    assert page.count("active") >= 20


def test_a_key_that_was_never_used_can_be_deleted(admin_client: Client) -> None:
    key, _ = ApiKey.issue("alice")
    other, _ = ApiKey.issue("bob")
    posted(admin_client, url("apikey_delete", key.pk), {"post": "yes"})
    acted(admin_client, reverse(KEYS), "delete_selected", other, post="yes")
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("at_once", [True, False])
def test_a_key_or_provider_that_the_ledger_names_is_kept(admin_client: Client, at_once: bool) -> None:
    key, _ = ApiKey.issue("alice")
    provider = Provider.objects.create(name="p", type="openai", base_url="https://p.example")
    record(api_key=key, provider_ref=provider)
    for row in (key, provider):
        name = f"admin:{row._meta.app_label}_{row._meta.model_name}"
        if at_once:
            form = {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"}
            answer = admin_client.post(reverse(f"{name}_changelist"), form)
        else:
            answer = admin_client.post(reverse(f"{name}_delete", args=[row.pk]), {"post": "yes"})
        assert "of the ledger name" in answer.content.decode()
        assert type(row)._base_manager.filter(pk=row.pk).exists()


def test_cost_centres_are_made_changed_and_deleted(admin_client: Client) -> None:
    posted(admin_client, url("costcentre_add"), {"code": "R&D", "name": ""})
    centre = CostCentre.objects.get()
    posted(admin_client, url("costcentre_change", centre.pk), {"code": "R&D", "name": "Research"})
    assert "Research" in admin_client.get(url("costcentre_changelist")).content.decode()
    posted(admin_client, url("costcentre_delete", centre.pk), {"post": "yes"})
    other = CostCentre.objects.create(code="OPS")
    acted(admin_client, url("costcentre_changelist"), "delete_selected", other, post="yes")
    assert not CostCentre.objects.exists()


def test_prices_are_exact(admin_client: Client) -> None:
    posted(admin_client, url("price_add"), {**PRICE_FORM, "input": "0.000001", "output": "123456789.654321"})
    price = Price.objects.get()
    assert (price.input, price.output) == (Decimal("0.000001"), Decimal("123456789.654321"))
    posted(admin_client, url("price_change", price.pk), {**PRICE_FORM, "input": "3.75"})
    price.refresh_from_db()
    assert price.input == Decimal("3.75")
    posted(admin_client, url("price_delete", price.pk), {"post": "yes"})
    other = Price.objects.create(model="m")
    acted(admin_client, url("price_changelist"), "delete_selected", other, post="yes")
    assert not Price.objects.exists()


def test_a_price_below_zero_is_refused(admin_client: Client) -> None:
    page = admin_client.post(url("price_add"), {**PRICE_FORM, "input": "-1"}).content.decode()
    assert "greater than or equal to 0" in page


def test_the_ledger_is_for_reading(admin_client: Client) -> None:
    row = record()
    attempt(row, 1)
    page = admin_client.get(url("usagerecord_change", row.pk)).content.decode()
    assert "reason 1" in page
    assert 'name="_save"' not in page
    assert 'name="input"' not in page
    assert 'name="attempts-0-input"' not in page
    assert admin_client.get(url("usagerecord_add")).status_code == 403
    assert admin_client.post(url("usagerecord_change", row.pk), {"input": "1"}).status_code == 403
    assert admin_client.post(url("usagerecord_delete", row.pk), {"post": "yes"}).status_code == 403
    admin_client.post(reverse(RECORDS), {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"})
    assert UsageRecord.objects.get().input == 0


def test_the_ledger_is_read_in_a_few_queries(admin_client: Client, django_assert_max_num_queries: Any) -> None:
    for number in range(60):
        attempt(record(f"req_{number}", cost=Decimal("0.0544"), currency="USD"), 1)
    with django_assert_max_num_queries(9):
        page = admin_client.get(reverse(RECORDS)).content.decode()
    assert "0.0544 USD" in page
    with django_assert_max_num_queries(9):
        admin_client.get(url("usagerecord_change", UsageRecord.objects.earliest("pk").pk))


def test_a_free_answer_and_an_unpriced_one_are_told_apart(admin_client: Client) -> None:
    record("req_free", cost=Decimal(0), currency="USD", model="free-model")
    record("req_dark", model="dark-model")
    page = admin_client.get(reverse(RECORDS)).content.decode()
    assert "0 USD" in page
    assert "unpriced" in page


def found(client: Client, **query: str) -> list[str]:
    answer = client.get(reverse(RECORDS), query)
    return sorted(row.request_id for row in answer.context["cl"].result_list)


def test_the_ledger_can_be_filtered(admin_client: Client) -> None:
    key, _ = ApiKey.issue("alice")
    provider = Provider.objects.create(name="p", type="openai", base_url="https://p.example")
    now = timezone.now()
    record("a", api_key=key, cost=Decimal(1), started_at=now)
    record("b", provider_ref=provider, model="n", status="cut", source="estimated")
    assert found(admin_client) == ["a", "b"]
    assert found(admin_client, key=str(key.pk)) == ["a"]
    assert found(admin_client, provider=str(provider.pk)) == ["b"]
    assert found(admin_client, model="n") == ["b"]
    assert found(admin_client, priced="yes") == ["a"]
    assert found(admin_client, priced="no") == ["b"]
    assert found(admin_client, status__exact="cut") == ["b"]
    assert found(admin_client, source__exact="upstream") == ["a"]
    assert found(admin_client, started_at__gte=str(now - dt.timedelta(days=1))) == ["a"]
    assert found(admin_client, q="b") == ["b"]
    assert found(admin_client, key="nonsense") == []
    assert found(admin_client, key="9" * 40) == []


@pytest.mark.parametrize("name", ["apikey", "costcentre", "price", "usagerecord"])
def test_every_page_opens_and_is_searched(admin_client: Client, name: str) -> None:
    ApiKey.issue("alice")
    Price.objects.create(model="m")
    record()
    assert admin_client.get(url(f"{name}_changelist")).status_code == 200
    assert admin_client.get(url(f"{name}_changelist"), {"q": "a"}).status_code == 200
    assert admin_client.get(url(f"{name}_add")).status_code == (403 if name == "usagerecord" else 200)


def test_a_stranger_sees_nothing(client: Client) -> None:
    for address in (reverse(KEYS), reverse(RECORDS), url("apikey_add")):
        assert client.get(address).status_code == 302
