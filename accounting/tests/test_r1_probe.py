import datetime as dt, time
import pytest
from django.urls import path, reverse
from django.contrib import admin
from django.utils import timezone
from accounting import keys
from accounting.models import ApiKey
from accounting.snapshot import read_books
from accounting.tests.test_rotation import opens, card
from accounting.admin.api_keys import ApiKeyForm
pytestmark = [pytest.mark.django_db, pytest.mark.urls("accounting.tests.test_rotation")]
H=dt.timedelta(hours=1)

@pytest.mark.parametrize("again", [False, True])
def test_apply(again, settings, tmp_path):
    from gateway.tests.test_apply import run
    import os
    key, a = ApiKey.issue("bob")
    b = key.rotate(H)
    c = a if again else keys.mint()
    run(f"keys: [{{name: bob, token: '{c}'}}]")
    assert opens(c); assert card(c).expires_at is None
    assert not opens(b)
    if not again: assert not opens(a)

@pytest.mark.parametrize("what", ["rotate","revoke"])
def test_lost(admin_client, monkeypatch, what):
    key, a = ApiKey.issue("bob")
    old = ApiKeyForm.clean_name
    def clean_name(self):
        other = ApiKey.objects.get(pk=key.pk)
        if what == "rotate": other.rotate(dt.timedelta(0))
        else: ApiKey.objects.filter(pk=key.pk).update(revoked_at=timezone.now())
        return old(self)
    monkeypatch.setattr(ApiKeyForm, "clean_name", clean_name)
    r = admin_client.post(reverse("admin:accounting_apikey_change", args=[key.pk]), {"name":"bob","owner":"x","allowed_models":"","scopes":["messages"],"expires_at_0":"","expires_at_1":""})
    assert r.status_code == 302
    assert ApiKey.objects.get().owner == "x"
    assert not opens(a)
