"""A key gets a new token, and the one before ends when it was told to."""

from __future__ import annotations

import datetime as dt
import threading
import time
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.urls import path, reverse
from django.utils import timezone

from accounting import keys
from accounting.admin.api_keys import ApiKeyForm
from accounting.models import ApiKey
from accounting.snapshot import KeyCard, read_books
from providers.models import ConfigVersion

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]
urlpatterns = [path("admin/", admin.site.urls)]

HOUR = dt.timedelta(hours=1)


def card(token: str) -> KeyCard | None:
    return read_books().keys.get(keys.digest(token))


def opens(token: str) -> bool:
    """As the request path judges it: by the card alone."""
    found = card(token)
    return found is not None and not found.revoked and (found.expires_at is None or found.expires_at > time.time())


def test_both_tokens_open_the_key_until_the_overlap_ends() -> None:
    key, old = ApiKey.issue("alice", owner="Alice")
    before = ConfigVersion.current()
    new = key.rotate(HOUR)
    assert ConfigVersion.current() > before
    assert opens(old)
    assert opens(new)
    first, second = card(old), card(new)
    assert first is not None
    assert second is not None
    assert (first.id, first.owner, second.expires_at) == (key.pk, "Alice", None)
    assert first.expires_at == pytest.approx(time.time() + 3600, abs=5)


def test_at_once_means_at_once() -> None:
    key, old = ApiKey.issue("alice")
    new = key.rotate(dt.timedelta())
    assert opens(new)
    assert card(old) is None
    assert ApiKey.objects.get().previous_digest is None


def test_an_overlap_that_is_over_refuses_the_token_before() -> None:
    key, old = ApiKey.issue("alice")
    new = key.rotate(HOUR)
    ApiKey.objects.update(previous_until=timezone.now() - dt.timedelta(seconds=1))
    assert not opens(old)
    assert opens(new)


@pytest.mark.parametrize(("key_ends_in", "ends_in"), [(HOUR / 2, HOUR / 2), (2 * HOUR, HOUR)])
def test_the_token_before_never_outlives_the_key(key_ends_in: dt.timedelta, ends_in: dt.timedelta) -> None:
    now = timezone.now()
    key, old = ApiKey.issue("alice", expires_at=now + key_ends_in)
    key.rotate(HOUR)
    found = card(old)
    assert found is not None
    assert found.expires_at == pytest.approx((now + ends_in).timestamp(), abs=5)


def test_rotating_twice_ends_the_oldest_token() -> None:
    key, first = ApiKey.issue("alice")
    second = key.rotate(HOUR)
    third = key.rotate(HOUR)
    assert card(first) is None
    assert opens(second)
    assert opens(third)


def test_revoking_ends_both_tokens() -> None:
    key, old = ApiKey.issue("alice")
    new = key.rotate(HOUR)
    ApiKey.objects.update(revoked_at=timezone.now())
    assert not opens(old)
    assert not opens(new)


def test_a_token_given_from_outside_leaves_none_before_it() -> None:
    key, old = ApiKey.issue("alice")
    new, given = key.rotate(HOUR), keys.mint()
    key.take_token(given)
    key.save()
    assert opens(given)
    assert card(old) is None
    assert card(new) is None


@pytest.mark.parametrize("name", ["adam", "zoe"])
def test_a_token_that_another_key_has_by_now_opens_that_one(name: str) -> None:
    alice, old = ApiKey.issue("alice")
    alice.rotate(HOUR)
    other, _ = ApiKey.issue(name)
    other.take_token(old)
    other.save()
    found = card(old)
    assert found is not None
    assert (found.id, found.expires_at) == (other.pk, None)


@pytest.mark.parametrize("ending", ["rotated", "revoked"])
def test_a_key_that_is_edited_meanwhile_stays_rotated_or_revoked(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    key, token = ApiKey.issue("alice")
    judge_name = ApiKeyForm.clean_name

    def while_the_form_is_judged(form: ApiKeyForm) -> str:
        if ending == "rotated":
            ApiKey.objects.get().rotate(dt.timedelta())
        else:
            ApiKey.objects.update(revoked_at=timezone.now())
        return judge_name(form)

    monkeypatch.setattr(ApiKeyForm, "clean_name", while_the_form_is_judged)
    address = reverse("admin:accounting_apikey_change", args=[key.pk])
    admin_client.post(address, {"name": "alice", "owner": "Alice", "scopes": ["messages"]})
    assert ApiKey.objects.get().owner == "Alice"
    assert not opens(token)


def test_keys_without_a_token_before_are_many_and_do_not_collide() -> None:
    for number in range(3):
        key, _ = ApiKey.issue(f"key {number}")
        key.rotate(dt.timedelta())
    assert ApiKey.objects.filter(previous_digest=None).count() == 3


# In the admin


def page_of(key: ApiKey, action: str = "rotate") -> str:
    return reverse(f"admin:accounting_apikey_{action}", args=[key.pk])


def token_on(page: str) -> str:
    words = page.replace("<", " ").replace(">", " ").split()
    return next(word for word in words if keys.is_well_formed(word))


def test_the_page_shows_the_new_token_once_and_leaves_it_nowhere(
    admin_client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    key, old = ApiKey.issue("alice")
    asked = admin_client.get(page_of(key)).content.decode()
    assert "After 7 days" in asked
    answer = admin_client.post(page_of(key), {"overlap": "24", "present": key.prefix})
    page = answer.content.decode()
    new = token_on(page)
    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]
    assert f"export ANTHROPIC_AUTH_TOKEN={new}" in page
    assert f"$env:ANTHROPIC_AUTH_TOKEN = &quot;{new}&quot;" in page
    assert f"set &quot;ANTHROPIC_AUTH_TOKEN={new}&quot;" in page
    assert f"&quot;ANTHROPIC_AUTH_TOKEN&quot;: &quot;{new}&quot;" in page
    assert "<script>" not in page
    assert opens(new)
    assert opens(old)
    left = [session.get_decoded() for session in Session.objects.all()], list(LogEntry.objects.values())
    assert new not in f"{left} {caplog.text} {admin_client.cookies}"
    change = reverse("admin:accounting_apikey_change", args=[key.pk])
    shown = admin_client.get(change).content.decode()
    assert new not in shown
    assert "works until" in shown


def test_a_page_that_is_sent_twice_does_not_end_the_token_it_has_just_shown(admin_client: Client) -> None:
    key, _ = ApiKey.issue("alice")
    form = {"overlap": "0", "present": key.prefix}
    new = token_on(admin_client.post(page_of(key), form).content.decode())
    again = admin_client.post(page_of(key), form).content.decode()
    assert "was rotated a moment ago" in again
    assert "ANTHROPIC_AUTH_TOKEN" not in again
    assert opens(new)


@pytest.mark.parametrize("overlap", ["", "-1", "12", "9" * 30, "later"])
def test_an_overlap_of_ones_own_making_is_refused(admin_client: Client, overlap: str) -> None:
    key, old = ApiKey.issue("alice")
    page = admin_client.post(page_of(key), {"overlap": overlap, "present": key.prefix}).content.decode()
    assert "ANTHROPIC_AUTH_TOKEN" not in page
    assert ApiKey.objects.get().digest == keys.digest(old)


def test_a_revoked_key_is_not_rotated(admin_client: Client) -> None:
    key, _ = ApiKey.issue("alice", revoked_at=timezone.now())
    for answer in (admin_client.get(page_of(key)), admin_client.post(page_of(key), {"overlap": "1"})):
        assert "issue another instead" in answer.content.decode()
    assert ApiKey.objects.get().digest == key.digest


def test_one_key_is_revoked_from_its_page_after_a_warning(admin_client: Client) -> None:
    key, token = ApiKey.issue("alice")
    other, _ = ApiKey.issue("bob")
    asked = admin_client.get(page_of(key, "revoke_one")).content.decode()
    assert "cannot be brought back" in asked
    assert opens(token)
    answer = admin_client.post(page_of(key, "revoke_one"), {"post": "yes"}, follow=True)
    assert "Revoked: 1." in answer.content.decode()
    assert not opens(token)
    other.refresh_from_db()
    assert other.state() == "active"
    assert LogEntry.objects.filter(object_id=key.pk, change_message="Revoked.").exists()


@pytest.mark.parametrize("action", ["rotate", "revoke_one"])
def test_only_who_may_change_keys_rotates_and_revokes(client: Client, django_user_model: Any, action: str) -> None:
    key, token = ApiKey.issue("alice")
    assert client.post(page_of(key, action)).status_code == 302
    client.force_login(django_user_model.objects.create_user("finance", is_staff=True))
    for method in (client.get, client.post):
        assert method(page_of(key, action), {"overlap": "0", "present": key.prefix}).status_code == 403
    assert opens(token)


@pytest.mark.parametrize("number", ["0", "99999", "9" * 40, "nonsense", "²"])
def test_a_key_that_is_not_there_is_not_found(admin_client: Client, number: str) -> None:
    for action in ("rotate", "revoke_one"):
        address = reverse(f"admin:accounting_apikey_{action}", args=[number])
        assert admin_client.get(address).status_code == 404
        assert admin_client.post(address, {"overlap": "0", "present": "x"}).status_code == 404


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_two_who_rotate_at_once_do_not_both_get_a_token(admin_client: Client) -> None:
    key, _ = ApiKey.issue("alice")
    pages: list[str] = []
    start = threading.Barrier(2)

    def rotate() -> None:
        start.wait()
        pages.append(admin_client.post(page_of(key), {"overlap": "0", "present": key.prefix}).content.decode())
        connection.close()

    threads = [threading.Thread(target=rotate) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [page for page in pages if "ANTHROPIC_AUTH_TOKEN" in page]
    assert len(winners) == 1
    assert opens(token_on(winners[0]))
