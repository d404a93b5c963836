"""Keys, prices and the ledger as an administrator and a finance reader see them."""

from __future__ import annotations

import datetime as dt
import logging
import re
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
from accounting.admin import ledger
from accounting.models import ApiKey, CostCentre, DaySum, Price, UsageAttempt, UsageRecord
from providers.models import ConfigVersion, Provider

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]
urlpatterns = [path("admin/", admin.site.urls)]

NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
KEYS, RECORDS = "admin:accounting_apikey_changelist", "admin:accounting_usagerecord_changelist"
KEY_FORM = {"name": "alice", "owner": "", "holder": "", "cost_centre": "", "allowed_models": "", "scopes": "messages"}
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
    form = {"action": "revoke", "_selected_action": [key.pk, other.pk]}
    asked = admin_client.post(reverse(KEYS), form).content.decode()
    assert "cannot be brought back" in asked
    assert ApiKey.objects.get(name="alice").state() == "active"
    page = acted(admin_client, reverse(KEYS), "revoke", key, other, post="yes")
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
    with django_assert_max_num_queries(12):
        page = admin_client.get(reverse(RECORDS)).content.decode()
    assert "0.0544 USD" in page
    with django_assert_max_num_queries(12):
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


# What keys have used


def summed(key: ApiKey, **figures: Any) -> None:
    counts = {field.name: 0 for field in DaySum._meta.get_fields() if field.get_internal_type() == "BigIntegerField"}
    fields = {"day": timezone.localdate(), "key": key.name, "model": "m", "status": "completed", "currency": "USD"}
    DaySum.objects.create(api_key=key, **{**counts, **fields, **figures})


def test_the_list_of_keys_shows_what_they_used_in_a_few_queries(
    admin_client: Client, django_assert_max_num_queries: Any
) -> None:
    ApiKey.issue("quiet")
    busy, _ = ApiKey.issue("busy")
    record("req_old", api_key=busy, started_at=NOON)
    record("req_new", api_key=busy, started_at=NOON + dt.timedelta(hours=1))
    summed(busy, requests=1200, cost=1_234_567 * 10**10)
    summed(busy, requests=34, cost=5 * 10**9, currency="EUR")
    summed(busy, requests=7, day=timezone.localdate().replace(day=1) - dt.timedelta(days=1))
    for number in range(40):
        summed(ApiKey.issue(f"key {number:02}")[0], requests=1)
    with django_assert_max_num_queries(11):
        answer = admin_client.get(reverse(KEYS))
    page = answer.content.decode()
    assert "2026-01-31 13:00" in page
    assert "never" in page
    assert "1,234" in page
    assert "0.0050 EUR + 12,345.67 USD" in page
    shown = {key.name: key.this_month.requests for key in answer.context["cl"].result_list}
    assert (shown["busy"], shown["quiet"], shown["key 07"]) == (1234, 0, 1)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({}, ["alice", "bob", "carol"]),
        ({"state": "active"}, ["alice"]),
        ({"state": "expired"}, ["bob"]),
        ({"state": "revoked"}, ["carol"]),
        ({"state": "nonsense"}, ["alice", "bob", "carol"]),
        ({"owner": "Bob & Co"}, ["bob"]),
        ({"cost_centre": "R&D"}, ["alice"]),
        ({"holder": "admin"}, ["alice"]),
        ({"q": "admin"}, ["alice"]),
        ({"q": "carol"}, ["carol"]),
    ],
)
def test_keys_are_chosen_by_state_owner_centre_and_holder(
    admin_client: Client, admin_user: Any, query: dict[str, str], names: list[str]
) -> None:
    past = timezone.now() - dt.timedelta(days=1)
    ApiKey.issue("alice", cost_centre=CostCentre.objects.create(code="R&D"), holder=admin_user)
    ApiKey.issue("bob", owner="Bob & Co", expires_at=past)
    ApiKey.issue("carol", revoked_at=past, expires_at=past)
    rows = admin_client.get(reverse(KEYS), query).context["cl"].result_list
    assert [key.name for key in rows] == names


def test_a_key_has_a_holder_an_account_that_goes_leaves_the_key(admin_client: Client, admin_user: Any) -> None:
    admin_client.post(url("apikey_add"), {**KEY_FORM, "holder": admin_user.pk})
    assert ApiKey.objects.get().holder == admin_user
    admin_user.delete()
    assert ApiKey.objects.get().holder is None


def test_the_page_of_a_key_shows_its_last_errors_and_leads_to_its_report(
    admin_client: Client, django_assert_max_num_queries: Any
) -> None:
    key, _ = ApiKey.issue("R&D alice")
    for number in range(12):
        record(f"req_{number}", api_key=key, status="failed", reason=f"reason {number}", started_at=NOON, id=number + 1)
    record("req_well", api_key=key, reason="well")
    record("req_other", status="failed", reason="another key's")
    with django_assert_max_num_queries(11):
        page = admin_client.get(url("apikey_change", key.pk)).content.decode()
    assert page.count("reason ") == 10
    assert "another key" not in page
    assert "reports/keys/?key=R%26D+alice" in page
    assert f"usagerecord/?key={key.pk}" in page


def test_an_expiry_that_has_passed_is_refused_for_a_new_key_and_pointed_out_for_an_old_one(
    admin_client: Client,
) -> None:
    past = {"expires_at_0": "2020-01-01", "expires_at_1": "00:00:00"}
    page = admin_client.post(url("apikey_add"), {**KEY_FORM, **past}).content.decode()
    assert "would never work" in page
    assert not ApiKey.objects.exists()
    key, _ = ApiKey.issue("alice")
    page = posted(admin_client, url("apikey_change", key.pk), {**KEY_FORM, **past})
    assert "it is refused from now on" in page
    assert ApiKey.objects.get().state() == "expired"


# One request


def test_days_are_whole_and_the_last_one_is_included(admin_client: Client, settings: Any) -> None:
    settings.TIME_ZONE = "Asia/Tokyo"
    with timezone.override("Asia/Tokyo"):
        midnight = dt.datetime(2026, 1, 31, 0, tzinfo=timezone.get_current_timezone())
        tick = dt.timedelta(microseconds=1)
        for name, moment in {
            "before": midnight - tick,
            "first": midnight,
            "last": midnight + dt.timedelta(days=1),
        }.items():
            record(name, started_at=moment)
        assert found(admin_client, started_at_from="2026-01-31") == ["first", "last"]
        assert found(admin_client, started_at_to="2026-01-31") == ["before", "first"]
        assert found(admin_client, started_at_from="2026-01-31", started_at_to="2026-01-31") == ["first"]


@pytest.mark.parametrize("day", ["yesterday", "2026-02-30", "31.01.2026", "<script>alert(1)</script>", "9999-12-31"])
def test_a_day_that_is_none_is_told_and_chooses_nothing(admin_client: Client, day: str) -> None:
    record()
    page = admin_client.get(reverse(RECORDS), {"started_at_to": day}).content.decode()
    assert ("is no day: write it like" in page) == (day != "9999-12-31")
    assert "<script>alert" not in page
    assert found(admin_client, started_at_to=day) == ["req_1"]


def test_requests_are_chosen_by_owner_and_cost_centre(admin_client: Client) -> None:
    ApiKey.issue("alice", owner="Alice", cost_centre=CostCentre.objects.create(code="R&D"))
    record("a", owner="Alice")
    record("b", cost_centre="R&D")
    assert found(admin_client, owner="Alice") == ["a"]
    assert found(admin_client, cost_centre="R&D") == ["b"]


def test_of_a_long_ledger_the_latest_rows_are_looked_at(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "ROWS_READ", 3)
    key, _ = ApiKey.issue("alice")
    for number in range(6):
        status = "failed" if number in {0, 5} else "completed"
        fields = {"api_key": key} if number < 3 else {}
        record(f"r{number}", started_at=NOON + dt.timedelta(hours=number), status=status, **fields)
    page = admin_client.get(reverse(RECORDS)).content.decode()
    assert "2026-01-31 14:00:00" in page
    assert found(admin_client) == ["r3", "r4", "r5"]
    assert found(admin_client, status__exact="failed") == ["r5"]
    assert found(admin_client, key=str(key.pk)) == ["r0", "r1", "r2"]
    assert found(admin_client, q="r0") == ["r0"]
    assert found(admin_client, q="r0", status__exact="completed") == []


PRICE = {"id": "1", "model": "claude-*", "provider_id": "None", "valid_from": "2026-01-01 00:00:00+00:00"}
PRICE |= {"currency": "USD", "input": "3.000000", "cache_read": "0.300000", "cache_write_5m": "3.750000"}
PRICE |= {"cache_write_1h": "6.000000", "output": "15.000000", "web_search": "10.000000"}


def cells(page: str) -> list[list[str]]:
    table = page[page.index('<table class="cc-table">') :]
    rows = re.findall("<tr>(.*?)</tr>", table[: table.index("</table>")], re.DOTALL)
    return [[re.sub("<[^>]*>", "", cell) for cell in re.findall("<t[hd].*?</t[hd]>", row, re.DOTALL)] for row in rows]


def test_the_bill_of_a_request_can_be_checked_by_hand(admin_client: Client) -> None:
    figures: dict[str, Any] = {
        "input": 1000,
        "cache_read": 20_000,
        "cache_write_5m": 400,
        "output": 700,
        "web_searches": 2,
    }
    row = record(price=PRICE, cost=Decimal("0.041"), currency="USD", thinking=99, **figures)
    page = admin_client.get(url("usagerecord_change", row.pk)).content.decode()
    assert cells(page)[1:] == [
        ["Input", "1,000", "3", "0.003"],
        ["Cache read", "20,000", "0.3", "0.006"],
        ["Cache write, 5 minutes", "400", "3.75", "0.0015"],
        ["Cache write, 1 hour", "0", "6", "0"],
        ["Output", "700", "15", "0.0105"],
        ["Web searches (rate per thousand)", "2", "10", "0.02"],
        ["Total", "", "", "0.041 USD"],
    ]
    assert "99 tokens of the output were thinking" in page
    assert "3.000000" not in page
    assert "Told by the upstream" in page


def test_the_bill_leads_to_the_price_while_it_is_there(admin_client: Client) -> None:
    price = Price.objects.create(model="claude-*", input=3)
    row = record(price={**PRICE, "id": str(price.pk)}, cost=Decimal(0), currency="USD")
    address = url("price_change", price.pk)
    assert address in admin_client.get(url("usagerecord_change", row.pk)).content.decode()
    price.delete()
    page = admin_client.get(url("usagerecord_change", row.pk)).content.decode()
    assert address not in page
    assert "claude-*" in page


def test_an_unpriced_request_says_so_and_what_to_do(admin_client: Client) -> None:
    row = record(source="estimated", method="bytes")
    page = admin_client.get(url("usagerecord_change", row.pk)).content.decode()
    assert "No price was known for this model" in page
    assert ">null<" not in page
    assert "Estimated: the answer was cut short by bytes" in page


def test_a_correction_and_its_row_lead_to_each_other(admin_client: Client) -> None:
    row = record("req_wrong")
    correction = record("req_right", corrects="req_wrong", status="correction", started_at=NOON)
    orphan = record("req_orphan", corrects="req_gone", status="correction")
    assert (
        url("usagerecord_change", correction.pk) in admin_client.get(url("usagerecord_change", row.pk)).content.decode()
    )
    assert (
        url("usagerecord_change", row.pk) in admin_client.get(url("usagerecord_change", correction.pk)).content.decode()
    )
    assert "req_gone" in admin_client.get(url("usagerecord_change", orphan.pk)).content.decode()


HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{7*7}}", "=1+1", "\u202egnp.exe"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text_on_every_page(admin_client: Client, name: str) -> None:
    key, _ = ApiKey.issue(name, owner=name, cost_centre=CostCentre.objects.create(code=name))
    provider = Provider.objects.create(name=name, type="openai", base_url="https://p.example")
    price = Price.objects.create(model=name, provider=provider, source=name)
    fields = {"provider": name, "upstream_model": name, "reason": name, "session_id": name, "owner": name}
    row = record(name[:40], api_key=key, model=name, status="failed", price={**PRICE, "model": name}, **fields)
    correction = record("req_2", api_key=key, corrects=name[:40])
    attempt(row, 1)
    pages = [url(f"{kind}_changelist") for kind in ("apikey", "costcentre", "price", "usagerecord")]
    pages += [url("apikey_change", key.pk), url("apikey_rotate", key.pk), url("apikey_revoke_one", key.pk)]
    pages += [url("price_change", price.pk), url("price_compare"), url("apikey_history", key.pk)]
    pages += [url("usagerecord_change", row.pk), url("usagerecord_change", correction.pk)]
    answers = [admin_client.get(address) for address in pages]
    answers.append(admin_client.post(url("apikey_rotate", key.pk), {"overlap": "1", "present": key.prefix}))
    answers.append(admin_client.post(reverse(KEYS), {"action": "revoke", "_selected_action": [key.pk]}))
    answers.append(admin_client.post(url("apikey_add"), {**KEY_FORM, "name": name}))
    for answer in answers:
        page = answer.content.decode()
        assert answer.status_code == 200
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert ">49<" not in page
