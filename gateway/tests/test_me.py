"""The developer's page: who gets in, what it shows, and whose."""

from __future__ import annotations

import datetime as dt
import html
import re
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.test import Client, override_settings
from django.utils import timezone

from accounting import keys, rollups
from accounting.models import ApiKey, CostCentre, Price, Status
from gateway import me, runtime, throttle, usage
from gateway.configuration import read_snapshot
from gateway.tests.test_usage import HOSTILE, booked
from providers.models import ModelRoute, Provider, RouteTarget

pytestmark = pytest.mark.django_db

SNIPPET = 'export ANTHROPIC_BASE_URL="<span class="me-origin">http://testserver</span>"'


@pytest.fixture(autouse=True)
def _alone(settings: Any, tmp_path: Path) -> Iterator[None]:
    """No attempts of other tests are counted, and no runtime of theirs is asked."""
    memory = "django.core.cache.backends.locmem.LocMemCache"
    settings.CACHES = {"default": {"BACKEND": memory, "LOCATION": str(tmp_path)}}
    before = runtime.replace(None)
    yield
    runtime.replace(before)


@pytest.fixture
def provider() -> Provider:
    """Serves claude-* under names of its own."""
    made = Provider(name="hidden-vendor", type="openai", base_url="https://api.secret-vendor.example/v1")
    made.set_credential("sk-very-secret")
    made.save()
    route = ModelRoute.objects.create(pattern="claude-haiku-5-5")
    RouteTarget.objects.create(route=route, provider=made, upstream_model="vendor/small")
    return made


def issued(name: str, **fields: Any) -> tuple[ApiKey, str]:
    return ApiKey.issue(name, **fields)


def opened(client: Client, token: str) -> str:
    """The page as the key shows it."""
    reply = client.post("/me/key", {"token": token}, follow=True)
    assert reply.status_code == 200, text(reply)
    return text(reply)


def text(reply: Any) -> str:
    return str(reply.content.decode())


def user(name: str, **fields: Any) -> User:
    made: User = get_user_model().objects.create_user(name, "", "a long password", **fields)
    return made


# The doors


@pytest.mark.parametrize("path", ["/me", "/me/"])
def test_without_a_key_or_an_account_there_are_two_doors(client: Client, path: str) -> None:
    reply = client.get(path)
    assert reply.status_code == 200
    assert 'name="token"' in text(reply)
    assert "/admin/login/?next=/me" in text(reply)
    assert "no-store" in reply["cache-control"]


def test_a_key_opens_its_page_and_is_never_shown_again(client: Client) -> None:
    key, token = issued("alice", owner="Alice A.", cost_centre=CostCentre.objects.create(code="R&D"))
    answer = client.post("/me/key", {"token": f"  {token}\n"})
    assert (answer.status_code, answer["location"]) == (302, "/me")
    page = client.get("/me")
    assert "no-store" in page["cache-control"]
    shown = text(page)
    assert SNIPPET in shown
    assert "Alice A." in shown
    assert "R&amp;D" in shown
    assert key.prefix in shown
    assert "does not expire" in shown
    assert token not in shown
    assert key.digest not in shown
    kept = str(dict(client.session.items()))
    assert token not in kept
    assert key.digest not in kept


@pytest.mark.parametrize("token", ["", "x", "ccp_", HOSTILE, "\0", "ccp_" + "a" * 36, "é" * 5000, "\ud83d"[:0] + "🙂"])
def test_what_is_no_key_gets_one_sentence(client: Client, token: str) -> None:
    reply = client.post("/me/key", {"token": token})
    assert reply.status_code == 403
    assert html.escape(me.WRONG) in text(reply)
    assert client.get("/me").context["told"] == ""


def test_a_well_formed_key_that_nobody_issued_gets_the_same_sentence(client: Client) -> None:
    reply = client.post("/me/key", {"token": keys.mint()})
    assert reply.status_code == 403
    assert html.escape(me.WRONG) in text(reply)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [({"revoked_at": timezone.now()}, "was revoked"), ({"expires_at": timezone.now()}, "has expired")],
)
def test_a_key_that_ended_says_so_at_the_door_and_behind_it(
    client: Client, fields: dict[str, Any], sentence: str
) -> None:
    key, token = issued("alice")
    opened(client, token)
    ApiKey.objects.filter(pk=key.pk).update(**fields)
    closed = client.get("/me")
    assert sentence in text(closed)
    assert "ANTHROPIC" not in text(closed)
    assert me.OPENED not in client.session
    refused = client.post("/me/key", {"token": token})
    assert (refused.status_code, sentence in text(refused)) == (403, True)


def test_a_session_id_from_before_does_not_see_the_key(client: Client) -> None:
    """Somebody who planted a cookie in the browser would else read along."""
    _, token = issued("alice")
    session = client.session
    session["planted"] = True
    session.save()
    planted = str(session.session_key)
    client.cookies["sessionid"] = planted
    opened(client, token)
    assert client.session.session_key != planted
    other = Client()
    other.cookies["sessionid"] = planted
    assert 'name="token"' in text(other.get("/me"))


def test_the_page_closes_after_twelve_hours_however_much_it_is_used(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, token = issued("alice")
    opened(client, token)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + me.OPEN_SECONDS - 60)
    assert SNIPPET in text(client.get("/me"))
    monkeypatch.setattr(time, "time", lambda: now + me.OPEN_SECONDS + 1)
    assert me.AGAIN in text(client.get("/me"))


def test_a_rotation_closes_what_the_old_token_opened_once_that_ends(client: Client) -> None:
    key, token = issued("alice")
    opened(client, token)
    fresh = key.rotate(dt.timedelta(hours=1))
    assert SNIPPET in text(client.get("/me"))
    ApiKey.objects.filter(pk=key.pk).update(previous_until=timezone.now())
    assert me.AGAIN in text(client.get("/me"))
    assert html.escape(me.WRONG) in text(client.post("/me/key", {"token": token}))
    assert SNIPPET in opened(client, fresh)


def test_a_deleted_key_closes_its_page(client: Client) -> None:
    key, token = issued("alice")
    opened(client, token)
    key.delete()
    assert me.AGAIN in text(client.get("/me"))


def test_leaving_closes_both_doors(client: Client) -> None:
    _, token = issued("alice")
    client.force_login(user("bob"))
    opened(client, token)
    assert client.post("/me/leave", follow=True).status_code == 200
    shown = text(client.get("/me"))
    assert "alice" not in shown
    assert "Signed in as" not in shown


def test_posts_without_the_form_of_the_page_are_refused() -> None:
    _, token = issued("alice")
    strict = Client(enforce_csrf_checks=True)
    assert strict.post("/me/key", {"token": token}).status_code == 403
    assert strict.post("/me/leave").status_code == 403
    assert me.OPENED not in strict.session
    form = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', text(strict.get("/me")))
    assert form is not None
    answer = strict.post("/me/key", {"token": token, "csrfmiddlewaretoken": form[1]})
    assert answer.status_code == 302


@pytest.mark.parametrize("method", ["post", "put", "delete", "patch"])
@pytest.mark.parametrize("path", ["/me", "/me/statusline"])
def test_pages_are_read_only(client: Client, path: str, method: str) -> None:
    assert getattr(client, method)(path).status_code == 405


@pytest.mark.parametrize("path", ["/me/key", "/me/leave"])
def test_forms_are_posted(client: Client, path: str) -> None:
    assert client.get(path).status_code == 405


def test_guessing_waits_also_with_the_right_key(client: Client) -> None:
    _, token = issued("alice")
    for _ in range(throttle.ATTEMPTS_FROM_ADDRESS):
        assert client.post("/me/key", {"token": keys.mint()}).status_code == 403
    refused = client.post("/me/key", {"token": token})
    assert refused.status_code == 429
    assert int(refused["retry-after"]) > 0
    assert "Too many attempts" in text(refused)
    elsewhere = Client(REMOTE_ADDR="192.0.2.7")
    assert elsewhere.post("/me/key", {"token": token}).status_code == 302


def test_a_wrong_key_is_told_in_the_log_without_the_key(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    token = keys.mint()
    client.post("/me/key", {"token": token}, REMOTE_ADDR="192.0.2.7")
    [line] = [line for line in caplog.records if line.name == "ccproxy.login"]
    assert line.getMessage() == "login_failed address=192.0.2.7"
    assert keys.prefix(token) not in repr(line.__dict__)


def test_right_keys_are_not_counted(client: Client) -> None:
    _, token = issued("alice")
    for _ in range(throttle.ATTEMPTS_FROM_ADDRESS + 5):
        assert client.post("/me/key", {"token": token}).status_code == 302


# Accounts


def test_a_holder_sees_his_keys_and_chooses(client: Client) -> None:
    alice, bob = user("alice"), user("bob")
    old, _ = issued("a-old", holder=alice, revoked_at=timezone.now())
    first, _ = issued("b-first", holder=alice)
    second, _ = issued("c-second", holder=alice)
    foreign, _ = issued("bobs", holder=bob)
    client.force_login(alice)
    shown = client.get("/me")
    assert shown.context["key"] == first
    assert "c-second" in text(shown)
    assert "a-old (revoked)" in text(shown)
    assert "bobs" not in text(shown)
    assert client.get(f"/me?key={second.pk}").context["key"] == second
    ended = client.get(f"/me?key={old.pk}")
    assert ended.context["key"] == old
    assert "was revoked" in text(ended)
    refused = client.get(f"/me?key={foreign.pk}")
    assert refused.status_code == 404
    assert "bobs" not in text(refused)


def test_a_key_and_an_account_are_seen_together(client: Client) -> None:
    alice = user("alice")
    _, token = issued("shown")
    issued("held", holder=alice)
    client.force_login(alice)
    page = opened(client, token)
    assert ">shown<" in page
    assert ">held<" in page


def test_an_account_without_keys_is_told_what_to_do(client: Client) -> None:
    client.force_login(user("alice"))
    assert "No key names you as its holder" in text(client.get("/me"))


@pytest.mark.parametrize("number", ["0", "-1", "x", "1e9", "9" * 400, HOSTILE, "\0", "١"])
def test_any_number_of_a_key_is_answered(client: Client, number: str) -> None:
    _, token = issued("alice")
    opened(client, token)
    reply = client.get("/me", {"key": number})
    assert reply.status_code == 404
    assert me.NOT_YOURS in text(reply)


# What the page shows


def test_the_page_of_one_key_holds_nothing_of_another(client: Client, provider: Provider) -> None:
    alice, token = issued("alice", owner="alice@example.org")
    bob, _ = issued("bob-the-other", owner="bob@example.org")
    booked(alice.pk, model="alices-model", request_id="req_alice", status=Status.FAILED, reason="alice failed")
    booked(
        bob.pk,
        model="bobs-model",
        request_id="req_bob",
        status=Status.FAILED,
        reason="bob failed",
        cost=Decimal("77.77"),
        key="bob-the-other",
        owner="bob@example.org",
    )
    rollups.roll_up()
    page = opened(client, token)
    assert "alices-model" in page
    assert "req_alice" in page
    assert "alice failed" in page
    for foreign in ("bobs-model", "req_bob", "bob failed", "77.77", "bob-the-other", "bob@example.org"):
        assert foreign not in page
    for secret in ("sk-very-secret", "secret-vendor.example", provider.sealed_credential):
        assert secret not in page


def test_cost_by_model_this_month_and_last(client: Client) -> None:
    key, token = issued("alice")
    this_month = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    last_month = this_month.replace(day=1) - dt.timedelta(hours=1)
    booked(key.pk, cost=Decimal("1.25"))
    booked(key.pk, cost=Decimal("0.01"))
    booked(key.pk, cost=None, currency="")
    booked(key.pk, started_at=last_month, cost=Decimal("40.005"), currency="EUR")
    rollups.roll_up()
    reply = client.post("/me/key", {"token": token}, follow=True)
    [line] = reply.context["lines"]
    assert (line.model, line.this.requests, line.this.cost) == ("claude-opus-5-5", "3", "1.26 USD")
    assert (line.before.requests, line.before.cost, line.before.exact) == ("1", "40.00 EUR", "40.005 EUR")
    assert reply.context["month"].cost == "1.26 USD"
    assert "No price is known for 1 of these requests" in text(reply)
    assert [chart.count("<svg") for chart in reply.context["drawn"]] == [1, 1]
    assert "Cost per day (EUR)" in text(reply)


def test_without_prices_the_chart_shows_tokens(client: Client) -> None:
    key, token = issued("alice")
    booked(key.pk, cost=None, currency="")
    rollups.roll_up()
    assert "Tokens per day" in opened(client, token)


def test_models_come_with_their_prices(client: Client, provider: Provider) -> None:
    Price.objects.create(
        model="vendor/small",
        valid_from=timezone.now() - dt.timedelta(days=1),
        currency="EUR",
        input=Decimal("0.800000"),
        cache_read=Decimal("0.08"),
        cache_write_5m=1,
        output=4,
    )
    _, token = issued("alice")
    reply = client.post("/me/key", {"token": token}, follow=True)
    [offer] = reply.context["offers"]
    assert (offer.name, offer.currency, offer.prices) == ("claude-haiku-5-5", "EUR", ["0.8", "4", "0.08", "1"])
    assert "hidden-vendor" in text(reply)
    with override_settings(EXPOSE_PROVIDER=False):
        hidden = text(client.get("/me"))
    assert "claude-haiku-5-5" in hidden
    assert "hidden-vendor" not in hidden
    assert "vendor/small" not in hidden


def test_a_model_without_a_price_says_so_and_a_key_without_models_too(client: Client, provider: Provider) -> None:
    _, token = issued("alice")
    assert "no price known" in opened(client, token)
    _, token = issued("limited", allowed_models=["gpt-*"])
    assert "no route of this gateway leads to a model that this key may use" in opened(client, token)


def test_the_last_request_is_told(client: Client, provider: Provider) -> None:
    key, token = issued("alice")
    assert "No request has come with this key yet" in opened(client, token)
    booked(key.pk, session_id="s", provider="hidden-vendor", first_byte_ms=812)
    told = " ".join(text(client.get("/me")).split())
    assert "Your last request from a Claude Code session came on" in told
    assert "was answered by hidden-vendor, the first word after 812 ms." in told
    with override_settings(EXPOSE_PROVIDER=False):
        assert "hidden-vendor" not in text(client.get("/me"))
    booked(key.pk, status=Status.FAILED, reason="it burnt", started_at=timezone.now() + dt.timedelta(seconds=1))
    assert "did not end well: Failed: no answer (it burnt)." in " ".join(text(client.get("/me")).split())


def test_hostile_names_and_reasons_stay_text(client: Client, provider: Provider) -> None:
    ModelRoute.objects.filter(pattern="claude-haiku-5-5").update(pattern="<script>alert(1)</script>")
    hostile = {"owner": HOSTILE, "cost_centre": CostCentre.objects.create(code=HOSTILE[:50])}
    key, token = issued(HOSTILE, **hostile)
    booked(key.pk, model=HOSTILE, reason=HOSTILE, status=Status.CUT, currency="<b>", provider=HOSTILE, session_id="s")
    rollups.roll_up()
    page = opened(client, token)
    assert "<script>alert" not in page
    assert "<b>" not in page
    assert "49" not in re.findall(r"\{\{.*?\}\}|\b49\b", page)
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 5
    ApiKey.objects.filter(pk=key.pk).update(revoked_at=timezone.now())
    assert "<script>alert" not in text(client.get("/me"))


def test_no_script_and_no_style_stand_in_the_page(client: Client) -> None:
    key, token = issued("alice")
    booked(key.pk)
    rollups.roll_up()
    for page in (text(client.get("/me")), opened(client, token)):
        assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
        assert re.findall(r"\sstyle=|\son\w+=|javascript:", page) == []


def test_a_full_page_takes_few_queries(client: Client, provider: Provider, django_assert_max_num_queries: Any) -> None:
    alice = user("alice")
    key, token = issued("first", holder=alice)
    for number in range(5):
        issued(f"key-{number}", holder=alice)
    for number in range(20):
        booked(key.pk, model=f"model-{number}", currency=f"C{number}"[:3], status=Status.FAILED)
    rollups.roll_up()
    client.force_login(alice)
    opened(client, token)
    with django_assert_max_num_queries(18):  # without a gateway in this process
        assert client.get("/me").status_code == 200
    serving = runtime.Runtime()
    serving.configuration.install(read_snapshot())
    runtime.replace(serving)
    with django_assert_max_num_queries(12):
        assert client.get("/me").status_code == 200
    serving.ledger.close()


def test_many_models_are_cut_short_and_said(client: Client, provider: Provider) -> None:
    for number in range(usage.MOST_MODELS + 7):
        route = ModelRoute.objects.create(pattern=f"model-{number}")
        RouteTarget.objects.create(route=route, provider=provider, upstream_model="m")
    key, token = issued("alice")
    for number in range(usage.MOST_MODELS + 3):
        booked(key.pk, model=f"used-{number}")
    rollups.roll_up()
    shown = opened(client, token)
    assert "And 8 more:" in shown
    assert "And 3 more models" in shown


def test_the_status_line_is_served_without_a_key(client: Client) -> None:
    reply = client.get("/me/statusline")
    assert reply.status_code == 200
    assert reply["content-type"] == "text/plain; charset=utf-8"
    assert text(reply).startswith("#!/bin/sh\n")
